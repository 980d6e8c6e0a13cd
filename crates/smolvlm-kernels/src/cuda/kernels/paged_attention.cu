// Attention of new tokens over a paged cache: the query at position p of a sequence sees the keys at 0..=p of that sequence,
// all of them already in the cache, those of this step too.
// qkv: [T, (heads + 2 × kv_heads) × 64], of which the queries, rotated already, are read. out: [T, heads × 64].
// A page holds for a layer [kv_heads][64 tokens][64] keys, then as many values.

struct Segments {
    const int* row;        // first row in qkv and out
    const int* row_count;
    const int* start;      // position of the first row
    const int* first_page; // where the sequence's page numbers begin in `pages`
    const int* pages;
};

struct WorkItem {
    int segment;
    int first_row;  // of the block of queries, counted inside the segment
};

constexpr int PAGE_TOKENS = 64;

// ---- sm_80 and newer -------------------------------------------------------------------------------------------------

// Grid (heads, work items): the longest items, if they come first, then start first for all heads. A work item has
// WARPS × ROW_TILES × 16 queries. `cache` points at the layer's part of page 0; `page_stride` is in elements.
template <int WARPS, int ROW_TILES, int STAGES>
DEVICE void paged_attention_mma(const bf16* qkv, bf16* out, const WorkItem* work, Segments segments, const bf16* cache,
                                long long page_stride, int heads, int kv_heads) {
    constexpr int HEAD = 64, DEPTH = HEAD / 16, ROW = PADDED_ROW<HEAD>, THREADS = WARPS * WARP, KEYS = PAGE_TOKENS;
    constexpr int BLOCK_BYTES = KEYS * ROW * 2, CHUNKS = HEAD / 8, WARP_QUERIES = ROW_TILES * 16;
    extern __shared__ __align__(1024) u8 shared[];
    const u32 base = shared_address(shared);

    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, head = blockIdx.x;
    const WorkItem item = work[blockIdx.y];
    const int row_count = segments.row_count[item.segment], start = segments.start[item.segment];
    const int segment_row = segments.row[item.segment];
    const int* pages = segments.pages + segments.first_page[item.segment];
    const int total = start + row_count;
    const int visible = min(total, start + item.first_row + WARPS * WARP_QUERIES);
    const bf16* cache_head = cache + head / (heads / kv_heads) * (PAGE_TOKENS * HEAD);
    const int value_offset = kv_heads * PAGE_TOKENS * HEAD;

    const auto load_block = [&](int block) {
        const u32 keys = base + block % STAGES * 2 * BLOCK_BYTES;
        const bf16* page = cache_head + pages[block] * page_stride;
        const int tokens = total - block * KEYS;  // beyond them the page may hold anything
#pragma unroll
        for (int i = threadIdx.x; i < KEYS * CHUNKS; i += THREADS) {
            const int row = i / CHUNKS, chunk = i % CHUNKS;
            const u32 to = keys + (row * ROW + chunk * 8) * 2;
            copy_async(to, page + i * 8, row < tokens);
            copy_async(to + BLOCK_BYTES, page + i * 8 + value_offset, row < tokens);
        }
    };
    const int blocks = (visible + KEYS - 1) / KEYS;
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (stage < blocks) load_block(stage);
        copy_async_commit();
    }

    const int warp_row = item.first_row + warp * WARP_QUERIES, first_row = warp_row + g;
    const int stride = (heads + 2 * kv_heads) * HEAD;
    u32 query[ROW_TILES][DEPTH * 4];
    float output[ROW_TILES][HEAD / 2];
    SoftmaxRows rows[ROW_TILES];
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        const int row = first_row + r * 16;
        load_query<HEAD, DEPTH>(query[r], qkv + (u64)(segment_row + row) * stride + head * HEAD, stride, row < row_count,
                                row + 8 < row_count);
#pragma unroll
        for (int i = 0; i < HEAD / 2; i++) output[r][i] = 0.f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            rows[r].reference[i] = minus_infinity();
            rows[r].sum[i] = 0.f;
        }
    }
    // This warp's queries see nothing from `warp_blocks` on, and everything before `warp_unmasked`.
    const int warp_blocks = warp_row < row_count ? (min(total, start + warp_row + WARP_QUERIES) + KEYS - 1) / KEYS : 0;
    const int warp_unmasked = (start + warp_row + 1) / KEYS;
    const float scale_log2 = LOG2_E / 8;
    for (int block = 0; block < blocks; block++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        if (block + STAGES - 1 < blocks) load_block(block + STAGES - 1);
        copy_async_commit();
        if (block >= warp_blocks) continue;
        int limit[ROW_TILES][2];
#pragma unroll
        for (int r = 0; r < ROW_TILES; r++) {
            limit[r][0] = start + first_row + r * 16 + 1 - block * KEYS;
            limit[r][1] = limit[r][0] + 8;
        }
        const u32 keys = base + block % STAGES * 2 * BLOCK_BYTES;
        attend_block<HEAD, ROW_TILES, KEYS>(output, rows, query, keys, keys + BLOCK_BYTES, block >= warp_unmasked, limit,
                                            scale_log2);
    }
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        const int row = first_row + r * 16;
        store_output<HEAD>(out + (u64)(segment_row + row) * heads * HEAD + head * HEAD, heads * HEAD, output[r], rows[r],
                           row < row_count, row + 8 < row_count);
    }
}

