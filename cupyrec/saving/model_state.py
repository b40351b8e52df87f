"""All that training changes: weights and the optimizer's state, of rows and of dense parameters, and the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.errors import ModelError
from cupyrec.optim.registry import Optimizer
from cupyrec.saving.safetensors_file import TensorSource, fill
from cupyrec.saving.saved_model import model_tensors
from cupyrec.systems.step import System
from cupyrec.systems.train_stage import TrainStage

DENSE_STATE = "dense.state"
# Rows looked at at a time: a few megabytes.
CHECKED_ROWS = 65_536


class ModelState:
    """Reads and sets the state of a system, between two steps.

    dimension: D; state_width: S, the optimizer's state of a row, in elements.
    """

    def __init__(self, system: System, stage: TrainStage, optimizer: Optimizer) -> None:
        self.system, self.model_config, self.table = system, system.model.config, system.table
        self.dimension = self.model_config.dimension
        self.state_width = optimizer.row_state_width(self.dimension)
        self.optimizer: dict[str, Any] = {"name": optimizer.name, **asdict(optimizer)}
        self._stage = stage

    @property
    def steps_done(self) -> int:
        return self.system.steps_done

    @property
    def table_bytes(self) -> int:
        """Of the weights and the state of all rows."""
        records = self.table.records
        return records.shape[0] * (self.dimension + self.state_width) * records.dtype.itemsize

    def tables(self) -> dict[str, np.ndarray]:
        """Views of the host table: `embedding.T.weight` (rows, D) and, where S > 0, `embedding.T.state` (rows, S)."""
        tensors, D = {}, self.dimension
        for t in range(len(self.table.table_rows)):
            tensors[f"embedding.{t}.weight"] = self.table.weights_of(t)
            if self.state_width:
                tensors[f"embedding.{t}.state"] = self.table.records_of(t)[:, D : D + self.state_width]
        return tensors

    def dense(self) -> dict[str, np.ndarray]:
        """Copies of the dense parameters, by their names in a saved model, and `dense.state` (P,) if there is any."""
        device = self._stage.device
        tensors = {name: np.array(device.download(array)) for name, array in self._dense_arrays().items()}
        state = self._stage.optimizer_state()
        return tensors | ({DENSE_STATE: state} if state.size else {})

    def set_dense(self, tensors: Mapping[str, np.ndarray], steps: int) -> None:
        """Set the dense parameters, their state and the steps done; the host table has been filled by then."""
        device = self._stage.device
        for name, array in self._dense_arrays().items():
            device.upload(tensors[name], array)
        self._stage.restore(steps, tensors.get(DENSE_STATE, np.zeros(0, np.float32)))
        self.system.reload()

    def begin_with(self, tensors: Mapping[str, TensorSource]) -> None:
        """Set all weights, block by block; no step is done.

        tensors: all weights by their names in a saved model; of a table the first rows are enough, and the others stay.
        What the optimizer remembers, by the names in a checkpoint: 0 where it is not there.
        """
        self.table.records[:, self.dimension :] = 0
        dense = {name: np.zeros(shape, np.float32) for name, shape in self.dense_shapes().items()}
        targets = {name: array for name, array in (self.tables() | dense).items() if name in tensors}
        for name, target in targets.items():
            fill(target, tensors[name])
        self.set_dense(dense, steps=0)

    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what `dense` gives."""
        shapes = {name: tuple(array.shape) for name, array in self._dense_arrays().items()}
        size = self._stage.optimizer_state_size
        return shapes | ({DENSE_STATE: (size,)} if size else {})

    def check_optimizer(self, other: Mapping[str, Any], where: str | Path) -> None:
        """Raise ModelError unless a checkpoint was made with this optimizer. other: its name and settings."""
        if other != self.optimizer:
            raise ModelError(f"{where}: made with the optimizer {_text(other)}, and not {_text(self.optimizer)}")

    def state_shapes(self, table_rows: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The shapes of what the optimizer remembers, of tables of so many rows, by the names in a checkpoint."""
        shapes = {f"embedding.{t}.state": (rows, self.state_width) for t, rows in enumerate(table_rows)}
        dense = {name: shape for name, shape in self.dense_shapes().items() if name == DENSE_STATE}
        return (shapes if self.state_width else {}) | dense

    def weights_are_finite(self) -> bool:
        """Whether all weights and the state of the rows are numbers; the host table has all values by then."""
        records = self.table.records
        # Block by block: no second table is made, not even of booleans.
        blocks = (records[row : row + CHECKED_ROWS] for row in range(0, records.shape[0], CHECKED_ROWS))
        parameters = self._stage.device.download(self.system.model.parameters)
        return bool(np.isfinite(parameters).all()) and all(np.isfinite(block).all() for block in blocks)

    def _dense_arrays(self) -> dict[str, Any]:
        tensors = model_tensors(self.system.model, self.table)
        return {name: array for name, array in tensors.items() if not name.startswith("embedding.")}


def _text(optimizer: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {value!r}" if name != "name" else f"{value}" for name, value in optimizer.items())
