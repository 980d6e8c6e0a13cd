// CUDA C++ as g++ understands it: what NVRTC knows without any header. It comes before every kernel source. `__shared__`, `__global__` and
// `asm` are the translator's (nvrtc.cpp): an instruction `a.b.c %0, %1;` becomes a call `emu::ptx::a_b_c(…)`, so one that is not defined
// here traps when it is reached.
#pragma GCC system_header

#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __CUDACC__ 1
#define __CUDACC_RTC__ 1
#define __CUDA_EMULATED__ 1

typedef decltype(sizeof(0)) size_t;
constexpr int warpSize = 32;

// ---- Vectors ---------------------------------------------------------------------------------------------------------------------------

#define EMU_VECTORS(T, NAME)                                                                                    \
    struct NAME##1 { T x; };                                                                                    \
    struct alignas(2 * sizeof(T)) NAME##2 { T x, y; };                                                          \
    struct NAME##3 { T x, y, z; };                                                                              \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; };                          \
    inline NAME##1 make_##NAME##1(T x) { return {x}; }                                                          \
    inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                                                  \
    inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                                          \
    inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VECTORS(signed char, char)
EMU_VECTORS(unsigned char, uchar)
EMU_VECTORS(short, short)
EMU_VECTORS(unsigned short, ushort)
EMU_VECTORS(int, int)
EMU_VECTORS(unsigned, uint)
EMU_VECTORS(long long, longlong)
EMU_VECTORS(unsigned long long, ulonglong)
EMU_VECTORS(float, float)
EMU_VECTORS(double, double)
#undef EMU_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
#define threadIdx (::emu::emu_state.thread)
#define blockIdx (::emu::emu_state.block)
#define blockDim (::emu::emu_state.block_size)
#define gridDim (::emu::emu_state.grid_size)

// ---- Numbers ---------------------------------------------------------------------------------------------------------------------------

extern "C" {
#define EMU_MATHS(F) float F##f(float) noexcept; double F(double) noexcept;
EMU_MATHS(exp) EMU_MATHS(exp2) EMU_MATHS(expm1) EMU_MATHS(log) EMU_MATHS(log2) EMU_MATHS(log10) EMU_MATHS(log1p) EMU_MATHS(sqrt)
EMU_MATHS(cbrt) EMU_MATHS(sin) EMU_MATHS(cos) EMU_MATHS(tan) EMU_MATHS(asin) EMU_MATHS(acos) EMU_MATHS(atan) EMU_MATHS(sinh)
EMU_MATHS(cosh) EMU_MATHS(tanh) EMU_MATHS(erf) EMU_MATHS(erfc) EMU_MATHS(floor) EMU_MATHS(ceil) EMU_MATHS(trunc) EMU_MATHS(round)
EMU_MATHS(rint) EMU_MATHS(fabs)
#undef EMU_MATHS
#define EMU_MATHS(F) float F##f(float, float) noexcept; double F(double, double) noexcept;
EMU_MATHS(pow) EMU_MATHS(fmod) EMU_MATHS(atan2) EMU_MATHS(copysign) EMU_MATHS(fmin) EMU_MATHS(fmax) EMU_MATHS(hypot)
#undef EMU_MATHS
float fmaf(float, float, float) noexcept;
double fma(double, double, double) noexcept;
void sincosf(float, float*, float*) noexcept;
int abs(int) noexcept;
int printf(const char*, ...);
void* memcpy(void*, const void*, size_t) noexcept;
void* memset(void*, int, size_t) noexcept;
}

