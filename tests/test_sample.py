"""The sample in data/ with its configuration: the quickstart's command lines run as they stand, and learn; and all
systems come to the same result.
"""

import json
import shlex
from pathlib import Path

import pytest
from commands import run_here

ROOT = Path(__file__).parents[1]
# A constant prediction scores 0.5.
LEARNED_AUC = 0.75


def quickstart_arguments() -> dict[str, list[str]]:
    """What scripts/quickstart.sh gives to `cupyrec`, by the system that trains."""
    lines = (ROOT / "scripts/quickstart.sh").read_text(encoding="utf-8").splitlines()
    words = [shlex.split(line)[1:] for line in lines if line.startswith("cupyrec ")]
    arguments = [[word for word in line if not word.startswith(">")] for line in words]
    return {each[each.index("--system") + 1]: each for each in arguments}


@pytest.fixture(scope="module")
def as_in_a_clone(tmp_path_factory):
    """From here data/ is seen as from the root of a clone, and runs/ can be written."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "data").symlink_to(ROOT / "data")
    return folder


def records_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_quickstart_learns_the_sample_and_the_planted_model_is_better(as_in_a_clone, monkeypatch, capsys):
    monkeypatch.chdir(as_in_a_clone)
    quickstart = quickstart_arguments()
    assert list(quickstart) == ["scratchpipe", "resident"]
    for arguments in quickstart.values():
        assert arguments[:4] == ["train", "data/sample.tsv.gz", "--config", "data/sample.toml"]
        assert run_here(capsys, *arguments).code == 0
    one, other = (Path(each[each.index("--output") + 1]) for each in quickstart.values())
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()

    evaluations = [record for record in records_of(one) if record["kind"] == "evaluation"]
    assert evaluations == [record for record in records_of(other) if record["kind"] == "evaluation"]
    final, planted = evaluations[-1], json.loads(Path("data/sample.json").read_text(encoding="utf-8"))["planted"]
    assert final["auc"] > LEARNED_AUC
    assert all(record["auc"] < planted["auc"] for record in evaluations)
    assert all(record["log_loss"] > planted["log_loss"] for record in evaluations)

    traffic = records_of(one)[-1]["traffic"]
    # Some rows left for good or came back, and nothing ever had to wait for room.
    assert traffic["evictions"] > 10_000
    assert traffic["bubbles"] == 0


@pytest.mark.parametrize("system", ["hybrid", "static", "serial"])
def test_the_other_systems_come_to_the_same_result(as_in_a_clone, monkeypatch, capsys, system):
    monkeypatch.chdir(as_in_a_clone)
    options = ["--config", "data/sample.toml", "--system", system, "--scratchpad", "2%", "--output", f"runs/{system}"]
    assert run_here(capsys, "train", "data/sample.tsv.gz", *options).code == 0
    weights = [Path("runs", name, "model.safetensors").read_bytes() for name in ("sample-resident", system)]
    # A sample has one lookup a table, so that static adds nothing in another order.
    assert weights[0] == weights[1]
