"""What can be said of the CuPy runtime without a GPU. With one, test_gpu.py runs on it."""

import ctypes
import functools
import gc
import os
import subprocess
import sys
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from fake_memory_driver import ADVISED, ALLOCATED, FREED, SETTLED, SIZE, FakeMemoryDriver

from cupyrec.devices import cupy_check, cupy_runtime
from cupyrec.devices.cublas import COMPUTE_TYPES, OP_N, PROTOTYPES, WORKSPACE_BYTES, Cublas, gemm_arguments
from cupyrec.devices.cuda_driver import DriverCalls
from cupyrec.devices.cuda_kernel import CudaKernel
from cupyrec.devices.cuda_runtime import HIGHEST_PRIORITY, LOWEST_PRIORITY, MIDDLE_PRIORITY
from cupyrec.devices.cupy_check import why_no_gpu
from cupyrec.devices.cupy_kernels import first_compile_error, source_of
from cupyrec.devices.cupy_runtime import CupyRuntime
from cupyrec.devices.memory_driver import MemoryDriver
from cupyrec.errors import DeviceError, DeviceMemoryError
from cupyrec.kernels import kernel

SGD = kernel("dense_update", "dense_sgd")
FUNCTION = 2**40 + 1


class FakeArray:
    """cupy.ndarray: over NumPy memory, FakeArray(array), or as CuPy makes one, FakeArray(shape, dtype, memory)."""

    def __init__(self, array, dtype=None, memory=None):
        if memory is not None:
            array = np.empty(array, dtype)
        self.array, self.data = array, memory or SimpleNamespace(ptr=array.ctypes.data)
        self.shape, self.dtype, self.flags, self.nbytes = array.shape, array.dtype, array.flags, array.nbytes

    T = property(lambda self: FakeArray(self.array.T))


class CudaError(RuntimeError):
    def __init__(self, status):
        super().__init__({2: "cudaErrorMemoryAllocation: out of memory"}.get(status, f"cudaError {status}"))
        self.status = status


class CompileException(Exception):
    pass


class FakeLibrary:
    """cuBLAS: matrices are stored by columns, `lda` apart."""

    def __init__(self):
        self.calls, self.status = [], 0

    def __getattr__(self, name):
        assert name in PROTOTYPES

        def call(*arguments):
            assert len(arguments) == len(PROTOTYPES[name])
            self.calls.append((name, *arguments[1:]))
            return self.status

        return call

    def cublasGemmEx(
        self,
        handle,
        transa,
        transb,
        m,
        n,
        k,
        alpha,
        A,
        A_type,
        lda,
        B,
        B_type,
        ldb,
        beta,
        C,
        C_type,
        ldc,
        compute,
        algorithm,
    ):
        assert (A_type, B_type, C_type, algorithm) == (0, 0, 0, -1)
        assert (number_at(alpha), number_at(beta)) == (1, 0)
        self.calls.append(("cublasGemmEx", compute))
        left = matrix_at(A, m, k, lda) if transa == OP_N else matrix_at(A, k, m, lda).T
        right = matrix_at(B, k, n, ldb) if transb == OP_N else matrix_at(B, n, k, ldb).T
        matrix_at(C, m, n, ldc)[:] = left @ right
        return self.status


def number_at(pointer):
    return ctypes.c_float.from_address(pointer).value


def matrix_at(pointer, rows, columns, leading):
    assert leading >= max(1, rows)
    memory = (ctypes.c_float * (leading * columns)).from_address(pointer)
    return np.frombuffer(memory, np.float32).reshape(columns, leading).T[:rows] if columns else np.zeros((rows, 0))


