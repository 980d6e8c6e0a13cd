// One decoding step of one sequence, in one launch: token in, logits and likeliest token out.
//
// At batch 1 the weights are read once and used once, so the step is a chain of small matrix-vector products: five stages a layer, each of which needs every output of the stage before it.
// What costs time is not arithmetic but the way from one stage to the next, and waiting for memory. Hence:
//
// * Weights arrive early. They depend on nothing, so one warp of each block (the feeder) walks through all the weight rows of its block in the order of use and copies them into a ring of
//   shared-memory slots, as far ahead as there are free slots. A stage finds its weights in shared memory, and loads them into registers before it looks for its activations.
// * There are no grid-wide barriers. Every number handed from block to block travels with a tag in one 64-bit word (an atom): 32 bits of payload, 32 bits that name the launch and the layer.
//   Readers poll the very words they need. An aligned 64-bit access is never torn, so a word with the right tag holds the right payload: no fence, no counter, no flag to fetch first.
// * A warp owns a slice of the activations (a part of K), and so of the columns of every row of the block. It polls its slice straight into the registers of a tensor-core operand,
//   multiplies it with its columns of the block's rows, and leaves one partial sum for each row in shared memory: one block-wide synchronisation a stage.
// * The tensor core's operand has eight columns and a product with one vector uses one of them. Attention over long contexts is split over the keys into up to eight parts,
//   and the eight columns carry these eight parts, so that merging them costs nothing in the product that follows.
//
// Stages of a layer: q, k, v; attention; output projection; gate and up; down. Every block keeps the residual stream in f32 registers and adds to it what the blocks publish, always in the same order.
//
// Why the launch ends: all blocks are resident at once (one a multiprocessor; launch cooperatively, or with at most as many blocks as are resident). A wait is for words which other blocks
// publish after waits for earlier stages only, so there is no cycle. Should that be broken (scratch memory overwritten, blocks missing), every poll is counted, and after PATIENCE fruitless
// polls a warp reports through the status word and waits no more: the launch still ends, its results void.
//
// Compile-time constants: HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS, VOCAB, BLOCKS (the grid), and the tunable ones below.

#ifndef WARPS
#define WARPS 12 // that multiply; one more feeds. Best where HIDDEN and MLP are multiples of 16 WARPS.
#endif
#ifndef SHARED_LIMIT
#define SHARED_LIMIT 232448 // bytes of shared memory a block may have; the weight ring takes what the rest leaves
#endif
#ifndef SLOT_LIMIT
#define SLOT_LIMIT 20992 // bytes of weights a slot may hold
#endif
#ifndef REPLICAS
#define REPLICAS 2 // copies of what all blocks read: a line read by every multiprocessor at once is served by one slice of L2, one reader after the other
#endif
#ifndef SPLIT_TILES
#define SPLIT_TILES 12 // tiles of 16 keys a block takes before attention is split further
#endif
#ifndef GATE_SPLITS
#define GATE_SPLITS true // while attention is split, ask for one of the words first, then for all
#endif
#ifndef PATIENCE
#define PATIENCE 4000000u // fruitless polls of one warp before it gives up: seconds
#endif

typedef u64 Atom;

constexpr int PAGE = 64;        // tokens
constexpr int TILE = 16;        // rows of a tensor-core operand; keys of an attention tile
constexpr int MAX_SPLITS = 8;   // columns of a tensor-core operand
constexpr int CONSUMERS = WARPS * WARP;
constexpr int THREADS = CONSUMERS + WARP;
constexpr int GROUP = HEADS / KV_HEADS;
constexpr int HALF = HEAD_DIM / 2;
constexpr int PAIRS = HEAD_DIM / 16; // registers (pairs of bf16) of half a head in one lane; also the tensor-core steps along a head
constexpr int QKV_ROWS = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
constexpr int ATTENDED = HEADS * HEAD_DIM;

static_assert(WARPS % 4 == 0 && WARPS <= 28, "partial sums are read four at a time");
static_assert(HEADS % KV_HEADS == 0 && GROUP <= 8, "the query heads of a group are the rows of one tensor-core operand");
static_assert(HEAD_DIM == 16 || HEAD_DIM == 32 || HEAD_DIM == 64, "a head's pairs fill a warp evenly");
static_assert(HIDDEN % 16 == 0 && MLP % 16 == 0, "tensor-core steps");
static_assert(KV_HEADS <= BLOCKS, "one block for each key-value head");
static_assert(QKV_ROWS >= BLOCKS, "each block must have a part in the first stage: what keeps the fastest block within two layers of the slowest");

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Bytes from row to row in a slot: an odd number of 16-byte units, so that eight rows fall into different banks.
__host__ __device__ constexpr int row_stride(int columns) { return columns * 2 + (columns / 8 % 2 ? 0 : 16); }

// Into how many parts the columns are cut so that a tile of rows fits a slot.
__host__ __device__ constexpr int column_parts(int columns, int rows) {
    int parts = 1;
    while (columns % (parts * 16) != 0 || rows * row_stride(columns / parts) > SLOT_LIMIT) ++parts;
    return parts;
}

// How a weight matrix of ROWS x K is spread: rows over the blocks (UNIT rows stay together), tiles of 16 rows (cut into PARTS along K) over the slots, K over the warps.
template <int ROWS_, int K_, int UNIT, bool NORMED_, int HELD_LIMIT> struct Matrix {
    static constexpr int ROWS = ROWS_, K = K_;
    static constexpr bool NORMED = NORMED_;
    static constexpr int UNITS = ROWS / UNIT;
    static constexpr int MOST = ceil_div(UNITS, BLOCKS) * UNIT; // rows of a block
    static constexpr int TILES = ceil_div(MOST, TILE);
    static constexpr int LEAST = UNITS / BLOCKS * UNIT;
    static constexpr int PARTS = column_parts(K, NORMED || MOST > TILE ? TILE : MOST); // the same for all normed ones: they share the slices of the residual stream
    static constexpr int PART = K / PARTS;
    static constexpr int STRIDE = row_stride(PART);
    static constexpr int PART_STEPS = PART / 16;
    static constexpr int STEPS = ceil_div(PART_STEPS, WARPS); // of one warp in one part
    static constexpr int FRAGMENTS = PARTS * STEPS;           // of one warp in a tile
    // Tiles whose weights are loaded into registers before the activations are there.
    static constexpr int FIT = FRAGMENTS > HELD_LIMIT ? 0 : HELD_LIMIT / FRAGMENTS;
    static constexpr int HELD = FIT < TILES ? FIT : TILES;
    static_assert(!NORMED || HELD >= 1, "norm weights travel with the first tile");
    static_assert(ROWS % UNIT == 0, "");

    DEVICE static bool has_tile(int tile, int rows) { return tile * TILE < LEAST || tile * TILE < rows; } // known at compile time, mostly
    DEVICE static int first_row(int block) { return (int)((long long)UNITS * block / BLOCKS) * UNIT; }
    DEVICE static bool step_exists(int warp, int step) { return PART_STEPS == WARPS * STEPS || warp * STEPS + step < PART_STEPS; }
    // First column of a warp's step within its part; one that exists, in any case.
    DEVICE static int column(int warp, int step) { return (step_exists(warp, step) ? warp * STEPS + step : 0) * 16; }
    // The same by fragment (a step of a part), in the whole row.
    DEVICE static bool exists(int warp, int fragment) { return fragment < FRAGMENTS && step_exists(warp, fragment % STEPS); }
    DEVICE static int first_column(int warp, int fragment) { return exists(warp, fragment) ? fragment / STEPS * PART + column(warp, fragment % STEPS) : 0; }
    // What a lane waits for: the activations of a fragment. A warp without any waits all the same, lest it run ahead of its block.
    DEVICE static bool wanted(int warp, int fragment) { return fragment == 0 || exists(warp, fragment); }
    static constexpr int ROUNDS = ceil_div(FRAGMENTS, 8); // fragments whose activations one lane holds
};

