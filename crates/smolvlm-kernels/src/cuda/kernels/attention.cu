// Attention for any head size and both number formats, and what all paged attention needs first. Fast versions for bf16
// are in files of their own.

// A page of one layer: keys [kv_heads][64 tokens][d], then values alike.
constexpr u32 PAGE = 64;

// Where the cache of one layer lies. `pages` of it are `stride` numbers apart.
template <class T> DEVICE T* page_of(T* cache, u64 stride, u32 page) { return cache + page * stride; }

// Rotates queries and keys to their positions, in place for queries; keys and values go to their pages.
// One block per row; `qkv` is [rows, (heads + 2 kv_heads) · d].
template <class T>
DEVICE void rotate_append(T* qkv, T* cache, u64 stride, const u32* positions, const u32* first_pages, const u32* pages,
                          const float* cosines, const float* sines, u32 heads, u32 kv_heads, u32 d) {
    u32 row = blockIdx.x, position = positions[row], half = d / 2;
    T* x = qkv + (u64)row * (heads + 2 * kv_heads) * d;
    T* keys = page_of(cache, stride, pages[first_pages[row] + position / PAGE]);
    T* values = keys + (u64)kv_heads * PAGE * d;
    u32 slot = position % PAGE;
    for (u32 i = threadIdx.x; i < (heads + kv_heads) * half; i += blockDim.x) {
        u32 head = i / half, j = i % half;
        T* from = x + head * d + j;
        float a = to_f32(from[0]), b = to_f32(from[half]);
        float c = cosines[(u64)position * half + j], s = sines[(u64)position * half + j];
        T* to = head < heads ? from : keys + ((u64)(head - heads) * PAGE + slot) * d + j;
        to[0] = from_f32<T>(a * c - b * s);
        to[half] = from_f32<T>(b * c + a * s);
    }
    for (u32 i = threadIdx.x; i < kv_heads * d; i += blockDim.x)
        values[((u64)(i / d) * PAGE + slot) * d + i % d] = x[(heads + kv_heads) * d + i];
}

// A query's numbers, its running maximum, sum and weighted values, spread over a warp: lane i has numbers i, i + 32, …
constexpr int MOST_PARTS = 5;

struct Query {
    float q[MOST_PARTS], sum[MOST_PARTS], most, total;
    u32 d;

    template <class T> DEVICE void begin(const T* query, u32 size) {
        d = size;
        most = -INFINITY;
        total = 0.f;
        float scale = rsqrtf((float)d);
        for (int part = 0; part < MOST_PARTS; part++) {
            u32 i = part * WARP + threadIdx.x % WARP;
            q[part] = i < d ? to_f32(query[i]) * scale : 0.f;
            sum[part] = 0.f;
        }
    }

    template <class T> DEVICE void meet(const T* key, const T* value) {
        float dot = 0.f;
        for (int part = 0; part < MOST_PARTS; part++) {
            u32 i = part * WARP + threadIdx.x % WARP;
            if (i < d) dot += q[part] * to_f32(key[i]);
        }
        float score = warp_sum(dot), higher = fmaxf(most, score);
        float old = expf(most - higher), weight = expf(score - higher);
        most = higher;
        total = total * old + weight;
        for (int part = 0; part < MOST_PARTS; part++) {
            u32 i = part * WARP + threadIdx.x % WARP;
            if (i < d) sum[part] = sum[part] * old + weight * to_f32(value[i]);
        }
    }

    template <class T> DEVICE void end(T* out) {
        for (int part = 0; part < MOST_PARTS; part++) {
            u32 i = part * WARP + threadIdx.x % WARP;
            if (i < d) out[i] = from_f32<T>(sum[part] / total);
        }
    }
};

// One warp per row and head: grid (rows / warps, heads).
template <class T> DEVICE void tile_attention_any(const T* qkv, T* out, u32 rows, u32 tile_rows, u32 heads, u32 d) {
    u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, head = blockIdx.y;
    if (row >= rows) return;
    u64 width = 3ull * heads * d;
    const T* keys = qkv + (u64)(row / tile_rows) * tile_rows * width + (heads + head) * d;
    Query query;
    query.begin(qkv + row * width + head * d, d);
    for (u32 i = 0; i < tile_rows; i++) query.meet(keys + i * width, keys + i * width + (u64)heads * d);
    query.end(out + ((u64)row * heads + head) * d);
}

