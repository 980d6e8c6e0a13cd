// Instructions of tensor cores and of the copies that feed them, of sm_80 and sm_90a.
//
// Accumulators of m16n8 products (mma.sync, and each warp's share of wgmma) lie the same way everywhere: with
// g = lane / 4 and t = lane % 4, a thread holds of every 8 columns [j * 8, j * 8 + 8) the elements
//   4j + 0, 4j + 1: row g,     columns 2t, 2t + 1
//   4j + 2, 4j + 3: row g + 8, columns 2t, 2t + 1
// so a row of scores lies in the four lanes of a quad, and two neighbouring groups of 8 columns, packed to bfloat16, are
// already the left operand of the next product, 16 deep.

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

// ---- sm_80: mma.sync, ldmatrix, cp.async -----------------------------------------------------------------------------

DEVICE void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
DEVICE void load_matrices_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
// d[16 × 8] += a[16 × 16] · b[16 × 8]
DEVICE void mma_16_8_16(float* d, const u32* a, u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// 16 bytes to shared memory, zeros where `exists` is false.
DEVICE void copy_async(u32 to, const void* from, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory"); }

// The host pass of an offline compiler sees the kernels too.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define HAS_WGMMA 1
// ---- sm_90a: mbarriers, TMA, wgmma -----------------------------------------------------------------------------------

// A CUtensorMap, as the host's cuTensorMapEncodeTiled fills it.
struct alignas(64) TensorMap {
    u64 opaque[16];
};

constexpr int WARPGROUP = 128;

DEVICE void barrier_init(u32 barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to TMA, which comes by another way to shared memory.
DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
DEVICE void barrier_arrive_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Returns once the phase of this parity is complete. A fresh barrier counts as having completed parity 1.
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(barrier), "r"(parity) : "memory");
}

DEVICE void tensor_map_prefetch(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
DEVICE void tma_load_2d(u32 to, const TensorMap* map, int x, int y, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(barrier) : "memory");
}
DEVICE void tma_load_3d(u32 to, const TensorMap* map, int x, int y, int z, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
        ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier) : "memory");
}
// Orders this thread's ordinary accesses to shared memory with those of TMA and wgmma.
DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int REGISTERS> DEVICE void registers_raise() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> DEVICE void registers_lower() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }

// A ring of shared-memory buffers seen from one side: which buffer is next, and the parity of its turn.
template <int DEPTH> struct RingPosition {
    int slot = 0;
    u32 parity = 0;
    DEVICE void advance() {
        if (++slot == DEPTH) {
            slot = 0;
            parity ^= 1;
        }
    }
};

// Descriptor of an operand in shared memory, rows of 64 bfloat16 (128 bytes) with the 128-byte swizzle, as TMA writes
// them; groups of 8 rows are 1,024 bytes apart. It serves both operands: keys, whose 64 columns are the depth of the
// product (16 of them further is 32 bytes further), and values, whose rows are the depth (16 rows are 2,048 bytes).
DEVICE u64 operand_descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
constexpr u64 KEYS_STEP = 32 >> 4;
constexpr u64 VALUES_STEP = 2048 >> 4;

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

#define REGISTERS_8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define REGISTERS_32(d, i) REGISTERS_8(d, i), REGISTERS_8(d, i + 8), REGISTERS_8(d, i + 16), REGISTERS_8(d, i + 24)
#define NAMES_0_31 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, " \
    "%25, %26, %27, %28, %29, %30, %31"
#define NAMES_32_63 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, " \
    "%55, %56, %57, %58, %59, %60, %61, %62, %63"

// Waits until at most PENDING committed groups are unfinished. The accumulators pass through, so that the compiler
// cannot read them earlier.
template <int PENDING> DEVICE void wgmma_wait(float (&d)[32]) {
    asm volatile("wgmma.wait_group.sync.aligned %32;" : REGISTERS_32(d, 0) : "n"(PENDING) : "memory");
}
template <int PENDING> DEVICE void wgmma_wait(float (&d)[64]) {
    asm volatile("wgmma.wait_group.sync.aligned %64;" : REGISTERS_32(d, 0), REGISTERS_32(d, 32) : "n"(PENDING) : "memory");
}

// d[64 × N] (+)= a[64 × 16] · b[16 × N] with N twice the number of accumulators; `a` in registers; b's depth runs along
// its rows' columns (keys) or, TRANSPOSED, along its rows (values). Without `accumulate` d starts anew.
template <int TRANSPOSED> DEVICE void wgmma(float (&d)[32], const u32* a, u64 b, int accumulate) {
    asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES_0_31 "}, {%32, %33, %34, %35}, %36, "
                 "accumulate, 1, 1, %38;\n}"
                 : REGISTERS_32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TRANSPOSED));
}
template <int TRANSPOSED> DEVICE void wgmma(float (&d)[64], const u32* a, u64 b, int accumulate) {
    asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NAMES_0_31 ", " NAMES_32_63
                 "}, {%64, %65, %66, %67}, %68, accumulate, 1, 1, %70;\n}"
                 : REGISTERS_32(d, 0), REGISTERS_32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(TRANSPOSED));
}
// The same with both operands in shared memory, depth along the columns in both.
DEVICE void wgmma_shared(float (&d)[32], u64 a, u64 b, int accumulate) {
    asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES_0_31 "}, %32, %33, accumulate, 1, 1, 0, 0;\n}"
                 : REGISTERS_32(d, 0) : "l"(a), "l"(b), "r"(accumulate));
}
DEVICE void wgmma_shared(float (&d)[64], u64 a, u64 b, int accumulate) {
    asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NAMES_0_31 ", " NAMES_32_63
                 "}, %64, %65, accumulate, 1, 1, 0, 0;\n}"
                 : REGISTERS_32(d, 0), REGISTERS_32(d, 32) : "l"(a), "l"(b), "r"(accumulate));
}
// Named barriers (0 is that of __syncthreads): `threads` is how many take part, waiting or only arriving.
DEVICE void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
#endif
