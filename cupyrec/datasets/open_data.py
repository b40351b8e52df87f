"""What the user names as data, whichever kind it is: raw Criteo files, prepared data or a split of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.input_files import find_input_files
from cupyrec.datasets.prepared.manifest import MANIFEST_FILE, PREPARATION_FILE
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.splits import SPLIT_SUFFIX
from cupyrec.errors import ConfigError


def is_prepared(paths: str | Path | Sequence[str | Path]) -> bool:
    """Whether the paths are prepared data: one folder that holds prepared.json, or one split file.

    Raises ConfigError where prepared data are named together with anything else.
    """
    named = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    prepared = [
        path
        for path in named
        if path.suffix == SPLIT_SUFFIX or (path / MANIFEST_FILE).exists() or (path / PREPARATION_FILE).exists()
    ]
    if prepared and len(named) > 1:
        raise ConfigError(
            f"{prepared[0]}: prepared data stand alone, but {len(named)} paths are given; name one folder or split file"
        )
    return bool(prepared)


def open_data(
    paths: str | Path | Sequence[str | Path],
    *,
    hash_rows: int | Sequence[int] = 100_000,
    on_bad_row: Literal["error", "skip"] = "error",
    bad_rows_path: str | Path | None = None,
    labels: bool = True,
    shuffle: bool = False,
    shuffle_window: int = 2**18,
    seed: int = 1,
) -> CriteoFiles | PreparedData:
    """Open data for training or prediction; both kinds have table_rows, dense_features, files, encoding, labelled and
    batches.

    hash_rows, on_bad_row, bad_rows_path, labels: for raw files, see CriteoFiles; prepared data have tables of their
    own, no bad rows, and know whether they have labels. shuffle, shuffle_window, seed: for prepared data, see
    PreparedData; raw files have but one order.
    Raises ConfigError, DataError.
    """
    if is_prepared(paths):
        path = Path(paths if isinstance(paths, (str, Path)) else paths[0])
        return PreparedData(path, shuffle=shuffle, shuffle_window=shuffle_window, seed=seed)
    if shuffle:
        raise ConfigError("raw files cannot be shuffled; make prepared data of them with `cupyrec prepare`")
    return CriteoFiles(paths, hash_rows=hash_rows, on_bad_row=on_bad_row, bad_rows_path=bad_rows_path, labels=labels)


def data_files(paths: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """All files that are read where these are opened. Raises ConfigError, DataError."""
    if is_prepared(paths):
        return PreparedData(paths if isinstance(paths, (str, Path)) else paths[0]).files
    return find_input_files(paths)
