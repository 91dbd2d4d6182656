// The adversarial perturbation (eq. 6; src/ops/adversarial), from the gradients delta at the embeddings and delta Gram, which a matrix
// product made.
//
//     feature_norms    square(row) = max(0, delta . (delta Gram)), in float64
//                      history_scale[r], target_scale[s] = sqrt(square)
//                      squared_norm[s] = square(target s) + sum of square(row) over the rows of s
//     batch_norm       batch = sum of squared_norm[s]
//     perturb          scale = epsilon / norm, with norm by mode that of the sample, the utterance (the scale as it stands) or the batch;
//                      0 where the norm is 0 or the quotient no finite float; history[r] *= scale, target[s] *= scale, and what was
//                      not finite becomes 0: a step whose gradient overflows is skipped, and its loss is to be a number all the same
//
// history = delta Gram, then the displacement, [R, d] role-major; target [S, 2d]; history_scale [R], target_scale [S] float;
// squared_norm [S], batch [1] double. The [R, d] are float, or f16 in the kernels `_f16`: e bytes an element, 4 or 2.
//
// feature_norms: a block has a sample, its warps rows in turn: the role-major rows of sample s are own[offset[s]..offset[s + 1]]. Squares
// of small gradients would underflow in float32. Turing has two float64 lanes an SM, so the root is taken for 128 rows at once, not row by
// row; the products take about 20 us at R = 12,000, d = 100. perturb: a block has 32 rows, for the same reason: one warp divides.
// batch_norm: one block has all samples, a thread every 256th.
//
// A lane's four columns of both factors and its part of a sum are in registers, sums float64. In shared memory: feature_norms the 128
// squares of its rows, then the tree of their sum (1 KiB); batch_norm the tree (2 KiB); perturb the 32 scales (128 bytes).
//
// Launch, no dynamic shared memory; counts are capacities:
//     feature_norms: grid (samples, 1, runs), block 128
//     batch_norm:    grid (1, 1, runs), block 256
//     perturb:       grid (ceil(max(rows, samples) / 32), 2, runs), block 256; blockIdx.y is 0 for the history and 1 for the targets
// Floor: memory. Bytes: feature_norms R * 2d e + S * 16d, perturb the same; batch_norm 8 * S, a launch. Norms, scales and indices, some
// words a row, are not counted. FLOPs: feature_norms 2 * (R d + 2 S d), in float64; perturb a multiplication an element, R d + 2 S d;
// batch_norm S in float64.

#include "batch.cuh"
#include "quad.cuh"
#include "warp.cuh"

constexpr unsigned NORM_BLOCK = 128;
constexpr unsigned PERTURB_ROWS = 32;

// Over what the gradient is normalised: the order of `AdversarialNorm`.
constexpr unsigned SAMPLE = 0, UTTERANCE = 1;

template <class Element> __device__ __forceinline__ double dot(const Element *a, const Element *b, unsigned width) {
    double sum = 0.0;
    const unsigned lane = threadIdx.x % 32, quads = quads_of(width);
    for (unsigned quad = lane; quad < quads; quad += 32) {
        const Quad x = load_quad(a, quad, width), y = load_quad(b, quad, width);
#pragma unroll
        for (int i = 0; i < 4; i++) sum += static_cast<double>(x.x[i]) * static_cast<double>(y.x[i]);
    }
    return warp_sum(sum);
}

// The sum of `size` values that the threads hold, in the order of a tree. `shared` has room for all.
template <unsigned size> __device__ __forceinline__ double block_sum(double *shared, double value) {
    shared[threadIdx.x] = value;
    for (unsigned half = size / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
    return shared[0];
}

namespace generic {

template <class Element>
__device__ __forceinline__ void feature_norms(
    float *__restrict__ history_scale,      // [R]
    float *__restrict__ target_scale,       // [S]
    double *__restrict__ squared_norm,      // [S]
    const Element *__restrict__ history,    // [R, d] role-major: delta Gram
    const float *__restrict__ target,       // [S, 2d]
    const Element *__restrict__ d_history,  // [R, d] role-major: delta
    const float *__restrict__ d_target,     // [S, 2d]
    const unsigned *__restrict__ own,       // [R]
    const unsigned *__restrict__ offset,    // [S + 1]
    const Header *__restrict__ header,
    unsigned d,
    size_t run_stride) {
    __shared__ double squares[NORM_BLOCK];
    const unsigned sample = blockIdx.x, thread = threadIdx.x;
    if (sample >= of_run(header, run_stride)->samples) return;
    offset = of_run(offset, run_stride);
    const unsigned first = offset[sample], n = offset[sample + 1] - first;
    own = of_run(own, run_stride) + first;
    history = of_run(history, run_stride);
    d_history = of_run(d_history, run_stride);
    const size_t at_target = static_cast<size_t>(sample) * 2 * d;

    double sum = 0.0;
    // The window's rows, and behind them the target.
    for (unsigned begin = 0; begin <= n; begin += NORM_BLOCK) {
        const unsigned count = min(NORM_BLOCK, n + 1 - begin);
        for (unsigned i = thread / 32; i < count; i += NORM_BLOCK / 32) {
            double square;
            if (begin + i < n) {
                const size_t at = static_cast<size_t>(own[begin + i]) * d;
                square = dot(d_history + at, history + at, d);
            } else {
                square = dot(of_run(d_target, run_stride) + at_target, of_run(target, run_stride) + at_target, 2 * d);
            }
            // Rounding can leave a hair below zero. A NaN stays one: fmax would hide it.
            if (thread % 32 == 0) squares[i] = square < 0.0 ? 0.0 : square;
        }
        __syncthreads();
        if (thread < count) {
            const float norm = static_cast<float>(sqrt(squares[thread]));
            sum += squares[thread];
            if (begin + thread < n) {
                of_run(history_scale, run_stride)[own[begin + thread]] = norm;
            } else {
                of_run(target_scale, run_stride)[sample] = norm;
            }
        }
        __syncthreads();
    }
    sum = block_sum<NORM_BLOCK>(squares, sum);
    if (thread == 0) of_run(squared_norm, run_stride)[sample] = sum;
}

}  // namespace generic

#define FEATURE_NORMS(Element, suffix)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(NORM_BLOCK) feature_norms##suffix(                                                     \
        float *__restrict__ history_scale, float *__restrict__ target_scale, double *__restrict__ squared_norm,                         \
        const Element *__restrict__ history, const float *__restrict__ target, const Element *__restrict__ d_history,                   \
        const float *__restrict__ d_target, const unsigned *__restrict__ own, const unsigned *__restrict__ offset,                      \
        const Header *__restrict__ header, unsigned d, size_t run_stride) {                                                             \
        generic::feature_norms(history_scale, target_scale, squared_norm, history, target, d_history, d_target, own, offset, header,    \
            d, run_stride);                                                                                                             \
    }

