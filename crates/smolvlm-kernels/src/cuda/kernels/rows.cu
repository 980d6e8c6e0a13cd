// Operations on rows: copies, norms, activations, tiles into patches. One warp per row, or one thread per number.

// Blocks of `rows.cu` hold this many warps, a row each.
constexpr int ROWS_PER_BLOCK = 4;

DEVICE u32 row_of_warp() { return blockIdx.x * ROWS_PER_BLOCK + threadIdx.x / WARP; }
DEVICE u32 lane() { return threadIdx.x % WARP; }

template <class From, class To> DEVICE void copy_row(const From* from, To* to, u32 width) {
    for (u32 i = lane(); i < width; i += WARP) to[i] = from_f32<To>(to_f32(from[i]));
}

// out[row] = table[ids[row]]
template <class T> DEVICE void embed(const T* table, const u32* ids, T* out, u32 rows, u32 width) {
    let_next_start();
    await_previous();
    u32 row = row_of_warp();
    if (row < rows) copy_row(table + (u64)ids[row] * width, out + (u64)row * width, width);
}

// out[i] = x[picked[i]]
template <class T> DEVICE void gather(const T* x, const u32* picked, T* out, u32 rows, u32 width) {
    let_next_start();
    await_previous();
    u32 row = row_of_warp();
    if (row < rows) copy_row(x + (u64)picked[row] * width, out + (u64)row * width, width);
}

// x[target[i]] = source[index[i]]
template <class From, class To>
DEVICE void scatter(const From* source, const u32* target, const u32* index, To* x, u32 rows, u32 width) {
    u32 row = row_of_warp();
    if (row < rows) copy_row(source + (u64)index[row] * width, x + (u64)target[row] * width, width);
}

// out[row] = x[row % period]: converts, and repeats `x` if it is shorter.
template <class From, class To> DEVICE void convert(const From* x, To* out, u32 rows, u32 period, u32 width) {
    u32 row = row_of_warp();
    if (row < rows) copy_row(x + (u64)(row % period) * width, out + (u64)row * width, width);
}

// w · x / √(mean(x²) + eps)
template <class From, class To>
DEVICE void rms_norm(const From* x, const float* weight, float eps, To* out, u32 rows, u32 width) {
    u32 row = row_of_warp();
    if (row >= rows) return;
    x += (u64)row * width;
    out += (u64)row * width;
    float squares = 0.f;
    for (u32 i = lane(); i < width; i += WARP) {
        float value = to_f32(x[i]);
        squares += value * value;
    }
    float scale = rsqrtf(warp_sum(squares) / width + eps);
    for (u32 i = lane(); i < width; i += WARP) out[i] = from_f32<To>(to_f32(x[i]) * scale * weight[i]);
}

// w · (x − mean) / √(var + eps) + b
template <class From, class To>
DEVICE void layer_norm(const From* x, const float* weight, const float* bias, float eps, To* out, u32 rows, u32 width) {
    u32 row = row_of_warp();
    if (row >= rows) return;
    x += (u64)row * width;
    out += (u64)row * width;
    float sum = 0.f;
    for (u32 i = lane(); i < width; i += WARP) sum += to_f32(x[i]);
    float mean = warp_sum(sum) / width, squares = 0.f;
    for (u32 i = lane(); i < width; i += WARP) {
        float distance = to_f32(x[i]) - mean;
        squares += distance * distance;
    }
    float scale = rsqrtf(warp_sum(squares) / width + eps);
    for (u32 i = lane(); i < width; i += WARP)
        out[i] = from_f32<To>((to_f32(x[i]) - mean) * scale * weight[i] + bias[i]);
}

// The same for rows that can be read 16 bytes at a time and held in registers: a lane holds 8 numbers of every 256.
template <int CHUNKS> struct WideRow {
    float values[CHUNKS][8];

    DEVICE void load(const bf16* x, u32 width) {
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            u32 first = chunk * 256 + lane() * 8;
            widen(first < width ? *(const uint4*)(x + first) : make_uint4(0, 0, 0, 0), values[chunk]);
        }
    }
};

