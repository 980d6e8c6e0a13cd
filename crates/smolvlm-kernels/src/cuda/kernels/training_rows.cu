// What learning needs beside products and attention: slopes of activations, norms backwards, sums of columns, rows put back where they
// came from, the loss. Gradients of parameters are f32 and are added to. It follows `training_common.cuh`.

constexpr int ROWS_PER_BLOCK = 4;

DEVICE u32 row_of_warp() { return blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP; }

// ---- Eight columns at a time -----------------------------------------------------------------------------------------

// Eight neighbouring numbers of a row, as they are stored.
template <class T> struct Chunk;
template <> struct Chunk<bf16> {
    uint4 raw;

    DEVICE void load(const bf16* from) { raw = *(const uint4*)from; }
    DEVICE void store(bf16* to) const { *(uint4*)to = raw; }
    DEVICE void set(const float (&x)[8]) { raw = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])); }
    DEVICE void get(float (&x)[8]) const { widen(raw, x); }
};
template <> struct Chunk<float> {
    float4 low, high;

    DEVICE void load(const float* from) { low = *(const float4*)from, high = *(const float4*)(from + 4); }
    DEVICE void store(float* to) const { *(float4*)to = low, *(float4*)(to + 4) = high; }
    DEVICE void set(const float (&x)[8]) { low = make_float4(x[0], x[1], x[2], x[3]), high = make_float4(x[4], x[5], x[6], x[7]); }
    DEVICE void get(float (&x)[8]) const {
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    }
};

