// What the attention kernels share: online softmax on tensor-core accumulators. It follows `tensor_core.cuh`, which says how those lie.

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

// ---- Online softmax --------------------------------------------------------------------------------------------------

// The state of the two rows a thread has a share of. `reference` is what exponents are taken against, in units of log2;
// `sum` is the thread's own share of the row's sum.
struct SoftmaxRows {
    float reference[2];
    float sum[2];
};

// The reference follows the running maximum only once that has grown by more than this many powers of two: any reference
// gives the same quotient in the end, probabilities up to 2^8 are as exact in bfloat16 as those up to 1, and the output
// accumulators then rarely need to be scaled.
constexpr float REFERENCE_SLACK = 8.f;

// Scores at and beyond the row's limit (a column of this block) are taken out.
template <int COUNT> DEVICE void mask_scores(float (&scores)[COUNT], int limit_upper, int limit_lower) {
    const int first = (threadIdx.x % 4) * 2;
#pragma unroll
    for (int j = 0; j < COUNT / 4; j++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int column = j * 8 + first + e;
            if (column >= limit_upper) scores[4 * j + e] = minus_infinity();
            if (column >= limit_lower) scores[4 * j + 2 + e] = minus_infinity();
        }
    }
}

// Replaces scores by probabilities relative to the reference. With FIRST the state starts here; otherwise `correction`
// says what earlier sums and outputs must be multiplied by, and the result whether any lane of the warp has one other
// than 1. In the first block every row needs one score that is not masked.
template <bool FIRST, int COUNT>
DEVICE bool softmax_block(float (&scores)[COUNT], SoftmaxRows& rows, float (&correction)[2], float scale_log2) {
    float top[2] = {scores[0], scores[2]};
#pragma unroll
    for (int j = 0; j < COUNT / 4; j++) {
        top[0] = fmaxf(top[0], fmaxf(scores[4 * j], scores[4 * j + 1]));
        top[1] = fmaxf(top[1], fmaxf(scores[4 * j + 2], scores[4 * j + 3]));
    }
    bool moved = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float candidate = quad_max(top[r]) * scale_log2;
        correction[r] = 1.f;
        if (FIRST) {
            rows.reference[r] = candidate;
            rows.sum[r] = 0.f;
        } else if (candidate > rows.reference[r] + REFERENCE_SLACK) {
            correction[r] = exp2_fast(rows.reference[r] - candidate);
            rows.reference[r] = candidate;
            rows.sum[r] *= correction[r];
            moved = true;
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float even = 0.f, odd = 0.f;
#pragma unroll
        for (int j = 0; j < COUNT / 4; j++) {
            float& a = scores[4 * j + 2 * r];
            float& b = scores[4 * j + 2 * r + 1];
            a = exp2_fast(fmaf(a, scale_log2, -rows.reference[r]));
            b = exp2_fast(fmaf(b, scale_log2, -rows.reference[r]));
            even += a;
            odd += b;
        }
        rows.sum[r] += even + odd;
    }
    return FIRST ? false : __any_sync(ALL_LANES, moved);
}

template <int COUNT> DEVICE void scale_rows(float (&output)[COUNT], const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) output[i] *= factor[(i / 2) % 2];
}

// Probabilities as the left operand of the product with the values: four registers for every 16 keys.
template <int COUNT> DEVICE void pack_probabilities(u32 (&packed)[COUNT / 2], const float (&p)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT / 2; i++) packed[i] = pack_bf16(p[2 * i], p[2 * i + 1]);
}

// 4 × 4 words transposed between the lanes of a quad: afterwards word i of lane t is what word t of lane i was.
DEVICE void quad_transpose(u32 (&w)[4]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const u32 other = __shfl_xor_sync(ALL_LANES, odd ? w[i] : w[i + 1], 1);
        if (odd) w[i] = other;
        else w[i + 1] = other;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const u32 other = __shfl_xor_sync(ALL_LANES, upper ? w[i] : w[i + 2], 2);
        if (upper) w[i] = other;
        else w[i + 2] = other;
    }
}

