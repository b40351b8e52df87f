"""What a preparation must not lose: files of others, bad rows that are said to be written down."""

import os
from pathlib import Path

import pytest
from criteo_files_for_tests import write
from prepare_reference import check_prepared, contents_of, criteo_rows, encode, files_of
from small_prepare import criteo_text, prepare_small, small_shards

from cupyrec.datasets.criteo_rows import BadLine
from cupyrec.datasets.file_identity import END_BYTES
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.prepared.splits import by_share, write_splits
from cupyrec.datasets.preparing import bad_rows_file
from cupyrec.datasets.preparing.bad_rows_file import BadRowsFile
from cupyrec.datasets.preparing.job import Stopped
from cupyrec.errors import ConfigError, DataError, OutputError

PRECIOUS = b"precious\n" * 1000
SKIP = {"on_bad_row": "skip", "threads": 1}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


@pytest.fixture
def path(tmp_path):
    lines = criteo_text(170).splitlines(keepends=True)
    for number in (3, 160):
        lines[number] = b"bad\n"
    return write(tmp_path / "a.tsv", b"".join(lines))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def stop_in_reading(path, output, **options):
    asked = []
    with pytest.raises(Stopped):
        prepare_small(path, output, hooks={"stop": lambda: asked.append(None) or len(asked) > 4}, **options)


@pytest.mark.parametrize("begun_with", [None, "bad.tsv"])
@pytest.mark.parametrize("on_bad_row", ["skip", "error"])
def test_going_on_replaces_no_other_file(tmp_path, path, output, begun_with, on_bad_row):
    begun = {} if begun_with is None else {"bad_rows": tmp_path / begun_with}
    stop_in_reading(path, output, **SKIP, **begun)
    precious = write(tmp_path / "precious.txt", PRECIOUS)
    with pytest.raises(ConfigError, match=r"precious\.txt: exists; name another file with --bad-rows"):
        prepare_small(path, output, bad_rows=precious, on_bad_row=on_bad_row)
    assert precious.read_bytes() == PRECIOUS
    prepare_small(path, output, **SKIP, **begun)
    assert read_manifest(output).inputs[0].bad_rows == 2


def test_going_on_before_there_are_bad_rows_replaces_no_other_file(tmp_path, path, output):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[4:]))
    stop_in_reading(path, output, **SKIP)
    precious = write(tmp_path / "precious.txt", PRECIOUS)
    with pytest.raises(ConfigError, match=r"precious\.txt: exists"):
        prepare_small(path, output, **SKIP, bad_rows=precious)
    assert precious.read_bytes() == PRECIOUS
    # One that is not there may take its place, and is the same file by another name afterwards.
    stop_in_reading(path, output, **SKIP, bad_rows=tmp_path / "bad.tsv")
    (tmp_path / "link").symlink_to(tmp_path / "bad.tsv")
    prepare_small(path, output, **SKIP, bad_rows=tmp_path / "link")
    assert (tmp_path / "bad.tsv").read_bytes().count(b"\tbad\n") == 1


def test_the_file_that_was_begun_with_is_known_by_any_name(tmp_path, path, output, monkeypatch):
    stop_in_reading(path, output, **SKIP, bad_rows=tmp_path / "bad.tsv")
    assert (tmp_path / "bad.tsv").exists()
    monkeypatch.chdir(tmp_path)
    prepare_small(path, output, **SKIP, bad_rows="bad.tsv")
    assert Path("bad.tsv").read_bytes().count(b"\tbad\n") == 2


def test_a_folder_that_was_moved_goes_on(tmp_path, path, output):
    stop_in_reading(path, output, **SKIP)
    output.rename(tmp_path / "moved")
    assert prepare_small(path, tmp_path / "moved", **SKIP).bad_rows == 2


@pytest.mark.parametrize(
    "name",
    ["preparation.json", "prepared.json", "shard-00000.arrow", ".preparing/journal.jsonl", ".lock", "train.json"],
)
@pytest.mark.parametrize("state", ["new", "unfinished", "finished"])
def test_bad_rows_do_not_go_to_a_file_of_the_folder(path, output, name, state):
    output.mkdir()
    if state == "unfinished":
        stop_in_reading(path, output, **SKIP)
    if state == "finished":
        prepare_small(path, output, **SKIP)
    (output / ".preparing").mkdir(exist_ok=True)
    before = contents_of(output)
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=rf"{name}: is in the output folder; name a file elsewhere"):
            prepare_small(path, output, **SKIP, overwrite=overwrite, bad_rows=output / name)
    assert contents_of(output) == before
    prepare_small(path, output, **SKIP, bad_rows=output / "../out/bad_rows.tsv")
    assert (output / "bad_rows.tsv").read_bytes().count(b"\tbad\n") == 2


def test_what_is_reported_during_a_sync_is_synced_by_the_next(tmp_path, monkeypatch):
    file = BadRowsFile(tmp_path / "bad.tsv", skips=True)
    synced = []

    def sync(path):
        synced.append(path.stat().st_size)
        if len(synced) == 1:  # as the thread that reads may do
            file.report(Path("a"), 10, 1, [BadLine(0, 1, "reason", b"second")])

    monkeypatch.setattr(bad_rows_file, "sync_file", sync)
    file.report(Path("a"), 0, 1, [BadLine(0, 1, "reason", b"first")])
    file.sync()
    file.sync()
    assert synced[1:] == [file.path.stat().st_size]
    assert synced[1] > synced[0]
    file.sync()
    assert len(synced) == 2


