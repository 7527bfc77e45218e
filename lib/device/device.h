/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file device.h
 * What the core asks of the CUDA plugin: one table of functions.
 *
 * The plugin, libpolder-cuda.so, is opened when a runtime wants a GPU, and never
 * closed again, for CUDA does not survive that.  It is built with the core and
 * must be of the same version.  It includes this header, links nothing of the core,
 * and gets what it needs of it by `struct pldi_plugin_host`.
 *
 * All functions put work into a stream and return; none waits for the device but
 * those that say so.  Pointers are of the device unless they say otherwise.
 */
#ifndef PLDI_DEVICE_H
#define PLDI_DEVICE_H

#include <polder/coll.h>
#include <polder/device.h>
#include <polder/dtype.h>

#include <stdint.h>

#include "device/device_scale.h"

/** Bumped with every change of what follows. */
enum { PLDI_PLUGIN_ABI = 2 };

/** Symbol by which the core finds the plugin. */
#define PLDI_PLUGIN_SYMBOL "pldi_plugin_cuda"

/** What the core lends the plugin. */
struct pldi_plugin_host {
    int (*fail)(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
    void *(*alloc)(size_t count, size_t bytes, const char *what); /**< as pldi_alloc() */
    void (*free)(void *memory);
};

/** Of PCI ids, as pld_device_info has them; of names of InfiniBand devices. */
enum { PLDI_PCI_BYTES = 16, PLDI_NIC_BYTES = 24 };

/** A piece of device memory. */
struct pldi_range {
    const void *data;
    size_t count;
    pld_dtype dtype;
};

/**
 * Of one optimizer step, in device memory, so that neither clipping nor skipping needs
 * the host.  The first members are summed over the ranks as f64 between the kernels that
 * fill them in and those that read them.
 */
struct pldi_step_vote {
    double square;   /**< of the gradients' norm */
    double infinite; /**< ranks whose share is not finite */
};

/** Made of that by step_decide(), and kept from step to step; first zero but for t and scales. */
struct pldi_step_control {
    double norm;        /**< of the unscaled gradients; not finite if one of them is not */
    int64_t t;          /**< updates made, this one included unless skipped */
    double factor;      /**< gradients are multiplied by it; includes the unscaling */
    double clip;        /**< without the unscaling */
    double step_size;   /**< AdamW: lr / (1 - beta1^t) */
    double sqrt_factor; /**< AdamW: 1 / sqrt(1 - beta2^t) */
    int64_t skip;       /**< 1: the gradients are not finite; set them to zero, nothing else */
    struct pldi_loss_scale scaling; /**< of the next step; what comes in has that of this one */
    float loss_scale;               /**< scaling.scale, for the caller's kernels */
    int reserved;
};

/** What step_decide() goes by. */
struct pldi_step_rule {
    double lr, beta1, beta2;
    double clip; /**< largest norm, of unscaled gradients; 0: any */
    struct pldi_scale_rule scaling;
};

/**
 * One optimizer sweep.  value: of `dtype`; grad: of the same, or f32 with f16 and bf16 values;
 * the rest f32, and of f64 values f64.  Factors are rounded to that, as the host's are.
 */
struct pldi_device_sweep {
    void *value;
    void *grad;   /**< set to zero */
    void *master; /**< of f16 and bf16 values; else NULL */
    void *first;  /**< AdamW: exp_avg; SGD: momentum, or NULL */
    void *second; /**< AdamW: exp_avg_sq */
    size_t count;
    pld_dtype dtype, grad_dtype;
    double beta1, beta2, eps; /**< AdamW */
    double lr, momentum;      /**< SGD */
    double decay_factor;      /**< 1 - lr * weight_decay, or 1 */
    int adamw;                /**< 0: SGD */
};

/** A communicator of NCCL. */
struct pldi_comm;

enum { PLDI_COMM_ID_BYTES = 128 };

enum pldi_comm_kind {
    PLDI_COMM_ALLREDUCE,
    PLDI_COMM_REDUCE,
    PLDI_COMM_REDUCE_SCATTER,
    PLDI_COMM_ALLGATHER,
    PLDI_COMM_BROADCAST,
    PLDI_COMM_SEND,
    PLDI_COMM_RECV
};

struct pldi_comm_call {
    enum pldi_comm_kind kind;
    const void *send;
    void *recv;
    size_t count; /**< as that of the NCCL function */
    pld_dtype dtype;
    pld_op op;
    double scale; /**< 1: none; else op is PLD_SUM and inputs are multiplied first */
    int peer;     /**< or root */
};

/**
 * NCCL.  All calls of all communicators of a process are made by one thread at a time, in
 * an order that is the same on all ranks.  Communicators are non-blocking: what a function
 * began is over when poll() says so, and until then no other may be called for it but
 * poll() and abort().
 */
struct pldi_comm_ops {
    /** A new id, for rank 0 to give to the others. */
    int (*make_id)(pld_device *device, unsigned char id[PLDI_COMM_ID_BYTES]);
    int (*init)(pld_device *device, const unsigned char id[PLDI_COMM_ID_BYTES], int rank, int size,
                struct pldi_comm **out);
    /** Whether there is split(). */
    int (*can_split)(const pld_device *device);
    /**
     * Called for all ranks of `comm`, which has nothing under way; `size` is of the new one.
     * color < 0: this rank has none, and *out = NULL.  It is over when poll() of the new one says
     * so, or without one poll() of `comm`.  Until then both are given to abort() together.
     */
    int (*split)(struct pldi_comm *comm, int color, int key, int size, struct pldi_comm **out);
    /** 1: nothing is under way on the host's side; 0: something is; or the error that ended it.
     *  Only queries: a watchdog may call it beside everything else. */
    int (*poll)(struct pldi_comm *comm);
    /** Whether there is register_memory(). */
    int (*can_register)(const pld_device *device);
    /** Memory that operations will use again and again, until it is deregistered, which it is
     *  before it is freed, or the communicator ends.  If one rank's memory is registered, that
     *  of all ranks in the same operations must be.  Refusal does the communicator no harm. */
    int (*register_memory)(struct pldi_comm *comm, void *memory, size_t bytes);
    /** NULL or unknown is fine.  No operation may use it. */
    void (*deregister_memory)(struct pldi_comm *comm, const void *memory);
    int (*enqueue)(struct pldi_comm *comm, const struct pldi_comm_call *call, pld_stream stream);
    /** Calls between the two are one launch.  end() begins what poll() tells the end of. */
    int (*group_begin)(pld_device *device);
    int (*group_end)(pld_device *device);
    /** Before the first init(): several ranks use this GPU, let NCCL bear that.  `rank` is of the
     *  job. */
    int (*share)(pld_device *device, int rank);
    /** End all that is under way, whatever state it is in.  Frees.  NULL is fine. */
    void (*abort)(struct pldi_comm **comms, size_t n);
    /** Nothing may be under way.  Frees; may wait for the device. */
    int (*close)(struct pldi_comm **comm);
};

/** How the plugin's modules and graphs begin. */
struct pldi_device_handle {
    pld_device *device;
};

/** The plugin's functions over one device; those of polder/device.h stand for themselves. */
struct pldi_device_ops {
    void (*close)(pld_device *device);
    void (*get_info)(const pld_device *device, pld_device_info *out);
    int (*alloc)(pld_device *device, size_t bytes, pld_mem_kind kind, void **out);
    /** Of the device, as NCCL wants memory to be that is registered; else as alloc() does. */
    int (*alloc_arena)(pld_device *device, size_t bytes, void **out);
    void (*free)(pld_device *device, void *memory);
    pld_mem_kind (*where)(pld_device *device, const void *memory);
    int (*free_bytes)(pld_device *device, uint64_t *out);
    int (*copy)(pld_device *device, void *dst, const void *src, size_t bytes, pld_stream stream);
    int (*fill)(pld_device *device, void *dst, int byte, size_t bytes, pld_stream stream);
    int (*stream_create)(pld_device *device, int urgent, pld_stream *out);
    void (*stream_destroy)(pld_device *device, pld_stream *stream);
    int (*stream_wait)(pld_device *device, pld_stream stream);
    /** *out: 1 if what is put into the stream is recorded into a graph, not done. */
    int (*stream_records)(pld_device *device, pld_stream stream, int *out);
    int (*event_create)(pld_device *device, int timed, pld_event *out);
    void (*event_destroy)(pld_device *device, pld_event *event);
    int (*event_record)(pld_device *device, pld_event event, pld_stream stream);
    int (*stream_after)(pld_device *device, pld_stream stream, pld_event event);
    int (*event_test)(pld_device *device, pld_event event, int *done);
    int (*event_wait)(pld_device *device, pld_event event);
    /** Page-lock memory of the host, so that copies to and from it do not block; and back. */
    int (*pin)(pld_device *device, void *memory, size_t bytes);
    void (*unpin)(pld_device *device, void *memory);
    int (*event_seconds)(pld_device *device, pld_event begin, pld_event end, double *out);
    int (*module_open)(pld_device *device, const void *image, pld_module **out);
    void (*module_close)(pld_module **module);
    int (*module_find)(pld_module *module, const char *name, pld_kernel *out);
    int (*launch)(pld_module *module, pld_kernel kernel, const pld_launch *launch,
                  pld_stream stream, void **arguments);
    int (*graph_begin)(pld_device *device, pld_stream stream);
    int (*graph_end)(pld_device *device, pld_stream stream, pld_graph **out);
    int (*graph_launch)(pld_graph *graph, pld_stream stream);
    void (*graph_destroy)(pld_graph **graph);

