// Tests of the emulator itself: small kernels, right ones and ones with a known mistake. `./selftest.sh` runs it in every mode.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "runtime.h"

typedef unsigned long long CUdeviceptr;
extern "C" {
CUresult cuMemAlloc_v2(CUdeviceptr*, size_t);
CUresult cuMemFree_v2(CUdeviceptr);
CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void*, size_t);
CUresult cuMemcpyDtoH_v2(void*, CUdeviceptr, size_t);
CUresult cuModuleLoadData(void**, const void*);
CUresult cuModuleUnload(void*);
CUresult cuModuleGetFunction(void**, void*, const char*);
CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, void*, const char*);
CUresult cuFuncSetAttribute(void*, int, int);
CUresult cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
CUresult cuStreamCreate(void**, unsigned);
CUresult cuStreamDestroy_v2(void*);
CUresult cuStreamBeginCapture_v2(void*, int);
CUresult cuStreamEndCapture(void*, void**);
CUresult cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
CUresult cuGraphLaunch(void*, void*);
CUresult cuGraphDestroy(void*);
CUresult cuGraphExecDestroy(void*);
int nvrtcCreateProgram(void**, const char*, const char*, int, const char* const*, const char* const*);
int nvrtcCompileProgram(void*, int, const char* const*);
int nvrtcGetCUBINSize(void*, size_t*);
int nvrtcGetCUBIN(void*, char*);
int nvrtcGetProgramLogSize(void*, size_t*);
int nvrtcGetProgramLog(void*, char*);
int nvrtcDestroyProgram(void**);
int cublasLtMatmulDescCreate(void**, int, int);
int cublasLtMatmulDescDestroy(void*);
int cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t);
int cublasLtMatrixLayoutCreate(void**, int, uint64_t, uint64_t, int64_t);
int cublasLtMatrixLayoutDestroy(void*);
int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t);
int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*, void*, void*, const void*, void*, size_t, void*);
}

namespace {

int failures = 0;
const bool CHECKS = emu::setting("EMU_CHECK", 0) != 0, REVERSE = emu::is_set("EMU_ORDER", "reverse");

void expect(bool holds, const char* what) {
    if (!holds) failures++, printf("FAILED: %s\n", what);
}

struct Module {
    void* module = nullptr;
    std::string log;

    explicit Module(const std::string& source) {
        void* program;
        nvrtcCreateProgram(&program, source.c_str(), "selftest.cu", 0, nullptr, nullptr);
        const char* options[] = {"--gpu-architecture=sm_80", "--std=c++17", "--define-macro=SEVEN=7"};
        if (nvrtcCompileProgram(program, 3, options) == 0) {
            size_t bytes = 0;
            nvrtcGetCUBINSize(program, &bytes);
            std::vector<char> image(bytes);
            nvrtcGetCUBIN(program, image.data());
            if (cuModuleLoadData(&module, image.data())) module = nullptr;
        }
        size_t bytes = 0;
        nvrtcGetProgramLogSize(program, &bytes);
        log.resize(bytes);
        nvrtcGetProgramLog(program, log.data());
        nvrtcDestroyProgram(&program);
    }
    ~Module() {
        if (module) cuModuleUnload(module);
    }
    void* function(const char* name) const {
        void* found = nullptr;
        if (!module || cuModuleGetFunction(&found, module, name)) expect(false, (std::string("kernel ") + name + ": " + log).c_str());
        return found;
    }
};

template <class T> struct Array {
    CUdeviceptr pointer = 0;
    size_t count;

    explicit Array(const std::vector<T>& values) : count(values.size()) {
        cuMemAlloc_v2(&pointer, count * sizeof(T));
        cuMemcpyHtoD_v2(pointer, values.data(), count * sizeof(T));
    }
    ~Array() {
        if (pointer) cuMemFree_v2(pointer);
    }
    std::vector<T> get() const {
        std::vector<T> values(count);
        cuMemcpyDtoH_v2(values.data(), pointer, count * sizeof(T));
        return values;
    }
};

CUresult start(void* function, unsigned blocks, unsigned threads, std::vector<uint64_t> arguments, unsigned shared = 0, void* stream = nullptr) {
    if (!function) return -1;
    std::vector<void*> pointers;
    for (uint64_t& argument : arguments) pointers.push_back(&argument);
    return cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared, stream, pointers.data(), nullptr);
}

