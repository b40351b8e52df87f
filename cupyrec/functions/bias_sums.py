"""The gradients of biases: sums over the samples of a batch, of all layers of a stack in one go."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuStream
from cupyrec.devices.numba_kernel import cpu_kernel
from cupyrec.functions.bias_activation import COLUMNS, ROW_THREADS, SUM_BLOCK, sum_blocks
from cupyrec.kernels import kernel


class BiasSums:
    """db_l[o] = sum over s of dY_l[s, o] for each layer l, from the partial sums that bias_activation_backward gives.

    Blocks are added in ascending order: the result does not depend on the number of threads, and is the same on a GPU.
    """

    def __init__(
        self, device: Device, widths: Sequence[int], places: Sequence[int], *, max_samples: int, dtype: Any = np.float32
    ) -> None:
        """widths: of the layers; places: where the biases of each begin among its stack's parameters."""
        self._device = device
        self._widths, self._places = tuple(widths), tuple(places)
        most_blocks = sum_blocks(max_samples)
        starts = [most_blocks * start for start in itertools.accumulate(self._widths, initial=0)]
        self._all = device.zeros(starts[-1], dtype)
        self._partial_sums = [
            self._all[start:end].reshape(most_blocks, width)
            for (start, end), width in zip(itertools.pairwise(starts), self._widths, strict=True)
        ]
        if isinstance(device, GpuStream):
            tiles = [0, *itertools.accumulate(-(-width // COLUMNS) for width in self._widths)]
            table = zip(tiles[:-1], self._widths, starts[:-1], self._places, strict=True)
            self._tiles = tiles[-1]
            self._layers = device.upload(np.array(list(table), np.int64).reshape(-1, 4))

    def of_layer(self, layer: int) -> Any:
        """(sum_blocks(max_samples), width), device: where the partial sums of a layer go."""
        return self._partial_sums[layer]

    def add(self, samples: int, gradients: Any, *, stream: GpuStream | None = None) -> None:
        """Fill the gradients of all biases. gradients: (parameters,), of the stack, device; the others stay as they
        are. samples: of the batch whose partial sums are there; stream: of a GPU; None: the device's own.
        """
        blocks, queue = sum_blocks(samples), stream or self._device
        if isinstance(queue, GpuStream):
            add = kernel("bias_sums", "add_partial_sums", SUM_BLOCK=SUM_BLOCK, COLUMNS=COLUMNS, ROW_THREADS=ROW_THREADS)
            queue.launch(
                add, self._tiles, (COLUMNS, ROW_THREADS), self._all, np.int64(blocks), self._layers,
                np.int32(len(self._widths)), gradients,
            )  # fmt: skip
            return
        for partial_sums, width, place in zip(self._partial_sums, self._widths, self._places, strict=True):
            queue.launch(_add_blocks, 1, partial_sums, blocks, gradients[place : place + width])


@cpu_kernel
def _add_blocks(start, stop, partial_sums, blocks, db):
    width = db.shape[0]
    for o in range(width):
        db[o] = 0
    for block in range(blocks):
        for o in range(width):
            db[o] += partial_sums[block, o]
