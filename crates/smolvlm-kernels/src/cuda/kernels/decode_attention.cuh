// Attention of the decoding kernel, and what follows it. It follows `decode_products.cuh`.

// ---- Attention ---------------------------------------------------------------------------------------------------------------------------------------------------------------------

// How the keys are spread: block `unit` takes key-value head unit % KV_HEADS, split unit / KV_HEADS; its warps take the split's tiles in turn.
struct Keys {
    int position, splits;
    int head;            // key-value head
    int split;           // none of this block's business when it is not below `splits`
    int first, end;      // tiles of this warp: first, first + WARPS, ...
    int active;          // warps that have a tile

    DEVICE Keys(int position, int unit, int warp) : position(position), head(unit % KV_HEADS), split(unit / KV_HEADS) {
        constexpr int MOST = BLOCKS / KV_HEADS < MAX_SPLITS ? BLOCKS / KV_HEADS : MAX_SPLITS;
        const int tiles = position / TILE + 1;
        splits = min(ceil_div(tiles, SPLIT_TILES), MOST);
        const int share = ceil_div(tiles, splits);
        splits = ceil_div(tiles, share); // none is empty
        const int start = split * share;
        end = split < splits ? min(start + share, tiles) : 0;
        first = start + warp;
        active = min(end - start, WARPS);
    }
};

// Sixteen keys and values in one warp. Lane (group, quad) holds of keys `group` and `group + 8` the elements quad * HALF / 4 ... of both halves of the head (so that rotation stays within
// a lane), and of values 2 quad, 2 quad + 1, 2 quad + 8, 2 quad + 9 the elements group * HEAD_DIM / 8 ...
struct KeyTile {
    u32 k[2][2][PAIRS];
    u32 v[4][PAIRS];
};

DEVICE void load_pairs(u32 (&to)[PAIRS], const bf16* from, bool there) {
    if (PAIRS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < PAIRS / 4; ++i) {
            const uint4 four = there ? ((const uint4*)from)[i] : make_uint4(0, 0, 0, 0);
            to[i * 4] = four.x; to[i * 4 + 1] = four.y; to[i * 4 + 2] = four.z; to[i * 4 + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) to[i] = there ? ((const u32*)from)[i] : 0u;
    }
}
DEVICE void store_pairs(bf16* to, const u32 (&from)[PAIRS]) {
    if (PAIRS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < PAIRS / 4; ++i) ((uint4*)to)[i] = make_uint4(from[i * 4], from[i * 4 + 1], from[i * 4 + 2], from[i * 4 + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) ((u32*)to)[i] = from[i];
    }
}

DEVICE int value_row(int i, int quad) { return quad * 2 + i % 2 + i / 2 * 8; }

// Keys of one tile in the cache: of the layer and key-value head; the values lie KV_HEADS * PAGE * HEAD_DIM elements behind.
DEVICE bf16* tile_keys(const Step& step, int layer, int tile, int head) {
    const u32 page = step.pages[tile / (PAGE / TILE)];
    return step.cache + page * step.page_stride + layer * step.layer_stride + (head * PAGE + tile % (PAGE / TILE) * TILE) * HEAD_DIM;
}
constexpr int TO_VALUES = KV_HEADS * PAGE * HEAD_DIM;

DEVICE void load_keys(KeyTile& tile, const bf16* keys, int cached /* of the sixteen */, const Lane& me) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int key = me.group + i * 8;
#pragma unroll
        for (int half = 0; half < 2; ++half) load_pairs(tile.k[i][half], keys + key * HEAD_DIM + half * HALF + me.quad * (HALF / 4), key < cached);
    }
}
DEVICE void load_values(KeyTile& tile, const bf16* keys, int cached, const Lane& me) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int key = value_row(i, me.quad);
        load_pairs(tile.v[i], keys + TO_VALUES + key * HEAD_DIM + me.group * (HEAD_DIM / 8), key < cached);
    }
}

// Into L2, for a layer still to come: a tile's keys and values are two runs of TILE * HEAD_DIM * 2 bytes.
DEVICE void prefetch_tile(const bf16* keys, const Lane& me) {
    constexpr int LINES = TILE * HEAD_DIM * 2 / 128;
    for (int line = me.lane; line < 2 * LINES; line += WARP) {
        const bf16* from = keys + (line < LINES ? line * 64 : TO_VALUES + (line - LINES) * 64);
        asm volatile("prefetch.global.L2 [%0];" :: "l"(from));
    }
}

