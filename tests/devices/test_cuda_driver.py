"""Launches as the driver gets them: a library in its place notes what it reads."""

import ctypes
import shutil
import subprocess
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cupyrec.devices.cuda_driver import Launcher, load_driver
from cupyrec.devices.cuda_kernel import DTYPE_OF, CudaKernel

# Notes the last call: where each parameter of a launch is read, as many bytes as it has, told by note_sizes.
SOURCE = """
#include <cstdint>
#include <cstring>

static thread_local struct {
    int sizes[32], count, status;
    int64_t numbers[10];
    unsigned char values[32][8];
} note;

extern "C" {
void note_sizes(int count, const int* sizes) {
    note.count = count;
    memcpy(note.sizes, sizes, count * sizeof(int));
    memset(note.values, 0xEE, sizeof note.values);
}
void answer(int status) { note.status = status; }
const int64_t* numbers() { return note.numbers; }
const unsigned char* values() { return note.values[0]; }

static int noted(int64_t a, int64_t b, int64_t c, int64_t d) {
    const int64_t given[] = {a, b, c, d};
    memcpy(note.numbers, given, sizeof given);
    return note.status;
}
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y,
                   unsigned threads_z, unsigned shared_bytes, void* stream, void** parameters, void** extra) {
    const int64_t given[] = {(int64_t)function, x, y, z, threads_x, threads_y, threads_z, shared_bytes,
                             (int64_t)stream, (int64_t)extra};
    memcpy(note.numbers, given, sizeof given);
    for (int i = 0; i < note.count; ++i) memcpy(note.values[i], parameters[i], note.sizes[i]);
    return note.status;
}
int cuEventRecord(void* event, void* stream) { return noted((int64_t)event, (int64_t)stream, -1, -1); }
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) {
    return noted((int64_t)stream, (int64_t)event, flags, -1);
}
int cuMemcpyAsync(uint64_t target, uint64_t source, size_t size, void* stream) {
    return noted(target, source, size, (int64_t)stream);
}
int cuEventQuery(void* event) { return noted((int64_t)event, -1, -1, -1); }
int cuGraphLaunch(void* graph, void* stream) { return noted((int64_t)graph, (int64_t)stream, -1, -1); }
}
"""
FUNCTION, STREAM = 0x7FEDCBA987654321, 0x8765432112345678


class Array:
    """A device array that does not say in short whether it is contiguous."""

    def __init__(self, dtype, pointer=0x0123456789ABCDEF, shape=(4, 3)):
        array = np.zeros(shape, dtype)
        self.shape, self.dtype, self.flags, self.data = shape, array.dtype, array.flags, SimpleNamespace(ptr=pointer)

    @classmethod
    def like(cls, array):
        made = cls(array.dtype, array.data.ptr, array.shape)
        made.flags = array.flags
        return made

    @property
    def T(self):
        array = Array(self.dtype, self.data.ptr)
        array.flags = np.zeros(self.shape).T.flags
        return array


class ShortArray(Array):
    """One that does, as CuPy's do."""

    _c_contiguous = property(lambda self: self.flags.c_contiguous)


@pytest.fixture(scope="module")
def library_path(tmp_path_factory):
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile a driver with")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.cpp").write_text(SOURCE)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", "libdriver.so", "driver.cpp"], cwd=folder, check=True)
    return str(folder / "libdriver.so")


class Driver:
    """The library, and what it has noted in the calling thread."""

    def __init__(self, path):
        self.calls, self.library = load_driver(path), ctypes.CDLL(path)
        self.library.numbers.restype = ctypes.POINTER(ctypes.c_int64)
        self.library.values.restype = ctypes.POINTER(ctypes.c_ubyte)
        self.library.answer(0)

    def numbers(self, count):
        return self.library.numbers()[:count]

    def launch(self, launcher, parameters, arguments, grid=(3, 2, 1), block=(64, 4, 2)):
        """Give the values that the driver reads, each by its size, or the number of an error."""
        sizes = [8 if parameter.is_array else parameter.dtype.itemsize for parameter in parameters]
        self.library.note_sizes(len(sizes), (ctypes.c_int * len(sizes))(*sizes))
        status = launcher.launch(ctypes.c_void_p(STREAM), grid, block, arguments)
        read = bytes(self.library.values()[: 8 * len(sizes)])
        return status or [read[8 * i : 8 * i + size] for i, size in enumerate(sizes)]


@pytest.fixture
def driver(library_path):
    return Driver(library_path)


def kernel_of(tmp_path, parameters):
    path = tmp_path / "some.cu"
    path.write_text(f'extern "C" __global__ void some({parameters}) {{}}')
    return CudaKernel(path, "some")


def launcher_of(driver, kernel, array_type=Array):
    return Launcher(driver.calls, kernel, FUNCTION, array_type)


def bytes_of(argument):
    return np.uint64(argument.data.ptr).tobytes() if isinstance(argument, Array) else argument.tobytes()


def test_a_driver_that_is_not_there():
    with pytest.raises(OSError, match="libno_such_driver"):
        load_driver("libno_such_driver.so.1")