// Writes HEAD columns of rows g and g + 8, each times its factor. `row` points at row g's first column, `stride` is in elements,
// `valid` says which of the two rows exist. All lanes of the warp take part. Where HEAD allows it, a quad first exchanges columns so that
// each lane writes 16 bytes.
template <int HEAD, int COUNT>
DEVICE void store_rows(bf16* row, int stride, const float (&output)[COUNT], const float (&factor)[2], bool valid_upper, bool valid_lower) {
    static_assert(COUNT >= HEAD / 2, "accumulators for every column");
    const int t = threadIdx.x % 4;
    const bool valid[2] = {valid_upper, valid_lower};
    constexpr int WIDE = HEAD / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        bf16* to = row + (u64)r * 8 * stride;
#pragma unroll
        for (int group = 0; group < WIDE; group++) {
            u32 w[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int j = group * 4 + i;
                w[i] = pack_bf16(output[4 * j + 2 * r] * factor[r], output[4 * j + 2 * r + 1] * factor[r]);
            }
            quad_transpose(w);
            if (valid[r]) *(uint4*)(to + group * 32 + t * 8) = make_uint4(w[0], w[1], w[2], w[3]);
        }
#pragma unroll
        for (int j = WIDE * 4; j < HEAD / 8; j++) {
            if (valid[r]) {
                *(u32*)(to + j * 8 + t * 2) =
                    pack_bf16(output[4 * j + 2 * r] * factor[r], output[4 * j + 2 * r + 1] * factor[r]);
            }
        }
    }
}

// The same divided by the sums.
template <int HEAD, int COUNT>
DEVICE void store_output(bf16* row, int stride, const float (&output)[COUNT], const SoftmaxRows& rows, bool valid_upper,
                         bool valid_lower) {
    const float inverse[2] = {__fdividef(1.f, quad_sum(rows.sum[0])), __fdividef(1.f, quad_sum(rows.sum[1]))};
    store_rows<HEAD>(row, stride, output, inverse, valid_upper, valid_lower);
}

// Writes the logarithms of the sums of exponentials of rows g and g + 8, in units of log2; `to` is row g's place.
DEVICE void store_sums(float* to, const SoftmaxRows& rows, bool valid_upper, bool valid_lower) {
    const bool valid[2] = {valid_upper, valid_lower};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = rows.reference[r] + log2f(quad_sum(rows.sum[r]));
        if (threadIdx.x % 4 == 0 && valid[r]) to[8 * r] = sum;
    }
}

// ---- sm_80 -----------------------------------------------------------------------------------------------------------

// Left operand (16 rows × HEAD, four registers for every 16 columns) straight from global memory: each is read once.
// `row` points at row g's first column; rows that do not exist are zero, as are columns beyond HEAD.
template <int HEAD, int DEPTH>
DEVICE void load_query(u32 (&q)[DEPTH * 4], const bf16* row, int stride, bool valid_upper, bool valid_lower) {
    const int t = threadIdx.x % 4;
    const bool valid[2] = {valid_upper, valid_lower};
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int column = k * 16 + (i / 2) * 8;
            q[4 * k + i] = 0;
            if (column < HEAD && valid[i % 2]) q[4 * k + i] = *(const u32*)(row + (u64)(i % 2) * 8 * stride + column + t * 2);
        }
    }
}

// One block of keys and values for a warp's ROW_TILES × 16 queries. Keys and values lie in shared memory in rows of
// `padded_row` elements. `limit` has, for rows g and g + 8 of each row tile, the first column the row must not see; it is
// looked at only where `masked`.
template <int HEAD> constexpr int PRODUCT_DEPTH = (HEAD + 15) / 16;
// 16 bytes more than whole steps of 16 columns: the rows of a matrix then start in different banks.
template <int HEAD> constexpr int PADDED_ROW = PRODUCT_DEPTH<HEAD> * 16 + 8;

template <int HEAD, int ROW_TILES, int KEYS>
DEVICE void attend_block(float (&output)[ROW_TILES][HEAD / 2], SoftmaxRows (&rows)[ROW_TILES],
                         const u32 (&query)[ROW_TILES][PRODUCT_DEPTH<HEAD> * 4], u32 keys, u32 values, bool masked,
                         const int (&limit)[ROW_TILES][2], float scale_log2) {
    constexpr int DEPTH = PRODUCT_DEPTH<HEAD>, ROW_BYTES = PADDED_ROW<HEAD> * 2;
    const int lane = threadIdx.x % WARP;
    // Lane addresses for ldmatrix: keys bring 16 keys × 16 columns as the operands of two products side by side,
    // values the same, transposed.
    const u32 key_lane = keys + ((lane & 7) + (lane >> 4) * 8) * ROW_BYTES + ((lane >> 3) & 1) * 16;
    const u32 value_lane = values + (lane & 15) * ROW_BYTES + (lane >> 4) * 16;

    float scores[ROW_TILES][KEYS / 2];
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) scores[r][i] = 0.f;
    }
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            u32 b[4];
            load_matrices(b, key_lane + n * 16 * ROW_BYTES + k * 32);
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
                mma_16_8_16(&scores[r][8 * n], &query[r][4 * k], b[0], b[1]);
                mma_16_8_16(&scores[r][8 * n + 4], &query[r][4 * k], b[2], b[3]);
            }
        }
    }
    u32 probabilities[ROW_TILES][KEYS / 4];