// Waits for this step's queries of the group (and with `with_keys` the key and the value), rotates queries and key to the position, and leaves all as pairs of bf16 in shared memory.
// Each lane takes pairs lane, lane + 32, ... of the heads in a row; a pair's partner in the rotation is then in the same place of another lane.
constexpr int HEAD_PAIRS = HEAD_DIM / 2;
template <bool KEYS> DEVICE void await_heads(u32* to, const Atom* published, int head, u32 tag, const Shared& shared, Waiting& waiting, const Lane& me) {
    constexpr int QUERIES = GROUP * HEAD_PAIRS, WORDS = QUERIES + (KEYS ? 2 * HEAD_PAIRS : 0), N = ceil_div(WORDS, WARP);
    const int pair = me.lane % HEAD_PAIRS;
    const bool high = pair >= HEAD_PAIRS / 2;
    const int angle = pair * 2 - (high ? HALF : 0);
    const float c0 = shared.cos[angle], c1 = shared.cos[angle + 1], s0 = high ? shared.sin[angle] : -shared.sin[angle], s1 = high ? shared.sin[angle + 1] : -shared.sin[angle + 1];
    Two got[N];
    await(got, [&](int i) {
        const int word = i * WARP + me.lane, which = word / HEAD_PAIRS;
        const int row_head = which < GROUP ? head * GROUP + which : which == GROUP ? HEADS + head : HEADS + KV_HEADS + head;
        return published + (word < WORDS ? row_head : 0) * HEAD_DIM + pair * 2;
    }, [&](int i) { return i * WARP + me.lane < WORDS; }, tag, waiting);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const int word = i * WARP + me.lane;
        const float x0 = __uint_as_float(got[i].value0), x1 = __uint_as_float(got[i].value1);
        const float y0 = __shfl_xor_sync(ALL_LANES, x0, HEAD_PAIRS / 2), y1 = __shfl_xor_sync(ALL_LANES, x1, HEAD_PAIRS / 2);
        const bool value = word >= QUERIES + HEAD_PAIRS;
        if (word < WORDS) to[word] = value ? pack_bf16(x0, x1) : pack_bf16(x0 * c0 + y0 * s0, x1 * c1 + y1 * s1);
    }
    __syncwarp();
}
// Some consecutive pairs.
DEVICE void read_pairs(u32 (&to)[PAIRS], const u32* from) {
    if (PAIRS % 4 == 0) {
        const uint4 four = *(const uint4*)from;
        to[0] = four.x; to[1] = four.y; to[2] = four.z; to[3] = four.w;
    } else {
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) to[i] = from[i];
    }
}

