/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

#include "cublaslt.h"

#include "model.h"

#include <polder/error.h>

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* What cuBLAS asks for on Hopper; less elsewhere. */
enum { WORKSPACE = 32 << 20 };

/* Bytes; what cuBLASLt may count on.  Its own guess is 256, which parameters in bf16 do not keep.
 */
enum { ALIGNMENT = 16 };

/* A shape and how it is multiplied. */
struct plan {
    struct gpt_product shape; /* addresses are NULL */
    void *desc, *a, *b, *d;
    struct gpt_lt_algo algo;
};

struct gpt_lt {
    pld_device *device;
    void *library, *driver, *handle, *wish, *workspace;
    struct plan *plans;
    size_t plan_count, plan_room;
    int ordinal;
    int current; /* 1: the device's context is current here */
#define MEMBER(name, symbol, arguments) int(*name) arguments;
    GPT_LT_FUNCTIONS(MEMBER)
#undef MEMBER
};

/* A function's address out of a data pointer, as dlsym() gives it. */
static int find(void *library, const char *symbol, void *function)
{
    void *address = dlsym(library, symbol);

    memcpy(function, &address, sizeof(address));
    return address != NULL;
}

static const char *find_all(struct gpt_lt *lt)
{
#define FIND(name, symbol, arguments)                                                              \
    if (!find(lt->library, #symbol, &lt->name))                                                    \
        return #symbol;
    GPT_LT_FUNCTIONS(FIND)
#undef FIND
    return NULL;
}

static int load(struct gpt_lt *lt)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
    const char *missing;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && lt->library == NULL; i++)
        lt->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (lt->library == NULL)
        return gpt_fail(PLD_ERR_UNSUPPORTED,
                        "matrix products on a GPU need cuBLASLt, but neither %s nor %s can be "
                        "loaded; load the CUDA toolkit or add its lib64 to LD_LIBRARY_PATH",
                        names[0], names[1]);
    missing = find_all(lt);
    if (missing != NULL)
        return gpt_fail(PLD_ERR_UNSUPPORTED,
                        "the cuBLASLt that was found has no %s; take that of CUDA 12 or 13",
                        missing);
    return 0;
}

/* cuBLASLt works in the calling thread's current context.  polder leaves that alone, so it is
 * made current here: the primary one, in which polder works, too. */
static int make_current(struct gpt_lt *lt)
{
    int (*get)(int *device, int ordinal) = NULL;
    int (*retain)(void **context, int device) = NULL;
    int (*set)(void *context) = NULL;
    void *context = NULL;
    int device = 0;

    lt->driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (lt->driver == NULL || !find(lt->driver, "cuDeviceGet", &get) ||
        !find(lt->driver, "cuDevicePrimaryCtxRetain", &retain) ||
        !find(lt->driver, "cuCtxSetCurrent", &set))
        return gpt_fail(PLD_ERR_UNSUPPORTED, "libcuda.so.1 cannot be loaded a second time");
    if (get(&device, lt->ordinal) != 0 || retain(&context, device) != 0)
        return gpt_fail(PLD_ERR_DEVICE, "GPU %d cannot be made current", lt->ordinal);
    lt->current = 1;
    if (set(context) != 0)
        return gpt_fail(PLD_ERR_DEVICE, "GPU %d cannot be made current", lt->ordinal);
    return 0;
}

static void leave_current(const struct gpt_lt *lt)
{
    int (*get)(int *device, int ordinal) = NULL;
    int (*release)(int device) = NULL;
    int (*set)(void *context) = NULL;
    int device = 0;

    if (!lt->current || !find(lt->driver, "cuDevicePrimaryCtxRelease_v2", &release) ||
        !find(lt->driver, "cuDeviceGet", &get) || !find(lt->driver, "cuCtxSetCurrent", &set))
        return;
    (void)set(NULL);
    if (get(&device, lt->ordinal) == 0)
        (void)release(device);
}

static int check(int status, const char *what)
{
    return status == 0 ? 0
                       : gpt_fail(PLD_ERR_DEVICE, "cuBLASLt: %s: cublasStatus_t %d", what, status);
}

