"""One training run from its configuration: data, memory plan, training, metrics, the saved model."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.counted import counted
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.make_device import make_device
from cupyrec.errors import CupyrecError, DivergenceError, OutputError
from cupyrec.optim.registry import make_optimizer
from cupyrec.pipeline.trace_file import TraceFile
from cupyrec.run_config import RunConfig
from cupyrec.runs.initial_weights import InitialWeights
from cupyrec.runs.interrupt import StopOnInterrupt
from cupyrec.runs.progress import Progress
from cupyrec.runs.resume import config_to_keep
from cupyrec.runs.run_checkpoints import (
    RunCheckpoints,
    choose_checkpoint,
    load_checkpoint,
    wants_to_resume,
    written_before,
)
from cupyrec.runs.run_checks import (
    check_memory,
    check_options,
    check_row_counts,
    checkpoint_bytes,
    checkpoints_to_come,
    options_of_a_gpu,
    say_warnings,
    schedule_of,
    size_advice,
    toml_of,
)
from cupyrec.runs.run_data import RunData
from cupyrec.runs.run_records import RunRecords, result_facts
from cupyrec.runs.run_saving import rescue, save, step_to_save, with_note
from cupyrec.saving.run_folder import RunFolder
from cupyrec.saving.saved_model import model_bytes
from cupyrec.saving.training_state import TrainingResult
from cupyrec.systems.registry import unused_options
from cupyrec.training.trainer import Trainer


@dataclass(frozen=True)
class RunReport:
    """How a run went.

    bad_rows: how many bad rows were skipped, by the file that holds them; saved_in: None where nothing was saved;
    trace_error: why the trace is not whole, None where it is or none was asked for; checkpoint: the newest, None where
    none is written; stopped_by: the signal that asked to stop before the end, None where none did; steps_before: those
    of the checkpoint that it went on from; max_steps, warmup_steps: as they were set; stays: the folder of an earlier
    run that was to be replaced and is not, as this one was stopped before its end; None where there is none;
    model_step: the step of the saved model.
    """

    result: TrainingResult
    bad_rows: dict[Path, int]
    saved_in: Path | None
    trace_error: OutputError | None = None
    checkpoint: Path | None = None
    stopped_by: signal.Signals | None = None
    steps_before: int = 0
    max_steps: int | None = None
    stays: Path | None = None
    warmup_steps: int = 0
    model_step: int | None = None


def run_training(
    config: RunConfig, *, say: Callable[[str], None], progress: Progress, config_file: str | Path | None = None
) -> RunReport:
    """Train as configured.

    say: takes lines for people, before training starts; progress: shows steps and evaluations; config_file: where the
    configuration came from, so that it is not overwritten with bad rows.
    Raises CupyrecError. When anything fails in mid-run, the model as of the last whole step is saved and the error says
    so, or, where it is not one of ours, a message; when the loss is not finite no model is saved. Ctrl-C and SIGTERM
    end training after the step under way; before training Ctrl-C raises KeyboardInterrupt. A run that is stopped or
    fails leaves an earlier one that it was to replace as it is. To go on from a checkpoint all options must be there,
    to begin with a model those of its shape: resume.options_to_resume and initial_weights.options_to_begin give them.
    """
    resumes = wants_to_resume(config)
    check_options(config)  # before anything is made
    with contextlib.ExitStack() as stack:
        folder = None
        if config.output is not None:
            folder = stack.enter_context(RunFolder(config.output, overwrite=config.overwrite, resume=resumes))
        checkpoint = None
        if folder is not None and resumes:
            checkpoint = choose_checkpoint(config, folder, say)
        begins_from = None
        if config.init_from is not None and checkpoint is None:
            begins_from = InitialWeights(config, folder)
        own_files = written_before(folder, checkpoint) if folder is not None and resumes else ()
        data = RunData(config, folder, config_file, own_files=own_files)
        if begins_from is not None:
            begins_from.check_fits(data)
        shape = config.model_for(data.table_rows, data.dense_features)
        # Before the lines of the files are counted, which may take minutes.
        device = make_device(
            config.device, threads=config.threads, precision=config.precision, graphs=config.cuda_graphs, say=say
        )
        say_warnings(config, say)
        system, why = check_memory(config, shape, device, say, shuffled_samples=data.shuffled_samples)
        check_row_counts(config, system, shape)
        if folder is not None:
            there, done = (0, 0) if checkpoint is None else (len(folder.checkpoints.steps()), checkpoint.steps)
            new = checkpoints_to_come(config, there, done)
            what = f"the model with {counted(new, 'checkpoint')} (--keep {config.keep})" if new else "the model"
            folder.check_space(model_bytes(shape) + new * checkpoint_bytes(config, shape), what)
        train, valid = data.split(say)
        run_checkpoints = RunCheckpoints(config, train, valid)
        if checkpoint is not None:
            run_checkpoints.check_same_data(checkpoint)
        trace = None if config.trace is None else TraceFile(config.trace)
        if trace is not None:
            stack.callback(_close, trace)
        trainer = _trainer(config, shape, system, device, trace)
        _say_system(trainer, why, config, say)
        if begins_from is not None:
            begins_from.load(trainer, say)
        records = RunRecords(folder, progress, log_every=config.log_every)
        start, steps_before, checkpoints = None, 0, None
        if folder is not None:
            resolved = _resolved(config, shape, trainer)
            if checkpoint is None:
                folder.begin(toml_of(resolved))
            else:
                start = load_checkpoint(trainer, checkpoint, folder)
                steps_before = start.steps
                folder.go_on(toml_of(resolved), checkpoint.steps, checkpoint.content["metrics_bytes"], say)
                ends = config.max_steps is not None and start.steps >= config.max_steps
                if start.position.batches and not ends and not getattr(train, "seekable", False):
                    say("the raw files are read again up to there, which takes its time")
            if config.checkpoint_every or config.save == "best":
                folder.write_config()
                kept = toml_of(config_to_keep(resolved))
                checkpoints = trainer.checkpoints(
                    folder.checkpoints.path,
                    every=config.checkpoint_every,
                    keep=config.keep if config.checkpoint_every else 1,
                    keep_best=config.save == "best",
                    describe=run_checkpoints.describe(kept, data, records, folder),
                )
        else:
            say("the model will not be saved: no --output was given")
        stop = stack.enter_context(StopOnInterrupt())
        if checkpoint is not None:
            records.resume(checkpoint.content["records"])
        try:
            with size_advice(config):
                result = trainer.fit(
                    train,
                    valid=valid,
                    epochs=config.epochs,
                    max_steps=config.max_steps,
                    eval_every=0 if valid is None else config.eval_every,
                    patience=config.patience,
                    on_step=records.step,
                    on_evaluation=records.evaluation,
                    stop_requested=stop,
                    say=say,
                    start=start,
                    checkpoints=checkpoints,
                )
        except DivergenceError as error:
            if folder is None or not folder.metrics_bytes():
                data.discard_bad_rows()
            whole = [] if folder is None else folder.checkpoints.steps()
            if folder is not None and whole:
                note = (
                    f"{folder.checkpoints.place(whole[-1])} is from before: it can be evaluated, exported, gone on from"
                )
                raise with_note(error, note) from error
            raise
        except Exception as error:
            if folder is None or trainer.system.steps_done == 0:
                data.discard_bad_rows()
                raise
            note = rescue(trainer, folder, records, data.facts, error, config.save)
            if isinstance(error, CupyrecError):
                raise with_note(error, note) from error
            # It may be the stream of the message that failed.
            with contextlib.suppress(OSError, ValueError):
                progress.message(note)
            raise
        saved_in = model_step = None
        if folder is not None and result.steps:
            facts, model_step = {**data.facts, **result_facts(result)}, step_to_save(trainer, config.save)
            saved_in = save(trainer, folder, facts, step=model_step, ended=not result.interrupted)
        records.end(result, model_step)
        trace_error = None if trace is None else _close(trace)
        return RunReport(
            result,
            data.bad_rows(),
            saved_in,
            trace_error,
            model_step=model_step,
            checkpoint=None if checkpoints is None or folder is None else folder.checkpoints.newest,
            stopped_by=stop.signal if result.interrupted else None,
            steps_before=steps_before,
            max_steps=config.max_steps,
            warmup_steps=config.warmup_steps,
            stays=folder.path if folder is not None and saved_in not in (None, folder.path) else None,
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
        # Say nothing of the weights, and would not let the file be used again, or let it replace another run.
        trace=None,
        overwrite=False,
        resume=False,
        resume_step=None,
    )


def _trainer(
    config: RunConfig, shape: DlrmConfig, system: SystemConfig, device: Device, trace: TraceFile | None
) -> Trainer:
    """system: resolved; what is free on a GPU may be other than when the plans were made for it."""
    return Trainer(
        shape,
        optimizer=make_optimizer(config.optimizer, eps=config.eps),
        schedule=schedule_of(config),
        batch_size=config.batch_size,
        seed=config.seed,
        system=system,
        device=device,
        trace=trace,
    )


def _say_system(trainer: Trainer, why: str, config: RunConfig, say: Callable[[str], None]) -> None:
    """What trains and where, and which options say nothing to it. why: this system, if there is anything to say."""
    device = trainer.device
    say(f"system {trainer.system.name}{f' ({why})' if why else ''}, device {device.description}")
    if trainer.table_memory.why:
        say(f"host memory {trainer.table_memory.name}: {trainer.table_memory.why}")
    unused = unused_options(trainer.system_config, device)
    if unused:
        say(f"not used by this system: {', '.join(unused)}")
    of_a_gpu = [] if isinstance(device, GpuDevice) else options_of_a_gpu(config)
    if of_a_gpu:
        say(f"not used on the CPU: {', '.join(of_a_gpu)}")
