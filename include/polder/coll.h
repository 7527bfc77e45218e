/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/coll.h
 * Groups of ranks, collective operations and messages over them.
 *
 * Rules for every operation below
 * - Collective over the group: every rank calls it, in the same order relative
 *   to the group's other collective operations, with equal count or counts,
 *   dtype, operator and root.  Ranks find out whether they agree before data
 *   move: else all get PLD_ERR_MISMATCH, whose sentence says who differs in what.
 *   pld_send() and pld_recv() concern two ranks only.
 * - Counts are in elements, and any that memory can hold, beyond 2^31 as well;
 *   buffers in host memory or all in that of the rank's GPU, on all ranks alike;
 *   aligned to their element.  A buffer may be NULL if its count is 0, or if this
 *   rank has no use for it ("at the root").
 * - A buffer of [size][count] holds one block per rank, by rank.  Where counts
 *   differ by rank ("_v"), blocks lie one behind the other without gaps, block r
 *   with counts[r] elements.  Arrays of counts are read before the call returns.
 * - In place: where an operation says so, send and recv may be the same memory
 *   in the way it says; otherwise they must not overlap.
 * - Types of 8 bits without arithmetic here (fp8, packed int4) travel as PLD_U8
 *   in everything that does not reduce; move them as bytes, and add them up in a
 *   wider type.
 * - Completion: without `opts->request` the call returns when the result is in
 *   place.  With it, the call returns at once; the buffers are polder's until
 *   pld_request_wait() or a pld_request_test() that said done.  Requests of one
 *   group complete in any order of waiting; operations run in call order.
 * - Device memory (see polder/device.h): an operation begins after the work that is in
 *   `opts->stream` now.  Without a request the call does not wait for it: work put into
 *   that stream afterwards finds the result, as with CUDA's own calls.  With a request
 *   the operation goes on beside the stream; pld_request_after() makes a stream wait,
 *   pld_request_wait() the host.  NCCL carries them where each rank has a GPU of its own
 *   and NCCL is found on all; elsewhere they pass through pinned memory of the host, and
 *   a call without a request then waits for its end.  Where NCCL carries, ranks find out
 *   that they disagree soon after, not before data move, unless POLDER_CHECK=sync, and the
 *   group then ends; an error of NCCL, too, is found by a later call.  A rank without any
 *   element in a call whose counts differ by rank says by its pointers, or by a stream,
 *   that the others use device memory.
 *   While the stream is recorded into a CUDA graph the call is PLD_ERR_STATE, and does not spoil
 *   the recording: on all ranks where hosts meet (pinned memory, pld_allreduce_leaves()), else on
 *   the rank that records, where nothing was sent: ranks that do not record wait for it.
 * - Numerics: f16 and bf16 are added in f32, also between nodes, and rounded once
 *   (to nearest even; NaN stays NaN).  max and min of a NaN and a number are NaN.
 *   Integers wrap.  The order of a sum follows from group size, node map, binding of
 *   ranks, count, dtype and tuning file: the same bits, every time.  It is rank order
 *   wherever each rank's part is added up in one place: inside a node with up to 8 ranks
 *   on one NUMA node, up to 8 ranks without one, for few bytes on up to 8 nodes, and on GPUs.
 *   Inside a node with more ranks, large sums are formed by groups, each in rank order, and the
 *   groups' sums are added in the order of their lowest ranks.  So are nodes if there are up to
 *   8, else it is by ring or halving, as with more than 8 ranks without shared memory: a ring
 *   begins behind the block's owner, halving and doubling add neighbours, then pairs
 *   of them, and so on.  See doc/collectives.md, and pld_group_set_reproducible() for
 *   bits that depend on the ranks alone.
 * - Errors: PLD_ERR_ARG (on the rank that passed it: nothing was sent),
 *   PLD_ERR_NOMEM, PLD_ERR_MISMATCH (ranks disagree on the operation),
 *   PLD_ERR_PEER, PLD_ERR_TIMEOUT (see pld_runtime_open()), PLD_ERR_TRANSPORT.
 *   After MISMATCH and NOMEM, which every rank
 *   gets, the group remains usable; after PEER and TRANSPORT of a collective
 *   operation all its later operations and open messages fail with the same code, and name the
 *   first cause.
 */
#ifndef POLDER_COLL_H
#define POLDER_COLL_H

#include <stddef.h>
#include <stdint.h>

#include <polder/device.h>
#include <polder/dtype.h>
#include <polder/export.h>
#include <polder/site.h>

