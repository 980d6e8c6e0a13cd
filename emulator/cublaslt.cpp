// Matrix products as cublasLt describes them: any transposition, order, leading dimension and batch, of f32, bf16 and f16, summed in f32.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <thread>
#include <vector>

#include "runtime.h"

using namespace emu;

namespace {

typedef int Status;
constexpr Status SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15;

enum Type { F32 = 0, F16 = 2, BF16 = 14 };
enum Order { COLUMNS = 0, ROWS = 1 };
enum Epilogue { RELU = 2, BIAS = 4, DRELU = 8, BGRAD = 16, GELU = 32, DGELU = 64, AUX = 128, BGRADA = 256, BGRADB = 512 };

struct Layout {
    uint32_t type;
    uint64_t rows, columns;
    int64_t leading;
    int32_t order = COLUMNS, batch = 1;
    int64_t stride = 0;

    int64_t at(uint64_t row, uint64_t column) const { return order == COLUMNS ? column * leading + row : row * leading + column; }
    uint64_t elements() const { return rows && columns ? at(rows - 1, columns - 1) + 1 + (batch - 1) * stride : 0; }
};

struct Description {
    int32_t compute, scale_type, pointer_mode = 0, transposed[3] = {}; // of A, B, C
    uint32_t epilogue = 1;
    void *bias = nullptr, *aux = nullptr;
    int64_t bias_stride = 0, aux_leading = 0, aux_stride = 0;
    int32_t bias_type = -1, aux_type = -1;
};

float half_to_f32(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? std::ldexp(1024.f + fraction, exponent - 25) : std::ldexp((float)fraction, -24);
    return h >> 15 ? -size : size;
}
float load(const void* from, int64_t at, uint32_t type) {
    if (type == F32) return ((const float*)from)[at];
    const uint16_t x = ((const uint16_t*)from)[at];
    if (type == F16) return half_to_f32(x);
    const uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
void store(void* to, int64_t at, uint32_t type, float x) {
    if (type == F32) {
        ((float*)to)[at] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    ((uint16_t*)to)[at] = x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
size_t size_of(uint32_t type) { return type == F32 ? 4 : 2; }

float gelu(float x) { return 0.5f * x * (1.f + std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x))); }
float gelu_slope(float x) {
    const float c = 0.7978845608028654f, t = std::tanh(c * (x + 0.044715f * x * x * x));
    return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * c * (1.f + 3.f * 0.044715f * x * x);
}

// op(A) or op(B) as rows of the summed dimension.
std::vector<float> packed(const void* from, const Layout& layout, bool summed_along_columns, int64_t offset) {
    const uint64_t outer = summed_along_columns ? layout.rows : layout.columns, inner = summed_along_columns ? layout.columns : layout.rows;
    std::vector<float> rows(outer * inner);
    for (uint64_t i = 0; i < outer; i++)
        for (uint64_t k = 0; k < inner; k++) rows[i * inner + k] = load(from, offset + (summed_along_columns ? layout.at(i, k) : layout.at(k, i)), layout.type);
    return rows;
}

float dot(const float* a, const float* b, uint64_t count) {
    constexpr int LANES = 32;
    float sums[LANES] = {};
    uint64_t k = 0;
    for (; k + LANES <= count; k += LANES)
        for (int i = 0; i < LANES; i++) sums[i] += a[k + i] * b[k + i];
    for (int i = 0; k < count; k++, i++) sums[i] += a[k] * b[k];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

struct Product {
    Description how;
    Layout a, b, c, d;
    float alpha, beta;
    const void *a_at, *b_at, *c_at;
    void* d_at;

    bool is_transposed(int which) const { return how.transposed[which] != 0; }
    uint64_t rows() const { return is_transposed(0) ? a.columns : a.rows; }
    uint64_t depth() const { return is_transposed(0) ? a.rows : a.columns; }
    uint64_t columns() const { return is_transposed(1) ? b.rows : b.columns; }
    uint32_t bias_type() const { return how.bias_type >= 0 ? how.bias_type : d.type; }
    uint32_t aux_type() const { return how.aux_type >= 0 ? how.aux_type : d.type; }

    const char* wrong() const {
        for (const Layout* layout : {&a, &b, &c, &d}) {
            if (layout->type != F32 && layout->type != F16 && layout->type != BF16) return "a type that is not emulated";
            if (layout->order != COLUMNS && layout->order != ROWS) return "an order that is not emulated";
            if (layout->leading < (int64_t)(layout->order == COLUMNS ? layout->rows : layout->columns)) return "a leading dimension that is too small";
            if (layout->batch != d.batch) return "different batches";
        }
        if (d.type == F16 || how.scale_type != F32 || how.pointer_mode != 0 || how.transposed[2]) return "what is not emulated";
        if (depth() != (is_transposed(1) ? b.columns : b.rows)) return "matrices that do not fit each other";
        if (d.rows != rows() || d.columns != columns() || c.rows != d.rows || c.columns != d.columns) return "a result of another size";
        if (how.epilogue & DRELU || (how.epilogue & RELU && how.epilogue & AUX)) return "an epilogue that is not emulated";
        if ((how.epilogue & (BIAS | BGRAD | BGRADA | BGRADB)) && !how.bias) return "no bias";
        if ((how.epilogue & AUX) && (!how.aux || how.aux_leading < (int64_t)d.rows)) return "no auxiliary matrix";
        return nullptr;
    }
    bool all_reachable() const {
        const auto all = [](const void* at, const Layout& layout) { return reachable(at, layout.elements() * size_of(layout.type), "a matrix of a product"); };
        const uint64_t bias_length = how.epilogue & BGRADB ? columns() : rows();
        const bool has_bias = how.epilogue & (BIAS | BGRAD | BGRADA | BGRADB);
        return all(a_at, a) && all(b_at, b) && all(d_at, d) && (beta == 0 || all(c_at, c)) &&
               (!has_bias || reachable(how.bias, bias_length * size_of(bias_type()), "the bias of a product")) &&
               (!(how.epilogue & AUX) || reachable(how.aux, (how.aux_leading * (columns() - 1) + rows()) * size_of(aux_type()), "the auxiliary matrix of a product"));
    }

    float finished(float x, uint64_t row, uint64_t column, int64_t batch) const {
        if (how.epilogue & BIAS) x += load(how.bias, row + batch * how.bias_stride, bias_type());
        const int64_t aux = column * how.aux_leading + row + batch * how.aux_stride;
        if (how.epilogue & DGELU) return x * gelu_slope(load(how.aux, aux, aux_type()));
        if (how.epilogue & AUX && how.epilogue & GELU) store(how.aux, aux, aux_type(), x);
        if (how.epilogue & GELU) return gelu(x);
        return how.epilogue & RELU ? std::max(x, 0.f) : x;
    }
    void compute(int64_t batch) const {
        const uint64_t m = rows(), n = columns(), k = depth();
        const std::vector<float> left = packed(a_at, a, !is_transposed(0), batch * a.stride), right = packed(b_at, b, is_transposed(1), batch * b.stride);
        std::vector<float> row_sums(how.epilogue & BGRAD ? m : 0);
        const auto some = [&](uint64_t first, uint64_t last) {
            constexpr uint64_t BLOCK = 32; // of rows and columns, which stay in the cache
            for (uint64_t j0 = first; j0 < last; j0 += BLOCK)
                for (uint64_t i0 = 0; i0 < m; i0 += BLOCK)
                    for (uint64_t j = j0; j < std::min(j0 + BLOCK, last); j++)
                        for (uint64_t i = i0; i < std::min(i0 + BLOCK, m); i++) {
                            float x = alpha * dot(&left[i * k], &right[j * k], k);
                            if (beta != 0) x += beta * load(c_at, c.at(i, j) + batch * c.stride, c.type);
                            store(d_at, d.at(i, j) + batch * d.stride, d.type, finished(x, i, j, batch));
                        }
        };
        const uint64_t threads = m * n * k < (1 << 20) ? 1 : std::min<uint64_t>(std::max(1u, std::thread::hardware_concurrency()), n);
        std::vector<std::thread> others;
        for (uint64_t t = 1; t < threads; t++) others.emplace_back(some, n * t / threads, n * (t + 1) / threads);
        some(0, n / threads);
        for (std::thread& other : others) other.join();
        // Sums over what is summed along: of A's rows, of B's columns, of the result's rows.
        const auto sum_to_bias = [&](uint64_t count, uint64_t length, auto value) {
            for (uint64_t i = 0; i < count; i++) {
                double sum = 0;
                for (uint64_t j = 0; j < length; j++) sum += value(i, j);
                store(how.bias, i + batch * how.bias_stride, bias_type(), (float)sum);
            }
        };
        if (how.epilogue & BGRADA) sum_to_bias(m, k, [&](uint64_t i, uint64_t j) { return left[i * k + j]; });
        if (how.epilogue & BGRADB) sum_to_bias(n, k, [&](uint64_t i, uint64_t j) { return right[i * k + j]; });
        if (how.epilogue & BGRAD) sum_to_bias(m, n, [&](uint64_t i, uint64_t j) { return load(d_at, d.at(i, j) + batch * d.stride, d.type); });
    }
};

// Where an attribute is kept.
struct Place {
    void* at;
    size_t bytes;
};
Status set(Place place, const void* from, size_t bytes) {
    if (!place.at) return SUCCESS; // a wish that changes nothing here
    if (bytes != place.bytes) return INVALID_VALUE;
    return memcpy(place.at, from, bytes), SUCCESS;
}
template <class T> Place place(T& field) { return {&field, sizeof field}; }

Place attribute(Description& of, int which) {
    switch (which) {
        case 0: return place(of.compute);
        case 1: return place(of.scale_type);
        case 2: return place(of.pointer_mode);
        case 3: case 4: case 5: return place(of.transposed[which - 3]);
        case 7: return place(of.epilogue);
        case 8: return place(of.bias);
        case 10: return place(of.bias_stride);
        case 11: return place(of.aux);
        case 12: return place(of.aux_leading);
        case 13: return place(of.aux_stride);
        case 22: return place(of.aux_type);
        case 26: return place(of.bias_type);
        default: return {nullptr, 0};
    }
}
Place attribute(Layout& of, int which) {
    switch (which) {
        case 0: return place(of.type);
        case 1: return place(of.order);
        case 2: return place(of.rows);
        case 3: return place(of.columns);
        case 4: return place(of.leading);
        case 5: return place(of.batch);
        case 6: return place(of.stride);
        default: return {nullptr, 0};
    }
}

Status refuse(const char* why) {
    say("a product with %s", why);
    return NOT_SUPPORTED;
}

} // namespace

extern "C" {

struct Heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};

Status cublasLtCreate(void** handle) { return *handle = new int, SUCCESS; }
Status cublasLtDestroy(void* handle) { return delete (int*)handle, SUCCESS; }
size_t cublasLtGetVersion() { return 130000; }
Status cublasLtMatmulDescCreate(Description** to, int compute, int scale_type) {
    *to = new Description;
    (*to)->compute = compute, (*to)->scale_type = scale_type;
    return SUCCESS;
}
Status cublasLtMatmulDescDestroy(Description* of) { return delete of, SUCCESS; }
Status cublasLtMatmulDescSetAttribute(Description* of, int which, const void* from, size_t bytes) { return set(attribute(*of, which), from, bytes); }
Status cublasLtMatrixLayoutCreate(Layout** to, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    return *to = new Layout{(uint32_t)type, rows, columns, leading}, SUCCESS;
}
Status cublasLtMatrixLayoutDestroy(Layout* of) { return delete of, SUCCESS; }
Status cublasLtMatrixLayoutSetAttribute(Layout* of, int which, const void* from, size_t bytes) { return set(attribute(*of, which), from, bytes); }
Status cublasLtMatmulPreferenceCreate(void** to) { return *to = new int, SUCCESS; }
Status cublasLtMatmulPreferenceDestroy(void* of) { return delete (int*)of, SUCCESS; }
Status cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }

Status cublasLtMatmulAlgoGetHeuristic(void*, const Description* how, const Layout* a, const Layout* b, const Layout* c, const Layout* d, void*, int asked, Heuristic* found,
                                      int* count) {
    Product product = {*how, *a, *b, *c, *d, 1, 0, nullptr, nullptr, nullptr, nullptr};
    // Pointers may be set later.
    static char anything;
    if (!product.how.bias) product.how.bias = &anything;
    if (!product.how.aux) product.how.aux = &anything;
    if (const char* why = product.wrong()) return *count = 0, refuse(why);
    if (asked < 1) return INVALID_VALUE;
    *found = {};
    return *count = 1, SUCCESS;
}

Status cublasLtMatmul(void*, const Description* how, const float* alpha, const void* a, const Layout* a_layout, const void* b, const Layout* b_layout, const float* beta,
                      const void* c, const Layout* c_layout, void* d, const Layout* d_layout, const void*, void*, size_t, void* stream) {
    const Product product = {*how, *a_layout, *b_layout, *c_layout, *d_layout, *alpha, *beta, a, b, c, d};
    if (const char* why = product.wrong()) return refuse(why);
    const CUresult result = submit(stream, [product] {
        if (!product.all_reachable()) return CUDA_ERROR_ILLEGAL_ADDRESS;
        for (int batch = 0; batch < product.d.batch; batch++) product.compute(batch);
        return CUDA_SUCCESS;
    });
    return result == CUDA_SUCCESS ? SUCCESS : EXECUTION_FAILED;
}
}
