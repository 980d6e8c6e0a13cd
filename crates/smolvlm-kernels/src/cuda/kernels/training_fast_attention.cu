// Attention for training in bf16 with heads of 64, on matrix units: forwards inside segments, and backwards. It follows
// `tensor_core.cuh` and `attention_common.cuh`.
//
// Backwards recomputes probabilities from the logarithms of the sums that forwards kept: a block for 64 queries meets all their keys and adds
// up their gradient, another for 64 keys meets all their queries and adds up that of keys and values. Nothing is added in memory,
// so the result is the same in every run.

constexpr int HEAD = 64, BLOCK = 64, DEPTH = HEAD / 16;
constexpr int THREADS = 128;

struct TrainingAttention {
    const bf16* qkv;  // turned where there are segments: [rows, (heads + 2 kv_heads) · 64]
    const bf16* dy;
    bf16* out;  // or, backwards, the gradient of qkv
    bf16* of_heads;  // [rows, 2 · heads · 64]: what each head gives keys, then values, where heads that share them have blocks of their own
    float* sums;  // [heads][rows]: log of the sum of exponentials, in units of log2
    const float* deltas;  // [heads][rows]: dy · out
    const u32* work;  // pairs (segment, first row inside it), longest past first; null for tiles
    const u32* segment_row;
    const u32* segment_rows;
    int rows, tile_rows, heads, kv_heads, work_items;
};

// The rows of the sequence a block works on, and the first of its own inside them.
struct Part {
    int first_row, rows, first;

    // Of tiles the grid is (blocks of rows, heads, tiles); of segments (work items, heads).
    DEVICE Part(const TrainingAttention& a, bool backwards) {
        if (a.work) {
            const int item = backwards ? a.work_items - 1 - blockIdx.x : blockIdx.x;
            const int segment = a.work[2 * item];
            first = a.work[2 * item + 1];
            first_row = a.segment_row[segment];
            rows = a.segment_rows[segment];
        } else {
            first = blockIdx.x * BLOCK;
            first_row = blockIdx.z * a.tile_rows;
            rows = a.tile_rows;
        }
    }
};

// ---- Products of 64 × 64 tiles ---------------------------------------------------------------------------------------
// A warp has 16 rows of every product. `Left` is its side, 64 numbers a row; the other is a tile of 64 rows in shared memory.

// By mma.sync: rows are padded, the left side lies in registers.
struct WarpProducts {
    static constexpr int ROW_BYTES = PADDED_ROW<HEAD> * 2, TILE_BYTES = BLOCK * ROW_BYTES, LEFT_BYTES = 0;

    static DEVICE u32 place(int row, int chunk) { return row * ROW_BYTES + chunk * 16; }
    static DEVICE void arrived() {}

    struct Left {
        u32 rows[DEPTH * 4];

        // `from` is the sequence's first row; `row` the thread's, g.
        DEVICE void load(u32, const bf16* from, int stride, int first, int row, int count) {
            load_query<HEAD, DEPTH>(rows, from + (u64)row * stride, stride, row < count, row + 8 < count);
        }
    };

    // d = left · tileᵀ of two pairs.
    static DEVICE void rows(float (&d)[BLOCK / 2], const Left& left, u32 tile, float (&e)[BLOCK / 2], const Left& other, u32 other_tile) {
        one(d, left, tile);
        one(e, other, other_tile);
    }
    static DEVICE void one(float (&d)[BLOCK / 2], const Left& left, u32 tile) {
        const int lane = threadIdx.x % WARP;
        const u32 at = tile + ((lane & 7) + (lane >> 4) * 8) * ROW_BYTES + ((lane >> 3) & 1) * 16;
#pragma unroll
        for (int i = 0; i < BLOCK / 2; i++) d[i] = 0.f;
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
#pragma unroll
            for (int n = 0; n < BLOCK / 16; n++) {
                u32 b[4];
                load_matrices(b, at + n * 16 * ROW_BYTES + k * 32);
                mma_16_8_16(&d[8 * n], &left.rows[4 * k], b[0], b[1]);
                mma_16_8_16(&d[8 * n + 4], &left.rows[4 * k], b[2], b[3]);
            }
        }
    }
    // d += a · tile, the depth along the tile's rows.
    static DEVICE void add(float (&d)[HEAD / 2], const u32 (&a)[BLOCK / 4], u32 tile) {
        const int lane = threadIdx.x % WARP;
        const u32 at = tile + (lane & 15) * ROW_BYTES + (lane >> 4) * 16;
#pragma unroll
        for (int k = 0; k < BLOCK / 16; k++) {
#pragma unroll
            for (int n = 0; n < HEAD / 16; n++) {
                u32 b[4];
                load_matrices_transposed(b, at + k * 16 * ROW_BYTES + n * 32);
                mma_16_8_16(&d[8 * n], &a[4 * k], b[0], b[1]);
                mma_16_8_16(&d[8 * n + 4], &a[4 * k], b[2], b[3]);
            }
        }
    }
    static DEVICE void finish(float (&)[HEAD / 2]) {}
};

