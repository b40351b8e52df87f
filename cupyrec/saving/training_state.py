"""How far a run has come, and how it went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cupyrec.errors import ConfigError
from cupyrec.evaluation.evaluation import Evaluation
from cupyrec.evaluation.metrics import MetricsResult
from cupyrec.systems.step import Traffic


@dataclass(frozen=True)
class Position:
    """A place in the data: epoch, 0-based, and how many of its batches are trained."""

    epoch: int = 0
    batches: int = 0


BEGINNING = Position()


@dataclass
class TrainingState:
    """What a run counts from its beginning on, whatever stopped it between; kept in checkpoints.

    seconds: of training; data_wait_seconds: of these, training stood still for want of a batch or its rows;
    evaluation_seconds: evaluating. evaluations: all, in order. traffic: None where nothing moved.
    """

    position: Position = BEGINNING
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    data_wait_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    traffic: Traffic | None = None

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest AUC, the latest of equals."""
        return max(reversed(self.evaluations), key=_auc, default=None)

    @property
    def evaluations_in_vain(self) -> int:
        """How many evaluations came after the last that had a better AUC than all before."""
        first_of_best = max(range(len(self.evaluations)), key=lambda at: _auc(self.evaluations[at]), default=-1)
        return len(self.evaluations) - 1 - first_of_best

    def is_evaluated_at(self, steps_done: int) -> bool:
        """Whether the last evaluation was after so many steps."""
        return bool(self.evaluations) and self.evaluations[-1].step == steps_done

    def check_not_beyond(self, epochs: int, max_steps: int | None) -> None:
        """Raise ConfigError where a run that is to end there has trained more than that: its weights would be others.

        epochs, max_steps: from the beginning of the run.
        """
        begun = self.position.epoch + 1 if self.steps else 0
        for name, least, given in (("epochs", begun, epochs), ("max-steps", self.steps, max_steps)):
            if given is not None and given < least:
                raise ConfigError(
                    f"{name} must be at least {least}, but is {given}: training is at step {self.steps:,}, in epoch "
                    f"{begun}; go on with that, or from an earlier checkpoint"
                )

    def result(
        self, *, interrupted: bool, out_of_patience: bool, system: dict[str, Any], device: str
    ) -> TrainingResult:
        """How the run went that has come so far."""
        return TrainingResult(
            steps=self.steps,
            samples=self.samples,
            seconds=self.seconds,
            data_wait_seconds=self.data_wait_seconds,
            evaluation_seconds=self.evaluation_seconds,
            final=self.evaluations[-1] if self.evaluations else None,
            best=self.best,
            interrupted=interrupted,
            out_of_patience=out_of_patience,
            traffic=self.traffic,
            system=system,
            device=device,
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it, JSON-safe."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrainingState:
        """What as_dict gave. Raises KeyError, TypeError."""
        values = dict(content)
        values["position"] = Position(**values["position"])
        values["evaluations"] = [
            Evaluation(each["step"], MetricsResult(**each["metrics"])) for each in values["evaluations"]
        ]
        values["traffic"] = None if values["traffic"] is None else Traffic(**values["traffic"])
        return cls(**values)


@dataclass(frozen=True)
class TrainingResult:
    """How a run went.

    steps, samples:     trained, those before `start` included.
    seconds:            all of it; data_wait_seconds: training stood still for want of a batch or its rows;
                        evaluation_seconds: evaluating.
    traffic:            what all steps moved; None where nothing moves.
    system:             its name, and what it was set to or chose.
    device:             its description.
    final, best:        the last evaluation, and the one with the highest AUC (the latest of equals); None without
                        validation data.
    interrupted:        whether it was asked to stop before its end.
    out_of_patience:    whether it ended for want of a better evaluation.
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
    out_of_patience: bool = False


def _auc(evaluation: Evaluation) -> float:
    auc = evaluation.metrics.auc
    return -math.inf if auc is None else auc