@pytest.mark.parametrize("array_type", [Array, ShortArray])
@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "float* x",
        "int n",
        "const float* x, int* y, int n, float m",
        "unsigned char n, const int* x, double m, const int64* y, float l, uint64* z, unsigned k",
        "int64 n, const double* x",
        "const double* x, int64 n, const unsigned* y",
        ", ".join(f"{kind} n{i}" for i, kind in enumerate(DTYPE_OF)),
        ", ".join(f"const {kind}* x{i}" for i, kind in enumerate(DTYPE_OF)),
    ],
)
def test_the_driver_gets_each_argument_in_its_place(tmp_path, driver, parameters, array_type):
    kernel = kernel_of(tmp_path, parameters)
    launcher, rng = launcher_of(driver, kernel, array_type), np.random.default_rng(1)
    for _ in range(3):
        arguments = [
            array_type(parameter.dtype, int(rng.integers(2**63)))
            if parameter.is_array
            else rng.integers(0, 256, parameter.dtype.itemsize, np.uint8).view(parameter.dtype)[0]
            for parameter in kernel.parameters
        ]
        assert driver.launch(launcher, kernel.parameters, tuple(arguments)) == [bytes_of(each) for each in arguments]
        assert driver.numbers(10) == [FUNCTION, 3, 2, 1, 64, 4, 2, 0, STREAM - 2**64, 0]


@pytest.mark.parametrize(
    "number",
    [
        *(np.float32(value) for value in (-0.0, 1e-45, np.inf, -np.inf, np.finfo(np.float32).max)),
        *(np.float64(value) for value in (5e-324, np.finfo(np.float64).max)),
        *(kind(end) for kind in (np.int32, np.int64) for end in (np.iinfo(kind).min, -1, np.iinfo(kind).max)),
        *(kind(np.iinfo(kind).max) for kind in (np.uint8, np.uint32, np.uint64)),
    ],
    ids=repr,
)
def test_numbers_at_their_ends(tmp_path, driver, number):
    kind = next(name for name, dtype in DTYPE_OF.items() if dtype == number.dtype)
    kernel = kernel_of(tmp_path, f"{kind} n")
    assert driver.launch(launcher_of(driver, kernel), kernel.parameters, (number,)) == [number.tobytes()]


def test_the_largest_grid(tmp_path, driver):
    kernel = kernel_of(tmp_path, "int n")
    driver.launch(launcher_of(driver, kernel), kernel.parameters, (np.int32(1),), (2**31 - 1, 65535, 65535))
    assert driver.numbers(4)[1:] == [2**31 - 1, 65535, 65535]


def test_an_error_is_given_by_its_number(tmp_path, driver):
    kernel = kernel_of(tmp_path, "int n")
    driver.library.answer(701)
    assert driver.launch(launcher_of(driver, kernel), kernel.parameters, (np.int32(1),)) == 701
    assert driver.calls.record(1, 2) == 701


def test_other_calls(driver):
    calls = driver.calls
    large, larger = 0x7000000000000001, 0x7000000000000002
    assert calls.record(large, larger) == 0
    assert driver.numbers(2) == [large, larger]
    assert calls.wait(large, larger, 0) == 0
    assert driver.numbers(3) == [large, larger, 0]
    assert calls.copy(large, larger, 2**40, 55) == 0
    assert driver.numbers(4) == [large, larger, 2**40, 55]
    assert calls.replay(large, larger) == 0
    assert driver.numbers(2) == [large, larger]


X, N, Y = Array(np.float32), np.int32(3), Array(np.int64)


@pytest.mark.parametrize("array_type", [Array, ShortArray])
@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((), TypeError, "takes 3 arguments, not 0"),
        ((X, N), TypeError, "takes 3 arguments, not 2"),
        ((X, N, Y, N), TypeError, "takes 3 arguments, not 4"),
        ((X, 3, Y), TypeError, "n of some .* must be a NumPy int32, but is int"),
        ((X, np.int64(3), Y), TypeError, "n of some .* must be int32, but is int64"),
        ((X, Y, Y), TypeError, "n of some .* must be a NumPy int32, but is "),
        ((N, N, Y), TypeError, "x of some .* must be an array, but is int32"),
        ((X, N, None), TypeError, "y of some .* must be an array, but is NoneType"),
        ((Y, N, Y), TypeError, "x of some .* must be float32, but is int64"),
        ((X, N, Array(">i8")), TypeError, "y of some .* must be int64, but is >i8"),
        ((X, N, Y.T), ValueError, r"y of some .* must be C-contiguous, but has shape \(4, 3\)"),
        ((np.zeros((2, 3), np.float32), N, Y), TypeError, r"some in some.cu is given a host array \(2, 3\), which is"),
    ],
)
def test_a_wrong_argument(tmp_path, driver, arguments, error, said, array_type):
    kernel = kernel_of(tmp_path, "float* x, int n, const int64* y")
    launcher = launcher_of(driver, kernel, array_type)
    arguments = [array_type.like(each) if isinstance(each, Array) else each for each in arguments]
    with pytest.raises(error, match=said):
        launcher.launch(ctypes.c_void_p(STREAM), (1, 1, 1), (32, 1, 1), arguments)


def test_what_is_right_in_another_way(tmp_path, driver):
    """A number and an array of other classes than is usual, of the same dtype."""
    kernel = kernel_of(tmp_path, "float* x, int64 n")
    number, array = np.longlong(-5), ShortArray(np.float32)
    assert type(number) is not np.int64
    values = driver.launch(launcher_of(driver, kernel), kernel.parameters, (array, number))
    assert values == [bytes_of(array), bytes_of(number)]


def test_each_thread_has_a_launcher_of_its_own(tmp_path, driver):
    kernel, wrong = kernel_of(tmp_path, "const float* x, int64 n, double* y"), []

    def launch_often(number):
        launcher = launcher_of(driver, kernel)
        arguments = Array(np.float32, number), np.int64(-number), Array(np.float64, number + 1)
        expected = [bytes_of(each) for each in arguments]
        for _ in range(500):
            if driver.launch(launcher, kernel.parameters, arguments) != expected:
                wrong.append(number)

    threads = [threading.Thread(target=launch_often, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
