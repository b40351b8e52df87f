import pytest
from synced_files import record_syncs

from cupyrec.datasets.staged_output import staged_output
from cupyrec.errors import OutputError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_outputs_appear_together_at_the_end(tmp_path):
    with staged_output([tmp_path / "a", tmp_path / "b"], overwrite=False) as (a, b):
        a.write_text("1")
        b.mkdir()
        (b / "day_0").write_text("2")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").read_text() == "1"
    assert (tmp_path / "b" / "day_0").read_text() == "2"


def test_outputs_are_on_the_disk_before_they_have_their_names(tmp_path, monkeypatch):
    synced = record_syncs(monkeypatch)
    with staged_output([tmp_path / "a", tmp_path / "b"], overwrite=False) as (a, b):
        a.write_text("1")
        b.mkdir()
        (b / "day_0").write_text("22")
    assert [synced[path] for path in (a, b / "day_0")] == [1, 2]
    assert {b, tmp_path} <= set(synced)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_everything_as_it_was(tmp_path, failure):
    (tmp_path / "a").write_text("old")

    def fail():
        with staged_output([tmp_path / "a", tmp_path / "b"], overwrite=True) as (a, b):
            a.write_text("new")
            b.write_text("new")
            raise failure

    with pytest.raises(failure):
        fail()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_an_error_of_the_file_system_becomes_one_line(tmp_path):
    with (
        pytest.raises(OutputError, match=r"^cannot write .*a: No space left on device$"),
        staged_output([tmp_path / "a"], overwrite=False),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("existing", ["a", "b"])
def test_any_existing_output_is_refused_unless_it_may_be_replaced(tmp_path, existing):
    (tmp_path / existing).write_text("old")
    with (
        pytest.raises(OutputError, match=f"{existing} exists; give another name, or --overwrite"),
        staged_output([tmp_path / "a", tmp_path / "b"], overwrite=False),
    ):
        pass
    assert names(tmp_path) == [existing]


def test_overwrite_replaces_a_folder_of_day_files_by_a_file_and_back(tmp_path):
    output = tmp_path / "a"
    output.mkdir()
    (output / "day_0").write_text("old")
    (output / "day_1.gz").write_text("old")
    with staged_output([output], overwrite=True) as (a,):
        a.write_text("new")
    assert output.read_text() == "new"
    with staged_output([output], overwrite=True) as (a,):
        a.mkdir()
        (a / "day_0").write_text("newer")
    assert names(output) == ["day_0"]
    assert names(tmp_path) == ["a"]


def test_overwrite_spares_a_folder_that_holds_other_files(tmp_path):
    output = tmp_path / "a"
    output.mkdir()
    (output / "day_0").write_text("old")
    (output / "thesis.txt").write_text("old")
    with pytest.raises(OutputError, match=r"holds thesis\.txt"), staged_output([output], overwrite=True):
        pass
    assert names(output) == ["day_0", "thesis.txt"]


def test_a_missing_folder_and_one_that_is_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, reason in (("missing", "does not exist; create it first"), ("file", "is not a folder")):
        with (
            pytest.raises(OutputError, match=f"{folder} {reason}"),
            staged_output([tmp_path / folder / "a"], overwrite=False),
        ):
            pass


def test_a_folder_that_was_set_aside_returns_when_nothing_takes_its_place(tmp_path):
    output = tmp_path / "a"
    output.mkdir()
    (output / "day_0").write_text("old")
    with pytest.raises(OutputError), staged_output([output], overwrite=True):
        pass  # nothing was written, so there is nothing to move
    assert (output / "day_0").read_text() == "old"
    assert names(tmp_path) == ["a"]
