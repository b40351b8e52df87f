"""What a run tells while it goes on: progress for a person, lines of metrics.jsonl for programs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cupyrec.evaluation.evaluation import Evaluation
from cupyrec.runs.progress import Progress
from cupyrec.saving.run_folder import RunFolder
from cupyrec.saving.training_state import TrainingResult
from cupyrec.systems.step import StepResult, Traffic


class RunRecords:
    """Writes lines of three kinds: `train`, of the steps since the last one; `evaluation`; and one `end`."""

    def __init__(self, folder: RunFolder | None, progress: Progress, *, log_every: int) -> None:
        """folder: None where nothing is to be written; log_every: steps between two lines of the kind train."""
        self._folder, self._progress, self._log_every = folder, progress, log_every
        self._started = self._line_began = self._step_ended = time.perf_counter()
        self._samples = self._line_samples = 0
        self._line_loss_sum = self._evaluated_s = 0.0
        self._line_traffic: Traffic | None = None
        self._line_stage_ms: Counter[str] = Counter()
        self._line_steps = 0
        self._last: StepResult | None = None

    def state(self) -> dict[str, Any]:
        """What is known of the steps so far, JSON-safe, for `resume`; between two steps, all of which are told."""
        return {
            "seconds": self._step_ended - self._started,
            "line_seconds": self._step_ended - self._line_began,
            "samples": self._samples,
            "line_steps": self._line_steps,
            "line_samples": self._line_samples,
            "line_loss_sum": self._line_loss_sum,
            "line_traffic": None if self._line_traffic is None else asdict(self._line_traffic),
            "line_stage_ms": dict(self._line_stage_ms),
            "last": None if self._last is None else [self._last.step, self._last.learning_rate],
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was asked."""
        now = time.perf_counter()
        self._started, self._line_began, self._step_ended = now - state["seconds"], now - state["line_seconds"], now
        self._samples, self._line_steps = state["samples"], state["line_steps"]
        self._line_samples, self._line_loss_sum = state["line_samples"], state["line_loss_sum"]
        self._line_traffic = None if state["line_traffic"] is None else Traffic(**state["line_traffic"])
        self._line_stage_ms = Counter(state["line_stage_ms"])
        if state["last"] is not None:
            step, learning_rate = state["last"]
            self._last = StepResult(step, 0, math.nan, learning_rate)

    def step(self, result: StepResult, fraction_done: float) -> None:
        """After each step."""
        # A line's rate leaves out the evaluation before its steps.
        self._line_began += self._evaluated_s
        self._evaluated_s = 0.0
        self._step_ended, self._last = time.perf_counter(), result
        self._samples += result.samples
        self._line_samples += result.samples
        loss = float(result.loss)
        self._line_loss_sum += loss * result.samples
        self._line_steps += 1
        if result.traffic is not None:
            self._line_traffic = (self._line_traffic or Traffic()) + result.traffic
        self._line_stage_ms.update(result.stage_ms)
        self._progress.update(result.step, self._samples, loss, fraction_done)
        if result.step % self._log_every == 0:
            self._train_line()

    def evaluation(self, evaluation: Evaluation) -> None:
        """After each evaluation."""
        metrics = evaluation.metrics
        self._record({"kind": "evaluation", "step": evaluation.step, **metrics.as_dict()})
        self._progress.message(
            f"step {evaluation.step:,}: AUC {_number(metrics.auc)}, log loss {_number(metrics.log_loss)}"
        )
        self._evaluated_s = time.perf_counter() - self._step_ended

    def end(self, result: TrainingResult, model_step: int | None) -> None:
        """At the end of a run that raised no error. model_step: of the saved model, None where there is none."""
        self._train_line()
        self._record({"kind": "end", **result_facts(result), "model_step": model_step})

    def stopped(self, error: Exception, model_step: int) -> None:
        """At the end of a run that an error ended, once the steps trained before are saved; see end."""
        self._train_line()
        steps = self._last.step if self._last else 0
        self._record({"kind": "end", "steps": steps, "model_step": model_step, "stopped_by": describe(error)})

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
                "steps": self._line_steps,
                **traffic_facts(self._line_traffic),
                # The mean of the line's steps.
                "stage_ms": {name: round(ms / self._line_steps, 4) for name, ms in self._line_stage_ms.items()},
            }
        )
        self._line_began, self._line_samples, self._line_loss_sum = self._step_ended, 0, 0.0
        self._line_traffic, self._line_steps = None, 0
        self._line_stage_ms.clear()

    def _record(self, entry: dict[str, Any]) -> None:
        if self._folder is not None:
            self._folder.record(entry)


def traffic_facts(traffic: Traffic | None) -> dict[str, Any]:
    """Hits, misses, evictions, bytes each way and bubbles, summed over steps; nothing where nothing moves."""
    return {} if traffic is None else {"traffic": asdict(traffic)}


def result_facts(result: TrainingResult) -> dict[str, Any]:
    """A result as JSON."""
    return {
        "steps": result.steps,
        "samples": result.samples,
        "seconds": round(result.seconds, 3),
        "data_wait_seconds": round(result.data_wait_seconds, 3),
        "evaluation_seconds": round(result.evaluation_seconds, 3),
        "interrupted": result.interrupted,
        "out_of_patience": result.out_of_patience,
        "system": result.system,
        "device": result.device,
        **traffic_facts(result.traffic),
        **{
            name: None if evaluation is None else {"step": evaluation.step, **evaluation.metrics.as_dict()}
            for name, evaluation in (("final", result.final), ("best", result.best))
        },
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def describe(error: Exception) -> str:
    """An error in one text, never an empty one."""
    return str(error) or type(error).__name__
