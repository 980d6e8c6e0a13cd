// Device memory is host memory, and a device pointer its address. Every allocation ends where a page begins that is not there, and fresh
// memory holds no numbers.

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "runtime.h"

using namespace emu;

namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256, MAPPING = 2 << 20;
constexpr unsigned char FRESH = 0xff;

struct Range {
    size_t bytes;
    char* mapped; // with the pages around it; null: not of `allocate`
    size_t mapped_bytes;
    size_t counted;
};

std::mutex lock;
std::map<uintptr_t, Range> ranges; // by where they start
std::map<uintptr_t, size_t> reserved;
std::map<unsigned long long, size_t> handles; // memory without addresses
unsigned long long next_handle = 1;
size_t used = 0;

size_t total() { return (size_t)setting("EMU_MEMORY_GIB", 8) << 30; }
size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// The range that holds an address.
std::map<uintptr_t, Range>::iterator find(uintptr_t address) {
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin()) return ranges.end();
    --after;
    return address < after->first + after->second.bytes ? after : ranges.end();
}

CUresult allocate(void** pointer, size_t bytes, bool on_device) {
    std::lock_guard<std::mutex> guard(lock);
    if (!pointer || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    const size_t room = round_up(bytes, ALIGNMENT), pages = round_up(room, PAGE), counted = on_device ? pages : 0;
    if (bytes > total() || counted > total() - used) return CUDA_ERROR_OUT_OF_MEMORY;
    char* mapped = (char*)mmap(nullptr, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(mapped + PAGE, pages, PROT_READ | PROT_WRITE)) return CUDA_ERROR_OUT_OF_MEMORY;
    char* start = mapped + PAGE + pages - room;
    memset(start, FRESH, room);
    used += counted;
    ranges[(uintptr_t)start] = {bytes, mapped, pages + 2 * PAGE, counted};
    *pointer = start;
    return CUDA_SUCCESS;
}

CUresult release(void* pointer) {
    std::lock_guard<std::mutex> guard(lock);
    if (!pointer) return CUDA_SUCCESS;
    const auto range = ranges.find((uintptr_t)pointer);
    if (range == ranges.end() || !range->second.mapped) {
        say("freeing %p, which was not allocated", pointer);
        return CUDA_ERROR_INVALID_VALUE;
    }
    const unsigned char* end = (unsigned char*)pointer + range->second.bytes;
    const bool overrun = std::any_of(end, end + round_up(range->second.bytes, ALIGNMENT) - range->second.bytes, [](unsigned char x) { return x != FRESH; });
    if (overrun) say("something was written behind the %zu bytes at %p", range->second.bytes, pointer);
    used -= range->second.counted;
    munmap(range->second.mapped, range->second.mapped_bytes);
    ranges.erase(range);
    return overrun ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
}

} // namespace

bool emu::is_reachable(uintptr_t address, uintptr_t& start, uintptr_t& end) {
    std::lock_guard<std::mutex> guard(lock);
    const auto range = find(address);
    if (range == ranges.end()) return false;
    start = range->first, end = range->first + range->second.bytes;
    return true;
}

bool emu::reachable(const void* address, size_t bytes, const char* what) {
    uintptr_t at = (uintptr_t)address, start, end = at;
    while (end < at + bytes && is_reachable(end, start, end)) {}
    if (end >= at + bytes) return true;
    say("%s: %zu bytes at %p are not all the device's", what, bytes, address);
    return false;
}

void emu::add_range(uintptr_t start, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    ranges[start] = {bytes, nullptr, 0, 0};
}
void emu::remove_range(uintptr_t start) {
    std::lock_guard<std::mutex> guard(lock);
    ranges.erase(start);
}

typedef unsigned long long CUdeviceptr;

static CUresult copy(void* to, const void* from, size_t bytes, bool to_device, bool from_device, void* stream) {
    return submit(stream, [=] {
        if (to_device && !reachable(to, bytes, "copying to the device")) return CUDA_ERROR_INVALID_VALUE;
        if (from_device && !reachable(from, bytes, "copying from the device")) return CUDA_ERROR_INVALID_VALUE;
        memmove(to, from, bytes);
        return CUDA_SUCCESS;
    });
}
template <class T> static CUresult fill(CUdeviceptr to, T value, size_t count, void* stream) {
    return submit(stream, [=] {
        if (to % sizeof(T) || !reachable((void*)to, count * sizeof(T), "filling memory")) return CUDA_ERROR_INVALID_VALUE;
        std::fill_n((T*)to, count, value);
        return CUDA_SUCCESS;
    });
}

