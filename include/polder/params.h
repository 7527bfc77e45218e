/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/params.h
 * Named tensors: what is trained, what is reduced, what is saved.
 *
 * A rank adds the tensors that it holds (with a pipeline: those of its stage),
 * then all ranks commit.  From then on values and gradients have addresses:
 * one arena for the values of a dtype and one for its gradients, so that buckets
 * and optimizer sweeps are plain ranges.  Tensors lie in the order in which they
 * were added, each starting at a multiple of 64 elements; gaps are zero.
 *
 * With a GPU (pld_runtime_device()) the arenas are device memory, and so are tensors of the
 * caller's own and all that is kept with them.  What polder does with values and gradients, in
 * this header and those of dp, optim and ckpt, is work of one stream or in its order: see
 * pld_params_set_stream().  Calls then return before it is done unless they say otherwise.
 */
#ifndef POLDER_PARAMS_H
#define POLDER_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#include <polder/device.h>
#include <polder/dtype.h>
#include <polder/export.h>
#include <polder/mesh.h>
#include <polder/site.h>

PLD_BEGIN_DECLS

/** The tensors of this rank. */
typedef struct pld_params pld_params;

/** One tensor to add. */
typedef struct {
    size_t struct_size;           /**< sizeof(pld_param); required */
    const char *name;             /**< unique on the rank; see PLD_MAX_NAME; copied */
    int64_t shape[PLD_MAX_DIMS];  /**< global shape, row-major, outermost first; each >= 1 */
    int64_t offset[PLD_MAX_DIMS]; /**< where this rank's box begins; used if extent[0] > 0 */
    int64_t extent[PLD_MAX_DIMS]; /**< size of this rank's box; extent[0] = 0: the whole tensor */
    /** NULL: polder's arena; else the caller's buffer, aligned to its element, which must live as
     *  long as the params.  With a GPU it must be device memory. */
    void *value;
    void *grad;      /**< as value; both or neither */
    pld_dtype dtype; /**< PLD_F32 (default), PLD_F64, PLD_F16 or PLD_BF16 */
    int ndim;        /**< 1 .. PLD_MAX_DIMS */
    int decay;       /**< 1: decoupled weight decay applies */
    /** 1: several pipeline stages hold this tensor under this name (tied embeddings).  Its
     *  gradient is the sum over them, its norm counts once, it is saved once. */
    int shared;
} pld_param;

/** What is known of a tensor. */
typedef struct {
    const char *name; /**< owned by polder, valid as long as the params */
    int64_t shape[PLD_MAX_DIMS];
    int64_t offset[PLD_MAX_DIMS];
    int64_t extent[PLD_MAX_DIMS];
    void *value;  /**< [product of extent]; NULL before commit if polder owns it */
    void *grad;   /**< as value */
    size_t count; /**< product of extent */
    pld_dtype dtype;
    int ndim;
    int decay;
    int shared;
    int owner; /**< 1: of all pipeline stages that hold it, this rank's is the first */
} pld_param_info;

/** Start an empty set.  Local; PLD_ERR_ARG, PLD_ERR_NOMEM. */
PLD_API int pld_params_create(pld_mesh *mesh, pld_params **out);

/**
 * Add a tensor; before commit only.  Local.
 * @param out_id  receives 0, 1, 2, ... in the order of adding; may be NULL
 * @return 0, PLD_ERR_ARG, PLD_ERR_STATE (already committed), PLD_ERR_NOMEM
 */
PLD_API int pld_params_add(pld_params *params, const pld_param *param, int *out_id);

/**
 * Give addresses.  Values and gradients of polder's arenas start as zeros.
 * Collective over the mesh.  PLD_ERR_MISMATCH, with both sides named, if ranks
 * of one data-parallel group added different tensors (tensor-parallel ranks may
 * differ in their boxes alone), or if stages hold a tensor of the same name that
 * is not `shared` everywhere or differs in shape, box, dtype or decay;
 * PLD_ERR_STATE: committed already; PLD_ERR_NOMEM; PLD_ERR_DEVMEM; PLD_ERR_TRANSPORT.  After an
 * error the set is as before the call.
 */
PLD_API int pld_params_commit(pld_params *params);

/**
 * Make all replicas equal: every tensor takes the value of its first holder
 * (data-parallel rank 0; for shared tensors on the first holding stage; for a box
 * that all tensor-parallel ranks hold, on the first of them).  Gradients stay.
 * Collective over the mesh.  PLD_ERR_STATE before commit, PLD_ERR_TRANSPORT.
 */
PLD_API int pld_params_sync(pld_params *params);

/** Tensors of this rank.  Local, never fails. */
PLD_API int pld_params_count(const pld_params *params);

/** Number of a tensor by name.  Local; PLD_ERR_NOTFOUND. */
PLD_API int pld_params_find(const pld_params *params, const char *name, int *out_id);

/** Local; PLD_ERR_ARG. */
PLD_API int pld_params_info(const pld_params *params, int id, pld_param_info *out);

/** Address of the value / the gradient; NULL before commit or for a wrong id.  Local. */
PLD_API void *pld_params_value(const pld_params *params, int id);
PLD_API void *pld_params_grad(const pld_params *params, int id);

/**
 * The stream in which the caller works with values and gradients: what polder does with them
 * begins after the work that is in it at that time, and work put into it after a call of polder's
 * finds the results.  Before: CUDA's default stream.  A change is in order, too: work put into
 * the new stream begins after that of polder's in the old one.  Streams that produce gradients
 * beside it are named to pld_dp_ready().
 *
 * Local; PLD_ERR_ARG: a stream, but the tensors are in host memory; PLD_ERR_DEVICE.
 *
 * @param stream  must live until another is set, or as long as the params
 */
PLD_API int pld_params_set_stream(pld_params *params, pld_stream stream);

/** Set all gradients to zero.  Local; PLD_ERR_STATE before commit; PLD_ERR_DEVICE. */
PLD_API int pld_params_zero_grad(pld_params *params);

/** Local.  Everything made from the params must have been destroyed. */
PLD_API void pld_params_destroy(pld_params **params);

PLD_END_DECLS

/* The calls note where they are made; see <polder/site.h>. */
#ifndef PLD_NO_SITES
#define pld_params_commit(...) pld_params_commit(PLD_HERE(__VA_ARGS__))
#define pld_params_sync(...) pld_params_sync(PLD_HERE(__VA_ARGS__))
#endif

#endif /* POLDER_PARAMS_H */