// One warp per row and head: grid (rows / warps, heads).
template <class T>
DEVICE void paged_attention_any(const T* qkv, const T* cache, u64 stride, const u32* positions, const u32* first_pages,
                                const u32* pages, T* out, u32 rows, u32 heads, u32 kv_heads, u32 d) {
    u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, head = blockIdx.y;
    if (row >= rows) return;
    u32 kv_head = head / (heads / kv_heads);
    pages += first_pages[row];
    Query query;
    query.begin(qkv + (u64)row * (heads + 2 * kv_heads) * d + head * d, d);
    for (u32 i = 0; i <= positions[row]; i++) {
        const T* key = page_of(cache, stride, pages[i / PAGE]) + ((u64)kv_head * PAGE + i % PAGE) * d;
        query.meet(key, key + (u64)kv_heads * PAGE * d);
    }
    query.end(out + ((u64)row * heads + head) * d);
}

#define ATTENTION(T, NAME)                                                                                                       \
    extern "C" __global__ void rotate_append_##NAME(T* qkv, T* cache, u64 stride, const u32* positions, const u32* first_pages,  \
                                                    const u32* pages, const float* cosines, const float* sines, u32 heads,       \
                                                    u32 kv_heads, u32 d) {                                                      \
        rotate_append(qkv, cache, stride, positions, first_pages, pages, cosines, sines, heads, kv_heads, d);                    \
    }                                                                                                                            \
    extern "C" __global__ void tile_attention_##NAME(const T* qkv, T* out, u32 rows, u32 tile_rows, u32 heads, u32 d) {          \
        tile_attention_any(qkv, out, rows, tile_rows, heads, d);                                                                 \
    }                                                                                                                            \
    extern "C" __global__ void paged_attention_##NAME(const T* qkv, const T* cache, u64 stride, const u32* positions,            \
                                                      const u32* first_pages, const u32* pages, T* out, u32 rows, u32 heads,     \
                                                      u32 kv_heads, u32 d) {                                                    \
        paged_attention_any(qkv, cache, stride, positions, first_pages, pages, out, rows, heads, kv_heads, d);                   \
    }
ATTENTION(float, f32)
ATTENTION(bf16, bf16)

// Decoding in bf16 with heads of 64: one block per sequence, key-value head and part of the keys. Eight lanes hold a key (16 bytes each), so
// a warp meets four keys at once and a block 32; keys and values of a round of 128 are all on their way before the first is used.
constexpr int D = 64;
constexpr int DECODE_WARPS = 8;
constexpr int LANES_PER_KEY = 8;
constexpr int SLOTS = DECODE_WARPS * (WARP / LANES_PER_KEY);
constexpr int KEYS_PER_SLOT = 4;
constexpr int ROUND = SLOTS * KEYS_PER_SLOT;

// A sequence's keys and values of one key-value head.
struct Past {
    const bf16* cache;  // of the head in page 0
    u64 stride, values;
    const u32* pages;
    u32 position;

    DEVICE u64 offset(u32 key) const { return pages[key / PAGE] * stride + (key % PAGE) * D; }
};

template <int GROUP> struct Decode {
    float q[GROUP][8], sum[GROUP][8], most[GROUP], total[GROUP];
    uint4 keys[KEYS_PER_SLOT], values[KEYS_PER_SLOT];

    // What lies in the cache of a round of keys from `first` on; the newest is not there yet.
    DEVICE void load(const Past& past, u32 first, u32 last, u32 slot, u32 column) {
#pragma unroll
        for (int k = 0; k < KEYS_PER_SLOT; k++) {
            u32 i = first + k * SLOTS + slot;
            keys[k] = values[k] = make_uint4(0, 0, 0, 0);
            if (i >= last || i == past.position) continue;
            const bf16* at = past.cache + past.offset(i) + column;
            keys[k] = *(const uint4*)at;
            values[k] = *(const uint4*)(at + past.values);
        }
    }

    DEVICE void meet(const Past& past, u32 first, u32 last, u32 slot, u32 column, const bf16* newest) {
        float scores[GROUP][KEYS_PER_SLOT];
#pragma unroll
        for (int k = 0; k < KEYS_PER_SLOT; k++) {
            u32 i = first + k * SLOTS + slot;
            if (i == past.position) {
                keys[k] = *(const uint4*)(newest + column);
                values[k] = *(const uint4*)(newest + D + column);
            }
            float key[8];
            widen(keys[k], key);
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                float score = 0.f;
                for (int j = 0; j < 8; j++) score += q[g][j] * key[j];
                for (int offset = 1; offset < LANES_PER_KEY; offset *= 2) score += __shfl_xor_sync(ALL_LANES, score, offset);
                scores[g][k] = i < last ? score : -INFINITY;
            }
        }
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float higher = most[g];
            for (int k = 0; k < KEYS_PER_SLOT; k++) higher = fmaxf(higher, scores[g][k]);
            // A slot that never met a key has nothing to compare with.
            float reference = higher == -INFINITY ? 0.f : higher, old = exp2f(most[g] - reference);
            most[g] = higher;
            total[g] *= old;
            for (int j = 0; j < 8; j++) sum[g][j] *= old;
            for (int k = 0; k < KEYS_PER_SLOT; k++) total[g] += scores[g][k] = exp2f(scores[g][k] - reference);
        }
