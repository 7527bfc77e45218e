/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tuning files.  Rank 0 reads the file and the others get its text, so that all
 * have the same rules even where the file is not the same, or not there.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_choice.h"
#include "coll/coll_shape.h"
#include "coll/coll_shm.h"
#include "health/health_site.h"

enum { WORDS = 9, LINE_BYTES = 256, MAX_FILE = 1 << 20, MIN_CHUNK = 1024, MAX_CHUNK = 1 << 26 };

/* What a line is read with: where it is, for sentences. */
struct line {
    const char *name;
    size_t number;
    char text[LINE_BYTES];
    char *words[WORDS];
    int n;
};

static int bad(const struct line *l, const char *what, const char *word)
{
    return pldi_fail(PLD_ERR_ARG, "%s:%zu: \"%s\" is no %s", l->name, l->number, word, what);
}

static int read_kind(const struct line *l, const char *word, int *out)
{
    *out = -1;
    if (strcmp(word, "*") == 0)
        return PLD_OK;
    for (int k = PLDI_ALLREDUCE; k < PLDI_SEND; k++) {
        if (strcmp(word, pldi_kind_name((unsigned)k)) == 0) {
            *out = k;
            return PLD_OK;
        }
    }
    return bad(l, "operation", word);
}

static int read_dtype(const struct line *l, const char *word, int *out)
{
    *out = -1;
    if (strcmp(word, "*") == 0)
        return PLD_OK;
    for (int d = 0; pld_dtype_bytes((pld_dtype)d) > 0; d++) {
        if (strcmp(word, pld_dtype_name((pld_dtype)d)) == 0) {
            *out = d;
            return PLD_OK;
        }
    }
    return bad(l, "dtype", word);
}

/* "*", "4", "4+" or "4-8" */
static int read_range(const struct line *l, const char *word, int out[2])
{
    char *end = NULL;
    long from, to;

    out[0] = 1;
    out[1] = INT32_MAX;
    if (strcmp(word, "*") == 0)
        return PLD_OK;
    from = to = strtol(word, &end, 10);
    if (end != word && *end == '-')
        to = strtol(end + 1, &end, 10);
    else if (end != word && strcmp(end, "+") == 0)
        to = INT32_MAX, end++;
    if (end == word || *end != '\0' || from < 1 || to < from || to > INT32_MAX)
        return bad(l, "number of nodes or ranks (write *, 4, 4+ or 4-8)", word);
    out[0] = (int)from;
    out[1] = (int)to;
    return PLD_OK;
}

/* "65536", "64K", "1M", "2G"; "*" is no end. */
static int read_bytes(const struct line *l, const char *word, uint64_t *out)
{
    static const char units[] = "KMG";
    const char *unit;
    char *end = NULL;

    *out = UINT64_MAX;
    if (strcmp(word, "*") == 0)
        return PLD_OK;
    errno = 0;
    *out = strtoull(word, &end, 10);
    unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL && *out <= UINT64_MAX >> (10 * (unit - units + 1))) {
        *out <<= 10 * (unit - units + 1);
        end++;
    }
    if (word[0] < '0' || word[0] > '9' || *end != '\0' || errno != 0)
        return bad(l, "number of bytes (write 65536, 64K, 1M or *)", word);
    return PLD_OK;
}

static int read_algorithm(const struct line *l, const char *word, enum pldi_algorithm *out)
{
    for (int a = 0; a < PLDI_ALGORITHMS; a++) {
        if (strcmp(word, pldi_algorithm_name((unsigned)a)) == 0) {
            *out = (enum pldi_algorithm)a;
            return PLD_OK;
        }
    }
    return bad(l, "algorithm (there are flat, ring, halving, doubling, tree, nodes, numa, nccl)",
               word);
}

static int read_rule(const struct line *l, struct pldi_rule *out)
{
    uint64_t chunk;

    if (l->n != WORDS || strcmp(l->words[6], "->") != 0)
        return pldi_fail(PLD_ERR_ARG,
                         "%s:%zu: need \"op dtype nodes ppn min max -> algorithm chunk\"", l->name,
                         l->number);
    PLDI_TRY(read_kind(l, l->words[0], &out->kind));
    PLDI_TRY(read_dtype(l, l->words[1], &out->dtype));
    PLDI_TRY(read_range(l, l->words[2], out->nodes));
    PLDI_TRY(read_range(l, l->words[3], out->ppn));
    PLDI_TRY(read_bytes(l, l->words[4], &out->bytes[0]));
    PLDI_TRY(read_bytes(l, l->words[5], &out->bytes[1]));
    if (out->bytes[1] < out->bytes[0])
        return pldi_fail(PLD_ERR_ARG, "%s:%zu: max %s is less than min %s", l->name, l->number,
                         l->words[5], l->words[4]);
    PLDI_TRY(read_algorithm(l, l->words[7], &out->algorithm));
    PLDI_TRY(read_bytes(l, l->words[8], &chunk));
    if (chunk < MIN_CHUNK || chunk > MAX_CHUNK)
        return pldi_fail(PLD_ERR_ARG, "%s:%zu: chunk is %s, need 1K..64M", l->name, l->number,
                         l->words[8]);
    out->chunk = (size_t)chunk;
    return PLD_OK;
}

