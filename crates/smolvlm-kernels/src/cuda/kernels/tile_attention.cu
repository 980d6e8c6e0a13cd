// Attention inside tiles of a vision tower: out = softmax(q kᵀ · HEAD^-½) v, every query of a tile seeing every key of it.
// qkv: [tiles × tile_rows, 3 × heads × HEAD], the queries of all heads, then their keys, then their values.
// out: [tiles × tile_rows, heads × HEAD].
// sums: [heads, tiles × tile_rows], for training only, else null.

// ---- sm_80 and newer -------------------------------------------------------------------------------------------------

// Grid (blocks of queries, heads, tiles). Each warp has ROW_TILES × 16 queries of its own and all keys.
template <int HEAD, int WARPS, int ROW_TILES, int KEYS, int STAGES>
DEVICE void tile_attention_mma(const bf16* qkv, bf16* out, float* sums, int tile_rows, int heads) {
    constexpr int DEPTH = PRODUCT_DEPTH<HEAD>, ROW = PADDED_ROW<HEAD>, THREADS = WARPS * WARP;
    constexpr int BLOCK_BYTES = KEYS * ROW * 2, CHUNKS = HEAD / 8;
    static_assert(HEAD % 8 == 0, "rows are copied 16 bytes at a time");
    extern __shared__ __align__(1024) u8 shared[];
    const u32 base = shared_address(shared);

    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4;
    const int head = blockIdx.y, stride = 3 * heads * HEAD;
    const u64 tile_row = (u64)blockIdx.z * tile_rows;
    const bf16* query_head = qkv + tile_row * stride + head * HEAD;
    const bf16* key_head = query_head + heads * HEAD;
    const int value_offset = heads * HEAD;

    if (HEAD % 16) {  // columns that pad the depth of the first product: zero in both operands
        for (int i = threadIdx.x; i < STAGES * KEYS; i += THREADS) {
            const int stage = i / KEYS, row = i % KEYS;
            *(uint4*)(shared + stage * 2 * BLOCK_BYTES + (row * ROW + HEAD) * 2) = make_uint4(0, 0, 0, 0);
        }
    }
    const auto load_block = [&](int block) {
        const u32 keys = base + block % STAGES * 2 * BLOCK_BYTES;
#pragma unroll
        for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS, key = block * KEYS + row;
            const bool exists = key < tile_rows;
            const bf16* from = key_head + (u64)(exists ? key : 0) * stride + chunk * 8;
            const u32 to = keys + (row * ROW + chunk * 8) * 2;
            copy_async(to, from, exists);
            copy_async(to + BLOCK_BYTES, from + value_offset, exists);
        }
    };
    const int blocks = (tile_rows + KEYS - 1) / KEYS;
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (stage < blocks) load_block(stage);
        copy_async_commit();
    }

    const int first_row = (blockIdx.x * WARPS + warp) * ROW_TILES * 16 + g;
    u32 query[ROW_TILES][DEPTH * 4];
    float output[ROW_TILES][HEAD / 2];
    SoftmaxRows rows[ROW_TILES];
    int limit[ROW_TILES][2];
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        const int row = first_row + r * 16;
        load_query<HEAD, DEPTH>(query[r], query_head + (u64)row * stride, stride, row < tile_rows, row + 8 < tile_rows);
#pragma unroll
        for (int i = 0; i < HEAD / 2; i++) output[r][i] = 0.f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            rows[r].reference[i] = minus_infinity();
            rows[r].sum[i] = 0.f;
            limit[r][i] = tile_rows - (blocks - 1) * KEYS;  // only the last block is ever masked
        }
    }
    const float scale_log2 = rsqrtf((float)HEAD) * LOG2_E;
    for (int block = 0; block < blocks; block++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        if (block + STAGES - 1 < blocks) load_block(block + STAGES - 1);
        copy_async_commit();
        const u32 keys = base + block % STAGES * 2 * BLOCK_BYTES;
        attend_block<HEAD, ROW_TILES, KEYS>(output, rows, query, keys, keys + BLOCK_BYTES, (block + 1) * KEYS > tile_rows,
                                            limit, scale_log2);
    }
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        const int row = first_row + r * 16;
        store_output<HEAD>(out + (tile_row + row) * heads * HEAD + head * HEAD, heads * HEAD, output[r], rows[r],
                           row < tile_rows, row + 8 < tile_rows);
        if (sums) {
            store_sums(sums + (u64)head * gridDim.z * tile_rows + tile_row + row, rows[r], row < tile_rows, row + 8 < tile_rows);
        }
    }
}

