"""What `hybrid` and `static` share: rows that are pooled and updated in host memory, and the link to the device.

Pooled vectors go to the device, their gradient comes back: (B, F, D) each way. On the CPU device both ends are the
same memory, but the copies are made all the same: the system does what it would do with a GPU. Every system whose rows
are on the host before and after training predicts from them in this way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyrec.batch import Batch
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

    def __init__(self, stage: TrainStage, table: HostTable, *, trains: bool = True) -> None:
        """trains: whether rows are updated here too, and not only pooled."""
        self._stage, self._table, self._host = stage, table, stage.device.host
        config, dtype = stage.model.config, table.records.dtype
        shape = (stage.max_samples, config.features, config.dimension)
        self._host_Y = stage.device.page_locked(shape, dtype)
        self._host_dY: Any = stage.device.page_locked(shape, dtype) if trains else None
        # Events of the CPU and of a GPU are not told apart here.
        self._train: Any = stage.device
        self._link: Any = stage.device.stream("link")
        self._sent, self._received = self._link.record(), self._link.record()
        self._coalescer = Coalescer(self._host, table.table_rows)

    def pool(self, batch: Batch, *, mean: bool) -> None:
        """Pool the rows of a batch into the host's buffer. mean: whether to divide by the length of each bag."""
        self._sent.synchronize()
        Y = self._host_Y[: batch.samples]
        embedding_bag_forward(self._host, self._table.records, batch.rows, batch.offsets, Y, mean=mean)

    def send(self, Y: Any) -> int:
        """Copy the pooled vectors to the device; returns the bytes. Y: (B, F, D), device; overwritten.

        Training waits for it, and it for all of training that is queued: that may read what was in Y.
        """
        self._link.wait(self._train.record())
        self._link.copy(self._host_Y[: Y.shape[0]], Y)
        self._sent = self._link.record()
        self._train.wait(self._sent)
        return Y.nbytes

    def receive(self, dY: Any) -> int:
        """Copy their gradient to the host; returns the bytes. dY: (B, F, D), device."""
        self._link.wait(self._train.record())
        self._link.copy(dY, self._host_dY[: dY.shape[0]])
        self._received = self._link.record()
        return dY.nbytes

    def update(self, batch: Batch, offsets: Any) -> int:
        """Coalesce and update the rows of a batch in the host table; returns U, how many there are.

        offsets: (F*B + 1,), host: the bags whose lengths the gradient is divided by where bags are averaged.
        """
        plan = self._coalescer.plan(batch)
        self._received.synchronize()
        self._stage.update_rows(self._table.records, self._host_dY[: batch.samples], offsets, plan)
        return plan.unique

    def predict(self, batch: Batch) -> np.ndarray:
        """Logits (B,), on the host, from the rows of the host table; valid until the next call."""
        Y = self._stage.pooled(batch.samples)
        self.pool(batch, mean=self._stage.mean)
        self.send(Y)
        return self._stage.predict(self._stage.upload(batch), Y)
