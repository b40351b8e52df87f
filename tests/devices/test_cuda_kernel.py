"""The parameters of a kernel, as its source has them, and the arguments that they let through."""

import numpy as np
import pytest

from cupyrec.devices.cuda_kernel import CudaKernel, Parameter, kernels_of
from cupyrec.kernels import kernel, source_path

SOURCE = """
// extern "C" __global__ void in_a_comment(float x) {}
/* extern "C" __global__ void in_another(float x) {} */
typedef long long int64;

__device__ float inner(float x, const float* y) { return x + *y; }

// One line.
extern "C" __global__ void all_types(
    float* __restrict__ a, const double *b, int const* c,  // a comment, with a comma
    unsigned d, unsigned int e, int64 f, long long g, uint64 h, unsigned long long i,
    const unsigned char* __restrict__ j, const int k /* and another */) {
    a[0] = inner(a[0], a);
}

extern "C"
__global__ void nothing() {}

extern "C" __global__ void __launch_bounds__(256) bounded(int* x) {}
extern "C" __global__ void __launch_bounds__(THREADS * 2, 3) bounded_twice(int* x, float y) {}
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "some.cu"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def test_the_parameters_of_each_kernel(source):
    assert list(kernels_of(source)) == ["all_types", "nothing", "bounded", "bounded_twice"]
    assert CudaKernel(source, "all_types").parameters == (
        Parameter("a", np.dtype(np.float32), True),
        Parameter("b", np.dtype(np.float64), True),
        Parameter("c", np.dtype(np.int32), True),
        Parameter("d", np.dtype(np.uint32), False),
        Parameter("e", np.dtype(np.uint32), False),
        Parameter("f", np.dtype(np.int64), False),
        Parameter("g", np.dtype(np.int64), False),
        Parameter("h", np.dtype(np.uint64), False),
        Parameter("i", np.dtype(np.uint64), False),
        Parameter("j", np.dtype(np.uint8), True),
        Parameter("k", np.dtype(np.int32), False),
    )
    assert CudaKernel(source, "nothing").parameters == ()
    x = Parameter("x", np.dtype(np.int32), True)
    assert CudaKernel(source, "bounded").parameters == (x,)
    assert CudaKernel(source, "bounded_twice").parameters == (x, Parameter("y", np.dtype(np.float32), False))


def test_a_kernel_that_is_not_there(source):
    with pytest.raises(ValueError, match=r"no kernel inner in some\.cu; there are: all_types, nothing, bounded"):
        CudaKernel(source, "inner").check(())


@pytest.mark.parametrize(
    "parameter", ["short* x", "bool x", "float4* x", "const char* x", "size_t n", "float** x", "float x[4]", "float& x"]
)
def test_a_type_that_is_not_known(tmp_path, parameter):
    path = tmp_path / "odd.cu"
    path.write_text(f'extern "C" __global__ void odd(int n, {parameter}) {{}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"odd\.cu: parameter '.*' has none of the types float, double, int"):
        kernels_of(path)


@pytest.mark.parametrize(
    "declared",
    [
        "__global__ void k(float* x) {}",
        'extern "C" { __global__ void k(float* x) {} }',
        'extern "C" __global__ static void k(float* x) {}',
        '__global__ extern "C" void k(float* x) {}',
    ],
)
def test_a_kernel_that_is_declared_otherwise(tmp_path, declared):
    """It would be left out in silence, by the tests too."""
    path = tmp_path / "odd.cu"
    path.write_text(declared, encoding="utf-8")
    with pytest.raises(ValueError, match=r'odd\.cu: a kernel is declared as extern "C" __global__ void name'):
        kernels_of(path)


@pytest.fixture
def scale(tmp_path):
    path = tmp_path / "scale.cu"
    path.write_text('extern "C" __global__ void scale(float* x, int n, const int64* ids) {}', encoding="utf-8")
    return CudaKernel(path, "scale", (("DIMENSION", 16), ("MEAN", 1)))


X, N, IDS = np.zeros((4, 6), np.float32), np.int32(3), np.zeros(5, np.int64)


def test_right_arguments(scale):
    scale.check((X, N, IDS))
    scale.check([X[1:3], N, IDS[:0]])


class OtherArray:
    """What is no NumPy array, and has all that is asked of one."""

    def __init__(self, array):
        self.shape, self.dtype, self.flags = array.shape, array.dtype, array.flags


def test_arrays_of_other_kinds_are_arrays(scale):
    scale.check((OtherArray(X), N, OtherArray(IDS)))
    with pytest.raises(TypeError, match=r"x of scale in scale\.cu \(DIMENSION=16, MEAN=1\) must be float32"):
        scale.check((OtherArray(IDS), N, OtherArray(IDS)))
    with pytest.raises(TypeError, match=r"n of scale .* must be a NumPy int32, but is OtherArray"):
        scale.check((OtherArray(X), OtherArray(IDS), OtherArray(IDS)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((X, N), "takes 3 arguments, not 2"),
        ((X, N, IDS, N), "takes 3 arguments, not 4"),
        ((X.astype(np.float64), N, IDS), "x of scale .* must be float32, but is float64"),
        ((X, N, IDS.astype(np.int32)), "ids of scale .* must be int64, but is int32"),
        ((X, np.int64(3), IDS), "n of scale .* must be int32, but is int64"),
        ((X, np.uint32(3), IDS), "n of scale .* must be int32, but is uint32"),
        ((X, np.float32(3), IDS), "n of scale .* must be int32, but is float32"),
        ((X, 3, IDS), "n of scale .* must be a NumPy int32, but is int"),
        ((X, True, IDS), "n of scale .* must be a NumPy int32, but is bool"),
        ((X, np.zeros(1, np.int32), IDS), "n of scale .* must be a NumPy int32, but is ndarray"),
        ((np.float32(1), N, IDS), "x of scale .* must be an array, but is float32"),
        ((X, N, [1, 2]), "ids of scale .* must be an array, but is list"),
        ((X, N, None), "ids of scale .* must be an array, but is NoneType"),
    ],
)
def test_a_wrong_type(scale, arguments, said):
    with pytest.raises(TypeError, match=said):
        scale.check(arguments)


@pytest.mark.parametrize("x", [X.T, X[:, :3], X[::2], X[::-1]])
def test_an_array_that_is_not_contiguous(scale, x):
    with pytest.raises(ValueError, match=r"x of scale .* must be C-contiguous, but has shape \(\d, \d\)"):
        scale.check((x, N, IDS))


def test_what_a_kernel_is_called_and_compiled_with(source):
    made = CudaKernel(source, "bounded", (("DIMENSION", 16), ("MEAN", 1)))
    assert str(made) == "bounded in some.cu (DIMENSION=16, MEAN=1)"
    assert str(CudaKernel(source, "bounded")) == "bounded in some.cu"
    assert made.options == (f"-I{source.parent}", "-DDIMENSION=16", "-DMEAN=1")


def test_kernels_of_the_package_are_found_by_name():
    made = kernel("dense_update", "dense_sgd", B=2, A=1)
    assert (made.path, made.name, made.defines) == (source_path("dense_update"), "dense_sgd", (("A", 1), ("B", 2)))
    assert kernel("dense_update", "dense_sgd", B=2, A=1) is made
    with pytest.raises(FileNotFoundError, match=r"no kernel file missing\.cu; there are: .*dense_update"):
        kernel("missing", "dense_sgd")
