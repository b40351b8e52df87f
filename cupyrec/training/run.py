"""One training run from its configuration: data, memory plan, training, metrics, the saved model."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cupyrec.config import DlrmConfig
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.devices.make_device import make_device
from cupyrec.errors import ConfigError, CupyrecError, DataError, DivergenceError, OutputError
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.pipeline.trace_file import TraceFile
from cupyrec.run_config import RunConfig
from cupyrec.systems.registry import resolve_system, unused_options
from cupyrec.training.device_memory_plan import plan_device_memory
from cupyrec.training.interrupt import StopOnInterrupt
from cupyrec.training.memory_plan import plan_memory
from cupyrec.training.progress import Progress
from cupyrec.training.resume import config_to_keep
from cupyrec.training.run_checkpoints import (
    RunCheckpoints,
    choose_checkpoint,
    load_checkpoint,
    wants_to_resume,
    written_before,
)
from cupyrec.training.run_data import RunData
from cupyrec.training.run_folder import RunFolder
from cupyrec.training.run_records import RunRecords, describe, result_facts
from cupyrec.training.saved_model import WEIGHT_BYTES, model_bytes
from cupyrec.training.trainer import Trainer
from cupyrec.training.training_state import TrainingResult


@dataclass(frozen=True)
class RunReport:
    """How a run went.

    bad_rows: how many bad rows were skipped, by the file that holds them; saved_in: None where nothing was saved;
    trace_error: why the trace is not whole, None where it is or none was asked for; checkpoint: the newest, None where
    none is written; stopped_by: the signal that asked to stop before the end, None where none did; steps_before: those
    of the checkpoint that it went on from; max_steps: as it was set.
    """

    result: TrainingResult
    bad_rows: dict[Path, int]
    saved_in: Path | None
    trace_error: OutputError | None = None
    checkpoint: Path | None = None
    stopped_by: signal.Signals | None = None
    steps_before: int = 0
    max_steps: int | None = None


def run_training(
    config: RunConfig, *, say: Callable[[str], None], progress: Progress, config_file: str | Path | None = None
) -> RunReport:
    """Train as configured.

    say: takes lines for people, before training starts; progress: shows steps and evaluations; config_file: where the
    configuration came from, so that it is not overwritten with bad rows.
    Raises CupyrecError. When anything fails in mid-run, the model as of the last whole step is saved and the error says
    so, or, where it is not one of ours, a message; when the loss is not finite no model is saved. Ctrl-C and SIGTERM
    end training after the step under way; before training Ctrl-C raises KeyboardInterrupt. To go on from a checkpoint
    all options must be there: resume.options_to_resume gives them.
    """
    resumes = wants_to_resume(config)
    _toml_of(config)  # names that cannot be kept are told before anything is made
    with contextlib.ExitStack() as stack:
        folder = None
        if config.output is not None:
            folder = stack.enter_context(RunFolder(config.output, overwrite=config.overwrite, resume=resumes))
        checkpoint = None
        if folder is not None and resumes:
            checkpoint = choose_checkpoint(config, folder, say)
        own_files = written_before(folder, checkpoint) if folder is not None and resumes else ()
        data = RunData(config, folder, config_file, own_files=own_files)
        shape = config.model_for(data.table_rows, data.dense_features)
        # Before the lines of the files are counted, which may take minutes.
        device = make_device(
            config.device, threads=config.threads, precision=config.precision, graphs=config.cuda_graphs, say=say
        )
        _check_memory(config, shape, device, say)
        if folder is not None:
            checkpoint_bytes = _checkpoint_bytes(config, shape) if config.checkpoint_every else 0
            what = "the model with a checkpoint" if checkpoint_bytes else "the model"
            folder.check_space(model_bytes(shape) + checkpoint_bytes, what)
        train, valid = data.split(say)
        run_checkpoints = RunCheckpoints(config, train, valid)
        if checkpoint is not None:
            run_checkpoints.check_same_data(checkpoint)
        trace = None if config.trace is None else TraceFile(config.trace)
        if trace is not None:
            stack.callback(_close, trace)
        trainer = _trainer(config, shape, device, trace, say)
        records = RunRecords(folder, progress, log_every=config.log_every)
        start, steps_before, checkpoints = None, 0, None
        if folder is not None:
            resolved = _resolved(config, shape, trainer)
            if checkpoint is None:
                folder.begin(_toml_of(resolved))
            else:
                start = load_checkpoint(trainer, checkpoint, folder)
                steps_before = start.steps
                folder.go_on(_toml_of(resolved), checkpoint.steps, checkpoint.content["metrics_bytes"], say)
                ends = config.max_steps is not None and start.steps >= config.max_steps
                if start.position.batches and not ends and not getattr(train, "seekable", False):
                    say("the raw files are read again up to there, which takes its time")
            if config.checkpoint_every:
                folder.write_config()
                kept = _toml_of(config_to_keep(resolved))
                checkpoints = trainer.checkpoints(
                    folder.checkpoints.path,
                    every=config.checkpoint_every,
                    keep=config.keep,
                    describe=run_checkpoints.describe(kept, data, records, folder),
                )
        else:
            say("the model will not be saved: no --output was given")
        stop = stack.enter_context(StopOnInterrupt())
        if checkpoint is not None:
            records.resume(checkpoint.content["records"])
        try:
            result = trainer.fit(
                train,
                valid=valid,
                epochs=config.epochs,
                max_steps=config.max_steps,
                eval_every=config.eval_every,
                on_step=records.step,
                on_evaluation=records.evaluation,
                stop_requested=stop,
                say=say,
                start=start,
                checkpoints=checkpoints,
            )
        except DivergenceError:
            raise
        except Exception as error:
            if folder is None or trainer.system.steps_done == 0:
                raise
            note = _rescue(trainer, folder, records, data.facts, error)
            if isinstance(error, CupyrecError):
                raise _with_note(error, note) from error
            # It may be the stream of the message that failed.
            with contextlib.suppress(OSError, ValueError):
                progress.message(note)
            raise
        saved_in = None
        if folder is not None and result.steps:
            _save(trainer, folder, {**data.facts, **result_facts(result)})
            saved_in = folder.path
        records.end(result)
        trace_error = None if trace is None else _close(trace)
        return RunReport(
            result,
            data.bad_rows(),
            saved_in,
            trace_error,
            checkpoint=None if checkpoints is None or folder is None else folder.checkpoints.newest,
            stopped_by=stop.signal if result.interrupted else None,
            steps_before=steps_before,
            max_steps=config.max_steps,
        )


def _close(trace: TraceFile) -> OutputError | None:
    """End a trace; it is worth less than the model and its figures, so that its error waits for these."""
    try:
        trace.close()
    except OutputError as error:
        return error
    return None


def _resolved(config: RunConfig, shape: DlrmConfig, trainer: Trainer) -> RunConfig:
    """The configuration with what was used in place of what was left open, so that it gives the same weights again."""
    return replace(
        config,
        system=trainer.system.name,
        device=trainer.device.name,
        threads=trainer.threads,
        bottom_mlp=tuple(shape.bottom),
        # Say nothing of the weights, and would not let the file be used again.
        trace=None,
        resume=False,
        resume_step=None,
    )


def _toml_of(config: RunConfig) -> str:
    """The configuration as TOML, which is UTF-8. Raises ConfigError."""
    toml = config.to_toml()
    try:
        toml.encode("utf-8")
    except UnicodeEncodeError:
        line = next(line for line in toml.splitlines() if line.encode("utf-8", "replace").decode() != line)
        raise ConfigError(f"a name that is not UTF-8 cannot be kept in config.toml; rename it: {line}") from None
    return toml


def _check_memory(config: RunConfig, shape: DlrmConfig, device: Device, say: Callable[[str], None]) -> None:
    """Print the memory plans. Raises MemoryPlanError."""
    optimizer = make_optimizer(config.optimizer, eps=config.eps)
    resident = plan_device_memory(shape, optimizer, config.batch_size)
    system, _ = resolve_system(config.system_config(), device, resident.total_bytes)
    plan = plan_memory(shape, optimizer, config.batch_size, system, device_apart=isinstance(device, GpuDevice))
    _say_plan("memory plan:", plan.lines(), say)
    if isinstance(device, GpuDevice):
        on_device = plan_device_memory(shape, optimizer, config.batch_size, system)
        _say_plan("memory plan of the GPU:", on_device.lines(), say)
        on_device.check(device.runtime.memory_bytes()[0])
    plan.check(available_bytes())


def _checkpoint_bytes(config: RunConfig, shape: DlrmConfig) -> int:
    """What one takes, at least."""
    row_state = make_optimizer(config.optimizer, eps=config.eps).row_state_width(shape.dimension)
    return model_bytes(shape) + WEIGHT_BYTES * sum(shape.table_rows) * row_state


def _say_plan(title: str, lines: list[str], say: Callable[[str], None]) -> None:
    say(title)
    for line in lines:
        say(f"  {line}")


def _trainer(
    config: RunConfig, shape: DlrmConfig, device: Device, trace: TraceFile | None, say: Callable[[str], None]
) -> Trainer:
    schedule = WarmupPolynomialDecay(
        config.learning_rate,
        config.warmup_steps,
        config.decay_start_step,
        config.decay_steps,
        config.end_learning_rate,
        config.decay_power,
    )
    trainer = Trainer(
        shape,
        optimizer=make_optimizer(config.optimizer, eps=config.eps),
        schedule=schedule,
        batch_size=config.batch_size,
        seed=config.seed,
        system=config.system_config(),
        device=device,
        trace=trace,
    )
    why = f" ({trainer.why_system})" if trainer.why_system else ""
    say(f"system {trainer.system.name}{why}, device {device.description}")
    unused = unused_options(trainer.system_config, device)
    if not config.cuda_graphs and not isinstance(device, GpuDevice):
        unused.append("--no-cuda-graphs")
    if unused:
        say(f"not used by this system: {', '.join(unused)}")
    return trainer


def _save(trainer: Trainer, folder: RunFolder, training: dict[str, Any]) -> None:
    folder.write_config()
    device = {"device": trainer.device.description, "threads": trainer.threads}
    trainer.save(folder.path, {**training, **device})
    folder.replace_earlier()


def _rescue(trainer: Trainer, folder: RunFolder, records: RunRecords, facts: dict[str, Any], error: Exception) -> str:
    """Save the steps trained before an error, and say how that went."""
    steps = f"the {trainer.system.steps_done:,} steps trained before"
    try:
        _save(trainer, folder, {**facts, "stopped_by": describe(error)})
    except CupyrecError as failure:
        return f"{steps} could not be saved: {failure}"
    # The model is whole; a full disk may still want room for a line.
    with contextlib.suppress(CupyrecError):
        records.stopped(error)
    return f"{steps} are saved in {folder.path}"


def _with_note(error: CupyrecError, note: str) -> CupyrecError:
    """The same error with a note at the end of its message."""
    if isinstance(error, DataError):
        return DataError(f"{error.reason} ({note})", path=error.path, line=error.line, column=error.column)
    return type(error)(f"{error} ({note})")
