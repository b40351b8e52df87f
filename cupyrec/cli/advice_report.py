"""Advice on the size of the scratchpad as lines for a person to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cupyrec.byte_sizes import format_bytes
from cupyrec.counted import counted

if TYPE_CHECKING:
    from cupyrec.advice.result import Advice, SizeAdvice

NOT_FULL = "*"
# As in cupyrec.advice.result; said again here so that `--help` need not load NumPy.
WORTH_DOUBLING = 0.25
# Keys of a size's costs, and how the columns are called.
POLICIES = {"lookahead": "lookahead", "lru": "lru", "static": "static", "min": "MIN"}
SIZE_HEADS = f"{'rows':>12}{'of all':>9}{'bytes':>10}{'ahead':>7}"
HIT_WIDTHS, BYTE_WIDTHS, BUBBLE_WIDTH = (11, 7, 8, 7), (11, 9, 9, 9), 9


def describe_advice(advice: Advice, command: str) -> Iterator[str]:
    """One screen: the data, a table of the sizes, what the columns mean, and a recommendation with its command."""
    yield from _describe_data(advice)
    yield ""
    yield from _table(advice)
    yield ""
    yield from _notes(advice)
    yield ""
    yield from _recommendation(advice)
    yield f"  {command}"


def _describe_data(advice: Advice) -> Iterator[str]:
    about = "about " if advice.sample_rate < 1 else ""
    yield (
        f"{counted(advice.samples, 'sample')}, {counted(advice.steps, 'step')}; "
        f"a step looks up {advice.lookups_per_step:,.0f} rows, "
        f"{advice.unique_rows_per_step:,.0f} different ones, {advice.most_unique_rows:,} at most"
    )
    yield (
        f"{about}{advice.rows_used:,} of {advice.rows:,} rows are used; a row takes {advice.record_bytes} bytes, "
        f"all of them {format_bytes(advice.rows * advice.record_bytes)}"
    )
    yield (
        f"never bubbles from {advice.never_bubbles_rows:,} rows on, "
        f"{format_bytes(advice.never_bubbles_rows * advice.record_bytes)}: no step then waits for room"
    )


def _table(advice: Advice) -> Iterator[str]:
    hits = _columns(POLICIES.values(), HIT_WIDTHS)
    moved = _columns(POLICIES.values(), BYTE_WIDTHS)
    groups = ((" scratchpad ", SIZE_HEADS), (" hits ", hits), (" bytes a step ", moved))
    yield "".join("  " + f"{name:-^{len(heads) - 2}}" for name, heads in groups) + f"{'steps with':>{BUBBLE_WIDTH + 2}}"
    yield f"{SIZE_HEADS}{hits}{moved}{'bubbles':>{BUBBLE_WIDTH}}"
    for size in advice.sizes:
        yield _row(size, advice.rows)


def _row(size: SizeAdvice, rows: int) -> str:
    left = f"{size.slots:>12,}{size.slots / rows:>9.2%}{format_bytes(size.size_bytes):>10}{size.lookahead:>7,}"
    if size.too_small:
        return f"{left}  too small: the rows of one step do not fit"
    costs = [size.costs[policy] for policy in POLICIES]
    hits = _columns([f"{cost.hit_rate:.1%}" for cost in costs], HIT_WIDTHS)
    moved = _columns([format_bytes(round(cost.bytes_per_step)) for cost in costs], BYTE_WIDTHS)
    bubbles = f"{size.costs['lookahead'].bubble_share:.0%}"
    return f"{left}{hits}{moved}{bubbles:>{BUBBLE_WIDTH}}{'' if size.full else NOT_FULL}"


def _columns(texts: Iterable[str], widths: Iterable[int]) -> str:
    return "".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def _notes(advice: Advice) -> Iterator[str]:
    last = f"last {advice.counted_steps:,} steps" if advice.counted_steps != 1 else "last step"
    yield f"Counted over the {last}. hits: share of a step's different rows. bytes: both ways."
    yield "ahead: steps that lookahead knows. lru knows the past alone. MIN knows all steps: nothing moves fewer rows."
    yield (
        "static: the rows used most are there from the start and stay; other lookups are pooled on the host: "
        f"2 x {format_bytes(advice.pooled_bytes)} cross."
    )
    if advice.sample_rate < 1:
        yield (
            f"Estimated from 1 row in {1 / advice.sample_rate:,.0f}, chosen by a hash (SHARDS); exact are the rows of "
            "a step and the size that never bubbles."
        )
    if any(not size.full and not size.too_small for size in advice.sizes):
        yield f"{NOT_FULL} not full when counting began: these data are too few to show what leaves it in the long run."
    if advice.safe_rows:
        yield (
            f"Read no further than {counted(advice.steps, 'step')}: later ones may use more rows, and nothing below "
            f"{counted(advice.safe_rows, 'row')} is recommended."
        )
    fitting = next((size for size in advice.sizes if size.slots >= advice.rows_used), None)
    if fitting is not None:
        yield f"All rows that are used fit into {fitting.slots:,}: each comes once and stays."


def _recommendation(advice: Advice) -> Iterator[str]:
    found = advice.recommendation
    size, saved = found.advice, found.saved_by_doubling
    if saved is not None:
        why = f"it never bubbles; doubling saves {max(saved, 0):.0%} of the bytes ({WORTH_DOUBLING:.0%} is worth it)"
    elif size.slots >= advice.rows_used:
        why = "it holds all rows that are used, and each smaller size moves many more bytes"
    else:
        why = "the largest tried, and each smaller size moves many more bytes"
    rows = "" if size.size == str(size.slots) else f"{counted(size.slots, 'row')}, "
    yield f"Recommended: --scratchpad {size.size} ({rows}{format_bytes(size.size_bytes)}): {why}."
