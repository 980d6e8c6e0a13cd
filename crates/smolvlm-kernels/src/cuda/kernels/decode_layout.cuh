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
// A launch may start beside the end of the one before it: a multiprocessor that is through fetches the first weights of the next token while others finish this one.
//
// Why the launch ends: all blocks are resident at once (one a multiprocessor, as many as there are; what runs before ends by itself). A wait is for words which other blocks
// publish after waits for earlier stages only, so there is no cycle. Should that be broken (scratch memory overwritten, blocks missing), every poll is counted, and after PATIENCE fruitless
// polls a warp reports through the status word and waits no more: the launch still ends, its results void.
//
// Given by the compiler: HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS, VOCAB, BLOCKS (the grid), and SHARED_LIMIT, the bytes of shared memory that a block may have: the weight ring takes
// what the rest leaves.

constexpr int WARPS = 12;           // that multiply; one more feeds. Best where HIDDEN and MLP are multiples of 16 WARPS.
constexpr int SLOT_LIMIT = 20992;    // bytes of weights a slot may hold
constexpr int REPLICAS = 4;          // copies of what all blocks read: a line read by every multiprocessor at once is served by one slice of L2, one reader after the other
constexpr int SPLIT_TILES = 12;      // tiles of 16 keys a block takes before attention is split further
constexpr u32 PATIENCE = 4000000;    // fruitless polls of one warp before it gives up: seconds

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
    u32 sequence, status, token; // tags used up so far; not zero once a wait has failed; the likeliest token, for a launch that follows
    u32 unused[29];
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
    float* logits;
    Scratch* scratch;
    u64* answer; // on the host: the launch's number, and below it the likeliest token with FAILED if the launch failed
    float eps;
    u32 position, id;
    u32 follows; // the token is the one that the launch before chose, not `id`
    u32 number;
};
constexpr u32 FAILED = 1u << 31;
