/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/** @file fake_nccl_comm.h  Communicators that are being made; all with the lock held. */
#ifndef FAKE_NCCL_COMM_H
#define FAKE_NCCL_COMM_H

#include "fake_nccl_impl.h"

struct ncclComm *fake_comm_new(int rank, int size, int device, bool blocking);
/** The handle is not valid any more; memory goes when its operations are over. */
void fake_comm_forget(struct ncclComm *comm);
/** Come to where the others are, to tell them that all is well, or not. */
int fake_comm_join(struct ncclComm *comm, bool failed, bool gone);
/** Go on with joining the others; with a split, and with the child's joining. */
int fake_init_advance(struct ncclComm *comm);
int fake_split_advance(struct ncclComm *comm);
/** A split is over with that code; the caller gets the child, such as it is. */
int fake_split_end(struct ncclComm *comm, int rc);

#endif /* FAKE_NCCL_COMM_H */
