/* SPDX-FileCopyrightText: The polder authors */
/* SPDX-License-Identifier: Apache-2.0 */

/**
 * @file cuda_emulate_mma.h
 * nvcuda::wmma for emulated kernels.
 *
 * A lane holds every 32nd element of a tile, in an order of its own: as on a device, code may
 * only do the same to all elements of a fragment, or to two fragments of one kind pairwise.
 * Products are added in f32, k ascending; a device adds them in another order.
 */
#ifndef CUDA_EMULATE_MMA_H
#define CUDA_EMULATE_MMA_H

#include "cuda_emulate.h"

#define FAKE_WMMA_BEGIN                                                                            \
    namespace nvcuda                                                                               \
    {                                                                                              \
    namespace wmma                                                                                 \
    {
#define FAKE_WMMA_END                                                                              \
    }                                                                                              \
    }

FAKE_WMMA_BEGIN
struct matrix_a {
};
struct matrix_b {
};
struct accumulator {
};
struct row_major {
    enum { by_row = 1 };
};
struct col_major {
    enum { by_row = 0 };
};
enum layout_t { mem_row_major, mem_col_major };

/* Rows and columns of a tile of that use. */
template <class Use, int M, int N, int K> struct tile_of;
template <int M, int N, int K> struct tile_of<matrix_a, M, N, K> {
    enum { rows = M, columns = K };
};
template <int M, int N, int K> struct tile_of<matrix_b, M, N, K> {
    enum { rows = K, columns = N };
};
template <int M, int N, int K> struct tile_of<accumulator, M, N, K> {
    enum { rows = M, columns = N };
};

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    typedef T element_type;
    typedef tile_of<Use, M, N, K> tile;
    enum { elements = tile::rows * tile::columns, num_elements = elements / fake::WARP };
    T x[num_elements];
};

template <class F, class V> static inline void fill_fragment(F &f, V value)
{
    for (auto &x : f.x)
        x = (typename F::element_type)value;
}

/* Element e of a tile, by rows, in memory. */
template <class F> static inline size_t place_of(int e, bool by_row, unsigned stride)
{
    const unsigned row = (unsigned)e / F::tile::columns;
    const unsigned column = (unsigned)e % F::tile::columns;

    return by_row ? (size_t)row * stride + column : (size_t)column * stride + row;
}

template <class F, class T>
static inline void load_tile(F &f, const T *from, unsigned stride, bool by_row)
{
    __syncwarp();
    for (int i = 0; i < F::num_elements; i++)
        f.x[i] = from[place_of<F>(i * fake::WARP + fake::lane_number(), by_row, stride)];
    __syncwarp();
}

template <class Use, int M, int N, int K, class T, class Layout>
static inline void load_matrix_sync(fragment<Use, M, N, K, T, Layout> &f, const T *from,
                                    unsigned stride)
{
    load_tile(f, from, stride, Layout::by_row != 0);
}

template <int M, int N, int K, class T>
static inline void load_matrix_sync(fragment<accumulator, M, N, K, T> &f, const T *from,
                                    unsigned stride, layout_t layout)
{
    load_tile(f, from, stride, layout == mem_row_major);
}

template <int M, int N, int K, class T>
static inline void store_matrix_sync(T *to, const fragment<accumulator, M, N, K, T> &f,
                                     unsigned stride, layout_t layout)
{
    typedef fragment<accumulator, M, N, K, T> F;

    __syncwarp();
    for (int i = 0; i < F::num_elements; i++)
        to[place_of<F>(i * fake::WARP + fake::lane_number(), layout == mem_row_major, stride)] =
            f.x[i];
    __syncwarp();
}

/* What a lane brings to a product. */
template <class D, class A, class B, class C> struct product {
    D *d;
    const A *a;
    const B *b;
    const C *c;
};

/* Once all lanes are there: element e of a tile is with lane e % 32. */
template <class P, class D, class A, class B, class C>
static void multiply(fake::lane *const members[fake::WARP], unsigned)
{
    enum { ROWS = D::tile::rows, COLUMNS = D::tile::columns, DEPTH = A::tile::columns };
    P parts[fake::WARP];
    float a[A::elements];
    float b[B::elements];

    for (int k = 0; k < fake::WARP; k++) {
        const P *part = nullptr;

        memcpy(&part, members[k]->in, sizeof(part));
        parts[k] = *part;
    }
    for (int e = 0; e < A::elements; e++)
        a[e] = (float)parts[e % fake::WARP].a->x[e / fake::WARP];
    for (int e = 0; e < B::elements; e++)
        b[e] = (float)parts[e % fake::WARP].b->x[e / fake::WARP];
    for (int e = 0; e < D::elements; e++) {
        const P &part = parts[e % fake::WARP];
        float sum = (float)part.c->x[e / fake::WARP];

        for (int k = 0; k < DEPTH; k++)
            sum += a[e / COLUMNS * DEPTH + k] * b[k * COLUMNS + e % COLUMNS];
        part.d->x[e / fake::WARP] = (typename D::element_type)sum;
    }
}

/* d = a b + c; c may be d. */
template <class D, class A, class B, class C>
static inline void mma_sync(D &d, const A &a, const B &b, const C &c)
{
    typedef product<D, A, B, C> P;
    const P part = {&d, &a, &b, &c};
    const P *at = &part;

    memcpy(fake::self->in, &at, sizeof(at));
    fake::meet(0xffffffffU, multiply<P, D, A, B, C>);
}
FAKE_WMMA_END

#endif /* CUDA_EMULATE_MMA_H */
