/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "ckpt/ckpt_hdf5_impl.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/base_err.h"

/*
 * One of each per process, for libhdf5 is one per process.  The reason of a failure
 * is noted when the failing call returns: calls that clean up after it forget it.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char reason[256];

/* The innermost entry tells what happened. */
static herr_t take_reason(unsigned n, const H5E_error2_t *e, void *context)
{
    (void)context;
    if (n == 0 && e->desc != NULL && reason[0] == '\0')
        (void)snprintf(reason, sizeof(reason), "%s (libhdf5)", e->desc);
    return 0;
}

static herr_t on_error(hid_t stack, void *context)
{
    return H5Ewalk2(stack, H5E_WALK_UPWARD, take_reason, context);
}

void pldi_ckpt_h5_enter(struct ckpt_h5_guard *guard)
{
    unsigned version = 0;

    (void)pthread_mutex_lock(&lock);
    reason[0] = '\0';
    *guard = (struct ckpt_h5_guard){0};
    /* A program that set it in the manner of HDF5 1.6 keeps its setting, and its output. */
    if (H5Eauto_is_v2(H5E_DEFAULT, &version) < 0 || version == 0)
        return;
    if (H5Eget_auto2(H5E_DEFAULT, &guard->print, &guard->context) < 0)
        return;
    guard->saved = H5Eset_auto2(H5E_DEFAULT, on_error, NULL) >= 0;
}

void pldi_ckpt_h5_leave(const struct ckpt_h5_guard *guard)
{
    (void)H5Eclear2(H5E_DEFAULT);
    if (guard->saved)
        (void)H5Eset_auto2(H5E_DEFAULT, guard->print, guard->context);
    (void)pthread_mutex_unlock(&lock);
}

int pldi_ckpt_h5_fail(const char *verb, const char *path)
{
    return pldi_fail(PLD_ERR_IO, "cannot %s '%s': %s", verb, path,
                     reason[0] == '\0' ? "libhdf5 gives no reason" : reason);
}

/*
 * The oldest format throughout: any reader of the last twenty years opens it.
 * Metadata come in pieces large enough to lie together, large data sets begin at
 * a page.
 */
hid_t pldi_ckpt_h5_create(int memory, uint64_t sets)
{
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    const uint64_t metadata = 1024 * (sets < 4096 ? sets + 1 : 4096);
    hid_t driver = -1;
    hid_t file = -1;

    if (access >= 0 && H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V110) >= 0 &&
        H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
        H5Pset_alignment(access, 65536, 4096) >= 0 && H5Pset_meta_block_size(access, metadata) >= 0)
        driver = pldi_ckpt_h5_driver(access, memory);
    if (driver >= 0)
        file = H5Fcreate("polder", H5F_ACC_TRUNC, H5P_DEFAULT, access);
    if (access >= 0)
        (void)H5Pclose(access);
    /* The file holds it as long as it is open. */
    if (driver >= 0)
        (void)H5FDunregister(driver);
    return file;
}

/*
 * libhdf5 lets go of the driver before it calls the driver's close: if the file were
 * the last to hold it, that would be a call into freed memory.  The list holds it, too.
 */
int pldi_ckpt_h5_close(hid_t file, const char *path, int code)
{
    const hid_t access = H5Fget_access_plist(file);

    if ((access < 0 || H5Fclose(file) < 0) && code == PLD_OK)
        code = pldi_ckpt_h5_fail("close", path);
    if (access >= 0)
        (void)H5Pclose(access);
    return code;
}

/* The order of the calls matters: fields must fit the size at every step. */
static hid_t small_float(size_t exponent_bits, size_t fraction_bits, size_t bias)
{
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);

    if (type < 0 || H5Tset_fields(type, 15, fraction_bits, exponent_bits, 0, fraction_bits) < 0 ||
        H5Tset_size(type, 2) < 0 || H5Tset_ebias(type, bias) < 0)
        return -1;
    return type;
}