static int wish(struct gpt_lt *lt)
{
    const size_t most = WORKSPACE;
    const uint32_t alignment = ALIGNMENT;
    int rc = check(lt->wish_create(&lt->wish), "cublasLtMatmulPreferenceCreate()");

    if (rc == 0)
        rc = check(lt->wish_set(lt->wish, GPT_LT_MAX_WORKSPACE, &most, sizeof(most)),
                   "the size of the workspace");
    for (int i = GPT_LT_ALIGNMENT_A; i <= GPT_LT_ALIGNMENT_D && rc == 0; i++)
        rc = check(lt->wish_set(lt->wish, i, &alignment, sizeof(alignment)), "an alignment");
    return rc;
}

static int start(struct gpt_lt *lt)
{
    int rc = load(lt);

    if (rc == 0)
        rc = make_current(lt);
    if (rc == 0)
        rc = check(lt->create(&lt->handle), "cublasLtCreate()");
    if (rc == 0)
        rc = wish(lt);
    if (rc != 0)
        return rc;
    rc = pld_device_alloc(lt->device, WORKSPACE, PLD_MEM_DEVICE, &lt->workspace);
    return rc == 0 ? 0 : gpt_fail(rc, "%s", pld_last_error());
}

int gpt_lt_open(pld_device *device, struct gpt_lt **out)
{
    struct gpt_lt *lt = calloc(1, sizeof(*lt));
    pld_device_info info;
    int rc;

    if (lt == NULL)
        return gpt_fail(PLD_ERR_NOMEM, "no memory for cuBLASLt");
    pld_device_get_info(device, &info);
    lt->device = device;
    lt->ordinal = info.ordinal;
    rc = start(lt);
    if (rc != 0)
        gpt_lt_close(&lt);
    else
        *out = lt;
    return rc;
}

static void forget(const struct gpt_lt *lt, const struct plan *plan)
{
    void *const layouts[] = {plan->a, plan->b, plan->d};

    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
        if (layouts[i] != NULL)
            (void)lt->layout_destroy(layouts[i]);
    if (plan->desc != NULL)
        (void)lt->desc_destroy(plan->desc);
}

/* The library itself stays loaded, as CUDA's do not survive being unloaded. */
void gpt_lt_close(struct gpt_lt **at)
{
    struct gpt_lt *lt = *at;

    if (lt == NULL)
        return;
    for (size_t i = 0; i < lt->plan_count; i++)
        forget(lt, &lt->plans[i]);
    free(lt->plans);
    if (lt->wish != NULL)
        (void)lt->wish_destroy(lt->wish);
    if (lt->handle != NULL)
        (void)lt->destroy(lt->handle);
    pld_device_free(lt->device, lt->workspace);
    leave_current(lt);
    free(lt);
    *at = NULL;
}

static int same_shape(const struct gpt_product *a, const struct gpt_product *b)
{
    return a->trans_a == b->trans_a && a->trans_b == b->trans_b && a->m == b->m && a->n == b->n &&
           a->k == b->k && a->type == b->type && a->type_out == b->type_out &&
           a->epilogue == b->epilogue && a->lda == b->lda && a->ldb == b->ldb && a->ldd == b->ldd &&
           (a->beta != 0) == (b->beta != 0);
}

static int set(const struct gpt_lt *lt, const struct plan *plan, int attribute, const void *value,
               size_t bytes)
{
    return check(lt->desc_set(plan->desc, attribute, value, bytes), "an attribute of a product");
}

/* Addresses that belong to the description of a product. */
static int point(const struct gpt_lt *lt, const struct plan *plan, const struct gpt_product *p)
{
    int rc = 0;

    if (p->bias != NULL)
        rc = set(lt, plan, GPT_LT_BIAS_POINTER, &p->bias, sizeof(p->bias));
    if (rc == 0 && p->aux != NULL)
        rc = set(lt, plan, GPT_LT_AUX_POINTER, &p->aux, sizeof(p->aux));
    return rc;
}

