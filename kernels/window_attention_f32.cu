// Scaled dot-product attention and the readout of a window in one kernel, in float32 (step 4; src/ops/attention): the equations of
// window_attention.cu, for windows of up to 64 utterances. All operands and sums are float.
//
//     window_attention_f32_*             P = softmax(scale * (G score) G^T)     attended = P G
//                                        y = G w     a = softmax(P y)     p = P^T a     e = G^T p
//     window_attention_backward_f32_*    d_p = G d_e     d_b = a * (P d_p - a . P d_p)     d_y = P^T d_b
//                                        d_P = d_attended G^T + a outer d_p + d_b outer y     d_S = scale * P * (d_P - rows' P . d_P)
//                                        d_projected = d_S G     d_w = d_y G
//                                        d_g = P^T d_attended + d_S^T projected + p outer d_e + d_y outer w + d_states
//
// G, projected = G score, attended and their gradients [R, 2d] sample-major, P the n x n block of a sample; w, e, d_e, d_w [S, 2d]; y, a,
// p [R]. attended, d_attended and d_states (the gradient of a stack that reads G itself) may be null. An empty window gives e = 0 and
// d_w = 0.
//
// A block of eight warps has a sample. Its n rows are taken as 8 T, of which a lane has T, by T columns or by four; there is a body for
// each T, so that short windows do less.
//   1. Products over 2d (scores, d_attended G^T): 52 columns at a time come into shared memory, the next ones into registers meanwhile. A
//      warp has half of the keys and every fourth quad of columns; what the four found is added up in shared memory.
//   2. Softmax and readout: four lanes have a row of pairs. The gradients of P and scores stay in shared memory, as they are and
//      transposed, as what comes next reads them.
//   3. Products over pairs: a warp has 16 columns of the results, and reads the rows of G, d_attended and projected itself: of G from L1,
//      where its sum of rows for e or d_w brought them just before. Nothing is between warps any more.
// Lanes are laid out in pairs that want the same quad of either operand: product.cuh says why. Rows in shared memory are an odd number of
// quads apart, so that eight of them are in banks of their own.
//
// Launch: grid (samples, 1, runs) of the capacity, block 256. For windows of up to N utterances, N <= 40 in the kernels _40 and N <= 64 in
// _64, with M = N rounded up to a multiple of eight, L = max(52, M + 4) and W = 2d rounded up to one of four, dynamic shared memory in
// bytes:
//     window_attention_f32_*             4 * (M * (L + 52 + M + 4 + 7) + W)
//     window_attention_backward_f32_*    4 * (M * (2 * L + M + 4 + 6) + W)
// A multiprocessor of an RTX 2080 Ti has two blocks of _40, 16 warps, and one of _64. Registers on sm_75: 127 and 242, backward 128
// and 234, no spills.
// Floor: memory. Bytes, with P values in all blocks together: 4 (3 R 2d + P) + S 16d + 12 R (attended is one of the three), backward
// 4 (5 R 2d + P) + S 24d + 12 R (d_attended is one of the five). FLOPs: 2 P 2d for each of two products and four; the readout's
// 4 (2 R d + P), backward 8 (2 R d + P), are few beside. G and d_attended are read again, from L2 as far as it holds them.

#include "quad.cuh"
#include "softmax.cuh"
#include "warp.cuh"
#include "window.cuh"

constexpr unsigned BLOCK = 256, WARPS = BLOCK / 32;
constexpr unsigned QUADS = 13;         // of a row that are in shared memory at once
constexpr unsigned CHUNK = 4 * QUADS;  // the columns in them
constexpr unsigned GROUP = 4;          // quads of the results that a warp has at once

extern __shared__ float4 shared_memory[];

// Of the rows of a tile, eight apart, this lane's first; of its columns or quads, four apart. Lanes n and n ^ 1 have the same rows, n and
// n ^ 2 the same columns.
__device__ __forceinline__ unsigned tile_row() {
    return threadIdx.x / 2 % 8;
}

__device__ __forceinline__ unsigned tile_column() {
    return threadIdx.x % 2 + threadIdx.x / 16 % 2 * 2;
}

// Of a matrix of pairs this lane's row, and of every eight columns its first of two.
__device__ __forceinline__ unsigned row_of_pairs() {
    return threadIdx.x / 32 * 8 + threadIdx.x % 8;
}