hid_t pldi_ckpt_h5_type(pld_dtype dtype)
{
    switch (dtype) {
    case PLD_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case PLD_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case PLD_F16:
        return small_float(5, 10, 15);
    case PLD_BF16:
        return small_float(8, 7, 127);
    case PLD_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case PLD_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case PLD_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case PLD_I8:
        return H5Tcopy(H5T_STD_I8LE);
    case PLD_U8:
    default:
        return H5Tcopy(H5T_STD_U8LE);
    }
}

/*
 * A name as one link of a path.  '/' would make groups, and "a" could then not
 * stand beside "a/b"; '%' means something in the source names of virtual data sets;
 * "." is the group itself.
 */
static char *put_link(char *at, const char *name)
{
    static const char special[] = "~/%";

    if (strcmp(name, ".") == 0) {
        memcpy(at, "~3", 2);
        return at + 2;
    }
    for (; *name != '\0'; name++) {
        const char *found = strchr(special, *name);

        *at++ = found == NULL ? *name : '~';
        if (found != NULL)
            *at++ = (char)('0' + (found - special));
    }
    return at;
}

static char *put_words(char *at, const char *words)
{
    memcpy(at, words, strlen(words));
    return at + strlen(words);
}

const char *pldi_ckpt_h5_name(const char *name, const char *slot, char out[CKPT_H5_PATH])
{
    char *at = put_words(out, slot[0] == '\0' ? "/tensors/" : "/slots/");

    if (slot[0] != '\0') {
        at = put_link(at, slot);
        *at++ = '/';
    }
    *put_link(at, name) = '\0';
    return out;
}

const char *pldi_ckpt_h5_entry_name(const struct ckpt_entry *e, char out[CKPT_H5_PATH])
{
    char *at = put_words(out, e->kind == CKPT_STATE ? "/state/" : "/params_state/");

    *put_link(at, e->key) = '\0';
    return out;
}

hid_t pldi_ckpt_h5_set(hid_t file, const char *name, hid_t type, hid_t space, hid_t creation)
{
    const hid_t link = H5Pcreate(H5P_LINK_CREATE);
    hid_t set = -1;

    if (link >= 0 && H5Pset_create_intermediate_group(link, 1) >= 0)
        set = H5Dcreate2(file, name, type, space, link, creation, H5P_DEFAULT);
    if (link >= 0)
        (void)H5Pclose(link);
    return set;
}

static int attribute(hid_t object, const char *name, hid_t type, hid_t space, const void *value)
{
    const hid_t a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int rc = a < 0 || H5Awrite(a, type, value) < 0 ? -1 : 0;

    if (a >= 0 && H5Aclose(a) < 0)
        rc = -1;
    return rc;
}

int pldi_ckpt_h5_text(hid_t object, const char *name, const char *text)
{
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t type = H5Tcopy(H5T_C_S1);
    int rc = -1;

    if (type >= 0 && H5Tset_size(type, strlen(text) + 1) >= 0 &&
        H5Tset_cset(type, H5T_CSET_UTF8) >= 0)
        rc = attribute(object, name, type, space, text);
    (void)H5Tclose(type);
    (void)H5Sclose(space);
    return rc;
}

int pldi_ckpt_h5_numbers(hid_t object, const char *name, const int64_t *values, int count)
{
    const hsize_t dims[1] = {(hsize_t)count};
    const hid_t space = H5Screate_simple(1, dims, NULL);
    const int rc = attribute(object, name, H5T_STD_I64LE, space, values);

    (void)H5Sclose(space);
    return rc;
}

int pldi_ckpt_h5_number(hid_t object, const char *name, double value)
{
    const hid_t space = H5Screate(H5S_SCALAR);
    const int rc = attribute(object, name, H5T_IEEE_F64LE, space, &value);

    (void)H5Sclose(space);
    return rc;
}

int pldi_ckpt_h5_uuid(hid_t file, const struct ckpt_manifest *m)
{
    char text[2 * CKPT_UUID_BYTES + 1];

    for (int i = 0; i < CKPT_UUID_BYTES; i++)
        (void)snprintf(text + 2 * i, 3, "%02x", m->uuid[i]);
    if (pldi_ckpt_h5_text(file, "uuid", text) < 0)
        return -1;
    return pldi_ckpt_h5_numbers(file, "step", &m->step, 1);
}