namespace emu {
template <class To, class From> inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emu

template <class A, class B, class C = decltype(true ? A() : B())> constexpr C min(A a, B b) {
    return (C)a < (C)b || b != b ? (C)a : (C)b;
}
template <class A, class B, class C = decltype(true ? A() : B())> constexpr C max(A a, B b) {
    return (C)a > (C)b || b != b ? (C)a : (C)b;
}
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline float rsqrtf(float x) { return (float)(1. / __builtin_sqrt((double)x)); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp2f(x * 3.3219281f); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
// Never contracted with what follows.
__attribute__((noinline)) inline float __fadd_rn(float x, float y) { return x + y; }
__attribute__((noinline)) inline float __fsub_rn(float x, float y) { return x - y; }
__attribute__((noinline)) inline float __fmul_rn(float x, float y) { return x * y; }

inline float __uint_as_float(unsigned x) { return emu::bits<float>(x); }
inline float __int_as_float(int x) { return emu::bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emu::bits<unsigned>(x); }
inline int __float_as_int(float x) { return emu::bits<int>(x); }
inline double __longlong_as_double(long long x) { return emu::bits<double>(x); }
inline long long __double_as_longlong(double x) { return emu::bits<long long>(x); }
namespace emu {
// Conversions saturate, and make zero of what is no number.
template <class T> inline T saturated(double x) {
    constexpr bool SIGNED = (T)-1 < (T)0;
    constexpr T HIGHEST = SIGNED ? (T)(~0ull >> (65 - 8 * sizeof(T))) : (T)~0ull, LOWEST = SIGNED ? (T)(-HIGHEST - 1) : (T)0;
    return x != x ? 0 : x >= (double)HIGHEST ? HIGHEST : x <= (double)LOWEST ? LOWEST : (T)x;
}
} // namespace emu
inline int __float2int_rn(float x) { return emu::saturated<int>(rint(x)); }
inline int __float2int_rz(float x) { return emu::saturated<int>(trunc(x)); }
inline int __float2int_rd(float x) { return emu::saturated<int>(floor(x)); }
inline int __float2int_ru(float x) { return emu::saturated<int>(ceil(x)); }
inline unsigned __float2uint_rn(float x) { return emu::saturated<unsigned>(rint(x)); }
inline unsigned __float2uint_rz(float x) { return emu::saturated<unsigned>(trunc(x)); }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }

inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}
inline int __mul24(int x, int y) { return x * y; }
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) { return (unsigned long long)((unsigned __int128)x * y >> 64); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned which = selector >> (4 * i) & 15, byte = (unsigned)(both >> (8 * (which & 7))) & 255;
        result |= (which & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return result;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) { return (unsigned)((((unsigned long long)high << 32) | low) >> (shift & 31)); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) { return (unsigned)((((unsigned long long)high << 32) | low) << (shift & 31) >> 32); }
inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 32; i += 8) c += (signed char)(a >> i) * (signed char)(b >> i);
    return c;
}

// ---- Memory ----------------------------------------------------------------------------------------------------------------------------

// Shared memory lies below 4 GiB, so that 32 bits name it.
inline size_t __cvta_generic_to_shared(const void* pointer) { return (size_t)pointer; }
inline void* __cvta_shared_to_generic(size_t address) { return (void*)address; }
inline size_t __cvta_generic_to_global(const void* pointer) { return (size_t)pointer; }
inline bool __isShared(const void* pointer) { return (size_t)pointer >> 32 == 0; }
template <class T> inline T __ldg(const T* from) { return *from; }
template <class T> inline T __ldcg(const T* from) { return *from; }
template <class T> inline T __ldcs(const T* from) { return *from; }
template <class T> inline T __ldca(const T* from) { return *from; }
template <class T> inline void __stcg(T* to, T x) { *to = x; }
template <class T> inline void __stcs(T* to, T x) { *to = x; }
template <class T> inline void __stwt(T* to, T x) { *to = x; }
inline void __threadfence() { emu::emu_fence(); }
inline void __threadfence_block() { }
inline void __threadfence_system() { emu::emu_fence(); }
inline void __nanosleep(unsigned) { emu::emu_pass(); }
inline long long clock64() { return (long long)__builtin_ia32_rdtsc(); }
inline void __trap() { emu::emu_trap("__trap"); }
inline void __brkpt() { emu::emu_trap("__brkpt"); }
#define __builtin_assume(x) ((void)0)