// Those of a row that begin at `column`; what lies beyond the row is 0. Rows of whole chunks begin at whole ones.
template <class T> DEVICE Chunk<T> chunk_of(const T* row, u32 column, u32 width) {
    Chunk<T> chunk;
    if (width % 8 == 0 && column < width) {
        chunk.load(row + column);
        return chunk;
    }
    float x[8];
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = column + i < width ? to_f32(row[column + i]) : 0.f;
    chunk.set(x);
    return chunk;
}
template <class T> DEVICE void put_chunk(T* row, u32 column, u32 width, const float (&x)[8]) {
    if (width % 8 == 0 && column < width) {
        Chunk<T> chunk;
        chunk.set(x);
        chunk.store(row + column);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (column + i < width) row[column + i] = from_f32<T>(x[i]);
}

constexpr int CHUNK_WARPS = 8;

// Adds up what the warps of a block have of eight columns a lane, and adds that to `sums`. `column` is the lane's first.
DEVICE void add_chunk(const float (&sum)[8], float* sums, u32 column, u32 width) {
    __shared__ float of_warps[CHUNK_WARPS][8][WARP];
    const u32 warp = threadIdx.x / WARP;
#pragma unroll
    for (int i = 0; i < 8; i++) of_warps[warp][i][lane()] = sum[i];
    __syncthreads();
    // Each warp adds up one of the eight.
    float all = 0.f;
    for (int i = 0; i < CHUNK_WARPS; i++) all += of_warps[i][warp][lane()];
    if (column + warp < width) atomicAdd(sums + column + warp, all);
    __syncthreads();
}

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

// Gradients of what gelu was applied to, and the sums of their columns added to `sums` if anyone asks. Rows of whole chunks. Grid
// (256 columns, rows_per_block rows).
extern "C" __global__ void wide_gelu_slopes_bf16(const bf16* before, const bf16* dy, bf16* out, float* sums, u32 rows, u32 width,
                                                 u32 rows_per_block) {
    const u32 column = (blockIdx.x * WARP + lane()) * 8, first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, rows);
    float sum[8] = {};
    if (column < width) {
        for (u32 row = first + threadIdx.x / WARP; row < last; row += CHUNK_WARPS) {
            const u64 at = (u64)row * width + column;
            Chunk<bf16> chunk;
            float x[8], d[8];
            chunk.load(before + at), chunk.get(x);
            chunk.load(dy + at), chunk.get(d);
#pragma unroll
            for (int i = 0; i < 8; i++) d[i] *= fast_gelu_slope(x[i]), sum[i] += d[i];
            chunk.set(d), chunk.store(out + at);
        }
    }
    if (sums) add_chunk(sum, sums, column, width);
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
    Chunk<bf16> chunk;
    float x[2][8], d[8], of_gate[8], of_up[8];
    chunk.load(before + 2 * i), chunk.get(x[0]);
    chunk.load(before + 2 * i + 8), chunk.get(x[1]);
    chunk.load(dy + i), chunk.get(d);
#pragma unroll
    for (int k = 0; k < 8; k++) {
        const float gate = x[k / 4][k % 4 * 2], up = x[k / 4][k % 4 * 2 + 1], sigmoid = fast_sigmoid(gate);
        of_gate[k] = d[k] * up * sigmoid * (1.f + gate * (1.f - sigmoid));
        of_up[k] = d[k] * gate * sigmoid;
    }
    const u64 row = i / width;
    bf16* to = out + row * 2 * width + (i - row * width);
    chunk.set(of_gate), chunk.store(to);
    chunk.set(of_up), chunk.store(to + width);
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

// sums[column] += Σ x[row][column]. Grid (256 columns, rows_per_block rows).
template <class T> DEVICE void column_sums(const T* x, float* sums, u32 rows, u32 width, u32 rows_per_block) {
    const u32 column = (blockIdx.x * WARP + lane()) * 8, first = blockIdx.y * rows_per_block, last = min(first + rows_per_block, rows);
    float sum[8] = {};
    if (column < width) {
        for (u32 row = first + threadIdx.x / WARP; row < last; row += CHUNK_WARPS) {
            float numbers[8];
            chunk_of(x + (u64)row * width, column, width).get(numbers);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += numbers[i];
        }
    }
    add_chunk(sum, sums, column, width);
}

// ---- Norms backwards -------------------------------------------------------------------------------------------------

struct NormBackward {
    const void* x;
    const void* dy;
    const float* weight;
    void* out;  // stored as x is; the gradient of x is added to it, or begins there
    float2* of_rows;  // mean and one over the deviation of each row, for the sums of columns
    float* weight_sums;  // null where nobody asks
    float* bias_sums;
    u32 rows, width, rows_per_block;
    u32 adds, centred;
    float eps;
};

// The gradient of x: a warp for each row, of every 256 columns eight a lane.
template <class X, class D, int CHUNKS> DEVICE void norm_backward(const NormBackward& a) {
    const u32 row = row_of_warp();
    if (row >= a.rows) return;
    const float share = 1.f / a.width;
    const X* x_row = (const X*)a.x + (u64)row * a.width;
    const D* dy_row = (const D*)a.dy + (u64)row * a.width;
    X* out = (X*)a.out + (u64)row * a.width;
    Chunk<X> xs[CHUNKS], onto[CHUNKS];
    Chunk<D> dys[CHUNKS];
#pragma unroll
    for (int j = 0; j < CHUNKS; j++) {
        const u32 column = (j * WARP + lane()) * 8;
        xs[j] = chunk_of(x_row, column, a.width);
        dys[j] = chunk_of(dy_row, column, a.width);
        if (a.adds) onto[j] = chunk_of(out, column, a.width);
    }
    float mean = 0.f, squares = 0.f, along = 0.f, shift = 0.f, x[8], dy[8];
    if (a.centred) {
#pragma unroll
        for (int j = 0; j < CHUNKS; j++) {
            xs[j].get(x);
#pragma unroll
            for (int i = 0; i < 8; i++) mean += x[i];
        }
        mean = warp_sum(mean) * share;
    }
#pragma unroll
    for (int j = 0; j < CHUNKS; j++) {
        const u32 column = (j * WARP + lane()) * 8;
        xs[j].get(x);
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (column + i < a.width) squares += (x[i] - mean) * (x[i] - mean);
    }
    const float inverse = rsqrtf(warp_sum(squares) * share + a.eps);
    if (a.of_rows && lane() == 0) a.of_rows[row] = make_float2(mean, inverse);
#pragma unroll
    for (int j = 0; j < CHUNKS; j++) {
        float weight[8];
        chunk_of(a.weight, (j * WARP + lane()) * 8, a.width).get(weight);
        xs[j].get(x), dys[j].get(dy);
#pragma unroll
        for (int i = 0; i < 8; i++) along += dy[i] * weight[i] * ((x[i] - mean) * inverse), shift += dy[i] * weight[i];
    }
    along = warp_sum(along) * share;
    shift = a.centred ? warp_sum(shift) * share : 0.f;
#pragma unroll
    for (int j = 0; j < CHUNKS; j++) {
        const u32 column = (j * WARP + lane()) * 8;
        float weight[8], to[8];
        chunk_of(a.weight, column, a.width).get(weight);
        xs[j].get(x), dys[j].get(dy);
        if (a.adds) onto[j].get(to);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float dx = inverse * (dy[i] * weight[i] - shift - (x[i] - mean) * inverse * along);
            to[i] = a.adds ? to[i] + dx : dx;
        }
        put_chunk(out, column, a.width, to);
    }
}

