// The recurrent part of a bidirectional GRU over sequences of different lengths: all steps in one launch, forward and backward.
//
//     r = sigmoid(x_r + h W_hr + b_hr)      z = sigmoid(x_z + h W_hz + b_hz)
//     hn = h W_hn + b_hn                    n = tanh(x_n + r hn)
//     h' = (1 - z) n + z h                  h starts at zero
//
// and backward, from a sequence's last step to its first, with dh the gradient at h' from outside and from the step after:
//
//     dz = dh (h - n) z (1 - z)             dn = dh (1 - z) (1 - n^2)
//     dr = dn hn r (1 - r)                  dhn = dn r
//     dh_before = dh z + [dr, dz, dhn] W_hh
//
// The input products x = input W_ih + b_ih of all rows are one GEMM before, the gradients of the weights GEMMs behind.
//
//     header      whose sequences[first_group + group] is how many sequences a group has
//     start       [groups, capacity]  first row of each sequence, sequences from the longest to the shortest
//     length      [groups, capacity]
//     parameters  the run's, with W_hh and b_hh where `places` says; in `_f16` W_hh is read as `gru_fragments` has laid it out
//     saved       [R, 8 d]            columns r0 z0 n0 | r1 z1 n1 | hn0 | hn1, each d wide, 0 the direction forward in time.
//                                     Forward: in, x in r, z, n; out, the activations r, z, n, and hn.
//                                     Backward: out, the gradients dr, dz, dn and dhn, in place.
//     hidden      [R, 2 d]            h' of both directions
//     d_hidden    [R, 2 d]            gradient from outside (backward only)
//
// These three are float32 in the kernels `_f32` and f16 in the kernels `_f16`, e bytes an element, 4 or 2; parameters are float32 in
// either, W_hh's fragments f16.
//
// Nothing of a row that belongs to no sequence is read or written, nor anything behind the sequences there are.
//
// Launch, all kernels: grid (ceil(capacity / tile), 2 groups, runs), blockIdx.y = 2 group + direction. Blocks without sequences
// return at once. Tiles, block sizes and shared memory are below. A block keeps its sequences through all steps, so no
// block waits for another; sums are made in a fixed order.
//
// Tile: 16 sequences of one direction in float32, 8 on tensor cores, where the kernels `x2` have two tiles a block. The state, backward
// the gradients at the gates, is in shared memory, and W_hh as far as registers (`_f16`) and shared memory hold it, else in L2; sums are
// float32, in registers.
//
// Floor: R rows in all sequences, both directions. Bytes: R * 16d e forward (6d of x in; 8d of gates and hn, 2d of h out), R * 20d e
// backward (8d of gates and hn, 2d of h, 2d of d_hidden in; 8d of gradients out), and 6 d^2 e a group for W_hh once; biases and starts
// are not counted. FLOPs 12 R d^2 either way, in `_f16` on tensor cores; of the gates, not counted, about 20 R d and 6 R d elementary
// functions forward, 34 R d backward. With 616 GB/s for 68 SMs, an SM's 64 fma or 512 tensor-core FLOPs a cycle, memory bounds in float32
// up to about d = 116 forward and 145 backward, on tensor cores up to 230 forward and at any d backward. Beside that a sequence's steps
// wait for one another: no launch is shorter than its longest. By step and tile: below.

#include "gru.cuh"
#include "tensor_core.cuh"

// Launch shapes: what a host must know. Bytes are of dynamic shared memory; more than 48 KiB has to be asked for.

// The widest d.
constexpr int WIDEST = 256;