#ifdef HAS_WGMMA
// By wgmma: rows have the 128-byte swizzle, the left side lies in shared memory too.
struct GroupProducts {
    static constexpr int ROW_BYTES = HEAD * 2, TILE_BYTES = BLOCK * ROW_BYTES, LEFT_BYTES = TILE_BYTES;

    static DEVICE u32 place(int row, int chunk) { return row * ROW_BYTES + (chunk ^ (row & 7)) * 16; }
    // What this thread copied is about to be read by matrix units.
    static DEVICE void arrived() { fence_async_proxy(); }

    struct Left {
        u64 tile;

        DEVICE void load(u32 to, const bf16* from, int stride, int first, int, int count);
    };

    static DEVICE void rows(float (&d)[BLOCK / 2], const Left& left, u32 tile, float (&e)[BLOCK / 2], const Left& other, u32 other_tile) {
        wgmma_fence();
        start(d, left, tile);
        wgmma_commit();
        start(e, other, other_tile);
        wgmma_commit();
        wgmma_wait<1>(d);
        wgmma_wait<0>(e);
    }
    static DEVICE void start(float (&d)[BLOCK / 2], const Left& left, u32 tile) {
        const u64 right = operand_descriptor(tile);
#pragma unroll
        for (int k = 0; k < DEPTH; k++) wgmma_shared(d, left.tile + k * KEYS_STEP, right + k * KEYS_STEP, k > 0);
    }
    static DEVICE void add(float (&d)[HEAD / 2], const u32 (&a)[BLOCK / 4], u32 tile) {
        const u64 right = operand_descriptor(tile);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < BLOCK / 16; k++) wgmma<1>(d, a + 4 * k, right + k * VALUES_STEP, 1);
        wgmma_commit();
    }
    static DEVICE void finish(float (&d)[HEAD / 2]) { wgmma_wait<0>(d); }
};
#endif

// Copies 64 rows of 64 numbers, from row `first` on; those at and beyond `count` are zeros.
template <class P> DEVICE void load_tile(u32 to, const bf16* from, int stride, int first, int count) {
#pragma unroll
    for (int i = threadIdx.x; i < BLOCK * (HEAD / 8); i += THREADS) {
        const int row = i / (HEAD / 8), chunk = i % (HEAD / 8);
        const bool exists = first + row < count;
        copy_async(to + P::place(row, chunk), from + (u64)(exists ? first + row : 0) * stride + chunk * 8, exists);
    }
}

#ifdef HAS_WGMMA
DEVICE void GroupProducts::Left::load(u32 to, const bf16* from, int stride, int first, int, int count) {
    load_tile<GroupProducts>(to, from, stride, first, count);
    tile = operand_descriptor(to);
}
#endif

// ---- Kernels ---------------------------------------------------------------------------------------------------------

