/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Token files count upwards through all files, so a token tells where it was read.
 * The sequential order is compared with a reader that walks: it takes a block and one
 * token, goes on by a block, and takes the next file when that does not fit.
 */

#include <polder/data.h>

#include <pthread.h>
#include <string.h>

#include <polder/error.h>

#include "data/data.h"
#include "data_files.h"
#include "tap.h"

enum { MOST = 512 };

static pld_data *open_source(const char *const *paths, size_t count, pld_data_opts opts)
{
    pld_data *data = NULL;

    opts.struct_size = sizeof(opts);
    opts.paths = paths;
    opts.path_count = count;
    if (pldi_data_create(&opts, &data) != 0)
        ok(0, "open: %s", pld_last_error());
    return data;
}

/* Is `out` the run value, value+1, ... of length+1 tokens? */
static int is_run(const int32_t *out, int64_t length, int64_t value)
{
    for (int64_t i = 0; i <= length; i++) {
        if (out[i] != value + i)
            return 0;
    }
    return 1;
}

struct walker {
    const int64_t *tokens; /* of each file, which follow each other in value */
    int files;
    int file;
    int64_t position; /* in the file */
};

/* First token of the next block, as a value. */
static int64_t walk(struct walker *w, int64_t block)
{
    int64_t value = 0;

    while (w->position + block + 1 > w->tokens[w->file]) {
        w->file = (w->file + 1) % w->files;
        w->position = 0;
    }
    for (int i = 0; i < w->file; i++)
        value += w->tokens[i];
    value += w->position;
    w->position += block;
    return value;
}

static void check_sequential(int width, int64_t length, int64_t batch)
{
    static const int64_t tokens[] = {300, 97, 1000, 3, 96};
    const char *paths[5];
    struct walker w = {.tokens = tokens, .files = 5};
    int64_t first = 0, wrong = 0, epoch = -1, home = -1;
    int32_t out[MOST];
    pld_data *data;

    for (int i = 0; i < 5; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "s%d.bin", i);
        paths[i] = write_tokens(name, width, (uint32_t)first, (uint32_t)tokens[i]);
        first += tokens[i];
    }
    data = open_source(
        paths, 5,
        (pld_data_opts){
            .length = length, .batch = batch, .format = PLD_DATA_LLMC, .order = 1, .seed = 9});
    ok(pld_data_tokens(data) == 1496 && pld_data_files(data) == 5, "1496 tokens in 5 files");
    for (int64_t step = 0; step < 500; step++) {
        const int64_t value = walk(&w, length * batch);

        home = step == 0 ? value : home;
        if (step > 0 && epoch < 0 && value == home)
            epoch = step * batch;
        for (int64_t i = 0; i < batch; i++)
            wrong += pld_data_sample(data, step * batch + i, out) != 0 ||
                     !is_run(out, length, value + i * length);
    }
    ok(wrong == 0, "u%d, length %d, batch %d: %d samples of 500 steps are not the walker's",
       8 * width, (int)length, (int)batch, (int)wrong);
    ok(pld_data_epoch(data) == epoch, "the walker is home after %d samples, epoch says %d",
       (int)epoch, (int)pld_data_epoch(data));
    pld_data_close(&data);
}

/* Every window of every file is reached, none crosses a file, all about equally often. */
static void check_shuffled(void)
{
    enum { LENGTH = 4, FILES = 3, DRAWS = 20000 };
    static const int64_t tokens[FILES] = {12, 4, 7}; /* 8, 0 and 3 windows */
    const char *paths[FILES];
    int64_t first = 0;
    int hits[32] = {0}, crossed = 0, least = DRAWS, most = 0;
    int32_t out[LENGTH + 1];
    pld_data *data;

    for (int i = 0; i < FILES; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "w%d.bin", i);
        paths[i] = write_tokens(name, 2, (uint32_t)first, (uint32_t)tokens[i]);
        first += tokens[i];
    }
    data = open_source(paths, FILES,
                       (pld_data_opts){.length = LENGTH, .format = PLD_DATA_LLMC, .seed = 1});
    ok(pld_data_epoch(data) == 23 / LENGTH, "epoch is tokens/length");
    for (int64_t g = 0; g < DRAWS; g++) {
        crossed += pld_data_sample(data, g, out) != 0 || !is_run(out, LENGTH, out[0]);
        hits[out[0]]++;
    }
    for (int start = 0; start < 23; start++) {
        const int valid = start < 8 || (start >= 16 && start < 19);

        crossed += !valid && hits[start] > 0;
        least = valid && hits[start] < least ? hits[start] : least;
        most = hits[start] > most ? hits[start] : most;
    }
    ok(crossed == 0, "no window crosses a file");
    /* 20000/11 = 1818 expected; 6 standard deviations are 244. */
    ok(least > 1818 - 244 && most < 1818 + 244, "each of 11 windows between %d and %d times", least,
       most);
    pld_data_close(&data);
}

