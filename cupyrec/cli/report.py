"""Results as lines for a person to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cupyrec.byte_sizes import format_bytes
from cupyrec.training.interrupt import ORDERLY_STOPS

if TYPE_CHECKING:
    from cupyrec.systems.step import Traffic
    from cupyrec.training.metrics import MetricsResult
    from cupyrec.training.run import RunReport


def describe_run(report: RunReport) -> Iterator[str]:
    """The summary of a training run."""
    result = report.result
    training_seconds = max(result.seconds - result.evaluation_seconds, 1e-9)
    how = "interrupted after" if result.interrupted else "trained"
    if report.stopped_by is not None and report.stopped_by in ORDERLY_STOPS:
        how = f"stopped by {report.stopped_by.name} after"
    if report.steps_before and result.steps == report.steps_before:
        is_limit = report.max_steps is not None and result.steps >= report.max_steps
        limit = f" and --max-steps is {report.max_steps:,}" if is_limit else ""
        yield f"nothing was left to train: the checkpoint is of step {result.steps:,}{limit}"
    elif report.steps_before:
        more = result.steps - report.steps_before
        yield f"{more:,} steps after the {report.steps_before:,} of the checkpoint; in all"
    yield (
        f"{how} {result.steps:,} steps, {result.samples:,} samples in {training_seconds:.1f} s "
        f"({result.samples / training_seconds:,.0f} samples/s, {result.data_wait_seconds / training_seconds:.0%} of "
        f"it waiting for data), evaluated for {result.evaluation_seconds:.1f} s"
    )
    if result.traffic is not None:
        yield describe_traffic(result.traffic, result.steps)
    if result.final is not None and result.best is not None:
        yield f"final (step {result.final.step:,}):"
        yield from describe_metrics(result.final.metrics)
        if result.best.step != result.final.step:
            yield f"best (step {result.best.step:,}):"
            yield from describe_metrics(result.best.metrics)
        else:
            yield "the final figures are the best of the run (by AUC)"
    for path, count in report.bad_rows.items():
        yield f"skipped {count:,} bad rows, written to {path}"
    if report.checkpoint is not None:
        goes_on = "; go on from it with --resume" if result.interrupted else ""
        yield f"last checkpoint: {report.checkpoint}{goes_on}"
    if report.saved_in is not None:
        yield f"saved in {report.saved_in}"
    else:
        yield "not saved: no --output was given" if result.steps else "not saved: no step was trained"


def describe_traffic(traffic: Traffic, steps: int) -> str:
    """What moved, in one line."""
    rows, bubbles = traffic.hits + traffic.misses, traffic.bubbles
    # Where nothing is ever evicted nothing could wait for room.
    waits = ", no bubbles" if traffic.evictions else ""
    if bubbles:
        waits = f", {bubbles:,} bubbles (a larger --scratchpad has none)"
    return (
        f"rows: {traffic.hits / max(rows, 1):.1%} of {rows / steps:,.0f} a step were on the device; "
        f"{format_bytes(traffic.bytes_in // steps)} in and {format_bytes(traffic.bytes_out // steps)} out a step{waits}"
    )


def describe_metrics(metrics: MetricsResult) -> Iterator[str]:
    """One metric a line."""
    rows = (
        ("AUC", metrics.auc, "0.5 for a constant prediction"),
        ("log loss", metrics.log_loss, f"{_number(metrics.constant_log_loss)} for a constant prediction"),
        ("normalised entropy", metrics.normalized_entropy, "1 for a constant prediction"),
        (
            "accuracy at 0.5",
            metrics.accuracy,
            f"{metrics.samples:,} samples, {_number(metrics.base_rate)} of them clicks",
        ),
        ("calibration", metrics.calibration, "mean prediction / share of clicks"),
    )
    for name, value, note in rows:
        yield f"  {name:<20} {_number(value):>9}   ({note})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
