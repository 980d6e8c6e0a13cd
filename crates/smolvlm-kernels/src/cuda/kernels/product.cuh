// What the products of few and of some rows are given.

enum Activation { IDENTITY, GELU_TANH, SWIGLU };

struct Product {
    const void* x;         // [rows, inputs]
    const float* norm;     // [inputs] of an RMS norm, or null
    const void* weight;    // [outputs, inputs]
    const float* bias;     // [outputs] or null
    const void* residual;  // [rows, width] or null
    void* out;             // [rows, width]: outputs, or half as many for SWIGLU
    float eps;
    u32 rows, inputs, outputs;
    u32 activation;
};
