"""The same command again, another command on the same folder, and folders that are somebody else's."""

import errno
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from criteo_files_for_tests import write
from prepare_reference import check_prepared, contents_of, criteo_rows, encode, files_of
from small_prepare import criteo_text, prepare_small, small_shards

from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.preparing.job import Stopped
from cupyrec.errors import ConfigError, DataError, OutputError
from cupyrec.folder_lock import FolderLock

ROWS = 170


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "a.tsv", criteo_text(ROWS))


@pytest.fixture
def expected(path):
    return encode(criteo_rows(path.read_bytes()))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def stop_after(count: int) -> dict:
    """Hooks that let the job stop when it has asked so often."""
    asked = []
    return {"stop": lambda: asked.append(None) or len(asked) >= count}


def stop_in_reading(path, output, **options) -> None:
    with pytest.raises(Stopped):
        prepare_small(path, output, hooks=stop_after(5), threads=1, **options)
    assert any(os.path.basename(name).startswith(("first-", "shard-")) for name in files_of(output))
    assert not (output / "prepared.json").exists()


def test_goes_on_where_it_stopped(path, output, expected):
    stop_in_reading(path, output)
    resumed = prepare_small(path, output)
    assert 0 < resumed.rows_read < ROWS
    check_prepared(output, expected)


def test_stopped_as_often_as_can_be_it_comes_to_the_same_end(path, output, expected):
    # It asks also while it reads what is done already.
    for patience in range(1, 1000):
        try:
            prepare_small(path, output, hooks=stop_after(patience), threads=1)
            break
        except Stopped:
            continue
    check_prepared(output, expected)


def test_a_shard_that_went_missing_or_was_cut_is_refused_whatever_the_ids(path, output):
    for number, options in enumerate(({"hash_rows": 9}, {"ids": "first"}, {})):
        folder = output.with_name(f"out{number}")
        stop_in_reading(path, folder, **options)
        shard = next(folder.rglob("[sf]*-00000.arrow"))
        if number:
            os.truncate(shard, 100)
        else:
            shard.unlink()
        with pytest.raises(DataError, match=rf"{shard}: missing or damaged: .*prepare the data anew with --overwrite"):
            prepare_small(path, folder, **options)


def test_another_vocabulary_is_named_and_not_what_follows_from_it(path, output):
    known, other = output.with_name("known"), output.with_name("other")
    prepare_small(path, known)
    prepare_small(path, other, ids="first")
    prepare_small(path, output, vocabulary=known)
    encoding = read_manifest(known).encoding
    with pytest.raises(ConfigError, match=f"data made with --vocabulary, of data with the encoding {encoding}; choose"):
        prepare_small(path, output)
    with pytest.raises(
        ConfigError, match=f'with vocabulary "{encoding}", not "{read_manifest(other).encoding}"; choose'
    ):
        prepare_small(path, output, vocabulary=other)
    with pytest.raises(ConfigError, match="holds prepared data made without --vocabulary; choose another --output"):
        prepare_small(path, known, vocabulary=other)


def test_replacing_that_was_killed_is_never_gone_on_with(path, output, expected, monkeypatch):
    """Half of the old preparation is gone, and preparation.json still there."""
    stop_in_reading(path, output, hash_rows=9)

    def killed(folder, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_small(path, output, hash_rows=9, overwrite=True)
    with pytest.raises(DataError, match=r"journal\.jsonl: the unfinished preparation cannot go on"):
        prepare_small(path, output, hash_rows=9)
    prepare_small(path, output, overwrite=True)
    check_prepared(output, expected)


@pytest.mark.parametrize("finished", [False, True])
def test_nothing_that_is_read_is_in_the_folder_that_is_written(path, output, finished):
    if finished:
        prepare_small(path, output)
    else:
        stop_in_reading(path, output)
    before = contents_of(output)
    inside = output / "shard-00000.arrow" if finished else next(output.rglob("first-00000.arrow"))
    for paths in (inside, [path, inside]):
        with pytest.raises(ConfigError, match=rf"the input file {inside} is in the output folder {output}"):
            prepare_small(paths, output, overwrite=True, label="label", dense_columns=["a"], category_columns=["C1"])
    if finished:
        (output.parent / "link").symlink_to(output)
        with pytest.raises(ConfigError, match="out: cannot be --output and --vocabulary"):
            prepare_small(path, output, overwrite=True, vocabulary=output.parent / "link")
    assert contents_of(output) == before


def test_again_after_the_end_changes_nothing(path, output):
    first = prepare_small(path, output)
    states = {file: file.stat().st_mtime_ns for file in output.rglob("*")}
    again = prepare_small(path, output)
    assert (again.worked, again.rows_read, again.manifest) == (False, 0, first.manifest)
    assert {file: file.stat().st_mtime_ns for file in output.rglob("*")} == states


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": "first"}, 'ids "frequency", not "first"'),
        ({"min_count": 2}, "min count 1, not 2"),
        ({"modulo": 5}, "modulo null, not 5"),
        ({"dense_transform": "none"}, 'dense transform "dlrm", not "none"'),
        ({"hash_rows": 5}, 'ids "frequency", not "hash"'),
    ],
)
def test_other_options_are_refused(path, output, finished, options, message):
    if finished:
        prepare_small(path, output)
    else:
        stop_in_reading(path, output)
    before = contents_of(output)
    what = "prepared data" if finished else "an unfinished preparation"
    with pytest.raises(ConfigError, match=f"holds {what} with {message}; choose another --output, or .*--overwrite"):
        prepare_small(path, output, **options)
    assert contents_of(output) == before


