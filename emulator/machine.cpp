// Blocks of threads on one processor: every thread is a fiber that runs until it waits for others.
//
// Threads run in the order that EMU_ORDER says (forward, reverse, random), blocks one after another. A thread that forgot to wait for another
// finds in one of the orders what the other has not written yet: fresh shared memory holds no numbers.

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

#include "runtime.h"

using namespace emu;

State emu::emu_state;
uintptr_t emu::stacks, emu::stacks_end;

namespace {

constexpr size_t STACK = 256 << 10, PAGE = 4096, ARENA = 256 << 20;
constexpr unsigned MOST_THREADS = 1024, BARRIERS = 16;

struct Copy {
    void* to;
    const void* from;
    unsigned bytes, zeros, group;
    void* place; // in the code
};

struct Fiber {
    void* stack_pointer;
    Uint3 thread;
    unsigned barriers, warp_barriers;
    unsigned commits;
    std::vector<Copy> copies; // cp.async that has not arrived
};

struct Warp {
    unsigned live, ready; // lanes
    unsigned called;      // lanes that wait in a collective operation
    struct Call {
        unsigned mask;
        Collective together;
        void* mine;
    } calls[32];
};

struct Barrier {
    unsigned arrived, expected; // 0: all threads that have not ended
    unsigned sum, result;
    unsigned waiting[MOST_THREADS / 32];
};

enum class Order { Forward, Reverse, Random };

// The machine. One launch at a time has it.
struct Machine {
    std::mutex lock;
    unsigned char* arena = nullptr; // shared memory: first what is sized at the start, then variables
    unsigned taken = MOST_SHARED + 1024;
    std::map<uintptr_t, unsigned> variables; // where they are, and their sizes
    Fiber fibers[MOST_THREADS];
    Warp warps[MOST_THREADS / 32];
    Barrier barriers[BARRIERS];
    unsigned threads = 0, warp_count = 0, live = 0, current = 0;
    unsigned static_shared = 0;
    void* scheduler = nullptr; // its stack pointer
    const Launch* launch = nullptr;
    void** arguments = nullptr;
    CUresult failure = CUDA_SUCCESS;
    Order order = Order::Forward;
    bool copies_early = false;
    std::minstd_rand random;
    struct sigaction before[3];
} machine;

constexpr int SIGNALS[3] = {SIGSEGV, SIGBUS, SIGFPE};

} // namespace

void emu::say(const char* format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "emulated CUDA: %s\n", text);
}

long emu::setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}
bool emu::is_set(const char* name, const char* value) {
    const char* text = getenv(name);
    return text && strcmp(text, value) == 0;
}

// ---- Fibers ----------------------------------------------------------------------------------------------------------------------------

extern "C" void emu_switch(void** from, void* to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emu_switch, . - emu_switch
)");

namespace {

constexpr unsigned NONE = ~0u;

// The thread that runs next; none when all wait or have ended.
unsigned next_thread(Order order = machine.order) {
    const unsigned count = machine.warp_count;
    if (order == Order::Random) {
        for (unsigned i = 0, first = machine.random() % count; i < count; i++) {
            const unsigned w = (first + i) % count, ready = machine.warps[w].ready;
            if (!ready) continue;
            const unsigned shift = machine.random() % 32, turned = ready >> shift | ready << (-shift & 31);
            return w * 32 + (__builtin_ctz(turned) + shift) % 32;
        }
        return NONE;
    }
    // This warp first, then those after it.
    const bool forward = order == Order::Forward;
    const unsigned first = machine.current / 32;
    for (unsigned i = 0; i < count; i++) {
        const unsigned w = forward ? (first + i < count ? first + i : first + i - count) : first >= i ? first - i : first + count - i;
        if (const unsigned ready = machine.warps[w].ready) return w * 32 + (forward ? __builtin_ctz(ready) : 31 - __builtin_clz(ready));
    }
    return NONE;
}

void enter(unsigned thread) {
    machine.current = thread;
    emu_state.thread = machine.fibers[thread].thread;
}

// Runs another thread until this one is ready again, and chosen.
void yield(Order order = machine.order) {
    const unsigned self = machine.current, next = next_thread(order);
    if (next == self) return;
    if (next != NONE) enter(next);
    emu_switch(&machine.fibers[self].stack_pointer, next == NONE ? machine.scheduler : machine.fibers[next].stack_pointer);
}

[[noreturn]] void abandon(CUresult failure) {
    machine.failure = failure;
    void* unused;
    emu_switch(&unused, machine.scheduler);
    __builtin_unreachable();
}

std::string place() {
    char text[512];
    const Uint3 &b = emu_state.block, &t = emu_state.thread;
    snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u)", machine.launch->name, b.x, b.y, b.z, t.x, t.y, t.z);
    return text;
}

