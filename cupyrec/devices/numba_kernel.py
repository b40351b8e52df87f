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
from numba.core.errors import TypingError
from numba.extending import intrinsic

from cupyrec.devices.kernel_cache import cached_njit

CACHE_LINE_BYTES = 64
# The most that LLVM copies by instructions of its own on every machine, without a call of memcpy.
INLINED_COPY_BYTES = 128
# Rows of a table far larger than the caches come from memory: kernels ask for a row so many bytes ahead, but never for
# fewer or more rows than these.
PREFETCH_BYTES, PREFETCH_ROWS, MOST_PREFETCH_ROWS = 8192, 16, 64

# contract: one multiply-add instruction where there is one. Sums are never reordered.
cpu_kernel: Callable[[Callable[..., Any]], Callable[..., Any]] = cached_njit(error_model="numpy", fastmath={"contract"})

# For inner products: sums may be cut into the lanes of a vector register. The order is the compiler's, always the
# same for one machine.
cpu_dot_kernel: Callable[[Callable[..., Any]], Callable[..., Any]] = cached_njit(
    error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)


def prefetched_rows(record_bytes: int) -> int:
    """How many records ahead a kernel asks for one: narrow ones are done in less time than they take to come."""
    return min(max(PREFETCH_BYTES // record_bytes, PREFETCH_ROWS), MOST_PREFETCH_ROWS)


def prefetch_pointer(builder: ir.IRBuilder, pointer: ir.Value) -> None:
    """Write the instruction that asks for a cache line."""
    pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    int32 = ir.IntType(32)
    function_type = ir.FunctionType(ir.VoidType(), [pointer.type, int32, int32, int32])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0i8")
    for_reading, all_cache_levels, data_cache = (ir.Constant(int32, 0), ir.Constant(int32, 3), ir.Constant(int32, 1))
    builder.call(function, [pointer, for_reading, all_cache_levels, data_cache])


@intrinsic
def _prefetch(typing_context, array, indices):
    """Ask for the cache line of array[indices], a tuple of integers, to be read and written soon; never faults."""

    def generate(context, builder, signature, arguments):
        array_type = signature.args[0]
        struct = cgutils.create_struct_proxy(array_type)(context, builder, arguments[0])
        pointer = cgutils.get_item_pointer(
            context, builder, array_type, struct, cgutils.unpack_tuple(builder, arguments[1])
        )
        prefetch_pointer(builder, pointer)
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


@intrinsic(prefer_literal=True)
def _copy_items(typing_context, target, to, source, at, count):
    """Copy `count` items from source[at] on to target[to] on; to, at: tuples of integers, not negative.

    Both are C-contiguous, of one dtype and different memory. A number of items that the compiler knows is copied in
    wide registers, without a loop: a short loop over single items would be unrolled before it could be vectorised.
    """
    if any(array.layout != "C" for array in (target, source)) or target.dtype != source.dtype:
        raise TypingError(f"items are copied between C-contiguous arrays of one dtype, not from {source} to {target}")

    def generate(context, builder, signature, arguments):
        def address(array, indices):
            array_type = signature.args[array]
            struct = cgutils.create_struct_proxy(array_type)(context, builder, arguments[array])
            unpacked = cgutils.unpack_tuple(builder, arguments[indices])
            pointer = cgutils.get_item_pointer(context, builder, array_type, struct, unpacked)
            return builder.bitcast(pointer, ir.IntType(8).as_pointer())

        copy_to, copy_from = address(0, 1), address(2, 3)
        item_bytes = context.get_abi_sizeof(context.get_data_type(target.dtype))

        def copy(count, start=0):
            first = ir.Constant(ir.IntType(64), start)
            cgutils.raw_memcpy(builder, builder.gep(copy_to, [first]), builder.gep(copy_from, [first]), count, 1)

        if isinstance(count, numba.types.IntegerLiteral):
            all_bytes = count.literal_value * item_bytes
            for start in range(0, all_bytes, INLINED_COPY_BYTES):
                copy(ir.Constant(ir.IntType(64), min(INLINED_COPY_BYTES, all_bytes - start)), start)
        else:
            copy(builder.mul(arguments[4], ir.Constant(ir.IntType(64), item_bytes)))
        return context.get_dummy_value()

    places = numba.types.UniTuple(numba.types.intp, target.ndim), numba.types.UniTuple(numba.types.intp, source.ndim)
    kept = count if isinstance(count, numba.types.IntegerLiteral) else numba.types.intp
    return numba.types.void(target, places[0], source, places[1], kept), generate


copy_items: Any = _copy_items
