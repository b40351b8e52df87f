"""One training run from its configuration: data, memory plan, training, metrics, the saved model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupyrec.config import DlrmConfig, RunConfig
from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.source import Source
from cupyrec.devices.host_memory import available_bytes
from cupyrec.errors import ConfigError, DataError, OutputError
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
    """How a run went.

    bad_rows: how many bad rows were skipped, by the file that holds them; saved_in: None where nothing was saved.
    """

    result: TrainingResult
    bad_rows: dict[Path, int]
    saved_in: Path | None


def run_training(config: RunConfig, *, say: Callable[[str], None], progress: Progress) -> RunReport:
    """Train as configured.

    say: takes lines for people, before training starts; progress: shows steps and evaluations.
    Raises CupyrecError. When reading or evaluating fails in mid-run, the model as of the last whole step is saved and
    the error says so; when the loss is not finite no model is saved. Ctrl-C ends training after the step under way;
    before training it raises KeyboardInterrupt.
    """
    config_toml = _toml_of(config)
    with contextlib.ExitStack() as stack:
        folder = None
        if config.output is not None:
            folder = stack.enter_context(RunFolder(config.output, config_toml, overwrite=config.overwrite))
        data = _Data(config, folder)
        shape = config.model_for(data.table_rows, data.dense_features)
        # Before the lines of the files are counted, which may take minutes.
        _check_memory(config, shape, say)
        train, valid = data.split(say)
        trainer = _trainer(config, shape, say)
        stop = stack.enter_context(StopOnInterrupt())
        records = _Records(folder, progress, log_every=config.log_every)
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
            )
        except (DataError, OutputError) as error:
            if folder is None or trainer.system.steps_done == 0:
                raise
            _save(trainer, folder, {"stopped_by": str(error)})
            note = f"the {trainer.system.steps_done:,} steps trained before are saved in {folder.path}"
            raise _with_note(error, note) from error
        saved_in = None
        if folder is not None and result.steps:
            _save(trainer, folder, _facts(result))
            saved_in = folder.path
        records.end(result)
        return RunReport(result, data.bad_rows(), saved_in)


class _Data:
    """Finds the files; reads none before `split`."""

    def __init__(self, config: RunConfig, folder: RunFolder | None) -> None:
        """folder: where the bad rows go when the configuration names no file. Raises ConfigError, DataError."""
        if not config.paths:
            raise ConfigError("no training data: name Criteo files, a folder or a glob such as 'data/day_*'")
        self._path = Path(config.bad_rows or (folder.path / BAD_ROWS_FILE if folder else BAD_ROWS_FILE))
        # Readers do not share a file.
        self._valid_path = self._path.with_stem(f"{self._path.stem}_valid")
        self._share = _share(config.valid)
        rows = config.hash_rows[0] if len(config.hash_rows) == 1 else config.hash_rows
        how: dict[str, Any] = {"hash_rows": rows, "on_bad_row": config.on_bad_row}
        self._train = CriteoFiles(config.paths, **how, bad_rows_path=self._path)
        self._valid = None
        if config.valid and self._share is None:
            self._valid = CriteoFiles(config.valid, **how, bad_rows_path=self._valid_path)
        self.table_rows, self.dense_features = self._train.table_rows, self._train.dense_features

    def split(self, say: Callable[[str], None]) -> tuple[Source, Source | None]:
        """The training data and the validation data; a share is cut off by counting all lines, which reads the files.

        Raises ConfigError, DataError.
        """
        if self._share is not None:
            train, tail = self._train.split_tail(self._share)
            say(
                f"training on the first {train.count_lines():,} lines of {_files(self._train)}, "
                f"validating on the last {tail.count_lines():,}"
            )
            return train, tail
        validation = f"validating on {_files(self._valid)}" if self._valid else "no validation data (--valid)"
        say(f"training on {_files(self._train)}, {validation}")
        return self._train, self._valid

    def bad_rows(self) -> dict[Path, int]:
        """How many bad rows were skipped so far, by the file that holds them."""
        counts = {self._path: self._train.bad_rows, self._valid_path: self._valid.bad_rows if self._valid else 0}
        return {path: count for path, count in counts.items() if count}


def _share(valid: tuple[str, ...]) -> float | None:
    """The share of the tail that --valid names, None where it names files. Raises ConfigError."""
    if len(valid) != 1 or Path(valid[0]).exists():
        return None
    try:
        share = float(valid[0])
    except ValueError:
        return None
    if not 0 < share < 1:
        raise ConfigError(f"--valid must be files, or a share of the training lines between 0 and 1, but is {valid[0]}")
    return share


def _files(data: CriteoFiles) -> str:
    return str(data.files[0]) if len(data.files) == 1 else f"{len(data.files)} files"


def _toml_of(config: RunConfig) -> str:
    """The configuration as TOML, which is UTF-8. Raises ConfigError."""
    toml = config.to_toml()
    try:
        toml.encode("utf-8")
    except UnicodeEncodeError:
        line = next(line for line in toml.splitlines() if line.encode("utf-8", "replace").decode() != line)
        raise ConfigError(f"a name that is not UTF-8 cannot be kept in config.toml; rename it: {line}") from None
    return toml


def _check_memory(config: RunConfig, shape: DlrmConfig, say: Callable[[str], None]) -> None:
    """Print the memory plan. Raises MemoryPlanError."""
    plan = plan_memory(shape, make_optimizer(config.optimizer, eps=config.eps), config.batch_size)
    say("memory plan:")
    for line in plan.lines():
        say(f"  {line}")
    plan.check(available_bytes())


def _trainer(config: RunConfig, shape: DlrmConfig, say: Callable[[str], None]) -> Trainer:
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
        threads=config.threads,
        seed=config.seed,
    )
    chosen = "" if config.system != "auto" else " (auto: the CPU trains the tables where they are, in host memory)"
    say(f"system {trainer.system.name}{chosen}, device cpu with {trainer.threads} threads")
    return trainer


def _save(trainer: Trainer, folder: RunFolder, training: dict[str, Any]) -> None:
    folder.write_config()
    trainer.save(folder.path, training)


def _with_note(error: DataError | OutputError, note: str) -> DataError | OutputError:
    """The same error with a note at the end of its message."""
    if isinstance(error, DataError):
        return DataError(f"{error.reason} ({note})", path=error.path, line=error.line, column=error.column)
    return OutputError(f"{error} ({note})")


class _Records:
    """Writes lines of three kinds: `train`, of the steps since the last one; `evaluation`; and one `end`."""

    def __init__(self, folder: RunFolder | None, progress: Progress, *, log_every: int) -> None:
        """folder: None where nothing is to be written; log_every: steps between two lines of the kind train."""
        self._folder, self._progress, self._log_every = folder, progress, log_every
        self._started = self._line_began = self._step_ended = time.perf_counter()
        self._samples = self._line_samples = 0
        self._line_loss_sum = 0.0
        self._last: StepResult | None = None

    def step(self, result: StepResult, fraction_done: float) -> None:
        """After each step."""
        self._step_ended, self._last = time.perf_counter(), result
        self._samples += result.samples
        self._line_samples += result.samples
        self._line_loss_sum += result.loss * result.samples
        self._progress.update(result.step, self._samples, result.loss, fraction_done)
        if result.step % self._log_every == 0:
            self._train_line()

    def evaluation(self, evaluation: Evaluation) -> None:
        """After each evaluation."""
        metrics = evaluation.metrics
        self._record({"kind": "evaluation", "step": evaluation.step, **metrics.as_dict()})
        self._progress.message(
            f"step {evaluation.step:,}: AUC {_number(metrics.auc)}, log loss {_number(metrics.log_loss)}"
        )
        # The next line's rate leaves the time of the evaluation out.
        self._line_began += time.perf_counter() - self._step_ended

    def end(self, result: TrainingResult) -> None:
        """At the end of a run that raised no error."""
        self._train_line()
        self._record({"kind": "end", **_facts(result)})

    def _train_line(self) -> None:
        """A line on the steps since the last one, if there are any."""
        if self._last is None or not self._line_samples:
            return
        self._record(
            {
                "kind": "train",
                "step": self._last.step,
                "samples": self._samples,
                "loss": self._line_loss_sum / self._line_samples,
                "learning_rate": self._last.learning_rate,
                "seconds": self._step_ended - self._started,
                "samples_per_s": self._line_samples / max(self._step_ended - self._line_began, 1e-9),
            }
        )
        self._line_began, self._line_samples, self._line_loss_sum = self._step_ended, 0, 0.0

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


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