typedef Matrix<QKV_ROWS, HIDDEN, 1, true, 12> Qkv;
typedef Matrix<HIDDEN, ATTENDED, 1, false, 12> Out;
typedef Matrix<2 * MLP, HIDDEN, 4, true, 12> GateUp; // two neighbours in the hidden layer, so that they share a word
typedef Matrix<HIDDEN, MLP, 1, false, 12> Down;
typedef Matrix<VOCAB, HIDDEN, 1, true, Qkv::FRAGMENTS> Head; // limited by memory, not by the wait: one tile is enough

__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }
template <class M> __host__ __device__ constexpr int tile_bytes() { return (M::MOST < TILE ? M::MOST : TILE) * M::STRIDE; }

static_assert(GateUp::PARTS == Qkv::PARTS && Head::PARTS == Qkv::PARTS, "one slicing of the residual stream");

// ---- Shared memory -------------------------------------------------------------------------------------------------------------------------------------------------------------

constexpr int HEAD_PASS_TILES = 8; // tiles of the vocabulary between two synchronisations
constexpr int PARTIAL_ROWS = TILE * larger(HEAD_PASS_TILES, larger(larger(Qkv::TILES, GateUp::TILES), larger(Out::TILES, Down::TILES)));
constexpr int PARTIAL_STRIDE = WARPS + (WARPS % 8 ? 0 : 4); // floats from row to row: rows read as float4 by neighbouring lanes fall into different banks
constexpr int NORM_OFFSET = (larger(larger(tile_bytes<Qkv>(), tile_bytes<Out>()), larger(larger(tile_bytes<GateUp>(), tile_bytes<Down>()), tile_bytes<Head>())) + 127) / 128 * 128;
constexpr int SLOT_BYTES = (NORM_OFFSET + Qkv::PART * 4 + 127) / 128 * 128;

struct alignas(128) Workspace {
    float partial[2][PARTIAL_ROWS * PARTIAL_STRIDE]; // one sum for each row and warp; stages alternate
    float squares[2][WARPS];                         // of each warp's slice of the residual stream
    float cos[HALF], sin[HALF];                      // of this step's position
    float attended[WARPS][HEAD_DIM / 8][GROUP * 4][2];
    float peak[GROUP][WARPS], weight[GROUP][WARPS];  // largest score and sum of weights of each warp's keys
    alignas(16) u32 heads[WARPS][(GROUP + 2) * HEAD_DIM / 2]; // queries of the group, key and value of this step
    float best_logit[WARPS];
    u32 best_token[WARPS];
    u64 full[32], empty[32]; // mbarriers of the slots
};
constexpr int SLOTS = (SHARED_LIMIT - (int)sizeof(Workspace)) / SLOT_BYTES < 32 ? (SHARED_LIMIT - (int)sizeof(Workspace)) / SLOT_BYTES : 32;
static_assert(SLOTS >= 2, "a ring");
struct Shared : Workspace {
    alignas(128) unsigned char slots[SLOTS][SLOT_BYTES];
};

// ---- Scratch memory: all zeros before the first launch, then left alone -----------------------------------------------------------------------------------------------------------

struct Exchange { // what blocks hand to each other in one layer
    Atom down[HIDDEN], out[HIDDEN]; // f32: additions to the residual stream
    Atom attended[MAX_SPLITS][ATTENDED / 2], hidden[MLP / 2]; // pairs of bf16, in the order of `pair_place`
    Atom share[HEADS][MAX_SPLITS][2]; // f32, twice: log2 of the sum of exponentials of each split's scores
};
struct Scratch {
    u32 sequence, status; // tags used up so far; not zero once a wait has failed
    u32 unused[30];
    Atom winner[BLOCKS][2]; // likeliest token of each block: logit, token
    Atom qkv[2][QKV_ROWS];  // f32; layers alternate
    Exchange exchange[REPLICAS][2];
};

extern "C" __device__ const u32 decode_scratch_bytes = sizeof(Scratch);
extern "C" __device__ const u32 decode_shared_bytes = sizeof(Shared);
extern "C" __device__ const u32 decode_threads = THREADS;

// ---- Parameters ------------------------------------------------------------------------------------------------------------------------------------------------------------------

struct Layer {
    const float* norm1;
    const bf16* qkv;
    const bf16* out;
    const float* norm2;
    const bf16* gate_up;
    const bf16* down;
};
struct Step {
    const Layer* layers;
    const float* final_norm;
    const bf16* head;
    const bf16* embedding;
    const float* cos; // [positions, HEAD_DIM / 2]
    const float* sin;
    bf16* cache;
    u64 page_stride, layer_stride; // in elements
    const u32* pages;
    const u32* id;
    u32* position;
    float* logits;
    u32* token; // may be `id`
    Scratch* scratch;
    float eps;
    u32 advance; // whether to write position + 1 back
#ifdef PROFILE
    u32* profile; // [BLOCKS][16] cycles
#endif
};

// ---- Words that carry their own tag -------------------------------------------------------------------------------------------------------------------------------------------------

struct Two { u32 value0, tag0, value1, tag1; };

DEVICE void read_two(Two& two, const Atom* from, bool wanted) {
    asm volatile("{ .reg .pred wanted; .reg .b64 a, b; setp.ne.u32 wanted, %5, 0; mov.b64 a, {%0, %1}; mov.b64 b, {%2, %3};"
                 "  @wanted ld.relaxed.gpu.global.v2.b64 {a, b}, [%4]; mov.b64 {%0, %1}, a; mov.b64 {%2, %3}, b; }"
                 : "+r"(two.value0), "+r"(two.tag0), "+r"(two.value1), "+r"(two.tag1) : "l"(from), "r"((u32)wanted) : "memory");
}
DEVICE void publish(Atom* to, u32 value, u32 tag) {
    asm volatile("{ .reg .b64 a; mov.b64 a, {%1, %2}; st.relaxed.gpu.global.b64 [%0], a; }" :: "l"(to), "r"(value), "r"(tag) : "memory");
}

// Where word i of a vector of pairs lies: the two words that a lane needs for one tensor-core step (elements 2t, 2t + 1 and 2t + 8, 2t + 9 of sixteen) are neighbours.
DEVICE int pair_place(int pair) { return pair / 8 * 8 + pair % 4 * 2 + pair / 4 % 2; }

struct Waiting {
    u32 patience;
    u32* status;

