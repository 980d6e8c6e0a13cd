// What learning needs beside products and attention: slopes of activations, norms backwards, sums of columns, rows put back where they
// came from, the loss, the optimizer. Gradients of parameters are f32 and are added to.

constexpr int ROWS_PER_BLOCK = 4;

DEVICE u32 lane() { return threadIdx.x % WARP; }
DEVICE u32 row_of_warp() { return blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP; }
DEVICE u64 number_of_thread() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// ---- Activations -----------------------------------------------------------------------------------------------------

// before[row] += bias, which is kept; out = gelu(before).
template <class T> DEVICE void gelu_keeping(T* before, const float* bias, T* out, u64 count, u32 width) {
    u64 i = number_of_thread();
    if (i >= count) return;
    if (bias) before[i] = from_f32<T>(to_f32(before[i]) + bias[i % width]);
    out[i] = from_f32<T>(gelu_tanh(to_f32(before[i])));
}

// The output that stands in a column: of a gated layer gates and ups alternate; where outputs are counted all gates come first.
DEVICE u32 output_of(u32 column, u32 width, u32 gated) { return gated ? column / 2 + column % 2 * (width / 2) : column; }

// before[row] += addend[row]
template <class T> DEVICE void add_before(T* before, const T* addend, u64 count, u32 width, u32 gated) {
    u64 i = number_of_thread();
    if (i >= count) return;
    u64 from = i / width * width + output_of(i % width, width, gated);
    before[i] = from_f32<T>(to_f32(before[i]) + to_f32(addend[from]));
}

// before[row] += bias
template <class T> DEVICE void add_bias(T* before, const float* bias, u64 count, u32 width, u32 gated) {
    u64 i = number_of_thread();
    if (i < count) before[i] = from_f32<T>(to_f32(before[i]) + bias[output_of(i % width, width, gated)]);
}

// The number that an output is multiplied by where rows of a weight have lengths of their own.
DEVICE float rescaling(const float* lengths, const float* norms, u32 output) {
    return norms[output] > 0.f ? lengths[output] / norms[output] : 0.f;
}

// An adapter whose rows have lengths: kept[row] = before[row] + addend[row], and before[row] the same rescaled.
template <class T>
DEVICE void rescale(T* before, const T* addend, float* kept, const float* lengths, const float* norms, u64 count, u32 width, u32 gated) {
    u64 i = number_of_thread();
    if (i >= count) return;
    u32 output = output_of(i % width, width, gated);
    u64 at = i / width * width + output;
    float sum = to_f32(before[i]) + to_f32(addend[at]);
    kept[at] = sum;
    before[i] = from_f32<T>(sum * rescaling(lengths, norms, output));
}

// out = dy rescaled; slopes = dy · product / norm, whose sums of columns are the gradients of the lengths.
template <class D>
DEVICE void rescale_backward(const float* product, const D* dy, D* out, float* slopes, const float* lengths, const float* norms, u64 count,
                             u32 width) {
    u64 i = number_of_thread();
    if (i >= count) return;
    u32 output = i % width;
    float d = to_f32(dy[i]);
    out[i] = from_f32<D>(d * rescaling(lengths, norms, output));
    slopes[i] = norms[output] > 0.f ? d * product[i] / norms[output] : 0.f;
}

// ‖row of W + scale · B · A‖, a block for each row; of a gated layer, gates and ups alternate in W.
template <class T>
DEVICE void row_norms(const T* weight, const float* a, const float* b, float scale, float* norms, u32 outputs, u32 inputs, u32 ranks,
                      u32 gated) {
    __shared__ double of_warps[8];
    const u32 output = blockIdx.x, half = outputs / 2;
    const u32 row = !gated ? output : output < half ? 2 * output : 2 * (output - half) + 1;
    double sum = 0.0;
    for (u32 input = threadIdx.x; input < inputs; input += blockDim.x) {
        double low = 0.0;
        for (u32 rank = 0; rank < ranks; rank++) low += (double)b[(u64)output * ranks + rank] * a[(u64)rank * inputs + input];
        const double number = (double)to_f32(weight[(u64)row * inputs + input]) + (double)scale * low;
        sum += number * number;
    }
    for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (lane() == 0) of_warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 warp = 1; warp < blockDim.x / WARP; warp++) sum += of_warps[warp];
        norms[output] = (float)sqrt(sum);
    }
}

