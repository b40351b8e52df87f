"""What is told of a run's options before its data are counted."""

import pytest

from cupyrec.run_config import RunConfig
from cupyrec.runs.run_checks import advise_command, options_without_effect, say_warnings
from cupyrec.runs.thread_count import thread_warning


@pytest.mark.parametrize(
    ("option", "value", "why", "remedy"),
    [
        ("keep", 3, "needs --checkpoint-every", {"checkpoint-every": 5}),
        ("shuffle-window", 1000, "needs --shuffle", {"shuffle": True}),
        ("decay-start-step", 200, "needs --decay-steps", {"decay-steps": 5}),
        ("decay-power", 1.0, "needs --decay-steps", {"decay-steps": 5}),
        ("end-learning-rate", 0.01, "needs --decay-steps", {"decay-steps": 5}),
        ("eval-every", 10, "needs --valid", {"valid": "0.1"}),
        ("bad-rows", "bad.tsv", "needs --on-bad-row skip", {"on-bad-row": "skip"}),
        ("eps", 1e-6, "not used by sgd", {"optimizer": "adagrad"}),
    ],
)
def test_options_that_do_nothing_without_another(option, value, why, remedy):
    options = {"optimizer": "sgd", option: value}
    said = []
    say_warnings(RunConfig.from_values(options), said.append)
    assert said == [f"without effect: --{option} ({why})"]
    assert options_without_effect(RunConfig.from_values(options | remedy)) == []


def test_defaults_are_not_without_effect():
    assert options_without_effect(RunConfig()) == []
    assert options_without_effect(RunConfig.from_values({"optimizer": "sgd", "keep": 2, "eps": 1e-10})) == []


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr("cupyrec.runs.thread_count.usable_cores", lambda: 2)
    assert thread_warning(None) is thread_warning(2) is None
    said = []
    say_warnings(RunConfig.from_values({"threads": 3}), said.append)
    assert said == [
        "warning: --threads 3 is more than the 2 usable cores, and slower than as many; leave --threads out"
    ]


def test_the_command_that_finds_the_size():
    assert advise_command(RunConfig.from_values({"paths": "day 0"})) == "cupyrec advise 'day 0'"
    options = {"paths": ["a", "b"], "hash-rows": range(1, 27), "batch-size": 8, "dimension": 4, "optimizer": "sgd"}
    assert advise_command(RunConfig.from_values(options | {"on-bad-row": "skip"})) == (
        f"cupyrec advise a b --hash-rows {','.join(map(str, range(1, 27)))} --batch-size 8 --dimension 4 "
        "--optimizer sgd --on-bad-row skip"
    )


def test_the_command_that_finds_the_size_for_prepared_data(tmp_path):
    """Options of raw files mean nothing to it, and the order of the samples does."""
    (tmp_path / "prepared.json").touch()
    options = {"paths": tmp_path, "hash-rows": 5, "on-bad-row": "skip", "shuffle": True, "seed": 3}
    assert advise_command(RunConfig.from_values(options)) == f"cupyrec advise {tmp_path} --shuffle --seed 3"
    assert advise_command(RunConfig.from_values({"paths": tmp_path, "seed": 3})) == f"cupyrec advise {tmp_path}"
