/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* make_model FILE PRESET SEED: a model file of llm.c with random weights; PRESET may also be
 * mini, for what is slow, or odd, whose heads no GPU takes. */

#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int find(const char *name, struct gpt_config *out)
{
    static const struct gpt_config mini = {64, 256, 256, 2, 2, 64}, odd = {64, 256, 256, 2, 2, 40};

    if (strcmp(name, "mini") != 0 && strcmp(name, "odd") != 0)
        return gpt_config_preset(name, out);
    *out = name[0] == 'm' ? mini : odd;
    return 0;
}

int main(int argc, char **argv)
{
    struct gpt_config config;

    if (argc != 4)
        return 2;
    if (find(argv[2], &config) == 0 &&
        gpt_llmc_create(argv[1], &config, strtoull(argv[3], NULL, 10)) == 0)
        return 0;
    fprintf(stderr, "make_model: %s\n", gpt_last_error());
    return 1;
}