PLD_BEGIN_DECLS

/** An ordered set of ranks that communicate with each other. */
typedef struct pld_group pld_group;

/** An operation under way. */
typedef struct pld_request pld_request;

/** Reduction operators. */
typedef enum {
    PLD_SUM = 0,
    PLD_AVG = 1, /**< sum times 1/size; floating types only */
    PLD_MAX = 2,
    PLD_MIN = 3,
    PLD_PROD = 4
} pld_op;

/** What every operation accepts besides its arguments.  NULL: all defaults. */
typedef struct {
    size_t struct_size;    /**< sizeof(pld_coll_opts); required */
    pld_request **request; /**< receives the request; NULL: the call waits */
    /** Factor applied to the result of a reduction, floating types only, in the precision of
     *  the sum, before rounding.  0: 1. */
    double scale;
    const char *tag;   /**< what this is, for diagnostics; a string that outlives the call */
    pld_stream stream; /**< of buffers in device memory: where they are produced and used */
} pld_coll_opts;

/** This rank's number in the group, 0 .. size-1.  Local, never fails. */
PLD_API int pld_group_rank(const pld_group *group);

/** Ranks in the group.  Local, never fails. */
PLD_API int pld_group_size(const pld_group *group);

/**
 * Cut a group into disjoint ones: ranks with the same color form a group,
 * ordered by key, then by rank in the parent.  Collective over `parent`.
 *
 * If the parent is connected by NCCL, so are the parts that have more than one rank: theirs is
 * split off.  That waits for what the parent has in streams.  If it fails, all ranks get the
 * error, and the parent connects itself again at its next collective operation.
 *
 * @param color  0 or more; negative: this rank joins none, and *out becomes NULL
 * @param out    receives the new group; caller destroys it
 */
PLD_API int pld_group_split(pld_group *parent, int color, int key, pld_group **out);

/**
 * Say how an operation of so many bytes would be carried in this group: the algorithm, the
 * ranks and nodes it runs over, its chunks.  Local.  All ranks get the same sentence.
 *
 * @param op     "allreduce", "reduce_scatter", ...: the call's name without "pld_"
 * @param bytes  of the vector, or of all blocks together
 * @param text   receives the sentence, cut to text_bytes
 */
PLD_API int pld_coll_explain(const pld_group *group, const char *op, uint64_t bytes,
                             pld_dtype dtype, char *text, size_t text_bytes);

/**
 * Carry the operations of this group by these rules where they say something, instead of
 * those of the file that POLDER_TUNE names; the defaults say the rest.  For measuring what
 * is fastest; doc/collectives.md describes the lines.
 *
 * Collective; rank 0's text holds for all.  PLD_ERR_ARG, naming the line, on all ranks.
 * Groups split off later do not inherit it.  No operation may be under way.
 *
 * @param rules  lines `op dtype nodes ppn min max -> algorithm chunk`; NULL: no more of them
 */
PLD_API int pld_group_set_tuning(pld_group *group, const char *rules);

/**
 * Form sums of this group, and of those split from it later, so that their bits depend on
 * the contributions of its ranks alone: not on nodes, algorithm, tuning or shared memory.
 * They are formed by the binary tree over rank numbers: 0+1, 2+3, ..., then pairs of those,
 * and so on; a sum without a partner moves up as it is.  POLDER_REPRODUCIBLE=1 on any rank
 * sets it for the world, and so for all groups.
 *
 * Cost: in shared memory some more additions in cache.  Between nodes nothing if each node
 * has an aligned run of 2^k ranks (ranks 0-3, 4-7, ...); else every contribution travels by
 * itself to the rank that adds it up, so bytes between nodes grow by the ranks per node.
 *
 * Collective; PLD_ERR_MISMATCH if ranks say different things.  No operation may be under way.
 */
PLD_API int pld_group_set_reproducible(pld_group *group, int on);

/** Whether that is set.  Local. */
PLD_API int pld_group_reproducible(const pld_group *group);

/**
 * Set up what operations on device memory need: the first of them does so by itself, but
 * pld_send() and pld_recv() cannot, as they concern two ranks only.  Collective; waits.
 * Nothing to do without a GPU.
 */
PLD_API int pld_group_connect(pld_group *group);

/** Local.  No operation may be under way. */
PLD_API void pld_group_destroy(pld_group **group);

/**
 * recv[i] = op over ranks of send[i].
 * @param send,recv  [count]; equal pointers: in place; else they must not overlap
 */
