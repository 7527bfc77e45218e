/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/* make_model FILE PRESET SEED: a model file of llm.c with random weights. */

#include "model.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    struct gpt_config config;

    if (argc != 4)
        return 2;
    if (gpt_config_preset(argv[2], &config) == 0 &&
        gpt_llmc_create(argv[1], &config, strtoull(argv[3], NULL, 10)) == 0)
        return 0;
    fprintf(stderr, "make_model: %s\n", gpt_last_error());
    return 1;
}