// Attention of one group of query heads over this block's split.
DEVICE void attend(const Step& step, const Keys& keys, KeyTile& tile, int layer, u32 tag, Shared& shared, Waiting& waiting, const Lane& me) {
    const Atom* published = step.scratch->qkv[layer % 2];
    if (keys.first < keys.end) {
        const bool owner = (keys.position / TILE - keys.first) % WARPS == 0 && keys.position / TILE < keys.end; // of the tile with this step's key
        u32* heads = shared.heads[me.warp];
        if (owner) await_heads<true>(heads, published, keys.head, tag, shared, waiting, me);
        else await_heads<false>(heads, published, keys.head, tag, shared, waiting, me);
        u32 q[2][PAIRS];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            read_pairs(q[half], heads + (me.group < GROUP ? me.group : 0) * HEAD_PAIRS + half * (HEAD_PAIRS / 2) + me.quad * PAIRS);
            if (me.group >= GROUP) {
#pragma unroll
                for (int j = 0; j < PAIRS; ++j) q[half][j] = 0u;
            }
        }
        constexpr int DIMS = HEAD_DIM / 8;
        const float scale = rsqrtf((float)HEAD_DIM) * 1.4426950408889634f; // scores in powers of two
        float o[DIMS][4] = {};
        float peak = -infinity(), weight = 0.f;
        for (int number = keys.first; number < keys.end; number += WARPS) {
            const bool more = number + WARPS < keys.end;
            const bf16* next = more ? tile_keys(step, layer, number + WARPS, keys.head) : nullptr;
            const int next_cached = keys.position - (number + WARPS) * TILE;
            if (number == keys.position / TILE) { // the token of this step is not in the cache yet: put it there, and into this tile
                bf16* to = tile_keys(step, layer, number, keys.head);
                const int row = keys.position % TILE;
                u32 k[2][PAIRS], v[PAIRS];
#pragma unroll
                for (int half = 0; half < 2; ++half) read_pairs(k[half], heads + (GROUP * 2 + half) * (HEAD_PAIRS / 2) + me.quad * PAIRS);
                read_pairs(v, heads + (GROUP + 1) * HEAD_PAIRS + me.group * PAIRS);
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    if (me.group + i * 8 == row) {
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
#pragma unroll
                            for (int j = 0; j < PAIRS; ++j) tile.k[i][half][j] = k[half][j];
                            store_pairs(to + row * HEAD_DIM + half * HALF + me.quad * (HALF / 4), k[half]);
                        }
                    }
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (value_row(i, me.quad) == row) {
#pragma unroll
                        for (int j = 0; j < PAIRS; ++j) tile.v[i][j] = v[j];
                        store_pairs(to + TO_VALUES + row * HEAD_DIM + me.group * DIMS, v);
                    }
            }
            // Scores: row `group` is a query head, columns are keys 2 quad, 2 quad + 1 of each eight.
            float p[2][4] = {};
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < PAIRS; ++j)
                    multiply_accumulate(p[i], q[0][j], q[1][j], tile.k[i][0][j], tile.k[i][1][j]);
            if (more) load_keys(tile, next, next_cached, me); // as soon as their registers are free
            float largest = peak;
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    p[i][j] = number * TILE + i * 8 + me.quad * 2 + j <= keys.position ? p[i][j] * scale : -infinity();
                    largest = fmaxf(largest, p[i][j]);
                }
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, 2));
            const float shrink = exp2_fast(peak - largest);
            peak = largest;
            u32 weights[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) weights[i] = pack_bf16(exp2_fast(p[i][0] - largest), exp2_fast(p[i][1] - largest));
            weight = weight * shrink + ((low_of(weights[0]) + high_of(weights[0])) + (low_of(weights[1]) + high_of(weights[1])));
            if (number != keys.first) {
#pragma unroll
                for (int j = 0; j < DIMS; ++j) { o[j][0] *= shrink; o[j][1] *= shrink; }
            }
#pragma unroll
            for (int j = 0; j < DIMS; ++j) {
                const u32 halves = j % 2 ? 0x7632 : 0x5410;
                multiply_accumulate(o[j], weights[0], weights[1], __byte_perm(tile.v[0][j / 2], tile.v[1][j / 2], halves), __byte_perm(tile.v[2][j / 2], tile.v[3][j / 2], halves));
            }
            if (more) load_values(tile, next, next_cached, me);
        }
        weight += __shfl_xor_sync(ALL_LANES, weight, 1);
        weight += __shfl_xor_sync(ALL_LANES, weight, 2);
        if (me.group < GROUP) {
#pragma unroll
            for (int j = 0; j < DIMS; ++j) *(float2*)shared.attended[me.warp][j][me.lane] = make_float2(o[j][0], o[j][1]);
            if (me.quad == 0) { shared.peak[me.group][me.warp] = peak; shared.weight[me.group][me.warp] = weight; }
        }
    }
    // Merge what the warps have, and publish it as pairs of elements.
    constexpr int WORDS = GROUP * HALF;
    constexpr int READERS = ceil_div(WORDS, WARP) < WARPS ? ceil_div(WORDS, WARP) : WARPS;
    rendezvous(BARRIER_ATTENTION, READERS, me.warp);
    if (me.warp < READERS)
        for (int word = threadIdx.x; word < WORDS; word += READERS * WARP) {
            constexpr int DIMS = HEAD_DIM / 8;
            const int in_group = word / HALF, dim = word % HALF * 2;
            const int column = dim / DIMS, j = dim % DIMS; // column of the tensor core's result, and number of that result
            const int lane = in_group * 4 + column / 2;
            float largest = -infinity();
            for (int warp = 0; warp < keys.active; ++warp) largest = fmaxf(largest, shared.peak[in_group][warp]);
            float sum = 0.f, x0 = 0.f, x1 = 0.f;
#pragma unroll 4
            for (int warp = 0; warp < keys.active; ++warp) {
                const float factor = exp2_fast(shared.peak[in_group][warp] - largest);
                sum += factor * shared.weight[in_group][warp];
                x0 += factor * shared.attended[warp][j][lane][column % 2];
                x1 += factor * shared.attended[warp][j + 1][lane][column % 2];
            }
            const float inverse = __fdividef(1.f, sum);
            const int head = keys.head * GROUP + in_group;
#pragma unroll
            for (int replica = 0; replica < REPLICAS; ++replica) {
                Exchange& to = step.scratch->exchange[replica][layer % 2];
                publish(&to.attended[keys.split][pair_place((head * HEAD_DIM + dim) / 2)], pack_bf16(x0 * inverse, x1 * inverse), tag);
                if (dim < 4) publish(&to.share[head][keys.split][dim / 2], __float_as_uint(largest + __log2f(sum)), tag);
            }
        }
}

