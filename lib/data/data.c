/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Every file contributes a number of places where a sample may begin: all its
 * windows if shuffled, the samples of its whole blocks if sequential.  A place is
 * numbered through all files, so that a sample is one number, the file is found by
 * bisection, and nothing has to be remembered between samples.
 */

#include <polder/data.h>

#include <string.h>

#include <polder/random.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "base/base_opts.h"
#include "data/data.h"

/* What a caller built against 0.1 passes.  Stays 56 when the struct grows. */
enum { OPTS_SIZE_0_1 = 56 };
_Static_assert(sizeof(pld_data_opts) == OPTS_SIZE_0_1, "padding, or ABI");

static int check_opts(const pld_data_opts *o)
{
    if (o->path_count < 1 || o->paths == NULL)
        return pldi_fail(PLD_ERR_ARG, "no path given to read data from");
    for (size_t i = 0; i < o->path_count; i++) {
        if (o->paths[i] == NULL || o->paths[i][0] == '\0')
            return pldi_fail(PLD_ERR_ARG, "paths[%zu] is empty", i);
    }
    if (o->length < 1 || o->length > INT64_MAX / 8)
        return pldi_fail(PLD_ERR_ARG, "length is %lld, need 1 or more", (long long)o->length);
    if (o->batch < 0 || o->batch > INT64_MAX / 8 / o->length)
        return pldi_fail(PLD_ERR_ARG, "batch is %lld, need 0 or more", (long long)o->batch);
    if (o->format != PLD_DATA_TEXT && o->format != PLD_DATA_LLMC)
        return pldi_fail(PLD_ERR_ARG, "unknown data format %d", (int)o->format);
    if (o->order != PLD_DATA_SHUFFLED && o->order != PLD_DATA_SEQUENTIAL)
        return pldi_fail(PLD_ERR_ARG, "unknown data order %d", (int)o->order);
    return PLD_OK;
}

/* Places of a file.  A sample takes one token more than it is long: the last target. */
static int64_t count_places(const pld_data_opts *o, int64_t tokens)
{
    if (tokens <= o->length)
        return 0;
    if (o->order == PLD_DATA_SHUFFLED)
        return tokens - o->length;
    return (tokens - 1) / (o->length * o->batch) * o->batch;
}

static int check_files(pld_data *d)
{
    int64_t most = 0, need;

    for (size_t i = 0; i < d->count; i++) {
        struct pldi_data_file *f = &d->files[i];
        const char *below = d->names.names[i] + d->names.given_bytes[i];

        f->name = d->names.names[i];
        PLDI_TRY(pldi_data_check_file(f, below + strspn(below, "/"), d->opts.format));
        if (__builtin_add_overflow(d->tokens, f->tokens, &d->tokens))
            return pldi_fail(PLD_ERR_ARG, "the files have 2^63 tokens or more");
        d->first[i + 1] = d->first[i] + count_places(&d->opts, f->tokens);
        most = f->tokens > most ? f->tokens : most;
    }
    if (d->first[d->count] > 0)
        return PLD_OK;
    need = d->opts.order == PLD_DATA_SHUFFLED ? d->opts.length : d->opts.length * d->opts.batch;
    return pldi_fail(PLD_ERR_ARG,
                     "no file is long enough: need %lld tokens (length %lld, batch %lld, and one "
                     "target), the longest of %zu has %lld",
                     (long long)need + 1, (long long)d->opts.length, (long long)d->opts.batch,
                     d->count, (long long)most);
}

static int fill(pld_data *d, const char *const *paths)
{
    for (size_t i = 0; i < d->opts.path_count; i++)
        PLDI_TRY(pldi_data_expand(&d->names, paths[i]));
    d->count = d->names.count;
    d->files = pldi_alloc(d->count, sizeof(*d->files), "data files");
    d->first = pldi_alloc(d->count + 1, sizeof(*d->first), "data files");
    if (d->files == NULL || d->first == NULL)
        return PLD_ERR_NOMEM;
    PLDI_TRY(check_files(d));
    return pldi_data_reader_create(d->files, &d->reader);
}

int pldi_data_create(const pld_data_opts *opts, pld_data **out)
{
    const char *const *paths;
    pld_data *d;
    int rc;

    PLDI_CHECK_ARG(opts != NULL && out != NULL);
    d = pldi_alloc(1, sizeof(*d), "a data source");
    if (d == NULL)
        return PLD_ERR_NOMEM;
    rc = pldi_opts_copy(&d->opts, sizeof(d->opts), opts, OPTS_SIZE_0_1);
    if (rc == 0)
        rc = check_opts(&d->opts);
    if (rc == 0) {
        paths = d->opts.paths;
        d->opts.paths = NULL;
        d->opts.batch = d->opts.batch == 0 ? 1 : d->opts.batch;
        rc = fill(d, paths);
    }
    if (rc < 0) {
        pld_data_close(&d);
        return rc;
    }
    *out = d;
    return PLD_OK;
}

int64_t pld_data_tokens(const pld_data *data)
{
    return data->tokens;
}

int64_t pld_data_epoch(const pld_data *data)
{
    if (data->opts.order == PLD_DATA_SEQUENTIAL)
        return data->first[data->count];
    return data->tokens / data->opts.length;
}

size_t pld_data_files(const pld_data *data)
{
    return data->count;
}

/*
 * A number in 0 .. places-1, each equally likely: draws at and above the largest
 * multiple of `places` are thrown away, and the next one comes from the next stream.
 */
static int64_t draw_place(const pld_data *d, int64_t sample)
{
    const uint64_t places = (uint64_t)d->first[d->count];
    const uint64_t stream = pld_random_stream("polder/data");
    const uint64_t fair = UINT64_MAX - UINT64_MAX % places;
    uint64_t drawn, attempt = 0;

    do {
        drawn = pld_random_u64(d->opts.seed, stream + attempt++, (uint64_t)sample);
    } while (drawn >= fair);
    return (int64_t)(drawn % places);
}

/* The file that place `place` is in. */
static size_t find_file(const pld_data *d, int64_t place)
{
    size_t low = 0, high = d->count;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;

        if (d->first[middle] <= place)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int pld_data_sample(const pld_data *data, int64_t sample, int32_t *out)
{
    int64_t place, start;
    size_t file;

    PLDI_CHECK_ARG(data != NULL && out != NULL);
    if (sample < 0)
        return pldi_fail(PLD_ERR_ARG, "sample is %lld, need 0 or more", (long long)sample);
    place = data->opts.order == PLD_DATA_SEQUENTIAL ? sample % data->first[data->count]
                                                    : draw_place(data, sample);
    file = find_file(data, place);
    start = place - data->first[file];
    if (data->opts.order == PLD_DATA_SEQUENTIAL)
        start *= data->opts.length;
    return pldi_data_read(data->reader, file, start, data->opts.length + 1, out);
}

void pld_data_close(pld_data **data)
{
    if (data == NULL || *data == NULL)
        return;
    pldi_data_reader_destroy(&(*data)->reader);
    pldi_free((*data)->files);
    pldi_free((*data)->first);
    pldi_data_free_names(&(*data)->names);
    pldi_free(*data);
    *data = NULL;
}
