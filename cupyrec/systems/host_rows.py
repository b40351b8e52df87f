"""What `hybrid` and `static` share: rows that are pooled and updated in host memory, and the link to the device.

Pooled vectors go to the device, their gradient comes back: (B, F, D) each way. On the CPU device both ends are the
same memory, but the copies are made all the same: the system does what it would do with a GPU.
"""

from __future__ import annotations

from typing import Any

from cupyrec.batch import Batch
from cupyrec.devices.host_memory import host_array
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.systems.train_stage import TrainStage

# The stages of both systems, beside Load, Exchange and Train. The way back has a name of its own: Train stands between.
GATHER, EXCHANGE_BACK, UPDATE = "Gather", "Exchange back", "Update"


class HostRows:
    """Pools and updates rows of the host table, in buffers that are allocated once.

    A batch goes through pool, send, receive and update, in this order; without training, through the first two.
    """

    def __init__(self, stage: TrainStage, table: HostTable) -> None:
        self._stage, self._table = stage, table
        config, dtype = stage.model.config, table.records.dtype
        shape = (stage.max_samples, config.features, config.dimension)
        self._host_Y, self._host_dY = host_array(shape, dtype), host_array(shape, dtype)
        self._link = stage.device.stream()
        self._coalescer = Coalescer(stage.device, table.table_rows)

    def pool(self, batch: Batch, *, mean: bool) -> None:
        """Pool the rows of a batch into the host's buffer. mean: whether to divide by the length of each bag."""
        Y = self._host_Y[: batch.samples]
        embedding_bag_forward(self._stage.device, self._table.records, batch.rows, batch.offsets, Y, mean=mean)

    def send(self, Y: Any) -> int:
        """Copy the pooled vectors to the device; returns the bytes. Y: (B, F, D), device; overwritten."""
        self._link.copy(self._host_Y[: Y.shape[0]], Y)
        return Y.nbytes

    def receive(self, dY: Any) -> int:
        """Copy their gradient to the host; returns the bytes. dY: (B, F, D), device."""
        self._link.copy(dY, self._host_dY[: dY.shape[0]])
        return dY.nbytes

    def update(self, batch: Batch, offsets: Any) -> int:
        """Coalesce and update the rows of a batch in the host table; returns U, how many there are.

        offsets: (F*B + 1,): the bags whose lengths the gradient is divided by where bags are averaged.
        """
        plan = self._coalescer.plan(batch)
        self._stage.update_rows(self._table.records, self._host_dY[: batch.samples], offsets, plan)
        return plan.unique
