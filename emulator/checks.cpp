// What EMU_CHECK=1 watches: every access of a kernel to memory, and every index. Kernels are then compiled as for the sanitizers of threads and
// of undefined behaviour, whose calls end here.
//
// An access must lie in memory of the device and be aligned. Two accesses of one byte, one of them a write, by different threads must have a
// barrier between them (of the block, or __syncwarp inside a warp), be in different launches, or both be atomic. A block that finds with an
// atomic operation that another was there before it comes after what that block wrote before a fence (__threadfence).

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "runtime.h"

using namespace emu;

namespace {

constexpr uint16_t ATOMICALLY = 1 << 15; // beside a thread's number

struct Past {
    uint32_t block = 0, barriers = 0;
    uint16_t thread = 0, warp_barriers = 0;
    uint32_t place = 0; // in the code, lower half
};
struct Cell {
    Past write, reads[2];
};
struct Page {
    Cell cells[1024];
};

std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_key = 0, range_start = 0, range_end = 0, code = 0;
Page* last_page = nullptr;
uint32_t before_launch = 0; // number of the last block of the launch before
uint32_t fenced = 0;        // the block that last made known what it wrote
std::unordered_map<uintptr_t, std::vector<uint32_t>> visitors; // blocks that did and then were at an address with an atomic operation
uint32_t current = 0;
std::unordered_set<uint32_t> known; // those after which the current block comes

Cell& cell_of(uintptr_t address) {
    const uintptr_t key = address / 1024;
    if (key != last_key || !last_page) {
        auto& page = pages[key];
        if (!page) page = std::make_unique<Page>();
        last_key = key, last_page = page.get();
    }
    return last_page->cells[address % 1024];
}

bool is_shared(uintptr_t address) { return address >> 32 == 0; }

// Whether what was done there is sure to have ended before what is done now.
bool is_ordered(const Past& past, const Stamp& now, bool shared) {
    if (past.block != now.block) return shared || past.block <= before_launch || known.count(past.block);
    const unsigned thread = past.thread & ~ATOMICALLY;
    return thread == now.thread || past.barriers < now.barriers || (thread / 32 == now.thread / 32 && (int16_t)(now.warp_barriers - past.warp_barriers) > 0);
}

// A line of a source file.
std::string source_line(const std::string& path, int number) {
    std::ifstream source(path);
    std::string line;
    for (; number > 0 && std::getline(source, line); number--) {}
    const size_t first = line.find_first_not_of(' ');
    return "`" + (first == std::string::npos ? "?" : line.substr(first, 160)) + "`";
}

// The line of a place in the code.
std::string line_of(uintptr_t place) {
    Dl_info info;
    if (!place || !dladdr((void*)(place - 1), &info) || !info.dli_fname) return "?";
    char text[512];
    const char* file = info.dli_fname;
    std::string path = strncmp(file, "/proc/self/", 11) ? file : "/proc/" + std::to_string(getpid()) + "/" + (file + 11);
    snprintf(text, sizeof text, "addr2line -i -e '%s' 0x%zx", path.c_str(), (size_t)(place - 1 - (uintptr_t)info.dli_fbase));
    // From the inside out: the line, and those of the calls that became part of the function. What is of the emulator itself is left out.
    std::string found;
    if (FILE* pipe = popen(text, "r")) {
        for (int lines = 0; lines < 3 && fgets(text, sizeof text, pipe);) {
            const char* colon = strstr(text, ".cu:");
            if (!colon) continue;
            found += (lines++ ? " in " : "") + source_line(std::string(text, colon + 3 - text), atoi(colon + 4));
        }
        pclose(pipe);
    }
    return found.empty() ? "?" : found;
}

std::string race(const char* what, const Past& past, bool was_write, uintptr_t address) {
    char text[256];
    const unsigned thread = past.thread & ~ATOMICALLY;
    const char* other = past.thread & ATOMICALLY ? "an atomic operation" : was_write ? "a write" : "a read";
    snprintf(text, sizeof text, "a race in %s memory at %p: %s here with nothing to order it after %s of thread %u%s\n    here:  ", is_shared(address) ? "shared" : "global",
             (void*)address, what, other, thread, past.block == emu_state.block_number ? "" : " of another block");
    const uintptr_t there = (code & ~(uintptr_t)0xffffffff) | past.place;
    return text + line_of(code) + "\n    there: " + line_of(there);
}

} // namespace

void emu::check_place(void* place) { code = (uintptr_t)place; }

void emu::check_fence() { fenced = emu_state.block_number; }

