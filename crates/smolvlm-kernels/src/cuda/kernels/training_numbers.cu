// Numbers of parameters: the copies of masters that products read, the norm of all gradients, the optimizer. It follows
// `training_common.cuh`.

// ---- Copies of masters -----------------------------------------------------------------------------------------------

// The row of a weight that a master's row stands in: of a gated layer, gates and ups alternate.
DEVICE u64 place_of(u64 row, u32 rows, u32 gated) {
    if (!gated) return row;
    return row < rows / 2 ? 2 * row : 2 * (row - rows / 2) + 1;
}

DEVICE void put_four(float* to, float4 x) { *(float4*)to = x; }
DEVICE void put_four(bf16* to, float4 x) { *(uint2*)to = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)); }

// weight = master; of a gated layer `apart` has the rows as the master does. Four numbers a thread, whose rows have whole fours or
// else each its own.
template <class T> DEVICE void repack(const float* master, T* weight, T* apart, u64 count, u32 rows, u32 inputs, u32 gated) {
    const u64 i = number_of_thread() * 4;
    if (i >= count) return;
    const u32 row = i / inputs, column = i - (u64)row * inputs;
    if (inputs % 4 == 0) {
        const float4 x = *(const float4*)(master + i);
        put_four(weight + place_of(row, rows, gated) * inputs + column, x);
        if (apart) put_four(apart + i, x);
        return;
    }
    for (u64 k = i; k < min(i + 4, count); k++) {
        const T value = from_f32<T>(master[k]);
        weight[place_of(k / inputs, rows, gated) * inputs + k % inputs] = value;
        if (apart) apart[k] = value;
    }
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

// ---- Optimizer -------------------------------------------------------------------------------------------------------

// Blocks for all numbers of many parts: those of a part follow each other from `first_block` on, 8,192 numbers each.
template <class T> struct Placed {
    u64 first_block;
    T part;
};
constexpr int PART_THREADS = 256, PART_NUMBERS = 8192;

template <class T> DEVICE const Placed<T>& part_of_block(const Placed<T>* parts, u32 count) {
    u32 low = 0, high = count;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (parts[middle].first_block <= blockIdx.x) low = middle;
        else high = middle;
    }
    return parts[low];
}
// Calls `four` with the places of whole fours of this thread, `one` with those left over.
template <class T, class F, class G> DEVICE void each_number(const Placed<T>& placed, u64 count, F four, G one) {
    const u64 first = (blockIdx.x - placed.first_block) * PART_NUMBERS, last = min(first + PART_NUMBERS, count);
    for (u64 i = first + 4 * threadIdx.x; i < last; i += 4 * PART_THREADS) {
        if (i + 4 <= last) {
            four(i);
        } else {
            for (u64 k = i; k < last; k++) one(k);
        }
    }
}

struct Numbers {
    float* at;
    u64 count;
};

extern "C" __global__ void clear_all(const Placed<Numbers>* parts, u32 count) {
    const Placed<Numbers>& placed = part_of_block(parts, count);
    float* x = placed.part.at;
    each_number(placed, placed.part.count, [&](u64 i) { *(float4*)(x + i) = make_float4(0.f, 0.f, 0.f, 0.f); }, [&](u64 i) { x[i] = 0.f; });
}

// total += Σ x²
extern "C" __global__ void add_squares(const Placed<Numbers>* parts, u32 count, double* total) {
    __shared__ double of_warps[PART_THREADS / WARP];
    const Placed<Numbers>& placed = part_of_block(parts, count);
    const float* x = placed.part.at;
    double sum = 0.0;
    each_number(
        placed, placed.part.count,
        [&](u64 i) {
            const float4 four = *(const float4*)(x + i);
            sum += (double)four.x * four.x + (double)four.y * four.y + (double)four.z * four.z + (double)four.w * four.w;
        },
        [&](u64 i) { sum += (double)x[i] * x[i]; });
    for (int offset = WARP / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
    if (lane() == 0) of_warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < PART_THREADS / WARP; warp++) sum += of_warps[warp];
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

DEVICE void adamw_one(const AdamW& a, float gradient, float& master, float& first, float& second) {
    const float g = gradient * a.gradient_scale;
    first = a.beta1 * first + a.rest1 * g;
    second = a.beta2 * second + a.rest2 * g * g;
    master = a.kept * master - a.rate1 * first / (sqrtf(second) * a.root2 + a.eps);
}

extern "C" __global__ void adamw(const Placed<AdamW>* parts, u32 count) {
    const Placed<AdamW>& placed = part_of_block(parts, count);
    const AdamW a = placed.part;
    each_number(
        placed, a.count,
        [&](u64 i) {
            const float4 g = *(const float4*)(a.gradient + i);
            float4 p = *(float4*)(a.master + i), m = *(float4*)(a.first + i), v = *(float4*)(a.second + i);
            adamw_one(a, g.x, p.x, m.x, v.x);
            adamw_one(a, g.y, p.y, m.y, v.y);
            adamw_one(a, g.z, p.z, m.z, v.z);
            adamw_one(a, g.w, p.w, m.w, v.w);
            *(float4*)(a.master + i) = p, *(float4*)(a.first + i) = m, *(float4*)(a.second + i) = v;
        },
        [&](u64 i) { adamw_one(a, a.gradient[i], a.master[i], a.first[i], a.second[i]); });
}

// ---- Names -----------------------------------------------------------------------------------------------------------

#define TRAINING_NUMBERS(T, NAME)                                                                                                           \
    extern "C" __global__ void repack_##NAME(const float* master, T* weight, T* apart, u64 count, u32 rows, u32 inputs, u32 gated) {        \
        repack(master, weight, apart, count, rows, inputs, gated);                                                                          \
    }                                                                                                                                       \
    extern "C" __global__ void separate_##NAME(const T* weight, T* apart, u64 count, u32 rows, u32 inputs) {                                \
        separate(weight, apart, count, rows, inputs);                                                                                       \
    }
TRAINING_NUMBERS(float, f32)
TRAINING_NUMBERS(bf16, bf16)
