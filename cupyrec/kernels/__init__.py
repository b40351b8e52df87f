"""CUDA sources, one operation a file."""

from __future__ import annotations

from pathlib import Path


def source_path(name: str) -> Path:
    """Where the source of a kernel file is: `init_rows` names init_rows.cu. Raises FileNotFoundError."""
    folder = Path(__file__).parent
    path = folder / f"{name}.cu"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in folder.glob("*.cu")))
        raise FileNotFoundError(f"no kernel file {name}.cu; there are: {known}")
    return path
