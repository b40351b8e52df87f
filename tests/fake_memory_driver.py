"""CUDA's driver as far as host memory goes: a library in its place notes the calls and gives memory."""

import ctypes
import subprocess

# Refuses calls by name.
SOURCE = """
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <sys/mman.h>

struct Location { int type, id; };
static std::string calls, refused;
static std::map<int, int> attributes;
static std::map<uint64_t, size_t> taken;

template <class... A>
static int noted(const char* name, const char* format, A... given) {
    char line[300];
    const int length = snprintf(line, sizeof line, "%s ", name);
    snprintf(line + length, sizeof line - length, format, given...);
    calls += line + std::string("\\n");
    return refused.find(std::string(" ") + name + " ") == std::string::npos ? 0 : 801;
}
static uint64_t take(size_t size) {
    const uint64_t at = (uint64_t)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    taken[at] = size;
    return at;
}
static int give(uint64_t at) {
    const auto found = taken.find(at);
    if (found == taken.end()) return 1;
    munmap((void*)at, found->second);
    taken.erase(found);
    return 0;
}

extern "C" {
const char* note_calls() { return calls.c_str(); }
void note_nothing() { calls.clear(), refused.clear(), attributes.clear(); }
void refuse(const char* names) { refused = names; }
void answer(int attribute, int value) { attributes[attribute] = value; }
int left() { return taken.size(); }

int cuGetErrorName(int error, const char** name) { return *name = "ERROR_OF_THE_TEST", 0; }
int cuCtxGetDevice(int* device) { return *device = 5, 0; }
int cuCtxSynchronize() { return noted("cuCtxSynchronize", ""); }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device != 5 || !attributes.count(attribute)) return 1;
    return *value = attributes[attribute], 0;
}
int cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
    if (const int status = noted("cuMemHostAlloc", "%zu flags %u", size, flags)) return status;
    return *pointer = (void*)take(size), 0;
}
int cuMemFreeHost(void* pointer) { return noted("cuMemFreeHost", "") | give((uint64_t)pointer); }
int cuMemAllocManaged(uint64_t* at, size_t size, unsigned flags) {
    if (const int status = noted("cuMemAllocManaged", "%zu flags %u", size, flags)) return status;
    return *at = take(size), 0;
}
int cuMemFree_v2(uint64_t at) { return noted("cuMemFree_v2", "") | give(at); }
int cuMemAdvise(uint64_t at, size_t size, int advice, int device) {
    return noted("cuMemAdvise", "%zu %d for %d", size, advice, device);
}
int cuMemPrefetchAsync(uint64_t at, size_t size, int device, void* stream) {
    return noted("cuMemPrefetchAsync", "%zu to %d stream %d", size, device, stream != nullptr);
}
#ifndef OLD
int cuMemAdvise_v2(uint64_t at, size_t size, int advice, Location location) {
    return noted("cuMemAdvise_v2", "%zu %d for %d:%d", size, advice, location.type, location.id);
}
int cuMemPrefetchAsync_v2(uint64_t at, size_t size, Location location, unsigned flags, void* stream) {
    const char* format = "%zu to %d:%d flags %u stream %d";
    return noted("cuMemPrefetchAsync_v2", format, size, location.type, location.id, flags, stream != nullptr);
}
#endif
}
"""
# An attribute of the device: that host and device may use managed memory at the same time.
MANAGED = 89
SIZE = 200_000
ALLOCATED = f"cuMemAllocManaged {SIZE} flags 1"
FREED = "cuMemFree_v2"
# By driver: what is said of the first block of SIZE, and how it is settled.
ADVISED = {
    "new": [f"cuMemAdvise_v2 {SIZE} 3 for 2:0", f"cuMemAdvise_v2 {SIZE} 5 for 1:5"],
    "old": [f"cuMemAdvise {SIZE} 3 for -1", f"cuMemAdvise {SIZE} 5 for 5"],
}
SETTLED = {
    "new": [f"cuMemPrefetchAsync_v2 {SIZE} to 2:0 flags 0 stream 0", "cuCtxSynchronize"],
    "old": [f"cuMemPrefetchAsync {SIZE} to -1 stream 0", "cuCtxSynchronize"],
}


def compile_drivers(folder):
    """Paths of drivers that g++ compiles into a folder: a new one, and an old one that knows no locations."""
    (folder / "driver.cpp").write_text(SOURCE)
    names = "new", "old"
    for name in names:
        options = ["-shared", "-fPIC", f"-D{name.upper()}", "-o", f"{name}.so"]
        subprocess.run(["g++", *options, "driver.cpp"], cwd=folder, check=True)
    return {name: str(folder / f"{name}.so") for name in names}


class FakeMemoryDriver:
    """The library, and what it has noted."""

    def __init__(self, path, calls):
        """calls: the class of what calls it, MemoryDriver or one that knows more."""
        self.calls, self.library = calls(path), ctypes.CDLL(path)
        self.library.note_calls.restype = ctypes.c_char_p
        self.library.note_nothing()
        self.library.answer(MANAGED, 1)

    def refuse(self, *names):
        self.library.refuse("".join(f" {name} " for name in names).encode())

    def noted(self):
        return [line.strip() for line in self.library.note_calls().decode().splitlines()]

    def left(self):
        return self.library.left()
