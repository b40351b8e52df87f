"""From what the user names, files, folders and patterns, to the list of files to read."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from cupyrec.argument_kinds import PATH, check_kind, check_paths
from cupyrec.errors import ConfigError, DataError

# What a folder is searched for, each also with .gz or .zst. Not .csv: the format has tabs.
FOLDER_PATTERN = re.compile(r"(day_.*|.*\.(tsv|txt))(\.gz|\.zst)?")
# And where there are none of these, by those who can read tables.
TABLE_PATTERN = re.compile(r"[^.].*\.(parquet|arrow|feather|ipc)")
COMPRESSED_TABLE_PATTERN = re.compile(TABLE_PATTERN.pattern + r"\.(gz|zst)")
# Of folders in a folder that has no input files, so many files and folders are looked at for some.
MOST_LOOKED_AT = 10_000

CSV_ADVICE = "CSV is not read: make Parquet of it, as pandas.read_csv(...).to_parquet(...) does, and prepare that"


def find_input_files(paths: str | Path | Sequence[str | Path], *, tables: bool = False) -> tuple[Path, ...]:
    """The files that `paths` name, each as the user would name it.

    A file stands for itself; a folder for the files in it called day_*, *.tsv or *.txt, each also with .gz or
    .zst; a pattern with *, ? or [ for the files that match. Several are taken in the order given; within a
    folder or a pattern names are ordered as people count, day_2 before day_10.

    tables: Parquet and Arrow files may be named too, and a folder that has none of the others stands for these.

    Raises DataError for a missing or empty file and for a folder or pattern without matches, ConfigError
    when no path or one file twice is given.
    """
    check_kind(PATH | Iterable, "a path or several", paths=paths)
    named = [paths] if isinstance(paths, PATH) else list(paths)
    for path in named:
        check_paths(path=path)
    if not named:
        raise ConfigError("no input file is given; name files, a folder or a pattern such as 'day_*'")
    files = tuple(file for path in named for file in _expand(path, tables))
    seen = set()
    for file in files:
        if not tables and TABLE_PATTERN.fullmatch(file.name):
            raise DataError("a table; make prepared data of it with `cupyrec prepare`", path=file)
        if COMPRESSED_TABLE_PATTERN.fullmatch(file.name):
            raise DataError("a table that is compressed from outside cannot be read; decompress it", path=file)
        if file.stat().st_size == 0:
            raise DataError("the file is empty", path=file)
        if (place := file.resolve()) in seen:
            raise ConfigError(f"the input file {file} is given twice; name it once")
        seen.add(place)
    return files


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """A sorting key that compares digits as numbers: day_2 comes before day_10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _expand(named: str | Path, tables: bool) -> list[Path]:
    if not str(named):
        raise DataError("an empty path; name a file, a folder or a pattern")
    path = Path(named)
    try:
        if path.is_file():
            return [path]
        if path.is_dir():
            there = [file for file in path.iterdir() if file.is_file()]
            found = [file for file in there if FOLDER_PATTERN.fullmatch(file.name)]
            wanted = "files called day_*, *.tsv or *.txt, plain or with .gz or .zst"
            if tables and not found:
                found = [file for file in there if TABLE_PATTERN.fullmatch(file.name)]
                wanted += ", nor Parquet or Arrow files"
            if not found:
                wanted += _hint(path, [file.name for file in there])
        elif path.exists():
            raise DataError(
                "not a regular file, and input is opened more than once: save it to a file first", path=path
            )
        elif glob.has_magic(str(path)):
            found = [Path(file) for file in glob.glob(str(path), recursive=True)]
            wanted = "files that match this pattern"
        else:
            raise DataError("no such file", path=path)
        files = sorted((file for file in found if file.is_file()), key=natural_order)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", path=path) from None
    if not files:
        raise DataError(f"there are no {wanted}", path=path)
    return files


def _hint(folder: Path, names: Sequence[str]) -> str:
    """What may have been meant: other files in a folder, whose names are given, or folders in it. Raises OSError."""
    if any(map(TABLE_PATTERN.fullmatch, names)):
        return ", but tables; make prepared data of them with `cupyrec prepare`"
    if any(name.lower().endswith(".csv") for name in names):
        return f"; {CSV_ADVICE}"
    for file in islice(folder.rglob("*"), MOST_LOOKED_AT):
        if (FOLDER_PATTERN.fullmatch(file.name) or TABLE_PATTERN.fullmatch(file.name)) and file.is_file():
            folders = "*/" * (len(file.relative_to(folder).parts) - 1)
            name = "day_*" if file.name.startswith("day_") else f"*{_ending(file.name)}"
            return f"; folders in it are not searched: name {shlex.quote(str(folder / (folders + name)))}"
    return ""


def _ending(name: str) -> str:
    """Of a name that one of the patterns matches."""
    match = re.search(r"\.\w+(\.gz|\.zst)?$", name)
    return match[0] if match else ""
