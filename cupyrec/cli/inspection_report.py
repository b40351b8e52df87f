"""What `cupyrec inspect` found, as lines for a person to read: at most MOST_LINES of MOST_COLUMNS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cupyrec.byte_sizes import format_bytes
from cupyrec.cli.model_report import describe_shape
from cupyrec.config import DlrmConfig
from cupyrec.counted import counted, figure

MOST_LINES, MOST_COLUMNS = 40, 100
LABEL_COLUMNS = 14
# Of a long list, its first ones and its last.
LIST_SHOWN = 6
# The options of a run that tell runs from each other; inspect --json has all of them.
MAIN_OPTIONS = (
    "paths",
    "valid",
    "init-from",
    "optimizer",
    "learning-rate",
    "batch-size",
    "epochs",
    "max-steps",
    "shuffle",
    "scratchpad",
    "checkpoint-every",
    "seed",
)
STATES = {
    "ended": "ended",
    "interrupted": "interrupted",
    "stopped": "stopped by an error",
    "unfinished": "not ended: under way still, or killed",
}


def describe_inspection(facts: dict[str, Any]) -> list[str]:
    """The lines. facts: of inspection.inspect_path."""
    describe = {
        "run": _run,
        "model": _model,
        "exported model": _exported,
        "checkpoint": _checkpoint,
        "checkpoints": _checkpoints,
        "prepared data": _prepared,
        "split": _split,
    }[facts["kind"]]
    lines = [f"{facts['path']}: {facts['kind']}", *describe(facts)][: MOST_LINES - 1]
    if facts["verified"]:
        # Of weights alone: all else that is read has one.
        compared = (facts.get("model") or facts).get("checksums_compared", True)
        found = "checksums are right" if compared else "numbers are finite, but the weights have no checksum"
        lines.append(_line("verified", f"everything was read; all {found}"))
    return [_cut(line) for line in lines]


def _run(facts: dict[str, Any]) -> Iterator[str]:
    end, lines = facts["metrics"]["end"] or {}, facts["metrics"]["lines"]
    why = f": {end['stopped_by']}" if "stopped_by" in end else ""
    if end.get("out_of_patience"):
        why = " early: the last evaluations had no better AUC than one before"
    yield _line("state", STATES[facts["state"]] + why)
    if facts["model"] is None:
        yield _line("model", "none is saved")
    else:
        yield from _model(facts["model"])
    if end.get("seconds") is not None:
        speed = end["samples"] / max(end["seconds"] - end["evaluation_seconds"], 1e-9)
        yield _line(
            "trained", f"{counted(end['samples'], 'sample')} in {end['seconds']:,.1f} s, {speed:,.0f} samples/s"
        )
        yield from _wrapped("system", [*_facts(end["system"]), f"on {end.get('device')}"])
    last = facts["metrics"]["last_train"]
    if last is not None:
        first = f"{_number(facts['metrics']['first_loss'])} at first, " if lines["train"] > 1 else ""
        yield _line("training loss", f"{first}{_number(last['loss'])} at step {last['step']:,}")
    yield from _evaluations(facts["metrics"])
    yield from _checkpoints(facts)
    if facts["config"] is not None:
        config = facts["config"]
        options = [name for name in MAIN_OPTIONS if (name, config.get("system")) != ("scratchpad", "resident")]
        shown = [f"{name} {_option(config[name])}" for name in options if config.get(name) not in (None, [], "")]
        yield from _wrapped("options", shown)
    for name in facts["bad_rows_files"]:
        yield _line("bad rows", f"were skipped, see {name}")
    if facts["unsaved"]:
        first, *others = facts["unsaved"]
        yield from _wrapped("unsaved", [f"a later run has left {first}", *others])


def _evaluations(metrics: dict[str, Any]) -> Iterator[str]:
    last, best = metrics["last_evaluation"], metrics["best_evaluation"]
    if last is not None:
        yield _line("evaluation", _evaluation(last))
        if best["step"] != last["step"]:
            yield _line("best", _evaluation(best))


def _evaluation(entry: dict[str, Any]) -> str:
    return (
        f"step {entry['step']:,}: AUC {_number(entry['auc'])}, log loss {_number(entry['log_loss'])}, "
        f"{counted(entry['samples'], 'sample')}"
    )


def _model(facts: dict[str, Any]) -> Iterator[str]:
    yield from _shape(facts)
    training = facts["training"] if isinstance(facts["training"], dict) else {}
    trained = training.get("steps") if "model_step" in training else None
    is_best = isinstance(trained, int) and trained != facts["steps"]
    of = f", the best evaluation of {trained:,} steps" if is_best else ""
    yield _line("steps", f"{facts['steps']:,}{of}")
    yield _line("encoding", facts["encoding"] or "unknown")


def _shape(facts: dict[str, Any]) -> Iterator[str]:
    config = DlrmConfig(**facts["shape"])
    yield from _wrapped("model", describe_shape(config).split(", "))
    yield _line(
        "parameters",
        f"{facts['parameters']:,} ({facts['dense_parameters']:,} in the MLPs), {format_bytes(facts['weight_bytes'])}"
        + (f" in {facts['files']} files" if facts["files"] > 1 else ""),
    )


def _exported(facts: dict[str, Any]) -> Iterator[str]:
    yield from _shape(facts)
    yield from _wrapped("metadata", [f"{name} {value}" for name, value in facts["metadata"].items()])


def _checkpoint(facts: dict[str, Any]) -> Iterator[str]:
    yield from _wrapped("model", describe_shape(DlrmConfig(**facts["shape"])).split(", "))
    yield _line("steps", f"{facts['steps']:,}, {counted(facts['samples'], 'sample')} in {facts['seconds']:,.1f} s")
    position = facts["position"]
    yield _line(
        "goes on",
        f"in epoch {position['epoch'] + 1:,} after {counted(position['batches'], 'batch', 'batches')}",
    )
    yield _line("optimizer", " ".join(_facts(facts["optimizer"])))
    yield _line("encoding", facts["encoding"] or "unknown")
    yield _line("files", f"{len(facts['files'])} of {format_bytes(facts['file_bytes'])} together")
    if facts["best_evaluation"] is not None:
        yield _line("best", _evaluation(facts["best_evaluation"]))


def _checkpoints(facts: dict[str, Any]) -> Iterator[str]:
    yield from _few("checkpoints", [_described_checkpoint(each) for each in facts["checkpoints"]])


def _described_checkpoint(checkpoint: dict[str, Any]) -> str:
    if "damage" in checkpoint:
        return f"{checkpoint['name']}  {checkpoint['damage']}"
    return (
        f"{checkpoint['name']}  {counted(checkpoint['steps'], 'step')}, {counted(checkpoint['samples'], 'sample')}, "
        f"{format_bytes(checkpoint['file_bytes'])}"
    )


def _prepared(facts: dict[str, Any]) -> Iterator[str]:
    labels = "" if facts["labels"] else ", without labels"
    if facts["positives"] is not None:
        labels = f", {facts['positives'] / facts['samples']:.2%} of them with the label 1"
    yield _line("samples", f"{facts['samples']:,}{labels}")
    inputs = [
        f"{each['name']}  {each['samples']:,}"
        + (f" ({counted(each['bad_rows'], 'bad row')})" if each["bad_rows"] else "")
        for each in facts["inputs"]
    ]
    yield from _few("inputs", inputs)
    features = f"{counted(len(facts['dense']), 'feature')}, transform {facts['dense_transform']}"
    yield _line("dense", f"{features}: {_option(facts['dense'])}")
    lost = [f"{name} {share:.1%}" for name, share in facts["lost_negatives"].items()]
    if lost:
        more = [f"{len(lost) - LIST_SHOWN} more"] if len(lost) > LIST_SHOWN else []
        yield from _wrapped("negative", [f"count as 0: {lost[0]} of the samples", *lost[1:LIST_SHOWN], *more])
    yield _line("ids", f"{facts['ids']}, encoding {facts['encoding']}")
    tables = facts["tables"]
    if facts["earlier"]:
        yield from _wrapped("grown", _growth(facts["earlier"], tables))
    rows = sum(table["rows"] for table in tables)
    shares = "; rows of each, and values with a row of their own" if any(map(_has_coverage, tables)) else ""
    yield _line("tables", f"{len(tables)} of {counted(rows, 'row')} together{shares}")
    yield from _columns([_table(table) for table in tables])
    yield _line(
        "size",
        f"{format_bytes(facts['data_bytes'])} in {counted(facts['shards'], 'shard')}, "
        f"{facts['bytes_per_sample']:.1f} bytes a sample",
    )
    yield from _few("splits", [_described_split(each) for each in facts["splits"]])


def _growth(earlier: Sequence[dict[str, Any]], tables: Sequence[dict[str, Any]]) -> list[str]:
    """The encodings that the data have grown out of, and the tables that have more rows than in the last of them."""
    last = earlier[-1]
    before = f" and {counted(len(earlier) - 1, 'encoding')} before it" if len(earlier) > 1 else ""
    added = {table["name"]: table["rows"] - rows for table, rows in zip(tables, last["table_rows"], strict=True)}
    largest = sorted((name for name in added if added[name]), key=lambda name: -added[name])
    shown = [f"{name} {added[name]:,}" for name in largest[:LIST_SHOWN]]
    more = ["..."] if len(largest) > LIST_SHOWN else []
    rows = counted(sum(added.values()), "row")
    return [f"out of {last['encoding']}{before} by {rows}", *shown, *more]


def _table(table: dict[str, Any]) -> str:
    coverage = f" {table['coverage']:.1%}" if _has_coverage(table) else ""
    return f"{table['name']} {table['rows']:,}{coverage}{' multi-hot' if table['multi_hot'] else ''}"


def _has_coverage(table: dict[str, Any]) -> bool:
    return table.get("coverage") is not None


def _split(facts: dict[str, Any]) -> Iterator[str]:
    yield _line("part", _described_split(facts))
    ranges = [f"{start:,} to {stop - 1:,}" for start, stop in facts["ranges"]]
    yield from _few("samples", ranges)
    yield _line("data", facts["data"])
    yield _line("tables", f"{len(facts['table_rows'])} of {counted(sum(facts['table_rows']), 'row')} together")
    yield _line("dense", counted(facts["dense_features"], "feature"))
    yield _line("encoding", facts["encoding"])


def _described_split(split: dict[str, Any]) -> str:
    if "damage" in split:
        return f"{split['file']}  {split['damage']}"
    return f"{split['file']}  {counted(split['samples'], 'sample')}, {split['share']:.1%} ({split['how']})"


def _line(label: str, text: str) -> str:
    return f"  {label:<{LABEL_COLUMNS}}{text}"


def _few(label: str, entries: Sequence[str]) -> Iterator[str]:
    """One a line; of many, the first ones and the last."""
    if len(entries) > LIST_SHOWN:
        left_out = len(entries) - LIST_SHOWN + 1
        entries = [*entries[: LIST_SHOWN - 2], f"... {left_out:,} more ...", entries[-1]]
    for number, entry in enumerate(entries):
        yield _line("" if number else label, entry)


def _columns(entries: Sequence[str]) -> Iterator[str]:
    """As many beside each other as fit; of many, the first."""
    width = max(len(entry) for entry in entries) + 2
    a_line = max((MOST_COLUMNS - LABEL_COLUMNS - 2) // width, 1)
    lines = [entries[start : start + a_line] for start in range(0, len(entries), a_line)]
    if len(lines) > 2 * LIST_SHOWN:
        left_out = sum(map(len, lines[2 * LIST_SHOWN - 1 :]))
        lines = [*lines[: 2 * LIST_SHOWN - 1], [f"... {left_out:,} more"]]
    for line in lines:
        yield _line("", "".join(f"{entry:<{width}}" for entry in line).rstrip())


def _wrapped(label: str, parts: Sequence[str]) -> Iterator[str]:
    """Parts with commas between them, over as many lines as they take."""
    line = ""
    for number, part in enumerate(parts):
        text = part if number == len(parts) - 1 else f"{part}, "
        if line and len(line) + len(text.rstrip()) > MOST_COLUMNS - LABEL_COLUMNS - 2:
            yield _line(label, line.rstrip())
            label, line = "", ""
        line += text
    if line:
        yield _line(label, line)


def _facts(values: dict[str, Any]) -> list[str]:
    """`name value`, but of `name` just the value."""
    return [_option(value) if name == "name" else f"{name} {_option(value)}" for name, value in values.items()]


def _option(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    shown = [str(each).lower() if isinstance(each, bool) else str(each) for each in values]
    return " ".join(shown if len(shown) <= LIST_SHOWN else [*shown[: LIST_SHOWN - 1], "..."])


def _cut(line: str) -> str:
    # Names may come from files of anybody: nothing of them may move the cursor or begin a line.
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= MOST_COLUMNS else line[: MOST_COLUMNS - 3] + "..."


def _number(value: Any) -> str:
    return "undefined" if value is None else figure(value)