    DEVICE bool over() {
        if (patience != 0 && --patience == 0) atomicOr(status, 1u);
        return patience == 0;
    }
};

// Polls N times two words until each lane has those it wants with the tag it waits for; the others are zero. Each word should be wanted by one lane only: words wanted twice are fetched twice.
template <int N, class Address, class Wanted> DEVICE void await(Two (&got)[N], Address address, Wanted wanted, u32 tag, Waiting& waiting, bool gated = false) {
#pragma unroll
    for (int i = 0; i < N; ++i) got[i] = {0, tag, 0, tag};
    if (gated) // many words: wait for the first before asking for all
        for (;;) {
            read_two(got[0], address(0), wanted(0));
            if (__all_sync(ALL_LANES, ((got[0].tag0 ^ tag) | (got[0].tag1 ^ tag)) == 0) || waiting.over()) break;
        }
    for (;;) {
        u32 wrong = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) read_two(got[i], address(i), wanted(i));
#pragma unroll
        for (int i = 0; i < N; ++i) wrong |= (got[i].tag0 ^ tag) | (got[i].tag1 ^ tag);
        if (__all_sync(ALL_LANES, wrong == 0) || waiting.over()) return;
    }
}

// ---- The weight ring ---------------------------------------------------------------------------------------------------------------------------------------------------------------

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile("{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again; }" :: "r"(barrier), "r"(parity) : "memory");
}
DEVICE void barrier_arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory"); }

// A place in the ring. The feeder and each consumer warp walk through the slots in the same order.
struct Place {
    u32 slots, full, empty; // shared-memory addresses
    int slot;
    u32 parity;

    DEVICE u32 data() const { return slots + slot * SLOT_BYTES; }
    DEVICE void wait_full() const { barrier_wait(full + slot * 8, parity); }
    DEVICE void wait_empty() const { barrier_wait(empty + slot * 8, parity ^ 1); }
    DEVICE void advance() {
        if (++slot == SLOTS) { slot = 0; parity ^= 1; }
    }
    DEVICE void release(int lane) {
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + slot * 8);
        advance();
    }
};

DEVICE void bulk_copy(u32 to, const void* from, u32 bytes, u32 barrier, u64 policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" :: "r"(to), "l"(from), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
}

// Feeds this block's rows of one matrix into the ring.
template <class M> DEVICE void feed(Place& place, const bf16* weights, const float* norm, int block, int lane, u64 policy) {
    const int first = M::first_row(block), rows = M::first_row(block + 1) - first;
    for (int tile = 0; tile * TILE < rows; ++tile) {
        const int height = min(rows - tile * TILE, TILE);
        for (int part = 0; part < M::PARTS; ++part) {
            const bool with_norm = M::NORMED && tile == 0;
            const u32 full = place.full + place.slot * 8;
            place.wait_empty();
            if (lane == 0) {
                const u32 bytes = height * M::PART * 2 + (with_norm ? M::PART * 4 : 0);
                asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(full), "r"(bytes) : "memory");
            }
            __syncwarp();
            if (lane < height)
                bulk_copy(place.data() + lane * M::STRIDE, weights + (u64)(first + tile * TILE + lane) * M::K + part * M::PART, M::PART * 2, full, policy);
            else if (with_norm && lane == TILE)
                bulk_copy(place.data() + NORM_OFFSET, norm + part * M::PART, M::PART * 4, full, policy);
            place.advance();
        }
    }
}

// ---- Matrix times vector on tensor cores ---------------------------------------------------------------------------------------------------------------------------------------------

DEVICE void multiply_accumulate(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same for at most eight rows: the lower half of the operand is zero.
DEVICE void multiply_accumulate(float (&c)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
    const u32 a[4] = {a0, 0u, a2, 0u};
    multiply_accumulate(c, a, b0, b1);
}

DEVICE float infinity() { return __uint_as_float(0x7f800000u); }
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Which lane this is, in the tensor core's terms: row (or column) `group`, pair `quad` along K.
struct Lane {
    int lane, group, quad, warp;
};

// The weights of one warp in one slot. Rows that are not there repeat the last one; nobody reads their sums.
template <class M> DEVICE void load_part(u32 (*a)[4], const Place& place, int height, const Lane& me) {
    const u32 row = place.data() + min(me.lane % TILE, height - 1) * M::STRIDE + me.lane / TILE * 16;
#pragma unroll
    for (int step = 0; step < M::STEPS; ++step)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(a[step][0]), "=r"(a[step][1]), "=r"(a[step][2]), "=r"(a[step][3]) : "r"(row + M::column(me.warp, step) * 2) : "memory");
}

template <class M> struct Held {
    u32 a[larger(M::HELD, 1) * M::FRAGMENTS][4];
    float norm[M::ROUNDS][4]; // of the columns whose activations this lane holds
};

// Loads the weights of the first tiles, before the activations are needed. Their slots are released by `multiply_held`.
template <class M> DEVICE void hold(Held<M>& held, const Place& place, int rows, const Lane& me) {
    Place ahead = place;
#pragma unroll
    for (int tile = 0; tile < M::HELD; ++tile) {
        if (!M::has_tile(tile, rows)) break;
#pragma unroll
        for (int part = 0; part < M::PARTS; ++part) {
            ahead.wait_full();
            load_part<M>(held.a + tile * M::FRAGMENTS + part * M::STEPS, ahead, min(rows - tile * TILE, TILE), me);
            if (M::NORMED && tile == 0) {
#pragma unroll
                for (int round = 0; round < M::ROUNDS; ++round) {
                    const int fragment = round * 8 + me.group;
                    float* to = held.norm[round];
                    if (part == 0) to[0] = to[1] = to[2] = to[3] = 0.f;
                    if (M::exists(me.warp, fragment) && fragment / M::STEPS == part) {
                        const u32 at = ahead.data() + NORM_OFFSET + (M::column(me.warp, fragment % M::STEPS) + me.quad * 2) * 4;
                        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(to[0]), "=f"(to[1]) : "r"(at) : "memory");
                        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(to[2]), "=f"(to[3]) : "r"(at + 32) : "memory");
                    }
                }
            }
#ifdef EARLY_RELEASE
            const_cast<Place&>(place).release(me.lane);
#endif
            ahead.advance();
        }
    }
}

// Activations as a tensor-core operand. Each lane holds those of one fragment in eight, and column `group` of the operand carries fragments group, group + 8, ...; elsewhere it is zero.
// So the columns of the product are the sums of different parts of K, and no lane has to give its activations to another.
template <class M> struct Spread {
    u32 own[M::ROUNDS][2];

    DEVICE u32 operator()(int fragment, int half, const Lane& me) const { return me.group == fragment % 8 ? own[fragment / 8][half] : 0u; }
};
// The same for activations that are a sum of vectors: column `group` carries vector `group`.
template <class M> struct Stacked {
    u32 own[M::FRAGMENTS][2];

    DEVICE u32 operator()(int fragment, int half, const Lane&) const { return own[fragment][half]; }
};

