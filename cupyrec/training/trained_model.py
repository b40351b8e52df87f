"""A saved model, loaded for prediction and evaluation on the CPU, whatever device trained it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig
from cupyrec.datasets.source import Source, check_batch_size
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.embedding.host_table import HostTable
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.optim.sgd import Sgd
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.train_stage import TrainStage
from cupyrec.training.evaluation import check_source_fits, evaluate
from cupyrec.training.memory_plan import plan_memory
from cupyrec.training.metrics import MetricsResult
from cupyrec.training.saved_model import read_model, read_weights


class TrainedModel:
    """Predicts. Made by load_model.

    config: the model's shape; description: the whole of model.json; batch_size: the most samples of a batch.
    """

    def __init__(
        self,
        config: DlrmConfig,
        description: dict[str, Any],
        system: ResidentSystem,
        device: CpuDevice,
        batch_size: int,
    ) -> None:
        self.config, self.description, self.batch_size = config, description, batch_size
        self._system, self._device = system, device

    def predict(self, batch: Batch) -> np.ndarray:
        """Logits (B,) float32; the probability of a click is 1 / (1 + exp(-logit)). Raises ConfigError, DataError."""
        batch.validate(self.config.table_rows, self.config.dense_features)
        check_batch_size(batch, self.batch_size)
        with self._device.running():
            return np.array(self._system.predict(batch), dtype=np.float32)

    def evaluate(self, source: Source, **watching: Any) -> MetricsResult | None:
        """Metrics on a source that was made for the same tables. watching: the keywords of evaluation.evaluate."""
        check_source_fits(source, self.config)
        with self._device.running():
            return evaluate(self._system, source, self.batch_size, **watching)


def load_model(folder: str | Path, *, batch_size: int = 2048, threads: int | None = None) -> TrainedModel:
    """Load what save_model wrote, to predict on the CPU.

    batch_size: the most samples of a batch; threads: every core when None.
    Raises ModelError, and MemoryPlanError before anything is allocated.
    """
    config, description = read_model(folder)
    plan_memory(config, None, batch_size).check(available_bytes())
    device = CpuDevice(threads)
    model = Dlrm(device, config, max_samples=batch_size)
    table = HostTable(device, config.table_rows, config.dimension, seed=None)
    read_weights(folder, model, table)
    stage = TrainStage(device, model, Sgd(), WarmupPolynomialDecay(1.0), max_samples=batch_size)
    system = ResidentSystem(stage, table)
    return TrainedModel(config, description, system, device, batch_size)