unsigned lane() { return machine.current % 32; }
Warp& warp() { return machine.warps[machine.current / 32]; }

// ---- Collective operations and barriers ------------------------------------------------------------------------------------------------

// Does a warp's collective operation if all its lanes have come.
bool complete(Warp& warp, unsigned mask, Collective together) {
    const unsigned needed = mask & warp.live;
    if (!needed || (warp.called & needed) != needed) return false;
    void* lanes[32] = {};
    for (unsigned i = 0; i < 32; i++) {
        if (!(needed >> i & 1)) continue;
        if (warp.calls[i].mask != mask || warp.calls[i].together != together) return false;
        lanes[i] = warp.calls[i].mine ? warp.calls[i].mine : &warp;
    }
    if (together == sync_warp) {
        Fiber* fibers = machine.fibers + (&warp - machine.warps) * 32;
        unsigned most = 0;
        for (unsigned i = 0; i < 32; i++)
            if (lanes[i]) most = std::max(most, fibers[i].warp_barriers + 1);
        for (unsigned i = 0; i < 32; i++)
            if (lanes[i]) fibers[i].warp_barriers = most;
    } else {
        together(lanes);
    }
    warp.called &= ~needed;
    warp.ready |= needed;
    return true;
}

// Lets a barrier's threads go on if enough have come.
bool complete(Barrier& barrier) {
    if (barrier.arrived == 0 || barrier.arrived < (barrier.expected ? barrier.expected : machine.live)) return false;
    for (unsigned w = 0; w < machine.warp_count; w++) {
        for (unsigned left = barrier.waiting[w]; left; left &= left - 1) machine.fibers[w * 32 + __builtin_ctz(left)].barriers++;
        machine.warps[w].ready |= barrier.waiting[w];
        barrier.waiting[w] = 0;
    }
    barrier.result = barrier.sum;
    barrier.arrived = barrier.sum = 0;
    return true;
}

// Copies arrive as late as they may, or at once (EMU_COPIES=early).
void perform(const Copy& copy) {
    if (emu_state.checks) {
        check_place(copy.place);
        if (copy.bytes) emu_access(copy.from, copy.bytes, READ);
        emu_access(copy.to, copy.bytes + copy.zeros, WRITE);
    }
    memcpy(copy.to, copy.from, copy.bytes);
    memset((char*)copy.to + copy.bytes, 0, copy.zeros);
}

void arrive(unsigned id, unsigned threads, unsigned value, bool waits) {
    if (id >= BARRIERS || threads > machine.threads) emu_trap("a barrier that does not exist, or for more threads than the block has");
    Barrier& barrier = machine.barriers[id];
    if (barrier.arrived > 0 && barrier.expected != threads) emu_trap("threads at one barrier that expect different numbers");
    barrier.expected = threads;
    barrier.arrived++;
    barrier.sum += value;
    if (waits) {
        barrier.waiting[machine.current / 32] |= 1u << lane();
        warp().ready &= ~(1u << lane());
    }
    if (!complete(barrier) && waits) yield();
}

// What every fiber does.
void thread_main() {
    machine.launch->kernel->call(machine.arguments);
    emu_copies_commit();
    emu_copies_wait(0);
    const unsigned bit = 1u << lane();
    Warp& mine = warp();
    mine.live &= ~bit;
    mine.ready &= ~bit;
    machine.live--;
    // It may have been the last that others waited for.
    for (unsigned i = 0; i < 32; i++)
        if (mine.called >> i & 1) complete(mine, mine.calls[i].mask, mine.calls[i].together);
    if (machine.barriers[0].expected == 0) complete(machine.barriers[0]);
    yield();
    __builtin_unreachable();
}

void prepare(unsigned thread) {
    Fiber& fiber = machine.fibers[thread];
    void** top = (void**)(stacks + (thread + 1) * (STACK + PAGE));
    *--top = nullptr;
    *--top = (void*)thread_main;
    top -= 6;
    std::fill(top, top + 6, nullptr);
    fiber.stack_pointer = top;
    fiber.barriers = fiber.warp_barriers = fiber.commits = 0;
    fiber.copies.clear();
}

