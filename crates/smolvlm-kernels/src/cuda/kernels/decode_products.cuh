// How the decoding kernel's blocks hand numbers on, how weights arrive, and how both are multiplied. It follows `decode_layout.cuh`.

// ---- Words that carry their own tag -------------------------------------------------------------------------------------------------------------------------------------------------

struct Two { u32 value0, tag0, value1, tag1; };

DEVICE void read_two(Two& two, const Atom* from, bool wanted) {
    asm volatile("{ .reg .pred wanted; .reg .b64 a, b; setp.ne.u32 wanted, %5, 0; mov.b64 a, {%0, %1}; mov.b64 b, {%2, %3};"
                 "  @wanted ld.relaxed.gpu.global.v2.b64 {a, b}, [%4]; mov.b64 {%0, %1}, a; mov.b64 {%2, %3}, b; }"
                 : "+r"(two.value0), "+r"(two.tag0), "+r"(two.value1), "+r"(two.tag1) : "l"(from), "r"((u32)wanted) : "memory");
}
DEVICE void publish(Atom* to, u32 value, u32 tag) {
    asm volatile("{ .reg .b64 a; mov.b64 a, {%1, %2}; st.relaxed.gpu.global.b64 [%0], a; }" :: "l"(to), "r"(value), "r"(tag) : "memory");
}

// Where word i of a vector of pairs lies: the two words that a lane needs for one tensor-core step (elements 2t, 2t + 1 and 2t + 8, 2t + 9 of sixteen) are neighbours.
DEVICE int pair_place(int pair) { return pair / 8 * 8 + pair % 4 * 2 + pair / 4 % 2; }

struct Waiting {
    u32 patience;
    u32* status;

    DEVICE bool over() {
        if (patience != 0 && --patience == 0) atomicOr(status, 1u);
        return patience == 0;
    }
};

// Polls N times two words until each lane has those it wants with the tag it waits for; the others are zero. Each word should be wanted by one lane only: words wanted twice are fetched twice.
template <int N, class Address, class Wanted> DEVICE void await(Two (&got)[N], Address address, Wanted wanted, u32 tag, Waiting& waiting, bool gated = false) {
#pragma unroll
    for (int i = 0; i < N; ++i) got[i] = {0, tag, 0, tag};
    if (gated) // many words: wait for the first before asking for all
        for (;;) {
            read_two(got[0], address(0), wanted(0));
            if (__all_sync(ALL_LANES, ((got[0].tag0 ^ tag) | (got[0].tag1 ^ tag)) == 0) || waiting.over()) break;
        }
    for (;;) {
        u32 wrong = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) read_two(got[i], address(i), wanted(i));
#pragma unroll
        for (int i = 0; i < N; ++i) wrong |= (got[i].tag0 ^ tag) | (got[i].tag1 ^ tag);
        if (__all_sync(ALL_LANES, wrong == 0) || waiting.over()) return;
    }
}

// ---- The weight ring ---------------------------------------------------------------------------------------------------------------------------------------------------------------

// A place in the ring. The feeder and each consumer warp walk through the slots in the same order.
struct Place {
    u32 slots, full, empty; // shared-memory addresses
    int slot;
    u32 parity;

    DEVICE u32 data() const { return slots + slot * SLOT_BYTES; }
    DEVICE void wait_full() const { barrier_wait(full + slot * 8, parity); }
    DEVICE void wait_empty() const { barrier_wait(empty + slot * 8, parity ^ 1); }
    DEVICE void advance() {
        if (++slot == SLOTS) { slot = 0; parity ^= 1; }
    }
    DEVICE void release(int lane) {
        __syncwarp();
        if (lane == 0) barrier_arrive(empty + slot * 8);
        advance();
    }
};

DEVICE void bulk_copy(u32 to, const void* from, u32 bytes, u32 barrier, u64 policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" :: "r"(to), "l"(from), "r"(bytes), "r"(barrier), "l"(policy) : "memory");
}

// Feeds this block's rows of one matrix into the ring.
template <class M> DEVICE void feed(Place& place, const bf16* weights, const float* norm, int block, int lane, u64 policy) {
    const int first = M::first_row(block), rows = M::first_row(block + 1) - first;
    for (int tile = 0; tile * TILE < rows; ++tile) {
        const int height = min(rows - tile * TILE, TILE);
        for (int part = 0; part < M::PARTS; ++part) {
            const bool with_norm = M::NORMED && tile == 0;
            const u32 full = place.full + place.slot * 8;
            place.wait_empty();
            if (lane == 0) barrier_arrive_expect(full, height * M::PART * 2 + (with_norm ? M::PART * 4 : 0));
            __syncwarp();
            if (lane < height)
                bulk_copy(place.data() + lane * M::STRIDE, weights + (u64)(first + tile * TILE + lane) * M::K + part * M::PART, M::PART * 2, full, policy);
            else if (with_norm && lane == TILE)
                bulk_copy(place.data() + NORM_OFFSET, norm + part * M::PART, M::PART * 4, full, policy);
            place.advance();
        }
    }
}

