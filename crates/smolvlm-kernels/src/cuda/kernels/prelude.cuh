// What every kernel file begins with. Files are compiled at run time where no toolkit is installed, so nothing is included:
// bfloat16 is two bytes, converted by instructions.

typedef unsigned char u8;
typedef unsigned short bf16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;

#define DEVICE __device__ __forceinline__

constexpr int WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// May already be defined where this is compiled by nvcc.
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return __uint_as_float((u32)x << 16); }

// Two numbers rounded to bfloat16 (nearest, ties to even), `low` in the lower half.
DEVICE u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}
DEVICE float low_of(u32 pair) { return __uint_as_float(pair << 16); }
DEVICE float high_of(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

template <class T> DEVICE T from_f32(float x);
template <> DEVICE float from_f32<float>(float x) { return x; }
template <> DEVICE bf16 from_f32<bf16>(float x) { return (bf16)pack_bf16(x, 0.f); }

// A number as storage in T would round it.
template <class T> DEVICE float rounded(float x) { return to_f32(from_f32<T>(x)); }

// On Hopper a kernel that is started early runs beside the end of the one before it: until `await_previous` it may only read what that one
// does not write, and write nothing. Each says with `let_next_start` that the one after it may do the same.
DEVICE void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEVICE void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

DEVICE float warp_sum(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}
DEVICE float warp_max(float x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

constexpr float LOG2_E = 1.4426950408889634f;

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float gelu_tanh(float x) { return 0.5f * x * (1.f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x))); }
DEVICE float silu(float x) { return x / (1.f + expf(-x)); }

// Eight bfloat16 numbers that were read together.
DEVICE void widen(uint4 packed, float* numbers) {
    u32 pairs[4] = {packed.x, packed.y, packed.z, packed.w};
    for (int i = 0; i < 4; i++) numbers[2 * i] = low_of(pairs[i]), numbers[2 * i + 1] = high_of(pairs[i]);
}
