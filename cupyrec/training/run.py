"""One training run from its configuration: data, memory plan, training, metrics, the saved model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from cupyrec.config import RunConfig
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.source import Source
from cupyrec.devices.host_memory import available_bytes
from cupyrec.errors import ConfigError, DataError
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.systems.step import StepResult
from cupyrec.training.evaluation import Evaluation
from cupyrec.training.interrupt import StopOnInterrupt
from cupyrec.training.memory_plan import plan_memory
from cupyrec.training.progress import Progress
from cupyrec.training.run_folder import RunFolder
from cupyrec.training.trainer import Trainer, TrainingResult

BAD_ROWS_FILE = "bad_rows.tsv"


@dataclass(frozen=True)
class RunReport:
    """How a run went: the result, bad rows skipped, and where the model is, None where it was not saved."""

    result: TrainingResult
    bad_rows: int
    bad_rows_path: Path
    saved_in: Path | None


def run_training(config: RunConfig, *, say: Callable[[str], None], progress: Progress) -> RunReport:
    """Train as configured.

    say: takes lines for people, before training starts; progress: shows steps and evaluations.
    Raises CupyrecError. When reading fails in mid-run, the model as of the last whole step is saved and the error says
    so; when the loss is not finite nothing is saved.
    """
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopOnInterrupt())
        folder = None
        if config.output is not None:
            folder = stack.enter_context(RunFolder(config.output, overwrite=config.overwrite))
        bad_rows_path = Path(config.bad_rows or (folder.path / BAD_ROWS_FILE if folder else BAD_ROWS_FILE))
        train, valid, counted = _sources(config, bad_rows_path, say)
        trainer = _trainer(config, train, say)
        record = _Records(folder, config, progress)
        try:
            result = trainer.fit(
                train,
                valid=valid,
                epochs=config.epochs,
                max_steps=config.max_steps,
                eval_every=config.eval_every,
                on_step=record.step,
                on_evaluation=record.evaluation,
                stop_requested=stop,
            )
        except DataError as error:
            if folder is None or trainer.system.steps_done == 0:
                raise
            trainer.save(folder.path, {"stopped_by": str(error)})
            raise DataError(
                f"{error.reason} (the {trainer.system.steps_done:,} steps trained before are saved in {folder.path})",
                path=error.path,
                line=error.line,
                column=error.column,
            ) from error
        record.end(result)
        if folder is not None and result.steps:
            trainer.save(folder.path, _facts(result))
        bad_rows = sum(source.bad_rows for source in counted)
        return RunReport(result, bad_rows, bad_rows_path, folder.path if folder and result.steps else None)


def _sources(
    config: RunConfig, bad_rows_path: Path, say: Callable[[str], None]
) -> tuple[Source, Source | None, list[CriteoFiles]]:
    """The training and validation data, and the readers that count bad rows. Raises ConfigError, DataError."""
    if not config.paths:
        raise ConfigError("no training data: name Criteo files, a folder or a glob such as 'data/day_*'")
    rows = config.hash_rows[0] if len(config.hash_rows) == 1 else config.hash_rows
    how: dict[str, Any] = {"hash_rows": rows, "on_bad_row": cast(Literal["error", "skip"], config.on_bad_row)}
    data = CriteoFiles(config.paths, **how, bad_rows_path=bad_rows_path)
    if not config.valid:
        say(f"training on {_files(data)}; no validation data (--valid)")
        return data, None, [data]
    share = _share(config.valid)
    if share is None:
        # Bad rows of both go into one file, through one log.
        valid = CriteoFiles(config.valid, **how, bad_rows_path=bad_rows_path)
        say(f"training on {_files(data)}, validating on {_files(valid)}")
        return data, valid, [data, valid]
    train, tail = data.split_tail(share)
    say(
        f"training on the first {train.count_lines():,} lines of {_files(data)}, "
        f"validating on the last {tail.count_lines():,}"
    )
    return train, tail, [data]


def _share(valid: tuple[str, ...]) -> float | None:
    """The share of the tail that --valid names, None where it names files."""
    if len(valid) != 1:
        return None
    try:
        share = float(valid[0])
    except ValueError:
        return None
    return None if Path(valid[0]).exists() else share


def _files(data: CriteoFiles) -> str:
    return str(data.files[0]) if len(data.files) == 1 else f"{len(data.files)} files"


def _trainer(config: RunConfig, data: Source, say: Callable[[str], None]) -> Trainer:
    """Print the memory plan, then allocate."""
    shape = config.model_for(data.table_rows, data.dense_features)
    optimizer = make_optimizer(config.optimizer, eps=config.eps)
    schedule = WarmupPolynomialDecay(
        config.learning_rate,
        config.warmup_steps,
        config.decay_start_step,
        config.decay_steps,
        config.end_learning_rate,
        config.decay_power,
    )
    plan = plan_memory(shape, optimizer, config.batch_size)
    say("memory plan:")
    for line in plan.lines():
        say(f"  {line}")
    plan.check(available_bytes())
    trainer = Trainer(
        shape,
        optimizer=optimizer,
        schedule=schedule,
        batch_size=config.batch_size,
        threads=config.threads,
        seed=config.seed,
    )
    chosen = "" if config.system != "auto" else " (auto: the CPU trains the tables where they are, in host memory)"
    say(f"system {trainer.system.name}{chosen}, device cpu with {trainer.threads} threads")
    return trainer


class _Records:
    """Turns steps and evaluations into progress and into lines of metrics.jsonl."""

    def __init__(self, folder: RunFolder | None, config: RunConfig, progress: Progress) -> None:
        self._folder, self._config, self._progress = folder, config, progress
        self._started = self._last_time = time.perf_counter()
        self._samples = self._last_samples = 0
        self._loss_sum = 0.0

    def step(self, result: StepResult, fraction_done: float) -> None:
        if self._samples == 0 and self._folder is not None:
            self._folder.write_config(self._config.to_toml())
        self._samples += result.samples
        self._loss_sum += result.loss * result.samples
        self._progress.update(result.step, self._samples, result.loss, fraction_done)
        if result.step % self._config.log_every == 0:
            now = time.perf_counter()
            samples = self._samples - self._last_samples
            self._record(
                {
                    "kind": "train",
                    "step": result.step,
                    "samples": self._samples,
                    "loss": self._loss_sum / samples,
                    "learning_rate": result.learning_rate,
                    "seconds": now - self._started,
                    "samples_per_s": samples / (now - self._last_time),
                }
            )
            self._last_time, self._last_samples, self._loss_sum = now, self._samples, 0.0

    def evaluation(self, evaluation: Evaluation) -> None:
        metrics = evaluation.metrics
        self._record({"kind": "evaluation", "step": evaluation.step, **metrics.as_dict()})
        auc = "undefined" if metrics.auc is None else f"{metrics.auc:.4f}"
        self._progress.message(f"step {evaluation.step:,}: AUC {auc}, log loss {metrics.log_loss:.4f}")
        # The next training line's rate leaves the time of the evaluation out.
        self._last_time, self._last_samples, self._loss_sum = time.perf_counter(), self._samples, 0.0

    def end(self, result: TrainingResult) -> None:
        self._record({"kind": "end", **_facts(result)})

    def _record(self, entry: dict[str, Any]) -> None:
        if self._folder is not None:
            self._folder.record(entry)


def _facts(result: TrainingResult) -> dict[str, Any]:
    """A result as JSON."""
    return {
        "steps": result.steps,
        "samples": result.samples,
        "seconds": round(result.seconds, 3),
        "data_wait_seconds": round(result.data_wait_seconds, 3),
        "evaluation_seconds": round(result.evaluation_seconds, 3),
        "interrupted": result.interrupted,
        **{
            name: None if evaluation is None else {"step": evaluation.step, **evaluation.metrics.as_dict()}
            for name, evaluation in (("final", result.final), ("best", result.best))
        },
    }