/* The words of a line without its comment. */
static int cut(struct line *l, const char *from, size_t bytes)
{
    char *rest = NULL;
    char *word;

    if (bytes >= LINE_BYTES)
        return pldi_fail(PLD_ERR_ARG, "%s:%zu: a line of %zu bytes, need fewer than %d", l->name,
                         l->number, bytes, LINE_BYTES);
    memcpy(l->text, from, bytes);
    l->text[bytes] = '\0';
    l->text[strcspn(l->text, "#")] = '\0';
    l->n = 0;
    for (word = strtok_r(l->text, " \t\r", &rest); word != NULL;
         word = strtok_r(NULL, " \t\r", &rest)) {
        if (l->n < WORDS)
            l->words[l->n] = word;
        l->n++;
    }
    return PLD_OK;
}

static size_t count_lines(const char *text)
{
    size_t n = 1;

    for (; *text != '\0'; text++)
        n += *text == '\n';
    return n;
}

int pldi_tuning_parse(const char *name, const char *text, struct pldi_tuning **out)
{
    struct pldi_tuning *t = pldi_alloc(1, sizeof(*t) + count_lines(text) * sizeof(t->rules[0]),
                                       "the rules of a tuning file");
    struct line l = {.name = name};
    int rc = t == NULL ? PLD_ERR_NOMEM : PLD_OK;

    while (rc == PLD_OK && *text != '\0') {
        const size_t bytes = strcspn(text, "\n");

        l.number++;
        rc = cut(&l, text, bytes);
        if (rc == PLD_OK && l.n > 0)
            rc = read_rule(&l, &t->rules[t->n]);
        t->n += rc == PLD_OK && l.n > 0;
        text += bytes + (text[bytes] == '\n');
    }
    if (rc < 0) {
        pldi_free(t);
        return rc;
    }
    *out = t;
    return PLD_OK;
}

static int read_file(const char *name, char **out)
{
    FILE *f = fopen(name, "rb");
    size_t bytes;

    if (f == NULL)
        return pldi_fail(PLD_ERR_IO, "POLDER_TUNE: %s: %s", name, strerror(errno));
    *out = pldi_alloc(MAX_FILE + 1, 1, "a tuning file");
    bytes = *out != NULL ? fread(*out, 1, MAX_FILE + 1, f) : 0;
    (void)fclose(f);
    if (*out == NULL)
        return PLD_ERR_NOMEM;
    if (bytes > MAX_FILE)
        return pldi_fail(PLD_ERR_ARG, "POLDER_TUNE: %s is larger than %d bytes", name, MAX_FILE);
    (*out)[bytes] = '\0';
    return PLD_OK;
}

static int share(pld_group *world, const char *name, const char *text, struct pldi_tuning **out)
{
    uint64_t bytes = text != NULL ? strlen(text) : 0;
    char *copy = NULL;
    int rc;

    PLDI_TRY(pld_broadcast(world, &bytes, sizeof(bytes), PLD_U8, 0, NULL));
    if (bytes == 0)
        return PLD_OK;
    copy = pldi_alloc(bytes + 1, 1, "a tuning file");
    if (copy != NULL && text != NULL)
        memcpy(copy, text, bytes);
    rc = pld_agree(world, copy == NULL ? PLD_ERR_NOMEM : PLD_OK);
    if (rc == PLD_OK)
        rc = pld_broadcast(world, copy, bytes, PLD_U8, 0, NULL);
    if (rc == PLD_OK)
        rc = pld_agree(world, pldi_tuning_parse(name, copy, out));
    pldi_free(copy);
    return rc;
}

int pld_group_set_tuning(pld_group *group, const char *rules)
{
    PLDI_ENTER();
    const int root = group != NULL && group->rank == 0;
    struct pldi_tuning *tuning = NULL;

    PLDI_CHECK_ARG(group != NULL);
    PLDI_TRY(share(group, "rules", root && rules != NULL ? rules : NULL, &tuning));
    pldi_free(group->own_tuning);
    group->own_tuning = tuning;
    group->tuning = tuning != NULL ? tuning : group->node != NULL ? group->node->tuning : NULL;
    return PLD_OK;
}

int pldi_tuning_load(pld_group *world, struct pldi_tuning **out)
{
    const char *name = getenv("POLDER_TUNE");
    char *text = NULL;
    int rc = PLD_OK;

    *out = NULL;
    if (world->rank == 0 && name != NULL && name[0] != '\0')
        rc = read_file(name, &text);
    rc = pld_agree(world, rc);
    if (rc == PLD_OK)
        rc = share(world, name != NULL ? name : "POLDER_TUNE", text, out);
    pldi_free(text);
    return rc;
}