// One tile's sums of this warp's columns, added up over the columns of the product and left in shared memory.
DEVICE void store_tile(float* partial, int tile, float (&c)[2][4], const Lane& me) {
    float low = (c[0][0] + c[1][0]) + (c[0][1] + c[1][1]), high = (c[0][2] + c[1][2]) + (c[0][3] + c[1][3]);
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
        low += __shfl_xor_sync(ALL_LANES, low, offset);
        high += __shfl_xor_sync(ALL_LANES, high, offset);
    }
    if (me.quad == 0) {
        partial[(tile * TILE + me.group) * PARTIAL_STRIDE + me.warp] = low;
        partial[(tile * TILE + me.group + 8) * PARTIAL_STRIDE + me.warp] = high;
    }
}

template <class M, class Operand> DEVICE void multiply_part(float (&c)[2][4], const u32 (*a)[4], const Operand& b, int part, const Lane& me) {
#pragma unroll
    for (int step = 0; step < M::STEPS; ++step) multiply_accumulate(c[step % 2], a[step], b(part * M::STEPS + step, 0, me), b(part * M::STEPS + step, 1, me));
}

template <class M, class Operand> DEVICE void multiply_held(float* partial, const Held<M>& held, Place& place, const Operand& b, int rows, const Lane& me) {
#pragma unroll
    for (int tile = 0; tile < M::HELD; ++tile) {
        if (!M::has_tile(tile, rows)) break;
        float c[2][4] = {};
#pragma unroll
        for (int part = 0; part < M::PARTS; ++part) multiply_part<M>(c, held.a + tile * M::FRAGMENTS + part * M::STEPS, b, part, me);
        store_tile(partial, tile, c, me);
    }
}
template <class M> DEVICE void release_held(Place& place, int rows, const Lane& me) {
#ifndef EARLY_RELEASE
#pragma unroll
    for (int tile = 0; tile < M::HELD; ++tile) {
        if (!M::has_tile(tile, rows)) break;
#pragma unroll
        for (int part = 0; part < M::PARTS; ++part) place.release(me.lane);
    }
#endif
}

// A tile whose weights are loaded now; its sums go to tile `tile_of_sums` of `partial`.
template <class M, class Operand> DEVICE void multiply_tile(float* partial, int tile_of_sums, Place& place, const Operand& b, int height, const Lane& me) {
    float c[2][4] = {};
    Place ahead = place;
#pragma unroll
    for (int part = 0; part < M::PARTS; ++part) {
        u32 a[M::STEPS][4];
        ahead.wait_full();
        load_part<M>(a, ahead, height, me);
        multiply_part<M>(c, a, b, part, me);
        ahead.advance();
        if (part > 0) place.release(me.lane); // a slot is given back one later, when its weights have certainly been used
    }
    store_tile(partial, tile_of_sums, c, me);
    place.release(me.lane);
}

// All sums of one stage.
template <class M, class Operand> DEVICE void multiply(float* partial, const Held<M>& held, Place& place, const Operand& b, int rows, const Lane& me) {
    multiply_held<M>(partial, held, place, b, rows, me);
    if (M::TILES > M::HELD) {
        release_held<M>(place, rows, me);
        for (int tile = M::HELD; tile * TILE < rows; ++tile) multiply_tile<M>(partial, tile, place, b, min(rows - tile * TILE, TILE), me);
    }
}
// To be called after the rendezvous, when nobody waits for this warp.
template <class M> DEVICE void release(Place& place, int rows, const Lane& me) {
    if (M::TILES <= M::HELD) release_held<M>(place, rows, me);
}

// Synchronises consumer warps; those below `readers` wait, the others only arrive. Each barrier is used again only after something that needed all of this block's results
// of the last use, so no warp can arrive twice in one phase.
enum { BARRIER_PARTIAL = 1, BARRIER_ATTENTION = 3, BARRIER_ALL = 4 };
DEVICE void rendezvous(int barrier, int readers, int warp) {
#ifdef FULLSYNC
    readers = WARPS;
#endif
    if (warp < readers) asm volatile("bar.sync %0, %1;" :: "r"(barrier), "n"(CONSUMERS) : "memory");
    else asm volatile("bar.arrive %0, %1;" :: "r"(barrier), "n"(CONSUMERS) : "memory");
}

DEVICE float sum_of_warps(const float* partial) {
    float4 sum = *(const float4*)partial;
#pragma unroll
    for (int i = 4; i < WARPS; i += 4) {
        const float4 more = *(const float4*)(partial + i);
        sum.x += more.x; sum.y += more.y; sum.z += more.z; sum.w += more.w;
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

// ---- The residual stream ---------------------------------------------------------------------------------------------------------------------------------------------------------

typedef float Residual[Qkv::ROUNDS][4]; // elements 2t, 2t + 1, 2t + 8, 2t + 9 of this lane's fragments; zero where a fragment does not exist

// x += what the blocks have published.
DEVICE void add_published(Residual& x, const Atom* published, u32 tag, Waiting& waiting, const Lane& me) {
    constexpr int N = Qkv::ROUNDS * 2;
    Two got[N];
    await(got, [&](int i) { return published + Qkv::first_column(me.warp, i / 2 * 8 + me.group) + me.quad * 2 + i % 2 * 8; }, [&](int i) { return Qkv::wanted(me.warp, i / 2 * 8 + me.group); }, tag, waiting);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const bool exists = Qkv::exists(me.warp, i / 2 * 8 + me.group);
        x[i / 2][i % 2 * 2] += exists ? __uint_as_float(got[i].value0) : 0.f;
        x[i / 2][i % 2 * 2 + 1] += exists ? __uint_as_float(got[i].value1) : 0.f;
    }
}

// The operand bf16(x * norm); the factor 1 / rms(x) is applied to the sums, when all warps' squares are known.
template <class M> DEVICE void normed(Spread<M>& b, const Residual& x, const Held<M>& held, float* squares, const Lane& me) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < M::ROUNDS; ++i) {
        b.own[i][0] = pack_bf16(x[i][0] * held.norm[i][0], x[i][1] * held.norm[i][1]);
        b.own[i][1] = pack_bf16(x[i][2] * held.norm[i][2], x[i][3] * held.norm[i][3]);
        sum += (x[i][0] * x[i][0] + x[i][1] * x[i][1]) + (x[i][2] * x[i][2] + x[i][3] * x[i][3]);
    }
    sum = warp_sum(sum);
    if (me.lane == 0) squares[me.warp] = sum;
}
DEVICE float inverse_rms(const float* squares, float eps) { return rsqrtf(sum_of_warps(squares) * (1.f / HIDDEN) + eps); }

// ---- Attention ---------------------------------------------------------------------------------------------------------------------------------------------------------------------

// How the keys are spread: block `unit` takes key-value head unit % KV_HEADS, split unit / KV_HEADS; its warps take the split's tiles in turn.
struct Keys {
    int position, splits;
    int head;            // key-value head
    int split;           // none of this block's business when it is not below `splits`
    int first, end;      // tiles of this warp: first, first + WARPS, ...
    int active;          // warps that have a tile

