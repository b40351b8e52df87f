"""The folder that a preparation writes to: what may be in it, and what of it is removed when.

preparation.json    what was asked for, from the beginning to the end and after it
.preparing/         the journal and all that is only needed on the way; gone at the end
shard-*.arrow, vocabulary/, bad_rows.tsv    the result
prepared.json       the manifest, written last: with it the data are finished

Splits of the data, which come later, belong to them: they are removed with them. All else is somebody else's.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from cupyrec.datasets.durable_files import (
    PARTIAL_SUFFIX,
    output_errors,
    remove_partials,
    sync_folder,
    write_durably,
)
from cupyrec.datasets.prepared.manifest import MANIFEST_FILE, PREPARATION_FILE
from cupyrec.datasets.prepared.splits import FORMAT as SPLIT_FORMAT
from cupyrec.datasets.prepared.splits import PARTS, SPLIT_SUFFIX
from cupyrec.datasets.preparing.journal import Journal, damaged
from cupyrec.errors import ConfigError, OutputError
from cupyrec.folder_lock import LOCK_FILE

FORMAT, FORMAT_VERSION = "cupyrec-preparation", 1
WORK_FOLDER = ".preparing"
JOURNAL_FILE = "journal.jsonl"
VOCABULARY_FOLDER = "vocabulary"
BAD_ROWS_FILE = "bad_rows.tsv"

_SHARD = re.compile(r"shard-\d{5,}\.arrow")
_OWN_NAMES = {PREPARATION_FILE, WORK_FOLDER, VOCABULARY_FOLDER, BAD_ROWS_FILE, MANIFEST_FILE, LOCK_FILE}
# What a process that was killed may have left unfinished.
_WRITTEN_NAMES = {PREPARATION_FILE, MANIFEST_FILE, *(f"{part}{SPLIT_SUFFIX}" for part in PARTS)}
_OWN_VOCABULARY = re.compile(r".*\.parquet|\..*\.parquet\.partial")
# No split of any data is longer; what is longer is not looked at.
_MOST_SPLIT_BYTES = 1 << 26


class OutputFolder:
    """A folder, locked by the caller, in one of three states: without anything, unfinished, finished."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work, self.vocabulary = path / WORK_FOLDER, path / VOCABULARY_FOLDER
        self.bad_rows, self.manifest = path / BAD_ROWS_FILE, path / MANIFEST_FILE
        self._preparation = path / PREPARATION_FILE

    @property
    def finished(self) -> bool:
        return self.manifest.exists()

    @property
    def begun(self) -> bool:
        """Whether a preparation is unfinished or finished here."""
        return self._preparation.exists() or self.finished

    def check_own(self, *, overwrite: bool) -> None:
        """Raise OutputError unless the folder is without content, or holds nothing but what cupyrec prepared."""
        with output_errors(self.path):
            names = {file.name for file in self.path.iterdir()} - {LOCK_FILE}
            foreign = sorted(name for name in names if name not in _OWN_NAMES and not self._is_own_file(name))
            if self.vocabulary.is_dir():
                vocabularies = sorted(file.name for file in self.vocabulary.iterdir())
                foreign += [name for name in vocabularies if not _OWN_VOCABULARY.fullmatch(name)]
        begun = self.begun
        # What is left of a start that was killed at once.
        if not begun and names <= {WORK_FOLDER, f".{PREPARATION_FILE}.partial"}:
            return
        if not begun:
            raise OutputError(
                f"{self.path}: holds {min(names)} and is not prepared data; choose an empty folder or a new one"
            )
        if overwrite and foreign:
            raise OutputError(f"{self.path}: holds {foreign[0]}, not only prepared data, and is not replaced")

    def begin(self, asked: dict[str, Any], *, overwrite: bool) -> Journal | None:
        """The journal to go on with, an empty one for a new preparation; None when all is finished already.

        asked: JSON that decides what the result is, of `options` and `inputs`. Raises ConfigError when another one is
        unfinished or finished here, DataError when what is here cannot be gone on with, OutputError.
        """
        self.check_own(overwrite=overwrite)
        if overwrite or not self._preparation.exists():
            if self.finished and not overwrite:
                raise OutputError(f"{self.path}: holds prepared data already; replace it with --overwrite")
            return self._start(asked)
        self._check_same(asked)
        with output_errors(self.path):
            for file in self.path.iterdir():
                if _is_own_partial(file.name):
                    file.unlink()
            if self.vocabulary.is_dir():
                for file in self.vocabulary.glob(f".*.parquet{PARTIAL_SUFFIX}"):
                    file.unlink()
            if self.work.is_dir():
                remove_partials(self.work)
            if self.finished:
                shutil.rmtree(self.work, ignore_errors=True)
                return None
        return Journal.resume(self.work / JOURNAL_FILE)

    def discard(self) -> None:
        """Remove a preparation that has nothing in its journal to go on with. Raises OutputError."""
        with output_errors(self.path):
            # preparation.json goes before the journal: what is left of either is free for another preparation.
            for file in self.path.iterdir():
                if self._is_own_file(file.name):
                    file.unlink()
            self.bad_rows.unlink(missing_ok=True)
            self._preparation.unlink(missing_ok=True)
            shutil.rmtree(self.work)

    def finish(self, manifest_text: str) -> None:
        """Write the manifest, with which the data are finished, and remove what was needed on the way."""
        write_durably(self.manifest, manifest_text.encode())
        with output_errors(self.path):
            shutil.rmtree(self.work)

    def _is_own_file(self, name: str) -> bool:
        """Whether it is a shard, a split, or what was left of one."""
        return bool(_SHARD.fullmatch(name)) or _is_own_partial(name) or _is_split(self.path / name)

    def _start(self, asked: dict[str, Any]) -> Journal:
        with output_errors(self.path):
            # The manifest and the journal go first and preparation.json last: so the folder is never taken for
            # finished, nor gone on with, nor taken for somebody else's.
            self.manifest.unlink(missing_ok=True)
            (self.work / JOURNAL_FILE).unlink(missing_ok=True)
            for file in self.path.iterdir():
                if self._is_own_file(file.name):
                    file.unlink()
            for folder in (self.vocabulary, self.work):
                if folder.exists():
                    shutil.rmtree(folder)
            self.bad_rows.unlink(missing_ok=True)
            self._preparation.unlink(missing_ok=True)
            self.work.mkdir()
            sync_folder(self.path)
        journal = Journal.start(self.work / JOURNAL_FILE)
        content = {"format": FORMAT, "version": FORMAT_VERSION, **asked}
        write_durably(self._preparation, (json.dumps(content, indent=2) + "\n").encode())
        return journal

    def _check_same(self, asked: dict[str, Any]) -> None:
        before = read_preparation(self.path)
        if before is None:
            raise damaged(self._preparation, "it is damaged")
        what = "prepared data" if self.finished else "an unfinished preparation"
        hint = "choose another --output, or replace it with --overwrite"
        old_options = before.get("options", {})
        # The vocabulary first, and whether it grows: others follow from them.
        for key in ("vocabulary", "grow", *asked["options"], *old_options):
            old, value = old_options.get(key), asked["options"].get(key)
            if old != value:
                raise ConfigError(f"{self.path}: holds {what} {_with_another(key, old, value)}; {hint}")
        if before != {"format": FORMAT, "version": FORMAT_VERSION, **asked}:
            raise ConfigError(f"{self.path}: holds {what} of {_difference(before, asked)}; {hint}")