PLD_API int pld_allreduce(pld_group *group, const void *send, void *recv, size_t count,
                          pld_dtype dtype, pld_op op, const pld_coll_opts *opts);

/**
 * As pld_allreduce(), with the result at the root only.
 * @param send  [count]
 * @param recv  [count] at the root; elsewhere ignored.  Equal to send: in place
 */
PLD_API int pld_reduce(pld_group *group, const void *send, void *recv, size_t count,
                       pld_dtype dtype, pld_op op, int root, const pld_coll_opts *opts);

/**
 * Rank r receives slice r of the reduction.
 * @param send  [size][count]
 * @param recv  [count]; may be send + rank*count elements: in place
 * @param count elements of one slice
 */
PLD_API int pld_reduce_scatter(pld_group *group, const void *send, void *recv, size_t count,
                               pld_dtype dtype, pld_op op, const pld_coll_opts *opts);

/**
 * As pld_reduce_scatter(), with slices of different length.
 * @param send    [sum of counts]
 * @param recv    [counts[rank]]; may be this rank's slice of send: in place
 * @param counts  [size], equal on all ranks
 */
PLD_API int pld_reduce_scatter_v(pld_group *group, const void *send, void *recv,
                                 const size_t *counts, pld_dtype dtype, pld_op op,
                                 const pld_coll_opts *opts);

/**
 * Every rank receives the concatenation of all contributions, by rank.
 * @param send  [count]; may be recv + rank*count elements: in place
 * @param recv  [size][count]
 * @param count elements of one contribution
 */
PLD_API int pld_allgather(pld_group *group, const void *send, void *recv, size_t count,
                          pld_dtype dtype, const pld_coll_opts *opts);

/**
 * As pld_allgather(), with contributions of different length.
 * @param send    [counts[rank]]; may be this rank's block of recv: in place
 * @param recv    [sum of counts]
 * @param counts  [size], equal on all ranks
 */
PLD_API int pld_allgather_v(pld_group *group, const void *send, void *recv, const size_t *counts,
                            pld_dtype dtype, const pld_coll_opts *opts);

/**
 * Block d of rank s becomes block s of rank d.
 * @param send,recv  [size][count]; equal pointers: in place
 * @param count      elements of one block
 */
PLD_API int pld_alltoall(pld_group *group, const void *send, void *recv, size_t count,
                         pld_dtype dtype, const pld_coll_opts *opts);

/**
 * As pld_alltoall(), with blocks of different length; not in place.  What rank s sends to d
 * must be what d expects of s: send_counts[d] there equals recv_counts[s] here.
 * @param send         [sum of send_counts]
 * @param send_counts  [size], of this rank's blocks for the others
 * @param recv         [sum of recv_counts]
 * @param recv_counts  [size], of the others' blocks for this rank
 */
PLD_API int pld_alltoall_v(pld_group *group, const void *send, const size_t *send_counts,
                           void *recv, const size_t *recv_counts, pld_dtype dtype,
                           const pld_coll_opts *opts);

/**
 * The root receives the concatenation of all contributions, by rank.
 * @param send  [count]; at the root it may be its block of recv: in place
 * @param recv  [size][count] at the root; elsewhere ignored
 * @param count elements of one contribution
 */
PLD_API int pld_gather(pld_group *group, const void *send, void *recv, size_t count,
                       pld_dtype dtype, int root, const pld_coll_opts *opts);

/**
 * As pld_gather(), with contributions of different length.
 * @param send    [counts[rank]]
 * @param recv    [sum of counts] at the root
 * @param counts  [size], equal on all ranks (not only known to the root)
 */
PLD_API int pld_gather_v(pld_group *group, const void *send, void *recv, const size_t *counts,
                         pld_dtype dtype, int root, const pld_coll_opts *opts);

/**
 * Rank r receives block r of the root.
 * @param send  [size][count] at the root; elsewhere ignored
 * @param recv  [count]; at the root it may be its block of send: in place
 * @param count elements of one block
 */
PLD_API int pld_scatter(pld_group *group, const void *send, void *recv, size_t count,
                        pld_dtype dtype, int root, const pld_coll_opts *opts);

/**
 * As pld_scatter(), with blocks of different length.
 * @param send    [sum of counts] at the root
 * @param recv    [counts[rank]]
 * @param counts  [size], equal on all ranks (not only known to the root)
 */
PLD_API int pld_scatter_v(pld_group *group, const void *send, void *recv, const size_t *counts,
                          pld_dtype dtype, int root, const pld_coll_opts *opts);