DEVICE float gelu_slope(float x) {
    const float c = 0.7978845608028654f, square = x * x;
    float t = tanhf(c * (x + 0.044715f * square * x));
    return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * c * (1.f + 3.f * 0.044715f * square);
}

template <class T, class D> DEVICE void gelu_slopes(const T* before, const D* dy, T* out, u64 count) {
    u64 i = number_of_thread();
    if (i < count) out[i] = from_f32<T>(to_f32(dy[i]) * gelu_slope(to_f32(before[i])));
}
// To a few parts in a million, which is more than bfloat16 shows.
DEVICE float fast_gelu_slope(float x) {
    const float c = 0.7978845608028654f, square = x * x;
    float t = 1.f - __fdividef(2.f, 1.f + __expf(2.f * c * (x + 0.044715f * square * x)));
    return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * c * (1.f + 3.f * 0.044715f * square);
}
DEVICE float fast_sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

// Gradients of what gelu was applied to, and the sums of their columns added to `sums` if anyone asks. A thread takes eight columns of
// some rows. Grid (256 columns, rows_per_block rows).
extern "C" __global__ void wide_gelu_slopes_bf16(const bf16* before, const bf16* dy, bf16* out, float* sums, u32 rows, u32 width,
                                                 u32 rows_per_block) {
    constexpr int WARPS = 8;
    __shared__ float of_warps[WARPS][8][WARP];
    const u32 column = (blockIdx.x * WARP + lane()) * 8, warp = threadIdx.x / WARP;
    const u32 first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, rows);
    float sum[8] = {};
    if (column < width) {
        for (u32 row = first + warp; row < last; row += WARPS) {
            const u64 i = (u64)row * width + column;
            float x[8], d[8];
            widen(*(const uint4*)(before + i), x);
            widen(*(const uint4*)(dy + i), d);
#pragma unroll
            for (int k = 0; k < 8; k++) d[k] *= fast_gelu_slope(x[k]), sum[k] += d[k];
            *(uint4*)(out + i) = make_uint4(pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]), pack_bf16(d[4], d[5]), pack_bf16(d[6], d[7]));
        }
    }
    if (!sums) return;
#pragma unroll
    for (int k = 0; k < 8; k++) of_warps[warp][k][lane()] = sum[k];
    __syncthreads();
    // Thread `t` adds up number t / 32 of the columns of lane t % 32.
    float all = 0.f;
    for (int i = 0; i < WARPS; i++) all += of_warps[i][warp][lane()];
    if (column < width) atomicAdd(sums + column + warp, all);
}

// Gates and ups alternate in `before`, `[rows, 2 · width]`; in `out` all gates of a row come first.
template <class T, class D> DEVICE void swiglu_slopes(const T* before, const D* dy, T* out, u64 count, u32 width) {
    u64 i = number_of_thread();
    if (i >= count) return;
    float gate = to_f32(before[2 * i]), up = to_f32(before[2 * i + 1]), d = to_f32(dy[i]);
    float sigmoid = 1.f / (1.f + expf(-gate));
    T* row = out + i / width * 2 * width + i % width;
    row[0] = from_f32<T>(d * up * sigmoid * (1.f + gate * (1.f - sigmoid)));
    row[width] = from_f32<T>(d * gate * sigmoid);
}

// Eight outputs a thread: their gates and ups lie together.
extern "C" __global__ void wide_swiglu_slopes_bf16(const bf16* before, const bf16* dy, bf16* out, u64 count, u32 width) {
    u64 i = number_of_thread() * 8;
    if (i >= count) return;
    float x[16], d[8], of_gate[8], of_up[8];
    widen(*(const uint4*)(before + 2 * i), x);
    widen(*(const uint4*)(before + 2 * i + 8), x + 8);
    widen(*(const uint4*)(dy + i), d);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const float gate = x[2 * k], sigmoid = fast_sigmoid(gate);
        of_gate[k] = d[k] * x[2 * k + 1] * sigmoid * (1.f + gate * (1.f - sigmoid));
        of_up[k] = d[k] * gate * sigmoid;
    }
    const u32 row = i / width;
    bf16* to = out + (u64)row * 2 * width + (i - (u64)row * width);
    *(uint4*)to = make_uint4(pack_bf16(of_gate[0], of_gate[1]), pack_bf16(of_gate[2], of_gate[3]), pack_bf16(of_gate[4], of_gate[5]),
                             pack_bf16(of_gate[6], of_gate[7]));
    *(uint4*)(to + width) = make_uint4(pack_bf16(of_up[0], of_up[1]), pack_bf16(of_up[2], of_up[3]), pack_bf16(of_up[4], of_up[5]),
                                       pack_bf16(of_up[6], of_up[7]));
}