// Forwards inside segments. Each warp has 16 queries; keys and values come in blocks of 64, two on their way.
extern "C" __global__ void __launch_bounds__(THREADS, 3) sequence_attention_mma(const __grid_constant__ TrainingAttention a) {
    extern __shared__ __align__(128) u8 shared[];
    constexpr int TILE_BYTES = WarpProducts::TILE_BYTES;
    const u32 base = shared_address(shared);
    const Part part(a, false);
    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, head = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
    const int stride = (a.heads + 2 * a.kv_heads) * HEAD;
    const bf16* of_sequence = a.qkv + (u64)part.first_row * stride;
    const bf16* keys = of_sequence + (a.heads + kv_head) * HEAD;
    const bf16* values = keys + a.kv_heads * HEAD;
    const int blocks = (min(part.first + BLOCK, part.rows) + BLOCK - 1) / BLOCK;

    const auto load = [&](int block) {
        const u32 to = base + block % 2 * 2 * TILE_BYTES;
        load_tile<WarpProducts>(to, keys, stride, block * BLOCK, part.rows);
        load_tile<WarpProducts>(to + TILE_BYTES, values, stride, block * BLOCK, part.rows);
    };
    load(0);
    copy_async_commit();
    const int row = part.first + warp * 16 + g;
    u32 query[1][DEPTH * 4];
    float output[1][HEAD / 2];
    SoftmaxRows rows[1];
    load_query<HEAD, DEPTH>(query[0], of_sequence + head * HEAD + (u64)row * stride, stride, row < part.rows, row + 8 < part.rows);
#pragma unroll
    for (int i = 0; i < HEAD / 2; i++) output[0][i] = 0.f;
#pragma unroll
    for (int i = 0; i < 2; i++) rows[0].reference[i] = minus_infinity(), rows[0].sum[i] = 0.f;
    const float scale_log2 = rsqrtf((float)HEAD) * LOG2_E;
    for (int block = 0; block < blocks; block++) {
        copy_async_wait<0>();
        __syncthreads();
        if (block + 1 < blocks) load(block + 1);
        copy_async_commit();
        const u32 at = base + block % 2 * 2 * TILE_BYTES;
        const int limit[1][2] = {{row + 1 - block * BLOCK, row + 9 - block * BLOCK}};
        attend_block<HEAD, 1, BLOCK>(output, rows, query, at, at + TILE_BYTES, (block + 1) * BLOCK > part.first, limit, scale_log2);
    }
    const int out_stride = a.heads * HEAD;
    store_output<HEAD>(a.out + ((u64)part.first_row + row) * out_stride + head * HEAD, out_stride, output[0], rows[0],
                       row < part.rows, row + 8 < part.rows);
    store_sums(a.sums + (u64)head * a.rows + part.first_row + row, rows[0], row < part.rows, row + 8 < part.rows);
}

// Gradients of queries: of each 16 of a warp against blocks of 64 keys and values, two on their way.
template <class P> DEVICE void attention_queries(const TrainingAttention& a, u8* shared) {
    constexpr int TILE_BYTES = P::TILE_BYTES;
    const u32 left = shared_address(shared), base = left + 2 * P::LEFT_BYTES;
    const Part part(a, false);
    const bool causal = a.work != nullptr;
    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, head = blockIdx.y;
    const int kv_head = head / (a.heads / a.kv_heads), stride = (a.heads + 2 * a.kv_heads) * HEAD, dy_stride = a.heads * HEAD;
    const bf16* of_sequence = a.qkv + (u64)part.first_row * stride;
    const bf16* keys = of_sequence + (a.heads + kv_head) * HEAD;
    const bf16* values = keys + a.kv_heads * HEAD;
    const int last = causal ? min(part.first + BLOCK, part.rows) : part.rows, blocks = (last + BLOCK - 1) / BLOCK;

    const auto load = [&](int block) {
        const u32 to = base + block % 2 * 2 * TILE_BYTES;
        load_tile<P>(to, keys, stride, block * BLOCK, part.rows);
        load_tile<P>(to + TILE_BYTES, values, stride, block * BLOCK, part.rows);
    };
    const int row = part.first + warp * 16 + g;
    const bool valid[2] = {row < part.rows, row + 8 < part.rows};
    typename P::Left query, dy;
    query.load(left, of_sequence + head * HEAD, stride, part.first, row, part.rows);
    dy.load(left + P::LEFT_BYTES, a.dy + (u64)part.first_row * dy_stride + head * HEAD, dy_stride, part.first, row, part.rows);
    load(0);
    copy_async_commit();
    float sum[2], delta[2], dquery[HEAD / 2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const u64 at = (u64)head * a.rows + part.first_row + row + 8 * r;
        sum[r] = valid[r] ? a.sums[at] : -minus_infinity();
        delta[r] = valid[r] ? a.deltas[at] : 0.f;
    }
#pragma unroll
    for (int i = 0; i < HEAD / 2; i++) dquery[i] = 0.f;
    const float scale = rsqrtf((float)HEAD), scale_log2 = scale * LOG2_E;
    for (int block = 0; block < blocks; block++) {
        copy_async_wait<0>();
        P::arrived();
        __syncthreads();
        if (block + 1 < blocks) load(block + 1);
        copy_async_commit();
        const u32 at = base + block % 2 * 2 * TILE_BYTES;
        float scores[BLOCK / 2], dp[BLOCK / 2];
        P::rows(scores, query, at, dp, dy, at + TILE_BYTES);
        const bool masked = (block + 1) * BLOCK > (causal ? part.first : part.rows);
#pragma unroll
        for (int j = 0; j < BLOCK / 8; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int r = e / 2, key = block * BLOCK + j * 8 + 2 * t + e % 2;
                float p = exp2_fast(fmaf(scores[4 * j + e], scale_log2, -sum[r]));
                if (masked && key >= (causal ? row + 8 * r + 1 : part.rows)) p = 0.f;
                scores[4 * j + e] = p * (dp[4 * j + e] - delta[r]);
            }
        }
        u32 packed[BLOCK / 4];
        pack_probabilities(packed, scores);
        P::add(dquery, packed, at);
        P::finish(dquery);
    }
    const float factor[2] = {scale, scale};
    store_rows<HEAD>(a.out + ((u64)part.first_row + row) * stride + head * HEAD, stride, dquery, factor, valid[0], valid[1]);
}

