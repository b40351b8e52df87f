from pathlib import Path

import pytest

from cupyrec.datasets.input_files import find_input_files, natural_order
from cupyrec.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("day_10", "day_2.gz", "day_0", "x.tsv", "b.txt.zst", "notes.csv", "readme.md", "old.bak"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "day_3").mkdir()
    return tmp_path


def names(files):
    return [file.name for file in files]


def test_a_folder_gives_its_data_files_as_people_count(folder):
    assert names(find_input_files(folder)) == ["b.txt.zst", "day_0", "day_2.gz", "day_10", "x.tsv"]


def test_a_pattern_is_expanded_as_people_count_and_without_folders(folder):
    assert names(find_input_files(str(folder / "day_*"))) == ["day_0", "day_2.gz", "day_10"]
    assert names(find_input_files(folder / "**" / "[xb]*")) == ["b.txt.zst", "x.tsv"]


def test_several_are_taken_in_the_order_given(folder):
    assert names(find_input_files([folder / "x.tsv", str(folder / "day_1*"), folder / "day_0"])) == [
        "x.tsv",
        "day_10",
        "day_0",
    ]


def test_a_file_may_have_any_name_even_that_of_a_pattern(tmp_path):
    (tmp_path / "a[1]*").write_bytes(b"x")
    assert find_input_files(tmp_path / "a[1]*") == (tmp_path / "a[1]*",)


def test_natural_order_compares_numbers_before_letters():
    ordered = ["10", "day_2", "day_2.gz", "day_10", "day_10a2", "day_10a10", "day_x"]
    assert sorted(map(Path, reversed(ordered)), key=natural_order) == [Path(name) for name in ordered]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "no such file"),
        ("missing*", "there are no files that match this pattern"),
        ("day_3", "there are no files called day_"),
        ("empty", "the file is empty"),
    ],
)
def test_what_cannot_be_found_is_said_with_its_name(folder, name, reason):
    (folder / "empty").touch()
    with pytest.raises(DataError, match=reason) as raised:
        find_input_files(folder / name)
    assert raised.value.path == folder / name


@pytest.mark.parametrize("tables", [False, True])
@pytest.mark.parametrize(
    ("name", "pattern"), [("day=1/day_0.gz", "*/day_*"), ("a/b/c.tsv.gz", "*/*/*.tsv.gz"), ("day_0/d.txt", "*/*.txt")]
)
def test_files_in_folders_of_a_folder_are_named(tmp_path, name, pattern, tables):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="there are no files called") as raised:
        find_input_files(tmp_path, tables=tables)
    assert raised.value.reason.endswith(f"; folders in it are not searched: name '{tmp_path}/{pattern}'")
    assert len(find_input_files(tmp_path / pattern)) == 1


def test_tables_in_folders_of_a_folder_are_named(tmp_path):
    (tmp_path / "day_1").mkdir()  # its name is one that files of a folder have
    (tmp_path / "day_1" / "part-0.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match=r"nor Parquet or Arrow files; folders .* name '.*/\*/\*\.parquet'"):
        find_input_files(tmp_path, tables=True)
    with pytest.raises(DataError, match=r"or \.zst; folders in it are not searched: name '.*/\*/\*\.parquet'"):
        find_input_files(tmp_path)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "a.arrow").write_bytes(b"x")
    assert names(find_input_files(tmp_path, tables=True)) == ["a.arrow"]
    with pytest.raises(DataError, match=r"but tables; make prepared data of them with `cupyrec prepare`"):
        find_input_files(tmp_path)


def test_csv_in_a_folder_is_not_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x")
    with pytest.raises(DataError, match="CSV is not read: make Parquet of it"):
        find_input_files(tmp_path)


@pytest.mark.parametrize("tables", [False, True])
def test_a_table_that_is_compressed_from_outside_is_refused(tmp_path, tables):
    (tmp_path / "d.parquet.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="a table that is compressed from outside cannot be read; decompress it"):
        find_input_files(tmp_path / "d.parquet.gz", tables=tables)


def test_a_device_is_refused():
    with pytest.raises(DataError, match=r"/dev/null: not a regular file.*: save it to a file first"):
        find_input_files("/dev/null")


def test_no_input_and_input_given_twice_are_refused(folder):
    with pytest.raises(ConfigError, match="no input file"):
        find_input_files([])
    with pytest.raises(ConfigError, match="day_0 is given twice"):
        find_input_files([folder / "day_*", folder / "day_3" / ".." / "day_0"])


def test_an_empty_path_is_not_the_working_folder():
    with pytest.raises(DataError, match="an empty path"):
        find_input_files("")