// ---- Matrix times vector on tensor cores ---------------------------------------------------------------------------------------------------------------------------------------------

DEVICE void multiply_accumulate(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same for at most eight rows: the lower half of the operand is zero.
DEVICE void multiply_accumulate(float (&c)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
    const u32 a[4] = {a0, 0u, a2, 0u};
    multiply_accumulate(c, a, b0, b1);
}

DEVICE float infinity() { return __uint_as_float(0x7f800000u); }

// Which lane this is, in the tensor core's terms: row (or column) `group`, pair `quad` along K.
struct Lane {
    int lane, group, quad, warp;
};

// The weights of one warp in one slot. Rows that are not there repeat the last one; nobody reads their sums.
template <class M> DEVICE void load_part(u32 (*a)[4], const Place& place, int height, const Lane& me) {
    const u32 row = place.data() + min(me.lane % TILE, height - 1) * M::STRIDE + me.lane / TILE * 16;
#pragma unroll
    for (int step = 0; step < M::STEPS; ++step)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(a[step][0]), "=r"(a[step][1]), "=r"(a[step][2]), "=r"(a[step][3]) : "r"(row + M::column(me.warp, step) * 2) : "memory");
}

template <class M> struct Held {
    u32 a[larger(M::HELD, 1) * M::FRAGMENTS][4];
    float norm[M::ROUNDS][4]; // of the columns whose activations this lane holds
};

// Loads the weights of the first tiles, before the activations are needed. Their slots are released by `multiply_held`.
template <class M> DEVICE void hold(Held<M>& held, const Place& place, int rows, const Lane& me) {
    Place ahead = place;
#pragma unroll
    for (int tile = 0; tile < M::HELD; ++tile) {
        if (!M::has_tile(tile, rows)) break;
#pragma unroll
        for (int part = 0; part < M::PARTS; ++part) {
            ahead.wait_full();
            load_part<M>(held.a + tile * M::FRAGMENTS + part * M::STEPS, ahead, min(rows - tile * TILE, TILE), me);
            if (M::NORMED && tile == 0) {
#pragma unroll
                for (int round = 0; round < M::ROUNDS; ++round) {
                    const int fragment = round * 8 + me.group;
                    float* to = held.norm[round];
                    if (part == 0) to[0] = to[1] = to[2] = to[3] = 0.f;
                    if (M::exists(me.warp, fragment) && fragment / M::STEPS == part) {
                        const u32 at = ahead.data() + NORM_OFFSET + (M::column(me.warp, fragment % M::STEPS) + me.quad * 2) * 4;
                        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(to[0]), "=f"(to[1]) : "r"(at) : "memory");
                        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(to[2]), "=f"(to[3]) : "r"(at + 32) : "memory");
                    }
                }
            }
            ahead.advance();
        }
    }
}

// Activations as a tensor-core operand. Each lane holds those of one fragment in eight, and column `group` of the operand carries fragments group, group + 8, ...; elsewhere it is zero.
// So the columns of the product are the sums of different parts of K, and no lane has to give its activations to another.
template <class M> struct Spread {
    u32 own[M::ROUNDS][2];

    DEVICE u32 operator()(int fragment, int half, const Lane& me) const { return me.group == fragment % 8 ? own[fragment / 8][half] : 0u; }
};
// The same for activations that are a sum of vectors: column `group` carries vector `group`.
template <class M> struct Stacked {
    u32 own[M::FRAGMENTS][2];

    DEVICE u32 operator()(int fragment, int half, const Lane&) const { return own[fragment][half]; }
};

// One tile's sums of this warp's columns, added up over the columns of the product and left in shared memory.
DEVICE void store_tile(float* partial, int tile, float (&c)[2][4], const Lane& me) {
    float low = (c[0][0] + c[1][0]) + (c[0][1] + c[1][1]), high = (c[0][2] + c[1][2]) + (c[0][3] + c[1][3]);
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
        low += __shfl_xor_sync(ALL_LANES, low, offset);
        high += __shfl_xor_sync(ALL_LANES, high, offset);
    }
    if (me.quad == 0) {
        partial[(tile * TILE + me.group) * PARTIAL_STRIDE + me.warp] = low;
        partial[(tile * TILE + me.group + 8) * PARTIAL_STRIDE + me.warp] = high;
    }
}

template <class M, class Operand> DEVICE void multiply_part(float (&c)[2][4], const u32 (*a)[4], const Operand& b, int part, const Lane& me) {
#pragma unroll
    for (int step = 0; step < M::STEPS; ++step) multiply_accumulate(c[step % 2], a[step], b(part * M::STEPS + step, 0, me), b(part * M::STEPS + step, 1, me));
}

