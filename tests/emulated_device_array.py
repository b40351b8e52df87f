"""Device arrays of the emulated GPU: NumPy memory that the host may pass on but neither read nor write."""

from __future__ import annotations

import math
import weakref
from collections import Counter, deque
from types import SimpleNamespace

import numpy as np

ALIGNMENT_BYTES = 256
# What memory holds before anything is written: as float32 about -1.2e17, as an index far outside everything.
POISON = 0xDB


class Memory:
    """The bytes of one allocation.

    pending: how many pieces of queued work use it, by the name of their stream and their label.
    is_freed: whether all arrays over it are gone, so that CUDA might have given it to somebody else.
    """

    def __init__(self, size_bytes):
        raw = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT_BYTES
        self.bytes = raw[start : start + size_bytes]
        self.bytes[:] = POISON
        self.pending: Counter = Counter()
        self.is_freed = False


class DeviceArray:
    """An array of the emulated device: see CudaRuntime for what it offers. All else raises TypeError.

    memory: None for host memory that is mapped.
    """

    # NumPy's functions refuse it.
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, array, memory, handle):
        self._array, self._memory, self._handle = array, memory, handle

    @classmethod
    def allocate(cls, shape, dtype, freed: deque):
        """A new array of poison; when it and its views are gone, its memory is appended to `freed`."""
        dtype, shape = np.dtype(dtype), as_shape(shape)
        memory = Memory(dtype.itemsize * math.prod(shape))
        handle = Handle()
        weakref.finalize(handle, freed.append, memory).atexit = False
        return cls(memory.bytes.view(dtype).reshape(shape), memory, handle)

    @classmethod
    def over(cls, host):
        """An array over a host array."""
        return cls(host.view(), None, None)

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)
    nbytes = property(lambda self: self._array.nbytes)
    itemsize = property(lambda self: self._array.itemsize)
    flags = property(lambda self: SimpleNamespace(c_contiguous=self._array.flags.c_contiguous))
    T = property(lambda self: self._view(self._array.T))

    def __len__(self):
        return len(self._array)

    def __repr__(self):
        return f"DeviceArray({self.shape}, {self.dtype})"

    def reshape(self, *shape):
        if not self._array.flags.c_contiguous:
            raise ValueError(f"a reshape of {self.shape} that is not C-contiguous would copy")
        return self._view(self._array.reshape(*shape))

    def __getitem__(self, key):
        parts = key if isinstance(key, tuple) else (key,)
        if not all(part is Ellipsis or isinstance(part, (slice, int, np.integer)) for part in parts):
            raise TypeError("a device array gives views by slices and whole numbers only")
        return self._view(self._array[parts if Ellipsis in parts else (*parts, Ellipsis)])

    def _view(self, array):
        return DeviceArray(array, self._memory, self._handle)

    def _refuse(self, *_args, **_kwargs):
        raise TypeError("a device array cannot be read by the host; download it")

    __array__ = __iter__ = __bool__ = __float__ = __int__ = __complex__ = __contains__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse  # type: ignore[assignment]
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = __rmatmul__ = _refuse

    def __setitem__(self, key, value):
        raise TypeError("a device array cannot be written by the host; upload to it")


class Handle:
    """What the arrays over one allocation keep alive, and queued work does not."""


def as_shape(shape):
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(each) for each in shape)
