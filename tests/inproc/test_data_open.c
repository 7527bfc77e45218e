/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* Data opened by several ranks: all get the same samples, or all the same verdict. */

#include <stdlib.h>

#include "inproc/inproc.h"
#include "tap.h"
#include "unit/data_files.h"

/* Rank 1 opens something else than the others. */
struct scenario {
    const char *what;
    const char *path, *path_of_1;
    pld_data_opts opts, opts_of_1;
    int code;
    const char *words[3];
};

static int body(pld_runtime *rt, void *context)
{
    const struct scenario *s = context;
    const int odd = pld_runtime_rank(rt) == 1;
    pld_data_opts opts = odd && s->opts_of_1.struct_size != 0 ? s->opts_of_1 : s->opts;
    const char *path = odd && s->path_of_1 != NULL ? s->path_of_1 : s->path;
    pld_data *data = NULL;

    opts.paths = &path;
    opts.path_count = 1;
    CHECK(rt, pld_data_open(pld_runtime_world(rt), &opts, &data) == s->code);
    CHECK(rt, (data != NULL) == (s->code == 0));
    for (int i = 0; i < 3 && s->words[i] != NULL; i++)
        CHECK(rt, strstr(pld_last_error(), s->words[i]) != NULL);
    if (data != NULL) {
        int32_t mine[9], low[9], high[9];

        CHECK(rt, pld_data_sample(data, 12345, mine) == 0);
        CHECK(rt, pld_allreduce(pld_runtime_world(rt), mine, low, 9, PLD_I32, PLD_MIN, NULL) == 0);
        CHECK(rt, pld_allreduce(pld_runtime_world(rt), mine, high, 9, PLD_I32, PLD_MAX, NULL) == 0);
        CHECK(rt, memcmp(low, high, sizeof(low)) == 0);
    }
    pld_data_close(&data);
    return 0;
}

static pld_data_opts with(uint64_t seed, int64_t length)
{
    return (pld_data_opts){PLD_OPTS(pld_data_opts), .seed = seed, .length = length};
}

int main(void)
{
    char text[5000];

    if (!make_data_dir())
        return 1;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)(i * i % 251);
    const char *here = write_bytes("text", text, sizeof(text));
    const char *copy = write_bytes("text2", text, sizeof(text));
    const char *shorter = write_bytes("short", text, 4000);
    const char *none = in_dir("none");
    const struct scenario all[] = {
        {"the same", here, NULL, with(7, 8), {0}, 0, {NULL}},
        {"another seed",
         here,
         NULL,
         with(7, 8),
         with(8, 8),
         PLD_ERR_MISMATCH,
         {"rank 1", "seed 8"}},
        {"another length", here, NULL, with(7, 8), with(7, 9), PLD_ERR_MISMATCH, {"length 9"}},
        {"another size",
         here,
         shorter,
         with(7, 8),
         {0},
         PLD_ERR_MISMATCH,
         {"short has 4000", "5000"}},
        {"no such file on one", here, none, with(7, 8), {0}, PLD_ERR_NOTFOUND, {"rank 1", "none"}},
        {"no such file", none, NULL, with(7, 8), {0}, PLD_ERR_NOTFOUND, {"none"}},
        {"too long", here, NULL, with(7, 6000), {0}, PLD_ERR_ARG, {"6001"}},
        {"a copy under another name",
         here,
         copy,
         with(7, 8),
         {0},
         PLD_ERR_MISMATCH,
         {"text2", "name"}},
    };
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        ok(inproc_run(3, body, (void *)(uintptr_t)&all[i]) == 0, "%s", all[i].what);
    text[10] ^= 1;
    const struct scenario changed = {"other bytes", here, write_bytes("text2", text, sizeof(text)),
                                     with(7, 8),    {0},  PLD_ERR_MISMATCH,
                                     {"text2"}};
    ok(inproc_run(3, body, (void *)(uintptr_t)&changed) == 0, "%s", changed.what);
    remove_data_dir();
    return tap_done();
}
