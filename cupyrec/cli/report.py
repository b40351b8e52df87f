"""Results as lines for a person to read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cupyrec.byte_sizes import format_bytes
from cupyrec.counted import counted, figure
from cupyrec.runs.interrupt import ORDERLY_STOPS

if TYPE_CHECKING:
    from cupyrec.evaluation.metrics import MetricsResult
    from cupyrec.runs.run import RunReport
    from cupyrec.saving.training_state import TrainingResult
    from cupyrec.systems.step import Traffic


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
        how = "in all:"
    elif report.steps_before:
        more = result.steps - report.steps_before
        yield f"{how} {counted(more, 'step')} beyond the {report.steps_before:,} of the checkpoint"
        how = "in all:"
    yield (
        f"{how} {counted(result.steps, 'step')}, {counted(result.samples, 'sample')} in {training_seconds:.1f} s "
        f"({result.samples / training_seconds:,.0f} samples/s, {result.data_wait_seconds / training_seconds:.0%} of "
        f"it waiting for data), evaluated for {result.evaluation_seconds:.1f} s"
    )
    if result.traffic is not None:
        yield describe_traffic(result.traffic, result.steps)
    if 0 < result.steps < report.warmup_steps and not result.interrupted:
        yield (
            f"warning: the run ended within its warm-up (--warmup-steps {report.warmup_steps}): the learning rate has "
            "not reached its full value"
        )
    if result.out_of_patience:
        yield "ended early: the last evaluations had no better AUC than one before (--patience)"
    model_step = result.steps if report.model_step is None else report.model_step
    yield from _describe_evaluations(result, model_step)
    for path, count in report.bad_rows.items():
        yield describe_skipped(count, path)
    if report.checkpoint is not None:
        goes_on = "; go on from it with --resume" if result.interrupted else ""
        yield f"last checkpoint: {report.checkpoint}{goes_on}"
    elif result.interrupted and report.saved_in is not None:
        yield (
            "this run cannot be gone on with: it wrote no checkpoints (--checkpoint-every); a new one can begin with "
            f"its weights: --init-from {shlex.quote(str(report.saved_in))}"
        )
    if report.saved_in is not None:
        stays = f"; the earlier run in {report.stays} stays: this one did not come to its end" if report.stays else ""
        of = "" if model_step == result.steps else f": the weights of step {model_step:,}, the best evaluation"
        yield f"saved in {report.saved_in}{of}{stays}"
    else:
        yield "not saved: no --output was given" if result.steps else "not saved: no step was trained"


def _describe_evaluations(result: TrainingResult, model_step: int) -> Iterator[str]:
    final, best = result.final, result.best
    if final is None or best is None:
        return
    is_of_end = final.step == result.steps
    of = "" if final.step == model_step else f"; the model is of step {model_step:,}"
    yield f"{'final' if is_of_end else 'last evaluation'} (step {final.step:,}{of}):"
    yield from describe_metrics(final.metrics)
    if best.step != final.step:
        yield f"best (step {best.step:,}):"
        yield from describe_metrics(best.metrics)
    if _is_worse_than_constant(final.metrics):
        if _is_worse_than_constant(best.metrics):
            yield (
                "warning: a constant prediction has a lower log loss; train longer, or with another --learning-rate or "
                "--warmup-steps"
            )
        elif model_step != best.step:
            yield (
                "warning: trained too long: a constant prediction has a lower log loss; the best evaluation, of step "
                f"{best.step:,}, was better: --save best, --patience"
            )
    elif best.step == final.step and best.metrics.auc is not None:
        yield f"the {'final' if is_of_end else 'last'} figures are the best of the run (by AUC)"


def _is_worse_than_constant(metrics: MetricsResult) -> bool:
    constant = metrics.constant_log_loss
    # With one class a constant prediction is right always.
    return metrics.log_loss is not None and constant is not None and 0 < constant < metrics.log_loss


def describe_skipped(count: int, path: object) -> str:
    """How many bad rows were left out, and where they are."""
    return f"skipped {counted(count, 'bad row')}, written to {path}"


def describe_traffic(traffic: Traffic, steps: int) -> str:
    """What moved, in one line."""
    rows, bubbles = traffic.hits + traffic.misses, traffic.bubbles
    # Where nothing is ever evicted nothing could wait for room.
    waits = ", no bubbles" if traffic.evictions else ""
    if bubbles:
        waits = f", {counted(bubbles, 'bubble')} (a larger --scratchpad has none)"
    share, where = (f"{traffic.hits / rows:.1%}", "device") if traffic.hits else ("all", "host")
    return (
        f"rows: {share} of {rows / steps:,.0f} a step were on the {where}; "
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
            f"{counted(metrics.samples, 'sample')}, {_number(metrics.base_rate)} of them clicks",
        ),
        ("calibration", metrics.calibration, "mean prediction / share of clicks"),
    )
    for name, value, note in rows:
        yield f"  {name:<20} {_number(value):>9}   ({note})"


def _number(value: float | None) -> str:
    return "undefined" if value is None else figure(value)
