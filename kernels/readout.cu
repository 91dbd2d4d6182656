// The attended history read into the state (step 4; src/ops/readout), between two products with W_V: w = W_V q comes in, e goes out
// to c = W_V^T e.
//
//     readout             y = G w         a = softmax(P y)        p = P^T a       e = G^T p
//     readout_backward    d_p = G d_e     d_b = a * (P d_p - a . P d_p)           d_y = P^T d_b
//                         d_P = a outer d_p + d_b outer y         d_g = p outer d_e + d_y outer w         d_w = d_y G
//
// G [n, 2d] is the sample's part of g [R, 2d] sample-major, P its n x n block; w, e, d_e, d_w [S, 2d]; y, a, p [R] are saved. d_P and d_g
// are overwritten. An empty window gives e = 0 and d_w = 0. G, P and their gradients are float, or f16 in the kernels `_f16`: s bytes
// an element, 4 or 2. The others are float, and so are all sums.
//
// A block has a sample. Its warps take rows in turn: a row times a vector is a dot of the warp's lanes, a vector times the matrix
// a sum in each lane's registers over the warp's rows, then over the eight warps in order. Vectors are in shared memory. Each
// direction reads G and P twice, the second time mostly from L1 and L2, and the outer products are written as their rows come by.
//
// This is for windows that window_attention.cu and window_attention_f32.cu have no room for.
//
// Launch: grid (samples, 1, runs) of the capacity, block 256. Dynamic shared memory in bytes, with W = 2d rounded up to a multiple of
// four and N the longest window:
//     readout            4 * (W + 8 * max(N, W) + 3 * N)
//     readout_backward   4 * (2 * W + 8 * max(N, W) + 6 * N)
// Floor: memory. Bytes, with P values in all blocks together: readout (2 R d + P) s + S * 16d + 12 R, backward 2 (2 R d + P) s + S * 24d
// + 12 R; and, not counted, what of G and P has left the caches between its two readings. FLOPs: readout 4 (2 R d + P), backward
// 8 (2 R d + P), an element of an outer product counting as two multiply-adds.

#include "quad.cuh"
#include "softmax.cuh"
#include "warp.cuh"
#include "window.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned BLOCK = 32 * WARPS;
// Quads of a row that a lane sums at once: 4 * 32 * 4 columns.
constexpr unsigned HELD = 4;

extern __shared__ float4 shared_memory[];

// A row of the arrays, padded to whole quads.
__device__ __forceinline__ unsigned padded(unsigned width) {
    return 4 * quads_of(width);
}

// to[i] = row i of g . x
template <class Element>
__device__ __forceinline__ void dots_of_rows(float *to, const Element *g, const float *x, unsigned n, unsigned width) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, quads = quads_of(width);
    for (unsigned i = warp; i < n; i += WARPS) {
        const Element *row = g + static_cast<size_t>(i) * width;
        float sum = 0.0f;
#pragma unroll 2
        for (unsigned quad = lane; quad < quads; quad += 32) {
            const Quad a = load_quad(row, quad, width);
            const float4 b = *reinterpret_cast<const float4 *>(x + 4 * quad);
            sum += a.x[0] * b.x + a.x[1] * b.y + a.x[2] * b.z + a.x[3] * b.w;
        }
        sum = warp_sum(sum);
        if (lane == 0) to[i] = sum;
    }
}

// to[i] = row i of the n x n block . x
template <class Element>
__device__ __forceinline__ void dots_of_pairs(float *to, const Element *block, const float *x, unsigned n) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned i = warp; i < n; i += WARPS) {
        float sum = 0.0f;
#pragma unroll 2
        for (unsigned j = lane; j < n; j += 32) sum += widen(block[static_cast<size_t>(i) * n + j]) * x[j];
        sum = warp_sum(sum);
        if (lane == 0) to[i] = sum;
    }
}

// partial[warp][j] = sum of x[i] * block[i][j] over the warp's rows, and each element handed to `visit` as it is read.
template <class Element, class Visit>
__device__ __forceinline__ void sum_of_pairs(float *partial, const Element *block, const float *x, unsigned n, Visit visit) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned j = lane; j < n; j += 32) {
        float sum = 0.0f;
#pragma unroll 4
        for (unsigned i = warp; i < n; i += WARPS) {
            sum += x[i] * widen(block[static_cast<size_t>(i) * n + j]);
            visit(i, j);
        }
        partial[warp * n + j] = sum;
    }
}

