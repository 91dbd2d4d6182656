// How a tile of a product reads an operand from global memory: float32 or f16, rows of any length and alignment.
//
// A thread reads pieces of four neighbours of a row: as one LDG.128 (f16: LDG.64) where the operand's rows are aligned to that, two by two
// where they are aligned to pairs (an even width), else one by one. What does not change along k is computed once: where the rows of the
// thread's pieces lie, in elements from the operand's start (an operand has fewer than 2^32), and whether they lie in it at all. What lies
// outside is zero and is not read.
#pragma once

#include "batch.cuh"
#include "element.cuh"

// How an operand lies in memory, by the index that runs along a row.
enum class Rows { OfK, Across };

// An operand of a tile: element (i, k), where i is a row of C for A and a column of C for B.
template <Rows ROWS, class Element> struct Operand {
    const Element *data;
    unsigned stride;        // between rows, in elements
    const unsigned *index;  // which rows, or null for all in order; NONE is a row of zeros
    const float *scale;     // by k: what rows are multiplied with (Rows::Across), or null
    unsigned split;         // from this k on ..
    long long beyond;       // .. rows lie so many elements further (Rows::Across, without an index)
    bool ones;              // behind its columns is one more, of ones (Rows::Across)
    unsigned gap_at = 0;    // columns from this one on ..
    unsigned gap = 0;       // .. lie so many further (Rows::Across)
};

// Four neighbours of a row on their way from an operand to a tile, as they are in memory.
template <class Element> struct Four;

template <> struct Four<float> {
    float x[4];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = 0.0f;
    }
    __device__ __forceinline__ void read(const float *from) {
        const float4 four = *reinterpret_cast<const float4 *>(from);
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
    }
    // `count` of them two by two, those from `apart` on `gap` further: all three are even.
    __device__ __forceinline__ void read_pairs(const float *from, unsigned count, unsigned apart, unsigned gap) {
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const float2 two = e < count ? *reinterpret_cast<const float2 *>((e < apart ? from : from + gap) + e) : make_float2(0.0f, 0.0f);
            x[e] = two.x, x[e + 1] = two.y;
        }
    }
    // The same one by one, of any.
    __device__ __forceinline__ void read_singly(const float *from, unsigned count, unsigned apart, unsigned gap) {
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = e < count ? (e < apart ? from : from + gap)[e] : 0.0f;
    }
    __device__ __forceinline__ void scale(float factor) {
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] *= factor;
    }
    __device__ __forceinline__ void put(unsigned at, float value) {
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = at == e ? value : x[e];
    }
    // As halves.
    __device__ __forceinline__ uint2 rounded() const { return make_uint2(pack(x[0], x[1]), pack(x[2], x[3])); }
};

template <> struct Four<__half> {
    uint2 words;

    __device__ __forceinline__ void clear() { words = make_uint2(0, 0); }
    __device__ __forceinline__ void read(const __half *from) { words = *reinterpret_cast<const uint2 *>(from); }
    __device__ __forceinline__ void read_pairs(const __half *from, unsigned count, unsigned apart, unsigned gap) {
        const unsigned *second = reinterpret_cast<const unsigned *>((2 < apart ? from : from + gap) + 2);
        words.x = 0 < count ? *reinterpret_cast<const unsigned *>(0 < apart ? from : from + gap) : 0;
        words.y = 2 < count ? *second : 0;
    }
    __device__ __forceinline__ void read_singly(const __half *from, unsigned count, unsigned apart, unsigned gap) {
        unsigned x[4];
#pragma unroll
        for (int e = 0; e < 4; e++) x[e] = e < count ? __half_as_ushort((e < apart ? from : from + gap)[e]) : 0;
        words = make_uint2(x[0] | x[1] << 16, x[2] | x[3] << 16);
    }
    __device__ __forceinline__ void scale(float factor) {
        const float2 low = unpack(words.x), high = unpack(words.y);
        words = make_uint2(pack(low.x * factor, low.y * factor), pack(high.x * factor, high.y * factor));
    }
    __device__ __forceinline__ void put(unsigned at, float value) {
        const unsigned shift = at % 2 * 16, others = 0xffff0000u >> shift, bits = __half_as_ushort(narrow<__half>(value)) << shift;
        words.x = at < 2 ? (words.x & others) | bits : words.x;
        words.y = at < 2 ? words.y : (words.y & others) | bits;
    }
    __device__ __forceinline__ uint2 rounded() const { return words; }
};