__host__ __device__ constexpr int round_up(int value, int multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

// In float32.
constexpr int F32_TILE = 16;
constexpr int F32_DEPTH = 16;  // of a chunk of W_hh: 4 for each lane of a quad

// Forward: a warp takes 4 units at a time, all three gates of them. At most 25 warps, so that a thread may have 80 registers; where that
// is not enough, several times, all warps alike.
constexpr int F32_FORWARD_UNITS = 4;
constexpr int F32_FORWARD_WARPS = 25;
__host__ __device__ constexpr int f32_forward_threads(int d) {
    const int shares = (d + F32_FORWARD_UNITS - 1) / F32_FORWARD_UNITS;
    const int passes = (shares + F32_FORWARD_WARPS - 1) / F32_FORWARD_WARPS;
    return (shares + passes - 1) / passes * 32;
}
// Distance of two sequences' states in floats: an odd multiple of 4, so that the eight sequences of which a warp finishes the same 4 units
// meet different banks.
__host__ __device__ constexpr int f32_forward_stride(int d) {
    return round_up(d, 16) + 4;
}
// Shared memory that a launch must give, and how much more for each chunk of W_hh to be held; no chunk is held in part.
__host__ __device__ constexpr unsigned f32_forward_bytes(int d) {
    return 2 * F32_TILE * f32_forward_stride(d) * 4;
}
__host__ __device__ constexpr unsigned f32_forward_chunk_bytes(int d) {
    return 3 * d * F32_DEPTH * 4;
}

// Backward: a warp makes 32 columns of [dr, dz, dhn] W_hh, over every `slices`-th chunk of the depth 3 d.
__host__ __device__ constexpr int f32_backward_chunks(int d) {
    return round_up(3 * d, F32_DEPTH) / F32_DEPTH;
}
__host__ __device__ constexpr int f32_backward_columns(int d) {
    return round_up(d, 32) / 32;
}
__host__ __device__ constexpr int f32_backward_slices(int d) {
    return 12 / f32_backward_columns(d) < f32_backward_chunks(d) ? 12 / f32_backward_columns(d) : f32_backward_chunks(d);
}
// Chunks of a slice that its warps have in registers, and how many of all then are left.
constexpr int F32_BACKWARD_OWN = 2;
__host__ __device__ constexpr int f32_backward_chunks_beside(int d) {
    const int own = F32_BACKWARD_OWN * f32_backward_slices(d);
    return own < f32_backward_chunks(d) ? f32_backward_chunks(d) - own : 0;
}
__host__ __device__ constexpr int f32_backward_threads(int d) {
    return 32 * f32_backward_columns(d) * f32_backward_slices(d);
}
// Distance of two sequences' carries.
__host__ __device__ constexpr int f32_backward_stride(int d) {
    return round_up(d, 8);
}
__host__ __device__ constexpr unsigned f32_backward_bytes(int d) {
    return F32_TILE * (round_up(3 * d, F32_DEPTH) + f32_backward_slices(d) * f32_backward_stride(d)) * 4;
}
// Distance of two rows of W_hh in shared memory: 2 more than a multiple of 8, so that a quad's four rows, 4 apart, meet four groups of
// banks.
__host__ __device__ constexpr int f32_backward_held_stride(int d) {
    return round_up(d - 2, 8) + 2;
}
__host__ __device__ constexpr unsigned f32_backward_chunk_bytes(int d) {
    return F32_DEPTH * f32_backward_held_stride(d) * 4;
}

static_assert(f32_forward_bytes(WIDEST) <= 65536 && f32_backward_bytes(WIDEST) <= 65536, "what a block may have on sm_75");

// On tensor cores.
constexpr int F16_TILE = 8;

__host__ __device__ constexpr int f16_warps(int d) {
    return round_up(d, 16) / 16;
}
__host__ __device__ constexpr int f16_threads(int d) {
    return 32 * f16_warps(d);
}
// Depth of a gate in pieces.
__host__ __device__ constexpr int f16_depths(int d) {
    return round_up(d, 8) / 8;
}
// Distance of two sequences in halves: an odd multiple of 8, so that the rows of `ldmatrix` meet different banks; four pieces are read
// at once.
__host__ __device__ constexpr int f16_forward_row(int d) {
    return round_up(d, 32) + 8;
}
__host__ __device__ constexpr int f16_backward_row(int d) {
    return round_up(3 * f16_depths(d) * 8, 32) + 8;
}
// Shared memory that a launch must give to a block of so many tiles, and more for each piece of every warp that is held there.
__host__ __device__ constexpr unsigned f16_forward_bytes(int d, int tiles) {
    return 2 * tiles * F16_TILE * f16_forward_row(d) * 2 + 3 * round_up(d, 16) * 4;
}
__host__ __device__ constexpr unsigned f16_backward_bytes(int d, int tiles) {
    return 2 * tiles * F16_TILE * f16_backward_row(d) * 2;
}
__host__ __device__ constexpr unsigned f16_piece_bytes(int d) {
    return 256 * f16_warps(d);
}
// Pieces that the kernels for d = 50, 100, 150 and 200 hold in shared memory; the ones for any d as many as the launch gives memory for,
// up to all 3 f16_depths(d).
constexpr int F16_FORWARD_SHARED[4] = {0, 12, 21, 16};
constexpr int F16_BACKWARD_SHARED[4] = {0, 12, 18, 13};
// The same of d = 200 in blocks of two tiles.
constexpr int F16_FORWARD_SHARED_X2 = 14, F16_BACKWARD_SHARED_X2 = 7;

// ---------------------------------------------------------------------------------------------------------------------------------
// float32
//
// Tile: 16 sequences, one direction. A quad of lanes makes the products of the same outputs, each lane for a quarter of the depth: a
// quad's lanes read W_hh in PyTorch's layout by whole sectors, and each value of the state serves 3 products (forward; backward 4).
// The quad's sums are then split by sequences: each lane finishes a quarter of them. Forward a quad has half of the 16, backward all.
// Lanes n and n ^ 1 read the same of the state: what all such pairs share Turing reads from shared memory in half of the passes.
//
// W_hh is read from shared memory for as much of the depth as the launch gives memory for, from L2 beyond that: in 64 KiB all of it
// forward at d = 50, at d = 100 two chunks of seven. Backward registers hold all of it up to d = 64, at d = 100 six chunks of nineteen, and
// shared memory three.
//
// Floor by step and tile: 2 * 16 * 3 d^2 FLOPs (at d = 100 and 64 fma a cycle 7500 cycles), DRAM 16 * 4 * (8 d forward, 10 d backward)
// bytes (at d = 100 8700 and 10900 cycles of an SM's share of 616 GB/s), and what of 12 d^2 bytes is not in shared memory from L2. So
// memory is what it waits for: what a step reads is fetched into L2 while the product of the step before is made.
//
// Registers on sm_75 (nvcc 13.0): forward 72, backward 161, no spills; one block an SM where the shared memory is used up.

extern __shared__ float4 dynamic_shared[];

// Four values of a row, of which `count` are the row's; zeros behind. VECTOR is how many the row's address is aligned for.
template <int VECTOR> __device__ __forceinline__ float4 load_four(const float *from, int count) {
    if (count >= 4) {
        if constexpr (VECTOR == 4) {
            return *reinterpret_cast<const float4 *>(from);
        } else if constexpr (VECTOR == 2) {
            const float2 a = reinterpret_cast<const float2 *>(from)[0], b = reinterpret_cast<const float2 *>(from)[1];
            return make_float4(a.x, a.y, b.x, b.y);
        } else {
            return make_float4(from[0], from[1], from[2], from[3]);
        }
    }
    return make_float4(count > 0 ? from[0] : 0.0f, count > 1 ? from[1] : 0.0f, count > 2 ? from[2] : 0.0f, 0.0f);
}

__device__ __forceinline__ void multiply_add(float &sum, const float4 &a, const float4 &b) {
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    sum = fmaf(a.w, b.w, sum);
}

// Which quarter of the depth is a lane's, and which of the warp's 8 quads it belongs to. Lanes n and n ^ 1 are of two quads.
__device__ __forceinline__ int quarter_of_quad() {
    return threadIdx.x / 2 % 4;
}
__device__ __forceinline__ int quad_of_warp() {
    return threadIdx.x % 2 + threadIdx.x % 32 / 8 * 2;
}

// Sums over a quad. The lane of quarter q is left with those of sequences q, q + 4 and so on.
template <int SEQUENCES>
__device__ __forceinline__ void sum_over_quad(const float (&part)[SEQUENCES], float (&sum)[SEQUENCES / 4]) {
    const bool upper = quarter_of_quad() & 2, odd = quarter_of_quad() & 1;
    float half[SEQUENCES / 2];
#pragma unroll
    for (int i = 0; i < SEQUENCES / 2; i++) {
        const float low = part[i / 2 * 4 + i % 2], high = part[i / 2 * 4 + 2 + i % 2];
        half[i] = (upper ? high : low) + __shfl_xor_sync(0xffffffffu, upper ? low : high, 4);
    }
#pragma unroll
    for (int i = 0; i < SEQUENCES / 4; i++) {
        const float low = half[2 * i], high = half[2 * i + 1];
        sum[i] = (odd ? high : low) + __shfl_xor_sync(0xffffffffu, odd ? low : high, 2);
    }
}

// Sequences of a quad forward: four, and those eight further.
constexpr int F32_FORWARD_SEQUENCES = F32_TILE / 2;
__device__ __forceinline__ int f32_forward_sequence(int first, int i) {
    return first + i / 4 * 8 + i % 4;
}

// Adds h W_hh at a unit, all gates, over the lane's part of the depth. `state` is that of the quad's first sequence.
template <int VECTOR>
__device__ __forceinline__ void f32_forward_product(float (&sums)[3][F32_FORWARD_SEQUENCES], const float *state, const float *held,
                                                    int chunks_held, const float *weight, int unit, int d) {
    const int quarter = quarter_of_quad();
    const int stride = f32_forward_stride(d);
    // Units from d on are made like the last one, and not used.
    const int last = min(unit, d - 1);
    int chunk = 0;
#pragma unroll 1
    for (; chunk * F32_DEPTH + 4 < d; chunk++) {
        const int depth = chunk * F32_DEPTH + quarter * 4;
        float4 weights[3];
        if (chunk < chunks_held) {
#pragma unroll
            for (int gate = 0; gate < 3; gate++) {
                const int row = gate * d + last;
                weights[gate] = *reinterpret_cast<const float4 *>(held + (chunk * 3 * d + row) * F32_DEPTH + quarter * 4);
            }
        } else {
#pragma unroll
            for (int gate = 0; gate < 3; gate++) {
                weights[gate] = load_four<VECTOR>(weight + (gate * d + last) * d + depth, d - depth);
            }
        }
#pragma unroll
        for (int s = 0; s < F32_FORWARD_SEQUENCES; s++) {
            const float4 h = *reinterpret_cast<const float4 *>(state + f32_forward_sequence(0, s) * stride + depth);
#pragma unroll
            for (int gate = 0; gate < 3; gate++) multiply_add(sums[gate][s], weights[gate], h);
        }
    }
    // Of a last chunk with a value for each lane, no lane multiplies four. The state behind d is zero.
    const int depth = chunk * F32_DEPTH + quarter;
    if (chunk * F32_DEPTH < d) {
        float weights[3];
#pragma unroll
        for (int gate = 0; gate < 3; gate++) {
            const int row = gate * d + last;
            const float *const from = chunk < chunks_held ? held + (chunk * 3 * d + row) * F32_DEPTH + quarter : weight + row * d + depth;
            weights[gate] = depth < d ? *from : 0.0f;
        }
#pragma unroll
        for (int s = 0; s < F32_FORWARD_SEQUENCES; s++) {
            const float h = state[f32_forward_sequence(0, s) * stride + depth];
#pragma unroll
            for (int gate = 0; gate < 3; gate++) sums[gate][s] = fmaf(weights[gate], h, sums[gate][s]);
        }
    }
}

// Shared memory: h twice [2, 16, stride]: a step reads one and writes the other, so that it has one barrier; then chunks of W_hh
// [chunk, 3 d, 16]. Registers: the sums of 3 rows and 8 sequences.
//
// Launch: f32_forward_threads(d), f32_forward_bytes(d) and up to ceil(d / 16) times f32_forward_chunk_bytes(d) more.
extern "C" __global__ void __launch_bounds__(32 * F32_FORWARD_WARPS)
gru_forward_f32(const Header *header, const unsigned *start, const unsigned *length, const float *parameters, const GruPlaces places,
                float *saved, float *hidden, int first_group, int capacity, int d, size_t run_stride) {
    const Share share(header, start, length, parameters, places, first_group, capacity, d, run_stride, F32_TILE);
    if (share.first >= share.sequences) return;
    saved = of_run(saved, run_stride) + share.gates;
    float *const saved_hn = saved - share.gates + share.hn;
    hidden = of_run(hidden, run_stride) + share.hidden;

    const int stride = f32_forward_stride(d);
    float *const states = reinterpret_cast<float *>(dynamic_shared);
    float *const held = states + 2 * F32_TILE * stride;
    const int chunks = round_up(d, F32_DEPTH) / F32_DEPTH;
    const int chunks_held = min(chunks, static_cast<int>((dynamic_shared_bytes() - f32_forward_bytes(d)) / f32_forward_chunk_bytes(d)));
    for (int i = threadIdx.x; i < 2 * F32_TILE * stride; i += blockDim.x) states[i] = 0.0f;
    for (int i = threadIdx.x; i < chunks_held * 3 * d * F32_DEPTH; i += blockDim.x) {
        const int depth = i / (3 * d * F32_DEPTH) * F32_DEPTH + i % F32_DEPTH, row = i / F32_DEPTH % (3 * d);
        held[i] = depth < d ? share.weight[row * d + depth] : 0.0f;
    }
    const size_t address = reinterpret_cast<size_t>(share.weight);
    const int vector = d % 4 == 0 && address % 16 == 0 ? 4 : d % 2 == 0 && address % 8 == 0 ? 2 : 1;

    // Of the 8 quads the first 4 have one half of the sequences, the others the other one.
    const int unit_of_warp = quad_of_warp() % F32_FORWARD_UNITS, quarter = quarter_of_quad();
    const int first_sequence = quad_of_warp() / F32_FORWARD_UNITS * 4;
    constexpr int FINISHED = F32_FORWARD_SEQUENCES / 4;
    Rows rows[FINISHED];
#pragma unroll
    for (int i = 0; i < FINISHED; i++) rows[i] = Rows(share, f32_forward_sequence(first_sequence, i * 4 + quarter));
    const int longest = share.longest();
    __syncthreads();

    for (int step = 0; step < longest; step++) {
        const float *const before = states + step % 2 * F32_TILE * stride;
        float *const after = states + (step + 1) % 2 * F32_TILE * stride;
        for (int pass = threadIdx.x / 32 * F32_FORWARD_UNITS; pass < d; pass += blockDim.x / 32 * F32_FORWARD_UNITS) {
            const int unit = pass + unit_of_warp;
            // What the next step will read comes to L2 meanwhile: one lane asks for 8 units that lie side by side, its warp's and the next's.
            if (unit % 8 == 0) {
#pragma unroll
                for (int i = 0; i < FINISHED; i++) {
                    if (step + 1 >= rows[i].length) continue;
                    const float *const next = saved + rows[i].at(share, step + 1) * 8 * d;
#pragma unroll
                    for (int gate = 0; gate < 3; gate++) prefetch(next + gate * d + unit);
                }
            }

            float sums[3][F32_FORWARD_SEQUENCES];
#pragma unroll
            for (int i = 0; i < 3 * F32_FORWARD_SEQUENCES; i++) sums[i / F32_FORWARD_SEQUENCES][i % F32_FORWARD_SEQUENCES] = 0.0f;
            // The state before the first step is zero.
            if (step > 0) {
                const float *const state = before + first_sequence * stride;
                if (vector == 4) {
                    f32_forward_product<4>(sums, state, held, chunks_held, share.weight, unit, d);
                } else if (vector == 2) {
                    f32_forward_product<2>(sums, state, held, chunks_held, share.weight, unit, d);
                } else {
                    f32_forward_product<1>(sums, state, held, chunks_held, share.weight, unit, d);
                }
            }
            float product[3][FINISHED];
#pragma unroll
            for (int gate = 0; gate < 3; gate++) sum_over_quad(sums[gate], product[gate]);

            if (unit < d) {
                const float bias_r = share.bias[unit], bias_z = share.bias[d + unit], bias_n = share.bias[2 * d + unit];
#pragma unroll
                for (int i = 0; i < FINISHED; i++) {
                    if (step >= rows[i].length) continue;
                    const int state = f32_forward_sequence(first_sequence, i * 4 + quarter) * stride + unit;
                    const size_t row = rows[i].at(share, step);
                    float *const gates = saved + row * 8 * d + unit;
                    const float r = sigmoid(gates[0] + (product[0][i] + bias_r));
                    const float z = sigmoid(gates[d] + (product[1][i] + bias_z));
                    const float hn = product[2][i] + bias_n;
                    const float n = hyperbolic_tangent(fmaf(r, hn, gates[2 * d]));
                    const float h = fmaf(z, before[state] - n, n);
                    after[state] = h;
                    gates[0] = r;
                    gates[d] = z;
                    gates[2 * d] = n;
                    saved_hn[row * 8 * d + unit] = hn;
                    hidden[row * 2 * d + unit] = h;
                }
            }
        }
        // The next step reads what this one wrote, and writes over what this one read.
        __syncthreads();
    }
}

// Shared memory: [dr, dz, dhn] of the step [16, 3 d rounded up to 16]; the carries, one for each slice of the depth [slices, 16, stride],
// of which the first also holds dh z; then chunks of W_hh [chunk, 16, held stride]. Registers: the sums of 4 columns and 16 sequences, and
// each slice's first chunks of W_hh.
// Two barriers a step: the gradients are whole before the product, the carries before the step before.
//
// Launch: f32_backward_threads(d), f32_backward_bytes(d) and up to f32_backward_chunks_beside(d) times f32_backward_chunk_bytes(d) more.
extern "C" __global__ void __launch_bounds__(384)
gru_backward_f32(const Header *header, const unsigned *start, const unsigned *length, const float *parameters, const GruPlaces places,
                 float *saved, const float *hidden, const float *d_hidden, int first_group, int capacity, int d, size_t run_stride) {
    const Share share(header, start, length, parameters, places, first_group, capacity, d, run_stride, F32_TILE);
    if (share.first >= share.sequences) return;
    saved = of_run(saved, run_stride) + share.gates;
    float *const saved_hn = saved - share.gates + share.hn;
    hidden = of_run(hidden, run_stride) + share.hidden;
    d_hidden = of_run(d_hidden, run_stride) + share.hidden;

    const int depth = round_up(3 * d, F32_DEPTH), stride = f32_backward_stride(d), slices = f32_backward_slices(d);
    const int held_stride = f32_backward_held_stride(d);
    float *const gradients = reinterpret_cast<float *>(dynamic_shared);
    float *const carries = gradients + F32_TILE * depth;
    float *const held = carries + slices * F32_TILE * stride;
    const int chunks = f32_backward_chunks(d);
    const int chunks_held = min(f32_backward_chunks_beside(d),
                                static_cast<int>((dynamic_shared_bytes() - f32_backward_bytes(d)) / f32_backward_chunk_bytes(d)));
    // Sequences that have not begun, and the depth from 3 d on, are zeros.
    for (int i = threadIdx.x; i < F32_TILE * (depth + slices * stride); i += blockDim.x) gradients[i] = 0.0f;
    for (int i = threadIdx.x; i < chunks_held * F32_DEPTH * d; i += blockDim.x) {
        const int at = F32_BACKWARD_OWN * slices * F32_DEPTH * d + i;
        held[i / d * held_stride + i % d] = at < 3 * d * d ? share.weight[at] : 0.0f;
    }

    // The gates: threads of a sequence side by side.
    const int beside = blockDim.x / F32_TILE;
    const int sequence = threadIdx.x / beside;
    const Rows rows(share, sequence);
    // The product.
    const int columns = f32_backward_columns(d);
    const int slice = threadIdx.x / 32 / columns, quarter = quarter_of_quad();
    const int first_column = threadIdx.x / 32 % columns * 32 + quad_of_warp();
    // Columns from d on are made like the last one, and not used.
    int column_of[4];
#pragma unroll
    for (int i = 0; i < 4; i++) column_of[i] = min(first_column + i * 8, d - 1);
    // A chunk's weights by column, along the depth.
    const auto read_weights = [&](float4 (&weights)[4], int chunk) {
        const int first = chunk * F32_DEPTH + quarter * 4;
        const float *const from = share.weight + first * d;
        // Rows that the last chunk lacks.
        const int left = 3 * d - first;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *const top = from + column_of[i];
            weights[i] = make_float4(left > 0 ? __ldg(top) : 0.0f, left > 1 ? __ldg(top + d) : 0.0f, left > 2 ? __ldg(top + 2 * d) : 0.0f,
                                     left > 3 ? __ldg(top + 3 * d) : 0.0f);
        }
    };
    float4 own[F32_BACKWARD_OWN][4];
#pragma unroll
    for (int i = 0; i < F32_BACKWARD_OWN; i++) read_weights(own[i], slice + i * slices);
    const int longest = share.longest();
    __syncthreads();

    for (int step = longest - 1;; step--) {
        if (step < rows.length) {
            const size_t row = rows.at(share, step);
            float *const gates = saved + row * 8 * d, *const at_hn = saved_hn + row * 8 * d;
            const float *const from_outside = d_hidden + row * 2 * d;
            const size_t row_before = step > 0 ? rows.at(share, step - 1) : 0;
            const float *const before = hidden + row_before * 2 * d;
            // What the step before will read comes to L2 meanwhile.
            if (step > 0) {
                const float *const next = saved + row_before * 8 * d, *const next_hn = saved_hn + row_before * 8 * d;
                const float *const next_outside = d_hidden + row_before * 2 * d;
                const float *const next_before = hidden + (step > 1 ? rows.at(share, step - 2) : row_before) * 2 * d;
                for (int u = threadIdx.x % beside * 8; u < d; u += beside * 8) {
                    prefetch(next + u);
                    prefetch(next + d + u);
                    prefetch(next + 2 * d + u);
                    prefetch(next_hn + u);
                    prefetch(next_outside + u);
                    prefetch(next_before + u);
                }
            }
#pragma unroll 2
            for (int u = threadIdx.x % beside; u < d; u += beside) {
                float dh = from_outside[u];
                for (int i = 0; i < slices; i++) dh += carries[(i * F32_TILE + sequence) * stride + u];
                const GateGradients gradient =
                    gate_gradients(dh, gates[u], gates[d + u], gates[2 * d + u], at_hn[u], step > 0 ? before[u] : 0.0f);
                gates[u] = gradient.r;
                gates[d + u] = gradient.z;
                gates[2 * d + u] = gradient.n;
                at_hn[u] = gradient.hn;
                gradients[sequence * depth + u] = gradient.r;
                gradients[sequence * depth + d + u] = gradient.z;
                gradients[sequence * depth + 2 * d + u] = gradient.hn;
                carries[sequence * stride + u] = gradient.h;
            }
        }
        if (step == 0) break;
        __syncthreads();

        float sums[4][F32_TILE];
#pragma unroll
        for (int i = 0; i < 4 * F32_TILE; i++) sums[i / F32_TILE][i % F32_TILE] = 0.0f;
        const auto multiply = [&](int chunk, const float4 (&weights)[4]) {
            const float *const from = gradients + chunk * F32_DEPTH + quarter * 4;
#pragma unroll
            for (int s = 0; s < F32_TILE; s++) {
                const float4 gradient = *reinterpret_cast<const float4 *>(from + s * depth);
#pragma unroll
                for (int i = 0; i < 4; i++) multiply_add(sums[i][s], weights[i], gradient);
            }
        };
#pragma unroll
        for (int i = 0; i < F32_BACKWARD_OWN; i++) {
            if (slice + i * slices < chunks) multiply(slice + i * slices, own[i]);
        }
#pragma unroll 1
        for (int chunk = slice + F32_BACKWARD_OWN * slices; chunk < chunks; chunk += slices) {
            float4 weights[4];
            const int at = chunk - F32_BACKWARD_OWN * slices;
            if (at < chunks_held) {
                const float *const from = held + (at * F32_DEPTH + quarter * 4) * held_stride;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float *const top = from + column_of[i];
                    weights[i] = make_float4(top[0], top[held_stride], top[2 * held_stride], top[3 * held_stride]);
                }
            } else {
                read_weights(weights, chunk);
            }
            multiply(chunk, weights);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float sum[4];
            sum_over_quad(sums[i], sum);
            const int column = first_column + i * 8;
            if (column >= d) continue;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float *const carry = carries + (slice * F32_TILE + j * 4 + quarter) * stride + column;
                *carry = slice == 0 ? *carry + sum[j] : sum[j];
            }
        }
        __syncthreads();
    }
}

