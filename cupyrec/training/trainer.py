"""The trainer: allocates a model once, feeds a system with batches, watches the loss and evaluates."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from cupyrec.argument_kinds import check_kind, check_paths
from cupyrec.config import DlrmConfig, SystemConfig, check_at_least
from cupyrec.datasets.source import Source
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.devices.make_device import make_device
from cupyrec.embedding.host_table import HostTable
from cupyrec.evaluation.evaluation import Evaluation, check_source_fits, evaluate
from cupyrec.evaluation.metrics import MetricsResult
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import Optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.pipeline.stage_clock import StageClock, TraceSink
from cupyrec.run_config import RunConfig
from cupyrec.saving.checkpoint import read_checkpoint
from cupyrec.saving.checkpoint_folder import CheckpointFolder
from cupyrec.saving.checkpoint_writer import write_checkpoint
from cupyrec.saving.checkpoints import Checkpoints, checkpoint_content
from cupyrec.saving.model_state import ModelState
from cupyrec.saving.saved_model import save_model
from cupyrec.saving.training_state import TrainingResult, TrainingState
from cupyrec.systems.registry import make_system, resolve_system
from cupyrec.systems.step import System, ignore
from cupyrec.systems.step_reports import OnStep, diverged
from cupyrec.systems.table_memory import TableMemory
from cupyrec.systems.train_stage import TrainStage
from cupyrec.training.device_memory_plan import DeviceMemoryPlan, plan_device_memory
from cupyrec.training.fit_checks import check_data, check_extent, one_at_a_time
from cupyrec.training.memory_advice import memory_advice
from cupyrec.training.memory_plan import plan_memory
from cupyrec.training.save_to_folder import save_to_folder
from cupyrec.training.trainer_defaults import optimizer_of, schedule_of
from cupyrec.training.training_batches import TrainingBatches
from cupyrec.training.training_loop import TrainingLoop, Watching
from cupyrec.training.weights_to_load import open_weights, state_to_load


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

        optimizer: or its name, or one of one's own, see check_optimizer; schedule: or a constant learning rate; both
        those of `cupyrec train` when not given.
        batch_size: the most samples of a batch. threads: of the CPU, where the device is given by name. seed: of all
        initial weights. system: where embeddings live and are trained, or its name. device: what computes, or its name:
        auto, cpu or gpu. trace: is told what each stage does when, see pipeline.trace_file.TraceFile.
        Raises ConfigError, DeviceError, and MemoryPlanError before allocating.
        """
        check_kind(DlrmConfig, "a cupyrec.DlrmConfig", config=config)
        check_kind(SystemConfig | str, "a name, or a cupyrec.SystemConfig", system=system)
        check_kind(Device | str, "auto, cpu, gpu, or what make_device gives", device=device)
        check_kind(TraceSink | None, "a cupyrec.TraceFile, or have its method box", trace=trace)
        check_at_least(1, batch_size=batch_size, threads=1 if threads is None else threads)
        check_at_least(0, seed=seed)
        self.config, self.batch_size, self._seed = config, batch_size, seed
        optimizer, schedule = optimizer_of(optimizer), schedule_of(schedule)
        system_config = SystemConfig(system) if isinstance(system, str) else system
        self.device = make_device(device, threads=threads) if isinstance(device, str) else device
        resident = plan_device_memory(config, optimizer, batch_size)
        system_config, _ = resolve_system(system_config, self.device, resident.total_bytes)
        self.system_config = system_config
        on_gpu = isinstance(self.device, GpuDevice)
        self.memory_plan = plan_memory(config, optimizer, batch_size, system_config, device_apart=on_gpu)
        self.memory_plan.check(available_bytes())
        self.device_memory_plan: DeviceMemoryPlan | None = None
        if isinstance(self.device, GpuDevice):
            self.device_memory_plan = plan_device_memory(config, optimizer, batch_size, system_config)
            self.device_memory_plan.check(self.device.runtime.memory_bytes()[0])
        self.threads = self.device.threads
        with self.device.running(), memory_advice(self.device_memory_plan):
            model = Dlrm(self.device, config, max_samples=batch_size, seed=seed)
            self.table_memory = TableMemory(system_config, self.device)
            table = HostTable(
                self.device.host,
                config.table_rows,
                config.dimension,
                state_width=optimizer.row_state_width(config.dimension),
                seed=seed,
                zeros=self.table_memory.zeros,
            )
            stage = TrainStage(self.device, model, optimizer, schedule, max_samples=batch_size)
            self.system: System = make_system(system_config, stage, table, seed=seed, clock=StageClock(trace))
        self.turn = threading.Lock()  # of whoever trains, or takes over weights
        self.state = TrainingState()  # of the run that fit is at, or was
        self._checkpoints: Checkpoints | None = None  # of that run
        self._model_state = ModelState(self.system, stage, optimizer)
        self._encoding: str | None = None  # of the data it was trained on last, None where nobody knows

    @one_at_a_time
    def fit(
        self,
        source: Source,
        *,
        valid: Source | None = None,
        epochs: int = 1,
        max_steps: int | None = None,
        eval_every: int = 0,
        patience: int = 0,
        on_step: OnStep | None = None,
        on_evaluation: Callable[[Evaluation], None] | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = ignore,
        start: TrainingState | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> TrainingResult:
        """Train on `source`, `epochs` times over, and evaluate on `valid` every `eval_every` steps and at the end.

        patience: end when so many evaluations on the way have had no better AUC than one before; 0: never.
        on_step is told each step's result, as soon as its loss is known, and the share, 0 to 1, of the work done when
        it was trained; on_evaluation each evaluation; say what the system chose for these data.
        stop_requested is asked when a batch has been read, perhaps in another thread, and after each step; the step is
        then whole, and there is no evaluation at the end.
        start: where the run goes on, as load_checkpoint gives it; it is counted on. The source must be the same, and
        epochs and max_steps count from the beginning of the run. checkpoints: made by `checkpoints`; written on the
        way, at the end and when stopped. A run that goes on from one has the bits of one that was never stopped.

        Raises ConfigError on numbers that make no sense, or end before `start`, and when the source does not fit the
        model, DataError on an epoch without samples, DivergenceError when the loss is not finite (the weights are of no
        use then), what the system raises (ScratchpadError, MemoryPlanError, StageError), OutputError of a checkpoint,
        and what the source raises; the weights are then those after the last whole step.
        """
        check_kind(TrainingState | None, "what load_checkpoint gave", start=start)
        check_kind(Checkpoints | None, "what the method checkpoints gave", checkpoints=checkpoints)
        check_extent(epochs=epochs, max_steps=max_steps, eval_every=eval_every, patience=patience)
        check_data(source, valid, eval_every, self.config, self._encoding)
        state = TrainingState() if start is None else start
        state.check_not_beyond(epochs, max_steps)
        self.state, self._encoding = state, getattr(source, "encoding", None)
        if checkpoints is not None:
            checkpoints.check_is_of(self._model_state)
        self._checkpoints = checkpoints
        loop = TrainingLoop(
            self.system,
            TrainingBatches(
                source,
                self.batch_size,
                epochs,
                max_steps,
                stop_requested,
                start=state.position,
                steps_done=state.steps,
                on_read=None if checkpoints is None else checkpoints.batch_read,
            ),
            state,
            Watching(on_step, on_evaluation, stop_requested, say),
            valid=valid,
            batch_size=self.batch_size,
            eval_every=eval_every,
            patience=patience,
            checkpoints=checkpoints,
        )
        with self.device.running(), memory_advice(self.device_memory_plan):
            interrupted = loop.run()
        system = {"name": self.system.name, **self.system.facts}
        return state.result(
            interrupted=interrupted,
            out_of_patience=loop.out_of_patience,
            system=system,
            device=self.device.description,
        )

    def evaluate(self, source: Source) -> MetricsResult:
        """Metrics of the present weights on a source."""
        check_source_fits(source, self.config)
        with self.device.running():
            metrics = evaluate(self.system, source, self.batch_size)
        assert metrics is not None  # nothing asked it to stop
        return metrics

    def save(self, folder: str | Path, description: dict[str, Any] | None = None, *, overwrite: bool = False) -> None:
        """Write the weights and what they mean; see save_model.

        overwrite: replace a model, or all that a run left, in the folder; else they are an OutputError.
        Raises what write_model does.
        """
        own = None if self._checkpoints is None else self._checkpoints.folder.path
        write = partial(self.write_model, description=description)
        save_to_folder(folder, write, overwrite=overwrite, own_checkpoints=own)

    def write_model(self, folder: Path, description: dict[str, Any] | None = None) -> None:
        """As save, to a folder that is known to hold nothing of another run; or that RunFolder looks after.

        Raises DivergenceError, and writes nothing, when a weight is not finite: a loss is taken before its step, so
        the last step's weights have shown none yet. DeviceError where the weights cannot be had from a GPU.
        """
        self._finish()
        system = self.system
        if not self._model_state.weights_are_finite():
            raise diverged(f"weights are not finite after step {system.steps_done:,}, and are not saved")
        save_model(folder, system.model, system.table, steps=system.steps_done, training=self._described(description))

    def checkpoints(
        self,
        folder: str | Path,
        *,
        every: int,
        keep: int = RunConfig.keep,
        keep_best: bool = False,
        describe: Callable[[], dict[str, Any]] = dict,
    ) -> Checkpoints:
        """Checkpoints to be given to fit: every so many steps, the newest `keep` of them stay in the folder.

        keep_best: write one after each evaluation on the way that is the best so far, too, and keep it; every may be 0.
        describe: JSON-safe facts to be kept with each, asked between two steps. Raises ConfigError.
        """
        check_paths(folder=folder)
        check_at_least(0 if keep_best else 1, every=every)
        check_at_least(1, keep=keep)
        return Checkpoints(
            CheckpointFolder(folder),
            self._model_state,
            every=every,
            keep=keep,
            keep_best=keep_best,
            describe=lambda: self._described(describe()),
        )

    def save_checkpoint(self, folder: str | Path, description: dict[str, Any] | None = None) -> None:
        """Write all that training needs to go on as after the last step; between two steps, such as in on_step, or
        when fit has ended.

        folder: is made, and is there whole or not at all; description: JSON-safe facts to be kept with it.
        Raises OutputError, also where it exists; DivergenceError when a weight is not finite; DeviceError.
        """
        check_paths(folder=folder)
        self._finish()
        write_checkpoint(
            folder, self._model_state, checkpoint_content(self._model_state, self.state, self._described(description))
        )

    @one_at_a_time
    def load_weights(self, folder: str | Path, *, grow: bool = False, optimizer_state: bool = False) -> None:
        """Begin with the weights of a model or of a checkpoint, whatever load_model takes; no step is done then.

        grow: its tables may have fewer rows, as the vocabularies of the data have grown: the others are new.
        optimizer_state: take that of a checkpoint as well; else there is none. `fit` refuses data of another encoding
        than those that they were trained on, but for one that has grown from it. Raises ModelError on what is damaged,
        or of another shape or optimizer; the weights are of no use then, where reading has begun. Not while fit is at
        work.
        """
        check_paths(folder=folder)
        check_kind(bool, "True or False", grow=grow, optimizer_state=optimizer_state)
        opened = open_weights(folder, self.config, grow=grow)
        state = state_to_load(opened, self._model_state, folder) if optimizer_state else {}
        with self.device.running():
            if opened.config != self.config:
                self.system.table.initialise(self.device.host, self._seed)
            self._model_state.begin_with(opened.tensors | state)
        self.state, self._encoding = TrainingState(), opened.encoding

    @one_at_a_time
    def load_checkpoint(self, folder: str | Path) -> TrainingState:
        """Take over weights and optimizer state of a checkpoint; give what is returned to fit as `start`.

        Schedule and seed are not compared: they must be the same for the same bits. Raises ModelError on a checkpoint
        that is damaged, or of another model or optimizer; the weights are of no use then. Not while fit is at work.
        """
        check_paths(folder=folder)
        checkpoint = read_checkpoint(folder)
        with self.device.running():
            checkpoint.load(self._model_state)
        self.state, self._encoding = checkpoint.state, checkpoint.content.get("encoding")
        return checkpoint.state

    def _described(self, description: dict[str, Any] | None) -> dict[str, Any]:
        """What is kept with the weights: also how the values of the data became ids, where that is known."""
        return {"encoding": self._encoding, **(description or {})}

    def _finish(self) -> None:
        """Bring every row's value to the host table."""
        if self._checkpoints is not None:
            self._checkpoints.let_host_table_change()
        self.system.finish()
