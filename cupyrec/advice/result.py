"""What `cupyrec advise` found, as plain data, and which size it recommends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

# A larger scratchpad is worth its memory when twice the size saves at least this share of the bytes.
WORTH_DOUBLING = 0.25


@dataclass(frozen=True)
class PolicyCost:
    """What one policy does on average in a counted step.

    hit_rate: the share of a step's different rows that were in the scratchpad; bytes_in, bytes_out: a step, over the
    link to and from the device; bubble_share: the share of steps that wait because the scratchpad is too small.
    """

    hit_rate: float
    bytes_in: float
    bytes_out: float
    bubble_share: float = 0.0

    @property
    def bytes_per_step(self) -> float:
        """Both directions together."""
        return self.bytes_in + self.bytes_out


@dataclass(frozen=True)
class SizeAdvice:
    """One size of the scratchpad.

    size:  as it was asked for, a value of --scratchpad.
    slots, size_bytes: the same as rows and bytes.
    lookahead: K, batches known ahead.
    costs: by the names of POLICIES; empty where the rows of a single batch do not fit.
    never_bubbles: whether the rows of every window of steps fit, so that no step ever waits for room.
    full:  whether it was full when counting began. If not, fewer rows left it than in the long run.
    """

    size: str
    slots: int
    size_bytes: int
    lookahead: int
    costs: dict[str, PolicyCost]
    never_bubbles: bool
    full: bool

    @property
    def too_small(self) -> bool:
        """Whether a batch alone has more rows than there are slots."""
        return not self.costs


@dataclass(frozen=True)
class Recommendation:
    """A size, and why it is the one.

    saved_by_doubling: the share of the bytes that twice the size would save under lookahead; None for the largest.
    """

    advice: SizeAdvice
    saved_by_doubling: float | None


@dataclass(frozen=True)
class Advice:
    """Everything that was found; counts are exact, those that depend on sample_rate when it is 1.

    samples, steps, batch_samples: of the data that were read; the last is B.
    lookups_per_step, unique_rows_per_step, most_unique_rows: N and U on average, and U at most.
    rows, rows_used:    R, and how many of them some step uses; this depends on sample_rate.
    record_bytes:       of a row with its optimizer state.
    pooled_bytes:       of the pooled vectors of a batch.
    never_bubbles_rows: slots from which on no step waits for room, whatever the replacement.
    sample_rate:        the share of rows that was simulated.
    counted_steps:      the last so many steps, which the costs are about.
    sizes:              ascending; their costs depend on sample_rate.
    safe_rows:          slots that batches which were not read should fit in, too; 0 where all were read. One of the
                        sizes is as large.
    """

    samples: int
    steps: int
    batch_samples: int
    lookups_per_step: float
    unique_rows_per_step: float
    most_unique_rows: int
    rows: int
    rows_used: int
    record_bytes: int
    pooled_bytes: int
    never_bubbles_rows: int
    sample_rate: float
    counted_steps: int
    sizes: tuple[SizeAdvice, ...]
    safe_rows: int = 0

    @property
    def recommendation(self) -> Recommendation:
        """See `recommend`; of those sizes that are safe."""
        return recommend([each for each in self.sizes if each.slots >= self.safe_rows])

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON takes it; rates are shares, sizes are rows or, where the name says so, bytes a step."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "sizes"}
        sizes = [
            {
                "scratchpad": each.size,
                "slots": each.slots,
                "bytes": each.size_bytes,
                "lookahead": each.lookahead,
                "too_small": each.too_small,
                "never_bubbles": each.never_bubbles,
                "full": each.full,
                "policies": {
                    name: dataclasses.asdict(cost) | {"bytes_per_step": cost.bytes_per_step}
                    for name, cost in each.costs.items()
                },
            }
            for each in self.sizes
        ]
        found = self.recommendation
        recommended = {"scratchpad": found.advice.size, "saved_by_doubling": found.saved_by_doubling}
        return fields | {"sizes": sizes, "recommended": recommended}


def recommend(sizes: Sequence[SizeAdvice]) -> Recommendation:
    """The smallest size that never bubbles and of which doubling saves less than WORTH_DOUBLING of the bytes.

    What doubling saves is found from the next size, taking bytes to fall by the same factor with each doubling. Where
    every step up is worth it, the largest size. sizes: ascending; at least one never bubbles.
    """
    candidates = [each for each in sizes if each.never_bubbles and not each.too_small]
    for size, larger in pairwise(candidates):
        saved = saved_by_doubling(size, larger)
        if saved < WORTH_DOUBLING:
            return Recommendation(size, saved)
    return Recommendation(candidates[-1], None)


def saved_by_doubling(size: SizeAdvice, larger: SizeAdvice) -> float:
    """The share of the bytes that each doubling of the size saves on the way to a larger one, under lookahead."""
    now, then = size.costs["lookahead"].bytes_per_step, larger.costs["lookahead"].bytes_per_step
    if now == 0:
        return 0.0
    return float(1 - (then / now) ** (1 / math.log2(larger.slots / size.slots)))
