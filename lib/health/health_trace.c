/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A file is read at once and looked at as the ring that it is: every index in it is
 * cut to the size of its table, so no content can lead astray.
 */

#include <polder/trace.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "health/health_ring.h"

struct pld_trace {
    struct pldi_ring *ring;
    uint64_t *numbers; /* [count], ascending */
    size_t count;
};

static int by_number(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static int check(const struct pldi_ring *ring, const char *path)
{
    const struct pldi_ring_head *head = &ring->u.head;

    if (memcmp(head->magic, "PLDTRACE", 8) != 0)
        return pldi_fail(PLD_ERR_CORRUPT, "%s is no trace of polder", path);
    if (head->version != PLDI_RING_VERSION)
        return pldi_fail(PLD_ERR_UNSUPPORTED, "%s has version %u, this library reads %d", path,
                         head->version, PLDI_RING_VERSION);
    if (head->record_bytes != sizeof(ring->records[0]) || head->records != PLDI_RING_RECORDS ||
        head->sites != PLDI_RING_SITES || head->groups != PLDI_RING_GROUPS)
        return pldi_fail(PLD_ERR_CORRUPT, "%s has tables of sizes that version %u does not have",
                         path, head->version);
    return PLD_OK;
}

static int load(pld_trace *t, FILE *file, const char *path)
{
    t->ring = pldi_alloc(1, sizeof(*t->ring), "a trace");
    t->numbers = pldi_alloc(PLDI_RING_RECORDS, sizeof(t->numbers[0]), "a trace");
    if (t->ring == NULL || t->numbers == NULL)
        return PLD_ERR_NOMEM;
    if (fseek(file, PLDI_RING_SKIP, SEEK_SET) != 0)
        return pldi_fail(PLD_ERR_IO, "cannot read %s: %s", path, strerror(errno));
    if (fread((void *)t->ring, sizeof(*t->ring), 1, file) != 1)
        return ferror(file) ? pldi_fail(PLD_ERR_IO, "cannot read %s: %s", path, strerror(errno))
                            : pldi_fail(PLD_ERR_CORRUPT, "%s is too short for a trace", path);
    PLDI_TRY(check(t->ring, path));
    for (size_t i = 0; i < PLDI_RING_RECORDS; i++) {
        const uint64_t number = t->ring->records[i].word[0];

        if (number > 0 && (number - 1) % PLDI_RING_RECORDS == i)
            t->numbers[t->count++] = number;
    }
    qsort(t->numbers, t->count, sizeof(t->numbers[0]), by_number);
    return PLD_OK;
}

int pld_trace_open(const char *path, pld_trace **out)
{
    pld_trace *t;
    FILE *file;
    int fd, rc;

    PLDI_CHECK_ARG(path != NULL && out != NULL);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe that nobody fills is empty */
    file = fd >= 0 ? fdopen(fd, "r") : NULL;
    if (file == NULL && fd >= 0)
        (void)close(fd);
    if (file == NULL)
        return pldi_fail(PLD_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    t = pldi_alloc(1, sizeof(*t), "a trace");
    rc = t == NULL ? PLD_ERR_NOMEM : load(t, file, path);
    (void)fclose(file);
    if (rc < 0) {
        pld_trace_destroy(&t);
        return rc;
    }
    *out = t;
    return PLD_OK;
}

void pld_trace_get_info(const pld_trace *trace, pld_trace_info *out)
{
    const struct pldi_ring_head *head = &trace->ring->u.head;

    memset(out, 0, sizeof(*out));
    out->rank = head->rank;
    out->size = head->size;
    out->pid = head->pid;
    memcpy(out->host, head->host, sizeof(out->host));
    out->host[sizeof(out->host) - 1] = '\0';
    out->job = head->job;
    out->clock_offset = (int64_t)head->clock_offset;
    out->wall_offset = (int64_t)head->wall_offset;
    out->recorded = head->next;
    out->left = (int64_t)head->left;
}

size_t pld_trace_count(const pld_trace *trace)
{
    return trace->count;
}

int pld_trace_get(const pld_trace *trace, size_t i, pld_trace_record *out)
{
    PLDI_CHECK_ARG(trace != NULL && out != NULL);
    if (i >= trace->count)
        return pldi_fail(PLD_ERR_ARG, "record %zu of a trace of %zu", i, trace->count);
    memset(out, 0, sizeof(*out));
    (void)pldi_ring_find(trace->ring, trace->numbers[i], out);
    return PLD_OK;
}

void pld_trace_destroy(pld_trace **trace)
{
    if (trace == NULL || *trace == NULL)
        return;
    pldi_free((*trace)->ring);
    pldi_free((*trace)->numbers);
    pldi_free(*trace);
    *trace = NULL;
}
