// Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011), and dropout's masks drawn with it: the
// same words as src/random.rs and the same masks as src/ops/dropout.
#pragma once

#include "batch.cuh"
#include "quad.cuh"

__device__ __forceinline__ uint4 philox4x32(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned low0 = 0xD2511F53u * counter.x, high0 = __umulhi(0xD2511F53u, counter.x);
        const unsigned low1 = 0xCD9E8D57u * counter.z, high1 = __umulhi(0xCD9E8D57u, counter.z);
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// Inverted dropout of the four values of `quad` in a row of `quads`, the row counted from its sample's first. `word` is the
// counter's last: purpose, site and pass (`Mask::word` in src/ops/dropout).
__device__ __forceinline__ void drop(
    Quad &values, const Header &header, unsigned word, unsigned target, unsigned row, unsigned quads, unsigned quad) {
    if (!drops(header)) return;
    const uint4 counter = make_uint4(row * quads + quad, target, header.step, word);
    const uint4 drawn = philox4x32(counter, make_uint2(header.key[0], header.key[1]));
    values.x[0] = drawn.x < header.threshold ? values.x[0] * header.scale : 0.0f;
    values.x[1] = drawn.y < header.threshold ? values.x[1] * header.scale : 0.0f;
    values.x[2] = drawn.z < header.threshold ? values.x[2] * header.scale : 0.0f;
    values.x[3] = drawn.w < header.threshold ? values.x[3] * header.scale : 0.0f;
}