template <class M, class Operand> DEVICE void multiply_held(float* partial, const Held<M>& held, Place& place, const Operand& b, int rows, const Lane& me) {
#pragma unroll
    for (int tile = 0; tile < M::HELD; ++tile) {
        if (!M::has_tile(tile, rows)) break;
        float c[2][4] = {};
#pragma unroll
        for (int part = 0; part < M::PARTS; ++part) multiply_part<M>(c, held.a + tile * M::FRAGMENTS + part * M::STEPS, b, part, me);
        store_tile(partial, tile, c, me);
    }
}
template <class M> DEVICE void release_held(Place& place, int rows, const Lane& me) {
#pragma unroll
    for (int tile = 0; tile < M::HELD; ++tile) {
        if (!M::has_tile(tile, rows)) break;
#pragma unroll
        for (int part = 0; part < M::PARTS; ++part) place.release(me.lane);
    }
}

// A tile whose weights are loaded now; its sums go to tile `tile_of_sums` of `partial`.
template <class M, class Operand> DEVICE void multiply_tile(float* partial, int tile_of_sums, Place& place, const Operand& b, int height, const Lane& me) {
    float c[2][4] = {};
    Place ahead = place;
#pragma unroll
    for (int part = 0; part < M::PARTS; ++part) {
        u32 a[M::STEPS][4];
        ahead.wait_full();
        load_part<M>(a, ahead, height, me);
        multiply_part<M>(c, a, b, part, me);
        ahead.advance();
        if (part > 0) place.release(me.lane); // a slot is given back one later, when its weights have certainly been used
    }
    store_tile(partial, tile_of_sums, c, me);
    place.release(me.lane);
}

// All sums of one stage.
template <class M, class Operand> DEVICE void multiply(float* partial, const Held<M>& held, Place& place, const Operand& b, int rows, const Lane& me) {
    multiply_held<M>(partial, held, place, b, rows, me);
    if (M::TILES > M::HELD) {
        release_held<M>(place, rows, me);
        for (int tile = M::HELD; tile * TILE < rows; ++tile) multiply_tile<M>(partial, tile, place, b, min(rows - tile * TILE, TILE), me);
    }
}
// To be called after the rendezvous, when nobody waits for this warp.
template <class M> DEVICE void release(Place& place, int rows, const Lane& me) {
    if (M::TILES <= M::HELD) release_held<M>(place, rows, me);
}

// Synchronises consumer warps; those below `readers` wait, the others only arrive. Each barrier is used again only after something that needed all of this block's results
// of the last use, so no warp can arrive twice in one phase.
enum { BARRIER_PARTIAL = 1, BARRIER_ATTENTION = 3, BARRIER_ALL = 4 };
DEVICE void rendezvous(int barrier, int readers, int warp) {
    if (warp < readers) asm volatile("bar.sync %0, %1;" :: "r"(barrier), "n"(CONSUMERS) : "memory");
    else asm volatile("bar.arrive %0, %1;" :: "r"(barrier), "n"(CONSUMERS) : "memory");
}

DEVICE float sum_of_warps(const float* partial) {
    float4 sum = *(const float4*)partial;
#pragma unroll
    for (int i = 4; i < WARPS; i += 4) {
        const float4 more = *(const float4*)(partial + i);
        sum.x += more.x; sum.y += more.y; sum.z += more.z; sum.w += more.w;
    }
    return (sum.x + sum.y) + (sum.z + sum.w);
}

// ---- The residual stream ---------------------------------------------------------------------------------------------------------------------------------------------------------

typedef float Residual[Qkv::ROUNDS][4]; // elements 2t, 2t + 1, 2t + 8, 2t + 9 of this lane's fragments; zero where a fragment does not exist

// x += what the blocks have published.
DEVICE void add_published(Residual& x, const Atom* published, u32 tag, Waiting& waiting, const Lane& me) {
    constexpr int N = Qkv::ROUNDS * 2;
    Two got[N];
    await(got, [&](int i) { return published + Qkv::first_column(me.warp, i / 2 * 8 + me.group) + me.quad * 2 + i % 2 * 8; }, [&](int i) { return Qkv::wanted(me.warp, i / 2 * 8 + me.group); }, tag, waiting);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const bool exists = Qkv::exists(me.warp, i / 2 * 8 + me.group);
        x[i / 2][i % 2 * 2] += exists ? __uint_as_float(got[i].value0) : 0.f;
        x[i / 2][i % 2 * 2 + 1] += exists ? __uint_as_float(got[i].value1) : 0.f;
    }
}

// The operand bf16(x * norm); the factor 1 / rms(x) is applied to the sums, when all warps' squares are known.
template <class M> DEVICE void normed(Spread<M>& b, const Residual& x, const Held<M>& held, float* squares, const Lane& me) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < M::ROUNDS; ++i) {
        b.own[i][0] = pack_bf16(x[i][0] * held.norm[i][0], x[i][1] * held.norm[i][1]);
        b.own[i][1] = pack_bf16(x[i][2] * held.norm[i][2], x[i][3] * held.norm[i][3]);
        sum += (x[i][0] * x[i][0] + x[i][1] * x[i][1]) + (x[i][2] * x[i][2] + x[i][3] * x[i][3]);
    }
    sum = warp_sum(sum);
    if (me.lane == 0) squares[me.warp] = sum;
}
DEVICE float inverse_rms(const float* squares, float eps) { return rsqrtf(sum_of_warps(squares) * (1.f / HIDDEN) + eps); }