__device__ __forceinline__ unsigned column_of_pairs() {
    return threadIdx.x / 8 % 4 * 2;
}

// Lanes that have a row of pairs are so far apart.
constexpr unsigned OF_ROW_APART = 8;

__device__ __forceinline__ void add_multiple(Quad &to, float factor, const Quad &of) {
#pragma unroll
    for (int i = 0; i < 4; i++) to.x[i] += factor * of.x[i];
}

// A thread's share of a chunk on its way from memory: fetched while something else is computed, and put into shared memory when that is
// done. 16 threads have a row. What is no row of the window, or lies beyond its columns, is zero.
template <unsigned T> struct Fetched {
    __device__ __forceinline__ void fetch(const float *from, const Window &window, unsigned begin) {
        const unsigned at = begin + quad();
        const bool reads = quad() < QUADS && at < quads_of(window.width);
#pragma unroll
        for (unsigned i = 0; i < COUNT; i++) {
            quads[i] = {};
            if (reads && row(i) < window.n) quads[i] = load_quad(from + row(i) * window.width, at, window.width);
        }
    }

    __device__ __forceinline__ void put(float *to) const {
        if (quad() >= QUADS) return;
#pragma unroll
        for (unsigned i = 0; i < COUNT; i++) {
            if (row(i) < 8 * T) put_quad(to + row(i) * CHUNK, quad(), quads[i]);
        }
    }

  private:
    static constexpr unsigned OF_ROW = 16, AT_ONCE = BLOCK / OF_ROW, COUNT = (8 * T + AT_ONCE - 1) / AT_ONCE;
    Quad quads[COUNT];

    static __device__ __forceinline__ unsigned quad() { return threadIdx.x % OF_ROW; }
    static __device__ __forceinline__ unsigned row(unsigned i) { return threadIdx.x / OF_ROW + i * AT_ONCE; }
};

// Goes through the columns, of which the first chunk is fetched already: each is put into shared memory, and used, while the next one is
// on its way. `fetch` is told the first quad of a chunk, `use` that and how many there are.
template <class Fetch, class Put, class Use>
__device__ __forceinline__ void for_chunks(unsigned quads, Fetch fetch, Put put, Use use) {
#pragma unroll 1
    for (unsigned begin = 0;;) {
        put();
        __syncthreads();
        const unsigned first = begin;
        begin += QUADS;
        if (begin < quads) fetch(begin);
        use(first, min(QUADS, quads - first));
        if (begin >= quads) break;
        __syncthreads();
    }
}

// A matrix of pairs in shared memory.
template <unsigned T> struct Pairs {
    static constexpr unsigned STRIDE = 8 * T + 4;
    float *data;

    __device__ __forceinline__ float *at(unsigned row, unsigned column) const { return data + row * STRIDE + column; }
};

// What a lane has of its row: columns 8 i + column_of_pairs() and the one behind it.
template <unsigned T> struct RowOfPairs {
    float2 x[T];

    // Does something with every value and its column.
    template <class Each> __device__ __forceinline__ void each(Each each) {
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            const unsigned column = 8 * i + column_of_pairs();
            each(x[i].x, column), each(x[i].y, column + 1);
        }
    }

    __device__ __forceinline__ void load(Pairs<T> from) {
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            x[i] = *reinterpret_cast<const float2 *>(from.at(row_of_pairs(), 8 * i + column_of_pairs()));
        }
    }

    __device__ __forceinline__ void add(Pairs<T> from) {
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            const float2 more = *reinterpret_cast<const float2 *>(from.at(row_of_pairs(), 8 * i + column_of_pairs()));
            x[i].x += more.x, x[i].y += more.y;
        }
    }

    __device__ __forceinline__ void store(Pairs<T> to) const {
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            *reinterpret_cast<float2 *>(to.at(row_of_pairs(), 8 * i + column_of_pairs())) = x[i];
        }
    }

    __device__ __forceinline__ void load_transposed(Pairs<T> from) {
        each([&](float &x, unsigned column) { x = *from.at(column, row_of_pairs()); });
    }

    __device__ __forceinline__ void store_transposed(Pairs<T> to) {
        each([&](float &x, unsigned column) { *to.at(column, row_of_pairs()) = x; });
    }

    // The row times a vector [8 T].
    __device__ __forceinline__ float dot(const float *vector) const {
        float sum = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            const float2 two = *reinterpret_cast<const float2 *>(vector + 8 * i + column_of_pairs());
            sum += x[i].x * two.x + x[i].y * two.y;
        }
        return sum_of_four<OF_ROW_APART>(sum);
    }
};

