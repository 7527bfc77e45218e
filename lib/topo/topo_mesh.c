/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A rank is a number in a mixed radix: its digits are the coordinates, the axis
 * sizes are the radices, tp is the lowest digit.
 */

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/base_err.h"
#include "topo/topo.h"

static const char *const axis_names[PLD_AXES] = {"tp", "cp", "ep", "dp", "pp"};

const char *pld_axis_name(pld_axis axis)
{
    return (unsigned)axis < PLD_AXES ? axis_names[axis] : "?";
}

static int find_axis(const char *text, size_t length)
{
    for (int i = 0; i < PLD_AXES; i++) {
        if (length == strlen(axis_names[i]) && memcmp(text, axis_names[i], length) == 0)
            return i;
    }
    return -1;
}

/* One "name=size"; sizes[] holds -1 for axes not yet named. */
static int parse_axis(const char *item, size_t length, const char *text, int sizes[PLD_AXES])
{
    const char *equals = memchr(item, '=', length);
    const int axis = equals == NULL ? -1 : find_axis(item, (size_t)(equals - item));
    char *end;
    long size;

    if (axis < 0)
        return pldi_fail(PLD_ERR_ARG,
                         "mesh \"%s\": \"%.*s\" is no axis; write dp=2,pp=2 with the "
                         "axes tp cp ep dp pp",
                         text, (int)length, item);
    if (sizes[axis] >= 0)
        return pldi_fail(PLD_ERR_ARG, "mesh \"%s\": axis %s is given twice", text,
                         axis_names[axis]);
    size = isdigit((unsigned char)equals[1]) ? strtol(equals + 1, &end, 10) : -1;
    if (size < 0 || size > 1 << 24 || end != item + length)
        return pldi_fail(PLD_ERR_ARG,
                         "mesh \"%s\": \"%.*s\" needs a whole number of ranks, or 0 "
                         "for what is left",
                         text, (int)length, item);
    sizes[axis] = (int)size;
    return PLD_OK;
}

static int parse_all(const char *text, int sizes[PLD_AXES])
{
    for (const char *item = text;;) {
        const size_t length = strcspn(item, ",");

        PLDI_TRY(parse_axis(item, length, text, sizes));
        if (item[length] == '\0')
            return PLD_OK;
        item += length + 1;
    }
}

/* Give the axis of size 0 what the others leave, and check the product. */
static int fill(const char *text, int ranks, int sizes[PLD_AXES])
{
    long long product = 1;
    int open = -1;

    for (int i = 0; i < PLD_AXES; i++) {
        if (sizes[i] == 0 && open >= 0)
            return pldi_fail(PLD_ERR_ARG, "mesh \"%s\": only one axis may be 0 (what is left)",
                             text);
        if (sizes[i] == 0)
            open = i;
        else if (product <= ranks)
            product *= sizes[i] < 0 ? 1 : sizes[i];
    }
    if (product > ranks || ranks % product != 0 || (open < 0 && product != ranks))
        return pldi_fail(PLD_ERR_ARG,
                         "mesh \"%s\" does not fit %d rank%s: the sizes must multiply "
                         "to that number",
                         text, ranks, ranks == 1 ? "" : "s");
    for (int i = 0; i < PLD_AXES; i++)
        sizes[i] = i == open ? (int)(ranks / product) : sizes[i] < 0 ? 1 : sizes[i];
    return PLD_OK;
}

int pld_mesh_parse(const char *text, int ranks, int sizes[PLD_AXES])
{
    int parsed[PLD_AXES] = {-1, -1, -1, -1, -1};

    PLDI_CHECK_ARG(ranks >= 1 && sizes != NULL);
    if (text == NULL || text[0] == '\0')
        text = "dp=0";
    PLDI_TRY(parse_all(text, parsed));
    PLDI_TRY(fill(text, ranks, parsed));
    memcpy(sizes, parsed, sizeof(parsed));
    return PLD_OK;
}

void pldi_topo_coords(const int sizes[PLD_AXES], int rank, int coords[PLD_AXES])
{
    for (int i = 0; i < PLD_AXES; i++) {
        coords[i] = rank % sizes[i];
        rank /= sizes[i];
    }
}

int pldi_topo_rank(const int sizes[PLD_AXES], const int coords[PLD_AXES])
{
    int rank = 0;

    for (int i = PLD_AXES - 1; i >= 0; i--) {
        if (coords[i] < 0 || coords[i] >= sizes[i])
            return -1;
        rank = rank * sizes[i] + coords[i];
    }
    return rank;
}