def test_splits_go_with_the_data_that_they_are_of(path, output):
    manifest = prepare_small(path, output, **SKIP).manifest
    write_splits(output, manifest, "by hand", by_share(manifest.samples, [0.8, 0.1, 0.1]), overwrite=False)
    (output / "monday.json").write_bytes((output / "train.json").read_bytes())
    (output / ".valid.json.partial").touch()
    prepare_small(path, output, **SKIP, overwrite=True, hash_rows=50)
    check_prepared(output, encode(criteo_rows(path.read_bytes()), hash_rows=[50] * 26))


@pytest.mark.parametrize("content", ["{}", "[1]", '{"format": "geojson"}', "{", "\xff", "[" * 100_000])
def test_other_json_is_left_alone(path, output, content):
    prepare_small(path, output, **SKIP)
    (output / "train.json").write_text(content, encoding="latin-1")
    before = contents_of(output)
    with pytest.raises(OutputError, match=r"out: holds train\.json, not only prepared data"):
        prepare_small(path, output, **SKIP, overwrite=True)
    assert contents_of(output) == before


def test_what_others_write_beside_is_left_alone(path, output):
    stop_in_reading(path, output, **SKIP)
    names = [".notes.partial", ".partial", ".shard.partial"]
    for name in names:
        (output / name).write_text("mine")
    for name in (".prepared.json.partial", ".shard-00001.arrow.partial"):
        (output / name).touch()
    prepare_small(path, output, **SKIP)
    assert [name for name in files_of(output) if "partial" in name] == sorted(names)
    with pytest.raises(OutputError, match=r"out: holds \.notes\.partial, not only prepared data"):
        prepare_small(path, output, **SKIP, overwrite=True)
    assert (output / ".notes.partial").read_text() == "mine"


def test_a_change_in_the_middle_of_a_large_input_is_noticed(tmp_path, output):
    """As the beginning, the end and the size are the same, its middle is looked at."""
    line = b"\t".join([b"1", *[b"3"] * 13, *[b"00000abc"] * 26]) + b"\n"
    count = 5 * END_BYTES // len(line)
    path = write(tmp_path / "a.tsv", line * count)
    stop_in_reading(path, output, threads=1, hash_rows=50)
    states = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(count // 2 * len(line))
        file.write(line.replace(b"abc", b"def") * (count // 50))
    assert path.stat().st_size == states.st_size
    with pytest.raises(ConfigError, match=r"of another .*a\.tsv, which has changed since"):
        prepare_small(path, output, threads=1, hash_rows=50)


def test_a_copy_of_an_input_in_its_place_is_the_same(path, output):
    stop_in_reading(path, output, **SKIP)
    content = path.read_bytes()
    path.unlink()
    write(path, content)
    os.utime(path, (1, 1))
    assert prepare_small(path, output, **SKIP).bad_rows == 2


def test_a_name_that_is_no_utf8_is_one_line(tmp_path):
    from cupyrec.datasets.criteo import CriteoFiles

    name = os.fsdecode(bytes(tmp_path) + b"/day_\xff")
    write(Path(name), criteo_text(3))
    with pytest.raises(DataError, match="its name is not valid UTF-8; rename it"):
        next(iter(CriteoFiles(name).batches(2)))


def spoilt_at_the_start(tmp_path):
    return write(tmp_path / "wrong.tsv", b"no\n" + criteo_text(170))


@pytest.mark.parametrize("output_name", ["out", "new/out"])
def test_a_failure_before_the_first_shard_leaves_nothing_in_the_way(tmp_path, path, output_name):
    output = tmp_path / output_name
    with pytest.raises(DataError, match=r"wrong\.tsv, line 1: "):
        prepare_small(spoilt_at_the_start(tmp_path), output)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tsv", "wrong.tsv"]
    with pytest.raises(
        DataError, match=r"nothing\.tsv, line 1: none of the lines is a good row; of this one: expected"
    ):
        prepare_small(write(tmp_path / "nothing.tsv", b"no\n" * 9), output, bad_rows=tmp_path / "bad.tsv", **SKIP)
    prepare_small(path, output, bad_rows=tmp_path / "bad.tsv", **SKIP)
    assert read_manifest(output).inputs[0].bad_rows == 2


def test_a_folder_that_was_there_stays(tmp_path, output):
    output.mkdir()
    with pytest.raises(DataError):
        prepare_small(spoilt_at_the_start(tmp_path), output)
    assert files_of(output) == [".lock"]


def test_a_preparation_that_was_killed_before_its_first_shard_is_given_up_when_it_fails(tmp_path, path, output):
    wrong = spoilt_at_the_start(tmp_path)
    with pytest.raises(Stopped):
        prepare_small(path, output, hooks={"stop": lambda: True}, **SKIP)
    # Its own: another is refused while it may go on.
    assert "preparation.json" in files_of(output)
    with pytest.raises(ConfigError, match="an unfinished preparation of other files"):
        prepare_small(wrong, output)
    with pytest.raises(DataError):
        prepare_small(path, output)
    assert files_of(output) == [".lock"]
    prepare_small(path, output, **SKIP)


def test_what_is_done_stays_when_a_later_row_is_bad(path, output):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[4]
    write(path, b"".join(lines))
    with pytest.raises(DataError, match="line 161"):
        prepare_small(path, output, threads=1)
    assert any(name.startswith(".preparing/first-") for name in files_of(output))
    assert 0 < prepare_small(path, output, **SKIP).rows_read < 160
