/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The group along an axis: ranks that agree in all other coordinates have the
 * same color, which is the rank at the axis' origin.
 */

#include <polder/mesh.h>

#include <string.h>

#include "base/base_err.h"
#include "base/base_mem.h"
#include "coll/coll.h"
#include "coll/coll_device.h"
#include "health/health_site.h"
#include "topo/topo.h"

struct pld_mesh {
    pld_group *world; /* the runtime's */
    pld_group *axes[PLD_AXES];
    int sizes[PLD_AXES], coords[PLD_AXES];
};

/* All ranks must have read the same sizes. */
static int compare_sizes(pld_group *world, const int sizes[PLD_AXES])
{
    int lowest[PLD_AXES], highest[PLD_AXES];

    PLDI_TRY(pld_allreduce(world, sizes, lowest, PLD_AXES, PLD_I32, PLD_MIN, NULL));
    PLDI_TRY(pld_allreduce(world, sizes, highest, PLD_AXES, PLD_I32, PLD_MAX, NULL));
    for (int i = 0; i < PLD_AXES; i++) {
        if (lowest[i] != highest[i])
            return pldi_fail(PLD_ERR_MISMATCH,
                             "ranks ask for different meshes: axis %s has sizes from %d to %d",
                             pld_axis_name((pld_axis)i), lowest[i], highest[i]);
    }
    return PLD_OK;
}

static int make_groups(pld_mesh *mesh)
{
    for (int i = 0; i < PLD_AXES; i++) {
        int origin[PLD_AXES];

        memcpy(origin, mesh->coords, sizeof(origin));
        origin[i] = 0;
        PLDI_TRY(pld_group_split(mesh->world, pldi_topo_rank(mesh->sizes, origin), mesh->coords[i],
                                 &mesh->axes[i]));
        pldi_health_group_name(mesh->axes[i]->health, pld_axis_name((pld_axis)i));
    }
    return PLD_OK;
}

int pld_mesh_create(pld_runtime *runtime, const char *text, pld_mesh **out)
{
    PLDI_ENTER();
    pld_group *world;
    pld_mesh *mesh;
    int rc;

    PLDI_CHECK_ARG(runtime != NULL && out != NULL);
    world = pld_runtime_world(runtime);
    mesh = pldi_alloc(1, sizeof(*mesh), "a mesh");
    rc = mesh == NULL ? PLD_ERR_NOMEM : pld_mesh_parse(text, pld_group_size(world), mesh->sizes);
    rc = pld_agree(world, rc);
    if (rc == PLD_OK)
        rc = compare_sizes(world, mesh->sizes);
    /* First, so that the axes' communicators are parts of the world's. */
    if (rc == PLD_OK)
        rc = pldi_gpu_connect(world);
    if (rc == PLD_OK) {
        mesh->world = world;
        pldi_topo_coords(mesh->sizes, pld_group_rank(world), mesh->coords);
        rc = make_groups(mesh);
    }
    if (rc < 0) {
        pld_mesh_destroy(&mesh);
        return rc;
    }
    *out = mesh;
    return PLD_OK;
}

void pld_mesh_destroy(pld_mesh **mesh)
{
    if (mesh == NULL || *mesh == NULL)
        return;
    for (int i = 0; i < PLD_AXES; i++)
        pld_group_destroy(&(*mesh)->axes[i]);
    pldi_free(*mesh);
    *mesh = NULL;
}

int pld_mesh_size(const pld_mesh *mesh, pld_axis axis)
{
    return mesh->sizes[axis];
}

int pld_mesh_coord(const pld_mesh *mesh, pld_axis axis)
{
    return mesh->coords[axis];
}

pld_group *pld_mesh_group(pld_mesh *mesh, pld_axis axis)
{
    return mesh->axes[axis];
}

pld_group *pld_mesh_world(pld_mesh *mesh)
{
    return mesh->world;
}

int pld_mesh_rank_at(const pld_mesh *mesh, const int coords[PLD_AXES])
{
    return pldi_topo_rank(mesh->sizes, coords);
}
