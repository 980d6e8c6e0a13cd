// Attention backwards for any head size and both number formats, and what the fast version needs first. Sequences lie one after another
// in the rows of qkv: tiles, in which every query sees every key, or segments, in which it sees those up to its own.

// A row's numbers of a head, spread over a warp: lane i has numbers i, i + 32, …
constexpr int MOST_PARTS = 5;

struct Spread {
    float of[MOST_PARTS];

    DEVICE void clear() {
        for (int part = 0; part < MOST_PARTS; part++) of[part] = 0.f;
    }
    template <class T> DEVICE void load(const T* x, u32 d) {
        for (int part = 0; part < MOST_PARTS; part++) {
            u32 i = part * WARP + threadIdx.x % WARP;
            of[part] = i < d ? to_f32(x[i]) : 0.f;
        }
    }
    template <class T> DEVICE void store(T* x, u32 d, float factor) const {
        for (int part = 0; part < MOST_PARTS; part++) {
            u32 i = part * WARP + threadIdx.x % WARP;
            if (i < d) x[i] = from_f32<T>(of[part] * factor);
        }
    }
    DEVICE float dot(const Spread& other) const {
        float sum = 0.f;
        for (int part = 0; part < MOST_PARTS; part++) sum += of[part] * other.of[part];
        return warp_sum(sum);
    }
    DEVICE void add(const Spread& other, float factor) {
        for (int part = 0; part < MOST_PARTS; part++) of[part] += other.of[part] * factor;
    }
};

// Which rows belong together: `positions` in segments, or tiles of `tile_rows`.
struct Sequences {
    const u32* positions;
    u32 tile_rows, rows;

    // The first row that a query sees, and one after the last.
    DEVICE u32 first(u32 row) const { return positions ? row - positions[row] : row / tile_rows * tile_rows; }
    DEVICE u32 seen(u32 row) const { return positions ? row + 1 : first(row) + tile_rows; }
    // The first query that sees a key; and whether a later row belongs to the same sequence.
    DEVICE u32 first_query(u32 key) const { return positions ? key : first(key); }
    DEVICE bool together(u32 key, u32 query) const {
        if (query >= rows) return false;
        return positions ? positions[query] == positions[key] + (query - key) : query / tile_rows == key / tile_rows;
    }
};

struct Attention {
    const void* qkv;  // turned where there are positions: [rows, (heads + 2 kv_heads) · d]
    void* out;
    const void* dy;
    void* dqkv;
    float* sums;  // [heads][rows]: log of the sum of exponentials, in units of log2
    float* deltas;  // [heads][rows]: dy · out
    Sequences sequences;
    u32 heads, kv_heads, d;
};

// Forwards, a warp for each row and head, grid (rows / warps, heads).
template <class T> DEVICE void sequence_attention(const Attention& a) {
    const u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, head = blockIdx.y, d = a.d;
    if (row >= a.sequences.rows) return;
    const u32 width = (a.heads + 2 * a.kv_heads) * d, kv_head = head / (a.heads / a.kv_heads);
    const T* qkv = (const T*)a.qkv;
    Spread query, key, value, sum;
    query.load(qkv + (u64)row * width + head * d, d);
    sum.clear();
    const float scale = rsqrtf((float)d) * LOG2_E;
    float most = -INFINITY, total = 0.f;
    const u32 last = a.sequences.seen(row);
    for (u32 i = a.sequences.first(row); i < last; i++) {
        key.load(qkv + (u64)i * width + (a.heads + kv_head) * d, d);
        value.load(qkv + (u64)i * width + (a.heads + a.kv_heads + kv_head) * d, d);
        const float score = query.dot(key) * scale, higher = fmaxf(most, score);
        const float old = exp2f(most - higher), weight = exp2f(score - higher);
        most = higher;
        total = total * old + weight;
        for (int part = 0; part < MOST_PARTS; part++) sum.of[part] *= old;
        sum.add(value, weight);
    }
    if (threadIdx.x % WARP == 0) a.sums[(u64)head * a.sequences.rows + row] = most + log2f(total);
    sum.store((T*)a.out + ((u64)row * a.heads + head) * d, d, 1.f / total);
}

// The same grid: the other number that both passes backwards need of a query.
template <class T> DEVICE void attention_deltas(const Attention& a) {
    const u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, head = blockIdx.y;
    if (row >= a.sequences.rows) return;
    const u64 at = ((u64)row * a.heads + head) * a.d;
    Spread out, dy;
    out.load((const T*)a.out + at, a.d);
    dy.load((const T*)a.dy + at, a.d);
    const float delta = out.dot(dy);
    if (threadIdx.x % WARP == 0) a.deltas[(u64)head * a.sequences.rows + row] = delta;
}

