/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file polder/mesh.h
 * The ranks of a job arranged as a grid with named axes.
 *
 * Axes: dp (data parallel), pp (pipeline parallel), tp (tensor parallel), cp
 * (context parallel), ep (expert parallel).  Ranks are laid out with tp varying
 * fastest, then cp, ep, dp, and pp slowest, whatever the order in the text: the
 * axes that talk most stay within a node, and the stages of a pipeline, which
 * talk least, are farthest apart:
 *
 *     rank = tp + TP*(cp + CP*(ep + EP*(dp + DP*pp)))
 */
#ifndef POLDER_MESH_H
#define POLDER_MESH_H

#include <polder/coll.h>
#include <polder/export.h>
#include <polder/runtime.h>
#include <polder/site.h>

PLD_BEGIN_DECLS

/** A grid of ranks and the groups along its axes. */
typedef struct pld_mesh pld_mesh;

/** Axes, in the order fastest to slowest varying. */
typedef enum {
    PLD_AXIS_TP = 0,
    PLD_AXIS_CP = 1,
    PLD_AXIS_EP = 2,
    PLD_AXIS_DP = 3,
    PLD_AXIS_PP = 4
} pld_axis;

/** Number of axes. */
#define PLD_AXES 5

/**
 * Read a mesh text without any rank: "dp=0,pp=2".  An axis left out has size 1;
 * size 0 (at most one axis) means "what is left".  Local.
 *
 * @param text   axes as name=size, separated by commas; NULL or "": "dp=0"
 * @param ranks  ranks to arrange, >= 1
 * @param sizes  [PLD_AXES], receives the sizes; their product is `ranks`
 * @return 0; PLD_ERR_ARG: unknown or repeated axis, no number, or sizes that do
 *         not multiply to `ranks`
 */
PLD_API int pld_mesh_parse(const char *text, int ranks, int sizes[PLD_AXES]);

/**
 * Arrange all ranks of the runtime.  Collective over them; PLD_ERR_ARG as
 * above, PLD_ERR_MISMATCH (ranks pass different texts), PLD_ERR_NOMEM,
 * PLD_ERR_TRANSPORT.  With GPUs and NCCL it connects the world and, by splitting that, the
 * axes (pld_group_connect()), with its errors.
 */
PLD_API int pld_mesh_create(pld_runtime *runtime, const char *text, pld_mesh **out);

/** Local.  Everything made from the mesh must have been destroyed. */
PLD_API void pld_mesh_destroy(pld_mesh **mesh);

/** Size of an axis.  Local, never fails. */
PLD_API int pld_mesh_size(const pld_mesh *mesh, pld_axis axis);

/** This rank's coordinate on an axis.  Local, never fails. */
PLD_API int pld_mesh_coord(const pld_mesh *mesh, pld_axis axis);

/** The ranks that differ from this one on `axis` alone, ordered by coordinate.
 *  Owned by the mesh.  Local, never fails. */
PLD_API pld_group *pld_mesh_group(pld_mesh *mesh, pld_axis axis);

/** All ranks, ordered by rank.  Owned by the mesh.  Local, never fails. */
PLD_API pld_group *pld_mesh_world(pld_mesh *mesh);

/** Rank with the given coordinates.  Local; -1 if one is outside its axis. */
PLD_API int pld_mesh_rank_at(const pld_mesh *mesh, const int coords[PLD_AXES]);

/** "tp", "cp", "ep", "dp", "pp".  Local, never fails. */
PLD_API const char *pld_axis_name(pld_axis axis);

PLD_END_DECLS

/* The calls note where they are made; see <polder/site.h>. */
#ifndef PLD_NO_SITES
#define pld_mesh_create(first, ...) pld_mesh_create(PLD_HERE(first), __VA_ARGS__)
#endif

#endif /* POLDER_MESH_H */
