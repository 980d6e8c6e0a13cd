// epilogue(norm(x) · Wᵀ) for tens to hundreds of rows in bf16, where a product is too small to fill the machine: one kernel in place of
// three, cut along the outputs so that every multiprocessor has a part, with the inputs split between two halves of a block.
// It follows `product.cuh` and `tensor_core.cuh`, and takes no bias.

constexpr int TILE_ROWS = 64;
constexpr int CHUNK = 64;  // inputs that are brought at a time
constexpr int STAGES = 4;
constexpr int HALVES = 2;  // of a block, which take turns with the chunks
constexpr int HALF_THREADS = 128;
// 16 bytes more, so that the rows of a matrix start in different banks.
constexpr int CHUNK_ROW = CHUNK + 8;

// Left operand times a norm's weights: a thread holds columns 2t, 2t + 1 and 8 more of rows g and g + 8. Squares of what it was
// are added up for both rows.
DEVICE void apply_norm(u32 (&a)[4], const float* weights, float (&squares)[2]) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 w = *(const float2*)(weights + i / 2 * 8 + t * 2);
        const float low = low_of(a[i]), high = high_of(a[i]);
        squares[i % 2] += low * low + high * high;
        a[i] = pack_bf16(low * w.x, high * w.y);
    }
}

// Grid (outputs / TILE_OUTPUTS, rows / 64), 256 threads.
template <int TILE_OUTPUTS> struct SomeRowsTile {
    static constexpr int X_BYTES = TILE_ROWS * CHUNK_ROW * 2, STAGE_BYTES = X_BYTES + TILE_OUTPUTS * CHUNK_ROW * 2;

    const Product& args;
    const bf16 *x, *weight;
    u32 stages;  // of this half
    int half, thread, first_row, first_output, rows, inputs, outputs, chunks;

    DEVICE SomeRowsTile(const Product& args_, u32 shared)
        : args(args_), x((const bf16*)args_.x), weight((const bf16*)args_.weight), stages(shared + threadIdx.x / HALF_THREADS * STAGES * STAGE_BYTES), half(threadIdx.x / HALF_THREADS),
          thread(threadIdx.x % HALF_THREADS), first_row(blockIdx.y * TILE_ROWS), first_output(blockIdx.x * TILE_OUTPUTS),
          rows(args_.rows), inputs(args_.inputs), outputs(args_.outputs), chunks((inputs + CHUNK - 1) / CHUNK) {}

    // Rows of a matrix, zeros where there are none.
    template <int ROWS> DEVICE void load_rows(u32 to, const bf16* from, int first, int count, int input) const {
#pragma unroll
        for (int i = thread; i < ROWS * (CHUNK / 8); i += HALF_THREADS) {
            const int row = i / (CHUNK / 8), column = i % (CHUNK / 8) * 8;
            const bool exists = first + row < count && input + column < inputs;
            const bf16* at = from + (exists ? (u64)(first + row) * inputs + input + column : 0);
            copy_async(to + (row * CHUNK_ROW + column) * 2, at, exists);
        }
    }
    // This half's `turn`th chunk.
    DEVICE void load_weights(int turn) const {
        const int chunk = turn * HALVES + half;
        const u32 stage = stages + turn % STAGES * STAGE_BYTES;
        if (chunk < chunks) load_rows<TILE_OUTPUTS>(stage + X_BYTES, weight, first_output, outputs, chunk * CHUNK);
    }
    DEVICE void load_x(int turn) const {
        const int chunk = turn * HALVES + half;
        const u32 stage = stages + turn % STAGES * STAGE_BYTES;
        if (chunk < chunks) load_rows<TILE_ROWS>(stage, x, first_row, rows, chunk * CHUNK);
    }

    DEVICE void multiply(int turn, float (&sums)[TILE_OUTPUTS / 2], float (&squares)[2], const float* norm) const {
        const int lane = threadIdx.x % WARP, chunk = turn * HALVES + half;
        if (chunk >= chunks) return;
        const u32 stage = stages + turn % STAGES * STAGE_BYTES;
        const u32 x_lane = stage + ((thread / WARP * 16 + (lane & 15)) * CHUNK_ROW + (lane >> 4) * 8) * 2;
        const u32 weight_lane = stage + X_BYTES + (((lane & 7) + (lane >> 4) * 8) * CHUNK_ROW + ((lane >> 3) & 1) * 8) * 2;
#pragma unroll
        for (int k = 0; k < CHUNK / 16; k++) {
            u32 a[4];
            load_matrices(a, x_lane + k * 32);
            if (norm) apply_norm(a, norm + chunk * CHUNK + k * 16, squares);
#pragma unroll
            for (int n = 0; n < TILE_OUTPUTS / 16; n++) {
                u32 b[4];
                load_matrices(b, weight_lane + n * 16 * CHUNK_ROW * 2 + k * 32);
                mma_16_8_16(&sums[8 * n], a, b[0], b[1]);
                mma_16_8_16(&sums[8 * n + 4], a, b[2], b[3]);
            }
        }
    }

    DEVICE void run(u8* shared, float* norm) const {
        // The weights are on their way while the rows are still being computed.
        let_next_start();
        for (int turn = 0; turn < STAGES - 1; turn++) load_weights(turn);
        if (args.norm) {
            for (int i = threadIdx.x; i < chunks * CHUNK; i += blockDim.x) norm[i] = i < inputs ? args.norm[i] : 0.f;
        }
        const int turns = (chunks + HALVES - 1) / HALVES;
        await_previous();
        for (int turn = 0; turn < STAGES - 1; turn++) {
            load_x(turn);
            copy_async_commit();
        }
        float sums[TILE_OUTPUTS / 2], squares[2] = {0.f, 0.f};
#pragma unroll
        for (int i = 0; i < TILE_OUTPUTS / 2; i++) sums[i] = 0.f;
        for (int turn = 0; turn < turns; turn++) {
            copy_async_wait<STAGES - 2>();
            __syncthreads();
            load_weights(turn + STAGES - 1);
            load_x(turn + STAGES - 1);
            copy_async_commit();
            multiply(turn, sums, squares, args.norm ? norm : nullptr);
        }
        copy_async_wait<0>();
        __syncthreads();
        // The second half hands its sums over.
        constexpr int HANDED = TILE_OUTPUTS / 2 + 2;
        float* handed = (float*)shared + thread * (HANDED + 1);
        if (half == 1) {
#pragma unroll
            for (int i = 0; i < TILE_OUTPUTS / 2; i++) handed[i] = sums[i];
            handed[HANDED - 2] = squares[0];
            handed[HANDED - 1] = squares[1];
        }
        __syncthreads();
        if (half == 1) return;
#pragma unroll
        for (int i = 0; i < TILE_OUTPUTS / 2; i++) sums[i] += handed[i];
        for (int r = 0; r < 2; r++) {
            const float mean = quad_sum(squares[r] + handed[HANDED - 2 + r]) / inputs;
            store(r, sums, args.norm ? rsqrtf(mean + args.eps) : 1.f);
        }
    }

    // Rows g and g + 8: `r` is 0 and 1.
    DEVICE void store(int r, const float (&sums)[TILE_OUTPUTS / 2], float scale) const {
        const int lane = threadIdx.x % WARP, row = first_row + thread / WARP * 16 + r * 8 + lane / 4;
        if (row >= rows) return;
#pragma unroll
        for (int n = 0; n < TILE_OUTPUTS / 8; n++) {
            const int output = first_output + n * 8 + lane % 4 * 2;
            if (output >= outputs) continue;
            float first = sums[4 * n + 2 * r] * scale, second = sums[4 * n + 2 * r + 1] * scale;
            if (args.activation == SWIGLU) {
                ((bf16*)args.out)[(u64)row * (outputs / 2) + output / 2] = from_f32<bf16>(silu(first) * second);
                continue;
            }
            const u64 at = (u64)row * outputs + output;
            if (args.residual) {
                const u32 residual = *(const u32*)((const bf16*)args.residual + at);
                first += low_of(residual);
                second += high_of(residual);
            }
            *(u32*)((bf16*)args.out + at) = pack_bf16(first, second);
        }
    }
};

#define SOME_ROWS(OUTPUTS)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) some_rows_##OUTPUTS(const __grid_constant__ Product args) {     \
        extern __shared__ __align__(1024) u8 shared[];                                                                 \
        constexpr int STAGED = HALVES * STAGES * SomeRowsTile<OUTPUTS>::STAGE_BYTES;                                   \
        SomeRowsTile<OUTPUTS>(args, shared_address(shared)).run(shared, (float*)(shared + STAGED));                    \
    }
SOME_ROWS(16)
SOME_ROWS(32)
SOME_ROWS(64)