// A lane's part of a sum over columns of rows of `left` times rows of `right`: of every fourth quad, and half of `right`'s rows.
template <unsigned T> using Scores = float[T][T];

template <unsigned T>
__device__ __forceinline__ void add_scores(Scores<T> &scores, const float *left, const float *right, unsigned quads) {
    const unsigned half = threadIdx.x / 32 % 2;
    left += tile_row() * CHUNK;
    right += (half * 4 * T + tile_column()) * CHUNK;
#pragma unroll 1
    for (unsigned quad = threadIdx.x / 64; quad < quads; quad += WARPS / 2) {
        Quad rows[T];
#pragma unroll
        for (unsigned i = 0; i < T; i++) rows[i] = quad_at(left + 8 * i * CHUNK, quad);
#pragma unroll
        for (unsigned j = 0; j < T; j++) {
            const Quad column = quad_at(right + 4 * j * CHUNK, quad);
#pragma unroll
            for (unsigned i = 0; i < T; i++) {
#pragma unroll
                for (int k = 0; k < 4; k++) scores[i][j] += rows[i].x[k] * column.x[k];
            }
        }
    }
}

// Adds the four parts of sums up into two. Those that had been in shared memory before are gone; every warp sees the sums.
template <unsigned T> __device__ __forceinline__ void share_scores(Pairs<T> first, Pairs<T> second, const Scores<T> &scores) {
    const unsigned warp = threadIdx.x / 32, column = warp % 2 * 4 * T + tile_column();
    const Pairs<T> to = {warp / 2 % 2 ? second.data : first.data};
    __syncthreads();
    if (warp / 4 == 1) {
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
#pragma unroll
            for (unsigned j = 0; j < T; j++) *to.at(tile_row() + 8 * i, column + 4 * j) = scores[i][j];
        }
    }
    __syncthreads();
    if (warp / 4 == 0) {
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
#pragma unroll
            for (unsigned j = 0; j < T; j++) *to.at(tile_row() + 8 * i, column + 4 * j) += scores[i][j];
        }
    }
    __syncthreads();
}

// What this chunk adds to the product of the lane's row of pairs with a vector, in this lane, which takes every fourth quad.
__device__ __forceinline__ float dot_of_row(const float *chunk, const float *vector, unsigned quads) {
    float sum = 0.0f;
#pragma unroll
    for (unsigned i = 0; i < QUADS; i += 4) {
        const unsigned quad = i + threadIdx.x / 8 % 4;
        if (quad >= quads) break;
        const Quad x = quad_at(chunk + row_of_pairs() * CHUNK, quad), y = quad_at(vector, quad);
#pragma unroll
        for (int k = 0; k < 4; k++) sum += x.x[k] * y.x[k];
    }
    return sum;
}

// The warp's columns of the results, 16 at a time, the last of the row first: those are what was read last. A lane whose quad would lie
// beyond the row takes the last one along, and does not store it.
struct Group {
    unsigned quad;
    bool stores;

    template <class Each> static __device__ __forceinline__ void each(const Window &window, Each each) {
        const unsigned quads = quads_of(window.width), groups = (quads + GROUP - 1) / GROUP;
#pragma unroll 1
        for (unsigned i = threadIdx.x / 32; i < groups; i += WARPS) {
            const unsigned quad = (groups - 1 - i) * GROUP + tile_column();
            each(Group{min(quad, quads - 1), quad < quads});
        }
    }
};

// to = sum of vector[j] * from[j] over the window's rows.
template <unsigned T>
__device__ __forceinline__ void sum_of_rows(float *to, const float *vector, const float *from, const Window &window, const Group &group) {
    Quad sum = {};
#pragma unroll
    for (unsigned i = 0; i < T; i++) {
        const unsigned j = tile_row() + 8 * i;
        if (j < window.n) add_multiple(sum, vector[j], load_quad(from + j * window.width, group.quad, window.width));
    }
#pragma unroll
    for (int lanes = 2; lanes <= 8; lanes *= 2) {
#pragma unroll
        for (int k = 0; k < 4; k++) sum.x[k] += __shfl_xor_sync(ALL_LANES, sum.x[k], lanes);
    }
    if (group.stores && tile_row() == 0) store_quad(to, group.quad, window.width, sum);
}

