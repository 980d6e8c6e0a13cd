// epilogue(norm(x) · Wᵀ) for 5 to some hundreds of rows in bf16 on Hopper. What decides there is how many bytes every multiprocessor has to
// bring from the second level: x and W come in chunks of 64 inputs by the tensor copy engine, the weights before the kernel before this one has
// ended. Blocks of a cluster either share their rows, of which each brings a part for all (SHARE), or split the inputs (SPLIT) and send
// their sums to each other's shared memory. It follows `tensor_core.cuh` and `product.cuh`, and takes no bias.
//
// Every sum is over the chunks that one of SPLIT · WK warps takes, in order, then over those warps, in order: it depends on neither the
// number of rows nor the tile.

#ifdef HAS_WGMMA
constexpr int CHUNK = 64;
constexpr int CHUNK_BYTES = CHUNK * 2; // of a row
constexpr int CONSUMERS = 8;           // warps that multiply; one more brings
constexpr int MOST_STAGES = 32;

struct ClusterProduct {
    TensorMap x, weight;   // in boxes of the block's rows (those it brings), and of its outputs
    const bf16* norm;      // [inputs] of an RMS norm, or null
    const bf16* residual;  // [rows, width] or null
    bf16* out;             // [rows, width]: outputs, or half as many for SWIGLU
    float eps;
    u32 rows, inputs, outputs, activation;
    u32 stages; // chunks that shared memory holds; all of a block's where SHARE is more than 1
};

DEVICE u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
DEVICE void cluster_sync() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// The same place in the shared memory of another block of the cluster.
DEVICE u32 address_of(u32 address, u32 rank) {
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}
// Numbers to the shared memory of another block, whose barrier counts their bytes.
DEVICE void send(u32 to, float a, float b, u32 barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to), "f"(a), "f"(b), "r"(barrier) : "memory");
}
DEVICE void send(u32 to, float a, u32 barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to), "f"(a), "r"(barrier) : "memory");
}
// To the same place in every block of `blocks`, whose barriers all count.
DEVICE void tma_load_2d_shared(u32 to, const TensorMap* map, int x, int y, u32 barrier, u32 blocks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
        ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier), "h"((unsigned short)blocks) : "memory");
}
DEVICE void load_matrices_2(u32 (&r)[2], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}
DEVICE u32 multiply_bf16(u32 a, u32 b) {
    u32 product;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
}
// Where a swizzled tile has 16 bytes of a row.
DEVICE u32 swizzled(u32 tile, u32 row, u32 column) { return tile + row * CHUNK_BYTES + ((column ^ (row & 7)) << 4); }

struct ClusterBarriers {
    u64 full[MOST_STAGES], empty[MOST_STAGES], gathered;
};

// A block computes 16 · MT · WM rows of 8 · NT · WN outputs with WM · WN · WK warps.
template <int MT, int NT, int WM, int WN, int WK, int SPLIT, int SHARE> struct ClusterTile {
    static constexpr int ROWS = 16 * MT * WM, OUTPUTS = 8 * NT * WN, SLOT = (ROWS + OUTPUTS) * CHUNK_BYTES;
    // Rows that this block finishes, and sums of each of their outputs. Rows of sums start in different banks.
    static constexpr int OWNED = ROWS / SPLIT, PARTS = SPLIT * WK, STRIDE = OUTPUTS % 16 == 8 ? OUTPUTS : OUTPUTS + 8;
    static constexpr int SUMS_BYTES = PARTS * OWNED * (STRIDE + 1) * 4;
    static constexpr int ITEMS = OWNED * OUTPUTS / 4, ROUNDS = (ITEMS + CONSUMERS * WARP - 1) / (CONSUMERS * WARP);
    static_assert(WM * WN * WK == CONSUMERS && (SPLIT == 1 || SHARE == 1) && OWNED % 16 == 0 && ROWS % (8 * SHARE) == 0, "");

    const ClusterProduct& args;
    ClusterBarriers& barriers;
    u32 shared, rank;
    int first_row, first_output, first_chunk, chunks;

    DEVICE ClusterTile(const ClusterProduct& args_, ClusterBarriers& barriers_, u32 shared_)
        : args(args_), barriers(barriers_), shared(shared_), rank(SPLIT * SHARE > 1 ? cluster_rank() : 0), first_row(blockIdx.y * ROWS),
          first_output(blockIdx.x / SPLIT * OUTPUTS) {
        const int all = (args.inputs + CHUNK - 1) / CHUNK;
        first_chunk = SPLIT > 1 ? all * rank / SPLIT : 0;
        chunks = (SPLIT > 1 ? all * (rank + 1) / SPLIT : all) - first_chunk;
    }

    DEVICE u32 slot(int i) const { return shared + i % args.stages * SLOT; }
    DEVICE u32 full(int i) const { return shared_address(&barriers.full[i % args.stages]); }
    DEVICE u32 empty(int i) const { return shared_address(&barriers.empty[i % args.stages]); }
    DEVICE u32 turn(int i) const { return i / args.stages & 1; }

    DEVICE void bring_weights(int i) const {
        barrier_arrive_expect(full(i), SLOT);
        tma_load_2d(slot(i) + ROWS * CHUNK_BYTES, &args.weight, (first_chunk + i) * CHUNK, first_output, full(i));
    }
    DEVICE void bring_rows(int i) const {
        const int column = (first_chunk + i) * CHUNK;
        constexpr int PART = ROWS / SHARE;
        if (SHARE == 1) tma_load_2d(slot(i), &args.x, column, first_row, full(i));
        else tma_load_2d_shared(slot(i) + rank * PART * CHUNK_BYTES, &args.x, column, first_row + rank * PART, full(i), (1 << SHARE) - 1);
    }
    // One thread.
    DEVICE void bring() const {
        const int held = min(chunks, (int)args.stages);
        tensor_map_prefetch(&args.weight);
        tensor_map_prefetch(&args.x);
        for (int i = 0; i < held; i++) bring_weights(i);
        await_previous();
        for (int i = 0; i < held; i++) bring_rows(i);
        for (int i = held; i < chunks; i++) {
            barrier_wait(empty(i), turn(i) ^ 1);
            bring_weights(i);
            bring_rows(i);
        }
    }

    float sums[MT][NT][4], squares[MT][2][4];

    DEVICE void multiply(u32 x, u32 weight, const bf16* norm, bool counts) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int k = 0; k < CHUNK / 16; k++) {
            u32 a[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) load_matrices(a[m], swizzled(x, m * 16 + (lane & 15), 2 * k + (lane >> 4)));
            if (norm) {
                const u32 low = *(const u32*)(norm + k * 16 + lane % 4 * 2), high = *(const u32*)(norm + k * 16 + 8 + lane % 4 * 2);
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    // The diagonal of x · xᵀ: eight rows of the left operand lie as a right operand does.
                    if (counts) {
                        mma_16_8_16(squares[m][0], a[m], a[m][0], a[m][2]);
                        mma_16_8_16(squares[m][1], a[m], a[m][1], a[m][3]);
                    }
                    for (int i = 0; i < 4; i++) a[m][i] = multiply_bf16(a[m][i], i < 2 ? low : high);
                }
            }