// A warp has ROWS rows, all of which are on their way before the first is summed.
template <int CHUNKS, int ROWS>
DEVICE void wide_layer_norm(const bf16* x, const float* weight, const float* bias, float eps, bf16* out, u32 rows, u32 width) {
    let_next_start();
    await_previous();
    const u32 first_row = row_of_warp() * ROWS;
    uint4 held[ROWS][CHUNKS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            const u32 at = chunk * 256 + lane() * 8, row = first_row + r;
            held[r][chunk] = row < rows && at < width ? *(const uint4*)(x + (u64)row * width + at) : make_uint4(0, 0, 0, 0);
        }
    float mean[ROWS], scale[ROWS], v[8];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float sum = 0.f, squares = 0.f;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            widen(held[r][chunk], v);
            for (int i = 0; i < 8; i++) sum += v[i];
        }
        mean[r] = warp_sum(sum) / width;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            if (chunk * 256 + lane() * 8 >= width) continue;
            widen(held[r][chunk], v);
            for (int i = 0; i < 8; i++) squares += (v[i] - mean[r]) * (v[i] - mean[r]);
        }
        scale[r] = rsqrtf(warp_sum(squares) / width + eps);
    }
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const u32 at = chunk * 256 + lane() * 8;
        if (at >= width) continue;
        float w[8], b[8];
        for (int half = 0; half < 8; half += 4) {
            *(float4*)(w + half) = *(const float4*)(weight + at + half);
            *(float4*)(b + half) = *(const float4*)(bias + at + half);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (first_row + r >= rows) continue;
            widen(held[r][chunk], v);
            for (int i = 0; i < 8; i++) v[i] = (v[i] - mean[r]) * scale[r] * w[i] + b[i];
            const uint4 packed = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
            *(uint4*)(out + (u64)(first_row + r) * width + at) = packed;
        }
    }
}

template <int CHUNKS>
DEVICE void wide_rms_norm(const bf16* x, const float* weight, float eps, bf16* out, u32 rows, u32 width) {
    let_next_start();
    await_previous();
    u32 row = row_of_warp();
    if (row >= rows) return;
    WideRow<CHUNKS> held;
    held.load(x + (u64)row * width, width);
    float squares = 0.f;
    for (int chunk = 0; chunk < CHUNKS; chunk++)
        for (int i = 0; i < 8; i++) squares += held.values[chunk][i] * held.values[chunk][i];
    float scale = rsqrtf(warp_sum(squares) / width + eps);
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        u32 first = chunk * 256 + lane() * 8;
        if (first >= width) continue;
        const float* v = held.values[chunk];
        float4 a = *(const float4*)(weight + first), b = *(const float4*)(weight + first + 4);
        uint4 packed = make_uint4(
            pack_bf16(v[0] * scale * a.x, v[1] * scale * a.y), pack_bf16(v[2] * scale * a.z, v[3] * scale * a.w),
            pack_bf16(v[4] * scale * b.x, v[5] * scale * b.y), pack_bf16(v[6] * scale * b.z, v[7] * scale * b.w));
        *(uint4*)(out + (u64)row * width + first) = packed;
    }
}

DEVICE u64 number_of_thread() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// x[row] += bias, then the activation.
template <class T> DEVICE void bias_gelu(T* x, const float* bias, u64 count, u32 width) {
    u64 i = number_of_thread();
    if (i < count) x[i] = from_f32<T>(gelu_tanh(to_f32(x[i]) + (bias ? bias[i % width] : 0.f)));
}

// x += y
template <class T> DEVICE void add(T* x, const T* y, u64 count) {
    u64 i = number_of_thread();
    if (i < count) x[i] = from_f32<T>(to_f32(x[i]) + to_f32(y[i]));
}

// Gates and ups alternate: out[i] = silu(x[2 i]) · x[2 i + 1]
template <class T> DEVICE void swiglu(const T* x, T* out, u64 count) {
    u64 i = number_of_thread();
    if (i < count) out[i] = from_f32<T>(silu(to_f32(x[2 * i])) * to_f32(x[2 * i + 1]));
}
// Four results a thread.
DEVICE void wide_swiglu(const bf16* x, bf16* out, u64 count) {
    let_next_start();
    await_previous();
    u64 i = number_of_thread() * 4;
    if (i >= count) return;
    float both[8], y[4];
    widen(*(const uint4*)(x + 2 * i), both);
    for (int k = 0; k < 4; k++) y[k] = silu(both[2 * k]) * both[2 * k + 1];
    *(uint2*)(out + i) = make_uint2(pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]));
}