def read_preparation(folder: Path) -> dict[str, Any] | None:
    """What prepared data were asked for; None when the folder does not say."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads((folder / PREPARATION_FILE).read_bytes())
        if isinstance(content, dict) and content.get("format") == FORMAT and content.get("version") == FORMAT_VERSION:
            return content
    return None


def _is_own_partial(name: str) -> bool:
    written = name[1 : -len(PARTIAL_SUFFIX)]
    return name == f".{written}{PARTIAL_SUFFIX}" and (written in _WRITTEN_NAMES or bool(_SHARD.fullmatch(written)))


def _is_split(path: Path) -> bool:
    """Whether it is a split, whole or of another version, whatever it is called. Raises OSError."""
    if path.suffix != SPLIT_SUFFIX or not path.is_file() or path.stat().st_size > _MOST_SPLIT_BYTES:
        return False
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == SPLIT_FORMAT


def _difference(before: dict[str, Any], asked: dict[str, Any]) -> str:
    """How the inputs differ."""
    old = {file["name"]: file for file in before.get("inputs", [])}
    for file in asked["inputs"]:
        if file["name"] not in old:
            return f"other files, without {file['name']}"
        if old[file["name"]] != file:
            return f"another {file['name']}, which has changed since"
    return "other files, or in another order"


def _with_another(key: str, old: Any, value: Any) -> str:
    """What was done otherwise. old, value: of an option, then and as it is asked for."""
    if key == "vocabulary" and value is None:
        return f"made with --vocabulary, of data with the encoding {old}"
    if key == "vocabulary" and old is None:
        return "made without --vocabulary"
    if key == "grow":
        return f"made {'with' if old else 'without'} --grow"
    return f"with {key.replace('_', ' ')} {_shown(old)}, not {_shown(value)}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
