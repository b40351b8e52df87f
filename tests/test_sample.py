"""The sample in data/ with its configuration: the quickstart's command line runs as it stands, and learns."""

import json
import shlex
from pathlib import Path

from commands import run_here

ROOT = Path(__file__).parents[1]
# A constant prediction scores 0.5.
LEARNED_AUC = 0.75


def quickstart_arguments() -> list[str]:
    """What scripts/quickstart.sh gives to `cupyrec`."""
    lines = (ROOT / "scripts/quickstart.sh").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("cupyrec ")]
    return shlex.split(line)[1:]


def test_the_quickstart_learns_the_sample_and_the_planted_model_is_better(tmp_path, monkeypatch, capsys):
    # From here data/ is seen as from the root of a clone, and runs/ can be written.
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    arguments = quickstart_arguments()
    assert arguments[:4] == ["train", "data/sample.tsv.gz", "--config", "data/sample.toml"]
    output = Path(arguments[arguments.index("--output") + 1])

    assert run_here(capsys, *arguments).code == 0

    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    final, planted = evaluations[-1], json.loads(Path("data/sample.json").read_text(encoding="utf-8"))["planted"]
    assert final["auc"] > LEARNED_AUC
    assert all(record["auc"] < planted["auc"] for record in evaluations)
    assert all(record["log_loss"] > planted["log_loss"] for record in evaluations)