// partial[warp][column] = sum of x[i] * g[i][column] over the warp's rows, and each quad's place handed to `visit`.
template <class Element, class Visit>
__device__ __forceinline__ void sum_of_rows(float *partial, const Element *g, const float *x, unsigned n, unsigned width,
                                            Visit visit) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, quads = quads_of(width);
    for (unsigned begin = 0; begin < quads; begin += 32 * HELD) {
        Quad sums[HELD] = {};
        for (unsigned i = warp; i < n; i += WARPS) {
            const Element *row = g + static_cast<size_t>(i) * width;
            const float factor = x[i];
#pragma unroll
            for (unsigned k = 0; k < HELD; k++) {
                const unsigned quad = begin + lane + 32 * k;
                if (quad >= quads) continue;
                const Quad values = load_quad(row, quad, width);
#pragma unroll
                for (int c = 0; c < 4; c++) sums[k].x[c] += factor * values.x[c];
            }
#pragma unroll
            for (unsigned k = 0; k < HELD; k++) {
                const unsigned quad = begin + lane + 32 * k;
                if (quad < quads) visit(i, quad);
            }
        }
#pragma unroll
        for (unsigned k = 0; k < HELD; k++) {
            const unsigned quad = begin + lane + 32 * k;
            if (quad >= quads) continue;
            *reinterpret_cast<float4 *>(partial + warp * padded(width) + 4 * quad) =
                make_float4(sums[k].x[0], sums[k].x[1], sums[k].x[2], sums[k].x[3]);
        }
    }
}

// The sum of column j over the warps, in order.
__device__ __forceinline__ float total(const float *partial, unsigned stride, unsigned j) {
    float sum = partial[j];
#pragma unroll
    for (unsigned warp = 1; warp < WARPS; warp++) sum += partial[warp * stride + j];
    return sum;
}

// Four blocks fill an SM of Turing: 64 registers a thread.
namespace generic {

template <class Element>
__device__ __forceinline__ void readout(
    float *__restrict__ e,                      // [S, 2d]
    float *__restrict__ y,                      // [R]
    float *__restrict__ a,                      // [R]
    float *__restrict__ p,                      // [R]
    const float *__restrict__ w,                // [S, 2d]
    const Element *__restrict__ g,              // [R, 2d] sample-major
    const Element *__restrict__ probabilities,  // n x n by sample
    const unsigned *__restrict__ pairs,         // [S + 1]
    const unsigned *__restrict__ offset,        // [S + 1]
    const Header *__restrict__ header,
    unsigned width,                             // 2d
    unsigned longest,                           // N
    size_t run_stride) {
    if (blockIdx.x >= of_run(header, run_stride)->samples) return;
    const Window window = window_of(pairs, offset, width, run_stride);
    if (window.n == 0) return clear_sample(e, window);
    const unsigned n = window.n, thread = threadIdx.x;
    e = window.sample(e);
    float *vector = reinterpret_cast<float *>(shared_memory);      // [W]
    float *partial = vector + padded(width);                       // [8, max(N, W)]
    float *y_here = partial + WARPS * max(longest, padded(width)); // [N]
    float *scores = y_here + longest;                              // [N]: P y, then P^T a
    float *a_here = scores + longest;                              // [N]
    g = window.rows(g);
    const Element *block = window.block(probabilities);
    y = window.values(y);
    a = window.values(a);
    p = window.values(p);

    load_vector<BLOCK>(vector, window.sample(w), width);
    __syncthreads();
    dots_of_rows(y_here, g, vector, n, width);
    __syncthreads();
    dots_of_pairs(scores, block, y_here, n);
    __syncthreads();
    const Softmax softmax(scores, n);
    for (unsigned j = thread; j < n; j += BLOCK) {
        a_here[j] = softmax[j];
        a[j] = a_here[j];
        y[j] = y_here[j];
    }
    __syncthreads();
    sum_of_pairs(partial, block, a_here, n, [](unsigned, unsigned) {});
    __syncthreads();
    for (unsigned j = thread; j < n; j += BLOCK) {
        scores[j] = total(partial, n, j);
        p[j] = scores[j];
    }
    __syncthreads();
    sum_of_rows(partial, g, scores, n, width, [](unsigned, unsigned) {});
    __syncthreads();
    for (unsigned column = thread; column < width; column += BLOCK) e[column] = total(partial, padded(width), column);
}

}  // namespace generic

#define READOUT(Element, suffix)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(BLOCK, 4) readout##suffix(                                                             \
        float *__restrict__ e, float *__restrict__ y, float *__restrict__ a, float *__restrict__ p, const float *__restrict__ w,        \
        const Element *__restrict__ g, const Element *__restrict__ probabilities, const unsigned *__restrict__ pairs,                   \
        const unsigned *__restrict__ offset, const Header *__restrict__ header, unsigned width, unsigned longest, size_t run_stride) {  \
        generic::readout(e, y, a, p, w, g, probabilities, pairs, offset, header, width, longest, run_stride);                           \
    }

FOR_ELEMENTS(READOUT)