// Gradients of keys and values: of each 16 of a warp against blocks of 64 queries of every head that shares them, or of one of those
// heads, two on their way.
template <class P> DEVICE void attention_keys(const TrainingAttention& a, u8* shared) {
    // What a block of queries brings: their numbers, the gradients of their results, the sums and deltas.
    constexpr int TILE_BYTES = P::TILE_BYTES;
    const u32 left = shared_address(shared), base = left + 2 * P::LEFT_BYTES;
    float* numbers = (float*)(shared + 2 * P::LEFT_BYTES + 4 * TILE_BYTES);
    const Part part(a, true);
    const bool causal = a.work != nullptr;
    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4, group = a.heads / a.kv_heads;
    const int heads = a.of_heads ? 1 : group, first_head = blockIdx.y * heads, kv_head = first_head / group;
    const int stride = (a.heads + 2 * a.kv_heads) * HEAD, dy_stride = a.heads * HEAD;
    const bf16* of_sequence = a.qkv + (u64)part.first_row * stride;
    const int key_column = (a.heads + kv_head) * HEAD, value_column = key_column + a.kv_heads * HEAD;
    const int row = part.first + warp * 16 + g;
    const bool valid[2] = {row < part.rows, row + 8 < part.rows};
    // Earlier queries do not see these keys.
    const int first_block = causal ? part.first / BLOCK : 0, blocks = (part.rows + BLOCK - 1) / BLOCK - first_block;

    // Blocks of the first head, then those of the next.
    const auto load = [&](int step) {
        const int head = first_head + step / blocks, first = (first_block + step % blocks) * BLOCK;
        const u32 to = base + step % 2 * 2 * TILE_BYTES;
        load_tile<P>(to, of_sequence + head * HEAD, stride, first, part.rows);
        load_tile<P>(to + TILE_BYTES, a.dy + (u64)part.first_row * dy_stride + head * HEAD, dy_stride, first, part.rows);
        float* sums = numbers + step % 2 * 2 * BLOCK;
        if (threadIdx.x < BLOCK) {
            const bool exists = first + threadIdx.x < part.rows;
            const u64 at = (u64)head * a.rows + part.first_row + first + threadIdx.x;
            sums[threadIdx.x] = exists ? a.sums[at] : -minus_infinity();
            sums[BLOCK + threadIdx.x] = exists ? a.deltas[at] : 0.f;
        }
    };
    const int steps = blocks * heads;
    typename P::Left key, value;
    key.load(left, of_sequence + key_column, stride, part.first, row, part.rows);
    value.load(left + P::LEFT_BYTES, of_sequence + value_column, stride, part.first, row, part.rows);
    load(0);
    copy_async_commit();
    float dkey[HEAD / 2], dvalue[HEAD / 2];
#pragma unroll
    for (int i = 0; i < HEAD / 2; i++) dkey[i] = dvalue[i] = 0.f;
    const float scale = rsqrtf((float)HEAD), scale_log2 = scale * LOG2_E;
    for (int step = 0; step < steps; step++) {
        copy_async_wait<0>();
        P::arrived();
        __syncthreads();
        if (step + 1 < steps) load(step + 1);
        copy_async_commit();
        const u32 at = base + step % 2 * 2 * TILE_BYTES;
        const float* sums = numbers + step % 2 * 2 * BLOCK;
        const int first = (first_block + step % blocks) * BLOCK;
        const bool masked = causal && first == part.first;
        float p[BLOCK / 2], dp[BLOCK / 2];
        P::rows(p, key, at, dp, value, at + TILE_BYTES);
        u32 packed[BLOCK / 4], dpacked[BLOCK / 4];
#pragma unroll
        for (int j = 0; j < BLOCK / 8; j++) {
            const float2 sum = *(const float2*)(sums + j * 8 + 2 * t), delta = *(const float2*)(sums + BLOCK + j * 8 + 2 * t);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int query = first + j * 8 + 2 * t + e % 2;
                float q = exp2_fast(fmaf(p[4 * j + e], scale_log2, -(e % 2 ? sum.y : sum.x)));
                if (masked && query < row + 8 * (e / 2)) q = 0.f;
                p[4 * j + e] = q;
                dp[4 * j + e] = q * (dp[4 * j + e] - (e % 2 ? delta.y : delta.x));
            }
        }
        pack_probabilities(packed, p);
        pack_probabilities(dpacked, dp);
        P::add(dvalue, packed, at + TILE_BYTES);
        P::add(dkey, dpacked, at);
        P::finish(dvalue);
        P::finish(dkey);
    }
    const float factor[2] = {scale, scale}, one[2] = {1.f, 1.f};
    const u64 out_row = (u64)part.first_row + row;
    const int out_stride = a.of_heads ? 2 * dy_stride : stride;
    bf16* dkeys = a.of_heads ? a.of_heads + out_row * out_stride + first_head * HEAD : a.out + out_row * stride + key_column;
    bf16* dvalues = a.of_heads ? dkeys + dy_stride : a.out + out_row * stride + value_column;
    store_rows<HEAD>(dkeys, out_stride, dkey, factor, valid[0], valid[1]);
    store_rows<HEAD>(dvalues, out_stride, dvalue, one, valid[0], valid[1]);
}