    DEVICE Keys(int position, int unit, int warp) : position(position), head(unit % KV_HEADS), split(unit / KV_HEADS) {
        constexpr int MOST = BLOCKS / KV_HEADS < MAX_SPLITS ? BLOCKS / KV_HEADS : MAX_SPLITS;
        const int tiles = position / TILE + 1;
        splits = min(ceil_div(tiles, SPLIT_TILES), MOST);
        const int share = ceil_div(tiles, splits);
        splits = ceil_div(tiles, share); // none is empty
        const int start = split * share;
        end = split < splits ? min(start + share, tiles) : 0;
        first = start + warp;
        active = min(end - start, WARPS);
    }
};

// Sixteen keys and values in one warp. Lane (group, quad) holds of keys `group` and `group + 8` the elements quad * HALF / 4 ... of both halves of the head (so that rotation stays within
// a lane), and of values 2 quad, 2 quad + 1, 2 quad + 8, 2 quad + 9 the elements group * HEAD_DIM / 8 ...
struct KeyTile {
    u32 k[2][2][PAIRS];
    u32 v[4][PAIRS];
};

DEVICE void load_pairs(u32 (&to)[PAIRS], const bf16* from, bool there) {
    if (PAIRS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < PAIRS / 4; ++i) {
            const uint4 four = there ? ((const uint4*)from)[i] : make_uint4(0, 0, 0, 0);
            to[i * 4] = four.x; to[i * 4 + 1] = four.y; to[i * 4 + 2] = four.z; to[i * 4 + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) to[i] = there ? ((const u32*)from)[i] : 0u;
    }
}
DEVICE void store_pairs(bf16* to, const u32 (&from)[PAIRS]) {
    if (PAIRS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < PAIRS / 4; ++i) ((uint4*)to)[i] = make_uint4(from[i * 4], from[i * 4 + 1], from[i * 4 + 2], from[i * 4 + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) ((u32*)to)[i] = from[i];
    }
}

DEVICE int value_row(int i, int quad) { return quad * 2 + i % 2 + i / 2 * 8; }

// Keys of one tile in the cache: of the layer and key-value head; the values lie KV_HEADS * PAGE * HEAD_DIM elements behind.
DEVICE bf16* tile_keys(const Step& step, int layer, int tile, int head) {
    const u32 page = step.pages[tile / (PAGE / TILE)];
    return step.cache + page * step.page_stride + layer * step.layer_stride + (head * PAGE + tile % (PAGE / TILE) * TILE) * HEAD_DIM;
}
constexpr int TO_VALUES = KV_HEADS * PAGE * HEAD_DIM;

DEVICE void load_keys(KeyTile& tile, const bf16* keys, int cached /* of the sixteen */, const Lane& me) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int key = me.group + i * 8;
#pragma unroll
        for (int half = 0; half < 2; ++half) load_pairs(tile.k[i][half], keys + key * HEAD_DIM + half * HALF + me.quad * (HALF / 4), key < cached);
    }
}
DEVICE void load_values(KeyTile& tile, const bf16* keys, int cached, const Lane& me) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int key = value_row(i, me.quad);
        load_pairs(tile.v[i], keys + TO_VALUES + key * HEAD_DIM + me.group * (HEAD_DIM / 8), key < cached);
    }
}

// Into L2, for a layer still to come: a tile's keys and values are two runs of TILE * HEAD_DIM * 2 bytes.
DEVICE void prefetch_tile(const bf16* keys, const Lane& me) {
    constexpr int LINES = TILE * HEAD_DIM * 2 / 128;
    for (int line = me.lane; line < 2 * LINES; line += WARP) {
        const bf16* from = keys + (line < LINES ? line * 64 : TO_VALUES + (line - LINES) * 64);
        asm volatile("prefetch.global.L2 [%0];" :: "l"(from));
    }
}

// Waits for this step's queries of the group (and with `with_keys` the key and the value), rotates queries and key to the position, and leaves all as pairs of bf16 in shared memory.
// Each lane takes pairs lane, lane + 32, ... of the heads in a row; a pair's partner in the rotation is then in the same place of another lane.
constexpr int HEAD_PAIRS = HEAD_DIM / 2;
template <bool KEYS> DEVICE void await_heads(u32* to, const Atom* published, int head, u32 tag, const Shared& shared, Waiting& waiting, const Lane& me) {
    constexpr int QUERIES = GROUP * HEAD_PAIRS, WORDS = QUERIES + (KEYS ? 2 * HEAD_PAIRS : 0), N = ceil_div(WORDS, WARP);
    const int pair = me.lane % HEAD_PAIRS;
    const bool high = pair >= HEAD_PAIRS / 2;
    const int angle = pair * 2 - (high ? HALF : 0);
    const float c0 = shared.cos[angle], c1 = shared.cos[angle + 1], s0 = high ? shared.sin[angle] : -shared.sin[angle], s1 = high ? shared.sin[angle + 1] : -shared.sin[angle + 1];
    Two got[N];
    await(got, [&](int i) {
        const int word = i * WARP + me.lane, which = word / HEAD_PAIRS;
        const int row_head = which < GROUP ? head * GROUP + which : which == GROUP ? HEADS + head : HEADS + KV_HEADS + head;
        return published + (word < WORDS ? row_head : 0) * HEAD_DIM + pair * 2;
    }, [&](int i) { return i * WARP + me.lane < WORDS; }, tag, waiting);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int word = i * WARP + me.lane;
        const float x0 = __uint_as_float(got[i].value0), x1 = __uint_as_float(got[i].value1);
        const float y0 = __shfl_xor_sync(ALL_LANES, x0, HEAD_PAIRS / 2), y1 = __shfl_xor_sync(ALL_LANES, x1, HEAD_PAIRS / 2);
        const bool value = word >= QUERIES + HEAD_PAIRS;
        if (word < WORDS) to[word] = value ? pack_bf16(x0, x1) : pack_bf16(x0 * c0 + y0 * s0, x1 * c1 + y1 * s1);
    }
    __syncwarp();
}
// Some consecutive pairs.
DEVICE void read_pairs(u32 (&to)[PAIRS], const u32* from) {
    if (PAIRS % 4 == 0) {
        const uint4 four = *(const uint4*)from;
        to[0] = four.x; to[1] = four.y; to[2] = four.z; to[3] = four.w;
    } else {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) to[i] = from[i];
    }
}

