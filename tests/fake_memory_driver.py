"""CUDA's driver as far as host memory goes: a library in its place notes the calls and gives memory."""

import ctypes
import subprocess

GRANULARITY = 2**16
# Refuses calls by name and locations by type. Memory that may not be used by the host yet is not accessible.
SOURCE = """
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <sys/mman.h>

struct Location { int type, id; };
struct Wanted {
    int type, handles;
    Location location;
    void* windows;
    unsigned char compression, direct;
    unsigned short usage;
    unsigned char reserved[4];
};
struct Access { Location location; int flags; };

static std::string calls, refused;
static int refused_location;
static std::map<int, int> attributes;
static std::map<uint64_t, size_t> taken;  // addresses and handles

template <class... A>
static int noted(const char* name, const char* format, A... given) {
    char line[300];
    const int length = snprintf(line, sizeof line, "%s ", name);
    snprintf(line + length, sizeof line - length, format, given...);
    calls += line + std::string("\\n");
    return refused.find(std::string(" ") + name + " ") == std::string::npos ? 0 : 801;
}
static uint64_t take(size_t size, int access) {
    const uint64_t at = (uint64_t)mmap(nullptr, size, access, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    taken[at] = size;
    return at;
}
static int give(uint64_t at, size_t size) {
    const auto found = taken.find(at);
    if (found == taken.end() || (size && found->second != size)) return 1;
    munmap((void*)at, found->second);
    taken.erase(found);
    return 0;
}

extern "C" {
const char* note_calls() { return calls.c_str(); }
void note_nothing() { calls.clear(), refused.clear(), attributes.clear(), refused_location = 0; }
void refuse(const char* names, int location) { refused = names, refused_location = location; }
void answer(int attribute, int value) { attributes[attribute] = value; }
int left() { return taken.size(); }

int cuGetErrorName(int error, const char** name) { return *name = "ERROR_OF_THE_TEST", 0; }
int cuInit(unsigned flags) { return noted("cuInit", "flags %u", flags); }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)(uint64_t)(device + 1), 0; }
int cuCtxSetCurrent(void* context) { return context != (void*)6; }
int cuCtxGetDevice(int* device) { return *device = 5, 0; }
int cuCtxSynchronize() { return noted("cuCtxSynchronize", ""); }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (device != 5 || !attributes.count(attribute)) return 1;
    return *value = attributes[attribute], 0;
}
int cuMemHostAlloc(void** pointer, size_t size, unsigned flags) {
    if (const int status = noted("cuMemHostAlloc", "%zu flags %u", size, flags)) return status;
    return *pointer = (void*)take(size, PROT_READ | PROT_WRITE), 0;
}
int cuMemFreeHost(void* pointer) { return noted("cuMemFreeHost", "") | give((uint64_t)pointer, 0); }
int cuMemGetAllocationGranularity(size_t* granularity, const Wanted* wanted, int option) {
    *granularity = GRANULARITY;
    const Location& location = wanted->location;
    return noted("cuMemGetAllocationGranularity", "at %d:%d option %d", location.type, location.id, option);
}
int cuMemAddressReserve(uint64_t* at, size_t size, size_t alignment, uint64_t hint, unsigned long long flags) {
    const char* format = "%zu alignment %zu hint %d flags %d";
    if (const int status = noted("cuMemAddressReserve", format, size, alignment, (int)hint, (int)flags)) return status;
    return *at = take(size, PROT_NONE), 0;
}
int cuMemAddressFree(uint64_t at, size_t size) { return noted("cuMemAddressFree", "%zu", size) | give(at, size); }
int cuMemCreate(uint64_t* handle, size_t size, const Wanted* wanted, unsigned long long flags) {
#ifdef CRASHING
    std::abort();
#endif
#ifdef REFUSING
    return 1;
#endif
    const Location& location = wanted->location;
    const int flag = wanted->compression | wanted->direct | wanted->usage;
    const int rest = flag | wanted->handles | (wanted->windows != nullptr);
    const char* format = "%zu type %d at %d:%d rest %d flags %d";
    const int status =
        noted("cuMemCreate", format, size, wanted->type, location.type, location.id, rest, (int)flags);
    if (status || location.type == refused_location) return status ? status : 1;
    for (*handle = 77; taken.count(*handle);) ++*handle;
    return taken[*handle] = 0, 0;
}
int cuMemRelease(uint64_t handle) { return noted("cuMemRelease", "%d", (int)handle) | (taken.erase(handle) != 1); }
int cuMemMap(uint64_t at, size_t size, size_t offset, uint64_t handle, unsigned long long flags) {
    const char* format = "%zu offset %zu handle %d flags %d";
    return noted("cuMemMap", format, size, offset, (int)handle, (int)flags) | !taken.count(at);
}
int cuMemUnmap(uint64_t at, size_t size) { return noted("cuMemUnmap", "%zu", size) | !taken.count(at); }
int cuMemSetAccess(uint64_t at, size_t size, const Access* access, size_t count) {
    std::string places;
    for (size_t i = 0; i < count; ++i) {
        const Location& location = access[i].location;
        char place[100];
        snprintf(place, sizeof place, " %d:%d=%d", location.type, location.id, access[i].flags);
        places += place;
        if (location.type > 1) mprotect((void*)at, size, PROT_READ | PROT_WRITE);
    }
    return noted("cuMemSetAccess", "%zu%s", size, places.c_str());
}
int cuMemAllocManaged(uint64_t* at, size_t size, unsigned flags) {
    if (const int status = noted("cuMemAllocManaged", "%zu flags %u", size, flags)) return status;
    return *at = take(size, PROT_READ | PROT_WRITE), 0;
}
int cuMemFree_v2(uint64_t at) { return noted("cuMemFree_v2", "") | give(at, 0); }
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
# Attributes of the device.
MANAGED, NODE = 89, 134
SIZE = 3 * GRANULARITY - 4000
ROUNDED = 3 * GRANULARITY
RESERVED = f"cuMemAddressReserve {ROUNDED} alignment {2**21} hint 0 flags 0"
UNDONE = [f"cuMemUnmap {ROUNDED}", "cuMemRelease 77", f"cuMemAddressFree {ROUNDED}"]


def compile_drivers(folder):
    """Paths of drivers that g++ compiles into a folder: a new and an old one, and two that create no memory."""
    (folder / "driver.cpp").write_text(SOURCE)
    names = "new", "old", "crashing", "refusing"
    for name in names:
        options = ["-shared", "-fPIC", f"-DGRANULARITY={GRANULARITY}", f"-D{name.upper()}", "-o", f"{name}.so"]
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
        self.library.answer(NODE, 1)

    def refuse(self, *names, location=0):
        self.library.refuse("".join(f" {name} " for name in names).encode(), location)

    def noted(self):
        return [line.strip() for line in self.library.note_calls().decode().splitlines()]

    def left(self):
        return self.library.left()


def created_calls(location):
    """What the first block of SIZE asks for, for the device and its host."""
    return [
        f"cuMemGetAllocationGranularity at {location} option 1",
        RESERVED,
        f"cuMemCreate {ROUNDED} type 1 at {location} rest 0 flags 0",
        f"cuMemMap {ROUNDED} offset 0 handle 77 flags 0",
        *(f"cuMemSetAccess {ROUNDED} {place}=3" for place in ("1:5", location)),
    ]
