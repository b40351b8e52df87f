"""What happens step after step: counting, telling, evaluating, checkpoints, and stopping."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from cupyrec.argument_kinds import check_kind
from cupyrec.batch import Batch
from cupyrec.datasets.source import Source
from cupyrec.errors import DivergenceError
from cupyrec.evaluation.evaluation import Evaluation, evaluate, ignoring_overflow
from cupyrec.saving.checkpoints import Checkpoints
from cupyrec.saving.training_state import TrainingState
from cupyrec.systems.step import StepResult, System, Traffic
from cupyrec.systems.step_reports import OnStep, StepReports, diverged
from cupyrec.training.training_batches import TrainingBatches


@dataclass(frozen=True)
class Watching:
    """Who is told, and who may stop it; see Trainer.fit."""

    on_step: OnStep | None
    on_evaluation: Callable[[Evaluation], None] | None
    stop_requested: Callable[[], bool]
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        check_kind(Callable | None, "a function", on_step=self.on_step, on_evaluation=self.on_evaluation)
        check_kind(Callable, "a function", stop_requested=self.stop_requested, say=self.say)


class TrainingLoop:
    """One call of Trainer.fit."""

    def __init__(
        self,
        system: System,
        batches: TrainingBatches,
        state: TrainingState,
        watching: Watching,
        *,
        valid: Source | None,
        batch_size: int,
        eval_every: int,
        patience: int,
        checkpoints: Checkpoints | None,
    ) -> None:
        """state: is counted on, step by step.

        out_of_patience: whether as many evaluations as patience is for, which 0 is not, had no better AUC than one
        before; training ends then.
        """
        self._system, self._batches, self._state, self._watching = system, batches, state, watching
        self._valid, self._batch_size, self._eval_every = valid, batch_size, eval_every
        self._patience, self._checkpoints = patience, checkpoints
        self.out_of_patience = self._is_in_vain()
        self._reports = StepReports(watching.on_step)
        self._seconds_before, self._begun = state.seconds, time.perf_counter()

    def run(self) -> bool:
        """Train and evaluate; returns whether it was interrupted. The state is that of the last whole step, always."""
        try:
            interrupted = self._run()
        finally:
            self._count_time()
            if self._checkpoints is not None:
                self._checkpoints.close()
        return interrupted

    def _run(self) -> bool:
        system, state, watching, interrupted = self._system, self._state, self._watching, False
        if self._checkpoints is not None:
            self._checkpoints.begin()
        with closing(self._batches.batches()) as batches, ignoring_overflow():
            system.prepare(self._batches.once_through, watching.say)
            # Of a run that was stopped at this step, before its evaluation.
            self._evaluate_if_due()
            if not self.out_of_patience:
                interrupted = self._train(batches)
            system.finish()
            if self._checkpoints is not None:
                # Before the last evaluation: a run that goes on for more epochs has none here.
                self._count_time()
                self._checkpoints.end(state)
            if state.steps and not interrupted and not watching.stop_requested():
                self._evaluate()
        return interrupted or watching.stop_requested()

    def _train(self, batches: Iterator[Batch]) -> bool:
        """Step after step; returns whether they were interrupted."""
        interrupted = False
        # Closed before the batches are: it may read them in a thread of its own.
        with closing(self._system.train(batches, say=self._watching.say)) as results:
            try:
                for result in results:
                    self._step(result)
                    self._evaluate_if_due()
                    self._take_checkpoint()
                    interrupted = self._watching.stop_requested()
                    if interrupted or self.out_of_patience:
                        break
            except DivergenceError:
                raise
            except Exception:
                self._reports.tell_before_error()
                raise
            self._reports.tell_all()
        return interrupted

    def _step(self, result: StepResult) -> None:
        state = self._state
        state.steps, state.samples = state.steps + 1, state.samples + result.samples
        state.data_wait_seconds += result.waited_s
        if result.traffic is not None:
            state.traffic = (state.traffic or Traffic()) + result.traffic
        fraction_done = self._batches.trained(state.steps)
        state.position = self._batches.position
        if self._checkpoints is not None:
            self._checkpoints.batch_trained()
        self._reports.add(result, fraction_done)

    def _take_checkpoint(self) -> None:
        if self._checkpoints is not None and self._checkpoints.is_due:
            self._reports.tell_all()
            self._count_time()
            self._checkpoints.take(self._state)

    def _evaluate_if_due(self) -> None:
        steps = self._state.steps
        if self._eval_every and steps and steps % self._eval_every == 0 and not self._watching.stop_requested():
            self._reports.tell_all()
            self._evaluate()
            self.out_of_patience = self._is_in_vain()
            if self._checkpoints is not None:
                self._count_time()
                self._checkpoints.evaluated(self._state)

    def _is_in_vain(self) -> bool:
        return 0 < self._patience <= self._state.evaluations_in_vain

    def _evaluate(self) -> None:
        """Unless it was done at this step, or is not wanted."""
        state, system = self._state, self._system
        if self._valid is None or state.is_evaluated_at(system.steps_done):
            return
        begun = time.perf_counter()
        try:
            metrics = evaluate(system, self._valid, self._batch_size, stop_requested=self._watching.stop_requested)
        except DivergenceError as error:
            raise diverged(f"the predictions are not finite after step {system.steps_done:,}") from error
        state.evaluation_seconds += time.perf_counter() - begun
        if metrics is not None:
            state.evaluations.append(Evaluation(system.steps_done, metrics))
            if self._watching.on_evaluation is not None:
                self._watching.on_evaluation(state.evaluations[-1])

    def _count_time(self) -> None:
        self._state.seconds = self._seconds_before + time.perf_counter() - self._begun
