/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/dp.h
 * Data parallelism: gradients averaged over the dp axis while backward runs.
 *
 * Tensors are put into buckets in reverse order of adding, the order in which
 * backward completes them.  A bucket is a range of the gradient arena, reduced
 * in place.  It leaves when all its tensors are ready; buckets leave in their
 * own order, the same on all ranks, whatever the order of readiness.  A bucket
 * holds one dtype; a shared tensor has a bucket of its own; tensors in the caller's
 * memory are copied into a scratch as large as they are, and back.
 *
 * On a GPU a bucket's reduction begins when the work that produced its gradients is done, and
 * goes on beside the streams that go on with backward; the host waits for none of it.
 */
#ifndef POLDER_DP_H
#define POLDER_DP_H

#include <stddef.h>
#include <stdint.h>

#include <polder/export.h>
#include <polder/params.h>
#include <polder/site.h>

PLD_BEGIN_DECLS

/** The reduction of one set of parameters. */
typedef struct pld_dp pld_dp;

/** How to reduce.  NULL or all zero: the defaults. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_dp_opts); required */
    /** A bucket is closed once it holds this many bytes.  0: 25 MiB. */
    size_t bucket_bytes;
    /** The same for the first bucket, so that communication starts early.  0: 1 MiB. */
    size_t first_bucket_bytes;
    /** How often pld_dp_ready() is called per tensor and step: the number of microbatches whose
     *  gradients are added up locally before one reduction.  0: 1. */
    int accumulate;
    int sum; /**< 0: average over dp; 1: sum */
} pld_dp_opts;

/** Counters since creation. */
typedef struct {
    int64_t buckets;       /**< buckets of one step */
    int64_t steps;         /**< completed reductions, by pld_dp_wait() or pld_optim_step() */
    int64_t bytes_reduced; /**< bytes handed to all-reduce, all steps; none if nothing is to do */
    /** Seconds spent waiting for reductions: communication not hidden.  On a GPU the host's alone.
     */
    double wait_s;
} pld_dp_stats;

/**
 * Collective over the mesh of `params`, which must be committed.  The params
 * remember it: pld_optim_step() waits for it by itself.  At most one per params.
 * PLD_ERR_ARG, PLD_ERR_STATE, PLD_ERR_MISMATCH (ranks pass different options),
 * PLD_ERR_UNSUPPORTED (the mesh has a cp or ep axis longer than 1),
 * PLD_ERR_NOMEM, PLD_ERR_TRANSPORT.
 */
PLD_API int pld_dp_create(pld_params *params, const pld_dp_opts *opts, pld_dp **out);

/**
 * The gradient of tensor `id` has its contribution of this microbatch.  After
 * the `accumulate`-th call of a step its bucket may leave, and the gradient is
 * polder's until pld_dp_wait().  Local, does not wait.
 *
 * @param stream  on a GPU: the contribution is there when the work that is in this stream
 *                now is done; must live until pld_dp_wait().  In host memory: NULL
 * @return 0; PLD_ERR_ARG; PLD_ERR_STATE: called more often than `accumulate`, or the stream is
 *         recorded into a CUDA graph (the call does not count);
 *         or the error with which a complete bucket could not leave (the call
 *         counts all the same, and pld_dp_wait() returns it on all ranks)
 */
PLD_API int pld_dp_ready(pld_dp *dp, int id, pld_stream stream);

/**
 * All gradients are complete: wait until they are reduced; also sums shared
 * tensors over the pipeline stages that hold them.  Tensors not reported ready
 * count as ready now, on a GPU in the stream of pld_params_set_stream(), which is made to wait for
 * all reductions, while the host does not (ranks agree that all of them could begin).  After an
 * error the gradients are undefined, and the next step starts anew; but PLD_ERR_STATE, if that
 * stream is recorded into a CUDA graph, on all ranks alike, leaves everything as it was.
 * Collective over the mesh.
 *
 * Not needed before pld_optim_step(), which does it; called all the same (to look
 * at the gradients), it is not done twice, unless pld_dp_ready() or pld_params_zero_grad()
 * say that there are others.
 */
PLD_API int pld_dp_wait(pld_dp *dp);

/** Local, never fails. */
PLD_API void pld_dp_get_stats(const pld_dp *dp, pld_dp_stats *out);

/** Local.  No step may be under way. */
PLD_API void pld_dp_destroy(pld_dp **dp);

PLD_END_DECLS

/* The calls note where they are made; see <polder/site.h>. */
#ifndef PLD_NO_SITES
#define pld_dp_create(first, ...) pld_dp_create(PLD_HERE(first), __VA_ARGS__)
#define pld_dp_ready(first, ...) pld_dp_ready(PLD_HERE(first), __VA_ARGS__)
#define pld_dp_wait(...) pld_dp_wait(PLD_HERE(__VA_ARGS__))
#endif

#endif /* POLDER_DP_H */
