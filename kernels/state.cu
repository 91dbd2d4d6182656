// On the samples' states, [S, 2d]; the rest of what happens to them is products and the readout.
//
//     tanh_backward    d *= 1 - state^2      through state = tanh(..), step 4
//     add_states       to += from            the gradients of both passes at the targets' embeddings
//
// A thread has four columns of one sample (quad.cuh), in registers.
//
// Launch: grid (ceil(samples * ceil(width / 4) / 256), 1, runs) of the capacity, block 256, no dynamic shared memory.
// Floor: memory, 12 * S * width bytes each; 3 and 1 FLOPs an element.

#include "batch.cuh"
#include "quad.cuh"

// Calls `change(to, from)` on a thread's four columns.
template <class Change>
__device__ __forceinline__ void change_states(
    float *to, const float *from, const Header *header, unsigned width, size_t run_stride, Change change) {
    const unsigned quads = quads_of(width), item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned sample = item / quads, quad = item % quads;
    if (sample >= of_run(header, run_stride)->samples) return;
    const size_t at = static_cast<size_t>(sample) * width;
    to = of_run(to, run_stride) + at;
    Quad values = load_quad(to, quad, width);
    const Quad others = load_quad(of_run(from, run_stride) + at, quad, width);
#pragma unroll
    for (int i = 0; i < 4; i++) values.x[i] = change(values.x[i], others.x[i]);
    store_quad(to, quad, width, values);
}

extern "C" __global__ void __launch_bounds__(256)
tanh_backward(
    float *__restrict__ d,              // [S, width]
    const float *__restrict__ state,    // [S, width]
    const Header *__restrict__ header,
    unsigned width,
    size_t run_stride) {
    change_states(d, state, header, width, run_stride, [](float d, float state) { return d * (1.0f - state * state); });
}

extern "C" __global__ void __launch_bounds__(256)
add_states(
    float *__restrict__ to,             // [S, width]
    const float *__restrict__ from,     // [S, width]
    const Header *__restrict__ header,
    unsigned width,
    size_t run_stride) {
    change_states(to, from, header, width, run_stride, [](float to, float from) { return to + from; });
}
