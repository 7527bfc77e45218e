/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include <limits.h>

#include "cuda/cuda_device.h"

enum { MAX_GPUS = 64 };

static int shared_cpus(const struct pldi_cuda_gpu *gpu, const unsigned char *cpus, size_t bytes)
{
    int shared = 0;

    for (size_t i = 0; i < bytes && i < sizeof(gpu->cpus); i++)
        shared += __builtin_popcount(gpu->cpus[i] & cpus[i]);
    return shared;
}

int pldi_cuda_choose(const struct pldi_cuda_gpu *gpus, int n_gpus, const unsigned char *cpus,
                     size_t cpus_bytes, int local_size, int local_rank)
{
    int taken[MAX_GPUS] = {0};
    const int n = n_gpus < MAX_GPUS ? n_gpus : MAX_GPUS;
    int best = 0;

    for (int r = 0; r <= local_rank && r < local_size; r++) {
        const unsigned char *mine = cpus + (size_t)r * cpus_bytes;
        int fewest = INT_MAX;
        int near = -1;

        for (int g = 0; g < n; g++) {
            const int shared = shared_cpus(&gpus[g], mine, cpus_bytes);

            if (taken[g] > fewest || (taken[g] == fewest && shared <= near))
                continue;
            fewest = taken[g];
            near = shared;
            best = g;
        }
        taken[best]++;
    }
    return best;
}