/* The same in any order of asking and from a source opened anew; other seeds differ. */
static void check_purity(void)
{
    enum { LENGTH = 16, SAMPLES = 64 };
    const char *path = write_tokens("pure.bin", 4, 5000000, 10000);
    const pld_data_opts opts = {.length = LENGTH, .format = PLD_DATA_LLMC, .seed = 3};
    pld_data_opts other = opts;
    int32_t seen[SAMPLES][LENGTH + 1], out[LENGTH + 1];
    pld_data *data = open_source(&path, 1, opts);
    int different = 0, same = 0;

    for (int64_t g = 0; g < SAMPLES; g++)
        (void)pld_data_sample(data, g, seen[g]);
    pld_data_close(&data);
    data = open_source(&path, 1, opts);
    for (int64_t g = SAMPLES - 1; g >= 0; g--) {
        (void)pld_data_sample(data, g * 7 % SAMPLES, out);
        different += memcmp(out, seen[g * 7 % SAMPLES], sizeof(out)) != 0;
    }
    ok(different == 0, "a sample depends on its number alone");
    pld_data_close(&data);
    other.seed = 4;
    data = open_source(&path, 1, other);
    for (int64_t g = 0; g < SAMPLES; g++) {
        (void)pld_data_sample(data, g, out);
        same += memcmp(out, seen[g], sizeof(out)) == 0;
    }
    ok(same < 4, "another seed, another order: %d of %d alike", same, SAMPLES);
    ok(pld_data_sample(data, INT64_MAX, out) == 0 && is_run(out, LENGTH, out[0]),
       "the last number there is");
    pld_data_close(&data);
}

static void check_text(void)
{
    unsigned char bytes[256];
    const char *path;
    int32_t out[257];
    pld_data *data;

    for (int i = 0; i < 256; i++)
        bytes[i] = (unsigned char)i;
    path = write_bytes("text", bytes, sizeof(bytes));
    data = open_source(&path, 1, (pld_data_opts){.length = 255, .order = PLD_DATA_SEQUENTIAL});
    ok(pld_data_sample(data, 0, out) == 0 && is_run(out, 255, 0), "every byte is its own token");
    ok(pld_data_sample(data, 12345, out) == 0 && is_run(out, 255, 0), "an epoch of one sample");
    ok(pld_data_sample(data, -1, out) == PLD_ERR_ARG, "sample -1: %s", pld_last_error());
    ok(pld_data_sample(data, 0, NULL) == PLD_ERR_ARG, "no output");
    pld_data_close(&data);
    ok(data == NULL, "close sets the handle to NULL");
    pld_data_close(&data);
    pld_data_close(NULL);
}

/* Offsets beyond 2 and 4 GiB, in a file that is mostly a hole. */
static void check_large(void)
{
    const int64_t bytes = 5LL << 30;
    const char *path = write_bytes("large", "", 0);
    FILE *f;
    int32_t out[5];
    pld_data *data;

    if (truncate(path, bytes) != 0 || (f = fopen(path, "r+b")) == NULL) {
        ok(1, "# SKIP no sparse file of 5 GiB");
        return;
    }
    (void)fseeko(f, bytes - 5, SEEK_SET);
    (void)fputs("hello", f);
    (void)fseeko(f, 3LL << 30, SEEK_SET);
    (void)fputs("three", f);
    (void)fclose(f);
    data = open_source(&path, 1, (pld_data_opts){.length = 4, .order = PLD_DATA_SEQUENTIAL});
    ok(pld_data_tokens(data) == bytes, "5 GiB of tokens");
    ok(pld_data_sample(data, (3LL << 30) / 4, out) == 0 && out[0] == 't' && out[4] == 'e',
       "token 3 * 2^30");
    ok(pld_data_sample(data, bytes / 4 - 2, out) == 0 && out[3] == 'h' && out[4] == 'e',
       "the last sample");
    pld_data_close(&data);
    (void)unlink(path);
}

/* More files than are kept open, read by several threads at once. */
enum { THREADS = 6, MANY = 150 };

static void *read_all(void *context)
{
    const pld_data *data = context;
    intptr_t wrong = 0;

    for (int64_t g = 0; g < MANY * 3; g++) {
        const int64_t sample = g * 61 % (MANY * 3);
        int32_t out[11];

        wrong += pld_data_sample(data, sample, out) != 0 ||
                 !is_run(out, 10, sample / 3 * 31 + sample % 3 * 10);
    }
    return (void *)wrong; /* NOLINT */
}

static void check_threads(void)
{
    pthread_t threads[THREADS];
    intptr_t wrong = 0;
    const char *path;
    pld_data *data;

    (void)mkdir(in_dir("many"), 0700);
    for (int i = 0; i < MANY; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "many/%03d.bin", i);
        (void)write_tokens(name, 2, (uint32_t)i * 31, 31);
    }
    path = in_dir("many");
    data = open_source(
        &path, 1,
        (pld_data_opts){.length = 10, .format = PLD_DATA_LLMC, .order = PLD_DATA_SEQUENTIAL});
    for (int i = 0; i < THREADS; i++)
        (void)pthread_create(&threads[i], NULL, read_all, data);
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;

        (void)pthread_join(threads[i], &result);
        wrong += (intptr_t)result;
    }
    ok(wrong == 0, "%d threads read %d files: %d wrong samples", THREADS, MANY, (int)wrong);
    pld_data_close(&data);
}

int main(void)
{
    if (!make_data_dir())
        return 1;
    for (int width = 2; width <= 4; width += 2) {
        check_sequential(width, 16, 1);
        check_sequential(width, 16, 6);
        check_sequential(width, 1, 95);
        check_sequential(width, 96, 1);
        check_sequential(width, 299, 1);
        check_sequential(width, 333, 3);
    }
    check_shuffled();
    check_purity();
    check_text();
    check_large();
    check_threads();
    remove_data_dir();
    return tap_done();
}
