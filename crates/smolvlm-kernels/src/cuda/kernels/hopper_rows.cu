// epilogue(norm(x) · Wᵀ) for 5 to some hundreds of rows in bf16 on Hopper, where time goes into bringing x and W from the second level: small
// tiles, so that every multiprocessor has a part; chunks of 64 inputs by the tensor copy engine, the weights before the kernel before this one
// has ended; and eight warps that take turns with the chunks. It follows `tensor_core.cuh` and `product.cuh`, and takes no bias.
//
// A sum is over the chunks of one of WK warps, in order, then over those warps, in order.

#ifdef HAS_WGMMA
constexpr int CHUNK = 64;
constexpr int CHUNK_BYTES = CHUNK * 2; // of a row
constexpr int CONSUMERS = 8;           // warps that multiply; one more brings
constexpr int MOST_STAGES = 32;

struct RowsProduct {
    TensorMap x, weight;   // in boxes of a block's rows, and of its outputs
    const bf16* norm;      // [inputs] of an RMS norm, or null
    const bf16* residual;  // [rows, width] or null
    bf16* out;             // [rows, width]: outputs, or half as many for SWIGLU
    float eps;
    u32 rows, inputs, outputs, activation;
    u32 stages; // chunks that shared memory holds: all, or a multiple of WK, so that the same warps wait for all that come to a place
};

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

struct RowsBarriers {
    u64 full[MOST_STAGES], empty[MOST_STAGES];
};

// A block computes 16 · MT · WM rows of 8 · NT · WN outputs with WM · WN · WK warps.
template <int MT, int NT, int WM, int WN, int WK> struct RowsTile {
    static constexpr int ROWS = 16 * MT * WM, OUTPUTS = 8 * NT * WN, SLOT = (ROWS + OUTPUTS) * CHUNK_BYTES;
    // Rows of sums start in different banks.
    static constexpr int STRIDE = OUTPUTS % 16 == 8 ? OUTPUTS : OUTPUTS + 8, SUMS_BYTES = WK * ROWS * (STRIDE + 1) * 4;
    static constexpr int ITEMS = ROWS * OUTPUTS / 4, ROUNDS = (ITEMS + CONSUMERS * WARP - 1) / (CONSUMERS * WARP);
    static_assert(WM * WN * WK == CONSUMERS, "");

    const RowsProduct& args;
    RowsBarriers& barriers;
    u32 shared;
    int first_row, first_output, chunks;

    DEVICE RowsTile(const RowsProduct& args_, RowsBarriers& barriers_, u32 shared_)
        : args(args_), barriers(barriers_), shared(shared_), first_row(blockIdx.y * ROWS), first_output(blockIdx.x * OUTPUTS),
          chunks((args_.inputs + CHUNK - 1) / CHUNK) {}

    DEVICE u32 slot(int i) const { return shared + i % args.stages * SLOT; }
    DEVICE u32 full(int i) const { return shared_address(&barriers.full[i % args.stages]); }
    DEVICE u32 empty(int i) const { return shared_address(&barriers.empty[i % args.stages]); }
    DEVICE u32 turn(int i) const { return i / args.stages & 1; }

    DEVICE void bring_weights(int i) const {
        barrier_arrive_expect(full(i), SLOT);
        tma_load_2d(slot(i) + ROWS * CHUNK_BYTES, &args.weight, i * CHUNK, first_output, full(i));
    }
    DEVICE void bring_rows(int i) const { tma_load_2d(slot(i), &args.x, i * CHUNK, first_row, full(i)); }
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

    // This warp's sums to where all meet.
    DEVICE void hand_over(float* gathered, int wm, int wn, int wk, bool counts) const {
        const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        float* of_squares = gathered + WK * ROWS * STRIDE;
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = wk * ROWS + (wm * MT + m) * 16 + r * 8 + g;
#pragma unroll
                for (int n = 0; n < NT; n++)
                    *(float2*)(gathered + row * STRIDE + (wn * NT + n) * 8 + t * 2) = make_float2(sums[m][n][2 * r], sums[m][n][2 * r + 1]);
                if (counts && t == g / 2) of_squares[row] = g % 2 ? squares[m][r][2 * r + 1] : squares[m][r][2 * r];
            }
        }
    }

    // Four outputs of a row.
    DEVICE bool place(int item, int& local, int& row, int& output) const {
        local = item / (OUTPUTS / 4);
        row = first_row + local;
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
            for (int part = 0; part < WK; part++) {
                const float4 sum = *(const float4*)(gathered + (part * ROWS + local) * STRIDE + output - first_output);
                y[0] += sum.x, y[1] += sum.y, y[2] += sum.z, y[3] += sum.w;
                if (args.norm) square += gathered[WK * ROWS * STRIDE + part * ROWS + local];
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
        bf16* norm = (bf16*)(memory + args.stages * SLOT);
        if (args.norm) {
            for (int i = threadIdx.x; i < chunks * CHUNK; i += CONSUMERS * WARP) {
                norm[i] = i < args.inputs ? args.norm[i] : 0;
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
        named_sync(1, CONSUMERS * WARP); // the chunks have been read
        hand_over((float*)memory, wm, wn, wk, counts);
        named_sync(1, CONSUMERS * WARP);
        finish((const float*)memory, residual);
    }

    DEVICE void run(u8* memory) {
        let_next_start();
        if (threadIdx.x == 0) {
            for (int i = 0; i < args.stages; i++) {
                barrier_init(shared_address(&barriers.full[i]), 1);
                barrier_init(shared_address(&barriers.empty[i]), WM * WN);
            }
            barrier_init_fence();
        }
        __syncthreads();
        if (threadIdx.x / WARP < CONSUMERS) consume(memory);
        else if (threadIdx.x % WARP == 0) bring();
    }
};

// Grid (outputs / a block's, rows / a block's), 288 threads.
#define HOPPER_ROWS(NAME, MT, NT, WM, WN, WK)                                                                                      \
    extern "C" __global__ void __launch_bounds__((CONSUMERS + 1) * WARP) hopper_rows_##NAME(const __grid_constant__ RowsProduct args) { \
        extern __shared__ __align__(1024) u8 memory[];                                                                              \
        __shared__ RowsBarriers barriers;                                                                                           \
        RowsTile<MT, NT, WM, WN, WK>(args, barriers, shared_address(memory)).run(memory);                                           \
    }
HOPPER_ROWS(16x16, 1, 2, 1, 1, 8)
HOPPER_ROWS(16x32, 1, 4, 1, 1, 8)
HOPPER_ROWS(16x48, 1, 6, 1, 1, 8)
HOPPER_ROWS(32x24, 1, 3, 2, 1, 4)
HOPPER_ROWS(32x32, 1, 4, 2, 1, 4)
HOPPER_ROWS(32x48, 1, 6, 2, 1, 4)
HOPPER_ROWS(64x32, 2, 4, 2, 1, 4)
HOPPER_ROWS(64x96, 2, 6, 2, 2, 2)
#endif
