// epilogue(norm(x) · Wᵀ) for a handful of rows: bound by reading the weights, so every warp reads two outputs' weights once, 16 bytes a
// lane, and multiplies them with all rows, which wait in shared memory as the product rounds them. It follows `product.cuh`.

constexpr int WARPS = 4;
constexpr int OUTPUTS_PER_WARP = 2;

// Eight consecutive numbers.
DEVICE void load8(const bf16* from, float* to) { widen(*(const uint4*)from, to); }
DEVICE void load8(const float* from, float* to) {
    float4 a = *(const float4*)from, b = *(const float4*)(from + 4);
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

template <class X, class W, class Out, int ROWS> DEVICE void few_rows(const Product& args) {
    extern __shared__ uint4 memory[];
    W* rows = (W*)memory;
    u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, inputs = args.inputs;
    u32 output = (blockIdx.x * WARPS + warp) * OUTPUTS_PER_WARP;
    const W* weights = (const W*)args.weight + (u64)output * inputs;
    bool second = output + 1 < args.outputs;

    // The weights are on their way while the rows are still being computed.
    let_next_start();
    u32 bytes = output < args.outputs ? (second ? 2 : 1) * inputs * sizeof(W) : 0;
    for (u32 i = lane * 128; i < bytes; i += WARP * 128) prefetch((const u8*)weights + i);
    await_previous();
    for (u32 row = warp; row < ROWS; row += WARPS) {
        const X* x = (const X*)args.x + (u64)min(row, args.rows - 1) * inputs;
        float scale = 1.f;
        if (args.norm) {
            float squares = 0.f;
            for (u32 i = lane; i < inputs; i += WARP) squares += to_f32(x[i]) * to_f32(x[i]);
            scale = rsqrtf(warp_sum(squares) / inputs + args.eps);
        }
        for (u32 i = lane; i < inputs; i += WARP)
            rows[row * inputs + i] = from_f32<W>(args.norm ? to_f32(x[i]) * scale * args.norm[i] : to_f32(x[i]));
    }
    __syncthreads();

    if (output >= args.outputs) return;
    float sum[ROWS][2];
    for (int row = 0; row < ROWS; row++) sum[row][0] = sum[row][1] = 0.f;
    for (u32 i = lane * 8; i < inputs; i += WARP * 8) {
        float a[8], b[8];
        load8(weights + i, a);
        load8(weights + (second ? inputs : 0) + i, b);
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            float x[8];
            load8(rows + row * inputs + i, x);
            for (int k = 0; k < 8; k++) sum[row][0] += a[k] * x[k], sum[row][1] += b[k] * x[k];
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        float a = warp_sum(sum[row][0]), b = warp_sum(sum[row][1]);
        if (lane != 0 || row >= args.rows) continue;
        if (args.bias) a += args.bias[output], b += second ? args.bias[output + 1] : 0.f;
        if (args.activation == SWIGLU) {
            ((Out*)args.out)[(u64)row * (args.outputs / 2) + output / 2] = from_f32<Out>(silu(a) * b);
            continue;
        }
        if (args.activation == GELU_TANH) a = gelu_tanh(a), b = gelu_tanh(b);
        u64 at = (u64)row * args.outputs + output;
        const Out* residual = (const Out*)args.residual;
        ((Out*)args.out)[at] = from_f32<Out>(residual ? to_f32(residual[at]) + a : a);
        if (second) ((Out*)args.out)[at + 1] = from_f32<Out>(residual ? to_f32(residual[at + 1]) + b : b);
    }
}

#define FEW_ROWS(X, W, OUT, ROWS, NAME)                                                                    \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP) few_rows_##NAME##_##ROWS(Product args) {    \
        few_rows<X, W, OUT, ROWS>(args);                                                                   \
    }
#define FEW_ROWS_OF(X, W, OUT, NAME) \
    FEW_ROWS(X, W, OUT, 1, NAME) FEW_ROWS(X, W, OUT, 2, NAME) FEW_ROWS(X, W, OUT, 4, NAME) FEW_ROWS(X, W, OUT, 8, NAME)
FEW_ROWS_OF(float, float, float, f32_f32_f32)
FEW_ROWS_OF(bf16, bf16, bf16, bf16_bf16_bf16)
FEW_ROWS_OF(bf16, bf16, float, bf16_bf16_f32)