// x · factor / (1 − rate), or 0 for the share `rate` of numbers that splitmix64 of their place picks.
template <class T> DEVICE void dropout(T* x, u64 count, u64 seed, u64 threshold, float multiplier) {
    u64 i = number_of_thread();
    if (i >= count) return;
    u64 z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    bool left_out = ((z ^ (z >> 31)) >> 32) < threshold;
    x[i] = from_f32<T>(left_out ? 0.f : to_f32(x[i]) * multiplier);
}

// ---- Sums of columns -------------------------------------------------------------------------------------------------

// Two neighbouring numbers of a row; `pairs` says that they may be read together. What lies beyond the row is 0.
DEVICE float2 pair_of(const float* x, u32 column, u32 width, bool pairs) {
    if (pairs) return column < width ? *(const float2*)(x + column) : make_float2(0.f, 0.f);
    return make_float2(column < width ? x[column] : 0.f, column + 1 < width ? x[column + 1] : 0.f);
}
DEVICE float2 pair_of(const bf16* x, u32 column, u32 width, bool pairs) {
    if (pairs) {
        u32 both = column < width ? *(const u32*)(x + column) : 0;
        return make_float2(low_of(both), high_of(both));
    }
    return make_float2(column < width ? to_f32(x[column]) : 0.f, column + 1 < width ? to_f32(x[column + 1]) : 0.f);
}

constexpr int SUM_WARPS = 8;

// Adds up what the warps of a block have of 64 columns, two a lane, and adds that to `sums`.
DEVICE void add_pair(float2 sum, float* sums, u32 column, u32 width) {
    __shared__ float2 of_warps[SUM_WARPS][WARP];
    of_warps[threadIdx.x / WARP][lane()] = sum;
    __syncthreads();
    if (threadIdx.x < WARP) {
        for (int warp = 1; warp < SUM_WARPS; warp++) {
            sum.x += of_warps[warp][lane()].x;
            sum.y += of_warps[warp][lane()].y;
        }
        if (column < width) atomicAdd(sums + column, sum.x);
        if (column + 1 < width) atomicAdd(sums + column + 1, sum.y);
    }
    __syncthreads();
}

// sums[column] += Σ x[row][column]. Grid (64 columns, rows_per_block rows).
template <class T> DEVICE void column_sums(const T* x, float* sums, u32 rows, u32 width, u32 rows_per_block) {
    const u32 column = blockIdx.x * 2 * WARP + 2 * lane(), first = blockIdx.y * rows_per_block;
    const u32 last = min(first + rows_per_block, rows);
    const bool pairs = width % 2 == 0;
    float2 sum = make_float2(0.f, 0.f);
    for (u32 row = first + threadIdx.x / WARP; row < last; row += SUM_WARPS) {
        float2 two = pair_of(x + (u64)row * width, column, width, pairs);
        sum.x += two.x;
        sum.y += two.y;
    }
    add_pair(sum, sums, column, width);
}

// ---- Norms backwards -------------------------------------------------------------------------------------------------

struct NormBackward {
    const void* x;
    const void* dy;
    const float* weight;
    void* out;  // stored as x is; the gradient of x is added to it, or begins there
    float* weight_sums;  // null where nobody asks
    float* bias_sums;
    u32 rows, width;
    u32 adds, centred;
    float eps;
};

