// Attention of one new token of each of many sequences in bf16 with heads of 64, on Hopper: rotates, appends and attends. One block per
// key-value head, sequence and part of the keys. Keys and values come by the tensor copy engine, 16 tokens at a time, before the kernel before
// this one has ended; four warps take turns with them, and the query heads that share them are rows of one left operand.
// It follows `tensor_core.cuh`.

#ifdef HAS_WGMMA
constexpr int D = 64;
constexpr int PAGE = 64;
constexpr int TILE = 16;              // tokens
constexpr int TILE_BYTES = TILE * D * 2;
constexpr int WARPS = 4;
constexpr int PART = 256;             // tokens of a block
constexpr int TURNS = PART / TILE / WARPS;
constexpr int QUERY_ROW = D + 8;      // rows start in different banks
constexpr int MOST_GROUP = 8;

struct DecodingArguments {
    TensorMap map; // of the whole cache, rows of 64 numbers, in boxes of 16
    const bf16* qkv;
    bf16* cache; // of this layer, in page 0
    const u32 *positions, *first_pages, *pages;
    const float *cosines, *sines;
    bf16* out;
    float* partial;
    u64 page_stride;              // in numbers
    int layer_row, page_rows, kv_heads; // the same in rows
};

struct DecodingShared {
    bf16 queries[MOST_GROUP][QUERY_ROW];
    alignas(16) bf16 newest[2][D];
    float sums[WARPS][MOST_GROUP][D], most[WARPS][MOST_GROUP], total[WARPS][MOST_GROUP];
    u64 arrived[WARPS];
};

// 16 bytes of a token in a swizzled tile.
DEVICE u32 swizzled(u32 tile, u32 token, u32 column) { return tile + token * D * 2 + ((column ^ (token & 7)) << 4); }

template <int GROUP> struct DecodingAttention {
    const DecodingArguments& args;
    DecodingShared& shared;
    u32 tiles; // keys and values of all tiles of this part
    int warp, lane, kv_head, row, heads, position, first, tokens, pages;

    DEVICE DecodingAttention(const DecodingArguments& args_, DecodingShared& shared_, u32 tiles_)
        : args(args_), shared(shared_), tiles(tiles_), warp(threadIdx.x / WARP), lane(threadIdx.x % WARP), kv_head(blockIdx.x), row(blockIdx.y),
          heads(args_.kv_heads * GROUP), position(args_.positions[row]), first(blockIdx.z * PART), tokens(min(position + 1 - first, PART)),
          pages(args_.first_pages[row]) {}

    DEVICE u32 tile(int i, int values) const { return tiles + (2 * i + values) * TILE_BYTES; }
    DEVICE bool has_newest() const { return first + tokens == position + 1; }

    // Each warp its own tiles; the newest token is not there yet.
    DEVICE void bring() const {
        const int i = lane / 2 * WARPS + warp, values = lane % 2, count = (tokens + TILE - 1) / TILE;
        const u32 barrier = shared_address(&shared.arrived[warp]);
        if (lane == 0) {
            barrier_init(barrier, 1);
            barrier_init_fence();
            barrier_arrive_expect(barrier, (count - warp + WARPS - 1) / WARPS * 2 * TILE_BYTES);
        }
        __syncwarp();
        if (lane / 2 >= TURNS || i >= count) return;
        const int token = first + i * TILE, page = args.pages[pages + token / PAGE];
        const int at = page * args.page_rows + args.layer_row + (values * args.kv_heads + kv_head) * PAGE + token % PAGE;
        tma_load_2d(tile(i, values), &args.map, 0, at, barrier);
    }

    // A warp per query head and one for the key and its value; a lane has numbers j and j + 32.
    DEVICE void rotate() const {
        const float c = args.cosines[(u64)position * (D / 2) + lane], s = args.sines[(u64)position * (D / 2) + lane];
        bf16* place = nullptr;
        if (has_newest())
            place = args.cache + args.pages[pages + position / PAGE] * args.page_stride + ((u64)kv_head * PAGE + position % PAGE) * D;
        for (int i = threadIdx.x; i < (MOST_GROUP - GROUP) * QUERY_ROW; i += WARPS * WARP) shared.queries[GROUP][i] = 0;
        await_previous();
        const bf16* qkv = args.qkv + (u64)row * (heads + 2 * args.kv_heads) * D;
        for (int head = warp; head <= GROUP; head += WARPS) {
            const bool is_key = head == GROUP;
            const bf16* from = qkv + (is_key ? heads + kv_head : kv_head * GROUP + head) * D + lane;
            const float a = to_f32(from[0]), b = to_f32(from[D / 2]);
            const bf16 low = from_f32<bf16>(a * c - b * s), high = from_f32<bf16>(b * c + a * s);
            if (!is_key) {
                shared.queries[head][lane] = low;
                shared.queries[head][lane + D / 2] = high;
                continue;
            }
            const bf16* value = from + args.kv_heads * D;
            const bf16 value_low = value[0], value_high = value[D / 2];
            shared.newest[0][lane] = low, shared.newest[0][lane + D / 2] = high;
            shared.newest[1][lane] = value_low, shared.newest[1][lane + D / 2] = value_high;
            if (place) {
                bf16* values = place + (u64)args.kv_heads * PAGE * D;
                place[lane] = low, place[lane + D / 2] = high;
                values[lane] = value_low, values[lane + D / 2] = value_high;
            }
        }
    }

    // The newest token takes its place, and values of tokens that do not exist become zeros: what they are might not be numbers.
    DEVICE void complete(int i) const {
        const int last = tokens - 1 - i * TILE; // in this tile
        if (last >= TILE - 1 && !has_newest()) return;
        __syncwarp();
        for (int piece = lane; piece < TILE * 8; piece += WARP) {
            const int token = piece / 8, column = piece % 8;
            if (token == last && has_newest()) {
                for (int values = 0; values < 2; values++) {
                    const uint4 x = *(const uint4*)&shared.newest[values][column * 8];
                    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(swizzled(tile(i, values), token, column)), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
                }
            } else if (token > last) {
                asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(swizzled(tile(i, 1), token, column)), "r"(0) : "memory");
            }
        }
        __syncwarp();
    }

    // Rows of an accumulator are query heads; those from the eighth on are nobody's.
    DEVICE void attend() const {
        const int g = lane / 4, t = lane % 4, count = (tokens + TILE - 1) / TILE;
        u32 q[D / 16][4];
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            q[k][0] = *(const u32*)&shared.queries[g][k * 16 + t * 2];
            q[k][2] = *(const u32*)&shared.queries[g][k * 16 + 8 + t * 2];
            q[k][1] = q[k][3] = 0;
        }
        if (warp < count) barrier_wait(shared_address(&shared.arrived[warp]), 0);
        float scores[TURNS][2][4], most = -INFINITY, total = 0.f, sums[D / 8][4];
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int i = turn * WARPS + warp;
            for (int half = 0; half < 2; half++) scores[turn][half][0] = scores[turn][half][1] = scores[turn][half][2] = scores[turn][half][3] = 0.f;
            if (i >= count) continue;
            if (i == count - 1) complete(i);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                u32 b[4];
                load_matrices(b, swizzled(tile(i, 0), (lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1)));
                mma_16_8_16(scores[turn][0], q[k], b[0], b[1]);
                mma_16_8_16(scores[turn][1], q[k], b[2], b[3]);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float& score = scores[turn][j / 2][j % 2];
                score = i * TILE + j / 2 * 8 + t * 2 + j % 2 < tokens ? score * (0.125f * LOG2_E) : -INFINITY;
                most = fmaxf(most, score);
            }
        }
        most = quad_max(most);