// Adds up what heads that share keys and values gave them. A thread takes eight numbers of a row.
extern "C" __global__ void sum_of_heads(const __grid_constant__ TrainingAttention a) {
    const int chunks = 2 * a.kv_heads * (HEAD / 8), group = a.heads / a.kv_heads;
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, row = i / chunks;
    if (row >= a.rows) return;
    // Heads of keys, then those of values; those of the queries before stand in the same order.
    const int chunk = i % chunks, kv_head = chunk / (HEAD / 8), column = chunk % (HEAD / 8) * 8;
    const bf16* from = a.of_heads + row * 2 * a.heads * HEAD + kv_head * group * HEAD + column;
    float sum[8] = {}, x[8];
    for (int head = 0; head < group; head++) {
        widen(*(const uint4*)(from + head * HEAD), x);
#pragma unroll
        for (int k = 0; k < 8; k++) sum[k] += x[k];
    }
    bf16* out = a.out + row * (a.heads + 2 * a.kv_heads) * HEAD + (a.heads + kv_head) * HEAD + column;
    *(uint4*)out = make_uint4(pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7]));
}

#define TRAINING_ATTENTION(NAME, PRODUCTS, BLOCKS)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_queries_##NAME(const __grid_constant__ TrainingAttention a) {   \
        extern __shared__ __align__(1024) u8 shared[];                                                                                      \
        attention_queries<PRODUCTS>(a, shared);                                                                                             \
    }                                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_keys_##NAME(const __grid_constant__ TrainingAttention a) {      \
        extern __shared__ __align__(1024) u8 shared[];                                                                                      \
        attention_keys<PRODUCTS>(a, shared);                                                                                                \
    }
TRAINING_ATTENTION(mma, WarpProducts, 2)
#ifdef HAS_WGMMA
TRAINING_ATTENTION(wgmma, GroupProducts, 3)
#endif