void list_waiting() {
    for (unsigned w = 0; w < machine.warp_count; w++) {
        const Warp& warp = machine.warps[w];
        if (!warp.live) continue;
        std::string text = "threads " + std::to_string(w * 32) + " to " + std::to_string(std::min(w * 32 + 31, machine.threads - 1)) + ":";
        char part[128];
        const auto add = [&](const char* what, unsigned lanes) {
            if (!lanes) return;
            snprintf(part, sizeof part, " lanes %08x %s;", lanes, what);
            text += part;
        };
        add("wait in a warp's collective operation", warp.called);
        for (unsigned id = 0; id < BARRIERS; id++) add(("wait at barrier " + std::to_string(id)).c_str(), machine.barriers[id].waiting[w]);
        unsigned exited = ~warp.live;
        if (w == machine.warp_count - 1 && machine.threads % 32) exited &= (1u << machine.threads % 32) - 1;
        add("have ended", exited);
        say("  %s", text.c_str());
    }
}

void run_block() {
    emu_state.block_number++;
    machine.static_shared = 0;
    memset(machine.arena, 0xff, emu_state.dynamic_bytes);
    memset(machine.barriers, 0, sizeof machine.barriers);
    machine.live = machine.threads;
    for (unsigned w = 0; w < machine.warp_count; w++) {
        const unsigned lanes = std::min(32u, machine.threads - w * 32);
        machine.warps[w].live = machine.warps[w].ready = lanes == 32 ? ~0u : (1u << lanes) - 1;
        machine.warps[w].called = 0;
    }
    for (unsigned i = 0; i < machine.threads; i++) prepare(i);
    machine.current = machine.order == Order::Forward ? 0 : machine.threads - 1;
    for (unsigned next; (next = next_thread()) != NONE && machine.failure == CUDA_SUCCESS;) {
        enter(next);
        emu_switch(&machine.scheduler, machine.fibers[next].stack_pointer);
    }
    if (machine.failure == CUDA_SUCCESS && machine.live > 0) {
        const Uint3& b = emu_state.block;
        say("kernel %s, block (%u, %u, %u): threads wait for each other in vain", machine.launch->name, b.x, b.y, b.z);
        list_waiting();
        machine.failure = CUDA_ERROR_LAUNCH_FAILED;
    }
}

// ---- Launches --------------------------------------------------------------------------------------------------------------------------

void on_signal(int signal, siginfo_t* info, void*) {
    const char* what = signal == SIGFPE ? "a division by zero" : "an illegal or misaligned address";
    say("%s: %s, %p", place().c_str(), what, signal == SIGFPE ? nullptr : info->si_addr);
    abandon(CUDA_ERROR_ILLEGAL_ADDRESS);
}

void prepare_machine() {
    if (machine.arena) return;
    const size_t bytes = MOST_THREADS * (STACK + PAGE);
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    machine.arena = (unsigned char*)mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0);
    if (mapped == MAP_FAILED || machine.arena == MAP_FAILED) {
        say("no memory for the machine itself");
        abort();
    }
    stacks = (uintptr_t)mapped, stacks_end = stacks + bytes;
    // A stack that grows too far meets a page that is not there.
    for (unsigned i = 0; i < MOST_THREADS; i++) mprotect((void*)(stacks + i * (STACK + PAGE)), PAGE, PROT_NONE);
    machine.order = is_set("EMU_ORDER", "reverse") ? Order::Reverse : is_set("EMU_ORDER", "random") ? Order::Random : Order::Forward;
    machine.random.seed(setting("EMU_SEED", 1));
    machine.copies_early = is_set("EMU_COPIES", "early");
    emu_state.checks = setting("EMU_CHECK", 0) != 0;
}

// In which order blocks run.
std::vector<uint64_t> block_order(uint64_t count) {
    std::vector<uint64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    if (machine.order == Order::Reverse) std::reverse(order.begin(), order.end());
    if (machine.order == Order::Random) std::shuffle(order.begin(), order.end(), machine.random);
    return order;
}

} // namespace

CUresult emu::run(const Launch& launch, void** arguments) {
    std::lock_guard<std::mutex> guard(machine.lock);
    prepare_machine();
    machine.launch = &launch;
    machine.arguments = arguments;
    machine.failure = CUDA_SUCCESS;
    machine.threads = launch.block.x * launch.block.y * launch.block.z;
    machine.warp_count = (machine.threads + 31) / 32;
    emu_state.grid_size = launch.grid;
    emu_state.block_size = launch.block;
    emu_state.dynamic_shared = machine.arena;
    emu_state.dynamic_bytes = launch.dynamic_shared;
    for (unsigned i = 0; i < machine.threads; i++)
        machine.fibers[i].thread = {i % launch.block.x, i / launch.block.x % launch.block.y, i / launch.block.x / launch.block.y};
    if (emu_state.checks) begin_checks();

    static unsigned char signal_stack[64 << 10];
    stack_t stack = {}, stack_before;
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof signal_stack;
    sigaltstack(&stack, &stack_before);
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &action, &machine.before[i]);
    for (uint64_t i : block_order((uint64_t)launch.grid.x * launch.grid.y * launch.grid.z)) {
        emu_state.block = {(unsigned)(i % launch.grid.x), (unsigned)(i / launch.grid.x % launch.grid.y), (unsigned)(i / launch.grid.x / launch.grid.y)};
        run_block();
        if (machine.failure != CUDA_SUCCESS) break;
    }
    for (int i = 0; i < 3; i++) sigaction(SIGNALS[i], &machine.before[i], nullptr);
    sigaltstack(&stack_before, nullptr);
    return machine.failure;
}