#pragma unroll
        for (int n = 0; n < D / 8; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.f;
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++) {
            const int i = turn * WARPS + warp;
            if (i >= count) continue;
            for (int j = 0; j < 4; j++) total += scores[turn][j / 2][j % 2] = exp2_fast(scores[turn][j / 2][j % 2] - most);
            const u32 p[4] = {pack_bf16(scores[turn][0][0], scores[turn][0][1]), 0, pack_bf16(scores[turn][1][0], scores[turn][1][1]), 0};
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                u32 b[4];
                load_matrices_transposed(b, swizzled(tile(i, 1), lane & 15, n + (lane >> 4)));
                mma_16_8_16(sums[n], p, b[0], b[1]);
                mma_16_8_16(sums[n + 1], p, b[2], b[3]);
            }
        }
        total = quad_sum(total);
        if (g >= GROUP) return;
        if (t == 0) shared.most[warp][g] = most, shared.total[warp][g] = total;
#pragma unroll
        for (int n = 0; n < D / 8; n++) *(float2*)&shared.sums[warp][g][n * 8 + t * 2] = make_float2(sums[n][0], sums[n][1]);
    }

    // Adds the warps' sums up, two numbers a thread.
    DEVICE void finish() const {
        for (int i = threadIdx.x; i < GROUP * D / 2; i += WARPS * WARP) {
            const int g = i / (D / 2), column = i % (D / 2) * 2;
            float highest = -INFINITY, denominator = 0.f;
            float2 numerator = make_float2(0.f, 0.f);
#pragma unroll
            for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, shared.most[w][g]);
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                const float scale = exp2_fast(shared.most[w][g] - highest);
                const float2 sum = *(const float2*)&shared.sums[w][g][column];
                numerator.x += scale * sum.x, numerator.y += scale * sum.y;
                denominator += scale * shared.total[w][g];
            }
            const u64 head = (u64)row * heads + kv_head * GROUP + g;
            if (gridDim.z == 1) {
                *(u32*)(args.out + head * D + column) = pack_bf16(numerator.x / denominator, numerator.y / denominator);
            } else {
                float* to = args.partial + (head * gridDim.z + blockIdx.z) * (D + 2);
                *(float2*)(to + column) = numerator;
                if (column == 0) to[D] = highest, to[D + 1] = denominator;
            }
        }
    }

    DEVICE void run() const {
        let_next_start();
        if (tokens <= 0) return;
        bring();
        rotate();
        __syncthreads();
        attend();
        __syncthreads();
        finish();
    }
};

// Grid (kv_heads, sequences, parts of 256 keys), 128 threads. With one part the result is written to `out`; else numbers before division,
// maximum and sum go to `partial` [sequence][head][part][66] for `merge_parts`.
#define DECODING(GROUP)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128) decoding_attention_##GROUP(const __grid_constant__ DecodingArguments args) { \
        extern __shared__ __align__(1024) u8 memory[];                                                                          \
        __shared__ DecodingShared shared;                                                                                       \
        DecodingAttention<GROUP>(args, shared, shared_address(memory)).run();                                                   \
    }
DECODING(1)
DECODING(2)
DECODING(3)
DECODING(4)
#endif