// Attention of one group of query heads over this block's split.
DEVICE void attend(const Step& step, const Keys& keys, KeyTile& tile, int layer, u32 tag, Shared& shared, Waiting& waiting, const Lane& me) {
    const Atom* published = step.scratch->qkv[layer % 2];
    if (keys.first < keys.end) {
        const bool owner = (keys.position / TILE - keys.first) % WARPS == 0 && keys.position / TILE < keys.end; // of the tile with this step's key
        u32* heads = shared.heads[me.warp];
        if (owner) await_heads<true>(heads, published, keys.head, tag, shared, waiting, me);
        else await_heads<false>(heads, published, keys.head, tag, shared, waiting, me);
        u32 q[2][PAIRS];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            read_pairs(q[half], heads + (me.group < GROUP ? me.group : 0) * HEAD_PAIRS + half * (HEAD_PAIRS / 2) + me.quad * PAIRS);
            if (me.group >= GROUP) {
#pragma unroll
                for (int j = 0; j < PAIRS; ++j) q[half][j] = 0u;
            }
        }
        constexpr int DIMS = HEAD_DIM / 8;
        const float scale = rsqrtf((float)HEAD_DIM) * 1.4426950408889634f; // scores in powers of two
        float o[DIMS][4] = {};
        float peak = -infinity(), weight = 0.f;
        for (int number = keys.first; number < keys.end; number += WARPS) {
            const bool more = number + WARPS < keys.end;
            const bf16* next = more ? tile_keys(step, layer, number + WARPS, keys.head) : nullptr;
            const int next_cached = keys.position - (number + WARPS) * TILE;
            if (number == keys.position / TILE) { // the token of this step is not in the cache yet: put it there, and into this tile
                bf16* to = tile_keys(step, layer, number, keys.head);
                const int row = keys.position % TILE;
                u32 k[2][PAIRS], v[PAIRS];
#pragma unroll
                for (int half = 0; half < 2; ++half) read_pairs(k[half], heads + (GROUP * 2 + half) * (HEAD_PAIRS / 2) + me.quad * PAIRS);
                read_pairs(v, heads + (GROUP + 1) * HEAD_PAIRS + me.group * PAIRS);
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if (me.group + i * 8 == row) {
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
#pragma unroll
                            for (int j = 0; j < PAIRS; ++j) tile.k[i][half][j] = k[half][j];
                            store_pairs(to + row * HEAD_DIM + half * HALF + me.quad * (HALF / 4), k[half]);
                        }
                    }
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (value_row(i, me.quad) == row) {
#pragma unroll
                        for (int j = 0; j < PAIRS; ++j) tile.v[i][j] = v[j];
                        store_pairs(to + TO_VALUES + row * HEAD_DIM + me.group * DIMS, v);
                    }
            }
            // Scores: row `group` is a query head, columns are keys 2 quad, 2 quad + 1 of each eight.
            float p[2][4] = {};
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < PAIRS; ++j)
                    multiply_accumulate(p[i], q[0][j], q[1][j], tile.k[i][0][j], tile.k[i][1][j]);
            if (more) load_keys(tile, next, next_cached, me); // as soon as their registers are free
            float largest = peak;
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    p[i][j] = number * TILE + i * 8 + me.quad * 2 + j <= keys.position ? p[i][j] * scale : -infinity();
                    largest = fmaxf(largest, p[i][j]);
                }
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
            const float shrink = exp2_fast(peak - largest);
            peak = largest;
            u32 weights[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) weights[i] = pack_bf16(exp2_fast(p[i][0] - largest), exp2_fast(p[i][1] - largest));
            weight = weight * shrink + ((low_of(weights[0]) + high_of(weights[0])) + (low_of(weights[1]) + high_of(weights[1])));
            if (number != keys.first) {
#pragma unroll
                for (int j = 0; j < DIMS; ++j) { o[j][0] *= shrink; o[j][1] *= shrink; }
            }
#pragma unroll
            for (int j = 0; j < DIMS; ++j) {
                const u32 halves = j % 2 ? 0x7632 : 0x5410;
                multiply_accumulate(o[j], weights[0], weights[1], __byte_perm(tile.v[0][j / 2], tile.v[1][j / 2], halves), __byte_perm(tile.v[2][j / 2], tile.v[3][j / 2], halves));
            }
            if (more) load_values(tile, next, next_cached, me);
        }
        weight += __shfl_xor_sync(ALL_LANES, weight, 1);
        weight += __shfl_xor_sync(ALL_LANES, weight, 2);
        if (me.group < GROUP) {
#pragma unroll
            for (int j = 0; j < DIMS; ++j) *(float2*)shared.attended[me.warp][j][me.lane] = make_float2(o[j][0], o[j][1]);
            if (me.quad == 0) { shared.peak[me.group][me.warp] = peak; shared.weight[me.group][me.warp] = weight; }
        }
    }
    // Merge what the warps have, and publish it as pairs of elements.
    constexpr int WORDS = GROUP * HALF;
    constexpr int READERS = ceil_div(WORDS, WARP) < WARPS ? ceil_div(WORDS, WARP) : WARPS;
    rendezvous(BARRIER_ATTENTION, READERS, me.warp);
    if (me.warp < READERS)
        for (int word = threadIdx.x; word < WORDS; word += READERS * WARP) {
            constexpr int DIMS = HEAD_DIM / 8;
            const int in_group = word / HALF, dim = word % HALF * 2;
            const int column = dim / DIMS, j = dim % DIMS; // column of the tensor core's result, and number of that result
            const int lane = in_group * 4 + column / 2;
            float largest = -infinity();
            for (int warp = 0; warp < keys.active; ++warp) largest = fmaxf(largest, shared.peak[in_group][warp]);
            float sum = 0.f, x0 = 0.f, x1 = 0.f;
#pragma unroll 4
            for (int warp = 0; warp < keys.active; ++warp) {
                const float factor = exp2_fast(shared.peak[in_group][warp] - largest);
                sum += factor * shared.weight[in_group][warp];
                x0 += factor * shared.attended[warp][j][lane][column % 2];
                x1 += factor * shared.attended[warp][j + 1][lane][column % 2];
            }
            const float inverse = __fdividef(1.f, sum);
            const int head = keys.head * GROUP + in_group;
#pragma unroll
            for (int replica = 0; replica < REPLICAS; ++replica) {
                Exchange& to = step.scratch->exchange[replica][layer % 2];
                publish(&to.attended[keys.split][pair_place((head * HEAD_DIM + dim) / 2)], pack_bf16(x0 * inverse, x1 * inverse), tag);
                if (dim < 4) publish(&to.share[head][keys.split][dim / 2], __float_as_uint(largest + __log2f(sum)), tag);
            }
        }
}

