// The driver's other functions: one device, streams that do everything at once, graphs that keep what was started, modules.

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "runtime.h"

using namespace emu;

namespace {

typedef std::vector<std::function<CUresult()>> Graph;

struct Stream {
    std::unique_ptr<Graph> recorded; // while it records
};

struct Event {
    std::chrono::steady_clock::time_point time;
};

struct Module {
    void* library;
    int file;
    uintptr_t start;
};

struct Function {
    const Kernel* kernel;
    std::string name;
    unsigned most_dynamic = MOST_STATIC_SHARED; // more must be asked for
};

int context; // the only one, and only its address is used
thread_local void* current_context = nullptr;

struct ErrorName {
    CUresult error;
    const char *name, *text;
};
constexpr ErrorName ERRORS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

CUresult error_text(CUresult error, const char** text, const char* ErrorName::*which) {
    for (const ErrorName& known : ERRORS)
        if (known.error == error) return *text = known.*which, CUDA_SUCCESS;
    return *text = nullptr, CUDA_ERROR_INVALID_VALUE;
}

// How long an image is: its section headers come last.
size_t image_bytes(const void* image) {
    const auto& header = *(const Elf64_Ehdr*)image;
    return memcmp(header.e_ident, ELFMAG, SELFMAG) ? 0 : header.e_shoff + (size_t)header.e_shentsize * header.e_shnum;
}

CUresult start(Function& function, Uint3 grid, Uint3 block, unsigned shared, void* stream, void** arguments) {
    const Kernel& kernel = *function.kernel;
    const uint64_t threads = (uint64_t)block.x * block.y * block.z;
    const char* wrong = !grid.x || !grid.y || !grid.z || !threads      ? "an empty grid or block"
                        : grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 ? "a grid that is too large"
                        : threads > 1024 || threads > kernel.most_threads ? "more threads in a block than the kernel or the device allows"
                        : shared > function.most_dynamic               ? "more shared memory than was asked for with cuFuncSetAttribute"
                        : !arguments && kernel.count                   ? "no arguments"
                                                                       : nullptr;
    if (wrong) {
        say("starting %s with a grid of (%u, %u, %u), blocks of (%u, %u, %u) and %u bytes: %s", function.name.c_str(), grid.x, grid.y, grid.z, block.x, block.y, block.z,
            shared, wrong);
        return CUDA_ERROR_INVALID_VALUE;
    }
    // The arguments are the caller's only until this returns.
    struct alignas(64) Held {
        unsigned char bytes[64];
    };
    std::vector<size_t> places;
    size_t room = 0;
    for (unsigned i = 0; i < kernel.count; i++) places.push_back(room), room += (kernel.sizes[i] + 63) / 64;
    auto held = std::make_shared<std::vector<Held>>(room);
    for (unsigned i = 0; i < kernel.count; i++) memcpy(&(*held)[places[i]], arguments[i], kernel.sizes[i]);
    const Launch launch = {&kernel, function.name.c_str(), grid, block, shared};
    return submit(stream, [=] {
        std::vector<void*> pointers;
        for (size_t place : places) pointers.push_back(&(*held)[place]);
        return run(launch, pointers.data());
    });
}

} // namespace

CUresult emu::submit(void* stream, std::function<CUresult()> work) {
    Stream* to = (Stream*)stream;
    if (!to || !to->recorded) return work();
    to->recorded->push_back(std::move(work));
    return CUDA_SUCCESS;
}

extern "C" {

typedef unsigned long long CUdeviceptr;

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char** text) { return error_text(error, text, &ErrorName::name); }
CUresult cuGetErrorString(CUresult error, const char** text) { return error_text(error, text, &ErrorName::text); }

CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(int* device, int index) { return *device = index, index == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDeviceGetName(char* name, int room, int) { return snprintf(name, room, "Emulated"), CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 1024; break;               // threads of a block
        case 8: *value = MOST_STATIC_SHARED; break; // shared memory of a block
        case 10: *value = 32; break;                // lanes of a warp
        case 12: *value = 65536; break;             // registers of a block
        case 13: case 36: *value = 1000000; break;  // clock rates
        case 16: *value = (int)setting("EMU_MULTIPROCESSORS", 108); break;
        case 38: *value = 40 << 20; break;   // second level cache
        case 39: *value = 2048; break;       // threads of a multiprocessor
        case 75: *value = 8; break;          // compute capability
        case 76: *value = 0; break;
        case 81: *value = 164 << 10; break;  // shared memory of a multiprocessor
        case 97: *value = MOST_SHARED; break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(void** to, int) { return *to = &context, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(int) { return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(void* to) { return current_context = to, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(void** to) { return *to = current_context, CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }

CUresult cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, CUDA_SUCCESS; }
CUresult cuStreamCreateWithPriority(void** stream, unsigned, int) { return *stream = new Stream, CUDA_SUCCESS; }
CUresult cuStreamDestroy_v2(void* stream) { return delete (Stream*)stream, CUDA_SUCCESS; }
CUresult cuStreamSynchronize(void* stream) { return stream && ((Stream*)stream)->recorded ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
CUresult cuStreamQuery(void*) { return CUDA_SUCCESS; }
CUresult cuStreamWaitEvent(void*, void*, unsigned) { return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(void* stream, int* status) { return *status = stream && ((Stream*)stream)->recorded, CUDA_SUCCESS; }
CUresult cuStreamBeginCapture_v2(void* stream, int) {
    if (!stream || ((Stream*)stream)->recorded) return CUDA_ERROR_INVALID_VALUE;
    return ((Stream*)stream)->recorded = std::make_unique<Graph>(), CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(void* stream, void** graph) {
    if (!stream || !((Stream*)stream)->recorded) return CUDA_ERROR_INVALID_VALUE;
    return *graph = ((Stream*)stream)->recorded.release(), CUDA_SUCCESS;
}
CUresult cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    return submit(stream, [=] { return function(data), CUDA_SUCCESS; });
}

CUresult cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) { return *executable = new Graph(*(Graph*)graph), CUDA_SUCCESS; }
CUresult cuGraphDestroy(void* graph) { return delete (Graph*)graph, CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(void* executable) { return delete (Graph*)executable, CUDA_SUCCESS; }
CUresult cuGraphUpload(void*, void*) { return CUDA_SUCCESS; }
CUresult cuGraphLaunch(void* executable, void* stream) {
    for (const auto& work : *(Graph*)executable)
        if (CUresult failure = submit(stream, work)) return failure;
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(void** event, unsigned) { return *event = new Event, CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(void* event) { return delete (Event*)event, CUDA_SUCCESS; }
CUresult cuEventRecord(void* event, void*) { return ((Event*)event)->time = std::chrono::steady_clock::now(), CUDA_SUCCESS; }
CUresult cuEventSynchronize(void*) { return CUDA_SUCCESS; }
CUresult cuEventQuery(void*) { return CUDA_SUCCESS; }
CUresult cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    return *milliseconds = std::chrono::duration<float, std::milli>(((Event*)to)->time - ((Event*)from)->time).count(), CUDA_SUCCESS;
}
CUresult cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) { return cuEventElapsedTime(milliseconds, from, to); }

// ---- Modules ---------------------------------------------------------------------------------------------------------------------------

// An image is a shared library for this machine, which becomes a file only here: every module has its own variables.
CUresult cuModuleLoadData(void** module, const void* image) {
    const size_t bytes = image_bytes(image);
    if (bytes == 0) return CUDA_ERROR_INVALID_IMAGE;
    const int file = memfd_create("kernels", MFD_CLOEXEC);
    size_t written = 0;
    for (ssize_t more; file >= 0 && written < bytes && (more = write(file, (const char*)image + written, bytes - written)) > 0;) written += more;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    void* library = written == bytes ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (!library) {
        say("loading kernels: %s", dlerror());
        close(file);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    link_map* map;
    dlinfo(library, RTLD_DI_LINKMAP, &map);
    // What it takes in memory: kernels may reach its variables.
    size_t end = 0;
    const auto& header = *(const Elf64_Ehdr*)image;
    for (int i = 0; i < header.e_phnum; i++) {
        const auto& segment = ((const Elf64_Phdr*)((const char*)image + header.e_phoff))[i];
        if (segment.p_type == PT_LOAD && segment.p_vaddr + segment.p_memsz > end) end = segment.p_vaddr + segment.p_memsz;
    }
    add_range(map->l_addr, end);
    *module = new Module{library, file, map->l_addr};
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(void* module) {
    Module* of = (Module*)module;
    remove_range(of->start);
    dlclose(of->library);
    close(of->file);
    return delete of, CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(void** function, void* module, const char* name) {
    const auto* kernel = (const Kernel*)dlsym(((Module*)module)->library, (std::string("emu_kernel_") + name).c_str());
    if (!kernel) return CUDA_ERROR_NOT_FOUND;
    return *function = new Function{kernel, name}, CUDA_SUCCESS; // kept until the end: handles have no end in this interface
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr* pointer, size_t* bytes, void* module, const char* name) {
    void* address = dlsym(((Module*)module)->library, name);
    if (!address) return CUDA_ERROR_NOT_FOUND;
    Dl_info info;
    const Elf64_Sym* symbol = nullptr;
    dladdr1(address, &info, (void**)&symbol, RTLD_DL_SYMENT);
    if (pointer) *pointer = (CUdeviceptr)address;
    if (bytes) *bytes = symbol ? symbol->st_size : 0;
    return CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, int attribute, void* function) {
    const Function& of = *(Function*)function;
    *value = attribute == 0 ? (int)of.kernel->most_threads : attribute == 8 ? (int)of.most_dynamic : attribute == 5 || attribute == 6 ? 80 : 0;
    return CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(void* function, int attribute, int value) {
    if (attribute == 8 && (value < 0 || value > (int)MOST_SHARED)) return CUDA_ERROR_INVALID_VALUE;
    if (attribute == 8) ((Function*)function)->most_dynamic = value;
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void*, int threads, size_t) { return *blocks = 2048 / (threads > 0 ? threads : 1), CUDA_SUCCESS; }

CUresult cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** arguments,
                        void** extra) {
    return extra ? CUDA_ERROR_NOT_SUPPORTED : start(*(Function*)function, {gx, gy, gz}, {bx, by, bz}, shared, stream, arguments);
}

struct LaunchAttribute {
    int id;
    char pad[4];
    union {
        char bytes[64];
        int number;
        unsigned cluster[3];
    };
};
struct LaunchConfig {
    Uint3 grid, block;
    unsigned shared;
    void* stream;
    const LaunchAttribute* attributes;
    unsigned attribute_count;
};
CUresult cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void** extra) {
    for (unsigned i = 0; i < config->attribute_count; i++) {
        const LaunchAttribute& attribute = config->attributes[i];
        const bool cluster = attribute.id == 4 && attribute.cluster[0] * attribute.cluster[1] * attribute.cluster[2] > 1;
        if ((attribute.id == 2 && attribute.number) || cluster) {
            say("starting %s: blocks that wait for each other are not emulated", ((Function*)function)->name.c_str());
            return CUDA_ERROR_NOT_SUPPORTED;
        }
    }
    return extra ? CUDA_ERROR_NOT_SUPPORTED : start(*(Function*)function, config->grid, config->block, config->shared, config->stream, arguments);
}
CUresult cuTensorMapEncodeTiled(void*, int, unsigned, void*, const void*, const void*, const void*, const void*, int, int, int, int) { return CUDA_ERROR_NOT_SUPPORTED; }
}