    /* Kernels.  Numerics as in device_kernels.h: f16 and bf16 in f32, rounded once. */

    /** Each of dsts[d][i] = scale * op over s of srcs[s][i], s ascending.  A dst may be a src. */
    int (*reduce)(pld_device *device, void *const *dsts, int n_dsts, const void *const *srcs,
                  int n_srcs, size_t count, pld_dtype dtype, pld_op op, double scale,
                  pld_stream stream);
    /** vote = sum of squares over all ranges, and whether it is finite, in an order that
     *  depends on their counts alone.  f32, f16, bf16, f64. */
    int (*sum_squares)(pld_device *device, const struct pldi_range *ranges, size_t n,
                       struct pldi_step_vote *vote, pld_stream stream);
    int (*step_decide)(pld_device *device, const struct pldi_step_vote *vote,
                       const struct pldi_step_rule *rule, struct pldi_step_control *control,
                       pld_stream stream);
    int (*sweep)(pld_device *device, const struct pldi_device_sweep *sweep,
                 const struct pldi_step_control *control, pld_stream stream);
    /** Between any two of f32, f16, bf16, f64; to nearest even, NaN stays NaN. */
    int (*cast)(pld_device *device, void *dst, pld_dtype to, const void *src, pld_dtype from,
                size_t count, pld_stream stream);
    /** *out (of the device) = a hash of the bytes, the same as pldi_device_hash() makes of them. */
    int (*hash)(pld_device *device, const void *data, size_t bytes, uint64_t *out,
                pld_stream stream);
    /** HDF5's byte shuffle of `count` elements of `width` bytes: all first bytes, all second ... */
    int (*shuffle)(pld_device *device, void *dst, const void *src, size_t count, size_t width,
                   pld_stream stream);
    /** And back. */
    int (*unshuffle)(pld_device *device, void *dst, const void *src, size_t count, size_t width,
                     pld_stream stream);

