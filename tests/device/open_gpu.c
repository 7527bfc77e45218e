/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * open_gpu DEVICE: join with that device, say what this rank got, leave.  Rank r prints
 * "r: host NOTE" or "r: PCI-ID sharing N nccl V"; status 1 and "r: CODE SENTENCE" otherwise.
 */

#include <polder/polder.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    const char *rank_text = getenv("OMPI_COMM_WORLD_RANK");
    const pld_runtime_opts opts = {PLD_OPTS(pld_runtime_opts), .device = argc > 1 ? argv[1] : NULL};
    const int rank = rank_text != NULL ? atoi(rank_text) : 0;
    pld_runtime *rt = NULL;
    pld_device_info info;
    int64_t sum = 1;
    int rc = pld_runtime_open(&opts, &rt);

    if (rc < 0) {
        printf("%d: %s %s\n", rank, pld_error_name(rc), pld_last_error());
        return 1;
    }
    if (pld_runtime_device(rt) == NULL) {
        printf("%d: host %s\n", rank, pld_runtime_device_note(rt));
    } else {
        pld_device_get_info(pld_runtime_device(rt), &info);
        printf("%d: %s sharing %d nccl %d%s%s\n", rank, info.pci, info.sharing, info.nccl,
               info.nic[0] != '\0' ? " port " : "", info.nic);
    }
    rc = pld_allreduce(pld_runtime_world(rt), &sum, &sum, 1, PLD_I64, PLD_SUM, NULL);
    if (rc < 0 || sum != pld_runtime_size(rt))
        return 1;
    return pld_runtime_close(&rt) < 0;
}
