"""A saved model, loaded for prediction and evaluation on the CPU, whatever device trained it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.argument_kinds import check_paths
from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig, check_at_least
from cupyrec.datasets.source import Source, check_batch, check_batch_size, read_batches
from cupyrec.devices.after_fork import renew_in_children
from cupyrec.devices.cpu import CpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.embedding.host_table import HostTable
from cupyrec.errors import ConfigError
from cupyrec.evaluation.evaluation import check_source_fits, evaluate, ignoring_overflow
from cupyrec.evaluation.metrics import MetricsResult
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.optim.sgd import Sgd
from cupyrec.saving.open_model import open_model
from cupyrec.saving.safetensors_file import fill
from cupyrec.saving.saved_model import model_tensors
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.train_stage import TrainStage
from cupyrec.training.memory_plan import plan_memory


class _InTurns:
    """Lets one thread at a time predict, in whose arrays all do, and gives each logits of its own."""

    def __init__(self, system: ResidentSystem) -> None:
        self._system, self._turn = system, threading.Lock()
        renew_in_children(self)

    def after_fork(self) -> None:
        """See Renewed."""
        self._turn = threading.Lock()

    def predict(self, batch: Batch) -> np.ndarray:
        with self._turn:
            return np.array(self._system.predict(batch), dtype=np.float32)


class TrainedModel:
    """Predicts. Made by load_model. Several threads may use it: they take turns, batch by batch.

    config: the model's shape; description: the whole of model.json; batch_size: the most samples of a batch;
    encoding: that of the data it was trained with, None where nobody knows.
    """

    def __init__(
        self,
        config: DlrmConfig,
        description: dict[str, Any],
        system: ResidentSystem,
        device: CpuDevice,
        batch_size: int,
        encoding: str | None = None,
    ) -> None:
        self.config, self.description, self.batch_size = config, description, batch_size
        self.encoding = encoding
        self._predictor, self._device = _InTurns(system), device
        workers = ExitStack()
        workers.enter_context(device.keeping_workers())
        weakref.finalize(self, workers.close)

    def predict(self, batch: Batch) -> np.ndarray:
        """Logits (B,) float32; the probability of a click is 1 / (1 + exp(-logit)). For a source see predict_all.

        Raises DataError, and ConfigError on a batch that says that it has the ids of other vocabularies.
        """
        encoding = getattr(batch, "encoding", None)  # what is no batch is told below
        if None not in (encoding, self.encoding) and encoding != self.encoding:
            raise ConfigError(
                f"the batch has the ids of other data than those that the model was trained on (encoding {encoding}, "
                f"not {self.encoding}): make the SampleEncoder of the prepared data of the training"
            )
        check_batch(batch, self.config.table_rows, self.config.dense_features)
        check_batch_size(batch, self.batch_size)
        with self._device.running():
            return self._predictor.predict(batch)

    def check_fits(self, source: Source) -> None:
        """Raise ConfigError when a source was made for other tables, or encodes values in another way."""
        check_source_fits(source, self.config, self.encoding)

    def evaluate(self, source: Source, **watching: Any) -> MetricsResult | None:
        """Metrics on a source that was made for the same tables. watching: the keywords of evaluation.evaluate."""
        self.check_fits(source)
        with self._device.running():
            return evaluate(self._predictor, source, self.batch_size, **watching)

    def predict_all(
        self,
        source: Source,
        take: Callable[[np.ndarray, np.ndarray], None],
        *,
        stop_requested: Callable[[], bool] | None = None,
        on_progress: Callable[[float], None] | None = None,
    ) -> bool:
        """Predict all samples of a source, in order; False when it was asked to stop before the end.

        take: called for each batch with logits (B,) and labels (B,), float32. With the same batch size and threads the
        logits are the same bits; with others they differ by the rounding of sums.
        Raises ConfigError and what the source and take raise.
        """
        self.check_fits(source)
        with (
            self._device.running(),
            closing(read_batches(source, self.batch_size, on_progress=on_progress)) as batches,
            ignoring_overflow(),
        ):
            for batch in batches:
                if stop_requested is not None and stop_requested():
                    return False
                take(self._predictor.predict(batch), batch.labels)
        return True


def load_model(folder: str | Path, *, batch_size: int = 2048, threads: int | None = None) -> TrainedModel:
    """Load what save_model wrote, or a checkpoint, to predict on the CPU.

    batch_size: the most samples of a batch; threads: every core when None.
    Raises ModelError, and MemoryPlanError before anything is allocated.
    """
    check_paths(folder=folder)
    check_at_least(1, batch_size=batch_size, threads=1 if threads is None else threads)
    opened = open_model(folder)
    config = opened.config
    plan_memory(config, None, batch_size).check(available_bytes())
    device = CpuDevice(threads)
    model = Dlrm(device, config, max_samples=batch_size)
    table = HostTable(device, config.table_rows, config.dimension, seed=None)
    for name, target in model_tensors(model, table).items():
        fill(target, opened.tensors[name])
    stage = TrainStage(device, model, Sgd(), WarmupPolynomialDecay(1.0), max_samples=batch_size)
    system = ResidentSystem(stage, table)
    trained = TrainedModel(config, opened.description, system, device, batch_size, opened.encoding)
    # Kernels are loaded now, which takes longer than most predictions.
    nothing = np.zeros(0, np.int64), np.zeros(config.features + 1, np.int64)
    trained.predict(Batch(np.zeros((1, config.dense_features), np.float32), *nothing, np.zeros(1, np.float32)))
    return trained
