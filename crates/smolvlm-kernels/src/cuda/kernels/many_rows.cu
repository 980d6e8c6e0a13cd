// Products of many rows in bf16, of sm_90a: out = activation(x · Wᵀ + bias) + residual, sums in f32, rounded once.
// x: [rows, inputs], W: [outputs, inputs], out and residual: [rows, outputs].

#ifdef HAS_WGMMA
struct ManyRowsArguments {
    TensorMap x, weight, out, residual;  // boxes of 64 rows × 64 columns, 128-byte swizzle; zeros beyond the edges
    const bf16* bias;
    int rows, inputs, outputs;
    int residual_rows;  // the residual's rows are repeated; a multiple of 64, or no less than `rows`
};

enum Activation { IDENTITY, GELU_TANH };

DEVICE float tanh_fast(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))) as exactly as bf16 can tell.
DEVICE float gelu_fast(float x) {
    const float half = 0.5f * x;
    return half + half * tanh_fast(x * (0.7978845608028654f + 0.035677408136300125f * x * x));
}

// Two warpgroups multiply; a warp of a third brings their operands with TMA through a ring of STAGES pieces of 64 inputs.
// TOGETHER: both have half of the rows of one tile. Otherwise they take turns, each with a tile of its own, so that one multiplies while
// the other adds, rounds and stores. A warpgroup has GROUP_ROWS × OUTPUTS results, in registers.
// Blocks of a cluster compute the same outputs of neighbouring rows and bring each other a part of the weight.
template <int ROW_TILES, int OUTPUTS, bool TOGETHER, int STAGES, int CLUSTER, int ACTIVATION> struct ManyRows {
    static constexpr int BOX = 64, BOX_BYTES = BOX * BOX * 2;
    static constexpr int TURNS = 3;  // named barriers from here on
    static constexpr int GROUPS = 2, GROUP_ROWS = ROW_TILES * BOX, TILE_ROWS = TOGETHER ? GROUPS * GROUP_ROWS : GROUP_ROWS;
    static constexpr int X_BYTES = TILE_ROWS * BOX * 2, STAGE_BYTES = X_BYTES + OUTPUTS * BOX * 2;
    static constexpr int RESULT_BOXES = ROW_TILES * OUTPUTS / BOX;
    static constexpr int RESULTS_AT = STAGES * STAGE_BYTES, BARRIERS_AT = RESULTS_AT + GROUPS * RESULT_BOXES * BOX_BYTES;
    static constexpr int SHARED_BYTES = BARRIERS_AT + (2 * STAGES + GROUPS) * 8;
    static constexpr int THREADS = (GROUPS + 1) * WARPGROUP;
    // Together what a block of 384 threads with 168 registers each is given: more would never come.
    static constexpr int CONSUMER_REGISTERS = 232, PRODUCER_REGISTERS = 40;
    static_assert(GROUPS * CONSUMER_REGISTERS + PRODUCER_REGISTERS <= (GROUPS + 1) * 168, "registers of a block");
    static constexpr int WEIGHT_BOXES = OUTPUTS / BOX / CLUSTER;  // that a block brings

    const ManyRowsArguments& args;
    u32 shared, full, empty, residual_full;
    int pieces, output_tiles, items, first_item, step;

    DEVICE ManyRows(const ManyRowsArguments& args_, u32 shared_)
        : args(args_), shared(shared_), full(shared_ + BARRIERS_AT), empty(full + 8 * STAGES), residual_full(empty + 8 * STAGES),
          pieces((args_.inputs + BOX - 1) / BOX), output_tiles((args_.outputs + OUTPUTS - 1) / OUTPUTS), first_item(blockIdx.x / CLUSTER),
          step(gridDim.x / CLUSTER) {
        const int row_tiles = (args.rows + TILE_ROWS - 1) / TILE_ROWS;
        items = output_tiles * ((row_tiles + CLUSTER - 1) / CLUSTER);
    }

    DEVICE void run() {
        let_next_start();
        if (threadIdx.x == 0) {
            for (int i = 0; i < STAGES; i++) {
                barrier_init(full + 8 * i, 1);
                barrier_init(empty + 8 * i, CLUSTER * (TOGETHER ? GROUPS : 1) * 4);
            }
            for (int i = 0; i < GROUPS; i++) barrier_init(residual_full + 8 * i, 1);
            barrier_init_fence();
            tensor_map_prefetch(&args.x);
            tensor_map_prefetch(&args.weight);
            tensor_map_prefetch(&args.out);
        }
        if (CLUSTER > 1) cluster_sync();
        else __syncthreads();
        await_previous();
        const int group = threadIdx.x / WARPGROUP;
        if (group == GROUPS) {
            registers_lower<PRODUCER_REGISTERS>();
            if (threadIdx.x == GROUPS * WARPGROUP) produce();
        } else {
            registers_raise<CONSUMER_REGISTERS>();
            consume(group);
        }
        if (CLUSTER > 1) cluster_sync();  // nobody leaves while another writes to it
    }

    // Tiles of one row of blocks follow each other, so that they find its rows in the second level.
    DEVICE void locate(int item, int& row, int& output) const {
        output = item % output_tiles * OUTPUTS;
        row = item / output_tiles * CLUSTER;
        if (CLUSTER > 1) row += cluster_rank();
        row *= TILE_ROWS;
    }

    DEVICE void produce() const {
        RingPosition<STAGES> ring;
        for (int item = first_item; item < items; item += step) {
            int row, output;
            locate(item, row, output);
            for (int piece = 0; piece < pieces; piece++) {
                const u32 to = shared + ring.slot * STAGE_BYTES, barrier = full + 8 * ring.slot;
                barrier_wait(empty + 8 * ring.slot, ring.parity ^ 1);
                barrier_arrive_expect(barrier, STAGE_BYTES);
#pragma unroll
                for (int i = 0; i < TILE_ROWS / BOX; i++) tma_load_2d(to + i * BOX_BYTES, &args.x, piece * BOX, row + i * BOX, barrier);
#pragma unroll
                for (int i = 0; i < WEIGHT_BOXES; i++) {
                    if (CLUSTER > 1) {
                        const int box = cluster_rank() * WEIGHT_BOXES + i;
                        tma_load_2d_multicast(to + X_BYTES + box * BOX_BYTES, &args.weight, piece * BOX, output + box * BOX, barrier,
                                              (1 << CLUSTER) - 1);
                    } else {
                        tma_load_2d(to + X_BYTES + i * BOX_BYTES, &args.weight, piece * BOX, output + i * BOX, barrier);
                    }
                }
                ring.advance();
            }
        }
    }

    DEVICE void consume(int group) const {
        const u32 results = shared + RESULTS_AT + group * RESULT_BOXES * BOX_BYTES;
        const bool leads = threadIdx.x % WARPGROUP == 0, has_residual = args.residual_rows > 0;
        u32 residual_parity = 0;
        int before = TOGETHER ? 0 : group * pieces;  // pieces that came before those of this warpgroup's tile
        const int stride = TOGETHER ? step : GROUPS * step;
        for (int item = first_item + (TOGETHER ? 0 : group * step); item < items; item += stride) {
            int row, output;
            locate(item, row, output);
            if (TOGETHER) row += group * GROUP_ROWS;
            if (leads) {
                tma_store_wait_read();  // what was stored last has left
                if (has_residual) load_residual(results, residual_full + 8 * group, row, output);
            }
            RingPosition<STAGES> ring;
            ring.slot = before % STAGES;
            ring.parity = before / STAGES % 2;
            before += TOGETHER ? pieces : GROUPS * pieces;
            float sums[ROW_TILES][OUTPUTS / 2];
            if (!TOGETHER && item != first_item) named_sync(TURNS + group, GROUPS * WARPGROUP);
            multiply(sums, ring, TOGETHER ? group : 0, !TOGETHER && item + step < items ? TURNS + (group ^ 1) : 0);
            if (has_residual) {
                barrier_wait(residual_full + 8 * group, residual_parity);
                residual_parity ^= 1;
            } else {
                named_sync(1 + group, WARPGROUP);
            }
            finish(sums, results, output, has_residual);
            fence_async_proxy();
            named_sync(1 + group, WARPGROUP);
            if (leads) {
#pragma unroll
                for (int i = 0; i < RESULT_BOXES; i++) {
                    const int at_row = row + i / (OUTPUTS / BOX) * BOX, at_output = output + i % (OUTPUTS / BOX) * BOX;
                    if (at_row < args.rows && at_output < args.outputs) tma_store_2d(&args.out, at_output, at_row, results + i * BOX_BYTES);
                }
                tma_store_commit();
            }
        }
        if (leads) tma_store_wait();
    }

    DEVICE void load_residual(u32 to, u32 barrier, int row, int output) const {
        barrier_arrive_expect(barrier, RESULT_BOXES * BOX_BYTES);
#pragma unroll
        for (int i = 0; i < RESULT_BOXES; i++) {
            const int at_row = row + i / (OUTPUTS / BOX) * BOX;
            tma_load_2d(to + i * BOX_BYTES, &args.residual, output + i % (OUTPUTS / BOX) * BOX, at_row % args.residual_rows, barrier);
        }
    }

    // All pieces of one tile, of which this warpgroup has row tiles from `first` · ROW_TILES on. The other's turn is `next`, if it has one. Nobody
    // waits for a piece before its turn: a barrier knows the last two of its phases apart, and no more.
    DEVICE void multiply(float (&sums)[ROW_TILES][OUTPUTS / 2], RingPosition<STAGES> ring, int first, int next) const {
        u32 last = 0;
        for (int piece = 0; piece < pieces; piece++) {
            barrier_wait(full + 8 * ring.slot, ring.parity);
            const u32 at = shared + ring.slot * STAGE_BYTES;
            const u64 x = operand_descriptor(at + first * GROUP_ROWS * BOX * 2), weight = operand_descriptor(at + X_BYTES);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < BOX / 16; k++) {
#pragma unroll
                for (int i = 0; i < ROW_TILES; i++)
                    wgmma_shared(sums[i], x + i * (BOX_BYTES >> 4) + k * KEYS_STEP, weight + k * KEYS_STEP, piece + k);
            }
            wgmma_commit();
            if (piece > 0) {
                wgmma_wait<1>();
                release(last);
            }
            last = empty + 8 * ring.slot;
            ring.advance();
        }
        if (next) named_arrive(next, GROUPS * WARPGROUP);
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) wgmma_wait<0>(sums[i]);
        release(last);
    }

    DEVICE void release(u32 barrier) const {
        if (CLUSTER == 1) {
            if (threadIdx.x % WARP == 0) barrier_arrive(barrier);
        } else if (threadIdx.x % WARP < CLUSTER) {
            barrier_arrive_at(barrier, threadIdx.x % WARP);
        }
    }

    // Adds, activates, rounds; results lie in shared memory as TMA wants them, where the residual was.
    DEVICE void finish(const float (&sums)[ROW_TILES][OUTPUTS / 2], u32 results, int output, bool has_residual) const {
        const int lane = threadIdx.x % WARP, row = threadIdx.x % WARPGROUP / WARP * 16 + lane % 16;
#pragma unroll
        for (int j = 0; j < OUTPUTS / 16; j++) {
            const int column = output + j * 16 + lane % 4 * 2, chunk = j % 4 * 2 + lane / 16;
            const u32 at = results + j / 4 * BOX_BYTES + row * 128 + ((chunk ^ row % 8) << 4);
            u32 bias[2];
#pragma unroll
            for (int i = 0; i < 2; i++) bias[i] = args.bias && column + i * 8 < args.outputs ? *(const u32*)(args.bias + column + i * 8) : 0;
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
                const u32 place = at + r * (OUTPUTS / BOX) * BOX_BYTES;
                u32 residual[4] = {0, 0, 0, 0}, packed[4];
                if (has_residual) load_matrices(residual, place);
#pragma unroll
                for (int i = 0; i < 4; i++) {  // rows g and g + 8 of 8 columns, then of the next 8
                    float low = sums[r][j * 8 + i * 2] + low_of(bias[i / 2]), high = sums[r][j * 8 + i * 2 + 1] + high_of(bias[i / 2]);
                    if (ACTIVATION == GELU_TANH) low = gelu_fast(low), high = gelu_fast(high);
                    packed[i] = pack_bf16(low + low_of(residual[i]), high + high_of(residual[i]));
                }
                store_matrices(place, packed);
            }
        }
    }
};
#endif
