/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Optimizer sweeps, one pass over all arrays, with the formulas of device_optim.inl.h and
 * optim_update.c.  The value of f16 and bf16 is always the rounded master; where it is not,
 * somebody else wrote it, and the master takes it over.
 */
#ifndef PLDI_CUDA_OPTIM_CUH
#define PLDI_CUDA_OPTIM_CUH

#include "cuda/cuda_vector.cuh"

static __device__ inline f32 root_of(f32 x)
{
    return sqrtf(x);
}

static __device__ inline f64 root_of(f64 x)
{
    return sqrt(x);
}

/* Factors in the precision of the update, each rounded once from f64. */
template <class W> struct adamw_rule {
    W grad_factor, decay_factor, beta1, rest1, beta2, rest2, step_size, sqrt_factor, eps;

    __device__ explicit adamw_rule(const pldi_cuda_sweep &a)
        : grad_factor((W)a.control->factor), decay_factor((W)a.sweep.decay_factor),
          beta1((W)a.sweep.beta1), rest1((W)(1 - a.sweep.beta1)), beta2((W)a.sweep.beta2),
          rest2((W)(1 - a.sweep.beta2)), step_size((W)a.control->step_size),
          sqrt_factor((W)a.control->sqrt_factor), eps((W)a.sweep.eps)
    {
    }

    __device__ void update(W &w, W g, W &first, W &second) const
    {
        const W grad = g * grad_factor;

        first = beta1 * first + rest1 * grad;
        second = beta2 * second + rest2 * (grad * grad);
        w = w * decay_factor - step_size * (first / (root_of(second) * sqrt_factor + eps));
    }
};

template <class W> struct sgd_rule {
    W grad_factor, decay_factor, lr, momentum;
    int has_momentum;

    __device__ explicit sgd_rule(const pldi_cuda_sweep &a)
        : grad_factor((W)a.control->factor), decay_factor((W)a.sweep.decay_factor),
          lr((W)a.sweep.lr), momentum((W)a.sweep.momentum), has_momentum(a.sweep.first != NULL)
    {
    }

    /* Without momentum f64 adds 0, which makes +0 of -0, and f32 does not: as on the host. */
    __device__ void update(W &w, W g, W &first, W &) const
    {
        const W before = has_momentum ? momentum * first : (W)0;
        W next = g * grad_factor;

        if (has_momentum || sizeof(W) == sizeof(f64))
            next = before + next;
        w = w * decay_factor - lr * next;
        first = next;
    }
};

/* Whether the value is what the master was rounded to; one without a master never is. */
template <class H> static __device__ inline bool is_rounded(H value, f32 master)
{
    H rounded;

    narrow(rounded, master);
    return rounded.bits == value.bits;
}

static __device__ inline bool is_rounded(f32, f32)
{
    return false;
}

static __device__ inline bool is_rounded(f64, f64)
{
    return false;
}

template <class V, class G, class Rule> struct sweep_work {
    typedef typename wide_of<V>::type W;
    enum { has_master = sizeof(V) < sizeof(W) };
    const pldi_device_sweep &s;
    const Rule rule;

    __device__ explicit sweep_work(const pldi_cuda_sweep &args) : s(args.sweep), rule(args)
    {
    }

    template <int N> __device__ static void load_slot(W (&x)[N], const void *slot, uint64_t i)
    {
        if (slot != NULL)
            load(x, static_cast<const W *>(slot) + i);
    }

    template <int N> __device__ static void store_slot(void *slot, const W (&x)[N], uint64_t i)
    {
        if (slot != NULL)
            store(static_cast<W *>(slot) + i, x);
    }

    template <int N> __device__ void start(W (&w)[N], const V (&value)[N], uint64_t i) const
    {
        W master[N] = {};

        if (has_master)
            load_slot(master, s.master, i);
#pragma unroll
        for (int k = 0; k < N; k++)
            w[k] = is_rounded(value[k], master[k]) ? master[k] : widen(value[k]);
    }

    template <int N> __device__ void at(uint64_t i) const
    {
        V value[N];
        G grad[N];
        const G zero[N] = {};
        W w[N];
        W first[N] = {};
        W second[N] = {};

        load(value, static_cast<const V *>(s.value) + i);
        load(grad, static_cast<const G *>(s.grad) + i);
        load_slot(first, s.first, i);
        load_slot(second, s.second, i);
        start(w, value, i);
#pragma unroll
        for (int k = 0; k < N; k++)
            rule.update(w[k], widen(grad[k]), first[k], second[k]);
#pragma unroll
        for (int k = 0; k < N; k++)
            narrow(value[k], w[k]);
        store(static_cast<V *>(s.value) + i, value);
        store(static_cast<G *>(s.grad) + i, zero);
        store_slot(s.first, first, i);
        store_slot(s.second, second, i);
        if (has_master)
            store_slot(s.master, w, i);
    }
};

template <class G> struct zero_work {
    G *grad;

    template <int N> __device__ void at(uint64_t i) const
    {
        const G zero[N] = {};

        store(grad + i, zero);
    }
};

template <class V, class G, class Rule>
static __device__ inline void sweep(const pldi_cuda_sweep &args)
{
    enum { N = 16 / (sizeof(V) < sizeof(G) ? sizeof(V) : sizeof(G)) };

    if (args.control->skip) {
        const zero_work<G> work = {static_cast<G *>(args.sweep.grad)};

        walk<N>(args.span, work);
    } else {
        walk<N>(args.span, sweep_work<V, G, Rule>(args));
    }
}

#define DEFINE_SWEEPS(value, grad, dtype, grad_dtype)                                              \
    KERNEL_BLOCKS(adamw_##value##_##grad, 3)                                                       \
    (const __grid_constant__ pldi_cuda_sweep args)                                                 \
    {                                                                                              \
        sweep<value, grad, adamw_rule<wide_of<value>::type>>(args);                                \
    }                                                                                              \
    KERNEL_BLOCKS(sgd_##value##_##grad, 3)                                                         \
    (const __grid_constant__ pldi_cuda_sweep args)                                                 \
    {                                                                                              \
        sweep<value, grad, sgd_rule<wide_of<value>::type>>(args);                                  \
    }
PLDI_CUDA_SWEPT(DEFINE_SWEEPS)

#endif /* PLDI_CUDA_OPTIM_CUH */
