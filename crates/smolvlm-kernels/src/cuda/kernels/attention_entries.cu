// The sizes of the attention kernels that are used, by name. `attention.rs` starts them with these numbers of threads, queries and
// bytes of shared memory.

#define TILE_MMA(HEAD)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, 2) tile_attention_mma_##HEAD(const bf16* qkv, bf16* out,          \
                                                                                   float* sums, int tile_rows,         \
                                                                                   int heads) {                        \
        tile_attention_mma<HEAD, 4, 2, 64, 2>(qkv, out, sums, tile_rows, heads);                                        \
    }
TILE_MMA(64)
TILE_MMA(72)

struct PagedMmaArguments {
    const bf16* qkv;
    bf16* out;
    const WorkItem* work;
    Segments segments;
    const bf16* cache;
    long long page_stride;
    int heads, kv_heads;
};

extern "C" __global__ void __launch_bounds__(128, 4) paged_attention_mma(const __grid_constant__ PagedMmaArguments args) {
    paged_attention_mma<4, 1, 2>(args.qkv, args.out, args.work, args.segments, args.cache, args.page_stride, args.heads,
                                 args.kv_heads);
}

#ifdef HAS_WGMMA
struct TileArguments {
    TensorMap map;
    bf16* out;
    float* sums;
    int tiles, tile_rows, heads;
};

extern "C" __global__ void __launch_bounds__(384, 1) tile_attention_wgmma(const __grid_constant__ TileArguments args) {
    extern __shared__ __align__(1024) u8 shared[];
    TileAttentionWgmma<128, 2, 3, true, 1> attention(shared_address(shared), args.sums, args.tiles, args.tile_rows, args.heads);
    attention.run(&args.map, args.out);
}

struct PagedArguments {
    TensorMap map;
    const bf16* qkv;
    bf16* out;
    const WorkItem* work;
    Segments segments;
    int layer_row, page_rows, heads, kv_heads;
};

#define PAGED_WGMMA(GROUP, BLOCKS)                                                                                              \
    extern "C" __global__ void __launch_bounds__((GROUP + 1) * 128, BLOCKS)                                                 \
        paged_attention_wgmma_##GROUP(const __grid_constant__ PagedArguments args) {                                    \
        extern __shared__ __align__(1024) u8 shared[];                                                                  \
        PagedAttentionWgmma<GROUP, 1, 128, 3, BLOCKS> attention(shared_address(shared), args.work[blockIdx.y], args.segments, \
                                                           args.heads, args.kv_heads);                                  \
        attention.run(&args.map, args.qkv, args.out, args.layer_row, args.page_rows);                                   \
    }
PAGED_WGMMA(1, 2)
PAGED_WGMMA(3, 1)
#endif
