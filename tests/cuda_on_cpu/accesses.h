// A part of scheduler.cpp: what the compiler calls before each access of a kernel to memory, and where it does what C++
// leaves undefined.
#pragma once

namespace cuda_on_cpu {
namespace {

[[noreturn]] void fail_access(const unsigned char* address, Word bytes, bool is_write) {
    const char* does = is_write ? "writes" : "reads";
    const Array* nearest = nullptr;
    Word distance = ~0ull;
    for (unsigned i = 0; i < launch->array_count; ++i) {
        const Array& array = launch->arrays[i];
        if (array.begin <= address && address + bytes <= array.end)
            fail("writes into %s, which is read-only", array.name);
        Word away = address < array.begin ? (Word)(array.begin - address) : (Word)(address - array.begin);
        if (address >= array.end) away = (Word)(address - array.end);
        if (away < distance) distance = away, nearest = &array;
    }
    const unsigned char* shared = current->block->dynamic;
    Word from_shared = address < shared ? (Word)(shared - address) : (Word)(address - shared);
    if (from_shared < 65536 && from_shared < distance + launch->shared_bytes)
        fail("%s %llu bytes at byte %lld of the dynamic shared memory, which has %u bytes", does, bytes,
             (long long)(address - shared), launch->shared_bytes);
    if (!nearest) fail("%s %llu bytes at %p, where it was given no array", does, bytes, (const void*)address);
    fail("%s %llu bytes at element %lld of %s, which has %llu elements", does, bytes,
         (long long)(address - nearest->begin) / (long long)nearest->element_bytes, nearest->name,
         (Word)(nearest->end - nearest->begin) / nearest->element_bytes);
}

inline void check_access(void* pointer, Word bytes, bool is_write) {
    const unsigned char* address = (const unsigned char*)pointer;
    if ((Word)(address - current->stack) >= launch->stack_bytes) {
        bool is_known = false;
        for (unsigned i = 0; i < launch->array_count && !is_known; ++i) {
            const Array& array = launch->arrays[i];
            is_known = array.begin <= address && address + bytes <= array.end && (array.is_writable || !is_write);
        }
        if (!is_known) {
            const unsigned char* shared = current->block->dynamic;
            is_known = (shared <= address && address + bytes <= shared + launch->shared_bytes) ||
                       (__ehdr_start <= address && address + bytes <= _end);
        }
        if (!is_known) fail_access(address, bytes, is_write);
        if (is_shuffled && --accesses_left == 0) {
            accesses_left = 1 + random_below(MOST_ACCESSES);
            let_others_on();
        }
    }
}

}  // namespace
}  // namespace cuda_on_cpu

using cuda_on_cpu::check_access;
using cuda_on_cpu::fail;
using cuda_on_cpu::Word;

#define HOOK extern "C" CUDA_ON_CPU_HIDDEN

HOOK void __tsan_init() {}
#define ACCESS(bytes)                                                                             \
    HOOK void __tsan_read##bytes(void* p) { check_access(p, bytes, false); }                      \
    HOOK void __tsan_write##bytes(void* p) { check_access(p, bytes, true); }                      \
    HOOK void __tsan_unaligned_read##bytes(void* p) { check_access(p, bytes, false); }            \
    HOOK void __tsan_unaligned_write##bytes(void* p) { check_access(p, bytes, true); }            \
    HOOK void __tsan_volatile_read##bytes(void* p) { check_access(p, bytes, false); }             \
    HOOK void __tsan_volatile_write##bytes(void* p) { check_access(p, bytes, true); }             \
    HOOK void __tsan_unaligned_volatile_read##bytes(void* p) { check_access(p, bytes, false); }   \
    HOOK void __tsan_unaligned_volatile_write##bytes(void* p) { check_access(p, bytes, true); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
HOOK void __tsan_read_range(void* p, Word bytes) { check_access(p, bytes, false); }
HOOK void __tsan_write_range(void* p, Word bytes) { check_access(p, bytes, true); }

struct Place {
    const char* file;
    unsigned line, column;
};

HOOK void __ubsan_handle_out_of_bounds(Place* at, Word index) {
    fail("takes element %lld of an array that has fewer, at %s:%u", (long long)index, at->file, at->line);
}
HOOK void __ubsan_handle_type_mismatch_v1(Place* at, Word address) {
    fail("uses address %#llx, which is not aligned for its type, at %s:%u", address, at->file, at->line);
}
HOOK void __ubsan_handle_shift_out_of_bounds(Place* at, Word, Word by) {
    fail("shifts by %lld, more than the type has bits, at %s:%u", (long long)by, at->file, at->line);
}
#define OVERFLOW(what, text)                                                   \
    HOOK void __ubsan_handle_##what##_overflow(Place* at, Word, Word) {        \
        fail("overflows a signed integer (" text ") at %s:%u", at->file, at->line); \
    }
OVERFLOW(add, "+")
OVERFLOW(sub, "-")
OVERFLOW(mul, "*")
OVERFLOW(negate, "negation")
HOOK void __ubsan_handle_divrem_overflow(Place* at, Word, Word) {
    fail("divides an integer by zero at %s:%u", at->file, at->line);
}