#pragma unroll
        for (int k = 0; k < KEYS_PER_SLOT; k++) {
            float value[8];
            widen(values[k], value);
            for (int g = 0; g < GROUP; g++)
                for (int j = 0; j < 8; j++) sum[g][j] += scores[g][k] * value[j];
        }
    }

    // Adds up what the four slots of a warp met.
    DEVICE void merge_warp() {
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            float highest = most[g];
            for (int offset = LANES_PER_KEY; offset < WARP; offset *= 2)
                highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, offset));
            float scale = highest == -INFINITY ? 0.f : exp2f(most[g] - highest);
            most[g] = highest;
            total[g] *= scale;
            for (int j = 0; j < 8; j++) sum[g][j] *= scale;
            for (int offset = LANES_PER_KEY; offset < WARP; offset *= 2) {
                total[g] += __shfl_xor_sync(ALL_LANES, total[g], offset);
                for (int j = 0; j < 8; j++) sum[g][j] += __shfl_xor_sync(ALL_LANES, sum[g][j], offset);
            }
        }
    }
};

// Rotates the queries of a key-value head to their position, and the newest key, which is kept with its value in `newest`; the block
// that meets it appends both.
template <int GROUP>
DEVICE void rotate_group(const bf16* qkv, float (*queries)[D], bf16* newest, bf16* place, u64 values, u32 kv_heads, u32 kv_head,
                         bool appends, const float* cosines, const float* sines) {
    constexpr u32 HALF = D / 2;
    const bf16* key = qkv + (kv_heads * GROUP + kv_head) * D;
    for (u32 i = threadIdx.x; i < (GROUP + 1) * HALF; i += blockDim.x) {
        u32 head = i / HALF, j = i % HALF;
        const bf16* from = head < GROUP ? qkv + (kv_head * GROUP + head) * D : key;
        float a = to_f32(from[j]), b = to_f32(from[j + HALF]);
        float first = a * cosines[j] - b * sines[j], second = b * cosines[j] + a * sines[j];
        if (head < GROUP) {
            queries[head][j] = rounded<bf16>(first);
            queries[head][j + HALF] = rounded<bf16>(second);
        } else {
            newest[j] = from_f32<bf16>(first);
            newest[j + HALF] = from_f32<bf16>(second);
            if (appends) place[j] = newest[j], place[j + HALF] = newest[j + HALF];
        }
    }
    for (u32 i = threadIdx.x; i < D; i += blockDim.x) {
        newest[D + i] = key[kv_heads * D + i];
        if (appends) place[values + i] = newest[D + i];
    }
}