#pragma unroll
            for (int n = 0; n + 1 < NT; n += 2) {
                u32 b[4];
                load_matrices(b, swizzled(weight, n * 8 + (lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1)));
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    mma_16_8_16(sums[m][n], a[m], b[0], b[1]);
                    mma_16_8_16(sums[m][n + 1], a[m], b[2], b[3]);
                }
            }
            if (NT % 2) {
                u32 b[2];
                load_matrices_2(b, swizzled(weight, (NT - 1) * 8 + (lane & 7), 2 * k + (lane >> 3 & 1)));
#pragma unroll
                for (int m = 0; m < MT; m++) mma_16_8_16(sums[m][NT - 1], a[m], b[0], b[1]);
            }
        }
    }

    // This warp's sums to the block that finishes their rows.
    DEVICE void hand_over(u32 gathering, int wm, int wn, int wk, bool counts) const {
        const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        const u32 part = rank * WK + wk, of_squares = gathering + PARTS * OWNED * STRIDE * 4;
#pragma unroll
        for (int m = 0; m < MT; m++) {
            const int row = (wm * MT + m) * 16, owner = row / OWNED, first = row % OWNED + g;
            const u32 barrier = SPLIT > 1 ? address_of(shared_address(&barriers.gathered), owner) : 0;
#pragma unroll
            for (int r = 0; r < 2; r++) {
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const u32 at = gathering + ((part * OWNED + first + r * 8) * STRIDE + (wn * NT + n) * 8 + t * 2) * 4;
                    const float a = sums[m][n][2 * r], b = sums[m][n][2 * r + 1];
                    if (SPLIT > 1) send(address_of(at, owner), a, b, barrier);
                    else asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(a), "f"(b) : "memory");
                }
                if (counts && t == g / 2) {
                    const u32 at = of_squares + (part * OWNED + first + r * 8) * 4;
                    const float square = g % 2 ? squares[m][r][2 * r + 1] : squares[m][r][2 * r];
                    if (SPLIT > 1) send(address_of(at, owner), square, barrier);
                    else asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(square) : "memory");
                }
            }
        }
    }

    // Four outputs of a row.
    DEVICE bool place(int item, int& local, int& row, int& output) const {
        local = item / (OUTPUTS / 4);
        row = first_row + rank % SPLIT * OWNED + local;
        output = first_output + item % (OUTPUTS / 4) * 4;
        return item < ITEMS && row < args.rows && output < args.outputs;
    }

    DEVICE void finish(const float* gathered, const uint2 (&residual)[ROUNDS]) const {
#pragma unroll
        for (int round = 0; round < ROUNDS; round++) {
            int local, row, output;
            if (!place(round * CONSUMERS * WARP + threadIdx.x, local, row, output)) continue;
            float y[4] = {0.f, 0.f, 0.f, 0.f}, square = 0.f;
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const float4 sum = *(const float4*)(gathered + (part * OWNED + local) * STRIDE + output - first_output);
                y[0] += sum.x, y[1] += sum.y, y[2] += sum.z, y[3] += sum.w;
                if (args.norm) square += gathered[PARTS * OWNED * STRIDE + part * OWNED + local];
            }
            if (args.norm) {
                const float scale = rsqrtf(square / args.inputs + args.eps);
                for (int i = 0; i < 4; i++) y[i] *= scale;
            }
            if (args.activation == SWIGLU) {
                *(u32*)(args.out + (u64)row * (args.outputs / 2) + output / 2) = pack_bf16(silu(y[0]) * y[1], silu(y[2]) * y[3]);
                continue;
            }
            y[0] += low_of(residual[round].x), y[1] += high_of(residual[round].x);
            y[2] += low_of(residual[round].y), y[3] += high_of(residual[round].y);
            *(uint2*)(args.out + (u64)row * args.outputs + output) = make_uint2(pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]));
        }
    }

    DEVICE void consume(u8* memory) {
        const int warp = threadIdx.x / WARP, wm = warp % WM, wn = warp / WM % WN, wk = warp / (WM * WN);
        bf16* norm = (bf16*)(memory + args.stages * SLOT + (SPLIT > 1 ? SUMS_BYTES : 0));
        if (args.norm) {
            for (int i = threadIdx.x; i < chunks * CHUNK; i += CONSUMERS * WARP) {
                const int input = first_chunk * CHUNK + i;
                norm[i] = input < args.inputs ? args.norm[input] : 0;
            }
            named_sync(1, CONSUMERS * WARP);
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            for (int n = 0; n < NT; n++) sums[m][n][0] = sums[m][n][1] = sums[m][n][2] = sums[m][n][3] = 0.f;
            for (int i = 0; i < 8; i++) squares[m][i / 4][i % 4] = 0.f;
        }
        await_previous();
        uint2 residual[ROUNDS];
#pragma unroll
        for (int round = 0; round < ROUNDS; round++) {
            int local, row, output;
            residual[round] = make_uint2(0, 0);
            if (place(round * CONSUMERS * WARP + threadIdx.x, local, row, output) && args.residual)
                residual[round] = *(const uint2*)(args.residual + (u64)row * args.outputs + output);
        }
        const bool counts = args.norm && wn == 0;
        for (int i = wk; i < chunks; i += WK) {
            barrier_wait(full(i), turn(i));
            multiply(slot(i) + wm * MT * 16 * CHUNK_BYTES, slot(i) + (ROWS + wn * NT * 8) * CHUNK_BYTES, args.norm ? norm + i * CHUNK : nullptr, counts);
            __syncwarp();
            if (threadIdx.x % WARP == 0) barrier_arrive(empty(i));
        }
        const u32 gathering = shared + (SPLIT > 1 ? args.stages * SLOT : 0);
        if (SPLIT == 1) named_sync(1, CONSUMERS * WARP); // the chunks have been read
        hand_over(gathering, wm, wn, wk, counts);
        if (SPLIT == 1) named_sync(1, CONSUMERS * WARP);
        else barrier_wait(shared_address(&barriers.gathered), 0);
        finish((const float*)(memory + (SPLIT > 1 ? args.stages * SLOT : 0)), residual);
    }

    DEVICE void run(u8* memory) {
        let_next_start();
        if (threadIdx.x == 0) {
            for (int i = 0; i < args.stages; i++) {
                barrier_init(shared_address(&barriers.full[i]), 1);
                barrier_init(shared_address(&barriers.empty[i]), WM * WN);
            }
            if (SPLIT > 1) {
                const u32 gathered = shared_address(&barriers.gathered);
                barrier_init(gathered, 1);
                barrier_arrive_expect(gathered, PARTS * OWNED * (OUTPUTS + (args.norm ? 1 : 0)) * 4);
            }
            barrier_init_fence();
        }
        if (SPLIT * SHARE > 1) cluster_sync();
        else __syncthreads();
        if (threadIdx.x / WARP < CONSUMERS) consume(memory);
        else if (threadIdx.x % WARP == 0) bring();
    }
};

// Grid (outputs / a block's · SPLIT, rounded up to whole clusters, rows / a block's); 288 threads.
#define CLUSTER_ROWS(NAME, MT, NT, WM, WN, WK, SPLIT, SHARE)                                                                             \
    extern "C" __global__ void __cluster_dims__(SPLIT * SHARE, 1, 1) __launch_bounds__((CONSUMERS + 1) * WARP)                             \
        cluster_rows_##NAME(const __grid_constant__ ClusterProduct args) {                                                                \
        extern __shared__ __align__(1024) u8 memory[];                                                                                    \
        __shared__ ClusterBarriers barriers;                                                                                              \
        ClusterTile<MT, NT, WM, WN, WK, SPLIT, SHARE>(args, barriers, shared_address(memory)).run(memory);                                \
    }
#endif