std::vector<float> counted(size_t count) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; i++) values[i] = (float)i;
    return values;
}

// ---- Kernels without a mistake ---------------------------------------------------------------------------------------------------------

const char* RIGHT = R"(
#define DEVICE __device__ __forceinline__
template <class T> DEVICE T sum_of_warp(T x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
// Three ways to one sum.
extern "C" __global__ void __launch_bounds__(256) sum(const float* x, float* out, int count) {
    __shared__ float warps[8], all;
    extern __shared__ float dynamic[];
    float own = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) own += x[i];
    dynamic[threadIdx.x] = own;
    const float of_warp = sum_of_warp(own);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = of_warp;
    if (threadIdx.x == 0) all = 0.f;
    __syncthreads();
    atomicAdd(&all, own);
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) dynamic[threadIdx.x] += dynamic[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x > 0) return;
    float by_warps = 0.f;
    for (int w = 0; w < blockDim.x / 32; w++) by_warps += warps[w];
    out[0] = by_warps, out[1] = all, out[2] = dynamic[0];
}
extern "C" __global__ void intrinsics(unsigned* out) {
    const unsigned lane = threadIdx.x % 32;
    unsigned ok = 0;
    ok |= (__ballot_sync(~0u, lane % 3 == 0) == 0x49249249u) << 0;
    ok |= (__shfl_sync(~0u, lane * 2, 5) == 10) << 1;
    ok |= (__shfl_up_sync(~0u, lane, 3) == (lane < 3 ? lane : lane - 3)) << 2;
    ok |= (__shfl_down_sync(~0u, lane, 3, 8) == (lane % 8 > 4 ? lane : lane + 3)) << 3;
    ok |= (__reduce_max_sync(~0u, lane) == 31) << 4;
    ok |= (__any_sync(~0u, lane == 9) && !__all_sync(~0u, lane == 9)) << 5;
    ok |= (__shfl_xor_sync(~0u, 1.5 + lane, 1) == 1.5 + (lane ^ 1)) << 6;
    if (lane < 16) ok |= (__reduce_add_sync(0xffffu, 1) == 16) << 7;
    else ok |= (__reduce_add_sync(0xffff0000u, 2) == 32) << 7;
    ok |= (__syncthreads_count(threadIdx.x % 4 == 0) == blockDim.x / 4) << 8;
    ok |= (min(3, -2) == -2 && max(3u, 4u) == 4 && fmaxf(1.f, __int_as_float(0x7fc00000)) == 1.f) << 9;
    ok |= (__popc(255u) == 8 && __clz(1) == 31 && __ffs(8) == 4 && __byte_perm(0x33221100, 0x77665544, 0x5140) == 0x55114400) << 10;
    ok |= (SEVEN == 7) << 11;
    unsigned packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(1.f), "f"(-2.f));
    ok |= (packed == 0x3f80c000u) << 12;
    out[threadIdx.x] = ok;
}
// The last block adds up what all have left.
__device__ unsigned arrived;
extern "C" __global__ void last_block(float* partial, float* out) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = blockIdx.x + 1.f;
        __threadfence();
        last = atomicAdd(&arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last || threadIdx.x > 0) return;
    float sum = 0.f;
    for (int i = 0; i < gridDim.x; i++) sum += partial[i];
    *out = sum;
    arrived = 0;
}
extern "C" __global__ void product_tf32(const float* a, const float* b, float* d) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    unsigned r[4], s[2];
    for (int i = 0; i < 4; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[i]) : "f"(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]));
    for (int i = 0; i < 2; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(s[i]) : "f"(b[(t + i * 4) * 8 + g]));
    float c[4] = {};
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(s[0]), "r"(s[1]));
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = c[i];
}
struct Pair { const float* x; float* y; int count; char unused[100]; };
extern "C" __global__ void twice(const __grid_constant__ Pair pair) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pair.count) pair.y[i] += 2.f * pair.x[i];
}
extern "C" __device__ const int answer = 42;
extern "C" __global__ void conflicting(int* out) { atomicAdd(out, 1); }
extern "C" __global__ void product(const unsigned short* a, const unsigned short* b, float* d) {
    __shared__ __align__(16) unsigned short rows[16][16];
    const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
    const unsigned to = (unsigned)__cvta_generic_to_shared(&rows[lane / 2][lane % 2 * 8]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(a + lane * 8) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group %0;" ::"n"(0) : "memory");
    __syncwarp();
    unsigned r[4];
    const unsigned from = (unsigned)__cvta_generic_to_shared(&rows[lane % 16][lane / 16 * 8]);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
    float c[4] = {1.f, 1.f, 1.f, 1.f};
    const unsigned b0 = *(const unsigned*)(b + g * 16 + t * 2), b1 = *(const unsigned*)(b + g * 16 + t * 2 + 8);
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(b0), "r"(b1));
    for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = c[i];
}
)";

