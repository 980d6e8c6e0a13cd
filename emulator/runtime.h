// What the parts of the emulated driver share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "machine.h"

typedef int CUresult;
constexpr CUresult CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_INVALID_DEVICE = 101,
                   CUDA_ERROR_INVALID_IMAGE = 200, CUDA_ERROR_NOT_FOUND = 500, CUDA_ERROR_ILLEGAL_ADDRESS = 700, CUDA_ERROR_LAUNCH_FAILED = 719,
                   CUDA_ERROR_NOT_SUPPORTED = 801;

namespace emu {

constexpr unsigned MOST_SHARED = 163 << 10, MOST_STATIC_SHARED = 48 << 10;

// A message on the error output, after the name of this machine.
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
// A number from the environment.
long setting(const char* name, long otherwise);
bool is_set(const char* name, const char* value);

struct Launch {
    const Kernel* kernel;
    const char* name;
    Uint3 grid, block;
    unsigned dynamic_shared;
};

// Runs all blocks, one after another.
CUresult run(const Launch& launch, void** arguments);
// Where the stacks of threads are.
extern uintptr_t stacks, stacks_end;
// Whether an address is in a block's shared memory; what it belongs to.
bool is_shared_variable(uintptr_t address, uintptr_t& start, uintptr_t& end);

// ---- Memory (memory.cpp) ---------------------------------------------------------------------------------------------------------------

// Whether the device may reach all of a range; says so if not.
bool reachable(const void* address, size_t bytes, const char* what);
// The same without a word. `end`: where what is reachable around it ends.
bool is_reachable(uintptr_t address, uintptr_t& start, uintptr_t& end);
// Globals of a loaded module are reachable too.
void add_range(uintptr_t start, size_t bytes);
void remove_range(uintptr_t start);

// ---- Streams (driver.cpp) --------------------------------------------------------------------------------------------------------------

// Does `work` now, or keeps it for the graph that the stream records.
CUresult submit(void* stream, std::function<CUresult()> work);

// ---- Checks (checks.cpp) ---------------------------------------------------------------------------------------------------------------

// Which thread of which block accesses memory, and how far it has come.
struct Stamp {
    uint32_t block, barriers;
    uint16_t thread, warp_barriers;
};
void begin_checks();
// Where in the code the next accesses are.
void check_place(void* code);
// The block makes known what it wrote, to those that come after its next atomic operation.
void check_fence();
// Whether an access is allowed and races with none before it; else says what is wrong.
bool check(uintptr_t address, unsigned bytes, Access access, const Stamp& stamp, std::string& problem);

} // namespace emu
