/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Calls of the system that fail, or are interrupted, one after the other; and calls of the
 * library's made while a save is under way.  The linker puts functions of this file between the
 * library and the system (--wrap).
 */


#include "ckpt/ckpt_impl.h"
#include "inproc/ckpt_model.h"
#include "tap.h"

/* A sanitizer makes everything many times slower: it gets a part of the cases. */
#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) ||                               \
    __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif

void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);

/* Of this thread: the call in so many that finds no memory; 0: none. */
static _Thread_local long refuse_memory;

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    if (refuse_memory > 0 && --refuse_memory == 0)
        return NULL;
    return __real_aligned_alloc(align, bytes);
}

/* The code, if it is that of all ranks; else 1. */
static int same_code(pld_runtime *rt, int rc)
{
    int64_t codes[2] = {rc, -rc};

    if (pld_allreduce(pld_runtime_world(rt), codes, codes, 2, PLD_I64, PLD_MAX, NULL) != 0)
        return 1;
    return codes[0] == -codes[1] ? rc : 1;
}

struct scene {
    const char *directory;
    pld_ckpt_codec codec;
    int async;
};

/* Each piece of memory is refused in turn to one rank: both fail alike, and can save again. */
static int do_save(pld_runtime *rt, void *context)
{
    const struct scene *c = context;
    const pld_ckpt_opts opts = {PLD_OPTS(pld_ckpt_opts), .codec = c->codec, .async = c->async};
    const int me = pld_runtime_rank(rt);
    int64_t step = -1;
    struct model m;

    CHECK(rt, model_open(rt, "dp=2", c->directory, &opts, &model_same, &m) == 0);
    model_set(&m, 5);
    for (int rank = 0; rank < 2; rank++) {
        int32_t refused = 1;

        for (long n = 1; refused; n += 1 + 6 * SLOW) {
            int rc;

            refuse_memory = me == rank ? n : 0;
            rc = pld_ckpt_save(m.ckpt, 1);
            if (rc == 0)
                rc = pld_ckpt_wait(m.ckpt);
            refused = refuse_memory == 0;
            refuse_memory = 0;
            rc = same_code(rt, rc);
            CHECK(rt, rc == 0 || rc == PLD_ERR_NOMEM);
            CHECK(rt, pld_broadcast(pld_runtime_world(rt), &refused, 1, PLD_I32, rank, NULL) == 0);
        }
        CHECK(rt, pld_ckpt_save(m.ckpt, 1) == 0 && pld_ckpt_wait(m.ckpt) == 0);
        CHECK(rt, pld_ckpt_load(m.ckpt, "latest", &step) == 0 && step == 1);
    }
    model_close(&m);
    return 0;
}

static void test_save(void)
{
    char directory[256];
    struct scene c = {.directory = in_model_dir("save", directory)};

    for (int i = 0; i < 4; i += 1 + 2 * SLOW) {
        c.codec = i % 2 ? PLD_CKPT_ZSTD : PLD_CKPT_RAW;
        c.async = i / 2;
        ok(inproc_run(2, do_save, &c) == 0, "a rank finds no memory for a save: codec %d, async %d",
           (int)c.codec, c.async);
    }
}

int main(void)
{
    if (!make_model_dir())
        return 1;
    model_rows[0] = 41;
    model_rows[1] = 13;
    test_save();
    model_remove(model_dir);
    return tap_done();
}