// `scale × scale` neighbours of a `side × side` grid stand in one row, block row first.
template <class T> DEVICE void pixel_shuffle(const T* x, T* out, u32 tiles, u32 side, u32 scale, u32 width) {
    u32 blocks = side / scale, row = row_of_warp();
    if (row >= tiles * blocks * blocks * scale * scale) return;
    // `row` counts pieces of `width` numbers as they lie in `out`.
    u32 part = row % (scale * scale), block = row / (scale * scale);
    u32 tile = block / (blocks * blocks), down = block / blocks % blocks, right = block % blocks;
    u32 line = down * scale + part / scale, column = right * scale + part % scale;
    copy_row(x + (((u64)tile * side + line) * side + column) * width, out + (u64)row * width, width);
}

// Tiles [size, size, 3] of bytes into patches, each (channel, row, column); `values` says what a byte means.
template <class T>
DEVICE void unfold(const u8* tiles, const float* values, T* out, u64 count, u32 size, u32 patch) {
    u64 i = number_of_thread();
    if (i >= count) return;
    u32 area = patch * patch, side = size / patch;
    u32 x = i % patch, y = i / patch % patch, channel = i / area % 3;
    u64 index = i / (3 * area);
    u32 right = index % side, down = index / side % side;
    u64 tile = index / (side * side);
    u64 pixel = (tile * size + down * patch + y) * size + right * patch + x;
    out[i] = from_f32<T>(values[channel * 256 + tiles[pixel * 3 + channel]]);
}

// Bytes that one load takes of a line of so many pixels: its lines begin at whole ones.
template <int PATCH> struct LinePart;
template <> struct LinePart<8> { typedef uint2 Type; };
template <> struct LinePart<16> { typedef uint4 Type; };

// The same for patches of 8 × 8 or 16 × 16 pixels that cover a tile: a thread takes a line of one patch, in all channels.
template <int PATCH> DEVICE void unfold_lines(const u8* tiles, const float* values, bf16* out, u64 lines, u32 size) {
    typedef typename LinePart<PATCH>::Type Part;
    __shared__ bf16 meaning[3][256];
    for (u32 i = threadIdx.x; i < 3 * 256; i += blockDim.x) meaning[i / 256][i % 256] = from_f32<bf16>(values[i]);
    __syncthreads();
    u64 i = number_of_thread();
    if (i >= lines) return;
    u32 y = i % PATCH, side = size / PATCH;
    u32 index = i / PATCH, right = index % side, down = index / side % side;
    u64 tile = index / (side * side);
    u32 bytes[PATCH * 3 / 4];
    const Part* line = (const Part*)(tiles + ((tile * size + down * PATCH + y) * size + right * PATCH) * 3);
#pragma unroll
    for (int part = 0; part < 3; part++) *(Part*)(bytes + PATCH / 4 * part) = line[part];
#pragma unroll
    for (int channel = 0; channel < 3; channel++) {
        u32 packed[PATCH / 2];
#pragma unroll
        for (int pair = 0; pair < PATCH / 2; pair++) {
            const int low = 6 * pair + channel, high = low + 3;
            packed[pair] = meaning[channel][bytes[low / 4] >> low % 4 * 8 & 255] | (u32)meaning[channel][bytes[high / 4] >> high % 4 * 8 & 255] << 16;
        }
        uint4* to = (uint4*)(out + ((u64)index * 3 + channel) * PATCH * PATCH + y * PATCH);
#pragma unroll
        for (int part = 0; part < PATCH / 8; part++) to[part] = make_uint4(packed[4 * part], packed[4 * part + 1], packed[4 * part + 2], packed[4 * part + 3]);
    }
}

// The largest number of each row, the first of equals.
DEVICE void largest(const float* x, u32* choices, u32 width) {
    const float* row = x + (u64)blockIdx.x * width;
    float best = -INFINITY;
    u32 at = 0;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        if (row[i] > best) best = row[i], at = i;
    __shared__ float bests[WARP];
    __shared__ u32 places[WARP];
    for (int round = 0; round < 2; round++) {
        for (int offset = WARP / 2; offset > 0; offset /= 2) {
            float other = __shfl_xor_sync(ALL_LANES, best, offset);
            u32 place = __shfl_xor_sync(ALL_LANES, at, offset);
            if (other > best || (other == best && place < at)) best = other, at = place;
        }
        if (round == 1) break;
        if (lane() == 0) bests[threadIdx.x / WARP] = best, places[threadIdx.x / WARP] = at;
        __syncthreads();
        if (threadIdx.x >= WARP) return;
        bool present = threadIdx.x < blockDim.x / WARP;
        best = present ? bests[threadIdx.x] : -INFINITY;
        at = present ? places[threadIdx.x] : 0xffffffffu;
    }
    if (threadIdx.x == 0) choices[blockIdx.x] = at;
}