// ---------------------------------------------------------------------------------------------------------------------------------
// float16 operands on tensor cores, float32 sums
//
// Tile: 8 sequences, one direction. Each warp makes 16 units of it: forward the rows of r, z and n of W_hh [3 d, d] times h [d, 8], so
// that the three gates of a unit meet in one thread; backward the rows of W_hh^T [d, 3 d] times [dr, dz, dhn] [3 d, 8]. Rows g and g + 8
// of a fragment, which a thread has, are units 2 g and 2 g + 1: a thread finishes 4 states, two neighbouring units of sequences 2 p and
// 2 p + 1, which are a word of f16 each in memory, and keeps h, backward the carry, in f32. What enters the product is rounded to f16
// (W_hh, h, and the gradients dr, dz and dhn) and so is what is stored; the caller's loss scale keeps gradients in f16's range.
//
// The left operand is W_hh in pieces of 16 x 8, which are 2 registers a thread. The first `held` pieces of a warp stay in registers
// through all steps, the next `shared` ones in shared memory; the rest is read from L2 in each step. All of them come from a copy of W_hh
// in f16 in which a piece is 256 bytes, eight whole sectors, in the order of the lanes that read it (`gru_fragments`):
//
//     kernel     d    warps   pieces   held   shared   streamed   blocks an SM
//     forward    50   4       21       21     0        0          4
//     forward    100  7       39       27     12       0          2
//     forward    150  10      57       36     21       0          1
//     forward    200  13      75       22     16       37         1
//     backward   50   4       21       21     0        0          4
//     backward   100  7       39       27     12       0          2
//     backward   150  10      57       39     18       0          1
//     backward   200  13      75       20     13       42         1
//     any d           d / 16  3 d / 8  0      what the launch gives memory for, the rest streamed
//     forward 200x2   13      75       14     14       47         1, of two tiles
//     backward 200x2  13      75       16     7        52         1, of two tiles
//     any d x2        as any d, of two tiles
//
// Of two tiles a streamed piece is read once for 16 sequences. That is worth it where there are more blocks of one tile than SMs, each
// of which has one block of those that stream.
//
// Shared memory, forward: h in f16 [2, 8 a tile, row], read in one step and written for the next, so that there is one barrier a step;
// b_hh [3, d rounded up to 16]; fragments [warp, piece, lane]. Backward: [dr, dz, dhn] in f16 [2, 8 a tile, row], each gate's columns
// rounded up to 8; fragments. Columns that stand for nothing are zero.
//
// Floor: DRAM, 8 * 2 * (8 d forward, 10 d backward) bytes a step and tile, at d = 100 and two tiles an SM 4400 and 5500 cycles of its
// share of 616 GB/s; 2 * 8 * 3 d^2 FLOPs, which are 39 tensor-core instructions a warp. What a step reads is loaded into registers while
// the product of the step before is made, and asked for in L2 one step earlier still; of two tiles it is asked for in L2 meanwhile.
//
// Registers on sm_75 (nvcc 13.0), forward and backward: d = 50 104 and 104, 100 124 and 124, 150 140 and 162, 200 128 and 128, 200x2 128
// and 128, any d 80 and 73, any d x2 95 and 111, no spills.