    const char *(*comm_note)(const pld_device *device); /**< why `comm` is NULL; or "" */
};

/** The head of the plugin's object. */
struct pld_device {
    const struct pldi_device_ops *ops;
    const struct pldi_comm_ops *comm; /**< NULL: NCCL was not found; see comm_note() */
    int sharing;                      /**< the core's: ranks that use this GPU */
    int family;                       /**< the core's: parts of a communicator use its resources */
    int registers;                    /**< the core's: arenas are registered with communicators */
    char nic[PLDI_NIC_BYTES];         /**< the core's, as in pld_device_info */
};

/** What PLDI_PLUGIN_SYMBOL returns. */
struct pldi_plugin {
    uint32_t abi;
    const char *version; /**< pld_version() of the build */
    /** PCI ids of the GPUs that this process sees, in the driver's order, at most `most`; of the
     *  wanted one alone unless NULL, in whatever form people write it.  PLD_ERR_UNSUPPORTED, with
     *  the reason: no driver, none that is new enough, no GPU. */
    int (*list)(const struct pldi_plugin_host *host, const char *wanted,
                char (*pcis)[PLDI_PCI_BYTES], int most, int *n);
    /** One of them.  PLD_ERR_UNSUPPORTED likewise. */
    int (*open)(const struct pldi_plugin_host *host, const char *pci, pld_device **out);
};

/**
 * Find the plugin, check its version and open the GPU, NULL: the first.  PLD_ERR_UNSUPPORTED if any
 * of it is not there, with one sentence that says what and where it was looked for.
 */
int pldi_device_open(const char *pci, pld_device **out);

/** The plugin's list(), with the same errors. */
int pldi_device_list(const char *wanted, char (*pcis)[PLDI_PCI_BYTES], int most, int *n);

/** NULL is fine. */
void pldi_device_close(pld_device **device);

/** What is put into `later` from now on begins after what is in `earlier` now.  The event is
 *  free for other use when the call returns. */
int pldi_device_order(pld_device *device, pld_event event, pld_stream earlier, pld_stream later);

/** PLD_ERR_STATE if the stream is recorded into a graph, of which `call` cannot be a part. */
int pldi_device_check_stream(pld_device *device, const char *call, pld_stream stream);

/** Zeroed memory of the device, in the order of `stream`; the sentence names `what`. */
int pldi_device_zeros(pld_device *device, size_t count, size_t bytes, const char *what,
                      pld_stream stream, void **out);
/** The same, to be registered with communicators if they do that. */
int pldi_device_arena(pld_device *device, size_t count, size_t bytes, const char *what,
                      pld_stream stream, void **out);

/**
 * The hash of the kernel of that name, on the host: the sum over all 8-byte words w_i (the
 * last one padded with zeros) of mix(w_i + (i+1) * 0x9e3779b97f4a7c15), plus mix(bytes), modulo
 * 2^64, where mix is the finalizer of SplitMix64.  A sum, so that it can be formed in any order.
 */
uint64_t pldi_device_hash(const void *data, size_t bytes);

#endif /* PLDI_DEVICE_H */