/** buf of rank `root` to all.  @param buf [count] */
PLD_API int pld_broadcast(pld_group *group, void *buf, size_t count, pld_dtype dtype, int root,
                          const pld_coll_opts *opts);

/** Return when all ranks have called. */
PLD_API int pld_barrier(pld_group *group, const pld_coll_opts *opts);

/** A contribution with a number of its own, as the gradient of a microbatch. */
typedef struct {
    const void *data; /**< [count] */
    uint64_t leaf;    /**< 0 .. total-1 */
} pld_leaf;

/**
 * recv[i] = op over all leaves of data[i], formed by the binary tree over leaf numbers (as
 * pld_group_set_reproducible() says of ranks): the same bits for any number of ranks, and
 * however the leaves are cut among them.  PLD_AVG divides by `total`.
 *
 * Cost: a rank forms each largest aligned run of its leaves (2^k of them from a multiple of
 * 2^k) by itself, and sends one vector, for f16 and bf16 in f32, per run.  With runs of total/size
 * leaves by rank, and both powers of two, that is one: what an allreduce sends, besides the
 * width.  Leaves dealt out in turn make every leaf a run.  Memory: about 8 MiB per rank, and
 * that much again for what arrives.
 *
 * Device memory: the same bits.  The call waits for the other hosts, which tell each other who
 * has which leaf; so what they disagree about is PLD_ERR_MISMATCH before data move, leaves in
 * different memory included.  Where NCCL carries, the rest goes into a stream as of all operations.
 *
 * @param leaves  [n], in any order, read before the call returns; their data, in the same kind of
 *                memory as recv, until it is done.
 *                Each of 0 .. total-1 must be given once, on one rank: else PLD_ERR_MISMATCH,
 *                naming the first that is not
 * @param n       of this rank; may be 0
 * @param recv    [count]; may be the data of a leaf of this rank
 */
PLD_API int pld_allreduce_leaves(pld_group *group, const pld_leaf *leaves, size_t n, uint64_t total,
                                 void *recv, size_t count, pld_dtype dtype, pld_op op,
                                 const pld_coll_opts *opts);

/** One tensor of a list. */
typedef struct {
    const void *send;
    void *recv;
    size_t count; /**< as that of the operation without a list */
} pld_coll_item;

/**
 * As the operation without "_list" on each item in turn, for one meeting of the ranks and one
 * pass over the data: what many small tensors cost is that of one large tensor.  All items have
 * one dtype, and one operator or root.  In place holds item by item; items must not overlap.
 * Of a broadcast `recv` is the buffer, `send` is ignored.
 * @param items  [n], read before the call returns; n and all counts equal on all ranks
 */
PLD_API int pld_allreduce_list(pld_group *group, const pld_coll_item *items, size_t n,
                               pld_dtype dtype, pld_op op, const pld_coll_opts *opts);
PLD_API int pld_reduce_scatter_list(pld_group *group, const pld_coll_item *items, size_t n,
                                    pld_dtype dtype, pld_op op, const pld_coll_opts *opts);
PLD_API int pld_allgather_list(pld_group *group, const pld_coll_item *items, size_t n,
                               pld_dtype dtype, const pld_coll_opts *opts);
PLD_API int pld_broadcast_list(pld_group *group, const pld_coll_item *items, size_t n,
                               pld_dtype dtype, int root, const pld_coll_opts *opts);

/**
 * Send to rank `dest` of the group.  Matches the receive with the same tag;
 * messages with equal (source, tag) arrive in order.  May wait for the receive.
 *
 * Messages of device memory that NCCL carries have no tags and no overtaking: a group's are
 * done one after the other in the order of the calls, also those with requests.  Two ranks
 * that both receive first wait for each other; a group for each direction lets both flow.
 * @param tag  0 .. 2^20-1; more than the MPI in use can take is PLD_ERR_UNSUPPORTED
 */
PLD_API int pld_send(pld_group *group, const void *buf, size_t count, pld_dtype dtype, int dest,
                     int tag, const pld_coll_opts *opts);

/**
 * Receive exactly `count` elements; any other size is PLD_ERR_MISMATCH.
 *
 * Messages of device memory match those of device memory alone.  NCCL has neither tags nor
 * sizes: there, those from one rank to another match in the order of the calls, and it takes a
 * group that is connected (PLD_ERR_STATE); POLDER_CHECK=sync compares type and count.
 */
PLD_API int pld_recv(pld_group *group, void *buf, size_t count, pld_dtype dtype, int source,
                     int tag, const pld_coll_opts *opts);

