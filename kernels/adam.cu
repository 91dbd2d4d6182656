// Adam (Kingma & Ba, 2015; src/ops/adam), and the loss scale of mixed precision.
//
//     gradient_finite    state.overflow |= some gradient is no finite number
//     adam_begin         t += 1 unless state.overflow; step size lr / (1 - b1^t) and correction sqrt(1 - b2^t) in float64, then float
//     adam               m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  p -= size * (m / (sqrt(v) / correction + epsilon)),
//                        with g = gradient / scale; nothing at all when the step overflowed
//     loss_scale         scale / 2 after an overflow, at least 1; * 2 after 2000 steps without one, at most 2^24; overflow = 0
//
// In this order, once a step; of a run without a batch nothing changes. Without a loss scale (null in adam_begin) the first and the last
// are not launched, and g = gradient. The moments and the update are rounded as the CPU rounds them, with no fused multiply-add, so that
// equal gradients give equal bits.
//
// All state is on the device, by run, so that a captured graph counts its steps: `Adam` (48 bytes) and `LossScale` (12 bytes), as below.
// The first float of a LossScale is what the classifier multiplies the gradient of the loss with. The learning rate is the header's.
//
// A thread has four parameters, in registers from one 16-byte load to one store of each buffer: pointers are aligned to that. Nothing is
// in shared memory.
//
// Launch, no dynamic shared memory: gradient_finite and adam grid (ceil(count / 1024), 1, runs), block 256; adam_begin and loss_scale
// grid (1, 1, runs), block 1.
// Floor: memory. Bytes: adam 28 * count, gradient_finite 4 * count; about 12 FLOPs a parameter hide behind them. The others are a launch.

#include "batch.cuh"
#include "warp.cuh"

struct Adam {
    unsigned long long updates;  // t, the only field that must be set at first: to 0, or to a checkpoint's
    // What adam_begin leaves for adam.
    float size, correction, epsilon;
    float beta1, beta2, rest1, rest2;  // rest = 1 - beta
    float inverse_scale;
    unsigned skip;
};

struct LossScale {
    float scale;
    unsigned good;      // steps since it changed
    unsigned overflow;  // of this step
};

constexpr unsigned GOOD_STEPS = 2000;
constexpr float SMALLEST_SCALE = 1.0f, LARGEST_SCALE = 16777216.0f;

extern "C" __global__ void __launch_bounds__(256)
gradient_finite(
    LossScale *__restrict__ state,
    const float *__restrict__ gradient,    // [count]
    const Header *__restrict__ header,
    unsigned count,
    size_t run_stride) {
    if (is_idle(*of_run(header, run_stride))) return;
    const unsigned first = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    gradient = of_run(gradient, run_stride) + first;
    bool overflow = false;
    if (first + 4 <= count) {
        const float4 g = *reinterpret_cast<const float4 *>(gradient);
        overflow = !(isfinite(g.x) && isfinite(g.y) && isfinite(g.z) && isfinite(g.w));
    } else {
        for (unsigned i = first; i < count; i++) overflow |= !isfinite(gradient[i - first]);
    }
    if (__any_sync(ALL_LANES, overflow) && threadIdx.x % 32 == 0) atomicOr(&of_run(state, run_stride)->overflow, 1u);
}

extern "C" __global__ void adam_begin(
    Adam *__restrict__ adam,
    const LossScale *__restrict__ state,    // or null
    const Header *__restrict__ header,
    double beta1,
    double beta2,
    double epsilon,
    size_t run_stride) {
    adam = of_run(adam, run_stride);
    state = of_run_or_null(state, run_stride);
    header = of_run(header, run_stride);
    adam->skip = is_idle(*header) || (state && state->overflow);
    if (adam->skip) return;
    const unsigned long long number = adam->updates + 1;
    const double t = static_cast<double>(number), learning_rate = header->learning_rate;
    adam->updates = number;
    adam->size = static_cast<float>(learning_rate / (1.0 - pow(beta1, t)));
    adam->correction = static_cast<float>(sqrt(1.0 - pow(beta2, t)));
    adam->epsilon = static_cast<float>(epsilon);
    adam->beta1 = static_cast<float>(beta1);
    adam->beta2 = static_cast<float>(beta2);
    adam->rest1 = static_cast<float>(1.0 - beta1);
    adam->rest2 = static_cast<float>(1.0 - beta2);
    // A power of two: exact.
    adam->inverse_scale = state ? 1.0f / state->scale : 1.0f;
}

// The intrinsics keep the compiler from fusing.
__device__ __forceinline__ void update(const Adam &adam, float gradient, float &parameter, float &first, float &second) {
    const float g = gradient * adam.inverse_scale;
    first = __fadd_rn(__fmul_rn(adam.beta1, first), __fmul_rn(adam.rest1, g));
    second = __fadd_rn(__fmul_rn(adam.beta2, second), __fmul_rn(__fmul_rn(adam.rest2, g), g));
    const float root = __fadd_rn(__fdiv_rn(__fsqrt_rn(second), adam.correction), adam.epsilon);
    parameter = __fsub_rn(parameter, __fmul_rn(adam.size, __fdiv_rn(first, root)));
}

extern "C" __global__ void __launch_bounds__(256)
adam(
    float *__restrict__ parameters,          // [count]
    float *__restrict__ first,               // [count]: m
    float *__restrict__ second,              // [count]: v
    const float *__restrict__ gradient,      // [count]
    const Adam *__restrict__ state,
    unsigned count,
    size_t run_stride) {
    const unsigned begin = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    state = of_run(state, run_stride);
    // What a run that has made no update yet has left is nothing.
    if (begin >= count || state->skip) return;
    const Adam adam = *state;
    parameters = of_run(parameters, run_stride) + begin;
    first = of_run(first, run_stride) + begin;
    second = of_run(second, run_stride) + begin;
    gradient = of_run(gradient, run_stride) + begin;
    if (begin + 4 <= count) {
        float4 p = *reinterpret_cast<float4 *>(parameters);
        float4 m = *reinterpret_cast<float4 *>(first);
        float4 v = *reinterpret_cast<float4 *>(second);
        const float4 g = *reinterpret_cast<const float4 *>(gradient);
        update(adam, g.x, p.x, m.x, v.x);
        update(adam, g.y, p.y, m.y, v.y);
        update(adam, g.z, p.z, m.z, v.z);
        update(adam, g.w, p.w, m.w, v.w);
        *reinterpret_cast<float4 *>(parameters) = p;
        *reinterpret_cast<float4 *>(first) = m;
        *reinterpret_cast<float4 *>(second) = v;
    } else {
        for (unsigned i = 0; i < count - begin; i++) update(adam, gradient[i], parameters[i], first[i], second[i]);
    }
}

extern "C" __global__ void loss_scale(LossScale *__restrict__ state, const Header *__restrict__ header, size_t run_stride) {
    if (is_idle(*of_run(header, run_stride))) return;
    state = of_run(state, run_stride);
    if (state->overflow) {
        state->scale = fmaxf(state->scale * 0.5f, SMALLEST_SCALE);
        state->good = 0;
    } else if (++state->good == GOOD_STEPS) {
        state->scale = fminf(state->scale * 2.0f, LARGEST_SCALE);
        state->good = 0;
    }
    state->overflow = 0;
}