// W_hh in pieces: those of a warp's forward pass, or of its way back, one behind the other, for one direction of a group.
__host__ __device__ constexpr int f16_pieces(int d) {
    return 3 * f16_depths(d);
}
__host__ __device__ constexpr int f16_fragments(int d) {
    return f16_warps(d) * f16_pieces(d) * 32;
}

// Where W_hh of all recurrences lie, in floats from the run's parameters: the speakers' by role and direction, the stacks' as far from one
// another as it says. `RecurrentPlaces` in src/ops/gru/cuda.rs has the same fields.
struct RecurrentPlaces {
    unsigned speaker[4];
    unsigned first, by_stack, by_direction;
};

// Lays W_hh out in f16, anew in each step as `round_weights` does. A recurrence is one direction of role A, of role B, or of a stack.
//
// Launch: grid (ceil(2 f16_fragments(d) / 256), recurrences, runs), block 256, no dynamic shared memory. Floor: memory, 24 d^2 bytes a
// recurrence: floats in, f16 out twice. 22 registers.
extern "C" __global__ void __launch_bounds__(256) gru_fragments(
    uint2 *fragments,  // [recurrences, forward and backward, warp, piece, lane]; lane 4 g + p has columns 2 p and 2 p + 1 of rows g and g + 8
    const float *parameters, const Header *header, const RecurrentPlaces places, int d, size_t run_stride) {
    if (is_idle(*of_run(header, run_stride))) return;
    const int of_pass = f16_fragments(d), pieces = f16_pieces(d), depths = f16_depths(d);
    const int fragment = blockIdx.x * blockDim.x + threadIdx.x;
    if (fragment >= 2 * of_pass) return;
    const int recurrence = blockIdx.y, stack = recurrence / 2 - 2;
    const unsigned place =
        stack < 0 ? places.speaker[recurrence] : places.first + stack * places.by_stack + recurrence % 2 * places.by_direction;
    const float *const weight = of_run(parameters, run_stride) + place;
    const bool backward = fragment >= of_pass;
    const int of_warp = fragment % of_pass / 32, lane = fragment % 32, piece = of_warp % pieces;
    const int unit = of_warp / pieces * 16 + lane / 4 * 2;
    // Forward, piece 3 depth + gate is units of a gate by 8 columns of W_hh; backward, piece depths gate + depth units by 8 of its rows.
    const int gate = backward ? piece / depths : piece % 3;
    const int k = (backward ? piece % depths : piece / 3) * 8 + lane % 4 * 2;
    const auto element = [&](int half, int more) {
        if (unit + half >= d || k + more >= d) return 0.0f;
        return backward ? weight[(gate * d + k + more) * d + unit + half] : weight[(gate * d + unit + half) * d + k + more];
    };
    of_run(fragments, run_stride)[recurrence * 2 * of_pass + fragment] =
        make_uint2(pack(element(0, 0), element(0, 1)), pack(element(1, 0), element(1, 1)));
}

