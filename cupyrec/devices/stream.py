"""What the stages of the pipeline ask of a device: memory, kernels and copies, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Stream(Protocol):
    """Runs kernels and copies in the order in which they are given. A device is one itself: that of training."""

    def zeros(self, shape: int | Sequence[int], dtype: Any = ...) -> Any:
        """An array of zeros on the device."""

    def launch(self, kernel: Callable[..., Any], items: int, *arguments: Any, bounds: Any = None) -> None:
        """Run kernel(start, stop, *arguments) over all items. bounds: see CpuDevice.launch."""