// results += pairs times rows of the window, of which `pairs` is zero beyond the last: that one is read instead.
template <unsigned T>
__device__ __forceinline__ void add_products(Quad (&results)[T], Pairs<T> pairs, const float *from, const Window &window,
                                             const Group &group) {
    Quad next[4];
    const auto fetch = [&](unsigned first) {
#pragma unroll
        for (unsigned k = 0; k < 4; k++) {
            next[k] = load_quad(from + min(first + k, window.n - 1) * window.width, group.quad, window.width);
        }
    };
    fetch(0);
#pragma unroll 1
    for (unsigned j = 0; j < window.n; j += 4) {
        Quad rows[4];
#pragma unroll
        for (unsigned k = 0; k < 4; k++) rows[k] = next[k];
        if (j + 4 < window.n) fetch(j + 4);
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            const Quad weights = quad_at(pairs.at(tile_row() + 8 * i, j), 0);
#pragma unroll
            for (int k = 0; k < 4; k++) add_multiple(results[i], weights.x[k], rows[k]);
        }
    }
}

template <unsigned T>
__device__ __forceinline__ void store_results(float *to, const Quad (&results)[T], const Window &window, const Group &group) {
#pragma unroll
    for (unsigned i = 0; i < T; i++) {
        const unsigned row = tile_row() + 8 * i;
        if (group.stores && row < window.n) store_quad(to + row * window.width, group.quad, window.width, results[i]);
    }
}

// What a kernel is given. Where a window's part of it begins is found when it is needed: all the addresses at once would take a quarter
// of the registers.
struct Forward {
    float *probabilities;    // n x n by sample
    float *attended;         // [R, 2d] sample-major, or null
    float *e;                // [S, 2d]
    float *y;                // [R]
    float *a;                // [R]
    float *p;                // [R]
    const float *w;          // [S, 2d]
    const float *g;          // [R, 2d] sample-major
    const float *projected;  // [R, 2d] sample-major
    float scale;
};

// Floats of shared memory for a chunk in whose place pairs come.
template <unsigned T> constexpr unsigned CHUNK_OR_PAIRS = 8 * T * (CHUNK > 8 * T + 4 ? CHUNK : 8 * T + 4);