// The pieces of W_hh that a warp multiplies by, each of which a lane has two words of; `fragments` are the block's direction's and pass's.
template <int HELD> struct Pieces {
    unsigned in_registers[HELD > 0 ? HELD : 1][2];
    const uint2 *in_shared, *in_memory;
    int end_of_shared;

    __device__ __forceinline__ Pieces(int pieces, int shared, uint2 *memory, const uint2 *fragments) {
        end_of_shared = min(pieces, HELD + shared);
        in_memory = fragments + threadIdx.x / 32 * pieces * 32 + threadIdx.x % 32;
        // Read by the lane that writes: no barrier is needed.
        uint2 *const own = memory + (threadIdx.x / 32 * (end_of_shared - HELD)) * 32 + threadIdx.x % 32;
        // With more loads under way registers would spill.
#pragma unroll 2
        for (int i = HELD; i < end_of_shared; i++) own[(i - HELD) * 32] = __ldg(in_memory + i * 32);
        in_shared = own;
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            const uint2 piece = __ldg(in_memory + i * 32);
            in_registers[i][0] = piece.x;
            in_registers[i][1] = piece.y;
        }
    }

    __device__ __forceinline__ uint2 at(int i) const {
        if (i < HELD) return make_uint2(in_registers[i][0], in_registers[i][1]);
        return i < end_of_shared ? in_shared[(i - HELD) * 32] : __ldg(in_memory + i * 32);
    }
};

