"""All that is ever asked of CUDA: the narrow seam below the GPU device.

CuPy does it (cupy_runtime.py). So does an emulation in the tests, which needs no GPU, executes the same kernels, and
runs what is queued on streams late and in bad orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from cupyrec.devices.cuda_kernel import CudaKernel

# Of streams.
HIGHEST_PRIORITY, MIDDLE_PRIORITY, LOWEST_PRIORITY = -2, -1, 0


class CudaRuntime(Protocol):
    """Memory, streams, events, launches and copies of one GPU.

    Streams, events and graphs are handles that only the runtime looks into. A device array has shape, dtype, ndim,
    size, nbytes, itemsize, flags.c_contiguous, T, reshape and slices (views), and nothing else that needs no waiting.
    What takes a stream is queued there and returns at once; on one stream everything is done in the order in which it
    was queued, and between streams only events give an order. All methods may be called by several threads at once.
    Errors of CUDA are raised as DeviceError, and DeviceMemoryError where memory is short.
    """

    def describe(self) -> dict[str, Any]:
        """Device, driver and library versions; JSON-safe."""

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory of the device."""

    def empty(self, shape: int | Sequence[int], dtype: Any) -> Any:
        """A device array, C-contiguous, of whatever values. Its memory goes back when it and its views are gone."""

    def page_locked(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray:
        """A host array of zeros, page-locked: copies to and from it are asynchronous, and kernels reach it."""

    def lock_pages(self, array: np.ndarray) -> None:
        """Lock the pages of a host array for good, a view of which `mapped` may then give. Raises DeviceError."""

    def managed(self, shape: int | Sequence[int], dtype: Any) -> np.ndarray:
        """A host array, of whatever values, in managed memory that stays on the host; `mapped` gives a view of it too.

        The device may reach it faster than locked pages; to lock it does nothing. It goes back when the array and its
        views are gone. Raises DeviceMemoryError where it cannot be had.
        """

    def is_managed(self, array: np.ndarray) -> bool:
        """Whether `managed` made an array, or the one that it is a view of."""

    def mapped(self, array: np.ndarray) -> Any:
        """A device array over the memory of a page-locked or managed host array, which kernels reach over the link.

        The host has filled a managed one before it is mapped for the first time.
        """

    def stream(self, name: str, *, priority: int = HIGHEST_PRIORITY) -> Any:
        """A new stream; name: for people; priority: as CUDA counts, of what could run the lowest number goes first."""

    def event(self, *, timed: bool = False) -> Any:
        """A new event. Until it is recorded it counts as done. timed: for elapsed_ms; others are quicker to pass."""

    def record(self, event: Any, stream: Any) -> None:
        """The event is done when all that was queued on the stream before is done. It may be recorded again."""

    def wait(self, stream: Any, event: Any) -> None:
        """What is queued on the stream from now on waits for the event, as it was last recorded."""

    def is_done(self, event: Any) -> bool:
        """Whether the event is done; asks and does not wait."""

    def synchronize(self, event: Any) -> None:
        """Let the calling thread, and no other, wait until the event is done."""

    def synchronize_all(self) -> None:
        """Wait until everything queued on the device is done."""

    def elapsed_ms(self, begun: Any, ended: Any) -> float:
        """Milliseconds between two timed events that are done, on the device's clock."""

    def launch(
        self, stream: Any, kernel: CudaKernel, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]
    ) -> None:
        """Launch a kernel. grid, block: three of Python's numbers, each at least 1.

        It is here that the arguments are checked, as by CudaKernel.check, and that each array is on the device: where
        they are checked and taken in one go that costs least. Raises TypeError, ValueError.
        """

    def matmul(self, stream: Any, A: Any, B: Any, out: Any, precision: str) -> None:
        """out[:] = A @ B. float32, 2-d; each of A and B is C-contiguous or the transpose of such; out is C-contiguous.

        precision: one of PRECISIONS: how far the factors may be rounded before they are multiplied; sums are float32.
        """

    def copy(self, stream: Any, source: Any, target: Any) -> None:
        """target[:] = source: C-contiguous arrays of one shape and dtype, each on the host or the device.

        A host array must not be changed, or read, before the copy is done.
        """

    def fill(self, stream: Any, array: Any, byte: int) -> None:
        """Set every byte of a C-contiguous device array."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """A graph of all that work() queues on this stream; nothing of it is done now.

        The same must have been queued before: what is done once, such as compiling, cannot be done meanwhile.
        """

    def replay(self, stream: Any, graph: Any) -> None:
        """Queue all of a graph."""