// The same grid: gradients of queries.
template <class T> DEVICE void attention_queries(const Attention& a) {
    const u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, head = blockIdx.y, d = a.d;
    if (row >= a.sequences.rows) return;
    const u32 width = (a.heads + 2 * a.kv_heads) * d, kv_head = head / (a.heads / a.kv_heads);
    const T* qkv = (const T*)a.qkv;
    Spread query, dy, key, value, dquery;
    query.load(qkv + (u64)row * width + head * d, d);
    dy.load((const T*)a.dy + ((u64)row * a.heads + head) * d, d);
    dquery.clear();
    const float scale = rsqrtf((float)d);
    const float sum = a.sums[(u64)head * a.sequences.rows + row], delta = a.deltas[(u64)head * a.sequences.rows + row];
    const u32 last = a.sequences.seen(row);
    for (u32 i = a.sequences.first(row); i < last; i++) {
        key.load(qkv + (u64)i * width + (a.heads + kv_head) * d, d);
        value.load(qkv + (u64)i * width + (a.heads + a.kv_heads + kv_head) * d, d);
        const float p = exp2f(query.dot(key) * scale * LOG2_E - sum);
        dquery.add(key, p * (dy.dot(value) - delta));
    }
    dquery.store((T*)a.dqkv + (u64)row * width + head * d, d, scale);
}

// A warp for each row and key-value head, grid (rows / warps, kv_heads): gradients of keys and values.
template <class T> DEVICE void attention_keys(const Attention& a) {
    const u32 row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP, kv_head = blockIdx.y, d = a.d;
    if (row >= a.sequences.rows) return;
    const u32 width = (a.heads + 2 * a.kv_heads) * d, group = a.heads / a.kv_heads;
    const T* qkv = (const T*)a.qkv;
    const u64 key_at = (u64)row * width + (a.heads + kv_head) * d, value_at = key_at + a.kv_heads * d;
    Spread key, value, query, dy, dkey, dvalue;
    key.load(qkv + key_at, d);
    value.load(qkv + value_at, d);
    dkey.clear();
    dvalue.clear();
    const float scale = rsqrtf((float)d);
    for (u32 i = a.sequences.first_query(row); a.sequences.together(row, i); i++) {
        for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++) {
            query.load(qkv + (u64)i * width + head * d, d);
            dy.load((const T*)a.dy + ((u64)i * a.heads + head) * d, d);
            const u64 at = (u64)head * a.sequences.rows + i;
            const float p = exp2f(query.dot(key) * scale * LOG2_E - a.sums[at]);
            dvalue.add(dy, p);
            dkey.add(query, p * (dy.dot(value) - a.deltas[at]));
        }
    }
    dkey.store((T*)a.dqkv + key_at, d, scale);
    dvalue.store((T*)a.dqkv + value_at, d, 1.f);
}

// out = queries and keys of `qkv` turned by their positions' angles (`direction` 1) or back (−1), with the values as they are. A block for
// each row; in place where both are one.
template <class T>
DEVICE void turn(const T* qkv, T* out, const u32* positions, const float* cosines, const float* sines, u32 heads, u32 kv_heads, u32 d,
                 float direction) {
    const u32 row = blockIdx.x, half = d / 2, position = positions[row], width = (heads + 2 * kv_heads) * d;
    const T* from = qkv + (u64)row * width;
    T* to = out + (u64)row * width;
    for (u32 i = threadIdx.x; i < (heads + kv_heads) * half; i += blockDim.x) {
        const u32 at = i / half * d + i % half;
        const float a = to_f32(from[at]), b = to_f32(from[at + half]);
        const float c = cosines[(u64)position * half + i % half], s = direction * sines[(u64)position * half + i % half];
        to[at] = from_f32<T>(a * c - b * s);
        to[at + half] = from_f32<T>(b * c + a * s);
    }
    if (from != to)
        for (u32 i = (heads + kv_heads) * d + threadIdx.x; i < width; i += blockDim.x) to[i] = from[i];
}

// deltas[head][row] = dy · out for heads of 64 in bf16: eight lanes for each row and head.
extern "C" __global__ void attention_deltas_64(const bf16* dy, const bf16* out, float* deltas, u32 rows, u32 heads) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, pair = i / 8;
    float a[8], b[8], sum = 0.f;
    if (pair < (u64)rows * heads) {
        widen(*(const uint4*)(dy + i * 8), a);
        widen(*(const uint4*)(out + i * 8), b);
        for (int k = 0; k < 8; k++) sum += a[k] * b[k];
    }
    for (int offset = 1; offset < 8; offset *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (i % 8 == 0 && pair < (u64)rows * heads) deltas[pair % heads * rows + pair / heads] = sum;
}

#define TRAINING_ATTENTION(T, NAME)                                                                                                         \
    extern "C" __global__ void attention_deltas_##NAME(const __grid_constant__ Attention a) { attention_deltas<T>(a); }             \
    extern "C" __global__ void attention_queries_##NAME(const __grid_constant__ Attention a) { attention_queries<T>(a); }           \
    extern "C" __global__ void attention_keys_##NAME(const __grid_constant__ Attention a) { attention_keys<T>(a); }                 \
    extern "C" __global__ void sequence_attention_##NAME(const __grid_constant__ Attention a) { sequence_attention<T>(a); }         \
    extern "C" __global__ void turn_##NAME(const T* qkv, T* out, const u32* positions, const float* cosines, const float* sines,            \
                                           u32 heads, u32 kv_heads, u32 d, float direction) {                                              \
        turn(qkv, out, positions, cosines, sines, heads, kv_heads, d, direction);                                                           \
    }
TRAINING_ATTENTION(float, f32)
TRAINING_ATTENTION(bf16, bf16)
