// Four neighbouring columns of a row, read and written as widely as every row of that width is aligned: four elements at once where the
// width is a multiple of four, two where it is even, else one by one. A row is `base + index * width` with a base aligned to 16
// bytes. All threads of a launch have one width, so the choice never splits a warp.
#pragma once

#include "element.cuh"

struct Quad {
    float x[4];
};

// Quads that cover a row; the last may be partial.
__device__ __forceinline__ unsigned quads_of(unsigned width) {
    return (width + 3) / 4;
}

__device__ __forceinline__ float4 load_four(const float *from) {
    return *reinterpret_cast<const float4 *>(from);
}

__device__ __forceinline__ float4 load_four(const __half *from) {
    const uint2 words = *reinterpret_cast<const uint2 *>(from);
    const float2 low = unpack(words.x), high = unpack(words.y);
    return make_float4(low.x, low.y, high.x, high.y);
}

__device__ __forceinline__ float2 load_two(const float *from) {
    return *reinterpret_cast<const float2 *>(from);
}

__device__ __forceinline__ float2 load_two(const __half *from) {
    return unpack(*reinterpret_cast<const unsigned *>(from));
}

// By intrinsics: nvcc takes a plain store of a float4 apart, and does not always put it together again.
__device__ __forceinline__ void store_four(float *to, const Quad &q) {
    __stwb(reinterpret_cast<float4 *>(to), make_float4(q.x[0], q.x[1], q.x[2], q.x[3]));
}

__device__ __forceinline__ void store_four(__half *to, const Quad &q) {
    __stwb(reinterpret_cast<uint2 *>(to), make_uint2(pack(q.x[0], q.x[1]), pack(q.x[2], q.x[3])));
}

__device__ __forceinline__ void store_two(float *to, float first, float second) {
    __stwb(reinterpret_cast<float2 *>(to), make_float2(first, second));
}

__device__ __forceinline__ void store_two(__half *to, float first, float second) {
    __stwb(reinterpret_cast<unsigned *>(to), pack(first, second));
}

// Columns 4 * quad and on; those past the width are 0.
template <class Element> __device__ __forceinline__ Quad load_quad(const Element *row, unsigned quad, unsigned width) {
    const unsigned column = 4 * quad;
    Quad q;
    if (width % 4 == 0) {
        const float4 v = load_four(row + column);
        q.x[0] = v.x, q.x[1] = v.y, q.x[2] = v.z, q.x[3] = v.w;
    } else if (width % 2 == 0) {
        const float2 low = load_two(row + column);
        float2 high = make_float2(0.0f, 0.0f);
        if (column + 2 < width) high = load_two(row + column + 2);
        q.x[0] = low.x, q.x[1] = low.y, q.x[2] = high.x, q.x[3] = high.y;
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) q.x[i] = column + i < width ? widen(row[column + i]) : 0.0f;
    }
    return q;
}

// Columns past the width are not written.
template <class Element> __device__ __forceinline__ void store_quad(Element *row, unsigned quad, unsigned width, const Quad &q) {
    const unsigned column = 4 * quad;
    if (width % 4 == 0) {
        store_four(row + column, q);
    } else if (width % 2 == 0) {
        store_two(row + column, q.x[0], q.x[1]);
        if (column + 2 < width) store_two(row + column + 2, q.x[2], q.x[3]);
    } else {
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            if (column + i < width) row[column + i] = narrow<Element>(q.x[i]);
        }
    }
}

// A quad of a row in shared memory.
__device__ __forceinline__ Quad quad_at(const float *row, unsigned quad) {
    const float4 v = reinterpret_cast<const float4 *>(row)[quad];
    return {v.x, v.y, v.z, v.w};
}

__device__ __forceinline__ void put_quad(float *row, unsigned quad, const Quad &q) {
    reinterpret_cast<float4 *>(row)[quad] = make_float4(q.x[0], q.x[1], q.x[2], q.x[3]);
}

// A vector into shared memory by a block of so many threads, in whole quads.
template <unsigned BLOCK> __device__ __forceinline__ void load_vector(float *to, const float *from, unsigned width) {
    for (unsigned quad = threadIdx.x; quad < quads_of(width); quad += BLOCK) put_quad(to, quad, load_quad(from, quad, width));
}

__device__ __forceinline__ void add_quad(Quad &to, const Quad &from) {
#pragma unroll
    for (int i = 0; i < 4; i++) to.x[i] += from.x[i];
}