FOR_ELEMENTS(FEATURE_NORMS)

extern "C" __global__ void __launch_bounds__(256)
batch_norm(
    double *__restrict__ batch,                 // [1]
    const double *__restrict__ squared_norm,    // [S]
    const Header *__restrict__ header,
    size_t run_stride) {
    __shared__ double sums[256];
    const unsigned samples = of_run(header, run_stride)->samples;
    if (samples == 0) return;
    squared_norm = of_run(squared_norm, run_stride);
    double sum = 0.0;
    for (unsigned sample = threadIdx.x; sample < samples; sample += 256) sum += squared_norm[sample];
    sum = block_sum<256>(sums, sum);
    if (threadIdx.x == 0) *of_run(batch, run_stride) = sum;
}

namespace generic {

template <class Element>
__device__ __forceinline__ void perturb(
    Element *__restrict__ history,            // [R, d] role-major
    float *__restrict__ target,               // [S, 2d]
    float *__restrict__ history_scale,        // [R]: norm, then epsilon / norm
    float *__restrict__ target_scale,         // [S]: the same
    const double *__restrict__ squared_norm,  // [S]
    const double *__restrict__ batch,         // [1]
    const unsigned *__restrict__ sample_of,   // [R]
    const Header *__restrict__ header,
    unsigned mode,
    unsigned d,
    size_t run_stride) {
    __shared__ float scales[PERTURB_ROWS];
    header = of_run(header, run_stride);
    const bool of_history = blockIdx.y == 0;
    const unsigned rows = of_history ? header->rows : header->samples, begin = blockIdx.x * PERTURB_ROWS;
    if (begin >= rows) return;
    const unsigned count = min(PERTURB_ROWS, rows - begin);
    if (threadIdx.x < count) {
        const unsigned row = begin + threadIdx.x;
        float *to = (of_history ? of_run(history_scale, run_stride) : of_run(target_scale, run_stride)) + row;
        double norm;
        if (mode == UTTERANCE) {
            norm = static_cast<double>(*to);
        } else if (mode == SAMPLE) {
            const unsigned sample = of_history ? of_run(sample_of, run_stride)[row] : row;
            norm = sqrt(of_run(squared_norm, run_stride)[sample]);
        } else {
            norm = sqrt(*of_run(batch, run_stride));
        }
        // Zero too where the quotient is beyond the precision: such a gradient has no digits left to point with.
        const float scale = static_cast<float>(static_cast<double>(header->epsilon) / norm);
        const float used = norm > 0.0 && isfinite(scale) ? scale : 0.0f;
        scales[threadIdx.x] = used;
        *to = used;
    }
    __syncthreads();
    const unsigned width = of_history ? d : 2 * d, quads = quads_of(width);
    const auto displace = [&](auto *displacement) {
        for (unsigned item = threadIdx.x; item < count * quads; item += 256) {
            const unsigned row = item / quads, quad = item % quads;
            auto *to = displacement + static_cast<size_t>(begin + row) * width;
            Quad values = load_quad(to, quad, width);
            const float scale = scales[row];
#pragma unroll
            for (int i = 0; i < 4; i++) values.x[i] = isfinite(values.x[i]) ? values.x[i] * scale : 0.0f;
            store_quad(to, quad, width, values);
        }
    };
    if (of_history) {
        displace(of_run(history, run_stride));
    } else {
        displace(of_run(target, run_stride));
    }
}

}  // namespace generic

#define PERTURB(Element, suffix)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) perturb##suffix(                                                                  \
        Element *__restrict__ history, float *__restrict__ target, float *__restrict__ history_scale,                                   \
        float *__restrict__ target_scale, const double *__restrict__ squared_norm, const double *__restrict__ batch,                    \
        const unsigned *__restrict__ sample_of, const Header *__restrict__ header, unsigned mode, unsigned d, size_t run_stride) {      \
        generic::perturb(history, target, history_scale, target_scale, squared_norm, batch, sample_of, header, mode, d, run_stride);    \
    }

FOR_ELEMENTS(PERTURB)