template <unsigned T> __device__ __forceinline__ void window_attention(const Window &window, const Forward &f) {
    constexpr unsigned M = 8 * T;
    float *left = reinterpret_cast<float *>(shared_memory);  // [M, 52]: projected
    float *right = left + CHUNK_OR_PAIRS<T>;                // [M, 52]: G
    const Pairs<T> block = {right + M * CHUNK};               // [M, M + 4]: P
    float *w_here = block.data + M * (M + 4);              // [2d]
    float *y_here = w_here + 4 * quads_of(window.width);     // [M]
    float *b = y_here + M;                                   // [M]: P y, and p then
    float *a_here = b + M;                                   // [M]
    float *parts = a_here + M;                               // [4, M]
    const unsigned lane = threadIdx.x % 32, quads = quads_of(window.width);
    const bool has_row = threadIdx.x / 32 < T;

    Fetched<T> next_left, next_right;
    const auto fetch = [&](unsigned begin) {
        next_left.fetch(window.rows(f.projected), window, begin);
        next_right.fetch(window.rows(f.g), window, begin);
    };
    fetch(0);
    load_vector<BLOCK>(w_here, window.sample(f.w), window.width);
    Scores<T> scores = {};
    float dot = 0.0f;
    const auto put = [&] { next_left.put(left), next_right.put(right); };
    for_chunks(quads, fetch, put, [&](unsigned first, unsigned here) {
        add_scores<T>(scores, left, right, here);
        if (has_row) dot += dot_of_row(right, w_here + 4 * first, here);
    });
    if (has_row) {
        dot = sum_of_four<OF_ROW_APART>(dot);
        if (lane < 8) y_here[row_of_pairs()] = dot;
    }
    const Pairs<T> second = {left};  // of two parts of the scores
    share_scores<T>(block, second, scores);

    // The softmax of the warp's rows, and P y.
    if (has_row) {
        RowOfPairs<T> row;
        row.load(block), row.add(second);
        float largest = -INFINITY, sum = 0.0f;
        row.each([&](float &x, unsigned column) { largest = column < window.n ? fmaxf(largest, x) : largest; });
        largest = maximum_of_four<OF_ROW_APART>(largest);
        row.each([&](float &x, unsigned column) {
            x = column < window.n ? held_exp((x - largest) * f.scale) : 0.0f;
            sum += x;
        });
        const float inverse = 1.0f / sum_of_four<OF_ROW_APART>(sum);
        row.each([&](float &x, unsigned) { x *= inverse; });
        row.store(block);
        const float dot = row.dot(y_here);
        if (lane < 8) b[row_of_pairs()] = dot;
        float *line = window.block(f.probabilities) + row_of_pairs() * window.n;
        row.each([&](float &x, unsigned column) {
            if (row_of_pairs() < window.n && column < window.n) line[column] = x;
        });
    }
    __syncthreads();
    const Softmax softmax(b, window.n);
    if (threadIdx.x < window.n) {
        a_here[threadIdx.x] = window.values(f.a)[threadIdx.x] = softmax[threadIdx.x];
        window.values(f.y)[threadIdx.x] = y_here[threadIdx.x];
    }
    __syncthreads();
    // P^T a: four threads have a column.
    const unsigned column = threadIdx.x % 64, part = threadIdx.x / 64;
    if (column < window.n) {
        float sum = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < 2 * T; i++) {
            const unsigned row = 4 * i + part;
            if (row < window.n) sum += a_here[row] * *block.at(row, column);
        }
        parts[part * M + column] = sum;
    }
    __syncthreads();
    float *p_here = b;
    if (threadIdx.x < window.n) {
        const float p = parts[threadIdx.x] + parts[M + threadIdx.x] + parts[2 * M + threadIdx.x] + parts[3 * M + threadIdx.x];
        p_here[threadIdx.x] = window.values(f.p)[threadIdx.x] = p;
    }
    __syncthreads();

    Group::each(window, [&](const Group &group) {
        sum_of_rows<T>(window.sample(f.e), p_here, window.rows(f.g), window, group);
        if (!f.attended) return;
        Quad results[T] = {};
        add_products<T>(results, block, window.rows(f.g), window, group);
        store_results<T>(window.rows(f.attended), results, window, group);
    });
}

struct Backward {
    float *d_projected;          // [R, 2d] sample-major
    float *d_g;                  // [R, 2d] sample-major
    float *d_w;                  // [S, 2d]
    const float *d_e;            // [S, 2d]
    const float *d_attended;     // [R, 2d] sample-major, or null
    const float *d_states;       // [R, 2d] sample-major, or null
    const float *y;              // [R]
    const float *a;              // [R]
    const float *p;              // [R]
    const float *w;              // [S, 2d]
    const float *g;              // [R, 2d] sample-major
    const float *projected;      // [R, 2d] sample-major
    const float *probabilities;  // n x n by sample
    float scale;
};

