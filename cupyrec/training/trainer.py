"""The trainer: allocates a model once, feeds a system with batches, watches the loss and evaluates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.datasets.source import Source
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.devices.make_device import make_device
from cupyrec.embedding.host_table import HostTable
from cupyrec.errors import ConfigError, DeviceMemoryError, DivergenceError, StageError
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import Optimizer, make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.pipeline.stage_clock import StageClock, TraceSink
from cupyrec.run_config import RunConfig
from cupyrec.systems.registry import make_system, resolve_system
from cupyrec.systems.step import System, Traffic, ignore
from cupyrec.systems.train_stage import TrainStage
from cupyrec.training.device_memory_plan import DeviceMemoryPlan, plan_device_memory
from cupyrec.training.evaluation import (
    Evaluation,
    check_source_fits,
    evaluate,
    overflow_is_seen_later,
)
from cupyrec.training.memory_plan import plan_memory
from cupyrec.training.metrics import MetricsResult
from cupyrec.training.saved_model import save_model
from cupyrec.training.step_reports import OnStep, StepReports, diverged
from cupyrec.training.training_batches import TrainingBatches

# Rows looked at at a time: a few megabytes.
CHECKED_ROWS = 65_536


@dataclass(frozen=True)
class TrainingResult:
    """How a run went.

    steps, samples:     trained in this call.
    seconds:            all of it; data_wait_seconds: training stood still for want of a batch or its rows;
                        evaluation_seconds: evaluating.
    traffic:            what all steps moved; None where nothing moves.
    system:             its name, and what it was set to or chose.
    device:             its description.
    final, best:        the last evaluation, and the one with the highest AUC (the latest of equals); None without
                        validation data.
    interrupted:        whether it was asked to stop before its end.
    """

    steps: int
    samples: int
    seconds: float
    data_wait_seconds: float
    evaluation_seconds: float
    final: Evaluation | None
    best: Evaluation | None
    interrupted: bool
    traffic: Traffic | None = None
    system: dict[str, Any] = field(default_factory=dict)
    device: str = ""


class Trainer:
    """One model, on one device, trained by one system."""

    def __init__(
        self,
        config: DlrmConfig,
        *,
        optimizer: Optimizer | str | None = None,
        schedule: WarmupPolynomialDecay | float | None = None,
        batch_size: int = 512,
        threads: int | None = None,
        seed: int = 1,
        system: SystemConfig | str = "auto",
        device: Device | str = "auto",
        trace: TraceSink | None = None,
    ) -> None:
        """Check that the model fits in memory, then allocate and initialise it.

        optimizer: or its name; schedule: or a constant learning rate; both those of `cupyrec train` when not given.
        batch_size: the most samples of a batch. threads: of the CPU, where the device is given by name. seed: of all
        initial weights. system: where embeddings live and are trained, or its name. device: what computes, or its name:
        auto, cpu or gpu. trace: is told what each stage does when, see pipeline.trace_file.TraceFile.
        Raises ConfigError, DeviceError, and MemoryPlanError before allocating.
        """
        _check_at_least(1, batch_size=batch_size)
        self.config, self.batch_size = config, batch_size
        if optimizer is None or isinstance(optimizer, str):
            optimizer = make_optimizer(optimizer or RunConfig.optimizer, eps=RunConfig.eps)
        if schedule is None:
            schedule = WarmupPolynomialDecay(RunConfig.learning_rate, RunConfig.warmup_steps)
        elif not isinstance(schedule, WarmupPolynomialDecay):
            schedule = WarmupPolynomialDecay(schedule)
        system_config = SystemConfig(system) if isinstance(system, str) else system
        self.device = make_device(device, threads=threads) if isinstance(device, str) else device
        resident = plan_device_memory(config, optimizer, batch_size)
        system_config, self.why_system = resolve_system(system_config, self.device, resident.total_bytes)
        self.system_config = system_config
        on_gpu = isinstance(self.device, GpuDevice)
        self.memory_plan = plan_memory(config, optimizer, batch_size, system_config, device_apart=on_gpu)
        self.memory_plan.check(available_bytes())
        self.device_memory_plan: DeviceMemoryPlan | None = None
        if isinstance(self.device, GpuDevice):
            self.device_memory_plan = plan_device_memory(config, optimizer, batch_size, system_config)
            self.device_memory_plan.check(self.device.runtime.memory_bytes()[0])
        self.threads = self.device.threads
        with self.device.running(), self._memory_advice():
            model = Dlrm(self.device, config, max_samples=batch_size, seed=seed)
            table = HostTable(
                self.device.host,
                config.table_rows,
                config.dimension,
                state_width=optimizer.row_state_width(config.dimension),
                seed=seed,
            )
            stage = TrainStage(self.device, model, optimizer, schedule, max_samples=batch_size)
            self.system: System = make_system(system_config, stage, table, seed=seed, clock=StageClock(trace))

    def fit(
        self,
        source: Source,
        *,
        valid: Source | None = None,
        epochs: int = 1,
        max_steps: int | None = None,
        eval_every: int = 0,
        on_step: OnStep | None = None,
        on_evaluation: Callable[[Evaluation], None] | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = ignore,
    ) -> TrainingResult:
        """Train on `source`, `epochs` times over, and evaluate on `valid` every `eval_every` steps and at the end.

        on_step is told each step's result, as soon as its loss is known, and the share, 0 to 1, of the work done when
        it was trained; on_evaluation each evaluation; say what the system chose for these data.
        stop_requested is asked when a batch has been read, perhaps in another thread, and after each step; the step is
        then whole, and there is no evaluation at the end.

        Raises ConfigError on numbers that make no sense and when the source does not fit the model, DivergenceError
        when the loss is not finite (the weights are of no use then), what the system raises (ScratchpadError,
        MemoryPlanError, StageError) and what the source raises; the weights are then those after the last whole step.
        """
        _check_at_least(1, epochs=epochs, max_steps=1 if max_steps is None else max_steps)
        _check_at_least(0, eval_every=eval_every)
        for part in (source, valid):
            if part is not None:
                check_source_fits(part, self.config)
        run = TrainingBatches(source, self.batch_size, epochs, max_steps, stop_requested)
        started = time.perf_counter()
        evaluations: list[Evaluation] = []
        evaluation_seconds, wait_seconds, interrupted, steps, samples = 0.0, 0.0, False, 0, 0
        traffic: Traffic | None = None

        def evaluate_now() -> None:
            nonlocal evaluation_seconds
            if valid is None:
                return
            begun = time.perf_counter()
            try:
                metrics = evaluate(self.system, valid, self.batch_size, stop_requested=stop_requested)
            except DivergenceError as error:
                raise diverged(f"the predictions are not finite after step {self.system.steps_done:,}") from error
            evaluation_seconds += time.perf_counter() - begun
            if metrics is not None:
                evaluations.append(Evaluation(self.system.steps_done, metrics))
                if on_evaluation is not None:
                    on_evaluation(evaluations[-1])

        reports = StepReports(on_step)
        with (
            self.device.running(),
            self._memory_advice(),
            closing(run.batches()) as batches,
            overflow_is_seen_later(),
        ):
            self.system.prepare(run.once_through, say)
            # Closed before the batches are: it may read them in a thread of its own.
            with closing(self.system.train(batches, say=say)) as results:
                try:
                    for result in results:
                        steps, samples = steps + 1, samples + result.samples
                        wait_seconds += result.waited_s
                        traffic = result.traffic if traffic is None else traffic + (result.traffic or Traffic())
                        reports.add(result, run.fraction_done(steps))
                        if eval_every and steps % eval_every == 0 and not stop_requested():
                            reports.tell_all()
                            evaluate_now()
                        if stop_requested():
                            interrupted = True
                            break
                except DivergenceError:
                    raise
                except Exception:
                    reports.tell_before_error()
                    raise
                reports.tell_all()
            self.system.finish()
            evaluated = bool(evaluations) and evaluations[-1].step == self.system.steps_done
            if steps and not interrupted and not stop_requested() and not evaluated:
                evaluate_now()
        return TrainingResult(
            steps=steps,
            samples=samples,
            seconds=time.perf_counter() - started,
            data_wait_seconds=wait_seconds,
            evaluation_seconds=evaluation_seconds,
            final=evaluations[-1] if evaluations else None,
            best=max(reversed(evaluations), key=_auc, default=None),
            interrupted=interrupted or stop_requested(),
            traffic=traffic,
            system={"name": self.system.name, **self.system.facts},
            device=self.device.description,
        )

    def evaluate(self, source: Source) -> MetricsResult:
        """Metrics of the present weights on a source."""
        check_source_fits(source, self.config)
        with self.device.running():
            metrics = evaluate(self.system, source, self.batch_size)
        assert metrics is not None  # nothing asked it to stop
        return metrics

    def save(self, folder: str | Path, description: dict[str, Any] | None = None) -> None:
        """Write the weights and what they mean; see save_model.

        Raises DivergenceError, and writes nothing, when a weight is not finite: a loss is taken before its step, so
        the last step's weights have shown none yet. DeviceError where the weights cannot be had from a GPU.
        """
        self.system.finish()
        if not self._weights_are_finite():
            raise diverged(f"weights are not finite after step {self.system.steps_done:,}, and are not saved")
        save_model(folder, self.system.model, self.system.table, steps=self.system.steps_done, training=description)

    @contextmanager
    def _memory_advice(self) -> Iterator[None]:
        """Within it an error for want of device memory says what was planned, and what would take less."""
        try:
            yield
        except (DeviceMemoryError, StageError) as error:
            short = error if isinstance(error, DeviceMemoryError) else error.__cause__
            if self.device_memory_plan is None or not isinstance(short, DeviceMemoryError):
                raise
            raise type(error)(f"{error}; {self.device_memory_plan.shortage()}") from short

    def _weights_are_finite(self) -> bool:
        records = self.system.table.records
        # Block by block: no second table is made, not even of booleans.
        blocks = (records[row : row + CHECKED_ROWS] for row in range(0, records.shape[0], CHECKED_ROWS))
        parameters = self.device.download(self.system.model.parameters)
        return bool(np.isfinite(parameters).all()) and all(np.isfinite(block).all() for block in blocks)


def _check_at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ConfigError(f"{name} must be at least {least}, but is {number}")


def _auc(evaluation: Evaluation) -> float:
    auc = evaluation.metrics.auc
    return -math.inf if auc is None else auc
