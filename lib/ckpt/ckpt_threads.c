/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <pthread.h>
#include <stdio.h>

#include "base/base_err.h"
#include "ckpt/ckpt_impl.h"

struct helper {
    pthread_t thread;
    int (*work)(void *context, int thread);
    void *context;
    int number;
    int code;
    char text[1024]; /* sentences belong to threads */
};

static void *run(void *arg)
{
    struct helper *me = arg;

    me->code = me->work(me->context, me->number);
    if (me->code < 0)
        (void)snprintf(me->text, sizeof(me->text), "%s", pld_last_error());
    return NULL;
}

int pldi_ckpt_parallel(int threads, int (*work)(void *context, int thread), void *context)
{
    struct helper helpers[CKPT_MAX_THREADS];
    int started = 0;
    int rc;

    while (started < threads - 1 && started < CKPT_MAX_THREADS) {
        struct helper *h = &helpers[started];

        h->work = work;
        h->context = context;
        h->number = started + 1;
        if (pthread_create(&h->thread, NULL, run, h) != 0)
            break;
        started++;
    }
    rc = work(context, 0);
    for (int i = 0; i < started; i++)
        (void)pthread_join(helpers[i].thread, NULL);
    for (int i = 0; rc == PLD_OK && i < started; i++)
        if (helpers[i].code < 0)
            rc = pldi_fail(helpers[i].code, "%s", helpers[i].text);
    return rc;
}