DEVICE void put_pair(float* x, u32 column, u32 width, bool pairs, float2 two) {
    if (pairs && column < width) *(float2*)(x + column) = two;
    if (!pairs && column < width) x[column] = two.x;
    if (!pairs && column + 1 < width) x[column + 1] = two.y;
}
DEVICE void put_pair(bf16* x, u32 column, u32 width, bool pairs, float2 two) {
    if (pairs && column < width) *(u32*)(x + column) = pack_bf16(two.x, two.y);
    if (!pairs && column < width) x[column] = from_f32<bf16>(two.x);
    if (!pairs && column + 1 < width) x[column + 1] = from_f32<bf16>(two.y);
}

// A warp takes a row after the other and keeps its share of the sums of columns: of every 64 columns, two a lane.
template <class X, class D, int PAIRS> DEVICE void norm_backward(const NormBackward& a) {
    // What the gradient is added to is read with the rest, where registers hold it.
    constexpr bool EARLY = PAIRS < 32;
    const bool pairs = a.width % 2 == 0;
    const float share = 1.f / a.width;
    float2 weight_sums[PAIRS], bias_sums[PAIRS];
#pragma unroll
    for (int j = 0; j < PAIRS; j++) weight_sums[j] = bias_sums[j] = make_float2(0.f, 0.f);
    const u32 step = gridDim.x * SUM_WARPS;
    for (u32 row = blockIdx.x * SUM_WARPS + threadIdx.x / WARP; row < a.rows; row += step) {
        const X* x_row = (const X*)a.x + (u64)row * a.width;
        const D* dy_row = (const D*)a.dy + (u64)row * a.width;
        X* out = (X*)a.out + (u64)row * a.width;
        float2 x[PAIRS], dy[PAIRS], onto[EARLY ? PAIRS : 1];
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const u32 column = j * 2 * WARP + 2 * lane();
            x[j] = pair_of(x_row, column, a.width, pairs);
            dy[j] = pair_of(dy_row, column, a.width, pairs);
            if (EARLY && a.adds) onto[EARLY ? j : 0] = pair_of(out, column, a.width, pairs);
        }
        float mean = 0.f, squares = 0.f;
        if (a.centred) {
#pragma unroll
            for (int j = 0; j < PAIRS; j++) mean += x[j].x + x[j].y;
            mean = warp_sum(mean) * share;
        }
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const u32 column = j * 2 * WARP + 2 * lane();
            if (column < a.width) squares += (x[j].x - mean) * (x[j].x - mean);
            if (column + 1 < a.width) squares += (x[j].y - mean) * (x[j].y - mean);
        }
        const float inverse = rsqrtf(warp_sum(squares) * share + a.eps);
        // The normalised row takes the place of x, dy · weight that of dy.
        float along = 0.f, shift = 0.f;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const u32 column = j * 2 * WARP + 2 * lane();
            x[j] = make_float2((x[j].x - mean) * inverse, (x[j].y - mean) * inverse);
            weight_sums[j].x += dy[j].x * x[j].x;
            weight_sums[j].y += dy[j].y * x[j].y;
            bias_sums[j].x += dy[j].x;
            bias_sums[j].y += dy[j].y;
            const float2 w = pair_of(a.weight, column, a.width, pairs);
            dy[j] = make_float2(dy[j].x * w.x, dy[j].y * w.y);
            along += dy[j].x * x[j].x + dy[j].y * x[j].y;
            shift += dy[j].x + dy[j].y;
        }
        along = warp_sum(along) * share;
        shift = a.centred ? warp_sum(shift) * share : 0.f;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const u32 column = j * 2 * WARP + 2 * lane();
            float2 dx = make_float2(inverse * (dy[j].x - shift - x[j].x * along), inverse * (dy[j].y - shift - x[j].y * along));
            if (a.adds) {
                const float2 to = EARLY ? onto[EARLY ? j : 0] : pair_of(out, column, a.width, pairs);
                dx = make_float2(dx.x + to.x, dx.y + to.y);
            }
            put_pair(out, column, a.width, pairs, dx);
        }
    }
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        const u32 column = j * 2 * WARP + 2 * lane();
        if (a.weight_sums) add_pair(weight_sums[j], a.weight_sums, column, a.width);
        if (a.bias_sums) add_pair(bias_sums[j], a.bias_sums, column, a.width);
    }
}

// ---- Rows ------------------------------------------------------------------------------------------------------------

// to += x
template <class T, class U> DEVICE void accumulate(T* to, const U* x, u64 count) {
    u64 i = number_of_thread();
    if (i < count) to[i] = from_f32<T>(to_f32(to[i]) + to_f32(x[i]));
}

