// The way forward through a GRU's time, in one launch.
//
//     r = sigmoid(x_r + U_r h + b_r)
//     z = sigmoid(x_z + U_z h + b_z)
//     n = tanh(x_n + r (U_n h + b_n))
//     h = (1 - z) n + z h                          h starts at zero
//
// That is PyTorch's GRU, its gates in PyTorch's order. The products of the inputs are made before, for all steps at once:
//     x       [steps, batch, 3 H] f32   W x + b_ih: gates r, z, n
//     u       [3 H, H] f16              the recurrent weights U, rows of r, z, n
//     bias    [3 H] f32                 b_hh
//     lengths [batch] i32               steps of each sample, 0 to `steps`
//     out     [steps, batch, H] f32     h after each step; zeros after a sample's last, where x is not read
//
// Tile: a block takes 8 samples through all their steps. The product of a step is U [3 H, H] times h [H, 8]: each warp makes
// 16 units of it, with the rows of r, z and n, so that the three gates of a unit meet in one thread.
//
// What lives where:
//     registers       U, as fragments of A, for all steps (6 words for each 8 of H: 78 a thread with H = 100); h in f32; the
//                     next step's x
//     shared memory   h in f16, twice: a step reads one and writes the other, so that it has one barrier. Rows of a sample,
//                     padded by 8 halves against bank conflicts; units from H on are zero
//
// h is rounded to f16 where it enters the product, and nowhere else.
//
// Launch: grid ceil(batch / 8), block 32 ceil(H / 16): 64, 128 and 224 threads for H = 32, 64 and 100.
// Registers on sm_75 (nvcc 13.0): 91, 116 and 139, no spills.

#include "tensor_core.cuh"

constexpr int SAMPLES = 8;

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// Near 0 the error is one of 1, not of the result: h is summed up from it anyway.
__device__ __forceinline__ float hyperbolic_tangent(float x) {
    const float small = expf(-2.0f * fabsf(x));
    return copysignf((1.0f - small) / (1.0f + small), x);
}

// Columns `column` and `column + 1` of a row of the recurrent weights, zeros outside. H is even: a pair is in or out.
template <int H> __device__ __forceinline__ unsigned load_weights(const __half *u, int gate, int unit, int column) {
    static_assert(H % 2 == 0, "pairs are read as one word");
    if (unit >= H || column >= H) return 0;
    return *reinterpret_cast<const unsigned *>(u + (gate * H + unit) * H + column);
}

template <int H>
__device__ __forceinline__ void gru_forward(const float *__restrict__ x, const __half *__restrict__ u, const float *__restrict__ bias,
                                            const int *__restrict__ lengths, float *__restrict__ out, int steps, int batch) {
    constexpr int WARPS = (H + 15) / 16;
    constexpr int DEPTHS = (H + 7) / 8;
    // An odd multiple of 16 bytes.
    constexpr int ROW = WARPS * 16 + 8;
    __shared__ alignas(16) __half state[2][SAMPLES][ROW];

    const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
    const int first_sample = blockIdx.x * SAMPLES;
    // A thread's four results of each product, by the index i of C's words: unit and sample.
    const int first_unit = threadIdx.x / 32 * 16 + group;
    const auto unit_of = [&](int i) { return first_unit + i / 2 * 8; };
    const auto sample_of = [&](int i) { return pair * 2 + i % 2; };

    unsigned weights[3][DEPTHS][2];
    float biases[3][2];
#pragma unroll
    for (int gate = 0; gate < 3; gate++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int unit = first_unit + half * 8;
            biases[gate][half] = unit < H ? bias[gate * H + unit] : 0.0f;
#pragma unroll
            for (int depth = 0; depth < DEPTHS; depth++) {
                weights[gate][depth][half] = load_weights<H>(u, gate, unit, depth * 8 + pair * 2);
            }
        }
    }

    // All threads of the block need the longest sample's length, and each the lengths of its two samples.
    int longest = 0, length[2] = {0, 0};
