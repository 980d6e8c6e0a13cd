// The sizes of the products of many rows that are used, by name; `many_products.rs` knows them too.

#ifdef HAS_WGMMA
#define MANY_ROWS(NAME, ROW_TILES, OUTPUTS, TOGETHER, STAGES, CLUSTER, ACTIVATION)                                      \
    extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1)                                \
        many_rows_##NAME(const __grid_constant__ ManyRowsArguments args) {                                              \
        extern __shared__ __align__(1024) u8 shared[];                                                                  \
        ManyRows<ROW_TILES, OUTPUTS, TOGETHER, STAGES, CLUSTER, ACTIVATION>(args, shared_address(shared)).run();        \
    }
MANY_ROWS(128_identity, 2, 128, false, 5, 2, IDENTITY)
MANY_ROWS(128_gelu, 2, 128, false, 5, 2, GELU_TANH)
MANY_ROWS(64_identity, 1, 128, false, 8, 1, IDENTITY)
MANY_ROWS(64_gelu, 1, 128, false, 8, 1, GELU_TANH)
#endif
