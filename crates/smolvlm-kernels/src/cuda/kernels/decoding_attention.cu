// Attention of one new token of each of many sequences in bf16 with heads of 64, on Hopper: rotates, appends and attends. One block per
// key-value head, sequence and part of the keys. Keys and values come by the tensor copy engine, 16 tokens at a time, before the kernel before
// this one has ended; four warps take turns with them, each with two places of its own, and the query heads that share them are rows of one left
// operand.
// It follows `tensor_core.cuh`.

#ifdef HAS_WGMMA
constexpr int D = 64;
constexpr int PAGE = 64;
constexpr int TILE = 16;              // tokens
constexpr int TILE_BYTES = TILE * D * 2;
constexpr int WARPS = 4;
constexpr int PART = 256;             // tokens of a block
constexpr int TURNS = PART / TILE / WARPS;
constexpr int PLACES = 2;             // of each warp's tiles in shared memory
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

template <int GROUP> struct DecodingShared {
    bf16 queries[MOST_GROUP][QUERY_ROW];
    alignas(16) bf16 newest[2][D];
    float sums[WARPS][GROUP][D], most[WARPS][GROUP], total[WARPS][GROUP];
    u64 arrived[WARPS][PLACES];
};

// 16 bytes of a token in a swizzled tile.
DEVICE u32 swizzled(u32 tile, u32 token, u32 column) { return tile + token * D * 2 + ((column ^ (token & 7)) << 4); }

DEVICE void store(u32 to, uint4 x) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

template <int GROUP> struct DecodingAttention {
    const DecodingArguments& args;
    DecodingShared<GROUP>& shared;
    u32 tiles; // keys and values of this warp's tiles
    int warp, lane, kv_head, row, heads, position, first, tokens, pages, count;
    int at; // of keys or values of turn `lane / 2`, in rows of the cache

    DEVICE DecodingAttention(const DecodingArguments& args_, DecodingShared<GROUP>& shared_, u32 memory)
        : args(args_), shared(shared_), tiles(memory + threadIdx.x / WARP * PLACES * 2 * TILE_BYTES), warp(threadIdx.x / WARP),
          lane(threadIdx.x % WARP), kv_head(blockIdx.x), row(blockIdx.y), heads(args_.kv_heads * GROUP), position(args_.positions[row]),
          first(blockIdx.z * PART), tokens(min(position + 1 - first, PART)), pages(args_.first_pages[row]), count((tokens + TILE - 1) / TILE) {}

    DEVICE u32 tile(int turn, int values) const { return tiles + (turn % PLACES * 2 + values) * TILE_BYTES; }
    DEVICE u32 arrived(int turn) const { return shared_address(&shared.arrived[warp][turn % PLACES]); }
    DEVICE bool has_newest() const { return first + tokens == position + 1; }

    // Two lanes a turn.
    DEVICE void bring(int turn) const {
        if (lane / 2 != turn || turn * WARPS + warp >= count) return;
        if (lane % 2 == 0) barrier_arrive_expect(arrived(turn), 2 * TILE_BYTES);
        tma_load_2d(tile(turn, lane % 2), &args.map, 0, at, arrived(turn));
    }
    // The first of this warp's tiles; the newest token is not there yet.
    DEVICE void begin() {
        if (lane == 0) {
            for (int place = 0; place < PLACES; place++) barrier_init(arrived(place), 1);
            barrier_init_fence();
        }
        __syncwarp();
        const int i = lane / 2 * WARPS + warp, token = first + i * TILE;
        if (lane < 2 * TURNS && i < count)
            at = args.pages[pages + token / PAGE] * args.page_rows + args.layer_row + (lane % 2 * args.kv_heads + kv_head) * PAGE + token % PAGE;
        for (int turn = 0; turn < PLACES; turn++) bring(turn);
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
    DEVICE void complete(int turn) const {
        const int last = tokens - 1 - (turn * WARPS + warp) * TILE; // in this tile
        if (last >= TILE - 1 && !has_newest()) return;
        for (int piece = lane; piece < TILE * 8; piece += WARP) {
            const int token = piece / 8, column = piece % 8;
            if (token == last && has_newest()) {
                for (int values = 0; values < 2; values++) store(swizzled(tile(turn, values), token, column), *(const uint4*)&shared.newest[values][column * 8]);
            } else if (token > last) {
                store(swizzled(tile(turn, 1), token, column), make_uint4(0, 0, 0, 0));
            }
        }
        __syncwarp();
    }

    // Rows of an accumulator are query heads; those from the eighth on are nobody's.
    DEVICE void attend() const {
        const int g = lane / 4, t = lane % 4;
        u32 q[D / 16][4];
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            q[k][0] = *(const u32*)&shared.queries[g][k * 16 + t * 2];
            q[k][2] = *(const u32*)&shared.queries[g][k * 16 + 8 + t * 2];
            q[k][1] = q[k][3] = 0;
        }
        float most = -INFINITY, total = 0.f, sums[D / 8][4];
#pragma unroll
        for (int n = 0; n < D / 8; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.f;
        for (int turn = 0; turn * WARPS + warp < count; turn++) {
            const int i = turn * WARPS + warp;
            barrier_wait(arrived(turn), turn / PLACES & 1);
            if (i == count - 1) complete(turn);
            float scores[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                u32 b[4];
                load_matrices(b, swizzled(tile(turn, 0), (lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1)));
                mma_16_8_16(scores[0], q[k], b[0], b[1]);
                mma_16_8_16(scores[1], q[k], b[2], b[3]);
            }
            float higher = most;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float& score = scores[j / 2][j % 2];
                score = i * TILE + j / 2 * 8 + t * 2 + j % 2 < tokens ? score * (0.125f * LOG2_E) : -INFINITY;
                higher = fmaxf(higher, score);
            }
            higher = quad_max(higher);
            const float old = exp2_fast(most - higher);
            most = higher;
            total *= old;
            for (int j = 0; j < 4; j++) total += scores[j / 2][j % 2] = exp2_fast(scores[j / 2][j % 2] - most);
            const u32 p[4] = {pack_bf16(scores[0][0], scores[0][1]), 0, pack_bf16(scores[1][0], scores[1][1]), 0};
#pragma unroll
            for (int n = 0; n < D / 8; n += 2) {
                sums[n][0] *= old, sums[n][1] *= old, sums[n + 1][0] *= old, sums[n + 1][1] *= old;
                u32 b[4];
                load_matrices_transposed(b, swizzled(tile(turn, 1), lane & 15, n + (lane >> 4)));
                mma_16_8_16(sums[n], p, b[0], b[1]);
                mma_16_8_16(sums[n + 1], p, b[2], b[3]);
            }
            __syncwarp();
            bring(turn + PLACES);
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

    DEVICE void run() {
        let_next_start();
        if (tokens <= 0) return;
        begin();
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
        __shared__ DecodingShared<GROUP> shared;                                                                                      \
        DecodingAttention<GROUP>(args, shared, shared_address(memory)).run();                                                   \
    }
DECODING(1)
DECODING(2)
DECODING(3)
DECODING(4)
#endif
