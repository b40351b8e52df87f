"""Write outputs beside their place and move them there when all is well."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cupyrec.datasets.durable_files import sync_file, sync_folder
from cupyrec.errors import OutputError

# What a folder may hold and still be replaced: the files of an earlier run, so that nothing else is lost.
REPLACEABLE = re.compile(r"day_\d+(\.gz|\.zst)?")


@contextlib.contextmanager
def staged_output(outputs: Sequence[Path], *, overwrite: bool) -> Iterator[list[Path]]:
    """Give a path to write for each of `outputs`, and move what was written into place at the end.

    outputs:   files or folders, all in one folder, which must exist.
    overwrite: replace outputs that exist. A folder is replaced only when it holds nothing but day files.

    When the block raises or is interrupted, all that was written is deleted and the outputs stay as they were.
    Raises OutputError for outputs that exist or cannot be written, also for an OSError within the block.
    """
    folder = outputs[0].parent
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist; create it first"
        raise OutputError(f"cannot write {outputs[0]}: {folder} {reason}")
    for output in outputs:
        _check_free(output, overwrite=overwrite)
    try:
        stage = Path(tempfile.mkdtemp(prefix=f".{outputs[0].name}.", suffix=".partial", dir=folder))
    except OSError as error:
        raise OutputError(f"cannot write {outputs[0]}: {error.strerror}") from error
    try:
        staged = [stage / output.name for output in outputs]
        yield staged
        for source in staged:
            _sync(source)
        for source, output in zip(staged, outputs, strict=True):
            _move(source, output, aside=stage / f"replaced.{output.name}")
        sync_folder(folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {outputs[0]}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _sync(output: Path) -> None:
    """Return when a file, or a folder of files, is on the disk. Raises OSError."""
    if output.is_dir():
        for file in output.iterdir():
            sync_file(file)
        sync_folder(output)
    else:
        sync_file(output)


def _move(source: Path, output: Path, *, aside: Path) -> None:
    # A file replaces a file at once. Where a folder takes part, the old output is set aside first.
    if not output.exists() or not (source.is_dir() or output.is_dir()):
        source.replace(output)
        return
    output.rename(aside)
    try:
        source.rename(output)
    except OSError:
        aside.rename(output)
        raise


def _check_free(output: Path, *, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise OutputError(f"{output} exists; give another name, or --overwrite to replace it")
    if output.is_dir():
        others = sorted(file.name for file in output.iterdir() if not REPLACEABLE.fullmatch(file.name))
        if others:
            raise OutputError(f"{output} holds {others[0]}, not only day files, and is not replaced")