// How many neighbours of a row may be read or written at once: 4, 2 or 1, where all places that a row may begin or end at are multiples of
// it. `places` are these, or-ed.
__device__ __forceinline__ unsigned neighbours_together(unsigned places) {
    return places % 4 == 0 ? 4 : places % 2 == 0 ? 2 : 1;
}

// Reads a tile of WIDTH i by DEPTH k, step by step along k.
template <Rows ROWS, class Element, int WIDTH, int DEPTH, int THREADS> struct Reader {
    // Pieces in a row of the tile, pieces of a thread, and rows from one of its pieces to the next.
    static constexpr int ALONG = (ROWS == Rows::OfK ? DEPTH : WIDTH) / 4;
    static constexpr int PIECES = WIDTH * DEPTH / 4 / THREADS;
    static constexpr int APART = THREADS / ALONG;
    static_assert(THREADS % ALONG == 0 && WIDTH * DEPTH % (4 * THREADS) == 0, "pieces fall to the threads alike");
    static constexpr bool SHORT = ALONG <= 8;
    static_assert(!SHORT || APART % 8 == 0, "the order of short rows is one of eight");

    Four<Element> next[PIECES];

    // A thread's row and column in the tile. Consecutive threads read along a row. Short rows are taken in the order 0, 4, 1, 5, 2,
    // 6, 3, 7: two of them that half a warp stores to an f16 tile then fall into different banks.
    static __device__ __forceinline__ unsigned row(int piece) {
        const unsigned line = threadIdx.x / ALONG;
        return piece * APART + (SHORT ? (line & ~7u) | (line & 1) << 2 | (line & 6) >> 1 : line);
    }
    static __device__ __forceinline__ unsigned column() { return threadIdx.x % ALONG * 4; }

    // `first` and `all`: the tile's first i, and how many the operand has, or where the tile ends, if that is before.
    __device__ __forceinline__ Reader(const Operand<ROWS, Element> &read, unsigned first, unsigned all, unsigned k_begin, unsigned k_end_)
        : operand(read), k(k_begin), k_end(k_end_), columns(all - read.ones) {
        const unsigned ends = ROWS == Rows::OfK ? k_begin | k_end : columns;
        const unsigned beyond = static_cast<unsigned>(operand.beyond);
        const unsigned start = reinterpret_cast<size_t>(operand.data) / sizeof(Element);
        const unsigned places = start | operand.stride | beyond | ends | operand.gap_at | operand.gap;
        fours = neighbours_together(places) == 4;
        pairs = neighbours_together(places) == 2;
        if (ROWS == Rows::OfK) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const unsigned i = first + row(piece);
                const unsigned line = i < columns ? (operand.index ? operand.index[i] : i) : NONE;
                from[piece] = line == NONE ? NONE : line * operand.stride + column();
            }
        } else {
            i = first + column();
            operand.data += i + (i < operand.gap_at ? 0 : operand.gap);
        }
        look_up();
    }

    // Reads the next tile along k.
    __device__ __forceinline__ void fetch() {
        // How many elements there are from the thread's column on.
        const unsigned at = ROWS == Rows::OfK ? k + column() : i, all = ROWS == Rows::OfK ? k_end : columns;
        const unsigned left = at < all ? all - at : 0;
        // Of a piece's columns, those from here on lie behind the gap. Where pieces are aligned to four it lies between two of them.
        const auto apart = [&] { return ROWS == Rows::Across && i < operand.gap_at ? operand.gap_at - i : 4; };
        if (fours) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                next[piece].clear();
                if (left && is_row(piece)) next[piece].read(place(piece));
            }
        } else if (pairs) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                next[piece].read_pairs(place(piece), is_row(piece) ? left : 0, apart(), operand.gap);
            }
        } else {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                next[piece].read_singly(place(piece), is_row(piece) ? left : 0, apart(), operand.gap);
            }
        }
        if (operand.scale) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) factor[piece] = is_row(piece) ? operand.scale[k + row(piece)] : 0.0f;
        }
        k += DEPTH;
        look_up();
    }

    // Multiplies what `fetch` read by its rows' factors, and puts the ones beside it: not before it is needed, so that nothing waits
    // for the reads.
    __device__ __forceinline__ void finish() {
        if (operand.scale) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) next[piece].scale(factor[piece]);
        }
        if (ROWS == Rows::Across && operand.ones && i <= columns && columns - i < 4) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                next[piece].put(columns - i, k - DEPTH + row(piece) < k_end ? 1.0f : 0.0f);
            }
        }
    }

  private:
    Operand<ROWS, Element> operand;
    unsigned k;  // that `fetch` reads from
    const unsigned k_end;
    const unsigned columns;  // that lie in memory
    bool fours, pairs;      // how many neighbours are read together: two predicates, where a number would take a register of the loop
    unsigned i;             // the thread's column (Rows::Across), at which its operand's data then begin
    unsigned from[PIECES];  // where the pieces' rows begin (Rows::OfK), or which they are (Rows::Across); NONE for zeros
    float factor[PIECES];

    // Rows of the next step: by an index they are read a step ahead, as the addresses of the operand's own reads wait for them.
    __device__ __forceinline__ void look_up() {
        if (ROWS == Rows::Across) {
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const unsigned at = k + row(piece);
                from[piece] = at < k_end ? (operand.index ? operand.index[at] : at) : NONE;
            }
        }
    }

    __device__ __forceinline__ bool is_row(int piece) const { return from[piece] != NONE; }

    __device__ __forceinline__ const Element *place(int piece) const {
        if (ROWS == Rows::OfK) return operand.data + (from[piece] + k);
        const Element *found = operand.data + from[piece] * operand.stride;
        return operand.beyond && from[piece] >= operand.split ? found + operand.beyond : found;
    }
};

