// What translated kernels and the machine that runs them know of each other. Kernels are compiled without any other header.
#pragma once

namespace emu {

struct Uint3 {
    unsigned x, y, z;
};

// The running thread as kernels see it.
struct State {
    Uint3 thread, block, block_size, grid_size;
    unsigned char* dynamic_shared;
    unsigned dynamic_bytes;
    unsigned block_number; // counts on through all launches: tells whether shared memory belongs to this block
    bool checks;           // whether accesses are watched
};

// A `__shared__` variable, which gets its place in the block's shared memory when a thread of a block first comes by.
struct Shared {
    unsigned size, align;
    unsigned block_number = 0;
    void* memory = nullptr;
};

// What a kernel's name leads to.
struct Kernel {
    void (*call)(void** arguments);
    const unsigned* sizes; // of its arguments, in bytes
    unsigned count, most_threads;
};

void sync_warp(void* const* lanes); // does nothing; the machine knows it as what orders memory

enum Access { READ, WRITE, ATOMIC };

// What all lanes of a collective operation do together, once all have come: `lanes[i]` is what lane i brought, null where it takes no part.
typedef void (*Collective)(void* const* lanes);

extern "C" {
extern State emu_state;
void emu_collective(unsigned mask, Collective together, void* mine);
void emu_barrier(unsigned id, unsigned threads, bool waits);   // no threads: all of the block
unsigned emu_barrier_sum(unsigned value);                      // of all threads, at barrier 0
void emu_pass();                                               // lets others run
void* emu_shared(Shared& variable);
void emu_access(const void* address, unsigned size, Access access, int lane = -1); // lane: of this warp, else the running one
void emu_here(); // the next accesses are those of the caller's line
void emu_fence();
[[noreturn]] void emu_trap(const char* why);
void emu_copy_later(void* to, const void* from, unsigned bytes, unsigned zeros);
void emu_copies_commit();
void emu_copies_wait(unsigned pending);
}

} // namespace emu