#ifdef HAS_WGMMA
// ---- sm_90a ----------------------------------------------------------------------------------------------------------

// Grid (heads / GROUP, work items). A work item has ROW_BLOCKS × 64 queries; for each 64 of them, one warpgroup for each of
// GROUP query heads that have a key-value head in common, and they share its keys and values, brought by a producer warp
// with TMA.
// `map` describes the cache as rows of 64 elements, boxes of 64 × 64, 128-byte swizzle: keys of head h of page p are the
// rows from layer_row + p × page_rows + h × 64 on.
template <int GROUP, int ROW_BLOCKS, int KEYS, int STAGES, int BLOCKS_PER_SM> struct PagedAttentionWgmma {
    typedef StreamAddresses<KEYS, STAGES> Stream;
    static constexpr int HEAD = 64, CONSUMERS = GROUP * ROW_BLOCKS, BOX_BYTES = PAGE_TOKENS * HEAD * 2;
    static constexpr int QUERIES = ROW_BLOCKS * 64, QUERY_BYTES = CONSUMERS * 64 * HEAD * 2;
    static constexpr int BLOCK_PAGES = KEYS / PAGE_TOKENS;
    static constexpr int SHARED_BYTES = QUERY_BYTES + Stream::BYTES + (Stream::BARRIERS + 1) * 8;
    static constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP;

    Stream stream;
    u32 query, tail_full;
    int heads, kv_heads, first_row, row_count, segment_row, start, total, blocks;
    const int* pages;

    DEVICE PagedAttentionWgmma(u32 shared, WorkItem item, const Segments& segments, int heads_, int kv_heads_)
        : stream(shared + QUERY_BYTES, shared + QUERY_BYTES + Stream::BYTES), query(shared),
          tail_full(shared + QUERY_BYTES + Stream::BYTES + Stream::BARRIERS * 8), heads(heads_), kv_heads(kv_heads_),
          first_row(item.first_row), row_count(segments.row_count[item.segment]), segment_row(segments.row[item.segment]),
          start(segments.start[item.segment]), total(start + row_count),
          blocks((min(total, start + first_row + QUERIES) + KEYS - 1) / KEYS),
          pages(segments.pages + segments.first_page[item.segment]) {}

    DEVICE void run(const TensorMap* map, const bf16* qkv, bf16* out, int layer_row, int page_rows) const {
        if (threadIdx.x == 0) {
            stream.init_barriers(CONSUMERS * 4);
            barrier_init(tail_full, 1);
            barrier_init_fence();
            tensor_map_prefetch(map);
        }
        __syncthreads();
        if (threadIdx.x / WARPGROUP == CONSUMERS) {
            registers_lower<24>();
            if (threadIdx.x / WARP == CONSUMERS * 4) produce(map, layer_row, page_rows);
        } else {
            registers_raise<CONSUMER_REGISTERS<CONSUMERS, BLOCKS_PER_SM>>();
            consume(qkv, out);
        }
    }

    // All lanes of one warp: they keep 32 page numbers at hand, and clear what the last page holds beyond the last token,
    // because a probability of zero does not silence a value that is no number.
    DEVICE void produce(const TensorMap* map, int layer_row, int page_rows) const {
        const int lane = threadIdx.x % WARP, page_count = (total + PAGE_TOKENS - 1) / PAGE_TOKENS;
        const int kv_head = blockIdx.x * GROUP / (heads / kv_heads);
        const int key_row = layer_row + kv_head * PAGE_TOKENS, value_rows = kv_heads * PAGE_TOKENS;
        RingPosition<STAGES> ring;
        int numbers = 0;
        for (int block = 0; block < blocks; block++) {
            const int first_page = block * BLOCK_PAGES, count = min(BLOCK_PAGES, page_count - first_page);
            if (first_page % WARP == 0) numbers = first_page + lane < page_count ? pages[first_page + lane] : 0;
            int box_row[BLOCK_PAGES];
#pragma unroll
            for (int i = 0; i < BLOCK_PAGES; i++) {
                box_row[i] = key_row + __shfl_sync(ALL_LANES, numbers, (first_page + i) % WARP) * page_rows;
            }
            const u32 slot = ring.slot, keys = stream.keys + slot * Stream::BLOCK_BYTES;
            const u32 values = stream.values + slot * Stream::BLOCK_BYTES;
            barrier_wait(stream.keys_empty + 8 * slot, ring.parity ^ 1);
            if (lane == 0) load(map, keys, box_row, 0, count, stream.keys_full + 8 * slot);
            barrier_wait(stream.values_empty + 8 * slot, ring.parity ^ 1);
            const int tokens = total - block * KEYS;
            if (tokens >= KEYS) {
                if (lane == 0) load(map, values, box_row, value_rows, count, stream.values_full + 8 * slot);
            } else {
                if (lane == 0) load(map, values, box_row, value_rows, count, tail_full);
                barrier_wait(tail_full, 0);  // this happens once, in the last block of a sequence
                for (int i = tokens * (HEAD / 8) + lane; i < KEYS * (HEAD / 8); i += WARP) {
                    asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(values + i * 16), "r"(0) : "memory");
                }
                fence_async_proxy();
                __syncwarp();
                if (lane == 0) barrier_arrive(stream.values_full + 8 * slot);
            }
            __syncwarp();
            ring.advance();
        }
    }
    DEVICE void load(const TensorMap* map, u32 to, const int (&box_row)[BLOCK_PAGES], int offset, int count, u32 full) const {
        barrier_arrive_expect(full, count * BOX_BYTES);
#pragma unroll
        for (int i = 0; i < BLOCK_PAGES; i++) {
            if (i < count) tma_load_2d(to + i * BOX_BYTES, map, 0, box_row[i] + offset, full);
        }
    }

    DEVICE void consume(const bf16* qkv, bf16* out) const {
        const int consumer_index = threadIdx.x / WARPGROUP, thread = threadIdx.x % WARPGROUP;
        const int head = blockIdx.x * GROUP + consumer_index % GROUP;
        const int group_row = first_row + consumer_index / GROUP * 64;  // of this warpgroup's 64 queries
        const u32 own_query = query + consumer_index * 64 * HEAD * 2;

        // The queries, into the swizzled layout that wgmma reads.
        const int stride = (heads + 2 * kv_heads) * HEAD;
        const bf16* from = qkv + (u64)(segment_row + group_row) * stride + head * HEAD;
#pragma unroll
        for (int i = 0; i < 64 * (HEAD / 8) / WARPGROUP; i++) {
            const int row = (i * WARPGROUP + thread) / (HEAD / 8), chunk = thread % (HEAD / 8);
            uint4 piece = make_uint4(0, 0, 0, 0);
            if (group_row + row < row_count) piece = *(const uint4*)(from + (u64)row * stride + chunk * 8);
            asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(own_query + row * 128 + ((chunk ^ (row & 7)) << 4)),
                         "r"(piece.x), "r"(piece.y), "r"(piece.z), "r"(piece.w) : "memory");
        }
        fence_async_proxy();
        named_sync(1 + CONSUMERS + consumer_index, WARPGROUP);  // those before are for turns

        StreamConsumer<KEYS, STAGES, CONSUMERS, false> consumer(stream, consumer_index, own_query);
        // This warpgroup's queries see nothing from block `own_blocks` on, and everything before `unmasked`.
        const int own_blocks = group_row < row_count ? (min(total, start + group_row + 64) + KEYS - 1) / KEYS : 0;
        const int unmasked = (start + group_row + 1) / KEYS;
        const int own_row = group_row + thread / WARP * 16 + thread % WARP / 4;
        const int limit = start + own_row + 1;
        int block = 0;
        if (own_blocks > 0) {
            SoftmaxRows unused;
            consumer.first_block(unmasked == 0, limit, limit + 8);
            for (block = 1; block < unmasked; block++) {
                consumer.template next_block<false, false>(block > 1, 0, 0, unused);
                consumer.keep_probabilities();
            }
            for (; block < own_blocks; block++) {
                consumer.template next_block<false, true>(block > 1, limit - block * KEYS, limit + 8 - block * KEYS, unused);
                consumer.keep_probabilities();
            }
            consumer.last_output(block > 1);
        }
        for (; block < blocks; block++) consumer.skip_block();
        consumer.finish_turns();
        if (own_blocks == 0) return;
        store_output<HEAD>(out + (u64)(segment_row + own_row) * heads * HEAD + head * HEAD, heads * HEAD, consumer.output,
                           consumer.rows, own_row < row_count, own_row + 8 < row_count);
    }
};
#endif