#define ROWS(T, NAME)                                                                                                                       \
    extern "C" __global__ void embed_##NAME(const T* table, const u32* ids, T* out, u32 rows, u32 width) { embed(table, ids, out, rows, width); } \
    extern "C" __global__ void gather_##NAME(const T* x, const u32* picked, T* out, u32 rows, u32 width) { gather(x, picked, out, rows, width); } \
    extern "C" __global__ void bias_gelu_##NAME(T* x, const float* bias, u64 count, u32 width) { bias_gelu(x, bias, count, width); }        \
    extern "C" __global__ void add_##NAME(T* x, const T* y, u64 count) { add(x, y, count); }                                                \
    extern "C" __global__ void swiglu_##NAME(const T* x, T* out, u64 count) { swiglu(x, out, count); }                                      \
    extern "C" __global__ void pixel_shuffle_##NAME(const T* x, T* out, u32 tiles, u32 side, u32 scale, u32 width) {                        \
        pixel_shuffle(x, out, tiles, side, scale, width);                                                                                   \
    }                                                                                                                                       \
    extern "C" __global__ void unfold_##NAME(const u8* tiles, const float* values, T* out, u64 count, u32 size, u32 patch) {                \
        unfold(tiles, values, out, count, size, patch);                                                                                     \
    }
ROWS(float, f32)
ROWS(bf16, bf16)

#define ROWS_BETWEEN(FROM, TO, NAME)                                                                                                        \
    extern "C" __global__ void scatter_##NAME(const FROM* source, const u32* target, const u32* index, TO* x, u32 rows, u32 width) {        \
        scatter(source, target, index, x, rows, width);                                                                                     \
    }                                                                                                                                       \
    extern "C" __global__ void convert_##NAME(const FROM* x, TO* out, u32 rows, u32 period, u32 width) { convert(x, out, rows, period, width); } \
    extern "C" __global__ void rms_norm_##NAME(const FROM* x, const float* weight, float eps, TO* out, u32 rows, u32 width) {               \
        rms_norm(x, weight, eps, out, rows, width);                                                                                         \
    }                                                                                                                                       \
    extern "C" __global__ void layer_norm_##NAME(const FROM* x, const float* weight, const float* bias, float eps, TO* out, u32 rows,       \
                                                 u32 width) {                                                                              \
        layer_norm(x, weight, bias, eps, out, rows, width);                                                                                 \
    }
ROWS_BETWEEN(float, float, f32_f32)
ROWS_BETWEEN(float, bf16, f32_bf16)
ROWS_BETWEEN(bf16, float, bf16_f32)
ROWS_BETWEEN(bf16, bf16, bf16_bf16)

#define WIDE_LAYER_NORM(CHUNKS, ROWS)                                                                                                       \
    extern "C" __global__ void wide_layer_norm_##CHUNKS##_##ROWS(const bf16* x, const float* weight, const float* bias, float eps,          \
                                                                bf16* out, u32 rows, u32 width) {                                          \
        wide_layer_norm<CHUNKS, ROWS>(x, weight, bias, eps, out, rows, width);                                                              \
    }
#define WIDE_NORMS(CHUNKS)                                                                                                                  \
    extern "C" __global__ void wide_rms_norm_##CHUNKS(const bf16* x, const float* weight, float eps, bf16* out, u32 rows, u32 width) {      \
        wide_rms_norm<CHUNKS>(x, weight, eps, out, rows, width);                                                                            \
    }                                                                                                                                       \
    WIDE_LAYER_NORM(CHUNKS, 1)                                                                                                              \
    WIDE_LAYER_NORM(CHUNKS, 2)
WIDE_NORMS(1)
WIDE_NORMS(2)
WIDE_NORMS(3)
WIDE_NORMS(4)
WIDE_NORMS(5)
WIDE_NORMS(6)
WIDE_NORMS(7)
WIDE_NORMS(8)

extern "C" __global__ void unfold_8_bf16(const u8* tiles, const float* values, bf16* out, u64 lines, u32 size) {
    unfold_lines<8>(tiles, values, out, lines, size);
}
extern "C" __global__ void unfold_16_bf16(const u8* tiles, const float* values, bf16* out, u64 lines, u32 size) {
    unfold_lines<16>(tiles, values, out, lines, size);
}
extern "C" __global__ void wide_swiglu_bf16(const bf16* x, bf16* out, u64 count) { wide_swiglu(x, out, count); }
extern "C" __global__ void largest_f32(const float* x, u32* choices, u32 width) { largest(x, choices, width); }
