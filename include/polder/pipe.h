/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/pipe.h
 * Pipeline parallelism: executes a schedule over the pp axis of a mesh.
 *
 * The caller gives a forward and a backward function for the stage of its rank;
 * polder moves activations and gradients between the ranks and calls them in
 * the order of the schedule.  In generated schedules backward runs in ascending
 * order of microbatches on every stage, so gradients that accumulate in place have
 * the same bits as in a serial loop over the microbatches, whatever schedule and
 * pp; a schedule that was read from text runs in the order that it has.
 *
 * Messages overlap with callbacks: receives are posted ahead as far as there are
 * buffers, one more than the schedule keeps at once, and sends are not waited for
 * until their buffer is needed again.
 *
 * On a GPU (pld_runtime_device()) buffers are device memory, and nothing in a step waits for the
 * device: callbacks put their work into one stream, messages go through two of the pipe's own,
 * one each way, and events order them.
 */
#ifndef POLDER_PIPE_H
#define POLDER_PIPE_H

#include <stddef.h>
#include <stdint.h>

#include <polder/device.h>
#include <polder/dtype.h>
#include <polder/export.h>
#include <polder/mesh.h>
#include <polder/schedule.h>
#include <polder/site.h>

PLD_BEGIN_DECLS

/** A pipeline ready to run. */
typedef struct pld_pipe pld_pipe;

/** Shape of what crosses a stage boundary for one microbatch; ndim 0: nothing does. */
typedef struct {
    int64_t shape[PLD_MAX_DIMS]; /**< row-major, outermost first; each >= 1 */
    pld_dtype dtype;
    int ndim;
} pld_pipe_tensor;

/**
 * Forward of one microbatch.
 * @param in   what the previous stage put out, [input]; NULL on the first stage.  Valid until
 *             the backward of this microbatch has returned
 * @param out  to be filled, [output]; NULL on the last stage
 *
 * Buffers are aligned to 64 bytes and come from memory that the ranks of a node share
 * (polder/mem.h), on a GPU from device memory: `in` is there for work in the stream of the
 * options, `out` is to be filled by work in it, put there before the callback returns.  Callbacks
 * run on the thread that called pld_pipe_step().
 *
 * @return 0, or a negative PLD_ERR_* code, which ends the step on all ranks of the pp axis: no
 *         callback is called with data that are missing (on a GPU: none of this rank, while
 *         those of other ranks go on with data that mean nothing).  If callbacks talk to ranks of
 * other axes, these must fail together (pld_agree()), or some wait for ranks that have stopped.
 */
typedef int pld_pipe_forward(void *context, int stage, int microbatch, const void *in, void *out);

/**
 * Backward of one microbatch.
 * @param in        as in forward
 * @param grad_out  gradient of the loss by this stage's output, [output]; NULL on the last stage
 * @param grad_in   to be filled, gradient by the input, [input]; NULL on the first stage
 * @return as forward
 */
typedef int pld_pipe_backward(void *context, int stage, int microbatch, const void *in,
                              const void *grad_out, void *grad_in);

/** The stage of this rank. */
typedef struct {
    size_t struct_size; /**< sizeof(pld_pipe_opts); required */
    pld_pipe_forward *forward;
    pld_pipe_backward *backward;
    void *context;          /**< handed to both */
    pld_pipe_tensor input;  /**< ndim 0 on the first stage */
    pld_pipe_tensor output; /**< ndim 0 on the last stage; equals the next stage's input */
    pld_stream stream;      /**< on a GPU: that of the callbacks' work; must outlive the pipe */
} pld_pipe_opts;

/** Counters of the last pld_pipe_step().  On a GPU times are the host's. */
typedef struct {
    double step_s;      /**< wall time of the step */
    double compute_s;   /**< of it in the callbacks */
    double wait_s;      /**< of it waiting for messages: the bubble and exposed communication */
    int64_t bytes_sent; /**< of activations and gradients */
} pld_pipe_stats;

/**
 * Check that neighbours agree on shapes and that all ranks have the same
 * schedule; allocate all buffers.
 *
 * - Collective over the mesh.
 * - Errors: PLD_ERR_ARG (the schedule's ranks are not the mesh's pp, it fails
 *   pld_schedule_validate(), a callback is missing, or a shape is missing or too many),
 *   PLD_ERR_UNSUPPORTED (the schedule has several stages on a rank),
 *   PLD_ERR_MISMATCH (shapes of neighbours, both named with their stages; or
 *   schedules of ranks), PLD_ERR_NOMEM, PLD_ERR_DEVMEM, PLD_ERR_PEER, PLD_ERR_TRANSPORT.
 *
 * @param schedule  with or without messages; not kept
 * @param opts      not kept; `context` is
 */
PLD_API int pld_pipe_create(pld_mesh *mesh, const pld_schedule *schedule, const pld_pipe_opts *opts,
                            pld_pipe **out);

/**
 * Run all microbatches once, forward and backward.  Collective over the pp axis;
 * returns when all its ranks are through, on a GPU when all have put everything into streams.
 * @return 0; the code of a callback (the same on all ranks of the axis, with rank,
 *         stage, microbatch and the callback's own sentence, if it left one in
 *         pld_last_error(); of several the lowest rank's); PLD_ERR_PEER,
 *         PLD_ERR_TRANSPORT.  After an error the pipe can only be destroyed, and
 *         steps are PLD_ERR_STATE.  So is a step while the stream is recorded into a CUDA graph,
 *         on all stages alike; that one changes nothing.
 */
PLD_API int pld_pipe_step(pld_pipe *pipe);

/** Local, never fails. */
PLD_API void pld_pipe_get_stats(const pld_pipe *pipe, pld_pipe_stats *out);

/** Local.  On a GPU it waits for the stream of the options and for the pipe's messages. */
PLD_API void pld_pipe_destroy(pld_pipe **pipe);

PLD_END_DECLS

/* The calls note where they are made; see <polder/site.h>. */
#ifndef PLD_NO_SITES
#define pld_pipe_create(first, ...) pld_pipe_create(PLD_HERE(first), __VA_ARGS__)
#define pld_pipe_step(...) pld_pipe_step(PLD_HERE(__VA_ARGS__))
#endif

#endif /* POLDER_PIPE_H */
