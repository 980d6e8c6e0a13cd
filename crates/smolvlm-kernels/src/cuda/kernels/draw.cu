// A random token of each of some rows of logits, by the rules of `choose.rs`: temperature, top-k, top-p, min-p, then one number in [0, 1).
//
// Every rule keeps a beginning of the tokens in order, likeliest first and equal ones by id, so each asks the same question: with which token does a sum over the beginning (of weights, or of
// tokens) reach a mark? Tokens are counted into bins by their distance from the likeliest; the bin that holds the answer is gathered and searched. Weights are whole numbers, so that sums do not
// depend on the order in which threads add.

constexpr int THREADS = 1024;
constexpr int BINS = 2048;
constexpr float BINS_A_UNIT = 64.f;   // the last bin takes all that are 32 or more away
constexpr int GATHERED = 2048;        // tokens of a bin that are searched at once
constexpr float ONE = 70368744177664.f; // the likeliest token's weight, 2^46: 2^16 of them fit

struct Draw {
    u32 row;
    float temperature;
    u32 top_k;
    float top_p, min_p;
    u32 unused;
    double uniform;
};

struct Token {
    float score;
    u32 id;

    DEVICE bool before(const Token& other) const { return score > other.score || (score == other.score && id < other.id); }
    DEVICE bool through(const Token& last) const { return !last.before(*this); }
};

struct Shared {
    u32 counts[BINS];
    u64 weights[BINS];
    Token gathered[GATHERED];
    u64 sums[THREADS / WARP];
    u32 found, size;
    Token answer;
};

template <class T> DEVICE T sum_of_warp(T x) {
    for (int offset = WARP / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}

DEVICE u64 sum_of_block(u64 x, Shared& shared) {
    x = sum_of_warp(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) shared.sums[threadIdx.x / WARP] = x;
    __syncthreads();
    return sum_of_warp(shared.sums[threadIdx.x % WARP]);
}

// Inclusive sums over the bins, in place.
template <class T> DEVICE void accumulate(T* bins, Shared& shared) {
    static_assert(BINS == 2 * THREADS, "two bins a thread");
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const T first = bins[2 * threadIdx.x], both = first + bins[2 * threadIdx.x + 1];
    T sum = both;
    for (int offset = 1; offset < WARP; offset *= 2) {
        const T other = __shfl_up_sync(ALL_LANES, sum, offset);
        if (lane >= offset) sum += other;
    }
    __syncthreads();
    if (lane == WARP - 1) shared.sums[warp] = sum;
    __syncthreads();
    for (int i = 0; i < warp; i++) sum += (T)shared.sums[i];
    bins[2 * threadIdx.x] = sum - both + first;
    bins[2 * threadIdx.x + 1] = sum;
    __syncthreads();
}

struct Row {
    const float* logits;
    u32 width;
    float temperature, most;

    DEVICE Token token(u32 id) const { return {logits[id] / temperature, id}; }
    DEVICE int bin(const Token& token) const { return (int)fminf((most - token.score) * BINS_A_UNIT, BINS - 1.f); }
    DEVICE u64 weight(const Token& token) const { return (u64)(expf(token.score - most) * ONE + 0.5f); }
};

DEVICE void count(const Row& row, Shared& shared) {
    for (int i = threadIdx.x; i < BINS; i += THREADS) shared.counts[i] = 0, shared.weights[i] = 0;
    __syncthreads();
    u32 far_count = 0; // most tokens of a sure model are in the last bin: counted apart, lest all threads meet there
    u64 far_weight = 0;
    for (u32 id = threadIdx.x; id < row.width; id += THREADS) {
        const Token token = row.token(id);
        const int bin = row.bin(token);
        if (bin == BINS - 1) {
            far_count++, far_weight += row.weight(token);
        } else {
            atomicAdd(&shared.counts[bin], 1u);
            atomicAdd(&shared.weights[bin], row.weight(token));
        }
    }
    far_count = sum_of_warp(far_count), far_weight = sum_of_warp(far_weight);
    if (threadIdx.x % WARP == 0 && far_count > 0) {
        atomicAdd(&shared.counts[BINS - 1], far_count);
        atomicAdd(&shared.weights[BINS - 1], far_weight);
    }
    __syncthreads();
    accumulate(shared.counts, shared);
    accumulate(shared.weights, shared);
}

// What a beginning of the tokens is measured by.
struct Weights {
    const u64* bins;
    DEVICE u64 of(const Row& row, const Token& token) const { return row.weight(token); }
};
struct Tokens {
    const u32* bins;
    DEVICE u64 of(const Row&, const Token&) const { return 1; }
};

// The token as which a 64-bit place in the order counts, and back: the score falls, the id rises.
DEVICE u64 place_of(const Token& token) {
    const u32 bits = __float_as_uint(token.score);
    const u32 rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)(~rising) << 32 | token.id;
}