#ifdef HAS_WGMMA
// ---- sm_90a, heads of 64 ---------------------------------------------------------------------------------------------

// CONSUMERS warpgroups have 64 queries each and share the keys and values that a producer warp brings with TMA, as a ring
// of STAGES blocks each. A thread block takes work items (tile, head, block of queries) `blockIdx.x`, + gridDim.x, ...;
// the producer runs ahead into the next item. `map` describes qkv as [tiles][tile_rows][3 × heads × 64], boxes of 64 rows
// × 64 columns, 128-byte swizzle; what lies beyond a tile's rows arrives as zeros.
template <int KEYS, int CONSUMERS, int STAGES, bool QUERY_IN_REGISTERS, int BLOCKS_PER_SM> struct TileAttentionWgmma {
    typedef StreamAddresses<KEYS, STAGES> Stream;
    static constexpr int HEAD = 64, BOX_ROWS = 64, BOX_BYTES = BOX_ROWS * HEAD * 2;
    static constexpr int QUERIES = CONSUMERS * BOX_ROWS, QUERY_BYTES = CONSUMERS * BOX_BYTES;
    static constexpr int QUERY_SLOTS = QUERY_IN_REGISTERS ? 1 : 2;  // where it is read until the item ends
    static constexpr int BARRIERS_AT = QUERY_SLOTS * QUERY_BYTES + Stream::BYTES;
    static constexpr int SHARED_BYTES = BARRIERS_AT + (Stream::BARRIERS + 2 * QUERY_SLOTS) * 8;
    static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP;

    Stream stream;
    u32 query, query_full, query_empty;  // shared memory; barriers
    float* sums;
    int tile_rows, heads, query_blocks, blocks, items;

    DEVICE TileAttentionWgmma(u32 shared, float* sums_, int tiles, int tile_rows_, int heads_)
        : stream(shared + QUERY_SLOTS * QUERY_BYTES, shared + BARRIERS_AT), query(shared),
          query_full(shared + BARRIERS_AT + Stream::BARRIERS * 8), query_empty(query_full + 8 * QUERY_SLOTS), sums(sums_),
          tile_rows(tile_rows_), heads(heads_), query_blocks((tile_rows_ + QUERIES - 1) / QUERIES),
          blocks((tile_rows_ + KEYS - 1) / KEYS), items(query_blocks * heads_ * tiles) {}

    DEVICE void run(const TensorMap* map, bf16* out) const {
        let_next_start();
        if (threadIdx.x == 0) {
            stream.init_barriers(CONSUMERS * 4);
            for (int i = 0; i < QUERY_SLOTS; i++) {
                barrier_init(query_full + 8 * i, 1);
                barrier_init(query_empty + 8 * i, CONSUMERS * 4);
            }
            barrier_init_fence();
            tensor_map_prefetch(map);
        }
        __syncthreads();
        await_previous();
        if (threadIdx.x / WARPGROUP == CONSUMERS) {
            registers_lower<24>();
            if (threadIdx.x == CONSUMERS * WARPGROUP) produce(map);
        } else {
            registers_raise<CONSUMER_REGISTERS<CONSUMERS, BLOCKS_PER_SM>>();
            consume(out);
        }
    }

    DEVICE void locate(int item, int& tile, int& head, int& row) const {
        row = item % query_blocks * QUERIES;
        head = item / query_blocks % heads;
        tile = item / query_blocks / heads;
    }

    DEVICE void produce(const TensorMap* map) const {
        RingPosition<STAGES> ring;
        RingPosition<QUERY_SLOTS> query_ring;
        for (int item = blockIdx.x; item < items; item += gridDim.x) {
            int tile, head, row;
            locate(item, tile, head, row);
            const u32 full = query_full + 8 * query_ring.slot;
            barrier_wait(query_empty + 8 * query_ring.slot, query_ring.parity ^ 1);
            barrier_arrive_expect(full, QUERY_BYTES);
            for (int i = 0; i < CONSUMERS; i++) {
                tma_load_3d(query + query_ring.slot * QUERY_BYTES + i * BOX_BYTES, map, head * HEAD, row + i * BOX_ROWS, tile, full);
            }
            query_ring.advance();
            for (int block = 0; block < blocks; block++) {
                load(map, stream.keys, stream.keys_full, stream.keys_empty, ring, (heads + head) * HEAD, block, tile);
                load(map, stream.values, stream.values_full, stream.values_empty, ring, (2 * heads + head) * HEAD, block, tile);
                ring.advance();
            }
        }
    }
    DEVICE void load(const TensorMap* map, u32 buffers, u32 full, u32 empty, const RingPosition<STAGES>& ring, int column,
                     int block, int tile) const {
        barrier_wait(empty + 8 * ring.slot, ring.parity ^ 1);
        barrier_arrive_expect(full + 8 * ring.slot, Stream::BLOCK_BYTES);
#pragma unroll
        for (int i = 0; i < KEYS / BOX_ROWS; i++) {
            tma_load_3d(buffers + ring.slot * Stream::BLOCK_BYTES + i * BOX_BYTES, map, column, block * KEYS + i * BOX_ROWS,
                        tile, full + 8 * ring.slot);
        }
    }

    DEVICE void consume(bf16* out) const {
        typedef StreamConsumer<KEYS, STAGES, CONSUMERS, QUERY_IN_REGISTERS> Consumer;
        const int group = threadIdx.x / WARPGROUP, query_row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
        const int unmasked = tile_rows / KEYS, limit = tile_rows % KEYS;
        Consumer consumer(stream, group, query);
        RingPosition<QUERY_SLOTS> query_ring;
        SoftmaxRows finished;

        const auto store = [&](int item, const SoftmaxRows& rows) {
            int tile, head, row;
            locate(item, tile, head, row);
            row += query_row;
            store_output<HEAD>(out + ((u64)tile * tile_rows + row) * heads * HEAD + head * HEAD, heads * HEAD, consumer.output,
                               rows, row < tile_rows, row + 8 < tile_rows);
            if (sums) {
                const u64 tiles = items / (query_blocks * heads);
                store_sums(sums + (head * tiles + tile) * tile_rows + row, rows, row < tile_rows, row + 8 < tile_rows);
            }
        };
        int item = blockIdx.x;
        for (; item < items; item += gridDim.x) {
            barrier_wait(query_full + 8 * query_ring.slot, query_ring.parity);
            consumer.query_shared = query + query_ring.slot * QUERY_BYTES + group * BOX_BYTES;
            const u32 query_done = query_empty + 8 * query_ring.slot;
            query_ring.advance();
            if (QUERY_IN_REGISTERS) {
                consumer.load_query_registers();
                __syncwarp();
                consumer.release(query_done);
            }
            if (item == blockIdx.x) {
                consumer.first_block(unmasked == 0, limit, limit);
            } else {  // the last block of the item before is still to be multiplied with its values
                if (unmasked > 0) consumer.template next_block<true, false>(blocks > 1, 0, 0, finished);
                else consumer.template next_block<true, true>(blocks > 1, limit, limit, finished);
                store(item - gridDim.x, finished);
                consumer.keep_probabilities();
            }
            for (int block = 1; block < unmasked; block++) {
                consumer.template next_block<false, false>(block > 1, 0, 0, finished);
                consumer.keep_probabilities();
            }
            if (unmasked > 0 && unmasked < blocks) {
                consumer.template next_block<false, true>(blocks > 2, limit, limit, finished);
                consumer.keep_probabilities();
            }
            if (!QUERY_IN_REGISTERS) consumer.release(query_done);
        }
        consumer.last_output(blocks > 1);
        consumer.finish_turns();
        store(item - gridDim.x, consumer.rows);
    }
};
#endif