#pragma unroll
    for (int r = 0; r < ROW_TILES; r++) {
        if (masked) mask_scores(scores[r], limit[r][0], limit[r][1]);
        float correction[2];
        if (softmax_block<false>(scores[r], rows[r], correction, scale_log2)) scale_rows(output[r], correction);
        pack_probabilities(probabilities[r], scores[r]);
    }
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
#pragma unroll
        for (int n = 0; n < DEPTH; n++) {
            u32 b[4];
            load_matrices_transposed(b, value_lane + k * 16 * ROW_BYTES + n * 32);
#pragma unroll
            for (int r = 0; r < ROW_TILES; r++) {
                mma_16_8_16(&output[r][8 * n], &probabilities[r][4 * k], b[0], b[1]);
                if (n * 16 + 8 < HEAD) mma_16_8_16(&output[r][8 * n + 4], &probabilities[r][4 * k], b[2], b[3]);
            }
        }
    }
}

#ifdef HAS_WGMMA
// ---- sm_90a ----------------------------------------------------------------------------------------------------------

// What a consumer warpgroup does with its 64 queries: it follows a stream of blocks of KEYS keys and values that a
// producer brings into two rings of STAGES buffers. It issues the scores of the next block before the output product of
// the current one, and takes the exponentials of the former while the tensor cores are busy with the latter.
//
// Warpgroups take turns in issuing their products. Left alone they fall into step, all waiting for the
// tensor cores and then all for the exponentials; in turns, one's products run during the others' exponentials.
//
// Buffers hold rows of 64 with the 128-byte swizzle. Every consumer warp arrives once at an `empty` barrier for a buffer
// it has done with.
template <int KEYS, int STAGES> struct StreamAddresses {
    static constexpr int BLOCK_BYTES = KEYS * 128;
    static constexpr int BARRIERS = 4 * STAGES;
    static constexpr int BYTES = 2 * STAGES * BLOCK_BYTES;
    u32 keys, values, keys_full, keys_empty, values_full, values_empty;

    // `buffers` is a multiple of 1,024.
    DEVICE StreamAddresses(u32 buffers, u32 barriers)
        : keys(buffers), values(buffers + STAGES * BLOCK_BYTES), keys_full(barriers), keys_empty(barriers + 8 * STAGES),
          values_full(barriers + 16 * STAGES), values_empty(barriers + 24 * STAGES) {}

    DEVICE void init_barriers(int consumer_warps) const {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(keys_full + 8 * i, 1);
            barrier_init(keys_empty + 8 * i, consumer_warps);
            barrier_init(values_full + 8 * i, 1);
            barrier_init(values_empty + 8 * i, consumer_warps);
        }
    }
};