float of_bf16(uint16_t x) {
    const uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
uint16_t to_bf16(float x) { // exact ones only
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits >> 16;
}

void right_kernels() {
    const Module module(RIGHT);
    {
        const Array<float> x(counted(1000)), out(counted(3));
        expect(start(module.function("sum"), 1, 256, {x.pointer, out.pointer, 1000}, 1024) == 0, "a sum runs");
        expect(out.get() == std::vector<float>(3, 499500.f), "a sum in three ways");
    }
    const Array<uint32_t> bits(std::vector<uint32_t>(64));
    expect(start(module.function("intrinsics"), 1, 64, {bits.pointer}) == 0, "intrinsics run");
    for (uint32_t ok : bits.get()) expect(ok == 0x1fff, ("an intrinsic: " + std::to_string(ok)).c_str());
    for (int i = 0; i < 2; i++) {
        const Array<float> partial(counted(50)), out(counted(1));
        expect(start(module.function("last_block"), 50, 64, {partial.pointer, out.pointer}) == 0, "the last block of all runs");
        expect(out.get()[0] == 1275.f, "the last block sees what the others left");
    }
    size_t bytes = 0;
    CUdeviceptr global = 0;
    int value = 0;
    expect(cuModuleGetGlobal_v2(&global, &bytes, module.module, "answer") == 0 && bytes == 4 && cuMemcpyDtoH_v2(&value, global, 4) == 0 && value == 42, "a global");
    {
        const Array<int> count(std::vector<int>(1));
        expect(start(module.function("conflicting"), 10, 100, {count.pointer}) == 0 && count.get()[0] == 1000, "atomic operations of all blocks");
    }
    std::vector<uint16_t> a(256), b(128);
    for (int i = 0; i < 256; i++) a[i] = to_bf16((float)(i * 7 % 11 - 5));
    for (int i = 0; i < 128; i++) b[i] = to_bf16((float)(i * 5 % 13 - 6));
    const Array<uint16_t> left(a), right(b);
    const Array<float> d(counted(128));
    expect(start(module.function("product"), 1, 32, {left.pointer, right.pointer, d.pointer}) == 0, "a product of a warp runs");
    const std::vector<float> found = d.get();
    for (int i = 0; i < 128; i++) {
        float sum = 1.f;
        for (int k = 0; k < 16; k++) sum += of_bf16(a[i / 8 * 16 + k]) * of_bf16(b[i % 8 * 16 + k]);
        expect(found[i] == sum, "a product of a warp");
    }
    {
        std::vector<float> x(128), y(64);
        for (int i = 0; i < 128; i++) x[i] = (float)(i * 7 % 11 - 5);
        for (int i = 0; i < 64; i++) y[i] = (float)(i * 5 % 13 - 6);
        const Array<float> dx(x), dy(y);
        expect(start(module.function("product_tf32"), 1, 32, {dx.pointer, dy.pointer, d.pointer}) == 0, "a product in tf32 runs");
        const std::vector<float> result = d.get();
        for (int i = 0; i < 128; i++) {
            float sum = 0.f;
            for (int k = 0; k < 8; k++) sum += x[i / 8 * 8 + k] * y[k * 8 + i % 8];
            expect(result[i] == sum, "a product in tf32");
        }
    }

    struct Pair {
        uint64_t x, y;
        int count;
        char unused[100];
    };
    const Array<float> x(counted(300)), y(std::vector<float>(300));
    Pair pair = {x.pointer, y.pointer, 300, {}};
    void *stream, *graph, *executable, *arguments[] = {&pair};
    cuStreamCreate(&stream, 0);
    cuStreamBeginCapture_v2(stream, 2);
    cuLaunchKernel(module.function("twice"), 3, 1, 1, 128, 1, 1, 0, stream, arguments, nullptr);
    cuStreamEndCapture(stream, &graph);
    pair = {};
    cuGraphInstantiateWithFlags(&executable, graph, 0);
    cuGraphDestroy(graph);
    expect(y.get()[299] == 0.f, "what is recorded does not run");
    for (int i = 0; i < 3; i++) expect(cuGraphLaunch(executable, stream) == 0, "a graph runs");
    cuGraphExecDestroy(executable);
    cuStreamDestroy_v2(stream);
    expect(y.get()[299] == 6 * 299.f, "a graph runs as often as it is started");
}

// ---- Kernels with a mistake ------------------------------------------------------------------------------------------------------------

const char* WRONG = R"(
extern "C" __global__ void no_barrier(float* out) { // thread i reads what thread 255 - i wrote
    __shared__ float x[256];
    x[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = x[255 - threadIdx.x];
}
extern "C" __global__ void no_warp_barrier(float* out) {
    __shared__ float x[32];
    x[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = x[threadIdx.x ^ 1];
}
extern "C" __global__ void no_second_barrier(float* out) { // read, then written by another
    __shared__ float x[64];
    x[threadIdx.x] = threadIdx.x;
    __syncthreads();
    const float y = x[63 - threadIdx.x];
    x[threadIdx.x] = 0.f;
    out[threadIdx.x] = y;
}
extern "C" __global__ void between_blocks(float* out) { out[0] += 1.f; }
extern "C" __global__ void beyond(float* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= count) out[i] = 1.f;
}
extern "C" __global__ void beyond_shared(float* out) {
    __shared__ float x[32];
    __shared__ float y[32];
    y[threadIdx.x] = 1.f;
    x[threadIdx.x + 1] = 2.f;
    __syncthreads();
    out[threadIdx.x] = x[threadIdx.x] + y[threadIdx.x];
}
extern "C" __global__ void wild(float* out) { out[1ull << 40] = 1.f; }
extern "C" __global__ void divided(int* out, int by) { out[0] = out[1] / by; }
extern "C" __global__ void misaligned(float* out) { *(float4*)(out + 1) = make_float4(0, 0, 0, 0); }
extern "C" __global__ void beyond_local(float* out, int i) {
    float x[4] = {out[0], out[1], out[2], out[3]};
    out[0] = x[i];
}
extern "C" __global__ void half_a_barrier(float* out) {
    float x = threadIdx.x;
    if (threadIdx.x < 16) x = __shfl_xor_sync(0xffffffffu, x, 1);
    else __syncthreads();
    out[threadIdx.x] = x;
}
extern "C" __global__ void unknown() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
extern "C" __global__ void __launch_bounds__(64) small() {}
extern "C" __global__ void uninitialised(float* out) {
    __shared__ float x[32];
    out[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void too_much() {
    __shared__ float x[13000];
    x[threadIdx.x] = 0.f;
}
extern "C" __global__ void no_wait(const float* x, float* out) {
    __shared__ __align__(16) float y[128];
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(y + threadIdx.x * 4)), "l"(x + threadIdx.x * 4) : "memory");
    out[threadIdx.x] = y[threadIdx.x * 4];
}
extern "C" __global__ void __launch_bounds__(32) deep(float* out) {
    volatile float local[1 << 17];
    for (int i = 0; i < 1 << 17; i += 512) local[i] = i;
    out[0] = local[512];
}
)";

void wrong_kernels() {
    const Module module(WRONG);
    const Array<float> out(counted(256));
    const auto fails = [&](const char* name, unsigned blocks, unsigned threads, std::vector<uint64_t> arguments, unsigned shared = 0) {
        expect(start(module.function(name), blocks, threads, arguments, shared) != 0, name);
    };
    for (const char* name : {"no_barrier", "no_warp_barrier", "no_second_barrier"}) {
        const unsigned threads = !strcmp(name, "no_barrier") ? 256 : !strcmp(name, "no_warp_barrier") ? 32 : 64;
        const CUresult result = start(module.function(name), 1, threads, {out.pointer});
        if (CHECKS) {
            expect(result != 0, name);
            continue;
        }
        // Some thread runs too early in every order.
        bool right = result == 0;
        const std::vector<float> found = out.get();
        for (unsigned i = 0; i < threads; i++) right &= found[i] == (!strcmp(name, "no_warp_barrier") ? i ^ 1 : threads - 1 - i);
        expect(!right, name);
    }
    {
        const Array<float> count(std::vector<float>(1));
        if (CHECKS) fails("between_blocks", 4, 1, {count.pointer});
        const Array<float> hundred(counted(100));
        const CUresult result = start(module.function("beyond"), 1, 128, {hundred.pointer, 100});
        expect(CHECKS ? result != 0 : result == 0, "beyond");
        expect(CHECKS || cuMemFree_v2(hundred.pointer) != 0, "what was written behind an array is found when it is freed");
        if (!CHECKS) const_cast<Array<float>&>(hundred).pointer = 0;
    }
    if (CHECKS) fails("beyond_shared", 1, 32, {out.pointer});
    fails("beyond", 100, 64, {out.pointer, 1 << 20});
    fails("wild", 1, 1, {out.pointer});
    fails("divided", 1, 1, {out.pointer, 0});
    if (CHECKS) fails("misaligned", 1, 1, {out.pointer});
    if (CHECKS) fails("beyond_local", 1, 1, {out.pointer, 4});
    fails("half_a_barrier", 1, 32, {out.pointer});
    fails("unknown", 1, 32, {});
    fails("small", 1, 65, {});
    fails("small", 1, 64, {}, 49 << 10);
    expect(start(module.function("small"), 1, 64, {}, 48 << 10) == 0, "as much shared memory as every kernel may have");
    void* asks = module.function("small");
    if (!asks) return;
    expect(cuFuncSetAttribute(asks, 8, 163 << 10) == 0 && start(asks, 1, 64, {}, 163 << 10) == 0, "more shared memory, asked for");
    expect(cuFuncSetAttribute(asks, 8, 164 << 10) != 0, "more shared memory than there is");
    fails("too_much", 1, 32, {});
    fails("deep", 1, 1, {out.pointer});
    expect(start(module.function("uninitialised"), 1, 32, {out.pointer}) == 0 && std::isnan(out.get()[3]), "fresh shared memory holds no numbers");
    const Array<float> x(counted(128));
    start(module.function("no_wait"), 1, 32, {x.pointer, out.pointer});
    expect(emu::is_set("EMU_COPIES", "early") || std::isnan(out.get()[3]), "a copy that is not waited for");
    expect(start(module.function("small"), 1, 64, {}) == 0, "the machine goes on after failures");
    const Module broken("extern \"C\" __global__ void f(float* x) {\n    x[0] = y;\n}\n");
    expect(!broken.module && broken.log.find(":2:") != std::string::npos && broken.log.find("'y'") + broken.log.find("‘y’") != 0, "an error names its line");
    expect(!Module("extern \"C\" __global__ void f(float* x) {").module, "a source that ends too early");
    CUdeviceptr pointer;
    expect(cuMemAlloc_v2(&pointer, 1ull << 50) == CUDA_ERROR_OUT_OF_MEMORY, "more memory than there is");
    expect(cuMemFree_v2(out.pointer + 4) != 0, "freeing what was not allocated");
    float number;
    expect(cuMemcpyDtoH_v2(&number, out.pointer + 1024, 4) != 0, "copying from behind an array");
}

// ---- Products --------------------------------------------------------------------------------------------------------------------------

struct Matrix {
    uint64_t rows, columns;
    int64_t leading;
    int order, batch;
    int64_t stride;

    Matrix(uint64_t rows_, uint64_t columns_, int order_, int batch_) : rows(rows_), columns(columns_), order(order_), batch(batch_) {
        leading = (order == 0 ? rows : columns) + 3;
        stride = leading * (order == 0 ? columns : rows) + 5;
    }
    size_t room() const { return stride * batch; }
    size_t at(uint64_t i, uint64_t j, int b) const { return b * stride + (order == 0 ? j * leading + i : i * leading + j); }
    void* layout(int type) const {
        void* made;
        cublasLtMatrixLayoutCreate(&made, type, rows, columns, leading);
        cublasLtMatrixLayoutSetAttribute(made, 1, &order, 4);
        cublasLtMatrixLayoutSetAttribute(made, 5, &batch, 4);
        cublasLtMatrixLayoutSetAttribute(made, 6, &stride, 8);
        return made;
    }
};

void one_product(bool ta, bool tb, int orders, unsigned epilogue, float beta, int batch) {
    const uint64_t m = 37, n = 21, k = 45;
    const Matrix a(ta ? k : m, ta ? m : k, orders & 1, batch), b(tb ? n : k, tb ? k : n, orders >> 1 & 1, batch), d(m, n, orders >> 2 & 1, batch);
    auto random = [state = 1u](size_t count) mutable {
        std::vector<float> values(count);
        for (float& x : values) state = state * 1664525 + 1013904223, x = (float)(state >> 8) / (1 << 23) - 1.f;
        return values;
    };
    const std::vector<float> av = random(a.room()), bv = random(b.room()), cv = random(d.room()), bias = random(64), aux = random(m * n * batch);
    const Array<float> da(av), db(bv), dd(cv), dbias(bias), daux(aux);
    void* how;
    cublasLtMatmulDescCreate(&how, 68, 0);
    const int transposed = 1;
    if (ta) cublasLtMatmulDescSetAttribute(how, 3, &transposed, 4);
    if (tb) cublasLtMatmulDescSetAttribute(how, 4, &transposed, 4);
    const int64_t aux_leading = m, aux_stride = m * n;
    cublasLtMatmulDescSetAttribute(how, 7, &epilogue, 4);
    cublasLtMatmulDescSetAttribute(how, 8, &dbias.pointer, 8);
    cublasLtMatmulDescSetAttribute(how, 11, &daux.pointer, 8);
    cublasLtMatmulDescSetAttribute(how, 12, &aux_leading, 8);
    cublasLtMatmulDescSetAttribute(how, 13, &aux_stride, 8);
    void *la = a.layout(0), *lb = b.layout(0), *ld = d.layout(0);
    const float alpha = 0.5f;
    expect(cublasLtMatmul(nullptr, how, &alpha, (void*)da.pointer, la, (void*)db.pointer, lb, &beta, (void*)dd.pointer, ld, (void*)dd.pointer, ld, nullptr, nullptr, 0, nullptr) == 0,
           "a product runs");
    const std::vector<float> found = dd.get(), found_bias = dbias.get(), found_aux = daux.get();
    bool right = true;
    const auto near = [](double x, double y) { return std::fabs(x - y) < 1e-4; };
    for (int p = 0; p < batch; p++)
        for (uint64_t i = 0; i < m; i++)
            for (uint64_t j = 0; j < n; j++) {
                double x = 0;
                for (uint64_t l = 0; l < k; l++) x += (double)av[ta ? a.at(l, i, p) : a.at(i, l, p)] * bv[tb ? b.at(j, l, p) : b.at(l, j, p)];
                x = alpha * x + beta * cv[d.at(i, j, p)];
                if (epilogue & 4) x += bias[i];
                const size_t at = p * m * n + j * m + i;
                if (epilogue == 160) right &= near(found_aux[at], x);
                if (epilogue & 32) x = 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
                if (epilogue == 192) {
                    const double h = 1e-4, y = aux[at];
                    const auto gelu = [](double z) { return 0.5 * z * (1 + std::tanh(0.7978845608028654 * (z + 0.044715 * z * z * z))); };
                    x *= (gelu(y + h) - gelu(y - h)) / (2 * h);
                }
                right &= near(found[d.at(i, j, p)], x);
            }
    if (epilogue == 256 || epilogue == 512)
        for (uint64_t i = 0; i < (epilogue == 256 ? m : n); i++) {
            double sum = 0;
            for (uint64_t l = 0; l < k; l++) sum += epilogue == 256 ? av[ta ? a.at(l, i, 0) : a.at(i, l, 0)] : bv[tb ? b.at(i, l, 0) : b.at(l, i, 0)];
            right &= near(found_bias[i], sum);
        }
    expect(right, ("a product with transpositions " + std::to_string(ta) + std::to_string(tb) + ", orders " + std::to_string(orders) + ", epilogue " + std::to_string(epilogue)).c_str());
    cublasLtMatmulDescDestroy(how);
    for (void* layout : {la, lb, ld}) cublasLtMatrixLayoutDestroy(layout);
}

void products() {
    for (int i = 0; i < 4; i++)
        for (int orders = 0; orders < 8; orders++) one_product(i & 1, i & 2, orders, 1, orders % 2 ? 0.f : 1.f, 1 + i);
    for (unsigned epilogue : {4u, 32u, 36u, 160u, 192u}) one_product(true, false, 0, epilogue, 0.f, 2);
    for (unsigned epilogue : {256u, 512u}) one_product(false, true, 0, epilogue, 1.f, 1);
}

} // namespace

int main() {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    right_kernels();
    printf("---- messages about mistakes follow\n");
    wrong_kernels();
    products();
    printf(failures ? "%d failures\n" : "all is well\n", failures);
    return failures > 0;
}