// The attended vector as an operand: split `group` in column `group`, weighted by its share of the sum of exponentials.
DEVICE void await_attended(Stacked<Out>& b, const Exchange& from, int splits, u32 tag, Waiting& waiting, const Lane& me) {
    const bool mine = me.group < splits;
    const int split = mine ? me.group : 0;
    constexpr int BATCH = Out::FRAGMENTS <= 4 ? Out::FRAGMENTS : Out::FRAGMENTS % 4 == 0 ? 4 : Out::FRAGMENTS % 3 == 0 ? 3 : 1;
#pragma unroll
    for (int start = 0; start < Out::FRAGMENTS; start += BATCH) {
        Two got[BATCH];
        auto attended = [&](int i) { return &from.attended[split][Out::first_column(me.warp, start + i) / 2 + me.quad * 2]; };
        auto wanted = [&](int i) { return mine && Out::wanted(me.warp, start + i); };
        if (splits == 1)
            await(got, attended, wanted, tag, waiting);
        else {
            Two both[2 * BATCH]; // the shares come along: one after the other would be one more way to L2 and back
            await(both, [&](int i) { return i < BATCH ? attended(i) : from.share[Out::first_column(me.warp, start + i - BATCH) / HEAD_DIM][split]; },
                  [&](int i) { return wanted(i % BATCH) && (i < BATCH || me.quad == 0); }, tag, waiting, GATE_SPLITS);
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                const u32 published_log = __shfl_sync(ALL_LANES, both[BATCH + i].value0, me.lane & ~3);
                const float log = mine ? __uint_as_float(published_log) : -infinity();
                float largest = log;
#pragma unroll
                for (int offset = 4; offset < WARP; offset *= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
                float share = exp2_fast(log - largest), sum = share;
#pragma unroll
                for (int offset = 4; offset < WARP; offset *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
                share = __fdividef(share, sum);
                got[i].value0 = pack_bf16(low_of(both[i].value0) * share, high_of(both[i].value0) * share);
                got[i].value1 = pack_bf16(low_of(both[i].value1) * share, high_of(both[i].value1) * share);
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const bool exists = Out::exists(me.warp, start + i);
            b.own[start + i][0] = exists ? got[i].value0 : 0u;
            b.own[start + i][1] = exists ? got[i].value1 : 0u;
        }
    }
}

// The hidden layer of the MLP as an operand.
DEVICE void await_hidden(Spread<Down>& b, const Exchange& from, u32 tag, Waiting& waiting, const Lane& me) {
    Two got[Down::ROUNDS];
    await(got, [&](int i) { return &from.hidden[Down::first_column(me.warp, i * 8 + me.group) / 2 + me.quad * 2]; }, [&](int i) { return Down::wanted(me.warp, i * 8 + me.group); }, tag, waiting);
#pragma unroll
    for (int i = 0; i < Down::ROUNDS; ++i) {
        const bool exists = Down::exists(me.warp, i * 8 + me.group);
        b.own[i][0] = exists ? got[i].value0 : 0u;
        b.own[i][1] = exists ? got[i].value1 : 0u;
    }
}

// ---- The likeliest token -------------------------------------------------------------------------------------------------------------------------------------------------------------

struct Candidate {
    float logit;
    u32 token;

    DEVICE void consider(float other_logit, u32 other_token) { // of equal logits, the lowest token
        if (other_logit > logit || (other_logit == logit && other_token < token)) { logit = other_logit; token = other_token; }
    }
    DEVICE void over_warp() {
        for (int offset = WARP / 2; offset > 0; offset /= 2) consider(__shfl_xor_sync(ALL_LANES, logit, offset), __shfl_xor_sync(ALL_LANES, token, offset));
    }
    // Over all consumer threads; the result is valid in warp 0.
    DEVICE void over_block(Shared& shared, const Lane& me) {
        over_warp();
        if (me.lane == 0) { shared.best_logit[me.warp] = logit; shared.best_token[me.warp] = token; }
        rendezvous(BARRIER_ALL, WARPS, me.warp);
        if (me.lane < WARPS) consider(shared.best_logit[me.lane], shared.best_token[me.lane]);
        if (me.warp == 0) over_warp();
    }
};

// ---- The step ----------------------------------------------------------------------------------------------------------------------------------------------------------------------

#ifdef PROFILE
struct Stopwatch {
    u32 last, spent[16];
    DEVICE void mark(int i) {
        const u32 now = clock();
        spent[i] += now - last;
        last = now;
    }
};
#define MARK(i) stopwatch.mark(i)
#else
#define MARK(i)
#endif

DEVICE void feed_all(const Step& step, Place place, int block, int lane) {
    u64 policy; // weights are read once a step: they should not drive out what is read again
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    for (int i = 0; i < LAYERS; ++i) {
        const Layer layer = step.layers[i];
        feed<Qkv>(place, layer.qkv, layer.norm1, block, lane, policy);
        feed<Out>(place, layer.out, nullptr, block, lane, policy);
        feed<GateUp>(place, layer.gate_up, layer.norm2, block, lane, policy);
        feed<Down>(place, layer.down, nullptr, block, lane, policy);
    }
    feed<Head>(place, step.head, step.final_norm, block, lane, policy);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_step(const __grid_constant__ Step step) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    Shared& shared = *(Shared*)shared_memory;
    const int block = blockIdx.x;
    const Lane me = {(int)threadIdx.x % WARP, (int)threadIdx.x % WARP / 4, (int)threadIdx.x % 4, __shfl_sync(ALL_LANES, (int)threadIdx.x / WARP, 0)};
    Place place = {shared_address(shared.slots), shared_address(shared.full), shared_address(shared.empty), 0, 0};

    if (threadIdx.x == 0) {
        for (int i = 0; i < SLOTS; ++i) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(place.full + i * 8) : "memory");
            asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(place.empty + i * 8), "n"(WARPS) : "memory");
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncthreads();
    if (me.warp == WARPS) {
        feed_all(step, place, block, me.lane);
        return;
    }
    const u32 position = *step.position;
    for (int i = threadIdx.x; i < HALF; i += CONSUMERS) {
        shared.cos[i] = step.cos[(u64)position * HALF + i];
        shared.sin[i] = step.sin[(u64)position * HALF + i];
    }
    rendezvous(BARRIER_ALL, WARPS, me.warp);

#ifdef PROFILE
    Stopwatch stopwatch = {(u32)clock()};
#endif
    Scratch& scratch = *step.scratch;
    Waiting waiting = {PATIENCE, &scratch.status};
    const u32 first_tag = scratch.sequence + 1;
    const int replica = block % REPLICAS;
    const Keys keys(position, block, me.warp);
    const bool attends = keys.split < keys.splits, has_keys = attends && keys.first < keys.end;
    const int cached = has_keys ? keys.position - keys.first * TILE : 0; // keys of the first tile that are in the cache

    Residual x;
    const u32 id = *step.id;
#pragma unroll
    for (int i = 0; i < Qkv::ROUNDS; ++i) {
        const bf16* from = step.embedding + (u64)id * HIDDEN + Qkv::first_column(me.warp, i * 8 + me.group) + me.quad * 2;
        const u32 low = *(const u32*)from, high = *(const u32*)(from + 8);
        const bool exists = Qkv::exists(me.warp, i * 8 + me.group);
        x[i][0] = exists ? low_of(low) : 0.f;
        x[i][1] = exists ? high_of(low) : 0.f;
        x[i][2] = exists ? low_of(high) : 0.f;
        x[i][3] = exists ? high_of(high) : 0.f;
    }

    float* const partial0 = shared.partial[0];
    float* const partial1 = shared.partial[1];
    for (int layer = 0; layer < LAYERS; ++layer) {
        const u32 tag = first_tag + layer;
        Exchange& exchange = scratch.exchange[replica][layer % 2];
        KeyTile tile;
        { // without a branch, which costs registers
            const bf16* from = tile_keys(step, layer, has_keys ? keys.first : 0, keys.head);
            load_keys(tile, from, cached, me);
            load_values(tile, from, cached, me);
        }

        { // q, k, v
            const int first = Qkv::first_row(block), rows = Qkv::first_row(block + 1) - first;
            Held<Qkv> held;
            hold(held, place, rows, me);
            MARK(0);
            if (layer > 0) add_published(x, scratch.exchange[replica][(layer - 1) % 2].down, tag - 1, waiting, me);
            MARK(1);
            Spread<Qkv> b;
            normed<Qkv>(b, x, held, shared.squares[0], me);
            multiply<Qkv>(partial0, held, place, b, rows, me);
            constexpr int READERS = ceil_div(Qkv::MOST, WARP);
            rendezvous(BARRIER_PARTIAL, READERS, me.warp);
            if (threadIdx.x < rows)
                publish(&scratch.qkv[layer % 2][first + threadIdx.x], __float_as_uint(sum_of_warps(partial0 + threadIdx.x * PARTIAL_STRIDE) * inverse_rms(shared.squares[0], step.eps)), tag);
            release<Qkv>(place, rows, me);
            MARK(2);
        }
        if (attends) {
            attend(step, keys, tile, layer, tag, shared, waiting, me);
            if (layer + 1 < LAYERS)
                for (int number = keys.first; number < keys.end; number += WARPS) prefetch_tile(tile_keys(step, layer + 1, number, keys.head), me);
        }
        MARK(3);
        { // output projection
            const int first = Out::first_row(block), rows = Out::first_row(block + 1) - first;
            Held<Out> held;
            hold(held, place, rows, me);
            Stacked<Out> b;
            await_attended(b, exchange, keys.splits, tag, waiting, me);
            MARK(4);
            if (Out::has_tile(0, rows)) {
                multiply<Out>(partial1, held, place, b, rows, me);
                constexpr int READERS = ceil_div(Out::MOST, WARP);
                rendezvous(BARRIER_PARTIAL + 1, READERS, me.warp);
                if (threadIdx.x < rows) {
                    const u32 sum = __float_as_uint(sum_of_warps(partial1 + threadIdx.x * PARTIAL_STRIDE));
#pragma unroll
                    for (int to = 0; to < REPLICAS; ++to) publish(&scratch.exchange[to][layer % 2].out[first + threadIdx.x], sum, tag);
                }
                release<Out>(place, rows, me);
            }
            MARK(5);
        }
        { // hidden layer of the MLP
            const int first = GateUp::first_row(block), rows = GateUp::first_row(block + 1) - first;
            Held<GateUp> held;
            hold(held, place, rows, me);
            add_published(x, exchange.out, tag, waiting, me);
            MARK(6);
            if (GateUp::has_tile(0, rows)) {
                Spread<GateUp> b;
                normed<GateUp>(b, x, held, shared.squares[0], me);
                multiply<GateUp>(partial0, held, place, b, rows, me);
                constexpr int READERS = ceil_div(GateUp::MOST / 2, WARP);
                rendezvous(BARRIER_PARTIAL, READERS, me.warp);
                if (me.warp < READERS) {
                    const int i = min((int)threadIdx.x, rows / 2 - 1); // lanes without a row keep the others company in the shuffle
                    const float scale = inverse_rms(shared.squares[0], step.eps);
                    const float gate = sum_of_warps(partial0 + 2 * i * PARTIAL_STRIDE) * scale;
                    const float up = sum_of_warps(partial0 + (2 * i + 1) * PARTIAL_STRIDE) * scale;
                    const float h = __fdividef(gate, 1.f + __expf(-gate)) * up;
                    const u32 pair = pack_bf16(h, __shfl_down_sync(ALL_LANES, h, 1));
                    if (threadIdx.x < rows / 2 && threadIdx.x % 2 == 0) {
#pragma unroll
                        for (int to = 0; to < REPLICAS; ++to) publish(&scratch.exchange[to][layer % 2].hidden[pair_place((first / 2 + threadIdx.x) / 2)], pair, tag);
                    }
                }
                release<GateUp>(place, rows, me);
            }
            MARK(7);
        }
        { // down
            const int first = Down::first_row(block), rows = Down::first_row(block + 1) - first;
            Held<Down> held;
            hold(held, place, rows, me);
            Spread<Down> b;
            await_hidden(b, exchange, tag, waiting, me);
            MARK(8);
            if (Down::has_tile(0, rows)) {
                multiply<Down>(partial1, held, place, b, rows, me);
                constexpr int READERS = ceil_div(Down::MOST, WARP);
                rendezvous(BARRIER_PARTIAL + 1, READERS, me.warp);
                if (threadIdx.x < rows) {
                    const u32 sum = __float_as_uint(sum_of_warps(partial1 + threadIdx.x * PARTIAL_STRIDE));
#pragma unroll
                    for (int to = 0; to < REPLICAS; ++to) publish(&scratch.exchange[to][layer % 2].down[first + threadIdx.x], sum, tag);
                }
                release<Down>(place, rows, me);
            }
            MARK(9);
        }
    }

    // Logits: some tiles at a time, so that the sums of all warps fit.
    Candidate best = {-infinity(), 0xffffffffu};
    {
        const int first = Head::first_row(block), rows = Head::first_row(block + 1) - first;
        Held<Head> held;
        hold(held, place, rows, me);
        add_published(x, scratch.exchange[replica][(LAYERS - 1) % 2].down, first_tag + LAYERS - 1, waiting, me);
        MARK(10);
        Spread<Head> b;
        normed<Head>(b, x, held, shared.squares[0], me);
        multiply_held<Head>(partial0, held, place, b, rows, me);
        release_held<Head>(place, rows, me);
        constexpr int PASS = HEAD_PASS_TILES * TILE;
        static_assert(Head::HELD <= HEAD_PASS_TILES, "");
        for (int start = 0, pass = 0; start < rows; start += PASS, ++pass) {
            float* partial = shared.partial[pass % 2];
            for (int tile = pass == 0 ? Head::HELD : 0; tile < HEAD_PASS_TILES && start + tile * TILE < rows; ++tile)
                multiply_tile<Head>(partial, tile, place, b, min(rows - start - tile * TILE, TILE), me);
            rendezvous(BARRIER_ALL, WARPS, me.warp);
            const float scale = inverse_rms(shared.squares[0], step.eps);
            for (int row = threadIdx.x; row < PASS && start + row < rows; row += CONSUMERS) {
                const float logit = sum_of_warps(partial + row * PARTIAL_STRIDE) * scale;
                step.logits[first + start + row] = logit;
                best.consider(logit, first + start + row);
            }
        }
        best.over_block(shared, me);
        const u32 tag = first_tag + LAYERS - 1;
        if (threadIdx.x == 0) {
            publish(&scratch.winner[block][0], __float_as_uint(best.logit), tag);
            publish(&scratch.winner[block][1], best.token, tag);
        }
        MARK(11);
        if (block == 0) {
            // Every block has read the token, the position and the sequence number before it published: they may be replaced.
            best = {-infinity(), 0xffffffffu};
            for (int start = 0; start < BLOCKS; start += CONSUMERS) {
                const int other = min(start + (int)threadIdx.x, BLOCKS - 1);
                Two got[1];
                await(got, [&](int) { return scratch.winner[other]; }, [](int) { return true; }, tag, waiting);
                best.consider(__uint_as_float(got[0].value0), got[0].value1);
            }
            rendezvous(BARRIER_ALL, WARPS, me.warp); // the block's own candidates have been read
            best.over_block(shared, me);
            if (threadIdx.x == 0) {
                *step.token = best.token;
                if (step.advance) *step.position = position + 1;
                scratch.sequence = tag;
            }
        }
    }
    MARK(12);
#ifdef PROFILE
    if (threadIdx.x == 0)
        for (int i = 0; i < 16; ++i) step.profile[block * 16 + i] = stopwatch.spent[i];
#endif
}