// Neighbours of a row of C that a thread stores at once.
constexpr int STRIP = 4;

// N neighbours of a row at once.
template <class Element, int N> struct alignas(sizeof(Element) * N) Neighbours {
    Element x[N];
};

// A strip of the result, of which `count` are in it, read as many `together` as all its rows are aligned for.
template <class Element>
__device__ __forceinline__ void read_strip(float (&strip)[STRIP], const Element *from, unsigned count, unsigned together) {
    if (together == 4) {
        const auto four = *reinterpret_cast<const Neighbours<Element, 4> *>(from);
#pragma unroll
        for (int e = 0; e < 4; e++) strip[e] = widen(four.x[e]);
    } else if (together == 2) {
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            Neighbours<Element, 2> two = {};
            if (e < count) two = *reinterpret_cast<const Neighbours<Element, 2> *>(from + e);
            strip[e] = widen(two.x[0]), strip[e + 1] = widen(two.x[1]);
        }
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) strip[e] = e < count ? widen(from[e]) : 0.0f;
    }
}

template <class Element>
__device__ __forceinline__ void write_strip(Element *to, const float (&strip)[STRIP], unsigned count, unsigned together) {
    if (together == 4) {
        Neighbours<Element, 4> four;
#pragma unroll
        for (int e = 0; e < 4; e++) four.x[e] = narrow<Element>(strip[e]);
        *reinterpret_cast<Neighbours<Element, 4> *>(to) = four;
    } else if (together == 2) {
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
            const Neighbours<Element, 2> two = {narrow<Element>(strip[e]), narrow<Element>(strip[e + 1])};
            if (e < count) *reinterpret_cast<Neighbours<Element, 2> *>(to + e) = two;
        }
    } else {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            if (e < count) to[e] = narrow<Element>(strip[e]);
        }
    }
}

// How many neighbours of rows from `data` on may be read or written at once, where `columns` of each are.
template <class Element>
__device__ __forceinline__ unsigned strips_together(const Element *data, unsigned stride, unsigned columns) {
    return neighbours_together(static_cast<unsigned>(reinterpret_cast<size_t>(data) / sizeof(Element)) | stride | columns);
}