// to[target[i]] += x[i]; zeros, which many rows consist of, cost no atomic addition.
template <class T> DEVICE void add_to_rows(const T* x, const u32* target, float* to, u32 rows, u32 width) {
    u32 row = row_of_warp();
    if (row >= rows) return;
    x += (u64)row * width;
    to += (u64)target[row] * width;
    for (u32 i = lane(); i < width; i += WARP) {
        float value = to_f32(x[i]);
        if (value != 0.f) atomicAdd(to + i, value);
    }
}

// to[target[i]] = x[i]
template <class T> DEVICE void put_rows(const T* x, const u32* target, T* to, u32 rows, u32 width) {
    u32 row = row_of_warp();
    if (row >= rows) return;
    x += (u64)row * width;
    to += (u64)target[row] * width;
    for (u32 i = lane(); i < width; i += WARP) to[i] = x[i];
}

// source[index[i]] += x[target[i]], which is zero afterwards.
template <class T> DEVICE void take_rows(T* x, const u32* target, const u32* index, float* source, u32 rows, u32 width) {
    u32 row = row_of_warp();
    if (row >= rows) return;
    x += (u64)target[row] * width;
    source += (u64)index[row] * width;
    for (u32 i = lane(); i < width; i += WARP) {
        atomicAdd(source + i, to_f32(x[i]));
        x[i] = from_f32<T>(0.f);
    }
}

// Where `pixel_shuffle` took each piece of `width` numbers from.
template <class T> DEVICE void pixel_shuffle_backward(const T* dy, T* out, u32 tiles, u32 side, u32 scale, u32 width) {
    u32 blocks = side / scale, row = row_of_warp();
    if (row >= tiles * side * side) return;
    // `row` counts pieces as they lie in `dy`.
    u32 part = row % (scale * scale), block = row / (scale * scale);
    u32 tile = block / (blocks * blocks), down = block / blocks % blocks, right = block % blocks;
    u32 line = down * scale + part / scale, column = right * scale + part % scale;
    const T* from = dy + (u64)row * width;
    T* to = out + (((u64)tile * side + line) * side + column) * width;
    for (u32 i = lane(); i < width; i += WARP) to[i] = from[i];
}

// ---- Copies of masters -----------------------------------------------------------------------------------------------

// The row of a weight that a master's row stands in: of a gated layer, gates and ups alternate.
DEVICE u64 place_of(u64 row, u32 rows, u32 gated) {
    if (!gated) return row;
    return row < rows / 2 ? 2 * row : 2 * (row - rows / 2) + 1;
}

// weight = master; of a gated layer `apart` has the rows as the master does.
template <class T> DEVICE void repack(const float* master, T* weight, T* apart, u64 count, u32 rows, u32 inputs, u32 gated) {
    u64 i = number_of_thread();
    if (i >= count) return;
    T value = from_f32<T>(master[i]);
    weight[place_of(i / inputs, rows, gated) * inputs + i % inputs] = value;
    if (apart) apart[i] = value;
}

template <class T> DEVICE void separate(const T* weight, T* apart, u64 count, u32 rows, u32 inputs) {
    u64 i = number_of_thread();
    if (i < count) apart[i] = weight[place_of(i / inputs, rows, 1) * inputs + i % inputs];
}

extern "C" __global__ void repack_vector(const float* master, float* exact, bf16* narrow, u64 count) {
    u64 i = number_of_thread();
    if (i >= count) return;
    exact[i] = master[i];
    narrow[i] = from_f32<bf16>(master[i]);
}

// ---- Loss ------------------------------------------------------------------------------------------------------------

constexpr int LOSS_THREADS = 512;

template <bool LARGEST> DEVICE float over_block(float x) {
    __shared__ float of_warps[LOSS_THREADS / WARP];
    x = LARGEST ? warp_max(x) : warp_sum(x);
    if (lane() == 0) of_warps[threadIdx.x / WARP] = x;
    __syncthreads();
    x = of_warps[lane() % (LOSS_THREADS / WARP)];
    x = LARGEST ? warp_max(x) : warp_sum(x) * ((float)(LOSS_THREADS / WARP) / WARP);
    __syncthreads();
    return x;
}