template <unsigned T> __device__ __forceinline__ void window_attention_backward(const Window &window, const Backward &f) {
    constexpr unsigned M = 8 * T;
    float *left = reinterpret_cast<float *>(shared_memory);     // [M, 52]: d_attended
    float *right = left + CHUNK_OR_PAIRS<T>;                   // [M, 52]: G
    const Pairs<T> d_block = {left}, d_transposed = {right};    // [M, M + 4]: d_S and d_S^T, when the chunks are done with
    const Pairs<T> transposed = {right + CHUNK_OR_PAIRS<T>}; // [M, M + 4]: P^T
    float *d_e_here = transposed.data + M * (M + 4);            // [2d]
    float *y_here = d_e_here + 4 * quads_of(window.width);      // [M]
    float *a_here = y_here + M;                                 // [M]
    float *d_p = a_here + M;                                    // [M], then p
    float *t = d_p + M;                                         // [M]: P d_p
    float *d_b = t + M;                                         // [M]
    float *d_y = d_b + M;                                       // [M]
    const unsigned lane = threadIdx.x % 32, quads = quads_of(window.width);
    const bool has_row = threadIdx.x / 32 < T, is_row = threadIdx.x < window.n;

    Fetched<T> next_left, next_right;
    const auto fetch = [&](unsigned begin) {
        if (f.d_attended) next_left.fetch(window.rows(f.d_attended), window, begin);
        next_right.fetch(window.rows(f.g), window, begin);
    };
    fetch(0);
    load_vector<BLOCK>(d_e_here, window.sample(f.d_e), window.width);
    const float y_own = is_row ? window.values(f.y)[threadIdx.x] : 0.0f, a_own = is_row ? window.values(f.a)[threadIdx.x] : 0.0f;
    const float p_own = is_row ? window.values(f.p)[threadIdx.x] : 0.0f;
    if (threadIdx.x < M) y_here[threadIdx.x] = y_own, a_here[threadIdx.x] = a_own;
    if (has_row) {
        RowOfPairs<T> row;
        const float *line = window.block(f.probabilities) + row_of_pairs() * window.n;
        row.each([&](float &x, unsigned column) { x = row_of_pairs() < window.n && column < window.n ? __ldg(line + column) : 0.0f; });
        row.store_transposed(transposed);
    }
    Scores<T> scores = {};
    float dot = 0.0f;
    const auto put = [&] {
        if (f.d_attended) next_left.put(left);
        next_right.put(right);
    };
    for_chunks(quads, fetch, put, [&](unsigned first, unsigned here) {
        if (f.d_attended) add_scores<T>(scores, left, right, here);
        if (has_row) dot += dot_of_row(right, d_e_here + 4 * first, here);
    });
    if (has_row) {
        dot = sum_of_four<OF_ROW_APART>(dot);
        if (lane < 8) d_p[row_of_pairs()] = dot;
    }
    if (f.d_attended) {
        share_scores<T>(d_block, d_transposed, scores);
    } else {
        __syncthreads();
    }

    // Back through the readout, and through the softmax of the warp's rows.
    RowOfPairs<T> probabilities, gradient = {};
    float t_own = 0.0f;
    if (has_row) {
        probabilities.load_transposed(transposed);
        if (f.d_attended) gradient.load(d_block), gradient.add(d_transposed);
        t_own = probabilities.dot(d_p);
        if (lane < 8) t[row_of_pairs()] = t_own;
    }
    __syncthreads();
    float of_all = 0.0f;
    for (unsigned j = lane; j < M; j += 32) of_all += a_here[j] * t[j];
    of_all = warp_sum(of_all);
    if (has_row) {
        const float a = a_here[row_of_pairs()], d_b_own = a * (t_own - of_all);
        if (lane < 8) d_b[row_of_pairs()] = d_b_own;
        gradient.each([&](float &x, unsigned column) { x += a * d_p[column] + d_b_own * y_here[column]; });
        float dot = 0.0f;
#pragma unroll
        for (unsigned i = 0; i < T; i++) dot += probabilities.x[i].x * gradient.x[i].x + probabilities.x[i].y * gradient.x[i].y;
        dot = sum_of_four<OF_ROW_APART>(dot);
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            gradient.x[i].x = f.scale * probabilities.x[i].x * (gradient.x[i].x - dot);
            gradient.x[i].y = f.scale * probabilities.x[i].y * (gradient.x[i].y - dot);
        }
        gradient.store(d_block), gradient.store_transposed(d_transposed);
    }
    __syncthreads();
    if (has_row) {
        RowOfPairs<T> row;
        row.load(transposed);
        const float sum = row.dot(d_b);
        if (lane < 8) d_y[row_of_pairs()] = sum;
    }
    float *p_here = d_p;
    if (threadIdx.x < M) p_here[threadIdx.x] = p_own;
    __syncthreads();

    Group::each(window, [&](const Group &group) {
        sum_of_rows<T>(window.sample(f.d_w), d_y, window.rows(f.g), window, group);
        Quad results[T] = {};
        add_products<T>(results, d_block, window.rows(f.g), window, group);
        store_results<T>(window.rows(f.d_projected), results, window, group);
#pragma unroll
        for (unsigned i = 0; i < T; i++) results[i] = {};
        // The smallest first: what is added to little rounds little.
        add_products<T>(results, d_transposed, window.rows(f.projected), window, group);
        if (f.d_attended) add_products<T>(results, transposed, window.rows(f.d_attended), window, group);
        const Quad d_e = quad_at(d_e_here, group.quad);
        const Quad w = load_quad(window.sample(f.w), group.quad, window.width);
#pragma unroll
        for (unsigned i = 0; i < T; i++) {
            const unsigned row = tile_row() + 8 * i;
            add_multiple(results[i], p_here[row], d_e), add_multiple(results[i], d_y[row], w);
            if (!f.d_states || row >= window.n) continue;
            add_quad(results[i], load_quad(window.rows(f.d_states) + row * window.width, group.quad, window.width));
        }
        store_results<T>(window.rows(f.d_g), results, window, group);
    });
}