class FakeCuda:
    """cupy.cuda.runtime. log: the calls in order."""

    hostAllocPortable, hostAllocMapped, memcpyDefault, memoryTypeHost, streamCaptureModeRelaxed = 1, 2, 4, 1, 2
    CUDARuntimeError = CudaError

    def __init__(self, log):
        self.log, self.devices, self.driver, self.capability = log, 1, 13000, (9, 0)
        self.fails, self.locked, self.event_status = {}, {}, 0

    def __getattr__(self, name):
        def call(*arguments):
            if name in self.fails:
                raise self.fails[name]
            self.log.append((name, *arguments))

        return call

    def getDevice(self):
        return 0

    def getDeviceCount(self):
        if "getDeviceCount" in self.fails:
            raise self.fails["getDeviceCount"]
        return self.devices

    def getDeviceProperties(self, device):
        major, minor = self.capability
        return {
            "name": b"NVIDIA H100",
            "major": major,
            "minor": minor,
            "multiProcessorCount": 132,
            "totalGlobalMem": 80 * 2**30,
        }

    def driverGetVersion(self):
        return self.driver

    def runtimeGetVersion(self):
        return 12090

    def memGetInfo(self):
        return 100, 1000

    def hostRegister(self, pointer, size_bytes, flags):
        if "hostRegister" in self.fails:
            raise self.fails["hostRegister"]
        self.locked[pointer] = size_bytes

    def hostUnregister(self, pointer):
        del self.locked[pointer]

    def pointerGetAttributes(self, pointer):
        inside = any(begin <= pointer < begin + size_bytes for begin, size_bytes in self.locked.items())
        return SimpleNamespace(type=int(inside), devicePointer=pointer)


class FakeDriver:
    """What load_driver gives. log: the calls in order; status: what they answer."""

    def __init__(self, log):
        self.log, self.status, self.is_there = log, 0, True

    def load(self):
        if not self.is_there:
            raise OSError("libcuda.so.1: cannot open shared object file")
        names = "cuLaunchKernel", "cuEventRecord", "cuStreamWaitEvent", "cuMemcpyAsync", "cuGraphLaunch", "cuEventQuery"
        return DriverCalls(*(functools.partial(self.called, name) for name in names))

    def called(self, name, *arguments):
        self.log.append((name, *(plain(argument) for argument in arguments)))
        return self.status


def plain(argument):
    """Pointers as numbers; packed arguments, which are all of 64 bits here, as a list."""
    if isinstance(argument, ctypes.Array):
        return [ctypes.c_int64.from_address(slot).value for slot in argument]
    return getattr(argument, "value", argument)


class FakeCupy:
    """The module cupy."""

    __version__ = "14.2.0"
    ndarray = FakeArray

    def __init__(self):
        self.log = []
        self.driver = FakeDriver(self.log)
        self.compile_error = None
        self.cuda = SimpleNamespace(
            runtime=FakeCuda(self.log),
            cublas=SimpleNamespace(__file__="cublas.so"),
            driver=SimpleNamespace(
                CUDADriverError=CudaError, launchKernel=lambda *given: self.log.append(("launchKernel", *given))
            ),
            compiler=SimpleNamespace(CompileException=CompileException),
            Stream=lambda **settings: FakeStream(self.log, **settings),
            Event=lambda block, disable_timing: SimpleNamespace(ptr=77, block=block, timed=not disable_timing),
            UnownedMemory=lambda pointer, size, owner, device: SimpleNamespace(ptr=pointer, owner=owner, device=device),
            MemoryPointer=lambda memory, offset: memory,
        )

    def empty(self, shape, dtype):
        return FakeArray(np.empty(shape, dtype))

    def get_default_memory_pool(self):
        return SimpleNamespace(free_bytes=lambda: 20)

    def RawModule(self, code, options):
        self.log.append(("RawModule", code, options))
        return SimpleNamespace(get_function=self._function)

    def _function(self, name):
        if self.compile_error:
            raise CompileException(self.compile_error)
        return SimpleNamespace(kernel=SimpleNamespace(ptr=FUNCTION))


class FakeStream:
    def __init__(self, log, non_blocking, priority):
        assert non_blocking
        self.log, self.ptr, self.priority = log, 55, priority

    def begin_capture(self, mode):
        self.log.append(("begin_capture", mode))

    def end_capture(self):
        self.log.append(("end_capture",))
        return SimpleNamespace(graphExec=88)


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy()
    monkeypatch.setattr(cupy_check.importlib.util, "find_spec", lambda name: object())
    for module in (cupy_check, cupy_runtime):
        monkeypatch.setattr(module, "load_cublas", lambda path: FakeLibrary())
    monkeypatch.setattr(cupy_runtime, "load_driver", fake.driver.load)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