/**
 * Wait, free the request, set *request to NULL, return the operation's code.
 * NULL is a finished request.
 */
PLD_API int pld_request_wait(pld_request **request);

/** As wait if the operation is done (*done = 1); else *done = 0 and 0 is returned. */
PLD_API int pld_request_test(pld_request **request, int *done);

/**
 * Work put into the stream from now on begins after the operation; the request is freed and
 * *request set to NULL.  The host does not wait if NCCL carries the operation.
 * @return as pld_request_wait(), as far as it is known yet; a later error ends the group
 */
PLD_API int pld_request_after(pld_request **request, pld_stream stream);

/** Wait for all; the first error in array order is returned, all are freed. */
PLD_API int pld_request_wait_all(size_t count, pld_request **requests);

/**
 * Make a local verdict everybody's: returns the code of the lowest rank whose
 * `code` is negative (on all ranks, with that rank's sentence, "rank N: ..." in
 * front, in pld_last_error()), or 0 if all passed 0.  The cure for "one rank
 * failed to open a file, the others wait for it for ever".
 *
 * Collective over `group`.  Also PLD_ERR_PEER, PLD_ERR_TIMEOUT, PLD_ERR_TRANSPORT.
 */
PLD_API int pld_agree(pld_group *group, int code);

PLD_END_DECLS

/* The calls note where they are made; see <polder/site.h>. */
#ifndef PLD_NO_SITES
#define pld_group_split(first, ...) pld_group_split(PLD_HERE(first), __VA_ARGS__)
#define pld_group_set_tuning(first, ...) pld_group_set_tuning(PLD_HERE(first), __VA_ARGS__)
#define pld_group_set_reproducible(first, ...)                                                     \
    pld_group_set_reproducible(PLD_HERE(first), __VA_ARGS__)
#define pld_group_connect(...) pld_group_connect(PLD_HERE(__VA_ARGS__))
#define pld_allreduce_leaves(first, ...) pld_allreduce_leaves(PLD_HERE(first), __VA_ARGS__)
#define pld_allreduce(first, ...) pld_allreduce(PLD_HERE(first), __VA_ARGS__)
#define pld_reduce(first, ...) pld_reduce(PLD_HERE(first), __VA_ARGS__)
#define pld_reduce_scatter(first, ...) pld_reduce_scatter(PLD_HERE(first), __VA_ARGS__)
#define pld_reduce_scatter_v(first, ...) pld_reduce_scatter_v(PLD_HERE(first), __VA_ARGS__)
#define pld_allgather(first, ...) pld_allgather(PLD_HERE(first), __VA_ARGS__)
#define pld_allgather_v(first, ...) pld_allgather_v(PLD_HERE(first), __VA_ARGS__)
#define pld_alltoall(first, ...) pld_alltoall(PLD_HERE(first), __VA_ARGS__)
#define pld_alltoall_v(first, ...) pld_alltoall_v(PLD_HERE(first), __VA_ARGS__)
#define pld_gather(first, ...) pld_gather(PLD_HERE(first), __VA_ARGS__)
#define pld_gather_v(first, ...) pld_gather_v(PLD_HERE(first), __VA_ARGS__)
#define pld_scatter(first, ...) pld_scatter(PLD_HERE(first), __VA_ARGS__)
#define pld_scatter_v(first, ...) pld_scatter_v(PLD_HERE(first), __VA_ARGS__)
#define pld_broadcast(first, ...) pld_broadcast(PLD_HERE(first), __VA_ARGS__)
#define pld_barrier(first, ...) pld_barrier(PLD_HERE(first), __VA_ARGS__)
#define pld_allreduce_list(first, ...) pld_allreduce_list(PLD_HERE(first), __VA_ARGS__)
#define pld_reduce_scatter_list(first, ...) pld_reduce_scatter_list(PLD_HERE(first), __VA_ARGS__)
#define pld_allgather_list(first, ...) pld_allgather_list(PLD_HERE(first), __VA_ARGS__)
#define pld_broadcast_list(first, ...) pld_broadcast_list(PLD_HERE(first), __VA_ARGS__)
#define pld_send(first, ...) pld_send(PLD_HERE(first), __VA_ARGS__)
#define pld_recv(first, ...) pld_recv(PLD_HERE(first), __VA_ARGS__)
#define pld_agree(first, ...) pld_agree(PLD_HERE(first), __VA_ARGS__)
#endif

#endif /* POLDER_COLL_H */
