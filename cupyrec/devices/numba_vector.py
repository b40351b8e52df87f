"""Vectors in CPU kernels: the items of a row taken, computed with and put back together, in wide registers.

A short loop over single items is unrolled before LLVM can vectorise it, and a long one is guarded against arrays that
overlap. What is written with vectors is neither. Each item gets the operations that a loop would do, so the results
are the same; the number of items is one that the compiler knows, and any: LLVM cuts vectors into registers.

    w = load_vector(records, (row, 0), D)
    store_vector(records, (row, 0), w - rate * g)
"""

from __future__ import annotations

import operator
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from cupyrec.devices.numba_kernel import CACHE_LINE_BYTES, prefetch_pointer

INSTRUCTIONS = {operator.add: "fadd", operator.sub: "fsub", operator.mul: "fmul", operator.truediv: "fdiv"}


class Vector(numba.types.Type):
    """So many items of a floating dtype."""

    def __init__(self, dtype, items):
        self.dtype, self.items = dtype, items
        super().__init__(name=f"Vector({dtype}, {items})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        item = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(item, vector.items))


class _Operator(AbstractTemplate):
    """A vector with another of its kind, or with a number of its dtype, which stands for each item."""

    def generic(self, arguments, keywords):
        for vector in arguments:
            if isinstance(vector, Vector) and all(argument in (vector, vector.dtype) for argument in arguments):
                return signature(vector, *arguments)
        return None


def _define(symbol, instruction):
    infer_global(symbol)(type(f"_Operator_{instruction}", (_Operator,), {}))

    def lower(context, builder, called, arguments):
        both = [
            _spread(context, builder, called.return_type, *each) for each in zip(called.args, arguments, strict=True)
        ]
        return getattr(builder, instruction)(*both)

    for kinds in ((Vector, Vector), (Vector, numba.types.Float), (numba.types.Float, Vector)):
        lower_builtin(symbol, *kinds)(lower)


def _spread(context, builder, vector, kind, value):
    """The value itself where it is a vector, else a vector of it."""
    if isinstance(kind, Vector):
        return value
    vector_type, int32 = context.get_value_type(vector), ir.IntType(32)
    nothing = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(int32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(int32, vector.items), None))


for _symbol, _instruction in INSTRUCTIONS.items():
    _define(_symbol, _instruction)


def _vector_of(array, items):
    """The type of a vector from an array. items: how many, or a vector of as many."""
    if array.layout != "C":
        raise TypingError(f"vectors are parts of C-contiguous arrays, not of {array}")
    if isinstance(items, Vector) and items.dtype == array.dtype:
        return items
    if isinstance(items, numba.types.IntegerLiteral):
        return Vector(array.dtype, items.literal_value)
    raise TypingError(f"a vector has a number of items that the compiler knows, but not {items} of {array}")


def _address(context, builder, called, arguments):
    """Of array[indices], the first two arguments."""
    struct = cgutils.create_struct_proxy(called.args[0])(context, builder, arguments[0])
    indices = cgutils.unpack_tuple(builder, arguments[1])
    return cgutils.get_item_pointer(context, builder, called.args[0], struct, indices)


def _item_bytes(context, vector):
    return context.get_abi_sizeof(context.get_data_type(vector.dtype))


def _indices(array):
    return numba.types.UniTuple(numba.types.intp, array.ndim)


@intrinsic(prefer_literal=True)
def _zero_vector(typing_context, array, items):
    """A vector of zeros of the array's dtype. items: see `_vector_of`."""
    vector = _vector_of(array, items)

    def generate(context, builder, called, arguments):
        return ir.Constant(context.get_value_type(vector), None)

    return vector(array, items), generate


@intrinsic(prefer_literal=True)
def _load_vector(typing_context, array, indices, items):
    """The items of a contiguous array from array[indices] on; indices: a tuple of integers, not negative."""
    vector = _vector_of(array, items)

    def generate(context, builder, called, arguments):
        address = _address(context, builder, called, arguments)
        pointer = builder.bitcast(address, context.get_value_type(vector).as_pointer())
        return builder.load(pointer, align=_item_bytes(context, vector))

    return vector(array, _indices(array), items), generate


@intrinsic
def _store_vector(typing_context, array, indices, vector):
    """Write a vector to array[indices] on. Arguments as above; the array is modified."""
    _vector_of(array, vector)

    def generate(context, builder, called, arguments):
        pointer = builder.bitcast(_address(context, builder, called, arguments), arguments[2].type.as_pointer())
        builder.store(arguments[2], pointer, align=_item_bytes(context, vector))
        return context.get_dummy_value()

    return numba.types.void(array, _indices(array), vector), generate


@intrinsic(prefer_literal=True)
def _prefetch_vector(typing_context, array, indices, items):
    """Ask for all cache lines of what load_vector would take; never faults."""
    vector = _vector_of(array, items)

    def generate(context, builder, called, arguments):
        address = _address(context, builder, called, arguments)
        item_bytes = _item_bytes(context, vector)
        # The last item may lie in a line more, as the first need not begin one.
        for item in sorted({*range(0, vector.items, CACHE_LINE_BYTES // item_bytes), vector.items - 1}):
            prefetch_pointer(builder, builder.gep(address, [ir.Constant(ir.IntType(64), item)]))
        return context.get_dummy_value()

    return numba.types.void(array, _indices(array), items), generate


@intrinsic
def _square_roots(typing_context, vector):
    """Of each item, correctly rounded."""

    def generate(context, builder, called, arguments):
        kind = arguments[0].type
        name = f"llvm.sqrt.v{vector.items}f{8 * _item_bytes(context, vector)}"
        roots = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(roots, arguments)

    return vector(vector), generate


zero_vector: Any = _zero_vector
load_vector: Any = _load_vector
store_vector: Any = _store_vector
prefetch_vector: Any = _prefetch_vector
square_roots: Any = _square_roots
