// The decoding kernel itself. `decode_layout.cuh` says how it works.

// ---- The likeliest token -------------------------------------------------------------------------------------------------------------------------------------------------------------

struct Candidate {
    float logit;
    u32 token;

    DEVICE void consider(float other_logit, u32 other_token) { // of equal logits, the lowest token
        if (other_logit > logit || (other_logit == logit && other_token < token)) { logit = other_logit; token = other_token; }
    }
    DEVICE void over_warp() {
        for (int offset = WARP / 2; offset > 0; offset /= 2) consider(__shfl_xor_sync(ALL_LANES, logit, offset), __shfl_xor_sync(ALL_LANES, token, offset));
    }
    // Over all consumer threads; the result is valid in warp 0.
    DEVICE void over_block(Shared& shared, const Lane& me) {
        over_warp();
        if (me.lane == 0) { shared.best_logit[me.warp] = logit; shared.best_token[me.warp] = token; }
        rendezvous(BARRIER_ALL, WARPS, me.warp);
        if (me.lane < WARPS) consider(shared.best_logit[me.lane], shared.best_token[me.lane]);
        if (me.warp == 0) over_warp();
    }
};

// ---- The step ----------------------------------------------------------------------------------------------------------------------------------------------------------------------

DEVICE void feed_all(const Step& step, Place place, int block, int lane) {
    u64 policy; // weights are read once a step: they should not drive out what is read again
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    for (int i = 0; i < LAYERS; ++i) {
        const Layer layer = step.layers[i];
        feed<Qkv>(place, layer.qkv, layer.norm1, block, lane, policy);
        feed<Out>(place, layer.out, nullptr, block, lane, policy);
        feed<GateUp>(place, layer.gate_up, layer.norm2, block, lane, policy);
        feed<Down>(place, layer.down, nullptr, block, lane, policy);
    }
    feed<Head>(place, step.head, step.final_norm, block, lane, policy);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode_step(const __grid_constant__ Step step) {
    let_next_start();
    extern __shared__ __align__(128) unsigned char shared_memory[];
    Shared& shared = *(Shared*)shared_memory;
    const int block = blockIdx.x;
    const Lane me = {(int)threadIdx.x % WARP, (int)threadIdx.x % WARP / 4, (int)threadIdx.x % 4, __shfl_sync(ALL_LANES, (int)threadIdx.x / WARP, 0)};
    Place place = {shared_address(shared.slots), shared_address(shared.full), shared_address(shared.empty), 0, 0};

    if (threadIdx.x == 0) {
        for (int i = 0; i < SLOTS; ++i) {
            barrier_init(place.full + i * 8, 1);
            barrier_init(place.empty + i * 8, WARPS);
        }
        barrier_init_fence();
        fence_async_proxy();
    }
    __syncthreads();
    if (me.warp == WARPS) { // weights are there, whatever the launch before is still doing
        feed_all(step, place, block, me.lane);
        return;
    }
    const u32 position = step.position;
    for (int i = threadIdx.x; i < HALF; i += CONSUMERS) {
        shared.cos[i] = step.cos[(u64)position * HALF + i];
        shared.sin[i] = step.sin[(u64)position * HALF + i];
    }
    rendezvous(BARRIER_ALL, WARPS, me.warp);
    await_previous();

    Scratch& scratch = *step.scratch;
    Waiting waiting = {PATIENCE, &scratch.status};
    const u32 first_tag = scratch.sequence + 1;
    const int replica = block % REPLICAS;
    const Keys keys(position, block, me.warp);
    const bool attends = keys.split < keys.splits, has_keys = attends && keys.first < keys.end;
    const int cached = has_keys ? keys.position - keys.first * TILE : 0; // keys of the first tile that are in the cache

    Residual x;
    const u32 id = step.follows ? scratch.token : step.id;
#pragma unroll
    for (int i = 0; i < Qkv::ROUNDS; ++i) {
        const bf16* from = step.embedding + (u64)id * HIDDEN + Qkv::first_column(me.warp, i * 8 + me.group) + me.quad * 2;
        const u32 low = *(const u32*)from, high = *(const u32*)(from + 8);
        const bool exists = Qkv::exists(me.warp, i * 8 + me.group);
        x[i][0] = exists ? low_of(low) : 0.f;
        x[i][1] = exists ? high_of(low) : 0.f;
        x[i][2] = exists ? low_of(high) : 0.f;
        x[i][3] = exists ? high_of(high) : 0.f;
    }

    float* const partial0 = shared.partial[0];
    float* const partial1 = shared.partial[1];
    for (int layer = 0; layer < LAYERS; ++layer) {
        const u32 tag = first_tag + layer;
        Exchange& exchange = scratch.exchange[replica][layer % 2];
        KeyTile tile;
        { // without a branch, which costs registers
            const bf16* from = tile_keys(step, layer, has_keys ? keys.first : 0, keys.head);
            load_keys(tile, from, cached, me);
            load_values(tile, from, cached, me);
        }

        { // q, k, v
            const int first = Qkv::first_row(block), rows = Qkv::first_row(block + 1) - first;
            Held<Qkv> held;
            hold(held, place, rows, me);
            if (layer > 0) add_published(x, scratch.exchange[replica][(layer - 1) % 2].down, tag - 1, waiting, me);
            Spread<Qkv> b;
            normed<Qkv>(b, x, held, shared.squares[0], me);
            multiply<Qkv>(partial0, held, place, b, rows, me);
            constexpr int READERS = ceil_div(Qkv::MOST, WARP);
            rendezvous(BARRIER_PARTIAL, READERS, me.warp);
            if (threadIdx.x < rows)
                publish(&scratch.qkv[layer % 2][first + threadIdx.x], __float_as_uint(sum_of_warps(partial0 + threadIdx.x * PARTIAL_STRIDE) * inverse_rms(shared.squares[0], step.eps)), tag);
            release<Qkv>(place, rows, me);
        }
        if (attends) {
            attend(step, keys, tile, layer, tag, shared, waiting, me);
            if (layer + 1 < LAYERS)
                for (int number = keys.first; number < keys.end; number += WARPS) prefetch_tile(tile_keys(step, layer + 1, number, keys.head), me);
        }
        { // output projection
            const int first = Out::first_row(block), rows = Out::first_row(block + 1) - first;
            Held<Out> held;
            hold(held, place, rows, me);
            Stacked<Out> b;
            await_attended(b, exchange, keys.splits, tag, waiting, me);
            if (Out::has_tile(0, rows)) {
                multiply<Out>(partial1, held, place, b, rows, me);
                constexpr int READERS = ceil_div(Out::MOST, WARP);
                rendezvous(BARRIER_PARTIAL + 1, READERS, me.warp);
                if (threadIdx.x < rows) {
                    const u32 sum = __float_as_uint(sum_of_warps(partial1 + threadIdx.x * PARTIAL_STRIDE));
#pragma unroll
                    for (int to = 0; to < REPLICAS; ++to) publish(&scratch.exchange[to][layer % 2].out[first + threadIdx.x], sum, tag);
                }
                release<Out>(place, rows, me);
            }
        }
        { // hidden layer of the MLP
            const int first = GateUp::first_row(block), rows = GateUp::first_row(block + 1) - first;
            Held<GateUp> held;
            hold(held, place, rows, me);
            add_published(x, exchange.out, tag, waiting, me);
            if (GateUp::has_tile(0, rows)) {
                Spread<GateUp> b;
                normed<GateUp>(b, x, held, shared.squares[0], me);
                multiply<GateUp>(partial0, held, place, b, rows, me);
                constexpr int READERS = ceil_div(GateUp::MOST / 2, WARP);
                rendezvous(BARRIER_PARTIAL, READERS, me.warp);
                if (me.warp < READERS) {
                    const int i = min((int)threadIdx.x, rows / 2 - 1); // lanes without a row keep the others company in the shuffle
                    const float scale = inverse_rms(shared.squares[0], step.eps);
                    const float gate = sum_of_warps(partial0 + 2 * i * PARTIAL_STRIDE) * scale;
                    const float up = sum_of_warps(partial0 + (2 * i + 1) * PARTIAL_STRIDE) * scale;
                    const float h = __fdividef(gate, 1.f + __expf(-gate)) * up;
                    const u32 pair = pack_bf16(h, __shfl_down_sync(ALL_LANES, h, 1));
                    if (threadIdx.x < rows / 2 && threadIdx.x % 2 == 0) {
#pragma unroll
                        for (int to = 0; to < REPLICAS; ++to) publish(&scratch.exchange[to][layer % 2].hidden[pair_place((first / 2 + threadIdx.x) / 2)], pair, tag);
                    }
                }
                release<GateUp>(place, rows, me);
            }
        }
        { // down
            const int first = Down::first_row(block), rows = Down::first_row(block + 1) - first;
            Held<Down> held;
            hold(held, place, rows, me);
            Spread<Down> b;
            await_hidden(b, exchange, tag, waiting, me);
            if (Down::has_tile(0, rows)) {
                multiply<Down>(partial1, held, place, b, rows, me);
                constexpr int READERS = ceil_div(Down::MOST, WARP);
                rendezvous(BARRIER_PARTIAL + 1, READERS, me.warp);
                if (threadIdx.x < rows) {
                    const u32 sum = __float_as_uint(sum_of_warps(partial1 + threadIdx.x * PARTIAL_STRIDE));
#pragma unroll
                    for (int to = 0; to < REPLICAS; ++to) publish(&scratch.exchange[to][layer % 2].down[first + threadIdx.x], sum, tag);
                }
                release<Down>(place, rows, me);
            }
        }
    }

    // Logits: some tiles at a time, so that the sums of all warps fit.
    Candidate best = {-infinity(), 0xffffffffu};
    {
        const int first = Head::first_row(block), rows = Head::first_row(block + 1) - first;
        Held<Head> held;
        hold(held, place, rows, me);
        add_published(x, scratch.exchange[replica][(LAYERS - 1) % 2].down, first_tag + LAYERS - 1, waiting, me);
        Spread<Head> b;
        normed<Head>(b, x, held, shared.squares[0], me);
        multiply_held<Head>(partial0, held, place, b, rows, me);
        release_held<Head>(place, rows, me);
        constexpr int PASS = HEAD_PASS_TILES * TILE;
        static_assert(Head::HELD <= HEAD_PASS_TILES, "");
        for (int start = 0, pass = 0; start < rows; start += PASS, ++pass) {
            float* partial = shared.partial[pass % 2];
            for (int tile = pass == 0 ? Head::HELD : 0; tile < HEAD_PASS_TILES && start + tile * TILE < rows; ++tile)
                multiply_tile<Head>(partial, tile, place, b, min(rows - start - tile * TILE, TILE), me);
            rendezvous(BARRIER_ALL, WARPS, me.warp);
            const float scale = inverse_rms(shared.squares[0], step.eps);
            for (int row = threadIdx.x; row < PASS && start + row < rows; row += CONSUMERS) {
                const float logit = sum_of_warps(partial + row * PARTIAL_STRIDE) * scale;
                step.logits[first + start + row] = logit;
                best.consider(logit, first + start + row);
            }
        }
        best.over_block(shared, me);
        const u32 tag = first_tag + LAYERS - 1;
        if (threadIdx.x == 0) {
            publish(&scratch.winner[block][0], __float_as_uint(best.logit), tag);
            publish(&scratch.winner[block][1], best.token, tag);
        }
        if (block == 0) {
            // Every block has read the sequence number before it published: it may be replaced.
            best = {-infinity(), 0xffffffffu};
            for (int start = 0; start < BLOCKS; start += CONSUMERS) {
                const int other = min(start + (int)threadIdx.x, BLOCKS - 1);
                Two got[1];
                await(got, [&](int) { return scratch.winner[other]; }, [](int) { return true; }, tag, waiting);
                best.consider(__uint_as_float(got[0].value0), got[0].value1);
            }
            rendezvous(BARRIER_ALL, WARPS, me.warp); // the block's own candidates have been read
            best.over_block(shared, me);
            if (threadIdx.x == 0) {
                scratch.token = best.token;
                scratch.sequence = tag;
                const u32 failed = *(volatile u32*)&scratch.status != 0 ? FAILED : 0;
                asm volatile("st.release.sys.global.u64 [%0], %1;" :: "l"(step.answer), "l"((u64)step.number << 32 | best.token | failed) : "memory");
            }
        }
    }
}