// Two neighbouring units in memory, of which `units` are a row's; a word where the width is even, so that all rows and gates are aligned
// to it. What is not the row's is 0, and not written.
template <int D> struct UnitPair {
    bool even;
    int units;

    __device__ __forceinline__ UnitPair(int d, int units_) : even(d % 2 == 0), units(units_) {}

    __device__ __forceinline__ unsigned load(const __half *from) const {
        if (units <= 0) return 0;
        if (even) return *reinterpret_cast<const unsigned *>(from);
        return __half_as_ushort(from[0]) | (units > 1 ? __half_as_ushort(from[1]) << 16 : 0);
    }

    __device__ __forceinline__ void store(__half *to, unsigned both) const {
        if (even) {
            *reinterpret_cast<unsigned *>(to) = both;
        } else {
            to[0] = __ushort_as_half(both & 0xffff);
            if (units > 1) to[1] = __ushort_as_half(both >> 16);
        }
    }
};

// Of the layer's fragments [group, direction, forward and backward, ..] those of the block's direction and of one pass.
__device__ __forceinline__ const uint2 *of_pass(const uint2 *fragments, int d, bool backward, size_t run_stride) {
    return of_run(fragments, run_stride) + (blockIdx.y * 2 + backward) * f16_fragments(d);
}