bool emu::is_shared_variable(uintptr_t address, uintptr_t& start, uintptr_t& end) {
    start = (uintptr_t)machine.arena, end = start + emu_state.dynamic_bytes;
    if (address >= start && address < end) return true;
    const auto after = machine.variables.upper_bound(address);
    if (after == machine.variables.begin()) return false;
    start = std::prev(after)->first, end = start + std::prev(after)->second;
    return address < end;
}

// ---- What kernels call -----------------------------------------------------------------------------------------------------------------

void emu::sync_warp(void* const*) {}

void emu::emu_collective(unsigned mask, Collective together, void* mine) {
    const unsigned bit = 1u << lane();
    if (emu_state.checks) check_place(__builtin_return_address(0));
    if (!(mask & bit)) emu_trap("a lane that is not in the mask it gives");
    Warp& w = warp();
    w.calls[lane()] = {mask, together, mine};
    w.called |= bit;
    w.ready &= ~bit;
    if (!complete(w, mask, together)) yield();
}

void emu::emu_barrier(unsigned id, unsigned threads, bool waits) { arrive(id, threads, 0, waits); }

unsigned emu::emu_barrier_sum(unsigned value) {
    arrive(0, 0, value, true);
    return machine.barriers[0].result;
}

void emu::emu_pass() {
    const unsigned bit = 1u << lane();
    Warp& w = warp();
    w.ready &= ~bit;
    const bool others = next_thread() != NONE;
    w.ready |= bit;
    if (others) yield(Order::Random); // in no fixed order, lest two take turns that wait for a third
}

void emu::emu_trap(const char* why) {
    say("%s: %s", place().c_str(), why);
    abandon(CUDA_ERROR_LAUNCH_FAILED);
}

void* emu::emu_shared(Shared& variable) {
    if (variable.block_number == emu_state.block_number) return variable.memory;
    if (!variable.memory) {
        const unsigned start = (machine.taken + variable.align - 1) / variable.align * variable.align;
        machine.taken = start + variable.size + 64;
        if (machine.taken > ARENA) emu_trap("too many shared variables in one process for this machine");
        variable.memory = machine.arena + start;
        machine.variables[(uintptr_t)variable.memory] = variable.size;
    }
    machine.static_shared += variable.size;
    if (machine.static_shared > MOST_STATIC_SHARED) emu_trap("more than 48 KiB of shared variables in a block");
    if (machine.static_shared + emu_state.dynamic_bytes > MOST_SHARED) emu_trap("more than 163 KiB of shared memory in a block");
    variable.block_number = emu_state.block_number;
    memset(variable.memory, 0xff, variable.size);
    return variable.memory;
}

void emu::emu_copy_later(void* to, const void* from, unsigned bytes, unsigned zeros) {
    Fiber& fiber = machine.fibers[machine.current];
    const unsigned size = bytes + zeros;
    if ((uintptr_t)to % size || (uintptr_t)from % size) emu_trap("cp.async of what is not aligned to its size");
    const Copy copy = {to, from, bytes, zeros, fiber.commits, __builtin_return_address(0)};
    if (machine.copies_early) perform(copy);
    else fiber.copies.push_back(copy);
}

void emu::emu_copies_commit() { machine.fibers[machine.current].commits++; }

void emu::emu_copies_wait(unsigned pending) {
    Fiber& fiber = machine.fibers[machine.current];
    size_t done = 0;
    for (; done < fiber.copies.size() && fiber.copies[done].group + pending < fiber.commits; done++) perform(fiber.copies[done]);
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + done);
}

void emu::emu_here() { check_place(__builtin_return_address(0)); }

void emu::emu_fence() {
    if (emu_state.checks) check_fence();
}

void emu::emu_access(const void* address, unsigned size, Access access, int of_lane) {
    const unsigned thread = of_lane < 0 ? machine.current : machine.current / 32 * 32 + of_lane;
    const Fiber& fiber = machine.fibers[thread];
    std::string problem;
    const Stamp stamp = {emu_state.block_number, fiber.barriers, (uint16_t)thread, (uint16_t)fiber.warp_barriers};
    if (!check((uintptr_t)address, size, access, stamp, problem)) emu_trap(problem.c_str());
}