// Grid (kv_heads, sequences, parts of `part` keys, a multiple of 128). Rotates and appends too. With one part the result is written to
// `out`; else numbers before division, maximum and sum go to `partial` [sequence][head][part][66] for `merge_parts`.
template <int GROUP>
DEVICE void decode_attention(const bf16* qkv, bf16* cache, u64 stride, const u32* positions, const u32* first_pages,
                             const u32* pages, const float* cosines, const float* sines, bf16* out, float* partial,
                             u32 kv_heads, u32 part) {
    let_next_start();
    u32 kv_head = blockIdx.x, row = blockIdx.y, heads = kv_heads * GROUP, position = positions[row];
    u32 keys = position + 1, first = blockIdx.z * part, last = min(keys, first + part);
    u32 warp = threadIdx.x / WARP, slot = threadIdx.x / LANES_PER_KEY, column = threadIdx.x % LANES_PER_KEY * 8;
    if (first >= keys) return await_previous();
    bf16* head_cache = cache + (u64)kv_head * PAGE * D;
    Past past = {head_cache, stride, (u64)kv_heads * PAGE * D, pages + first_pages[row], position};
    Decode<GROUP> state;
    state.load(past, first, last, slot, column);

    __shared__ float queries[GROUP][D];
    __shared__ __align__(16) bf16 newest[2 * D];
    await_previous();
    rotate_group<GROUP>(qkv + (u64)row * (heads + 2 * kv_heads) * D, queries, newest, head_cache + past.offset(position), past.values,
                        kv_heads, kv_head, last == keys, cosines + (u64)position * (D / 2), sines + (u64)position * (D / 2));
    __syncthreads();
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        for (int i = 0; i < 8; i++) {
            state.q[g][i] = queries[g][column + i] * (0.125f * LOG2_E);
            state.sum[g][i] = 0.f;
        }
        state.most[g] = -INFINITY;
        state.total[g] = 0.f;
    }
    for (u32 round = first; round < last; round += ROUND) {
        if (round > first) state.load(past, round, last, slot, column);
        state.meet(past, round, last, slot, column, newest);
    }
    state.merge_warp();

    __shared__ float sums[DECODE_WARPS][GROUP][D];
    __shared__ float most[DECODE_WARPS][GROUP], total[DECODE_WARPS][GROUP];
    if (threadIdx.x % WARP < LANES_PER_KEY) {
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
            for (int i = 0; i < 8; i++) sums[warp][g][column + i] = state.sum[g][i];
            if (column == 0) most[warp][g] = state.most[g], total[warp][g] = state.total[g];
        }
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < GROUP * D; i += blockDim.x) {
        u32 g = i / D, column = i % D;
        float highest = -INFINITY, numerator = 0.f, denominator = 0.f;
        for (int s = 0; s < DECODE_WARPS; s++) highest = fmaxf(highest, most[s][g]);
        for (int s = 0; s < DECODE_WARPS; s++) {
            float scale = exp2f(most[s][g] - highest);
            numerator += scale * sums[s][g][column];
            denominator += scale * total[s][g];
        }
        u64 head = (u64)row * heads + kv_head * GROUP + g;
        if (gridDim.z == 1) {
            out[head * D + column] = from_f32<bf16>(numerator / denominator);
        } else {
            float* to = partial + (head * gridDim.z + blockIdx.z) * (D + 2);
            to[column] = numerator;
            if (column == 0) to[D] = highest, to[D + 1] = denominator;
        }
    }
}

// Grid (heads, sequences), a block of 64 threads.
extern "C" __global__ void merge_parts(const float* partial, const u32* positions, bf16* out, u32 part, u32 most_parts) {
    let_next_start();
    u32 row = blockIdx.y, parts = positions[row] / part + 1;
    u64 head = (u64)row * gridDim.x + blockIdx.x;
    partial += head * most_parts * (D + 2);
    await_previous();
    float highest = -INFINITY, numerator = 0.f, denominator = 0.f;
    for (u32 p = 0; p < parts; p++) highest = fmaxf(highest, partial[p * (D + 2) + D]);
    for (u32 p = 0; p < parts; p++) {
        float scale = exp2f(partial[p * (D + 2) + D] - highest);
        numerator += scale * partial[p * (D + 2) + threadIdx.x];
        denominator += scale * partial[p * (D + 2) + D + 1];
    }
    out[head * D + threadIdx.x] = from_f32<bf16>(numerator / denominator);
}

#define DECODE(GROUP)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) decode_attention_##GROUP(                                                    \
        const bf16* qkv, bf16* cache, u64 stride, const u32* positions, const u32* first_pages, const u32* pages,                  \
        const float* cosines, const float* sines, bf16* out, float* partial, u32 kv_heads, u32 part) {                             \
        decode_attention<GROUP>(qkv, cache, stride, positions, first_pages, pages, cosines, sines, out, partial, kv_heads, part);  \
    }
DECODE(1)
DECODE(2)
DECODE(3)
DECODE(4)