// D is the width, or 0 for one that is only known when the kernel runs; SHARED then counts for nothing. A sequence has the same bits in
// blocks of one tile and of two.
template <int D, int HELD, int SHARED, int TILES>
__device__ __forceinline__ void f16_forward(const Header *header, const unsigned *start, const unsigned *length, const float *parameters,
                                            const GruPlaces &places, const uint2 *fragments, __half *saved, __half *hidden,
                                            int first_group, int capacity, int width, size_t run_stride) {
    constexpr int SEQUENCES = TILES * F16_TILE;
    // Whether what a step reads is in registers a step before: those of two tiles are better used for pieces.
    constexpr bool AHEAD = TILES == 1;
    const int d = D > 0 ? D : width;
    const Share share(header, start, length, parameters, places, first_group, capacity, d, run_stride, SEQUENCES);
    if (share.first >= share.sequences) return;
    saved = of_run(saved, run_stride) + share.gates;
    const size_t to_hn = share.hn - share.gates;
    hidden = of_run(hidden, run_stride) + share.hidden;

    const int row_size = f16_forward_row(d), depths = f16_depths(d), bias_size = round_up(d, 16);
    __half *const states = reinterpret_cast<__half *>(dynamic_shared);
    float *const biases = reinterpret_cast<float *>(states + 2 * SEQUENCES * row_size);
    uint2 *const held = reinterpret_cast<uint2 *>(biases + 3 * bias_size);
    for (int i = threadIdx.x; i < 2 * SEQUENCES * row_size; i += blockDim.x) states[i] = __float2half(0.0f);
    for (int i = threadIdx.x; i < 3 * bias_size; i += blockDim.x) {
        biases[i] = i % bias_size < d ? share.bias[i / bias_size * d + i % bias_size] : 0.0f;
    }

    const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
    // A thread's four states of a tile, by the index i of C's words: sequence i % 2 of its two, unit first_unit + i / 2.
    const int first_unit = threadIdx.x / 32 * 16 + group * 2;
    const int units = min(d - first_unit, 2);

    const int shared_pieces = D > 0 ? SHARED : static_cast<int>((dynamic_shared_bytes() - f16_forward_bytes(d, TILES)) / f16_piece_bytes(d));
    const Pieces<HELD> weights(3 * depths, shared_pieces, held, of_pass(fragments, d, false, run_stride));

    Rows rows[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int s = 0; s < 2; s++) rows[t][s] = Rows(share, t * F16_TILE + pair * 2 + s);
    }
    const int longest = share.longest();
    const UnitPair<D> units_of(d, units);
    unsigned inputs[TILES][3][2];
    const auto fetch = [&](int step) {
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
            const Rows &of = rows[i / 2][i % 2];
            const bool wanted = step < of.length;
            const __half *const from = saved + of.at(share, step) * 8 * d + first_unit;
#pragma unroll
            for (int gate = 0; gate < 3; gate++) inputs[i / 2][gate][i % 2] = wanted ? units_of.load(from + gate * d) : 0;
        }
    };
    // The 16 units of a fragment's rows lie side by side: of the 8 lanes that will read them, one a gate asks for them.
    const __half *const announced = saved + group * d + first_unit - group * 2;
    const auto announce = [&](int step) {
        if (group > 2) return;
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
            const Rows &of = rows[i / 2][i % 2];
            if (step < of.length) prefetch(announced + of.at(share, step) * 8 * d);
        }
    };
    float h[TILES][4] = {};
    if (AHEAD) fetch(0);
    announce(AHEAD);
    __syncthreads();

    for (int step = 0; step < longest; step++) {
        const __half *const before = states + step % 2 * SEQUENCES * row_size;
        __half *const after = states + (step + 1) % 2 * SEQUENCES * row_size;
        float sums[TILES][3][4] = {};
#pragma unroll(D > 0 ? (D + 31) / 32 : 1)
        for (int depth = 0; depth < depths; depth += 4) {
            unsigned words[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                load_four_matrices(words[t], before + (t * F16_TILE + lane % 8) * row_size + (depth + lane / 8) * 8);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (depth + i >= depths) continue;
#pragma unroll
                for (int gate = 0; gate < 3; gate++) {
                    const uint2 piece = weights.at((depth + i) * 3 + gate);
#pragma unroll
                    for (int t = 0; t < TILES; t++) multiply_add(sums[t][gate], piece.x, piece.y, words[t][i]);
                }
            }
        }
        if (!AHEAD) fetch(step);

#pragma unroll
        for (int ts = 0; ts < 2 * TILES; ts++) {
            const int t = ts / 2, s = ts % 2;
            // A sequence that is over keeps its h, which nobody reads.
            if (step >= rows[t][s].length || units <= 0) continue;
            const float2 x[3] = {unpack(inputs[t][0][s]), unpack(inputs[t][1][s]), unpack(inputs[t][2][s])};
            float r[2], z[2], n[2], hn[2];
#pragma unroll
            for (int u = 0; u < 2; u++) {
                const int i = s + u * 2;
                const float *const bias = biases + first_unit + u;
                r[u] = sigmoid((u ? x[0].y : x[0].x) + (sums[t][0][i] + bias[0]));
                z[u] = sigmoid((u ? x[1].y : x[1].x) + (sums[t][1][i] + bias[bias_size]));
                hn[u] = sums[t][2][i] + bias[2 * bias_size];
                n[u] = hyperbolic_tangent(fmaf(r[u], hn[u], u ? x[2].y : x[2].x));
                h[t][i] = fmaf(z[u], h[t][i] - n[u], n[u]);
            }
            const size_t row = rows[t][s].at(share, step);
            __half *const gates = saved + row * 8 * d + first_unit;
            const unsigned state = pack(h[t][s], units > 1 ? h[t][s + 2] : 0.0f);
            *reinterpret_cast<unsigned *>(after + (t * F16_TILE + pair * 2 + s) * row_size + first_unit) = state;
            units_of.store(gates, pack(r[0], r[1]));
            units_of.store(gates + d, pack(z[0], z[1]));
            units_of.store(gates + 2 * d, pack(n[0], n[1]));
            units_of.store(gates + to_hn, pack(hn[0], hn[1]));
            units_of.store(hidden + row * 2 * d + first_unit, state);
        }
        if (AHEAD) fetch(step + 1);
        announce(step + 1 + AHEAD);
        // What this step has written is whole, and what it has read may be written by the next.
        __syncthreads();
    }
}