namespace emu {
// Threads of the machine take turns, so nothing comes between reading and writing.
template <class T, class F> __attribute__((no_sanitize("thread"), noinline)) T changed(T* at, F change) {
    const T old = *at;
    *at = change(old);
    return old;
}
template <class T, class F> __forceinline__ T atomically(T* at, F change) {
    if (emu_state.checks) emu_here(), emu_access(at, sizeof(T), ATOMIC);
    return changed(at, change);
}
template <class T> struct Same { typedef T Type; };
template <class T> using Given = typename Same<T>::Type; // not deduced
} // namespace emu
#define EMU_ATOMIC(NAME, CHANGED)                                                                                     \
    template <class T> __forceinline__ T atomic##NAME(T* at, emu::Given<T> x) { return emu::atomically(at, [=](T old) -> T { return CHANGED; }); } \
    template <class T> __forceinline__ T atomic##NAME##_block(T* at, emu::Given<T> x) { return atomic##NAME(at, x); }            \
    template <class T> __forceinline__ T atomic##NAME##_system(T* at, emu::Given<T> x) { return atomic##NAME(at, x); }
EMU_ATOMIC(Add, old + x)
EMU_ATOMIC(Sub, old - x)
EMU_ATOMIC(Min, x < old ? x : old)
EMU_ATOMIC(Max, x > old ? x : old)
EMU_ATOMIC(And, old & x)
EMU_ATOMIC(Or, old | x)
EMU_ATOMIC(Xor, old ^ x)
EMU_ATOMIC(Exch, x)
EMU_ATOMIC(Inc, old >= x ? 0 : old + 1)
EMU_ATOMIC(Dec, old == 0 || old > x ? x : old - 1)
#undef EMU_ATOMIC
template <class T> __forceinline__ T atomicCAS(T* at, emu::Given<T> expected, emu::Given<T> x) {
    const T seen = emu::atomically(at, [=](T old) -> T { return old == expected ? x : old; });
    if (!(seen == expected)) emu::emu_pass(); // who spins waits for another
    return seen;
}

// ---- Threads together ------------------------------------------------------------------------------------------------------------------

__forceinline__ void __syncthreads() { emu::emu_barrier(0, 0, true); }
__forceinline__ int __syncthreads_count(int x) { return (int)emu::emu_barrier_sum(x != 0); }
__forceinline__ int __syncthreads_or(int x) { return __syncthreads_count(x) != 0; }
__forceinline__ int __syncthreads_and(int x) { return __syncthreads_count(x == 0) == 0; }
__forceinline__ void __syncwarp(unsigned mask = 0xffffffffu) { emu::emu_collective(mask, emu::sync_warp, nullptr); }
inline unsigned __activemask() { return 0xffffffffu; }

namespace emu {
inline unsigned linear_thread() { return (emu_state.thread.z * emu_state.block_size.y + emu_state.thread.y) * emu_state.block_size.x + emu_state.thread.x; }
inline int lane() { return (int)(linear_thread() % 32); }

// One value of each lane; what a lane gets that reads one which is not there is no number.
template <class T> struct Exchange {
    T value;
    int source;
    T result;

    static void together(void* const* lanes) {
        for (int i = 0; i < 32; i++) {
            if (!lanes[i]) continue;
            Exchange& mine = *(Exchange*)lanes[i];
            const Exchange* other = (const Exchange*)lanes[mine.source];
            if (other) mine.result = other->value;
            else __builtin_memset((void*)&mine.result, 0xff, sizeof(T));
        }
    }
};
template <class T> inline T exchange(unsigned mask, T value, int source) {
    Exchange<T> mine = {value, source, value};
    emu_collective(mask, Exchange<T>::together, &mine);
    return mine.result;
}
// A value of all lanes, from the value of each.
template <class T, class Combine> struct Reduction {
    T value;
    static void together(void* const* lanes) {
        bool any = false;
        T result{};
        for (int i = 0; i < 32; i++)
            if (lanes[i]) result = any ? Combine::of(result, ((Reduction*)lanes[i])->value) : ((Reduction*)lanes[i])->value, any = true;
        for (int i = 0; i < 32; i++)
            if (lanes[i]) ((Reduction*)lanes[i])->value = result;
    }
};
template <class Combine, class T> inline T reduce(unsigned mask, T value) {
    Reduction<T, Combine> mine = {value};
    emu_collective(mask, Reduction<T, Combine>::together, &mine);
    return mine.value;
}
struct Sum { template <class T> static T of(T a, T b) { return a + b; } };
struct Least { template <class T> static T of(T a, T b) { return b < a ? b : a; } };
struct Most { template <class T> static T of(T a, T b) { return b > a ? b : a; } };
struct Both { template <class T> static T of(T a, T b) { return a & b; } };
struct Either { template <class T> static T of(T a, T b) { return a | b; } };
struct Differ { template <class T> static T of(T a, T b) { return a ^ b; } };
} // namespace emu