void emu::begin_checks() {
    visitors.clear();
    before_launch = emu_state.block_number;
    range_start = range_end = 0;
    if (pages.size() > 4096) pages.clear(), last_page = nullptr;
}

bool emu::check(uintptr_t address, unsigned bytes, Access access, const Stamp& now, std::string& problem) {
    const char* what = access == READ ? "a read" : access == WRITE ? "a write" : "an atomic operation";
    const bool shared = is_shared(address);
    if (address < range_start || address + bytes > range_end) {
        const bool known = shared ? is_shared_variable(address, range_start, range_end) : is_reachable(address, range_start, range_end);
        if (!known || address + bytes > range_end) {
            char text[128];
            snprintf(text, sizeof text, "%s of %u bytes at %p, outside of all %s memory: ", what, bytes, (void*)address, shared ? "shared" : "the device's");
            problem = text + line_of(code);
            range_start = range_end = 0;
            return false;
        }
    }
    if (current != now.block) current = now.block, known.clear();
    if (access == ATOMIC && !shared) {
        std::vector<uint32_t>& before = visitors[address];
        known.insert(before.begin(), before.end());
        if (fenced == now.block && (before.empty() || before.back() != now.block)) before.push_back(now.block);
    }
    const Past mine = {now.block, now.barriers, (uint16_t)(now.thread | (access == ATOMIC ? ATOMICALLY : 0)), now.warp_barriers, (uint32_t)code};
    for (uintptr_t at = address; at < address + bytes; at++) {
        Cell& cell = cell_of(at);
        if (!is_ordered(cell.write, now, shared) && !(access == ATOMIC && cell.write.thread & ATOMICALLY)) {
            problem = race(what, cell.write, true, at);
            return false;
        }
        if (access == READ) {
            // Two reads are kept: the write that races with one of many is seldom by both threads.
            Past* place = &cell.reads[0];
            if (!is_ordered(*place, now, shared)) place = &cell.reads[1];
            *place = mine;
            continue;
        }
        for (const Past& read : cell.reads) {
            if (is_ordered(read, now, shared)) continue;
            problem = race(what, read, false, at);
            return false;
        }
        cell.write = mine;
    }
    return true;
}

// ---- What the compiler calls -----------------------------------------------------------------------------------------------------------

static inline void watch(void* address, unsigned bytes, Access access, void* from, bool aligned = true) {
    // A thread's own, and what says which thread it is.
    if ((uintptr_t)address - stacks < stacks_end - stacks || (uintptr_t)address - (uintptr_t)&emu_state < sizeof emu_state) return;
    check_place(from);
    if (aligned && (uintptr_t)address % bytes) emu_trap(("a misaligned access: " + line_of(code)).c_str());
    emu_access(address, bytes, access);
}

// What the language, or this machine unlike a GPU, leaves undefined; the descriptions begin with where it is.
struct Undefined {
    const char* file;
    uint32_t line, column;
};
static void undefined(const char* what, const Undefined& place) { emu_trap((std::string(what) + ": " + source_line(place.file, place.line)).c_str()); }

extern "C" {
void __ubsan_handle_type_mismatch_v1(const Undefined* place, void*) { undefined("a misaligned access", *place); }
void __ubsan_handle_out_of_bounds(const Undefined* place, void*) { undefined("an index outside of its array", *place); }
void __ubsan_handle_shift_out_of_bounds(const Undefined* place, void*, void*) { undefined("a shift by more bits than there are", *place); }
void __ubsan_handle_float_cast_overflow(const Undefined* place, void*) { undefined("a number too large for the integer it becomes", *place); }

#define EMU_WATCH(SIZE)                                                                                                   \
    void __tsan_read##SIZE(void* address) { watch(address, SIZE, READ, __builtin_return_address(0)); }                    \
    void __tsan_write##SIZE(void* address) { watch(address, SIZE, WRITE, __builtin_return_address(0)); }                  \
    void __tsan_unaligned_read##SIZE(void* address) { watch(address, SIZE, READ, __builtin_return_address(0), false); }   \
    void __tsan_unaligned_write##SIZE(void* address) { watch(address, SIZE, WRITE, __builtin_return_address(0), false); }
EMU_WATCH(1)
EMU_WATCH(2)
EMU_WATCH(4)
EMU_WATCH(8)
EMU_WATCH(16)
void __tsan_read_range(void* address, unsigned long bytes) { watch(address, bytes, READ, __builtin_return_address(0), false); }
void __tsan_write_range(void* address, unsigned long bytes) { watch(address, bytes, WRITE, __builtin_return_address(0), false); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