// Gradients of a norm's numbers: sums of columns of dy and of dy times the normalised x. Grid (256 columns, rows_per_block rows).
template <class X, class D> DEVICE void norm_sums(const NormBackward& a) {
    const u32 column = (blockIdx.x * WARP + lane()) * 8;
    const u32 first = blockIdx.y * a.rows_per_block, last = min(first + a.rows_per_block, a.rows);
    float weight_sums[8] = {}, bias_sums[8] = {};
    if (column < a.width) {
        for (u32 row = first + threadIdx.x / WARP; row < last; row += CHUNK_WARPS) {
            float x[8], dy[8];
            chunk_of((const X*)a.x + (u64)row * a.width, column, a.width).get(x);
            chunk_of((const D*)a.dy + (u64)row * a.width, column, a.width).get(dy);
            const float2 of_row = a.of_rows[row];
#pragma unroll
            for (int i = 0; i < 8; i++) weight_sums[i] += dy[i] * ((x[i] - of_row.x) * of_row.y), bias_sums[i] += dy[i];
        }
    }
    if (a.weight_sums) add_chunk(weight_sums, a.weight_sums, column, a.width);
    if (a.bias_sums) add_chunk(bias_sums, a.bias_sums, column, a.width);
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
    }
TRAINING_ROWS(float, f32)
TRAINING_ROWS(bf16, bf16)

#define NORM_BACKWARD(X, D, NAME, CHUNKS)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(ROWS_PER_BLOCK* WARP) norm_backward_##NAME##_##CHUNKS(const __grid_constant__ NormBackward a) { \
        norm_backward<X, D, CHUNKS>(a);                                                                                                     \
    }
#define TRAINING_ROWS_BETWEEN(T, D, NAME)                                                                                                   \
    extern "C" __global__ void gelu_slopes_##NAME(const T* before, const D* dy, T* out, u64 count) { gelu_slopes(before, dy, out, count); } \
    extern "C" __global__ void swiglu_slopes_##NAME(const T* before, const D* dy, T* out, u64 count, u32 width) {                           \
        swiglu_slopes(before, dy, out, count, width);                                                                                       \
    }                                                                                                                                       \
    extern "C" __global__ void accumulate_##NAME(T* to, const D* x, u64 count) { accumulate(to, x, count); }                                \
    extern "C" __global__ void norm_sums_##NAME(const __grid_constant__ NormBackward a) { norm_sums<T, D>(a); }                             \
    NORM_BACKWARD(T, D, NAME, 1)                                                                                                            \
    NORM_BACKWARD(T, D, NAME, 3)                                                                                                            \
    NORM_BACKWARD(T, D, NAME, 8)
TRAINING_ROWS_BETWEEN(float, float, f32_f32)
TRAINING_ROWS_BETWEEN(float, bf16, f32_bf16)
TRAINING_ROWS_BETWEEN(bf16, float, bf16_f32)
TRAINING_ROWS_BETWEEN(bf16, bf16, bf16_bf16)