def test_threads_memory_and_skipping_are_no_other_options(path, output, expected):
    stop_in_reading(path, output)
    prepare_small(path, output, threads=2, memory_bytes=10**9, on_bad_row="skip")
    check_prepared(output, expected)


@pytest.mark.parametrize("finished", [False, True])
def test_other_inputs_are_refused(tmp_path, path, output, finished):
    if finished:
        prepare_small(path, output)
    else:
        stop_in_reading(path, output)
    other = write(tmp_path / "b.tsv", criteo_text(3))
    with pytest.raises(ConfigError, match=r"of other files, without .*b\.tsv"):
        prepare_small([path, other], output)
    text = path.read_bytes()
    path.write_bytes(text.replace(b"1500", b"1501", 1))
    with pytest.raises(ConfigError, match=r"of another .*a\.tsv, which has changed since"):
        prepare_small(path, output)
    path.write_bytes(text + b"x")
    with pytest.raises(ConfigError, match=r"of another .*a\.tsv, which has changed since"):
        prepare_small(path, output)


def test_overwrite_begins_anew(path, output):
    stop_in_reading(path, output, ids="first", hash_rows=None)
    prepare_small(path, output, overwrite=True, hash_rows=7)
    check_prepared(output, encode(criteo_rows(path.read_bytes()), hash_rows=[7] * 26))
    prepare_small(path, output, overwrite=True, min_count=2)
    check_prepared(output, encode(criteo_rows(path.read_bytes()), min_count=2))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_left_alone(path, output, overwrite):
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"out: holds thesis\.txt and is not prepared data"):
        prepare_small(path, output, overwrite=overwrite)
    assert set(files_of(output)) <= {"thesis.txt", ".lock"}


@pytest.mark.parametrize("name", ["thesis.txt", "vocabulary/notes.txt"])
def test_other_files_among_prepared_data_are_not_overwritten(path, output, name):
    prepare_small(path, output)
    (output / name).write_text("mine")
    before = contents_of(output)
    with pytest.raises(OutputError, match=rf"out: holds {os.path.basename(name)}, not only prepared data"):
        prepare_small(path, output, overwrite=True, hash_rows=5)
    assert contents_of(output) == before


def test_an_empty_folder_and_one_in_which_a_start_was_killed_are_free(path, output, expected):
    (output / ".preparing").mkdir(parents=True)
    (output / ".preparing/journal.jsonl").touch()
    (output / ".preparation.json.partial").touch()
    prepare_small(path, output)
    check_prepared(output, expected)


def test_a_file_in_place_of_the_folder(path, output):
    output.write_text("x")
    with pytest.raises(OutputError, match="out: is not a folder"):
        prepare_small(path, output)


