"""Errors of CUDA and CuPy as ours."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from cupyrec.errors import CupyrecError, DeviceError, DeviceMemoryError, first_line

OUT_OF_MEMORY = re.compile("cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED")


def in_our_errors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of CUDA and CuPy as DeviceError, and DeviceMemoryError where memory is short."""

    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return method(*arguments, **named)
        except CupyrecError:
            raise
        except MemoryError as error:  # CuPy's OutOfMemoryError
            raise DeviceMemoryError(first_line(error)) from error
        except RuntimeError as error:
            if not hasattr(error, "status"):
                raise
            raise device_error(error) from error

    return call


def device_error(error: RuntimeError) -> DeviceError:
    """An error of CUDA, which has a number, as one of ours."""
    kind = DeviceMemoryError if OUT_OF_MEMORY.search(str(error)) else DeviceError
    return kind(f"CUDA failed: {first_line(error)}")
