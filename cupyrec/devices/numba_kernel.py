"""What a CPU kernel is: a Numba function over a part of its items, called from several threads at once.

A kernel takes `(start, stop, *arguments)` and works on the items start .. stop-1 alone; `CpuDevice.launch` gives
each thread a part. The functions release the GIL and start no threads of their own, so that no threading layer
of Numba is ever loaded: none to spin against BLAS, and none to abort when two Python threads meet in it.

Numba takes an index that may be negative to count from the end. A loop over contiguous elements that begins at `start`
is therefore written `range(np.uint64(start), np.uint64(stop))`: without that it is not vectorised, and 20 times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from cupyrec.devices.kernel_cache import cached_njit

CACHE_LINE_BYTES = 64
# Rows of a table far larger than the caches come from memory: kernels ask for a row this many rows ahead.
PREFETCH_ROWS = 16

# contract: one multiply-add instruction where there is one. Sums are never reordered.
cpu_kernel: Callable[[Callable[..., Any]], Callable[..., Any]] = cached_njit(error_model="numpy", fastmath={"contract"})

# For inner products: sums may be cut into the lanes of a vector register. The order is the compiler's, always the
# same for one machine.
cpu_dot_kernel: Callable[[Callable[..., Any]], Callable[..., Any]] = cached_njit(
    error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)


@intrinsic
def _prefetch(typing_context, array, indices):
    """Ask for the cache line of array[indices], a tuple of integers, to be read and written soon; never faults."""

    def generate(context, builder, signature, arguments):
        array_type = signature.args[0]
        struct = cgutils.create_struct_proxy(array_type)(context, builder, arguments[0])
        pointer = cgutils.get_item_pointer(
            context, builder, array_type, struct, cgutils.unpack_tuple(builder, arguments[1])
        )
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        int32 = ir.IntType(32)
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, int32, int32, int32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0i8")
        for_reading, all_cache_levels, data_cache = (
            ir.Constant(int32, 0),
            ir.Constant(int32, 3),
            ir.Constant(int32, 1),
        )
        builder.call(function, [pointer, for_reading, all_cache_levels, data_cache])
        return context.get_dummy_value()

    return numba.types.void(array, numba.types.UniTuple(numba.types.intp, array.ndim)), generate


prefetch: Any = _prefetch


@intrinsic
def _load_word(typing_context, array, position):
    """The 8 bytes of a contiguous uint8 array from position on, of which there must be so many, as a uint64.

    The first byte is the lowest: Numba knows no other machines.
    """

    def generate(context, builder, signature, arguments):
        struct = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        pointer = builder.bitcast(builder.gep(struct.data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return numba.types.uint64(array, numba.types.intp), generate


load_word: Any = _load_word
