"""`cupyrec prepare` in processes of its own: killed, stopped, without room, twice at once; and what it says."""

import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Outcome, check_one_error_line, run_here, run_process
from small_disk import small_disk

from cupyrec.cli.prepare import _shares
from cupyrec.datasets.planted_model import PlantedModel
from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.preparing import prepare_options
from cupyrec.datasets.synthetic import write_blocks
from cupyrec.folder_lock import FolderLock

# CUPYREC_KILLS=50 kills more often.
KILLS = int(os.environ.get("CUPYREC_KILLS", "4"))
ROWS = 9000
BLOCK_SAMPLES, SHARD_SAMPLES, CHUNK_BYTES = 64, 128, 20_000
# So that 9,000 rows are 71 shards: in a process of its own, and here.
SMALL_COMMAND = f"""
import functools
from cupyrec.datasets.prepared import manifest
manifest.BLOCK_SAMPLES, manifest.SHARD_SAMPLES = {BLOCK_SAMPLES}, {SHARD_SAMPLES}
from cupyrec.datasets.preparing import prepare_options
sizes = functools.partial(prepare_options.ShardSizes, {BLOCK_SAMPLES}, {SHARD_SAMPLES}, {CHUNK_BYTES})
prepare_options.ShardSizes = sizes
from cupyrec.cli import main
main()
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK_SAMPLES", BLOCK_SAMPLES)
    monkeypatch.setattr(manifest, "SHARD_SAMPLES", SHARD_SAMPLES)
    sizes = functools.partial(prepare_options.ShardSizes, BLOCK_SAMPLES, SHARD_SAMPLES, CHUNK_BYTES)
    monkeypatch.setattr(prepare_options, "ShardSizes", sizes)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A file of many rows, in which values keep being new."""
    path = tmp_path_factory.mktemp("rows") / "day_0"
    for _ in write_blocks(PlantedModel(3, 4000, -0.4), ROWS, path, files=1, compression=None):
        pass
    return path


