"""The systems from the command line: the same result from all, what they print and record, wrong options."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import check_one_error_line, run_here

SYSTEMS = ("resident", "hybrid", "static", "serial", "scratchpipe")
# 26 tables of 30 rows. A batch of 6 looks up some 145 rows, six of them some 550.
OPTIONS = [
    *("--hash-rows", "30", "--batch-size", "6", "--dimension", "4", "--bottom-mlp", "8-4", "--top-mlp", "8-1"),
    *("--threads", "1", "--log-every", "5"),
]


def write_rows(path, rows):
    """Every category takes each of 30 values as often; the label follows from the first one."""
    random = np.random.default_rng(4)
    with path.open("w", encoding="ascii") as file:
        for _ in range(rows):
            categories = random.integers(0, 30, 26)
            integers = random.integers(0, 10, 13)
            cells = [categories[0] % 2, *integers, *(f"{value:08x}" for value in categories)]
            file.write("\t".join(map(str, cells)) + "\n")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("systems") / "day_0", 500)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: folder / name for name in SYSTEMS}


def train(capsys, data, *options):
    return run_here(capsys, "train", data, "--valid", "0.2", *OPTIONS, *options)


@pytest.mark.parametrize("name", SYSTEMS)
def test_trains_and_says_what_moved(capsys, data, runs, name):
    outcome = train(
        capsys, data, "--system", name, "--scratchpad", "80%", "--output", runs[name], "--eval-every", "7",
        "--trace", runs[name].with_suffix(".json"), "--epochs", "2",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    assert re.search(rf"^system {name}, device cpu", outcome.out, re.MULTILINE)
    # What was planned for, before it was known.
    planned = re.search(r"^ {2}more: batches ahead, chosen later, at most +[\d.]+ [MG]B$", outcome.out, re.MULTILINE)
    assert (planned is None) == (name not in ("serial", "scratchpipe"))
    assert re.search(
        r"^ {2}total .*\n( .*\n)? {2}more: the program and its .*, about +200 MB$", outcome.out, re.MULTILINE
    )
    where = "all of .* were on the host" if name == "hybrid" else r"\S+% of .* were on the device"
    moved = re.search(rf"^rows: {where}; .* in and .* out a step(.*)$", outcome.out, re.MULTILINE)
    assert (moved is None) == (name == "resident")
    if moved is not None:
        assert moved[1] == (", no bubbles" if name in ("serial", "scratchpipe") else "")
    if name in ("static", "serial", "scratchpipe"):
        assert re.search(r"^  scratchpad, with what is known of its rows  ", outcome.out, re.MULTILINE)
    if name in ("serial", "scratchpipe"):
        assert re.search(
            r"^scratchpad of 624 rows.*; replacement lookahead, looking \d+ batches ahead", outcome.out, re.M
        )
    records = [json.loads(line) for line in (runs[name] / "metrics.jsonl").read_text().splitlines()]
    lines, end = [each for each in records if each["kind"] == "train"], records[-1]
    assert sum(line["steps"] for line in lines) == end["steps"] == 134
    assert all("Train" in line["stage_ms"] for line in lines)
    if name == "resident":
        assert "traffic" not in end
    else:
        counted = {key: sum(line["traffic"][key] for line in lines) for key in end["traffic"]}
        assert counted == end["traffic"]
        assert set(counted) == {"hits", "misses", "evictions", "bytes_in", "bytes_out", "bubbles"}
    events = json.loads(runs[name].with_suffix(".json").read_text())
    trained = [event for event in events if event.get("cat") == "Train"]
    assert len(trained) == 134
    assert f'system = "{name}"' in (runs[name] / "config.toml").read_text()
    assert all(0 < line["samples_per_s"] < 1e6 for line in lines)


@pytest.mark.parametrize("name", SYSTEMS[1:])
def test_all_come_to_the_same_result(runs, name):
    weights = {each: (runs[each] / "model.safetensors").read_bytes() for each in ("resident", name)}
    if name in ("hybrid", "serial", "scratchpipe"):
        assert weights["resident"] == weights[name]
        return
    ends = [json.loads((runs[each] / "metrics.jsonl").read_text().splitlines()[-1]) for each in ("resident", name)]
    assert ends[0]["final"]["log_loss"] == pytest.approx(ends[1]["final"]["log_loss"], rel=1e-4)


@pytest.mark.parametrize("replacement", ["lru", "lfu", "random"])
def test_other_replacements_give_the_same_weights(capsys, data, runs, replacement, tmp_path):
    outcome = train(
        capsys, data, "--system", "scratchpipe", "--scratchpad", "624", "--output", tmp_path / "run",
        "--replacement", replacement, "--epochs", "2",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    assert f"replacement {replacement}, knowing only the 2 next batches" in outcome.out
    assert (tmp_path / "run/model.safetensors").read_bytes() == (runs["resident"] / "model.safetensors").read_bytes()


def test_a_small_scratchpad_has_bubbles_and_the_same_weights(capsys, data, runs, tmp_path):
    outcome = train(
        capsys, data, "--system", "scratchpipe", "--scratchpad", "200", "--output", tmp_path / "run", "--epochs", "2"
    )
    assert outcome.code == 0, outcome
    assert re.search(r"[1-9]\d* bubbles \(a larger --scratchpad has none\)", outcome.out)
    assert (tmp_path / "run/model.safetensors").read_bytes() == (runs["resident"] / "model.safetensors").read_bytes()


def test_what_config_toml_keeps_gives_the_same_run(capsys, data, runs, tmp_path):
    outcome = run_here(capsys, "train", "--config", runs["scratchpipe"] / "config.toml", "--output", tmp_path / "again",
                       "--trace", tmp_path / "again.json")  # fmt: skip
    assert outcome.code == 0, outcome
    again = (tmp_path / "again/model.safetensors").read_bytes()
    assert again == (runs["scratchpipe"] / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--scratchpad", "100"],
            r"batch 0, counted from 0, looks up 1\d\d different rows, the largest batch so far, but the scratchpad has "
            r"100 slots; .*at least --scratchpad (1[89]|2[01])0, .*; this finds a size for all batches: cupyrec advise "
            r"\S+/day_0 --hash-rows 30 --batch-size 6 --dimension 4$",
        ),
        (["--scratchpad", "0.01%"], r"a scratchpad of 0.01% holds no row"),
        (["--scratchpad", "lots"], r"scratchpad must be bytes with a unit \(8GB\)"),
        (
            ["--lookahead", "1e9"],
            r"looking 1,000,000,000 batches ahead takes .*; look at most [\d,]+ ahead \(--lookahead\)",
        ),
        (["--trace", "{run}/metrics.jsonl"], r"the trace would overwrite the run's own metrics\.jsonl"),
        (["--lookahead", "1"], r"lookahead must be a whole number of at least 2, but is '1'"),
        (
            ["--lookahead", "4", "--replacement", "lru"],
            r"the replacement lru does not look ahead; leave --lookahead out",
        ),
        (["--row-counts", "nowhere.npy"], r"nowhere\.npy: cannot be read: No such file"),
        (["--row-counts", "{data}"], r"day_0: not a file of row counts \(\.npy\)"),
        (
            ["--row-counts", "{counts}"],
            r"counts 7 rows, but the tables have 780; count again for the same tables",
        ),
        (["--trace", "{data}"], r"the trace would overwrite the input file"),
        (
            ["--trace", "{counts}"],
            r"counts\.npy: exists; name another file with --trace, or replace it with --overwrite",
        ),
        (["--trace", "{nowhere}/trace.json"], r"the trace cannot be written: there is no folder"),
        (["--system", "gpu"], r"system must be auto or resident or hybrid or static or serial or scratchpipe"),
    ],
)
def test_options_that_cannot_be(capsys, data, tmp_path, options, message):
    counts, nowhere = tmp_path / "counts.npy", tmp_path / "nowhere"
    np.save(counts, np.arange(7))
    before = sorted(tmp_path.iterdir())
    filled = [option.format(data=data, counts=counts, nowhere=nowhere, run=tmp_path / "run") for option in options]
    outcome = train(capsys, data, "--system", "scratchpipe", *filled, "--output", tmp_path / "run")
    assert re.search(message, check_one_error_line(outcome))
    assert sorted(tmp_path.iterdir()) == before


def test_the_trace_is_never_a_file_that_is_read_or_written_otherwise(capsys, data, tmp_path):
    copy, counts = Path(shutil.copy(data, tmp_path / "day_0")), tmp_path / "counts.npy"
    np.save(counts, np.arange(780))
    for option, file in ((), copy), (("--row-counts", counts), counts):
        before = file.read_bytes()
        outcome = train(capsys, copy, "--system", "scratchpipe", *option, "--trace", file, "--overwrite")
        assert "the trace would overwrite the input file" in check_one_error_line(outcome)
        assert file.read_bytes() == before


def test_row_counts_move_no_more_rows_and_give_the_same_weights(capsys, data, runs, tmp_path):
    from cupyrec import CriteoFiles
    from cupyrec.embedding.row_counts import count_rows, write_row_counts

    source = CriteoFiles(data, hash_rows=30)
    write_row_counts(tmp_path / "counts.npy", count_rows(source.batches(32), 780))
    options = ["--scratchpad", "624", "--epochs", "2", "--row-counts", tmp_path / "counts.npy"]
    for name in ("scratchpipe", "static"):
        outcome = train(capsys, data, "--system", name, *options, "--output", tmp_path / name)
        assert outcome.code == 0, outcome
    same = (tmp_path / "scratchpipe/model.safetensors").read_bytes()
    assert same == (runs["resident"] / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "unused"),
    [
        ("resident", "--scratchpad, --lookahead, --row-counts"),
        ("hybrid", "--scratchpad, --lookahead, --row-counts"),
        ("static", "--lookahead"),
        ("serial", None),
        ("scratchpipe", None),
    ],
)
def test_options_that_a_system_does_not_use_are_named(capsys, data, tmp_path, name, unused):
    np.save(tmp_path / "counts.npy", np.arange(780))
    options = ["--scratchpad", "624", "--lookahead", "4", "--row-counts", tmp_path / "counts.npy", "--max-steps", "3"]
    outcome = train(capsys, data, "--system", name, *options)
    assert outcome.code == 0, outcome
    said = re.findall(r"^not used by this system: (.*)$", outcome.out, re.MULTILINE)
    assert said == ([unused] if unused else [])
