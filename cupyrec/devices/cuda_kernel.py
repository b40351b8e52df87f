"""What a CUDA kernel is: a function in a source file, with the constants that it is compiled for.

Nothing here needs CUDA: the source is read for the parameters of the kernel, so that what is launched is checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

# The types that a kernel's parameters may have.
DTYPE_OF: dict[str, np.dtype[Any]] = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int": np.dtype(np.int32),
    "unsigned": np.dtype(np.uint32),
    "unsigned int": np.dtype(np.uint32),
    "int64": np.dtype(np.int64),
    "long long": np.dtype(np.int64),
    "uint64": np.dtype(np.uint64),
    "unsigned long long": np.dtype(np.uint64),
    "unsigned char": np.dtype(np.uint8),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. is_array: whether it points to an array of the dtype in device memory."""

    name: str
    dtype: np.dtype[Any]
    is_array: bool


@dataclass(frozen=True, eq=False)
class CudaKernel:
    """A kernel: `extern "C" __global__ void name(...)` in a .cu file.

    defines: (name, value) pairs, constants of its compilation. Made by cupyrec.kernels.kernel, which makes each once.
    Kernels compare by identity, so that looking one up is cheap.
    """

    path: Path
    name: str
    defines: tuple[tuple[str, int], ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """What a compiler is told beside the source: the same for NVRTC and g++."""
        return (f"-I{self.path.parent}", *(f"-D{name}={value}" for name, value in self.defines))

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Its parameters in order. Raises ValueError where the source has no such kernel or a type is unknown."""
        return parameters_of(self.path, self.name)

    def __str__(self) -> str:
        constants = ", ".join(f"{name}={value}" for name, value in self.defines)
        return f"{self.name} in {self.path.name}" + (f" ({constants})" if constants else "")

    def check(self, arguments: Sequence[Any]) -> None:
        """Raise TypeError or ValueError unless every argument is what its parameter says.

        An array must be C-contiguous and of the parameter's dtype; a number must be a NumPy scalar of just that dtype:
        a Python number has no size that CUDA could know.
        """
        # No text is made, and nothing is asked twice, where all is well. On a GPU all is well where Launcher says so.
        parameters = self.parameters
        if len(arguments) != len(parameters):
            raise TypeError(f"{self} takes {len(parameters)} arguments, not {len(arguments)}")
        for parameter, argument in zip(parameters, arguments, strict=True):
            # NumPy scalars have flags too.
            is_number = isinstance(argument, np.generic)
            if is_number == parameter.is_array or not hasattr(argument, "flags"):
                wanted = "an array" if parameter.is_array else f"a NumPy {parameter.dtype}"
                raise TypeError(f"{parameter.name} of {self} must be {wanted}, but is {type(argument).__name__}")
            if argument.dtype != parameter.dtype:
                raise TypeError(f"{parameter.name} of {self} must be {parameter.dtype}, but is {argument.dtype}")
            if parameter.is_array and not argument.flags.c_contiguous:
                raise ValueError(f"{parameter.name} of {self} must be C-contiguous, but has shape {argument.shape}")


@cache
def parameters_of(path: Path, name: str) -> tuple[Parameter, ...]:
    """The parameters of a kernel, read from its source. Raises ValueError."""
    kernels = kernels_of(path)
    if name not in kernels:
        raise ValueError(f"no kernel {name} in {path.name}; there are: {', '.join(kernels)}")
    return kernels[name]


@cache
def kernels_of(path: Path) -> dict[str, tuple[Parameter, ...]]:
    """The kernels of a source file and their parameters. Raises ValueError on what it cannot read.

    That is a type that DTYPE_OF does not have, and a kernel that is declared in another way.
    """
    source = re.sub(r"//[^\n]*|/\*.*?\*/", " ", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(
        r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)', source
    )
    if len(found) != source.count("__global__"):
        raise ValueError(f'{path.name}: a kernel is declared as extern "C" __global__ void name(...), not otherwise')
    return {name: tuple(_parameter(path, text) for text in given.split(",") if text.strip()) for name, given in found}


def _parameter(path: Path, text: str) -> Parameter:
    words = re.sub(r"\b(const|__restrict__)\b", " ", text.replace("*", " * ")).split()
    *kind, name = words
    is_array = kind[-1:] == ["*"]
    kind_name = " ".join(kind[:-1] if is_array else kind)
    if kind_name not in DTYPE_OF or not name.isidentifier():
        raise ValueError(f"{path.name}: parameter '{text.strip()}' has none of the types {', '.join(DTYPE_OF)}")
    return Parameter(name, DTYPE_OF[kind_name], is_array)