def start(rows, output, *options, **process_options) -> subprocess.Popen:
    """The command in a process of its own, with small shards."""
    command = ["prepare", rows, "--output", output, *options]
    return subprocess.Popen(
        [sys.executable, "-c", SMALL_COMMAND, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        **process_options,
    )


def contents_of(folder: Path) -> dict[str, bytes]:
    """All files by name, whatever they are, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(rows, tmp_path_factory):
    """What the folder holds in the end; and the seconds, from the start, of the first file in it and of the end."""
    return run_undisturbed(rows, tmp_path_factory.mktemp("undisturbed") / "out")


@pytest.fixture(scope="module")
def known(rows, tmp_path_factory):
    """Data whose vocabularies have some of the values."""
    folder = tmp_path_factory.mktemp("known")
    with open(rows, "rb") as file, open(folder / "day", "wb") as part:
        part.writelines(file.readline() for _ in range(1000))
    _, err = (process := start(folder / "day", folder / "data")).communicate()
    assert process.returncode == 0, err
    return folder / "data"


@pytest.fixture(scope="module")
def undisturbed_growing(rows, known, tmp_path_factory):
    """As undisturbed."""
    output = tmp_path_factory.mktemp("growing") / "out"
    return run_undisturbed(rows, output, f"--vocabulary={known}", "--grow")


def run_undisturbed(rows, output, *options) -> tuple[dict[str, bytes], float, float]:
    for _ in range(2):  # the first one compiles
        shutil.rmtree(output, ignore_errors=True)
        started = time.time()
        process = start(rows, output, *options)
        _, err = process.communicate()
        ended = time.time()
    assert process.returncode == 0, err
    first = min(path.stat().st_mtime for path in output.rglob("*"))
    contents = contents_of(output)
    assert len([name for name in contents if name.startswith("shard-")]) == 71
    assert len([name for name in contents if name.startswith("vocabulary/")]) == 26
    return contents, max(first - started, 0.0), ended - started


def kill_after(process: subprocess.Popen, seconds: float) -> bool:
    """Kill a process after so long; whether it was still there."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def wait_until_begun(process: subprocess.Popen, output: Path) -> None:
    """Return when the first shard is done; most of the work is left."""
    journal = output / ".preparing/journal.jsonl"
    while not (journal.exists() and journal.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def error_of(outcome: Outcome) -> str:
    """The message of a command that failed; there may be progress before it."""
    *progress, error = outcome.err.splitlines(keepends=True)
    assert all(re.search(r"% done, |^reading \d+ shards? again, to go on$", line) for line in progress), outcome
    return check_one_error_line(Outcome(outcome.code, outcome.out, error))


def finish(rows, output, capsys, *options) -> None:
    outcome = run_here(capsys, "prepare", rows, "--output", output, *options)
    assert outcome.code == 0, outcome


@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_any_moment_it_goes_on_to_the_same_end(rows, undisturbed, tmp_path, capsys, number):
    contents, first, end = undisturbed
    # Each part of the time that it writes in has its kill.
    moment = first + (end - first) * (number + random.Random(number).random()) / KILLS
    output = tmp_path / "out"
    kill_after(start(rows, output), moment)
    finish(rows, output, capsys)
    assert contents_of(output) == contents


@pytest.mark.parametrize("number", range(KILLS))
def test_growing_that_was_killed_at_any_moment_goes_on_too(rows, known, undisturbed_growing, tmp_path, capsys, number):
    contents, first, end = undisturbed_growing
    moment = first + (end - first) * (number + random.Random(number).random()) / KILLS
    output, options = tmp_path / "out", (f"--vocabulary={known}", "--grow")
    kill_after(start(rows, output, *options), moment)
    finish(rows, output, capsys, *options)
    assert contents_of(output) == contents


def test_killed_again_and_again_it_comes_to_the_same_end(rows, undisturbed, tmp_path, capsys):
    contents, first, end = undisturbed
    output = tmp_path / "out"
    draw = random.Random(1)
    for _ in range(4):
        # With a share of the way at most, so that several are on the way.
        if not kill_after(start(rows, output), first + (end - first) * draw.uniform(0.05, 0.35)):
            break
    finish(rows, output, capsys)
    assert contents_of(output) == contents


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_it_goes_on(rows, undisturbed, tmp_path, capsys, number):
    output = tmp_path / "out"
    process = start(rows, output)
    try:
        wait_until_begun(process, output)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number, err
    assert out == ""
    assert err.splitlines()[-1] == "cupyrec: stopped; the same command goes on where it was"
    assert "Traceback" not in err
    assert not (output / "prepared.json").exists()
    assert not list(output.rglob("*.partial"))
    finish(rows, output, capsys)
    assert contents_of(output) == undisturbed[0]


def test_two_at_once_on_one_folder(rows, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    with FolderLock(output):
        outcome = run_process("prepare", rows, "--output", output)
    message = check_one_error_line(outcome)
    assert message == f"{output}: another cupyrec is writing to it; wait for its end, or name another folder"


@pytest.mark.parametrize("size", ["40k", "300k", "900k", "1500k"])
def test_a_full_disk_is_one_line_and_with_more_room_it_goes_on(rows, undisturbed, capsys, size):
    with small_disk(size) as folder:
        output = folder / "out"
        message = error_of(run_here(capsys, "prepare", rows, "--output", output))
        assert "No space left on device" in message or "make room" in message
        assert str(output) in message
        assert not list(output.rglob("*.partial"))
        subprocess.run(["mount", "-o", "remount,size=20m", folder], check=True)
        finish(rows, output, capsys)
        assert contents_of(output) == undisturbed[0]


def test_a_folder_on_a_disk_that_can_only_be_read(rows, capsys):
    with small_disk("20m") as folder:
        output = folder / "out"
        output.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        message = error_of(run_here(capsys, "prepare", rows, "--output", output))
        assert message == f"{output}: cannot be written: Read-only file system"


@pytest.mark.parametrize("limit", [200, 3000, 20_000])
def test_files_that_may_not_grow(rows, undisturbed, tmp_path, capsys, limit):
    """As with a quota: nothing but a limit of the system for this process is changed."""
    import resource

    output = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        outcome = run_here(capsys, "prepare", rows, "--output", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert re.fullmatch(rf"{output}.*: cannot be written: File too large; allow larger files .*", error_of(outcome))
    finish(rows, output, capsys)
    assert contents_of(output) == undisturbed[0]


def test_an_input_that_changes_while_it_is_stopped_is_refused(rows, undisturbed, tmp_path, capsys):
    copy = Path(shutil.copy(rows, tmp_path / "day_0"))
    output = tmp_path / "out"
    process = start(copy, output)
    wait_until_begun(process, output)
    assert kill_after(process, 0)
    text = copy.read_bytes()
    copy.write_bytes(text.replace(b"1\t", b"0\t", 1))
    message = error_of(run_here(capsys, "prepare", copy, "--output", output))
    assert re.match(rf"{output}: holds an unfinished preparation of another {copy}, which has changed since; ", message)
    copy.write_bytes(text)
    finish(copy, output, capsys)
    contents = contents_of(output)
    names = {name for name in contents if name.startswith(("shard", "voc"))}
    assert {name: contents[name] for name in names} == {name: undisturbed[0][name] for name in names}


def test_says_what_it_made(rows, tmp_path, capsys):
    output = tmp_path / "out"
    outcome = run_here(capsys, "prepare", rows, "--output", output)
    first, size, tables, speed, negative = outcome.out.splitlines()
    assert first == f"{output}: 9,000 rows of 1 file"
    assert re.fullmatch(r"[\d.]+ MB in 71 shards, \d+ bytes a row", size)
    assert re.match(r"26 tables with [\d,]+ rows: C\d+ [\d,]+, C\d+ .*, \.\.\.$", tables)
    assert re.match(r"9,000 rows read in [\d.]+ s, [\d,]+ rows/s", speed)
    # The generated column that has -1, as that of Criteo's data has.
    assert re.match(r"negative values count as 0 .* dlrm: I2 \d\d\.\d\d% of the rows; for columns that", negative)
    shown = outcome.err.splitlines()
    assert len(shown) == 10
    assert re.fullmatch(r"10% done, [\d,]+ rows(, [\d,]+ rows/s)?", shown[0])
    assert shown[-1].startswith("100% done, 9,000 rows, ")
    again = run_here(capsys, "prepare", rows, "--output", output)
    assert again.out.splitlines() == [first, size, tables, "all was there already; nothing has changed", negative]
    assert again.err == ""


def test_says_what_is_new(rows, known, tmp_path, capsys):
    options = [rows, f"--vocabulary={known}", "--grow", "--output"]
    *_, new, negative = run_here(capsys, "prepare", *options, tmp_path / "out").out.splitlines()
    before, after = read_manifest(known).table_rows, read_manifest(tmp_path / "out").table_rows
    added = {f"C{number}": after[number - 1] - before[number - 1] for number in range(1, 27)}
    largest = sorted(added, key=lambda name: -added[name])[:6]
    assert new == f"new values: {', '.join(f'{name} {added[name]:,}' for name in largest)}, ..."
    assert f"for columns that are scaled already prepare this and {known} with --dense-transform none" in negative
    assert run_here(capsys, "prepare", *options, tmp_path / "out").out.splitlines()[-2] == new
    outcome = run_here(capsys, "prepare", *options, tmp_path / "often", "--min-count=1500")
    assert outcome.out.splitlines()[-2] == "no new values that appear at least 1,500 times"
    outcome = run_here(capsys, "prepare", *options, tmp_path / "at least", "--min-count=2")
    assert outcome.out.splitlines()[-2].startswith("new values that appear at least 2 times: C")
    options[1] = f"--vocabulary={tmp_path / 'out'}"
    outcome = run_here(capsys, "prepare", *options, tmp_path / "again")
    assert outcome.out.splitlines()[-2] == f"no new values: all have an id in {tmp_path / 'out'}"


@pytest.mark.parametrize("label", [b"0", b"1"])
def test_says_that_all_labels_are_the_same(rows, tmp_path, capsys, label):
    lines = rows.read_bytes().splitlines(keepends=True)[:50]
    (tmp_path / "day_0").write_bytes(b"".join(label + line[1:] for line in lines))
    command = ["prepare", tmp_path / "day_0", "--output", tmp_path / "out"]
    warning = f"warning: all labels are {label.decode()}: from such data nothing can be learned"
    assert warning in run_here(capsys, *command).out.splitlines()
    assert warning in run_here(capsys, *command).out.splitlines()
    (tmp_path / "day_0").write_bytes(b"".join(line[2:] for line in lines))
    assert "warning" not in run_here(capsys, *command, "--no-labels", "--overwrite").out


def test_small_shares_are_not_0():
    assert (
        _shares({"C1": 0.00004, "C2": 0.25, "C3": 0.0001}, "values") == "C2 25.00%, C3 0.01%, C1 <0.01% of the values"
    )


def test_bad_rows_are_counted_and_kept_where_it_says(rows, tmp_path, capsys):
    lines = rows.read_bytes().splitlines(keepends=True)[:300]
    lines[7], lines[200] = b"bad\n", b"\n"
    path = tmp_path / "a.tsv"
    path.write_bytes(b"".join(lines))
    message = error_of(run_here(capsys, "prepare", path, "--output", tmp_path / "out"))
    assert message.startswith(f"{path}, line 8: expected 40 columns")
    outcome = run_here(capsys, "prepare", path, "--output", tmp_path / "out", "--on-bad-row=skip")
    bad_rows = tmp_path / "out/bad_rows.tsv"
    assert outcome.out.splitlines()[0] == f"{tmp_path}/out: 298 rows of 1 file, 2 bad rows in {bad_rows}"
    assert len(bad_rows.read_bytes().splitlines()) == 2


def test_names_of_every_kind(rows, tmp_path, capsys):
    text = rows.read_bytes()[:20_000].rpartition(b"\n")[0]
    path, output = tmp_path / "day \n[0]?*", tmp_path / "Ausgabe \N{GREEK SMALL LETTER ALPHA} '\t"
    path.write_bytes(text)
    outcome = run_here(capsys, "prepare", path, "--output", output)
    assert outcome.code == 0, outcome
    assert read_manifest(output).inputs[0].name == str(path)
    no_text = tmp_path / os.fsdecode(b"day \xff")
    no_text.write_bytes(text)
    for arguments in ([no_text, "--output", tmp_path / "out"], [path, "--output", tmp_path / os.fsdecode(b"\xfe")]):
        message = check_one_error_line(run_process("prepare", *arguments))
        assert message.endswith(": its name is not valid UTF-8; rename it")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory=1MB"], r"--memory 1 MB is too little: rows on their way take [\d.]+ MB with \d+ threads?, and "),
        (["--memory=lots"], r".*lots"),
        (["--threads=none"], r"--threads must be a whole number.*'none'"),
        (["--ids=best"], r"Invalid value for '--ids': 'best' is not one of .*\(see cupyrec prepare --help\)"),
        (["--hash-rows=5,x"], r"--hash-rows must be .*'5,x'"),
        (["--hash-rows=5,6"], r"--hash-rows has 2 numbers, but there are 26 category columns"),
        (["--hash-rows=5", "--min-count=2"], r"--hash-rows and --min-count exclude each other"),
        (["--category-columns=C1,,C2"], r"--category-columns must be names with commas"),
        (["--label=x"], r"--label is for tables.*; text has the columns of Criteo, and CSV is not read: make Parquet"),
        (["--bad-rows=/none/x", "--on-bad-row=skip"], r"/none/x: .*no folder /none"),
        (["--vocabulary=/none"], r"/none: no prepared data"),
        (["--grow"], r"--grow needs --vocabulary, the prepared data whose ids new values are added to"),
        (["--grow", "--vocabulary=x", "--ids=first"], r"--vocabulary and --ids exclude each other"),
        (["--min-count=2", "--vocabulary=x"], r"--vocabulary and --min-count exclude each other: without --grow no "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_options_that_cannot_be_used(rows, tmp_path, capsys, options, message):
    outcome = run_here(capsys, "prepare", rows, "--output", tmp_path / "out", *options)
    assert re.match(message, error_of(outcome)), outcome


def test_help_loads_neither_numba_nor_pyarrow():
    script = (
        "import sys\nfrom cupyrec.cli import main\n"
        "try: main(['prepare', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numba', 'pyarrow', 'tqdm'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "--dense-transform" in ended.stdout


def test_what_help_says_again_is_what_there_is():
    from cupyrec.cli.prepare import IDS, TRANSFORMS
    from cupyrec.datasets import dense_transforms

    assert IDS == prepare_options.IDS
    assert tuple(dense_transforms.TRANSFORMS) == TRANSFORMS