#pragma unroll
    for (int sample = 0; sample < SAMPLES; sample++) {
        const int of_sample = first_sample + sample < batch ? lengths[first_sample + sample] : 0;
        longest = max(longest, of_sample);
        if (sample / 2 == pair) length[sample % 2] = of_sample;
    }

    __half *const whole = &state[0][0][0];
    for (int i = threadIdx.x; i < 2 * SAMPLES * ROW; i += WARPS * 32) whole[i] = __float2half(0.0f);
    float h[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float inputs[3][4];
    const auto fetch = [&](int step) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const bool wanted = step < length[i % 2] && unit_of(i) < H;
            const float *from = x + (static_cast<size_t>(step) * batch + first_sample + sample_of(i)) * 3 * H + unit_of(i);
#pragma unroll
            for (int gate = 0; gate < 3; gate++) inputs[gate][i] = wanted ? from[gate * H] : 0.0f;
        }
    };
    fetch(0);
    __syncthreads();

    for (int step = 0; step < longest; step++) {
        const __half(*before)[ROW] = state[step % 2];
        __half(*after)[ROW] = state[(step + 1) % 2];
        float sums[3][4];
#pragma unroll
        for (int gate = 0; gate < 3; gate++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sums[gate][i] = biases[gate][i / 2];
        }
        // Four pieces of depth 8 at once, the rest one by one.
#pragma unroll
        for (int depth = 0; depth + 4 <= DEPTHS; depth += 4) {
            unsigned words[4];
            load_four_matrices(words, &before[lane % 8][(depth + lane / 8) * 8]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int gate = 0; gate < 3; gate++) {
                    multiply_add(sums[gate], weights[gate][depth + i][0], weights[gate][depth + i][1], words[i]);
                }
            }
        }
#pragma unroll
        for (int depth = DEPTHS / 4 * 4; depth < DEPTHS; depth++) {
            unsigned word;
            load_matrix(word, &before[lane % 8][depth * 8]);
#pragma unroll
            for (int gate = 0; gate < 3; gate++) {
                multiply_add(sums[gate], weights[gate][depth][0], weights[gate][depth][1], word);
            }
        }

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float r = sigmoid(inputs[0][i] + sums[0][i]);
            const float z = sigmoid(inputs[1][i] + sums[1][i]);
            const float n = hyperbolic_tangent(inputs[2][i] + r * sums[2][i]);
            const bool runs = step < length[i % 2];
            // A sample that is over keeps its h, which nobody reads. Units from H on stay at zero: n is 0 for them.
            if (runs) h[i] = (1.0f - z) * n + z * h[i];
            after[sample_of(i)][unit_of(i)] = __float2half(h[i]);
            if (first_sample + sample_of(i) < batch && unit_of(i) < H) {
                out[(static_cast<size_t>(step) * batch + first_sample + sample_of(i)) * H + unit_of(i)] = runs ? h[i] : 0.0f;
            }
        }
        fetch(step + 1);
        // What this step has written is whole, and what it has read may be written by the next.
        __syncthreads();
    }
    for (int step = longest; step < steps; step++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (first_sample + sample_of(i) < batch && unit_of(i) < H) {
                out[(static_cast<size_t>(step) * batch + first_sample + sample_of(i)) * H + unit_of(i)] = 0.0f;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(64)
gru_forward_32(const float *__restrict__ x, const __half *__restrict__ u, const float *__restrict__ bias,
               const int *__restrict__ lengths, float *__restrict__ out, int steps, int batch) {
    gru_forward<32>(x, u, bias, lengths, out, steps, batch);
}

extern "C" __global__ void __launch_bounds__(128)
gru_forward_64(const float *__restrict__ x, const __half *__restrict__ u, const float *__restrict__ bias,
               const int *__restrict__ lengths, float *__restrict__ out, int steps, int batch) {
    gru_forward<64>(x, u, bias, lengths, out, steps, batch);
}

extern "C" __global__ void __launch_bounds__(224)
gru_forward_100(const float *__restrict__ x, const __half *__restrict__ u, const float *__restrict__ bias,
                const int *__restrict__ lengths, float *__restrict__ out, int steps, int batch) {
    gru_forward<100>(x, u, bias, lengths, out, steps, batch);
}
