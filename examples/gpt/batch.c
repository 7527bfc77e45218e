/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "driver.h"

#include <string.h>

/*
 * A step's samples are numbered through the global batch; a data-parallel rank
 * takes a run of them, and its microbatches runs of that.  So the batch is the same
 * on every layout, and the number of the next sample is all there is to save.
 */
int gpt_batch_read(struct gpt_trainer *t)
{
    const int64_t mine = (int64_t)t->microbatches * t->sequences;
    const int64_t first = t->consumed + t->dp_rank * mine;
    const size_t seq = (size_t)t->seq;
    int rc = gpt_stage_settle(t->stage);

    if (rc < 0)
        return rc;
    for (int64_t i = 0; i < mine; i++) {
        rc = pld_data_sample(t->data, first + i, t->sample);
        if (rc < 0)
            return gpt_from_polder(rc);
        memcpy(t->tokens + (size_t)i * seq, t->sample, seq * sizeof(*t->sample));
        memcpy(t->targets + (size_t)i * seq, t->sample + 1, seq * sizeof(*t->sample));
    }
    return 0;
}
