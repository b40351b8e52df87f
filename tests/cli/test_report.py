"""Results as lines for people."""

import dataclasses
from pathlib import Path

import pytest

from cupyrec.cli.report import describe_metrics, describe_run, describe_traffic
from cupyrec.evaluation.evaluation import Evaluation
from cupyrec.evaluation.metrics import MetricsResult
from cupyrec.runs.run import RunReport
from cupyrec.systems.step import Traffic
from cupyrec.training.trainer import TrainingResult

METRICS = MetricsResult(
    samples=1200,
    positives=300,
    base_rate=0.25,
    auc=0.76543,
    log_loss=0.45678,
    accuracy=0.8,
    normalized_entropy=0.81,
    calibration=1.02,
    constant_log_loss=0.5623,
)
ONE_CLASS = MetricsResult(5, 0, 0.0, None, 0.1, 1.0, None, None, 0.0)


def lines_of(
    *,
    steps=2000,
    interrupted=False,
    out_of_patience=False,
    final=None,
    best=None,
    bad_rows=None,
    saved_in=None,
    **others,
):
    result = TrainingResult(
        steps=steps,
        samples=steps * 100,
        seconds=12.5,
        data_wait_seconds=1.0,
        evaluation_seconds=2.5,
        final=final,
        best=best,
        interrupted=interrupted,
        out_of_patience=out_of_patience,
    )
    return list(describe_run(RunReport(result, bad_rows or {}, saved_in, **others)))


def test_without_validation_data():
    assert lines_of(saved_in=Path("runs/a")) == [
        "trained 2,000 steps, 200,000 samples in 10.0 s (20,000 samples/s, 10% of it waiting for data), "
        "evaluated for 2.5 s",
        "saved in runs/a",
    ]


def test_final_figures_that_are_the_best():
    last = Evaluation(2000, METRICS)
    lines = lines_of(final=last, best=last)
    assert lines[1:-1] == [
        "final (step 2,000):",
        "  AUC                     0.7654   (0.5 for a constant prediction)",
        "  log loss                0.4568   (0.5623 for a constant prediction)",
        "  normalised entropy      0.8100   (1 for a constant prediction)",
        "  accuracy at 0.5         0.8000   (1,200 samples, 0.2500 of them clicks)",
        "  calibration             1.0200   (mean prediction / share of clicks)",
        "the final figures are the best of the run (by AUC)",
    ]


def test_figures_without_an_auc_are_the_best_of_nothing():
    last = Evaluation(2000, ONE_CLASS)
    assert len(lines_of(final=last, best=last)) == 8


@pytest.mark.parametrize(
    ("hits", "where"), [(0, "all of 40 a step were on the host"), (30_000, "37.5% of 40 a step were on the device")]
)
def test_where_rows_were(hits, where):
    assert describe_traffic(Traffic(hits=hits, misses=80_000 - hits, bytes_in=4000), 2000) == (
        f"rows: {where}; 2 B in and 0 B out a step"
    )


def test_a_saved_model_that_is_not_of_the_last_step():
    best = Evaluation(500, METRICS)
    lines = lines_of(final=Evaluation(2000, ONE_CLASS), best=best, model_step=500, saved_in=Path("runs/a"))
    assert lines[1] == "final (step 2,000; the model is of step 500):"
    assert lines[7] == "best (step 500):"
    assert lines[-1] == "saved in runs/a: the weights of step 500, the best evaluation"
    lines = lines_of(final=best, best=best, model_step=500, interrupted=True, saved_in=Path("runs/a"))
    assert lines[1] == "last evaluation (step 500):"


def test_a_run_that_ended_for_want_of_better_figures():
    last = Evaluation(2000, METRICS)
    lines = lines_of(final=last, best=Evaluation(500, METRICS), out_of_patience=True)
    assert lines[1] == "ended early: the last evaluations had no better AUC than one before (--patience)"


def test_better_figures_on_the_way():
    lines = lines_of(final=Evaluation(2000, ONE_CLASS), best=Evaluation(500, METRICS))
    assert lines[1] == "final (step 2,000):"
    assert lines[2].split()[:2] == ["AUC", "undefined"]
    assert lines[7] == "best (step 500):"
    assert lines[8].split()[:2] == ["AUC", "0.7654"]
    assert len(lines) == 14


def test_figures_that_are_not_of_the_model():
    earlier = Evaluation(1900, METRICS)
    lines = lines_of(interrupted=True, final=earlier, best=earlier)
    assert lines[1] == "last evaluation (step 1,900; the model is of step 2,000):"
    assert lines[7] == "the last figures are the best of the run (by AUC)"


def test_figures_that_are_worse_than_those_of_a_constant():
    worse = Evaluation(2000, dataclasses.replace(METRICS, log_loss=0.5624))
    lines = lines_of(final=worse, best=worse)
    assert lines[7].startswith("warning: a constant prediction has a lower log loss; train longer")
    assert len(lines) == 9


def test_a_run_that_trained_too_long():
    worse, best = Evaluation(2000, dataclasses.replace(METRICS, log_loss=0.5624)), Evaluation(500, METRICS)
    assert lines_of(final=worse, best=best)[13].startswith(
        "warning: trained too long: a constant prediction has a lower log loss; the best evaluation, of step 500, was"
    )
    # The saved model is the good one.
    assert not any("warning" in line for line in lines_of(final=worse, best=best, model_step=500))
    worse_too = Evaluation(500, worse.metrics)
    assert "train longer" in lines_of(final=worse, best=worse_too, model_step=500)[13]


def test_a_stopped_run_that_cannot_be_gone_on_with():
    lines = lines_of(interrupted=True, saved_in=Path("a b"))
    assert lines[1].startswith("this run cannot be gone on with: it wrote no checkpoints (--checkpoint-every); a new")
    assert lines[1].endswith("its weights: --init-from 'a b'")
    for others in ({"saved_in": None}, {"checkpoint": Path("a/checkpoints/step-00000001")}):
        lines = lines_of(interrupted=True, **{"saved_in": Path("a"), **others})
        assert not any("cannot be gone on with" in line for line in lines)


def test_the_end_of_a_run_within_its_warm_up():
    warning = "warning: the run ended within its warm-up (--warmup-steps 100): the learning rate has not reached its"
    for steps, interrupted, warned in ((99, False, True), (100, False, False), (99, True, False), (0, False, False)):
        lines = lines_of(steps=steps, interrupted=interrupted, warmup_steps=100)
        assert any(line.startswith(warning) for line in lines) == warned


def test_an_earlier_run_that_stays():
    lines = lines_of(interrupted=True, saved_in=Path("a/unsaved-model"), stays=Path("a"))
    assert lines[-1] == "saved in a/unsaved-model; the earlier run in a stays: this one did not come to its end"


@pytest.mark.parametrize(
    ("steps", "last_line"),
    [(3, "not saved: no --output was given"), (0, "not saved: no step was trained")],
)
def test_what_was_not_saved(steps, last_line):
    lines = lines_of(steps=steps, interrupted=True, bad_rows={Path("bad_rows.tsv"): 1234})
    assert lines[0].startswith(f"interrupted after {steps} steps, ")
    assert lines[1:] == ["skipped 1,234 bad rows, written to bad_rows.tsv", last_line]


def test_undefined_figures_are_called_so():
    assert [line.split("   (")[0].split()[-1] for line in describe_metrics(ONE_CLASS)] == [
        "undefined",
        "0.1000",
        "undefined",
        "1.0000",
        "undefined",
    ]