@pytest.fixture
def runtime(cupy):
    return CupyRuntime()


def test_the_module_does_not_load_cupy():
    code = "import sys, cupyrec.devices.cupy_runtime; assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gpu_that_can_be_used(cupy):
    assert why_no_gpu() == ""


def test_why_there_is_no_gpu(cupy, monkeypatch):
    cuda = cupy.cuda.runtime

    def no_cublas(path):
        raise OSError("libcublas.so.12: cannot open shared object file")

    monkeypatch.setattr(cupy_check, "load_cublas", no_cublas)
    assert why_no_gpu() == (
        "cuBLAS, a part of the CUDA toolkit, cannot be loaded: libcublas.so.12: cannot open shared object file"
    )
    cuda.capability = (6, 1)
    assert why_no_gpu() == "the GPU has compute capability 6.1, but 7.0 is the least that will do"
    monkeypatch.setattr(cuda, "runtimeGetVersion", lambda: 13_000)
    assert why_no_gpu() == "the GPU has compute capability 6.1, but 7.5 is the least that will do with CUDA 13"
    cuda.capability = (7, 0)
    assert why_no_gpu() == (
        "the GPU has compute capability 7.0, but 7.5 is the least that will do with CUDA 13; cupyrec[cuda12] may do"
    )
    cuda.devices = 0
    assert why_no_gpu() == "there is no NVIDIA GPU"
    cuda.fails["getDeviceCount"] = CudaError(35)
    assert why_no_gpu() == "the NVIDIA driver cannot be used: cudaError 35"
    cuda.driver = 0
    assert why_no_gpu() == "no NVIDIA driver is installed"
    monkeypatch.setattr(cupy, "__version__", "13.6.0")
    assert why_no_gpu() == "CuPy 13.6.0 is installed, but 14 is the oldest that will do"
    monkeypatch.setattr(cupy_check.importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[cuda12]', or '.[cuda13]'" in why_no_gpu()
    with pytest.raises(DeviceError, match="CuPy is not installed"):
        CupyRuntime()


def test_streams_have_as_many_queues_as_there_are(cupy, monkeypatch):
    monkeypatch.delenv(cupy_check.QUEUES_SETTING, raising=False)
    seen, version = [], cupy.cuda.runtime.driverGetVersion
    monkeypatch.setattr(
        cupy.cuda.runtime,
        "driverGetVersion",
        lambda: (seen.append(os.environ.get(cupy_check.QUEUES_SETTING)), version())[1],
    )
    CupyRuntime()
    assert seen[0] == "32"  # before CUDA is asked for anything
    assert os.environ[cupy_check.QUEUES_SETTING] == "32"
    monkeypatch.setenv(cupy_check.QUEUES_SETTING, "4")  # somebody knows better
    CupyRuntime()
    assert os.environ[cupy_check.QUEUES_SETTING] == "4"


def test_a_cupy_that_cannot_be_loaded(monkeypatch):
    monkeypatch.setattr(cupy_check.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert why_no_gpu().startswith("CuPy cannot be loaded: ")


def test_cupy_has_all_that_is_called():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    functions = "memcpyAsync memsetAsync eventRecord eventSynchronize eventElapsedTime streamWaitEvent"
    functions += " hostRegister hostUnregister pointerGetAttributes deviceSynchronize memGetInfo getDeviceProperties"
    functions += " graphLaunch"
    for name in (*functions.split(), "CUDARuntimeError"):
        assert callable(getattr(cupy.cuda.runtime, name))
    for name in ("launchKernel", "CUDADriverError"):
        assert callable(getattr(cupy.cuda.driver, name))
    assert hasattr(cupy.cuda.function.Function, "ptr")
    assert hasattr(cupy.cuda.graph.Graph, "graphExec")
    for name in ("hostAllocPortable", "hostAllocMapped", "memcpyDefault", "memoryTypeHost", "streamCaptureModeRelaxed"):
        assert getattr(cupy.cuda.runtime, name) == getattr(FakeCuda, name)
    for name in ("Stream", "Event", "UnownedMemory", "MemoryPointer"):
        assert callable(getattr(cupy.cuda, name))
    assert issubclass(cupy.cuda.compiler.CompileException, Exception)
    # An array over given memory needs no GPU.
    host = np.zeros((3, 4), np.float32)
    memory = cupy.cuda.UnownedMemory(host.ctypes.data, host.nbytes, host, 0)
    array = cupy.ndarray(host.shape, host.dtype, cupy.cuda.MemoryPointer(memory, 0))
    assert array.data.ptr == host.ctypes.data
    assert (array.shape, array.nbytes, array.T.flags.c_contiguous) == ((3, 4), 48, False)
    assert gemm_arguments(array, array.T, cupy.ndarray((3, 3), np.float32, array.data))[0] == (1, 0, 3, 3, 4)


class StreamAt55:
    ptr = 55


def cublas(library, workspace):
    return Cublas(library, StreamAt55(), workspace, lambda end: end())


@pytest.mark.parametrize("transposed_B", [False, True], ids=["B", "B.T"])
@pytest.mark.parametrize("transposed_A", [False, True], ids=["A", "A.T"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 7), (1, 4, 9), (8, 1, 2), (6, 3, 1), (2, 0, 3), (1, 5, 1)])
def test_products_are_asked_for_as_cublas_counts(sizes, transposed_A, transposed_B):
    m, k, n = sizes
    rng = np.random.default_rng(3)
    A, B = rng.integers(-9, 9, (m, k)).astype(np.float32), rng.integers(-9, 9, (k, n)).astype(np.float32)
    out = np.full((m, n), np.nan, np.float32)
    given_A = FakeArray(np.ascontiguousarray(A.T).T if transposed_A else A)
    given_B = FakeArray(np.ascontiguousarray(B.T).T if transposed_B else B)
    library = FakeLibrary()
    workspace = FakeArray(np.empty(64, np.uint8))
    cublas(library, workspace).matmul(given_A, given_B, FakeArray(out), "tf32")
    assert np.array_equal(out, A @ B)
    assert library.calls == [
        ("cublasCreate_v2",),
        ("cublasSetStream_v2", 55),
        ("cublasSetWorkspace_v2", workspace.data.ptr, 64),
        ("cublasGemmEx", COMPUTE_TYPES["tf32"]),
        ("cublasDestroy_v2",),
    ]


@pytest.mark.parametrize(
    ("A", "B", "out"),
    [
        (np.zeros((2, 3)), np.zeros((3, 4)), np.zeros((2, 4))),
        (np.zeros((2, 3), "f"), np.zeros((4, 3), "f"), np.zeros((2, 3), "f")),
        (np.zeros((2, 3), "f"), np.zeros((3, 4), "f"), np.zeros((4, 2), "f").T),
        (np.zeros((2, 3), "f"), np.zeros((3, 8), "f")[:, :4], np.zeros((2, 4), "f")),
    ],
    ids=["float64", "shapes", "out in columns", "a part of B"],
)
def test_products_that_are_refused(A, B, out):
    with pytest.raises(ValueError, match=r"a product of|a factor"):
        gemm_arguments(FakeArray(A), FakeArray(B), FakeArray(out))


def test_an_error_of_cublas_is_named():
    library = FakeLibrary()
    library.status = 14
    with pytest.raises(DeviceError, match="CUBLAS_STATUS_INTERNAL_ERROR"):
        cublas(library, FakeArray(np.empty(1, np.uint8)))


def test_a_handle_of_cublas_ends_with_its_user_and_as_soon_as_can_be():
    library, put_off = FakeLibrary(), []
    workspace, stream = FakeArray(np.empty(64, np.uint8)), StreamAt55()
    used = weakref.ref(stream)
    handle = Cublas(library, stream, workspace, put_off.append)
    assert put_off == []
    del handle, stream
    gc.collect()
    assert used() is not None  # cuBLAS knows it by its address
    assert library.calls[-1][0] == "cublasSetWorkspace_v2"
    put_off.pop()()
    assert library.calls[-1] == ("cublasDestroy_v2",)
    gc.collect()
    assert used() is None


def test_cublas_is_made_once_for_a_stream(runtime, cupy):
    streams = runtime.stream("train"), runtime.stream("side")
    A = FakeArray(np.ones((2, 2), np.float32))
    for stream in (streams[0], streams[1], streams[0]):
        runtime.matmul(stream, A, A, FakeArray(np.zeros((2, 2), np.float32)), "bf16")
    calls = runtime._cublas_library.calls
    assert [call[0] for call in calls].count("cublasCreate_v2") == 2
    assert {call[2] for call in calls if call[0] == "cublasSetWorkspace_v2"} == {WORKSPACE_BYTES}
    assert calls[-1] == ("cublasGemmEx", COMPUTE_TYPES["bf16"])


def sgd_arguments():
    w, g = (FakeArray(np.zeros((3, 4), np.float32)) for _ in range(2))
    return w, g, np.int64(12), np.float32(0.5)


def launch(runtime, arguments=None, of=SGD):
    arguments = sgd_arguments() if arguments is None else arguments
    runtime.launch(runtime.stream("train"), of, (3, 1, 1), (64, 1, 1), arguments)


def test_a_kernel_is_compiled_once_for_its_constants(runtime, cupy):
    threads = [threading.Thread(target=launch, args=(runtime,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    launch(runtime, of=CudaKernel(SGD.path, "dense_sgd", (("D", 3),)))
    modules = [call for call in cupy.log if call[0] == "RawModule"]
    folder = f"-I{SGD.path.parent}"
    assert [options for _, _, options in modules] == [
        ("--std=c++17", "-lineinfo", folder),
        ("--std=c++17", "-lineinfo", folder, "-DD=3"),
    ]
    assert SGD.path.read_text() in modules[0][1]
    assert len([call for call in cupy.log if call[0] == "cuLaunchKernel"]) == 5


@pytest.fixture
def take(tmp_path):
    """A kernel of which all parameters are of 64 bits."""
    path = tmp_path / "take.cu"
    path.write_text('extern "C" __global__ void take(int64 n, const float* x, uint64 m, int* y) {}')
    return CudaKernel(path, "take")


def take_arguments():
    return np.int64(-3), FakeArray(np.zeros(3, np.float32)), np.uint64(5), FakeArray(np.zeros(2, np.int32))


def test_a_launch_names_its_stream_and_passes_its_arguments_on(runtime, cupy, take):
    for _ in range(2):
        arguments = take_arguments()
        launch(runtime, arguments, of=take)
        values = [-3, arguments[1].data.ptr, 5, arguments[3].data.ptr]
        assert cupy.log[-1] == ("cuLaunchKernel", FUNCTION, 3, 1, 1, 64, 1, 1, 0, 55, values, None)


def test_a_launch_that_fails_names_its_kernel(runtime, cupy):
    cupy.driver.status = 701
    message = r"launch of dense_sgd in dense_update.cu on \(3, 1, 1\) blocks of \(64, 1, 1\) threads: cudaError 701"
    with pytest.raises(DeviceError, match=message):
        launch(runtime)


def test_each_thread_enters_the_gpu_before_its_first_call(cupy, monkeypatch):
    entered = []
    monkeypatch.setattr(
        cupy.cuda.runtime, "memGetInfo", lambda: entered.append((threading.current_thread().name, len(cupy.log)))
    )
    runtime = CupyRuntime()
    stream, event = runtime.stream("train"), runtime.event()
    calls = (
        lambda: runtime.record(event, stream),
        lambda: runtime.wait(stream, event),
        lambda: launch(runtime),
        lambda: runtime.replay(stream, SimpleNamespace(graphExec=88)),
    )
    expected = [("MainThread", 0)]

    def call_each(calls):
        for call in calls:
            call()

    for number in range(len(calls)):
        expected.append((f"stage {number}", len(cupy.log)))
        in_turn = calls[number:] + calls[:number]
        thread = threading.Thread(target=call_each, args=(in_turn,), name=f"stage {number}")
        thread.start()
        thread.join()
        assert len(cupy.log) >= expected[-1][1] + len(calls)
    assert entered == expected


def test_a_gpu_that_cannot_be_entered(cupy, monkeypatch):
    def fail():
        raise CudaError(46)

    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", fail)
    with pytest.raises(DeviceError, match="CUDA failed: cudaError 46"):
        CupyRuntime()


def test_without_the_drivers_library_it_says_so(cupy):
    cupy.driver.is_there = False
    with pytest.raises(DeviceError, match=r"the NVIDIA driver cannot be loaded: libcuda\.so\.1: cannot open"):
        CupyRuntime()


def test_a_product_over_nothing_is_zero(runtime, cupy):
    out = FakeArray(np.ones((2, 3), np.float32))
    empty = FakeArray(np.zeros((2, 0), np.float32)), FakeArray(np.zeros((0, 3), np.float32))
    runtime.matmul(runtime.stream("train"), *empty, out, "fp32")
    assert cupy.log[-1:] == [("memsetAsync", out.data.ptr, 0, 24, 55)]


def test_the_arguments_of_a_kernel_are_checked(runtime, cupy):
    right = sgd_arguments()
    with pytest.raises(TypeError, match="takes 4 arguments, not 3"):
        launch(runtime, right[:-1])  # before it is compiled
    assert cupy.log == []
    launch(runtime)
    cupy.log.clear()
    with pytest.raises(TypeError, match=r"dense_sgd in dense_update.cu is given a host array \(3, 4\)"):
        launch(runtime, (np.zeros((3, 4), np.float32), *right[1:]))
    with pytest.raises(TypeError, match=r"w of dense_sgd .* must be float32, but is float64"):
        launch(runtime, (FakeArray(np.zeros((3, 4))), *right[1:]))
    with pytest.raises(ValueError, match=r"w of dense_sgd .* must be C-contiguous"):
        launch(runtime, (FakeArray(np.zeros((3, 4), np.float32).T), *right[1:]))
    assert cupy.log == []


def test_a_kernel_that_does_not_compile(runtime, cupy):
    cupy.compile_error = (
        'dense_update.cu(9): warning #1: odd\ndense_update.cu(12): error: "b" is undefined\n  1 error detected'
    )
    with pytest.raises(DeviceError) as raised:
        launch(runtime, of=CudaKernel(SGD.path, "dense_sgd", (("D", 3),)))
    assert str(raised.value) == (
        'dense_sgd in dense_update.cu (D=3) cannot be compiled: dense_update.cu(12): error: "b" is undefined'
    )
    assert first_compile_error("") == "the compiler does not say why"


def test_the_compiler_names_file_and_line(tmp_path):
    compiler = pytest.importorskip("cupy.cuda.compiler", reason="CuPy is not installed")
    path = tmp_path / "broken.cu"
    path.write_text('extern "C" __global__ void broken(float* a) {\n    a[0] = b;\n}\n')
    program = compiler._NVRTCProgram(source_of(CudaKernel(path, "broken")))
    with pytest.raises(compiler.CompileException) as raised:
        program.compile(("--std=c++17", "-lineinfo"))
    assert first_compile_error(str(raised.value)) == 'broken.cu(2): error: identifier "b" is undefined'


def test_code_is_compiled_again_when_a_header_changes(tmp_path):
    (tmp_path / "k.cu").write_text('extern "C" __global__ void k() {}\n')
    each = []
    for text in ("int a;", "int b;"):
        (tmp_path / "k.cuh").write_text(text)
        each.append(source_of(CudaKernel(tmp_path / "k.cu", "k")))
    assert each[0] != each[1]
    assert each[0].endswith('#line 1 "k.cu"\nextern "C" __global__ void k() {}\n')


def test_copies_and_fills(runtime, cupy):
    stream, host, array = runtime.stream("train"), np.zeros(3, np.float32), FakeArray(np.zeros(3, np.float32))
    locked = runtime.page_locked(5, np.float32)
    runtime.copy(stream, host, array)
    runtime.copy(stream, array, host)
    runtime.copy(stream, locked[1:4], array)
    runtime.copy(stream, array, locked[1:][1:4])
    runtime.copy(stream, array, array)
    runtime.fill(stream, array, 255)
    assert cupy.log[-6:] == [
        ("memcpyAsync", array.data.ptr, host.ctypes.data, 12, 4, 55),
        ("memcpyAsync", host.ctypes.data, array.data.ptr, 12, 4, 55),
        ("cuMemcpyAsync", array.data.ptr, locked.ctypes.data + 4, 12, 55),
        ("cuMemcpyAsync", locked.ctypes.data + 8, array.data.ptr, 12, 55),
        ("cuMemcpyAsync", array.data.ptr, array.data.ptr, 12, 55),
        ("memsetAsync", array.data.ptr, 255, 12, 55),
    ]


def test_streams_have_priorities(runtime):
    priorities = HIGHEST_PRIORITY, MIDDLE_PRIORITY, LOWEST_PRIORITY
    assert [runtime.stream("rows", priority=each).stream.priority for each in priorities] == [-2, -1, 0]


def test_events(runtime, cupy):
    stream, event = runtime.stream("train"), runtime.event()
    assert event.block
    assert not event.timed
    assert runtime.event(timed=True).timed
    runtime.record(event, stream)
    runtime.wait(stream, event)
    runtime.synchronize(event)
    runtime.synchronize_all()
    assert cupy.log[-4:] == [
        ("cuEventRecord", 77, 55),
        ("cuStreamWaitEvent", 55, 77, 0),
        ("eventSynchronize", 77),
        ("deviceSynchronize",),
    ]
    assert runtime.is_done(event)
    cupy.driver.status = 600
    assert not runtime.is_done(event)
    cupy.driver.status = 700
    with pytest.raises(DeviceError, match="CUDA failed"):
        runtime.is_done(event)


def test_an_error_of_the_driver(runtime, cupy):
    stream, event, array = runtime.stream("train"), runtime.event(), FakeArray(np.zeros(3, np.float32))
    calls = (
        lambda: runtime.record(event, stream),
        lambda: runtime.wait(stream, event),
        lambda: runtime.copy(stream, array, array),
        lambda: runtime.replay(stream, SimpleNamespace(graphExec=88)),
    )
    for call in calls:
        cupy.driver.status = 700
        with pytest.raises(DeviceError, match="CUDA failed: cudaError 700"):
            call()
        cupy.driver.status = 2
        with pytest.raises(DeviceMemoryError):
            call()


def test_errors_of_cuda_are_errors_of_the_device(runtime, cupy):
    fails = cupy.cuda.runtime.fails
    fails["deviceSynchronize"] = CudaError(700)
    with pytest.raises(DeviceError, match="CUDA failed: cudaError 700"):
        runtime.synchronize_all()
    fails["deviceSynchronize"] = CudaError(2)
    with pytest.raises(DeviceMemoryError):
        runtime.synchronize_all()
    fails["deviceSynchronize"] = MemoryError("Out of memory allocating 5 bytes")
    with pytest.raises(DeviceMemoryError, match="Out of memory allocating 5 bytes"):
        runtime.synchronize_all()
    fails["deviceSynchronize"] = RuntimeError("of somebody else")
    with pytest.raises(RuntimeError, match="of somebody else") as raised:
        runtime.synchronize_all()
    assert not isinstance(raised.value, DeviceError)


def test_pages_are_locked_for_the_life_of_an_array_and_its_views(runtime, cupy):
    locked = cupy.cuda.runtime.locked
    array = runtime.page_locked((4, 3), np.float32)
    assert not array.any()
    assert locked == {array.ctypes.data: 48}
    view = array[1:].reshape(9)[2:]
    mapped = runtime.mapped(view)
    assert mapped.data.ptr == view.ctypes.data
    assert mapped.shape == (7,)
    del array, view
    gc.collect()
    assert len(locked) == 1
    del mapped
    gc.collect()
    assert locked == {}
    assert runtime.page_locked((0, 3), np.float32).shape == (0, 3)
    assert runtime.mapped(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_pages_freed_while_a_graph_is_captured_are_unlocked_after_it(runtime, cupy):
    locked, stream = cupy.cuda.runtime.locked, runtime.stream("train")
    kept, freed = runtime.page_locked(5, np.float32), [runtime.page_locked(3, np.float32)]
    memory = weakref.ref(freed[0].base)

    def work():
        freed.clear()
        gc.collect()
        # Else the next array might be given the same address, which CUDA takes for locked.
        assert len(locked) == 2
        assert memory() is not None

    runtime.capture(stream, work)
    assert list(locked) == [kept.ctypes.data]
    gc.collect()
    assert memory() is None


def test_memory_is_allocated_between_captures(runtime):
    """CuPy may free what it keeps, which would spoil a graph that another thread captures."""
    made = threading.Thread(target=lambda: runtime.empty(3, np.float32))

    def work():
        made.start()
        made.join(0.05)
        assert made.is_alive()

    runtime.capture(runtime.stream("train"), work)
    made.join()


def test_pages_that_cannot_be_locked_or_are_not(runtime, cupy):
    with pytest.raises(DeviceError, match="not locked"):
        runtime.mapped(np.zeros(3, np.float32))
    array = np.zeros(10, np.float32)
    runtime.lock_pages(array[:5])
    with pytest.raises(DeviceError, match="not locked"):
        runtime.mapped(array)
    cupy.cuda.runtime.fails["hostRegister"] = CudaError(2)
    with pytest.raises(
        DeviceMemoryError, match=r"the pages of 4.2 MB of .* cannot be locked: cudaErrorMemory.*ulimit -l"
    ):
        runtime.page_locked(2**20, np.float32)


@pytest.fixture
def memory_driver(memory_drivers, monkeypatch):
    driver = FakeMemoryDriver(memory_drivers["new"], MemoryDriver)
    monkeypatch.setattr(cupy_runtime, "MemoryDriver", lambda: driver.calls)
    return driver


def test_managed_memory_is_reached_at_its_address(cupy, memory_driver):
    runtime = CupyRuntime()
    array, stream = runtime.managed((SIZE // 16, 4), np.float32), runtime.stream("in")
    assert memory_driver.noted() == [ALLOCATED, *ADVISED["new"]]
    runtime.lock_pages(array)
    assert cupy.cuda.runtime.locked == {}
    assert memory_driver.noted() == [ALLOCATED, *ADVISED["new"]]
    mapped, there = runtime.mapped(array[1:4]), FakeArray(np.zeros((3, 4), np.float32))
    assert (mapped.data.ptr, mapped.shape) == (array.ctypes.data + 16, (3, 4))
    runtime.mapped(array)
    assert memory_driver.noted() == [ALLOCATED, *ADVISED["new"], *SETTLED["new"]]
    runtime.copy(stream, array[1:4], there)
    assert cupy.log[-1] == ("cuMemcpyAsync", there.data.ptr, array.ctypes.data + 16, 48, 55)
    del array
    gc.collect()
    assert memory_driver.left() > 0  # mapped
    del mapped
    gc.collect()
    assert memory_driver.left() == 0


def test_each_thread_knows_the_gpu_before_it_asks_for_managed_memory(cupy, memory_driver, monkeypatch):
    """Whatever thread is the last to have an array gives it back."""
    runtime, entered = CupyRuntime(), []
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: entered.append(memory_driver.noted()[-1:]))
    array = runtime.managed(3, np.float32)
    runtime.mapped(array)
    del array
    gc.collect()
    assert entered == [[], ["cuMemAdvise_v2 12 5 for 1:5"], ["cuCtxSynchronize"]]
    assert memory_driver.noted()[-1] == FREED


def test_managed_memory_that_cannot_be_had(cupy, memory_driver):
    memory_driver.refuse("cuMemAllocManaged")
    with pytest.raises(DeviceMemoryError, match="cannot be had from CUDA's driver"):
        CupyRuntime().managed(3, np.float32)


def test_a_graph(runtime, cupy):
    stream = runtime.stream("train")
    graph = runtime.capture(stream, lambda: cupy.log.append("work"))
    runtime.replay(stream, graph)
    assert cupy.log[-4:] == [("begin_capture", 2), "work", ("end_capture",), ("cuGraphLaunch", 88, 55)]
    with pytest.raises(ZeroDivisionError):
        runtime.capture(stream, lambda: 1 // 0)
    assert cupy.log[-1] == ("end_capture",)


def test_a_runtime_tells_what_it_runs_on(runtime):
    assert runtime.memory_bytes() == (120, 1000)
    assert runtime.describe() == {
        "name": "NVIDIA H100",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "memory_bytes": 80 * 2**30,
        "driver_version": "13.0",
        "runtime_version": "12.9",
        "cupy_version": "14.2.0",
        "numpy_version": np.__version__,
    }