namespace generic {

template <class Element>
__device__ __forceinline__ void readout_backward(
    Element *__restrict__ d_probabilities,      // n x n by sample
    Element *__restrict__ d_g,                  // [R, 2d] sample-major
    float *__restrict__ d_w,                    // [S, 2d]
    const float *__restrict__ d_e,              // [S, 2d]
    const float *__restrict__ y,                // [R]
    const float *__restrict__ a,                // [R]
    const float *__restrict__ p,                // [R]
    const float *__restrict__ w,                // [S, 2d]
    const Element *__restrict__ g,              // [R, 2d] sample-major
    const Element *__restrict__ probabilities,  // n x n by sample
    const unsigned *__restrict__ pairs,         // [S + 1]
    const unsigned *__restrict__ offset,        // [S + 1]
    const Header *__restrict__ header,
    unsigned width,                             // 2d
    unsigned longest,                           // N
    size_t run_stride) {
    if (blockIdx.x >= of_run(header, run_stride)->samples) return;
    const Window window = window_of(pairs, offset, width, run_stride);
    if (window.n == 0) return clear_sample(d_w, window);
    const unsigned n = window.n, thread = threadIdx.x;
    d_w = window.sample(d_w);
    float *d_e_here = reinterpret_cast<float *>(shared_memory);    // [W]
    float *w_here = d_e_here + padded(width);                      // [W]
    float *partial = w_here + padded(width);                       // [8, max(N, W)]
    float *y_here = partial + WARPS * max(longest, padded(width)); // [N]
    float *a_here = y_here + longest;                              // [N]
    float *p_here = a_here + longest;                              // [N]
    float *d_p = p_here + longest;                                 // [N]
    float *d_b = d_p + longest;                                    // [N]
    float *d_y = d_b + longest;                                    // [N]: P d_p, then P^T d_b
    g = window.rows(g);
    d_g = window.rows(d_g);
    const Element *block = window.block(probabilities);
    Element *d_block = window.block(d_probabilities);
    y = window.values(y);
    a = window.values(a);
    p = window.values(p);

    load_vector<BLOCK>(d_e_here, window.sample(d_e), width);
    load_vector<BLOCK>(w_here, window.sample(w), width);
    for (unsigned j = thread; j < n; j += BLOCK) {
        y_here[j] = y[j];
        a_here[j] = a[j];
        p_here[j] = p[j];
    }
    __syncthreads();
    dots_of_rows(d_p, g, d_e_here, n, width);
    __syncthreads();
    dots_of_pairs(d_y, block, d_p, n);
    __syncthreads();
    float dot = 0.0f;
    for (unsigned j = thread % 32; j < n; j += 32) dot += a_here[j] * d_y[j];
    dot = warp_sum(dot);
    for (unsigned j = thread; j < n; j += BLOCK) d_b[j] = a_here[j] * (d_y[j] - dot);
    __syncthreads();
    sum_of_pairs(partial, block, d_b, n, [=](unsigned i, unsigned j) {
        d_block[static_cast<size_t>(i) * n + j] = narrow<Element>(a_here[i] * d_p[j] + d_b[i] * y_here[j]);
    });
    __syncthreads();
    for (unsigned j = thread; j < n; j += BLOCK) d_y[j] = total(partial, n, j);
    __syncthreads();
    sum_of_rows(partial, g, d_y, n, width, [=](unsigned i, unsigned quad) {
        const float4 d_e = *reinterpret_cast<const float4 *>(d_e_here + 4 * quad);
        const float4 w = *reinterpret_cast<const float4 *>(w_here + 4 * quad);
        const float along_e = p_here[i], along_w = d_y[i];
        Quad values;
        values.x[0] = along_e * d_e.x + along_w * w.x;
        values.x[1] = along_e * d_e.y + along_w * w.y;
        values.x[2] = along_e * d_e.z + along_w * w.z;
        values.x[3] = along_e * d_e.w + along_w * w.w;
        store_quad(d_g + static_cast<size_t>(i) * width, quad, width, values);
    });
    __syncthreads();
    for (unsigned column = thread; column < width; column += BLOCK) d_w[column] = total(partial, padded(width), column);
}

}  // namespace generic

#define READOUT_BACKWARD(Element, suffix)                                                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK, 4) readout_backward##suffix(                                                    \
        Element *__restrict__ d_probabilities, Element *__restrict__ d_g, float *__restrict__ d_w, const float *__restrict__ d_e,       \
        const float *__restrict__ y, const float *__restrict__ a, const float *__restrict__ p, const float *__restrict__ w,             \
        const Element *__restrict__ g, const Element *__restrict__ probabilities, const unsigned *__restrict__ pairs,                   \
        const unsigned *__restrict__ offset, const Header *__restrict__ header, unsigned width, unsigned longest, size_t run_stride) {  \
        generic::readout_backward(d_probabilities, d_g, d_w, d_e, y, a, p, w, g, probabilities, pairs, offset, header, width, longest,  \
            run_stride);                                                                                                                \
    }

FOR_ELEMENTS(READOUT_BACKWARD)
