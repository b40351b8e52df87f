"""The learning rate as a pure function of the step."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cupyrec.argument_kinds import check_number
from cupyrec.errors import ConfigError


@dataclass(frozen=True)
class WarmupPolynomialDecay:
    """Linear warm-up, then constant, then polynomial decay, then the end rate for good.

        step < warmup_steps:           rate * (step + 1) / warmup_steps
        step < decay_start:            rate
        step < decay_start + decay:    end + (rate - end) * (1 - (step - decay_start) / decay) ** power
        after:                         end, where there is a decay

    Steps count from 0. A decay may not begin before the warm-up has ended; decay_start_step 0, the default, begins
    it at that moment. Source: the schedule of the DLRM reference, with power 2. That one differs in details: it keeps
    the last rate of the warm-up until the decay begins, decays one step earlier, and ends at its last rate instead of
    at 0.
    """

    rate: float
    warmup_steps: int = 0
    decay_start_step: int = 0
    decay_steps: int = 0
    end_rate: float = 0.0
    power: float = 2.0

    def __post_init__(self) -> None:
        for each in fields(self):
            name = "the learning rate" if each.name == "rate" else f"{each.name} of the schedule"
            check_number(**{name: getattr(self, each.name)})
        if not self.rate > 0:
            raise ConfigError(f"the learning rate must be above 0, but is {self.rate}")
        if min(self.warmup_steps, self.decay_start_step, self.decay_steps) < 0:
            raise ConfigError("warm-up and decay steps must not be negative")
        if self.decay_steps and self.decay_start_step == 0:
            object.__setattr__(self, "decay_start_step", self.warmup_steps)
        if self.decay_steps and self.decay_start_step < self.warmup_steps:
            raise ConfigError(
                f"the decay would begin at step {self.decay_start_step}, before the end of the warm-up of "
                f"{self.warmup_steps} steps; choose a later start or a shorter warm-up"
            )
        if not 0 <= self.end_rate <= self.rate:
            raise ConfigError(f"the end learning rate must lie between 0 and {self.rate}, but is {self.end_rate}")
        if not self.power > 0:
            raise ConfigError(f"the power of the decay must be above 0, but is {self.power}")

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.rate * (step + 1) / self.warmup_steps
        if self.decay_steps == 0 or step < self.decay_start_step:
            return self.rate
        done = min((step - self.decay_start_step) / self.decay_steps, 1.0)
        return self.end_rate + (self.rate - self.end_rate) * (1.0 - done) ** self.power