static int describe(const struct gpt_lt *lt, struct plan *plan, const struct gpt_product *p)
{
    const uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    const int64_t aux_ld = p->ldd;
    int rc = check(lt->desc_create(&plan->desc, GPT_LT_COMPUTE_32F, GPT_LT_R_32F), "a product");

    if (rc == 0)
        rc = set(lt, plan, GPT_LT_TRANSA, &p->trans_a, sizeof(p->trans_a));
    if (rc == 0)
        rc = set(lt, plan, GPT_LT_TRANSB, &p->trans_b, sizeof(p->trans_b));
    if (rc == 0)
        rc = set(lt, plan, GPT_LT_EPILOGUE, &p->epilogue, sizeof(p->epilogue));
    if (rc == 0 && p->aux != NULL)
        rc = set(lt, plan, GPT_LT_AUX_LD, &aux_ld, sizeof(aux_ld));
    if (rc == 0)
        rc = check(
            lt->layout_create(&plan->a, p->type, p->trans_a ? k : m, p->trans_a ? m : k, p->lda),
            "a matrix");
    if (rc == 0)
        rc = check(
            lt->layout_create(&plan->b, p->type, p->trans_b ? n : k, p->trans_b ? k : n, p->ldb),
            "a matrix");
    if (rc == 0)
        rc = check(lt->layout_create(&plan->d, p->type_out, m, n, p->ldd), "a matrix");
    return rc;
}

/* The choice counts on the alignment of the bias that it sees, and must fit all: so it sees an
 * address that has no more than ALIGNMENT. */
static int choose(const struct gpt_lt *lt, struct plan *plan, const struct gpt_product *p)
{
    struct gpt_lt_choice choice = {.state = -1};
    struct gpt_product any = *p;
    int count = 0, rc = describe(lt, plan, p);

    if (p->bias != NULL)
        any.bias = (const char *)lt->workspace + ALIGNMENT;
    if (rc == 0)
        rc = point(lt, plan, &any);
    if (rc != 0)
        return rc;
    rc = lt->choose(lt->handle, plan->desc, plan->a, plan->b, plan->d, plan->d, lt->wish, 1,
                    &choice, &count);
    if (rc != 0 || count < 1 || choice.state != 0)
        return gpt_fail(PLD_ERR_UNSUPPORTED,
                        "cuBLASLt has no way to multiply %d x %d x %d with epilogue %d on this "
                        "GPU: cublasStatus_t %d",
                        p->m, p->n, p->k, p->epilogue, rc != 0 ? rc : choice.state);
    plan->algo = choice.algo;
    return 0;
}

/* A model has some thirty shapes, so that looking at them one by one is fast enough. */
static int plan_of(struct gpt_lt *lt, const struct gpt_product *p, const struct plan **out)
{
    struct plan plan = {.shape = *p};
    int rc;

    for (size_t i = 0; i < lt->plan_count; i++) {
        *out = &lt->plans[i];
        if (same_shape(&lt->plans[i].shape, p))
            return 0;
    }
    if (lt->plan_count == lt->plan_room) {
        const size_t room = lt->plan_room > 0 ? 2 * lt->plan_room : 32;
        struct plan *more = realloc(lt->plans, room * sizeof(*more));

        if (more == NULL)
            return gpt_fail(PLD_ERR_NOMEM, "no memory for the shapes of %zu products", room);
        lt->plans = more;
        lt->plan_room = room;
    }
    rc = choose(lt, &plan, p);
    if (rc != 0) {
        forget(lt, &plan);
        return rc;
    }
    lt->plans[lt->plan_count] = plan;
    *out = &lt->plans[lt->plan_count++];
    return 0;
}

int gpt_lt_multiply(struct gpt_lt *lt, const struct gpt_product *p, pld_stream stream)
{
    const float alpha = 1;
    const struct plan *plan = NULL;
    int rc = plan_of(lt, p, &plan);

    if (rc == 0)
        rc = point(lt, plan, p);
    if (rc != 0)
        return rc;
    return check(lt->multiply(lt->handle, plan->desc, &alpha, p->a, plan->a, p->b, plan->b,
                              &p->beta, p->beta != 0 ? p->c : p->d, plan->d, p->d, plan->d,
                              &plan->algo, lt->workspace, WORKSPACE, stream),
                 "cublasLtMatmul()");
}