// A block for each row: its weighted loss, and its gradient in place of its logits where `differentiates`.
extern "C" __global__ void cross_entropy(float* logits, const u32* targets, const float* weights, double* losses, u32 vocab,
                                         u32 differentiates) {
    const u32 row = blockIdx.x;
    const float weight = weights[row];
    float* x = logits + (u64)row * vocab;
    if (weight == 0.f) {
        if (threadIdx.x == 0) losses[row] = 0.0;
        if (differentiates)
            for (u32 i = threadIdx.x; i < vocab; i += LOSS_THREADS) x[i] = 0.f;
        return;
    }
    const u32 target = targets[row];
    float most = -INFINITY, sum = 0.f;
    for (u32 i = threadIdx.x; i < vocab; i += LOSS_THREADS) most = fmaxf(most, x[i]);
    most = over_block<true>(most);
    for (u32 i = threadIdx.x; i < vocab; i += LOSS_THREADS) sum += expf(x[i] - most);
    sum = over_block<false>(sum);
    if (threadIdx.x == 0) losses[row] = (double)weight * ((double)logf(sum) + ((double)most - (double)x[target]));
    if (!differentiates) return;
    __syncthreads();
    const float scale = weight / sum;
    for (u32 i = threadIdx.x; i < vocab; i += LOSS_THREADS) x[i] = scale * expf(x[i] - most) - (i == target ? weight : 0.f);
}

// ---- Optimizer -------------------------------------------------------------------------------------------------------

constexpr int NORM_THREADS = 256;

// total += Σ x²
extern "C" __global__ void add_squares(const float* x, u64 count, double* total) {
    __shared__ double of_warps[NORM_THREADS / WARP];
    double sum = 0.0;
    const u64 step = (u64)gridDim.x * NORM_THREADS;
    for (u64 i = number_of_thread(); i < count; i += step) sum += (double)x[i] * x[i];
    for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (lane() == 0) of_warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < NORM_THREADS / WARP; warp++) sum += of_warps[warp];
        atomicAdd(total, sum);
    }
}

extern "C" __global__ void multiply(float* to, const float* by, u64 count) {
    u64 i = number_of_thread();
    if (i < count) to[i] *= by[i];
}

struct AdamW {
    float* master;
    const float* gradient;
    float* first;
    float* second;
    u64 count;
    float gradient_scale, kept;  // 1 − rate · decay
    float beta1, rest1, beta2, rest2;  // rests: 1 − beta
    float rate1, root2, eps;  // rate / (1 − beta1ᵗ); 1 / √(1 − beta2ᵗ)
};

extern "C" __global__ void adamw(const __grid_constant__ AdamW a) {
    u64 i = number_of_thread();
    if (i >= a.count) return;
    float g = a.gradient[i] * a.gradient_scale;
    float m = a.beta1 * a.first[i] + a.rest1 * g, v = a.beta2 * a.second[i] + a.rest2 * g * g;
    a.first[i] = m;
    a.second[i] = v;
    a.master[i] = a.kept * a.master[i] - a.rate1 * m / (sqrtf(v) * a.root2 + a.eps);
}

// ---- Names -----------------------------------------------------------------------------------------------------------