// The attended vector as an operand: split `group` in column `group`, weighted by its share of the sum of exponentials.
DEVICE void await_attended(Stacked<Out>& b, const Exchange& from, int splits, u32 tag, Waiting& waiting, const Lane& me) {
    const bool mine = me.group < splits;
    const int split = mine ? me.group : 0;
    constexpr int BATCH = Out::FRAGMENTS <= 4 ? Out::FRAGMENTS : Out::FRAGMENTS % 4 == 0 ? 4 : Out::FRAGMENTS % 3 == 0 ? 3 : 1;
#pragma unroll
    for (int start = 0; start < Out::FRAGMENTS; start += BATCH) {
        Two got[BATCH];
        auto attended = [&](int i) { return &from.attended[split][Out::first_column(me.warp, start + i) / 2 + me.quad * 2]; };
        auto wanted = [&](int i) { return mine && Out::wanted(me.warp, start + i); };
        if (splits == 1)
            await(got, attended, wanted, tag, waiting);
        else {
            Two both[2 * BATCH]; // the shares come along: one after the other would be one more way to L2 and back
            await(both, [&](int i) { return i < BATCH ? attended(i) : from.share[Out::first_column(me.warp, start + i - BATCH) / HEAD_DIM][split]; },
                  [&](int i) { return wanted(i % BATCH) && (i < BATCH || me.quad == 0); }, tag, waiting, true);
#pragma unroll
            for (int i = 0; i < BATCH; ++i) {
                const u32 published_log = __shfl_sync(ALL_LANES, both[BATCH + i].value0, me.lane & ~3);
                const float log = mine ? __uint_as_float(published_log) : -infinity();
                float largest = log;
#pragma unroll
                for (int offset = 4; offset < WARP; offset *= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, offset));
                float share = exp2_fast(log - largest), sum = share;
#pragma unroll
                for (int offset = 4; offset < WARP; offset *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, offset);
                share = __fdividef(share, sum);
                got[i].value0 = pack_bf16(low_of(both[i].value0) * share, high_of(both[i].value0) * share);
                got[i].value1 = pack_bf16(low_of(both[i].value1) * share, high_of(both[i].value1) * share);
            }
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const bool exists = Out::exists(me.warp, start + i);
            b.own[start + i][0] = exists ? got[i].value0 : 0u;
            b.own[start + i][1] = exists ? got[i].value1 : 0u;
        }
    }
}

// The hidden layer of the MLP as an operand.
DEVICE void await_hidden(Spread<Down>& b, const Exchange& from, u32 tag, Waiting& waiting, const Lane& me) {
    Two got[Down::ROUNDS];
    await(got, [&](int i) { return &from.hidden[Down::first_column(me.warp, i * 8 + me.group) / 2 + me.quad * 2]; }, [&](int i) { return Down::wanted(me.warp, i * 8 + me.group); }, tag, waiting);
#pragma unroll
    for (int i = 0; i < Down::ROUNDS; ++i) {
        const bool exists = Down::exists(me.warp, i * 8 + me.group);
        b.own[i][0] = exists ? got[i].value0 : 0u;
        b.own[i][1] = exists ? got[i].value1 : 0u;
    }
}