// The first token with which the measure over the beginning reaches `mark` (at least 1, at most the whole). All threads get it.
template <class Measure> DEVICE Token reaching(const Row& row, const Measure& measure, u64 mark, Shared& shared) {
    __syncthreads();
    if (threadIdx.x == 0) shared.size = 0, shared.found = BINS - 1, shared.answer = {-INFINITY, 0};
    __syncthreads();
    for (int i = threadIdx.x; i < BINS; i += THREADS)
        if (measure.bins[i] >= mark && (i == 0 || measure.bins[i - 1] < mark)) shared.found = i;
    __syncthreads();
    const int bin = shared.found;
    const u64 before = bin == 0 ? 0 : measure.bins[bin - 1];
    for (u32 id = threadIdx.x; id < row.width; id += THREADS) {
        const Token token = row.token(id);
        if (row.bin(token) != bin) continue;
        const u32 place = atomicAdd(&shared.size, 1u);
        if (place < GATHERED) shared.gathered[place] = token;
    }
    __syncthreads();
    const u32 size = shared.size;
    if (size <= GATHERED) {
        for (u32 i = threadIdx.x; i < size; i += THREADS) {
            const Token mine = shared.gathered[i];
            const u64 own = measure.of(row, mine);
            u64 sum = before;
            for (u32 j = 0; j < size; j++)
                if (shared.gathered[j].through(mine)) sum += measure.of(row, shared.gathered[j]);
            if (sum >= mark && sum - own < mark) shared.answer = mine;
        }
    } else { // a bin of thousands: the place is halved instead
        u64 low = 0, high = ~0ull;
        while (low < high) {
            const u64 middle = low + (high - low) / 2;
            u64 sum = 0;
            for (u32 id = threadIdx.x; id < row.width; id += THREADS) {
                const Token token = row.token(id);
                if (row.bin(token) == bin && place_of(token) <= middle) sum += measure.of(row, token);
            }
            if (before + sum_of_block(sum, shared) >= mark) high = middle; else low = middle + 1;
        }
        for (u32 id = threadIdx.x; id < row.width; id += THREADS)
            if (place_of(row.token(id)) == low) shared.answer = row.token(id);
    }
    __syncthreads();
    return shared.answer;
}

// The weight of the tokens through `last` that are at least `least` as likely as the likeliest.
DEVICE u64 weight_through(const Row& row, const Token& last, float least, Shared& shared) {
    u64 sum = 0;
    for (u32 id = threadIdx.x; id < row.width; id += THREADS) {
        const Token token = row.token(id);
        if (token.through(last) && expf(token.score - row.most) >= least) sum += row.weight(token);
    }
    return sum_of_block(sum, shared);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) draw(const float* logits, const Draw* draws, u32* choices, u32 width) {
    __shared__ Shared shared;
    const Draw draw = draws[blockIdx.x];
    Row row = {logits + (u64)draw.row * width, width, draw.temperature, -INFINITY};
    for (u32 id = threadIdx.x; id < width; id += THREADS) row.most = fmaxf(row.most, row.token(id).score);
    row.most = warp_max(row.most);
    if (threadIdx.x % WARP == 0) shared.sums[threadIdx.x / WARP] = __float_as_uint(row.most);
    __syncthreads();
    row.most = warp_max(__uint_as_float((u32)shared.sums[threadIdx.x % WARP]));
    __syncthreads();
    count(row, shared);

    Token last = {-INFINITY, 0xffffffffu};
    u64 whole = shared.weights[BINS - 1];
    if (draw.top_k > 0 && draw.top_k < width) {
        last = {reaching(row, Tokens{shared.counts}, draw.top_k, shared).score, 0xffffffffu}; // its equals all stay
        whole = weight_through(row, last, 0.f, shared);
    }
    if (draw.top_p < 1.f) {
        const u64 gone = (u64)((double)(1.f - draw.top_p) * (double)whole);
        last = reaching(row, Weights{shared.weights}, max(whole - min(gone, whole), (u64)1), shared);
        whole = weight_through(row, last, 0.f, shared);
    }
    if (draw.min_p > 0.f) whole = weight_through(row, last, draw.min_p, shared);
    const u64 drawn = min((u64)(draw.uniform * (double)whole), max(whole, (u64)1) - 1);
    const Token chosen = reaching(row, Weights{shared.weights}, drawn + 1, shared);
    if (threadIdx.x == 0) choices[blockIdx.x] = chosen.id;
}