// Runs the body for as many rows as the window has, of the up to MOST that the kernel is for.
template <unsigned MOST, unsigned T = 1, class Body> __device__ __forceinline__ void with_tiles(unsigned tiles, Body body) {
    if constexpr (T < MOST) {
        if (tiles > T) return with_tiles<MOST, T + 1>(tiles, body);
    }
    body(std::integral_constant<unsigned, T>());
}

// For each longest window, DEFINE(longest, blocks a multiprocessor).
#define FOR_LONGEST(DEFINE)                                                                                                             \
    DEFINE(40, 2)                                                                                                                       \
    DEFINE(64, 1)

#define WINDOW_ATTENTION(longest, blocks)                                                                                               \
    extern "C" __global__ void __launch_bounds__(BLOCK, blocks) window_attention_f32_##longest(                                         \
        float *__restrict__ probabilities, float *__restrict__ attended, float *__restrict__ e, float *__restrict__ y,                  \
        float *__restrict__ a, float *__restrict__ p, const float *__restrict__ w, const float *__restrict__ g,                         \
        const float *__restrict__ projected, const unsigned *__restrict__ pairs, const unsigned *__restrict__ offset,                   \
        const Header *__restrict__ header, float scale, unsigned width, size_t run_stride) {                             \
        if (blockIdx.x >= of_run(header, run_stride)->samples) return;                                                                  \
        const Window window = window_of(pairs, offset, width, run_stride);                                                              \
        __builtin_assume(window.width % 2 == 0); /* 2d: what quad.cuh has for odd widths would be a quarter of the code */              \
        if (window.n == 0) return clear_sample(e, window);                                                                              \
        const Forward f = {probabilities, attended, e, y, a, p, w, g, projected, scale};                                          \
        with_tiles<longest / 8>((window.n + 7) / 8, [&](auto tiles) { window_attention<decltype(tiles)::value>(window, f); });          \
    }

FOR_LONGEST(WINDOW_ATTENTION)

#define WINDOW_ATTENTION_BACKWARD(longest, blocks)                                                                                      \
    extern "C" __global__ void __launch_bounds__(BLOCK, blocks) window_attention_backward_f32_##longest(                                \
        float *__restrict__ d_projected, float *__restrict__ d_g, float *__restrict__ d_w, const float *__restrict__ d_e,               \
        const float *__restrict__ d_attended, const float *__restrict__ d_states, const float *__restrict__ y,                          \
        const float *__restrict__ a, const float *__restrict__ p, const float *__restrict__ w, const float *__restrict__ g,             \
        const float *__restrict__ projected, const float *__restrict__ probabilities, const unsigned *__restrict__ pairs,               \
        const unsigned *__restrict__ offset, const Header *__restrict__ header, float scale, unsigned width,                            \
        size_t run_stride) {                                                                                                            \
        if (blockIdx.x >= of_run(header, run_stride)->samples) return;                                                                  \
        const Window window = window_of(pairs, offset, width, run_stride);                                                              \
        __builtin_assume(window.width % 2 == 0); /* 2d: what quad.cuh has for odd widths would be a quarter of the code */              \
        if (window.n == 0) return clear_sample(d_w, window);                                                                            \
        const Backward f = {d_projected, d_g, d_w, d_e, d_attended, d_states, y, a, p, w, g, projected, probabilities, scale};    \
        with_tiles<longest / 8>((window.n + 7) / 8, [&](auto tiles) { window_attention_backward<decltype(tiles)::value>(window, f); }); \
    }

FOR_LONGEST(WINDOW_ATTENTION_BACKWARD)