template <int D, int HELD, int SHARED, int TILES>
__device__ __forceinline__ void f16_backward(const Header *header, const unsigned *start, const unsigned *length, const float *parameters,
                                             const GruPlaces &places, const uint2 *fragments, __half *saved, const __half *hidden,
                                             const __half *d_hidden, int first_group, int capacity, int width, size_t run_stride) {
    constexpr int SEQUENCES = TILES * F16_TILE;
    // Whether what a step reads is in registers a step before: those of two tiles are better used for pieces.
    constexpr bool AHEAD = TILES == 1;
    const int d = D > 0 ? D : width;
    const Share share(header, start, length, parameters, places, first_group, capacity, d, run_stride, SEQUENCES);
    if (share.first >= share.sequences) return;
    saved = of_run(saved, run_stride) + share.gates;
    const size_t to_hn = share.hn - share.gates;
    hidden = of_run(hidden, run_stride) + share.hidden;
    d_hidden = of_run(d_hidden, run_stride) + share.hidden;

    const int row_size = f16_backward_row(d), depths = f16_depths(d), pieces = 3 * depths;
    __half *const gradients = reinterpret_cast<__half *>(dynamic_shared);
    uint2 *const held = reinterpret_cast<uint2 *>(gradients + 2 * SEQUENCES * row_size);
    // Sequences that have not begun are zeros too.
    for (int i = threadIdx.x; i < 2 * SEQUENCES * row_size; i += blockDim.x) gradients[i] = __float2half(0.0f);

    const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
    const int first_unit = threadIdx.x / 32 * 16 + group * 2;
    const int units = min(d - first_unit, 2);

    const int shared_pieces = D > 0 ? SHARED : static_cast<int>((dynamic_shared_bytes() - f16_backward_bytes(d, TILES)) / f16_piece_bytes(d));
    const Pieces<HELD> weights(pieces, shared_pieces, held, of_pass(fragments, d, true, run_stride));

    Rows rows[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int s = 0; s < 2; s++) rows[t][s] = Rows(share, t * F16_TILE + pair * 2 + s);
    }
    const UnitPair<D> units_of(d, units);
    // Of the step to come: r, z, n, hn, the gradient from outside, the state before.
    unsigned values[TILES][6][2];
    const auto fetch = [&](int step) {
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
            const int t = i / 2, s = i % 2;
            const Rows &of = rows[t][s];
            const bool wanted = step < of.length;
            const size_t row = of.at(share, step);
            const __half *const gates = saved + row * 8 * d + first_unit;
#pragma unroll
            for (int gate = 0; gate < 3; gate++) values[t][gate][s] = wanted ? units_of.load(gates + gate * d) : 0;
            values[t][3][s] = wanted ? units_of.load(gates + to_hn) : 0;
            values[t][4][s] = wanted ? units_of.load(d_hidden + row * 2 * d + first_unit) : 0;
            values[t][5][s] = wanted && step > 0 ? units_of.load(hidden + of.at(share, step - 1) * 2 * d + first_unit) : 0;
        }
    };
    // The 16 units of a fragment's rows lie side by side: of the 8 lanes that will read them, one an array asks for them.
    const __half *const announced =
        (group < 3 ? saved + group * d : group == 3 ? saved + to_hn : group == 4 ? d_hidden : hidden) + first_unit - group * 2;
    const int announced_width = group < 4 ? 8 * d : 2 * d, earlier = group == 5;
    const auto announce = [&](int step) {
        if (group > 5 || step < earlier) return;
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++) {
            const Rows &of = rows[i / 2][i % 2];
            if (step < of.length) prefetch(announced + of.at(share, step - earlier) * announced_width);
        }
    };
    float carry[TILES][4] = {};
    const int longest = share.longest();
    fetch(longest - 1);
    if (AHEAD) announce(longest - 2);
    __syncthreads();

    for (int step = longest - 1;; step--) {
        __half *const own = gradients + step % 2 * SEQUENCES * row_size;
#pragma unroll
        for (int ts = 0; ts < 2 * TILES; ts++) {
            const int t = ts / 2, s = ts % 2;
            if (step >= rows[t][s].length || units <= 0) continue;
            const auto gradient_of = [&](int u) {
                const auto value = [&](int which) { return u ? unpack(values[t][which][s]).y : unpack(values[t][which][s]).x; };
                return gate_gradients(carry[t][s + u * 2] + value(4), value(0), value(1), value(2), value(3), value(5));
            };
            const GateGradients first = gradient_of(0), second = gradient_of(1);
            // What a second unit that is none has is zero: so were its values and its carry.
            const unsigned r = pack(first.r, second.r), z = pack(first.z, second.z), hn = pack(first.hn, second.hn);
            __half *const gates = saved + rows[t][s].at(share, step) * 8 * d + first_unit;
            units_of.store(gates, r);
            units_of.store(gates + d, z);
            units_of.store(gates + 2 * d, pack(first.n, second.n));
            units_of.store(gates + to_hn, hn);
            unsigned *const to = reinterpret_cast<unsigned *>(own + (t * F16_TILE + pair * 2 + s) * row_size + first_unit);
            to[0] = r;
            to[depths * 4] = z;
            to[2 * depths * 4] = hn;
            carry[t][s] = first.h;
            carry[t][s + 2] = second.h;
        }
        if (step == 0) break;
        if (AHEAD) fetch(step - 1);
        announce(step - 1 - AHEAD);
        // The step's gradients are whole. The other buffer was last read before it.
        __syncthreads();

        // Two sums, so that a tensor-core instruction need not wait for the one before it.
        float sums[TILES][2][4] = {};
#pragma unroll(D > 0 ? (3 * ((D + 7) / 8) + 3) / 4 : 1)
        for (int piece = 0; piece < pieces; piece += 4) {
            unsigned words[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                load_four_matrices(words[t], own + (t * F16_TILE + lane % 8) * row_size + (piece + lane / 8) * 8);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (piece + i >= pieces) continue;
                const uint2 left = weights.at(piece + i);
#pragma unroll
                for (int t = 0; t < TILES; t++) multiply_add(sums[t][i % 2], left.x, left.y, words[t][i]);
            }
        }
        if (!AHEAD) fetch(step - 1);
#pragma unroll
        for (int i = 0; i < 4 * TILES; i++) carry[i / 4][i % 4] += sums[i / 4][0][i % 4] + sums[i / 4][1][i % 4];
    }
}

// `D` is the kernel's one width, which `width` must then be, or 0; what it holds in shared memory is fixed. A launch gives it
// f16_forward_bytes(d, tiles) + shared * f16_piece_bytes(d), backward likewise.
#define GRU_F16(name, D, tiles, widest, held_forward, shared_forward, held_backward, shared_backward, blocks)                           \
    static_assert(f16_forward_bytes(widest, tiles) + shared_forward * f16_piece_bytes(widest) <= 65536 / blocks, "an SM's memory");     \
    static_assert(f16_backward_bytes(widest, tiles) + shared_backward * f16_piece_bytes(widest) <= 65536 / blocks, "an SM's memory");   \
    extern "C" __global__ void __launch_bounds__(f16_threads(widest), blocks) gru_forward_f16##name(                                    \
        const Header *header, const unsigned *start, const unsigned *length, const float *parameters, const GruPlaces places,           \
        const uint2 *fragments, __half *saved, __half *hidden, int first_group, int capacity, int width, size_t run_stride) {           \
        f16_forward<D, held_forward, shared_forward, tiles>(header, start, length, parameters, places, fragments, saved, hidden,        \
                                                            first_group, capacity, width, run_stride);                                  \
    }                                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(f16_threads(widest), blocks) gru_backward_f16##name(                                   \
        const Header *header, const unsigned *start, const unsigned *length, const float *parameters, const GruPlaces places,           \
        const uint2 *fragments, __half *saved, const __half *hidden, const __half *d_hidden, int first_group, int capacity,             \
        int width, size_t run_stride) {                                                                                                 \
        f16_backward<D, held_backward, shared_backward, tiles>(header, start, length, parameters, places, fragments, saved, hidden,     \
                                                               d_hidden, first_group, capacity, width, run_stride);                     \
    }

GRU_F16(_50, 50, 1, 50, 21, F16_FORWARD_SHARED[0], 21, F16_BACKWARD_SHARED[0], 4)
GRU_F16(_100, 100, 1, 100, 27, F16_FORWARD_SHARED[1], 27, F16_BACKWARD_SHARED[1], 2)
GRU_F16(_150, 150, 1, 150, 36, F16_FORWARD_SHARED[2], 39, F16_BACKWARD_SHARED[2], 1)
GRU_F16(_200, 200, 1, 200, 22, F16_FORWARD_SHARED[3], 20, F16_BACKWARD_SHARED[3], 1)
GRU_F16(_200x2, 200, 2, 200, 14, F16_FORWARD_SHARED_X2, 16, F16_BACKWARD_SHARED_X2, 1)
GRU_F16(, 0, 1, WIDEST, 0, 0, 0, 0, 1)
GRU_F16(x2, 0, 2, WIDEST, 0, 0, 0, 0, 1)
