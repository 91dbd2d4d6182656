// What a step does with weights alone beside products of them (src/ops/projection).
//
//     round_weights    to = from, rounded to f16: what the rows of a batch are multiplied with in mixed precision
//
// It is made anew in each step, of the parameters and of their products at once, so that a copy is never older than what it is made of,
// wherever that comes from (an update, a checkpoint): at the paper's size 11 MB move in it, a thousandth of a step.
//
// A thread has four values, in registers from one 16-byte load to one 8-byte store; nothing is in shared memory. Pointers are aligned
// to 16 bytes.
//
// Launch: grid (ceil(count / 1024), 1, runs), block 256, no dynamic shared memory.
// Floor: memory, 6 * count bytes: float in, f16 out. No FLOPs, a conversion a value.

#include "batch.cuh"
#include "quad.cuh"

extern "C" __global__ void __launch_bounds__(256) round_weights(
    __half *__restrict__ to,         // [count]
    const float *__restrict__ from,  // [count]
    const Header *__restrict__ header,
    unsigned count,
    size_t run_stride) {
    if (is_idle(*of_run(header, run_stride))) return;
    const unsigned first = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
    to = of_run(to, run_stride) + first;
    from = of_run(from, run_stride) + first;
    if (first + 4 <= count) {
        const float4 four = load_four(from);
        store_four(to, {four.x, four.y, four.z, four.w});
    } else {
        for (unsigned i = 0; first + i < count; i++) to[i] = narrow<__half>(from[i]);
    }
}