extern "C" {

CUresult cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) { return allocate((void**)pointer, bytes, true); }
CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t bytes, void*) { return allocate((void**)pointer, bytes, true); }
CUresult cuMemFree_v2(CUdeviceptr pointer) { return release((void*)pointer); }
CUresult cuMemFreeAsync(CUdeviceptr pointer, void*) { return release((void*)pointer); }
CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { return allocate(pointer, bytes, false); }
CUresult cuMemFreeHost(void* pointer) { return release(pointer); }

CUresult cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = total();
    return CUDA_SUCCESS;
}
CUresult cuMemGetInfo_v2(size_t* left, size_t* all) {
    std::lock_guard<std::mutex> guard(lock);
    *all = total();
    *left = total() - used;
    return CUDA_SUCCESS;
}

// ---- Addresses and memory apart --------------------------------------------------------------------------------------------------------

CUresult cuMemGetAllocationGranularity(size_t* granularity, const void*, int) {
    *granularity = MAPPING;
    return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
    if (bytes == 0 || bytes % MAPPING) return CUDA_ERROR_INVALID_VALUE;
    void* mapped = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    std::lock_guard<std::mutex> guard(lock);
    reserved[(uintptr_t)mapped] = bytes;
    *address = (CUdeviceptr)mapped;
    return CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    const auto place = reserved.find(address);
    const auto inside = ranges.lower_bound(address);
    if (place == reserved.end() || place->second != bytes || (inside != ranges.end() && inside->first < address + bytes)) return CUDA_ERROR_INVALID_VALUE;
    reserved.erase(place);
    munmap((void*)address, bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemCreate(unsigned long long* handle, size_t bytes, const void*, unsigned long long) {
    std::lock_guard<std::mutex> guard(lock);
    if (bytes == 0 || bytes % MAPPING) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > total() - used) return CUDA_ERROR_OUT_OF_MEMORY;
    used += bytes;
    *handle = next_handle++;
    handles[*handle] = bytes;
    return CUDA_SUCCESS;
}
CUresult cuMemRelease(unsigned long long handle) {
    std::lock_guard<std::mutex> guard(lock);
    const auto memory = handles.find(handle);
    if (memory == handles.end()) return CUDA_ERROR_INVALID_VALUE;
    used -= memory->second;
    handles.erase(memory);
    return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, unsigned long long handle, unsigned long long) {
    std::lock_guard<std::mutex> guard(lock);
    const auto memory = handles.find(handle);
    auto place = reserved.upper_bound(address);
    if (memory == handles.end() || offset || memory->second != bytes || place == reserved.begin()) return CUDA_ERROR_INVALID_VALUE;
    --place;
    const auto next = ranges.lower_bound(address);
    const bool free = find(address) == ranges.end() && (next == ranges.end() || next->first >= address + bytes);
    if (address + bytes > place->first + place->second || !free) return CUDA_ERROR_INVALID_VALUE;
    if (mprotect((void*)address, bytes, PROT_READ | PROT_WRITE)) return CUDA_ERROR_OUT_OF_MEMORY;
    memset((void*)address, FRESH, bytes);
    ranges[address] = {bytes, nullptr, 0, 0};
    return CUDA_SUCCESS;
}
CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const void*, size_t) {
    return reachable((void*)address, bytes, "cuMemSetAccess") ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
    std::lock_guard<std::mutex> guard(lock);
    const auto range = ranges.find(address);
    if (range == ranges.end() || range->second.bytes != bytes) return CUDA_ERROR_INVALID_VALUE;
    ranges.erase(range);
    // Without what it held, and no longer there.
    mmap((void*)address, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    return CUDA_SUCCESS;
}

// ---- Copies ----------------------------------------------------------------------------------------------------------------------------

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) { return copy((void*)to, from, bytes, true, false, stream); }
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) { return copy(to, (void*)from, bytes, false, true, stream); }
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) { return copy((void*)to, (void*)from, bytes, true, true, stream); }
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) { return copy((void*)to, from, bytes, true, false, nullptr); }
CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) { return copy(to, (void*)from, bytes, false, true, nullptr); }
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return copy((void*)to, (void*)from, bytes, true, true, nullptr); }

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, void* stream) { return fill(to, value, count, stream); }
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, void* stream) { return fill(to, value, count, stream); }
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, void* stream) { return fill(to, value, count, stream); }
CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) { return fill(to, value, count, nullptr); }
CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count) { return fill(to, value, count, nullptr); }
CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) { return fill(to, value, count, nullptr); }
}