#define TRAINING_ROWS(T, NAME)                                                                                                              \
    extern "C" __global__ void gelu_keeping_##NAME(T* before, const float* bias, T* out, u64 count, u32 width) {                            \
        gelu_keeping(before, bias, out, count, width);                                                                                      \
    }                                                                                                                                       \
    extern "C" __global__ void add_before_##NAME(T* before, const T* addend, u64 count, u32 width, u32 gated) {                             \
        add_before(before, addend, count, width, gated);                                                                                    \
    }                                                                                                                                       \
    extern "C" __global__ void add_bias_##NAME(T* before, const float* bias, u64 count, u32 width, u32 gated) {                             \
        add_bias(before, bias, count, width, gated);                                                                                        \
    }                                                                                                                                       \
    extern "C" __global__ void rescale_##NAME(T* before, const T* addend, float* kept, const float* lengths, const float* norms,            \
                                              u64 count, u32 width, u32 gated) {                                                           \
        rescale(before, addend, kept, lengths, norms, count, width, gated);                                                                 \
    }                                                                                                                                       \
    extern "C" __global__ void rescale_backward_##NAME(const float* product, const T* dy, T* out, float* slopes, const float* lengths,      \
                                                       const float* norms, u64 count, u32 width) {                                         \
        rescale_backward(product, dy, out, slopes, lengths, norms, count, width);                                                           \
    }                                                                                                                                       \
    extern "C" __global__ void row_norms_##NAME(const T* weight, const float* a, const float* b, float scale, float* norms, u32 outputs,    \
                                                u32 inputs, u32 ranks, u32 gated) {                                                        \
        row_norms(weight, a, b, scale, norms, outputs, inputs, ranks, gated);                                                               \
    }                                                                                                                                       \
    extern "C" __global__ void dropout_##NAME(T* x, u64 count, u64 seed, u64 threshold, float multiplier) {                                 \
        dropout(x, count, seed, threshold, multiplier);                                                                                     \
    }                                                                                                                                       \
    extern "C" __global__ void column_sums_##NAME(const T* x, float* sums, u32 rows, u32 width, u32 rows_per_block) {                       \
        column_sums(x, sums, rows, width, rows_per_block);                                                                                  \
    }                                                                                                                                       \
    extern "C" __global__ void add_to_rows_##NAME(const T* x, const u32* target, float* to, u32 rows, u32 width) {                          \
        add_to_rows(x, target, to, rows, width);                                                                                            \
    }                                                                                                                                       \
    extern "C" __global__ void put_rows_##NAME(const T* x, const u32* target, T* to, u32 rows, u32 width) {                                 \
        put_rows(x, target, to, rows, width);                                                                                               \
    }                                                                                                                                       \
    extern "C" __global__ void take_rows_##NAME(T* x, const u32* target, const u32* index, float* source, u32 rows, u32 width) {            \
        take_rows(x, target, index, source, rows, width);                                                                                   \
    }                                                                                                                                       \
    extern "C" __global__ void pixel_shuffle_backward_##NAME(const T* dy, T* out, u32 tiles, u32 side, u32 scale, u32 width) {              \
        pixel_shuffle_backward(dy, out, tiles, side, scale, width);                                                                         \
    }                                                                                                                                       \
    extern "C" __global__ void repack_##NAME(const float* master, T* weight, T* apart, u64 count, u32 rows, u32 inputs, u32 gated) {        \
        repack(master, weight, apart, count, rows, inputs, gated);                                                                          \
    }                                                                                                                                       \
    extern "C" __global__ void separate_##NAME(const T* weight, T* apart, u64 count, u32 rows, u32 inputs) {                                \
        separate(weight, apart, count, rows, inputs);                                                                                       \
    }
TRAINING_ROWS(float, f32)
TRAINING_ROWS(bf16, bf16)

#define NORM_BACKWARD(X, D, NAME, PAIRS)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(SUM_WARPS* WARP) norm_backward_##NAME##_##PAIRS(const __grid_constant__ NormBackward a) {  \
        norm_backward<X, D, PAIRS>(a);                                                                                                      \
    }
#define TRAINING_ROWS_BETWEEN(T, D, NAME)                                                                                                   \
    extern "C" __global__ void gelu_slopes_##NAME(const T* before, const D* dy, T* out, u64 count) { gelu_slopes(before, dy, out, count); } \
    extern "C" __global__ void swiglu_slopes_##NAME(const T* before, const D* dy, T* out, u64 count, u32 width) {                           \
        swiglu_slopes(before, dy, out, count, width);                                                                                       \
    }                                                                                                                                       \
    extern "C" __global__ void accumulate_##NAME(T* to, const D* x, u64 count) { accumulate(to, x, count); }                                \
    NORM_BACKWARD(T, D, NAME, 4)                                                                                                            \
    NORM_BACKWARD(T, D, NAME, 12)                                                                                                           \
    NORM_BACKWARD(T, D, NAME, 32)
TRAINING_ROWS_BETWEEN(float, float, f32_f32)
TRAINING_ROWS_BETWEEN(float, bf16, f32_bf16)
TRAINING_ROWS_BETWEEN(bf16, float, bf16_f32)
TRAINING_ROWS_BETWEEN(bf16, bf16, bf16_bf16)
