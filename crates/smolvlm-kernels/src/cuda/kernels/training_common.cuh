// Who a thread is, for kernels of training.

DEVICE u32 lane() { return threadIdx.x % WARP; }
DEVICE u64 number_of_thread() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