def test_a_folder_that_cannot_be_written():
    """By nobody, where the tests are root's, who may write anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path, output = Path(folder, "a.tsv"), Path(folder, "out")
        write(path, criteo_text(3))
        output.mkdir(mode=0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(OutputError, match="out: cannot be written: Permission denied"):
                prepare_small(path, output)
        finally:
            os.seteuid(user)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_cannot_be_made(path):
    with pytest.raises(OutputError, match="/proc/out: cannot be written: No such file"):
        prepare_small(path, "/proc/out")


def test_two_at_once_on_one_folder(path, output):
    output.mkdir()
    with FolderLock(output), pytest.raises(OutputError, match="another cupyrec is writing to it"):
        prepare_small(path, output)
    prepare_small(path, output)


class TestDamage:
    """What is on the disk of an unfinished preparation is not what was written."""

    @pytest.fixture
    def work(self, path, output):
        stop_in_reading(path, output)
        return output / ".preparing"

    def check_refused(self, path, output, name):
        with pytest.raises(DataError, match=rf"{name}.*(damaged|start anew with --overwrite)") as raised:
            prepare_small(path, output)
        assert "\n" not in str(raised.value)
        prepare_small(path, output, overwrite=True)
        check_prepared(output, encode(criteo_rows(path.read_bytes())))

    def test_the_journal_is_missing(self, work, path, output):
        (work / "journal.jsonl").unlink()
        self.check_refused(path, output, "journal.jsonl")

    def test_a_line_of_the_journal_is_damaged(self, work, path, output):
        lines = (work / "journal.jsonl").read_bytes().split(b"\n")
        lines[0] = lines[0].replace(b"1", b"2", 1)
        (work / "journal.jsonl").write_bytes(b"\n".join(lines))
        self.check_refused(path, output, "journal.jsonl")

    def test_preparation_json_is_damaged(self, work, path, output):
        (output / "preparation.json").write_text("{")
        self.check_refused(path, output, "preparation.json")

    @pytest.mark.parametrize("name", ["new-00000.arrow", "first-00000.arrow"])
    def test_a_file_is_missing(self, work, path, output, name):
        (work / name).unlink()
        if name.startswith("first"):
            with pytest.raises(DataError, match=name):
                prepare_small(path, output)
        else:
            self.check_refused(path, output, name)

    @pytest.mark.parametrize("name", ["new-00000.arrow", "first-00000.arrow"])
    def test_a_file_has_another_byte(self, work, path, output, name):
        content = bytearray((work / name).read_bytes())
        content[len(content) // 2] ^= 1
        (work / name).write_bytes(content)
        self.check_refused(path, output, name)

    def test_a_torn_last_line_of_the_journal_is_done_again(self, work, path, output, expected):
        content = (work / "journal.jsonl").read_bytes()
        (work / "journal.jsonl").write_bytes(content[:-5])
        prepare_small(path, output)
        check_prepared(output, expected)


def test_bad_rows_of_before_stay_and_none_comes_twice(tmp_path, output):
    lines = criteo_text(ROWS).splitlines(keepends=True)
    bad = [*range(3, ROWS, 10), 33, 34, 65]
    for number in bad:
        lines[number] = b"bad\n"
    path = write(tmp_path / "a.tsv", b"".join(lines))
    prepare_small(path, tmp_path / "whole", on_bad_row="skip")
    stop_in_reading(path, output, on_bad_row="skip")
    torn = output / "bad_rows.tsv"
    torn.write_bytes(torn.read_bytes() + b"torn")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(output, unfinished)
    prepare_small(path, output, on_bad_row="skip")
    assert contents_of(output) == contents_of(tmp_path / "whole")
    with pytest.raises(ConfigError, match=r"elsewhere: does not hold the .* bad rows of before"):
        prepare_small(path, unfinished, on_bad_row="skip", bad_rows=tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "failing_file", ["first-00002", "new-00001", "journal", "C7.parquet", "shard-00001", "prepared.json"]
)
def test_a_full_disk_is_one_line_and_the_job_goes_on_when_there_is_room(
    path, output, expected, failing_file, monkeypatch
):
    real_fsync = os.fsync
    seen = []

    def full(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if failing_file in name and os.path.isfile(name):
            seen.append(name)
            if failing_file != "journal" or len(seen) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=rf"{failing_file}.*cannot be written: No space left on device"):
            prepare_small(path, output)
    assert seen
    assert not (output / "prepared.json").exists()
    assert not [name for name in files_of(output) if name.endswith(".partial")]
    prepare_small(path, output)
    check_prepared(output, expected)


def test_a_disk_that_is_really_full(path, output, tmp_path):
    """pyarrow's own writes fail, not Python's."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            prepare_small(path, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    prepare_small(path, output)
    check_prepared(output, encode(criteo_rows(path.read_bytes())))


def test_bad_rows_never_replace_another_file(tmp_path, path, output, expected):
    path.write_bytes(path.read_bytes() + b"bad\n")
    notes = write(tmp_path / "notes.txt", b"mine")
    options = {"on_bad_row": "skip", "bad_rows": notes}
    with pytest.raises(ConfigError, match=r"notes\.txt: exists; name another file with --bad-rows"):
        prepare_small(path, output, **options)
    assert notes.read_bytes() == b"mine"
    stop_in_reading(path, output, **options, overwrite=True)
    prepare_small(path, output, **options)
    assert notes.read_bytes().endswith(b"\tbad\n")
    assert prepare_small(path, output, **options).worked is False


def test_bad_rows_may_go_to_nowhere(path, output):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"bad\n" + b"".join(lines))
    options = {"on_bad_row": "skip", "bad_rows": "/dev/null"}
    stop_in_reading(path, output, **options)
    assert prepare_small(path, output, **options).bad_rows == 1


def test_preparation_json_says_what_was_asked_for(path, output):
    prepare_small(path, output, min_count=2)
    content = json.loads((output / "preparation.json").read_text())
    assert content["options"]["min_count"] == 2
    assert content["inputs"][0]["name"] == str(path)
    assert content["inputs"][0]["bytes"] == path.stat().st_size


def test_what_is_read_again_is_said_before_anything_else(path, output):
    said = []
    hooks = {
        "on_rebuild": lambda shards: said.append(shards),
        "on_progress": lambda share, rows: said.append(share),
    }
    stop_in_reading(path, output)
    shards = len(list(output.rglob("first-*.arrow")))
    prepare_small(path, output, hooks=hooks)
    assert said[0] == shards > 0
    assert all(isinstance(share, float) for share in said[1:])
    said.clear()
    # Hashes need no vocabularies.
    stop_in_reading(path, output.with_name("hashed"), hash_rows=9)
    prepare_small(path, output.with_name("hashed"), hooks=hooks, hash_rows=9)
    assert all(isinstance(share, float) for share in said)