template <int KEYS, int STAGES, int CONSUMERS, bool QUERY_IN_REGISTERS> struct StreamConsumer {
    static constexpr bool TURNS = CONSUMERS > 1;
    static constexpr int HEAD = 64;
    static constexpr float SCALE_LOG2 = LOG2_E / 8;  // 64^-½, for powers of two

    const StreamAddresses<KEYS, STAGES>& at;
    const int index;   // of this warpgroup among CONSUMERS
    u32 query_shared;  // 64 rows of 64, swizzled
    u32 query[QUERY_IN_REGISTERS ? HEAD / 4 : 1];
    float scores[KEYS / 2], output[HEAD / 2];
    u32 probabilities[KEYS / 4];
    SoftmaxRows rows;
    RingPosition<STAGES> key_ring, value_ring;

    DEVICE StreamConsumer(const StreamAddresses<KEYS, STAGES>& at_, int index_, u32 query_shared_)
        : at(at_), index(index_), query_shared(query_shared_) {
        if (TURNS && index == CONSUMERS - 1) named_arrive(FIRST_TURN, 2 * WARPGROUP);
    }

    // All warpgroups take equally many turns, and end with finish_turns.
    static constexpr int FIRST_TURN = 1;  // named barriers: one for each warpgroup
    DEVICE void begin_turn() const {
        if (TURNS) named_sync(FIRST_TURN + index, 2 * WARPGROUP);
    }
    DEVICE void end_turn() const {
        if (TURNS) named_arrive(FIRST_TURN + (index + 1 == CONSUMERS ? 0 : index + 1), 2 * WARPGROUP);
    }
    DEVICE void finish_turns() const {
        if (TURNS && index == 0) named_sync(FIRST_TURN, 2 * WARPGROUP);
    }

    DEVICE static void release(u32 barrier) {
        if (threadIdx.x % WARP == 0) barrier_arrive(barrier);
    }
    DEVICE void load_query_registers() {
        const int row = threadIdx.x % WARPGROUP / WARP * 16 + threadIdx.x % 16;
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
            const int chunk = k * 2 + threadIdx.x % WARP / 16;
            load_matrices(*(u32(*)[4]) & query[QUERY_IN_REGISTERS ? 4 * k : 0], query_shared + row * 128 + ((chunk ^ (row & 7)) << 4));
        }
    }

    // The first block of all. Limits are those of mask_scores for rows g and g + 8.
    DEVICE void first_block(bool masked, int limit_upper, int limit_lower) {
        float correction[2];
        barrier_wait(at.keys_full + 8 * key_ring.slot, key_ring.parity);
        begin_turn();
        start_scores();
        end_turn();
        wgmma_wait<0>(scores);
        release(at.keys_empty + 8 * key_ring.slot);
        key_ring.advance();
        if (masked) mask_scores(scores, limit_upper, limit_lower);
        softmax_block<true>(scores, rows, correction, SCALE_LOG2);
        pack_probabilities(probabilities, scores);
        barrier_wait(at.values_full + 8 * value_ring.slot, value_ring.parity);
    }
    // The next block, and the output product of the one before. ANEW: it belongs to the next work item (whose query is in
    // place); `finished` are then the rows whose output is now complete. There is no branch between the start of the
    // products and their end: the compiler would put the end before it.
    template <bool ANEW, bool MASKED>
    DEVICE void next_block(bool accumulate, int limit_upper, int limit_lower, SoftmaxRows& finished) {
        float correction[2];
        barrier_wait(at.keys_full + 8 * key_ring.slot, key_ring.parity);
        begin_turn();
        start_scores();
        start_output(accumulate);
        end_turn();
        wgmma_wait<1>(scores);
        release(at.keys_empty + 8 * key_ring.slot);
        key_ring.advance();
        if (MASKED) mask_scores(scores, limit_upper, limit_lower);
        if (ANEW) finished = rows;
        const bool moved = softmax_block<ANEW>(scores, rows, correction, SCALE_LOG2);
        const int used = value_ring.slot;
        value_ring.advance();
        // The values that go with these probabilities are waited for already here, which costs nothing, in a way that
        // seems to depend on the sums (which are never negative): the compiler would otherwise wait for the output product
        // first and take the exponentials afterwards, as if that wait were a slow load.
        const u32 never = rows.sum[0] < 0.f || rows.sum[1] < 0.f;
        barrier_wait(at.values_full + 8 * value_ring.slot, value_ring.parity ^ never);
        wgmma_wait<0>(output);
        release(at.values_empty + 8 * used);
        if (!ANEW && moved) scale_rows(output, correction);
    }
    // After next_block: the probabilities stay with the product that reads them until it has ended.
    DEVICE void keep_probabilities() { pack_probabilities(probabilities, scores); }

    DEVICE void last_output(bool accumulate) {
        start_output(accumulate);
        wgmma_wait<0>(output);
        release(at.values_empty + 8 * value_ring.slot);
        value_ring.advance();
    }
    // A block this warpgroup needs nothing of; the others do.
    DEVICE void skip_block() {
        barrier_wait(at.keys_full + 8 * key_ring.slot, key_ring.parity);
        begin_turn();
        end_turn();
        release(at.keys_empty + 8 * key_ring.slot);
        key_ring.advance();
        barrier_wait(at.values_full + 8 * value_ring.slot, value_ring.parity);
        release(at.values_empty + 8 * value_ring.slot);
        value_ring.advance();
    }

    DEVICE void start_scores() {
        const u64 a = operand_descriptor(query_shared);
        const u64 b = operand_descriptor(at.keys + key_ring.slot * at.BLOCK_BYTES);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
            if (QUERY_IN_REGISTERS) wgmma<0>(scores, &query[QUERY_IN_REGISTERS ? 4 * k : 0], b + k * KEYS_STEP, k > 0);
            else wgmma_shared(scores, a + k * KEYS_STEP, b + k * KEYS_STEP, k > 0);
        }
        wgmma_commit();
    }
    DEVICE void start_output(bool accumulate) {
        const u64 b = operand_descriptor(at.values + value_ring.slot * at.BLOCK_BYTES);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            wgmma<1>(output, probabilities + 4 * k, b + k * VALUES_STEP, k > 0 || accumulate);
        }
        wgmma_commit();
    }
};

// Threads start with equal shares of a multiprocessor's registers; the producer keeps 24 and this many are then left for
// each thread of a consumer.
template <int CONSUMERS, int BLOCKS_PER_SM> constexpr int LAUNCH_REGISTERS = 65536 / BLOCKS_PER_SM / ((CONSUMERS + 1) * WARPGROUP) / 8 * 8;
template <int CONSUMERS, int BLOCKS_PER_SM>
constexpr int CONSUMER_REGISTERS = (LAUNCH_REGISTERS<CONSUMERS, BLOCKS_PER_SM> * (CONSUMERS + 1) - 24) / CONSUMERS / 8 * 8;
#endif