template <class T> inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return emu::exchange(mask, value, (emu::lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const int lane = emu::lane(), source = lane ^ bits;
    return emu::exchange(mask, value, source >= (lane & ~(width - 1)) + width ? lane : source);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = emu::lane();
    return emu::exchange(mask, value, (lane & (width - 1)) < (int)by ? lane : lane - (int)by);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const int lane = emu::lane();
    return emu::exchange(mask, value, (lane & (width - 1)) + (int)by >= width ? lane : lane + (int)by);
}
inline unsigned __ballot_sync(unsigned mask, int x) { return emu::reduce<emu::Either>(mask, x ? 1u << emu::lane() : 0u); }
inline int __any_sync(unsigned mask, int x) { return emu::reduce<emu::Either>(mask, (int)(x != 0)); }
inline int __all_sync(unsigned mask, int x) { return emu::reduce<emu::Both>(mask, (int)(x != 0)); }
template <class T> inline T __reduce_add_sync(unsigned mask, T x) { return emu::reduce<emu::Sum>(mask, x); }
template <class T> inline T __reduce_min_sync(unsigned mask, T x) { return emu::reduce<emu::Least>(mask, x); }
template <class T> inline T __reduce_max_sync(unsigned mask, T x) { return emu::reduce<emu::Most>(mask, x); }
inline unsigned __reduce_and_sync(unsigned mask, unsigned x) { return emu::reduce<emu::Both>(mask, x); }
inline unsigned __reduce_or_sync(unsigned mask, unsigned x) { return emu::reduce<emu::Either>(mask, x); }
inline unsigned __reduce_xor_sync(unsigned mask, unsigned x) { return emu::reduce<emu::Differ>(mask, x); }

// ---- Instructions ----------------------------------------------------------------------------------------------------------------------

namespace emu {
namespace ptx {
typedef unsigned u32;
typedef unsigned long long u64;

__forceinline__ void nothing() {}
inline float bf16(u32 bits_) { return bits<float>(bits_ << 16); }
// Nearest, ties to even.
inline u32 to_bf16(float x) {
    const u32 b = bits<u32>(x);
    return x != x ? 0x7fff : (b + 0x7fff + (b >> 16 & 1)) >> 16;
}
inline float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? copysignf(0.f, x) : x; }

__forceinline__ void cvt_rn_bf16x2_f32(u32& d, float high, float low) { d = to_bf16(high) << 16 | to_bf16(low); }
__forceinline__ void cvt_rn_bf16_f32(unsigned short& d, float x) { d = (unsigned short)to_bf16(x); }
__forceinline__ void mul_rn_bf16x2(u32& d, u32 a, u32 b) { d = to_bf16(bf16(a & 0xffff) * bf16(b & 0xffff)) | to_bf16(bf16(a >> 16) * bf16(b >> 16)) << 16; }
__forceinline__ void add_rn_bf16x2(u32& d, u32 a, u32 b) { d = to_bf16(bf16(a & 0xffff) + bf16(b & 0xffff)) | to_bf16(bf16(a >> 16) + bf16(b >> 16)) << 16; }
__forceinline__ void ex2_approx_ftz_f32(float& d, float x) { d = flushed(exp2f(flushed(x))); }
__forceinline__ void lg2_approx_ftz_f32(float& d, float x) { d = flushed(log2f(flushed(x))); }
__forceinline__ void tanh_approx_f32(float& d, float x) { d = tanhf(x); }
__forceinline__ void rcp_approx_ftz_f32(float& d, float x) { d = flushed(1.f / flushed(x)); }
__forceinline__ void rsqrt_approx_ftz_f32(float& d, float x) { d = flushed(rsqrtf(flushed(x))); }

__forceinline__ void prefetch_global_L2(const void*) {}
__forceinline__ void prefetch_global_L1(const void*) {}
__forceinline__ void griddepcontrol_launch_dependents() {}
__forceinline__ void griddepcontrol_wait() {}
__forceinline__ void fence_proxy_async_shared__cta() {}
__forceinline__ void bar_sync(int id, int threads = 0) { emu_barrier(id, threads, true); }
__forceinline__ void bar_arrive(int id, int threads) { emu_barrier(id, threads, false); }

template <class T> inline T& shared_at(u32 address) { return *(T*)(size_t)address; }
__forceinline__ void st_shared_u32(u32 to, u32 a) { shared_at<u32>(to) = a; }
__forceinline__ void st_shared_v4_u32(u32 to, u32 a, u32 b, u32 c, u32 d) { shared_at<uint4>(to) = {a, b, c, d}; }
__forceinline__ void ld_shared_v4_u32(u32& a, u32& b, u32& c, u32& d, u32 from) {
    const uint4 x = shared_at<uint4>(from);
    a = x.x, b = x.y, c = x.z, d = x.w;
}
__forceinline__ void ld_shared_v2_f32(float& a, float& b, u32 from) {
    const float2 x = shared_at<float2>(from);
    a = x.x, b = x.y;
}
__forceinline__ void red_global_add_f32(void* to, float x) { atomicAdd((float*)to, x); }

__forceinline__ void cp_async_cg_shared_global(u32 to, const void* from, int bytes, int exist) { emu_copy_later((void*)(size_t)to, from, exist, bytes - exist); }
__forceinline__ void cp_async_cg_shared_global(u32 to, const void* from, int bytes) { emu_copy_later((void*)(size_t)to, from, bytes, 0); }
__forceinline__ void cp_async_ca_shared_global(u32 to, const void* from, int bytes, int exist) { emu_copy_later((void*)(size_t)to, from, exist, bytes - exist); }
__forceinline__ void cp_async_ca_shared_global(u32 to, const void* from, int bytes) { emu_copy_later((void*)(size_t)to, from, bytes, 0); }
__forceinline__ void cp_async_commit_group() { emu_copies_commit(); }
__forceinline__ void cp_async_wait_group(int pending) { emu_copies_wait(pending); }
__forceinline__ void cp_async_wait_all() { emu_copies_commit(), emu_copies_wait(0); }

// COUNT matrices of 8 × 8; lane 8 m + r brings the address of row r of matrix m.
template <int COUNT, bool TRANSPOSED> struct Matrices {
    u32 address, result[4];

    __attribute__((no_sanitize("thread"))) static void together(void* const* lanes) {
        for (int m = 0; m < COUNT; m++) {
            const unsigned short* rows[8];
            for (int r = 0; r < 8; r++) {
                if (!lanes[8 * m + r]) emu_trap("ldmatrix without all lanes");
                const u32 address = ((Matrices*)lanes[8 * m + r])->address;
                rows[r] = (const unsigned short*)(size_t)address;
                if (address % 16) emu_trap("ldmatrix of a row that is not aligned to 16 bytes");
                if (emu_state.checks) emu_access(rows[r], 16, READ, 8 * m + r);
            }
            for (int i = 0; i < 32; i++) {
                const int g = i / 4, t = i % 4 * 2;
                const u32 low = TRANSPOSED ? rows[t][g] : rows[g][t], high = TRANSPOSED ? rows[t + 1][g] : rows[g][t + 1];
                if (lanes[i]) ((Matrices*)lanes[i])->result[m] = high << 16 | low;
            }
        }
    }
    static __forceinline__ Matrices load(u32 address) {
        Matrices mine = {address, {}};
        emu_collective(0xffffffffu, together, &mine);
        return mine;
    }
};
template <bool TRANSPOSED> __forceinline__ void load_4(u32& a, u32& b, u32& c, u32& d, u32 from) {
    const auto x = Matrices<4, TRANSPOSED>::load(from);
    a = x.result[0], b = x.result[1], c = x.result[2], d = x.result[3];
}
template <bool TRANSPOSED> __forceinline__ void load_2(u32& a, u32& b, u32 from) {
    const auto x = Matrices<2, TRANSPOSED>::load(from);
    a = x.result[0], b = x.result[1];
}
__forceinline__ void ldmatrix_sync_aligned_m8n8_x4_shared_b16(u32& a, u32& b, u32& c, u32& d, u32 from) { load_4<false>(a, b, c, d, from); }
__forceinline__ void ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(u32& a, u32& b, u32& c, u32& d, u32 from) { load_4<true>(a, b, c, d, from); }
__forceinline__ void ldmatrix_sync_aligned_m8n8_x2_shared_b16(u32& a, u32& b, u32 from) { load_2<false>(a, b, from); }
__forceinline__ void ldmatrix_sync_aligned_m8n8_x2_trans_shared_b16(u32& a, u32& b, u32 from) { load_2<true>(a, b, from); }

// d[16 × 8] = a[16 × DEPTH] · b[DEPTH × 8] + c: 16 deep in bf16, 8 deep in tf32, whose numbers are f32 without the last 13 bits.
template <int DEPTH> struct Product {
    float d[4];
    u32 a[4], b[2];

    __attribute__((no_sanitize("thread"), hot)) static void together(void* const* lanes) {
        float a[16][DEPTH], b[DEPTH][8];
        for (int i = 0; i < 32; i++) {
            if (!lanes[i]) emu_trap("mma without all lanes");
            const Product& x = *(const Product*)lanes[i];
            const int g = i / 4, t = i % 4;
            for (int j = 0; j < 4; j++) {
                float* row = a[g + j % 2 * 8] + j / 2 * (DEPTH / 2);
                if (DEPTH == 16) row[2 * t] = bf16(x.a[j] & 0xffff), row[2 * t + 1] = bf16(x.a[j] >> 16);
                else row[t] = bits<float>(x.a[j] & 0xffffe000u);
            }
            for (int j = 0; j < 2; j++) {
                if (DEPTH == 16) b[2 * t + 8 * j][g] = bf16(x.b[j] & 0xffff), b[2 * t + 1 + 8 * j][g] = bf16(x.b[j] >> 16);
                else b[t + 4 * j][g] = bits<float>(x.b[j] & 0xffffe000u);
            }
        }
        for (int row = 0; row < 16; row++) {
            float sums[8] = {};
            for (int k = 0; k < DEPTH; k++)
                for (int n = 0; n < 8; n++) sums[n] += a[row][k] * b[k][n];
            for (int n = 0; n < 8; n++) ((Product*)lanes[row % 8 * 4 + n / 2])->d[row / 8 * 2 + n % 2] += sums[n];
        }
    }
    static __forceinline__ void of(float& d0, float& d1, float& d2, float& d3, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1, float c0, float c1, float c2, float c3) {
        Product mine = {{c0, c1, c2, c3}, {a0, a1, a2, a3}, {b0, b1}};
        emu_collective(0xffffffffu, together, &mine);
        d0 = mine.d[0], d1 = mine.d[1], d2 = mine.d[2], d3 = mine.d[3];
    }
};
template <class... A> __forceinline__ void mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32(A&&... operands) { Product<16>::of(operands...); }
template <class... A> __forceinline__ void mma_sync_aligned_m16n8k8_row_col_f32_tf32_tf32_f32(A&&... operands) { Product<8>::of(operands...); }
__forceinline__ void cvt_rna_tf32_f32(u32& d, float x) { d = x != x ? 0x7fffffffu : (bits<u32>(x) + 0x1000u) & 0xffffe000u; }
} // namespace ptx

// ---- How the machine starts a kernel ---------------------------------------------------------------------------------------------------

template <size_t... I> struct Indices {};
template <auto F> struct Entry;
template <class... A, void (*F)(A...)> struct Entry<F> {
    static constexpr unsigned SIZES[sizeof...(A) + 1] = {(unsigned)sizeof(A)..., 0};
    template <size_t... I> static __attribute__((no_sanitize("thread"))) void call(void** arguments, Indices<I...>) { F(*(A*)arguments[I]...); }
    static void call(void** arguments) { call(arguments, typename Count<sizeof...(A)>::Type()); }
    template <size_t N, size_t... I> struct Count : Count<N - 1, N - 1, I...> {};
    template <size_t... I> struct Count<0, I...> { typedef Indices<I...> Type; };
    static constexpr unsigned COUNT = sizeof...(A);
};
constexpr unsigned most_threads(unsigned threads = 1024, unsigned = 0, unsigned = 0) { return threads; }
template <auto F> constexpr Kernel kernel(unsigned threads) { return {Entry<F>::call, Entry<F>::SIZES, Entry<F>::COUNT, threads}; }
} // namespace emu
