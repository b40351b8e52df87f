"""Small Criteo files on which a model can learn: the label follows from the first category alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

# Trains in a fraction of a second, at the full learning rate from the first step on.
TINY_MODEL = ["--bottom-mlp=8-4", "--dimension=4", "--top-mlp=8-1", "--hash-rows=50", "--warmup-steps=0"]


def learnable_row(number: int, *, seed: int = 0) -> list[str]:
    """The 40 cells of a row; odd values of the first category are clicks."""
    random = np.random.default_rng([seed, number])
    categories = random.integers(0, 20, 26)
    return [
        str(categories[0] % 2),
        *(str(value) for value in random.integers(0, 10, 13)),
        *(f"{value:08x}" for value in categories),
    ]


def learnable_text(rows: int, *, first: int = 0) -> str:
    """Rows first .. first + rows - 1, as lines."""
    return "".join("\t".join(learnable_row(number)) + "\n" for number in range(first, first + rows))


def write_learnable(path: Path, rows: int, *, first: int = 0) -> Path:
    path.write_text(learnable_text(rows, first=first), encoding="ascii")
    return path


def with_cell(text: str, line: int, column: int, cell: str) -> str:
    """The text with one cell replaced; line and column are 1-based."""
    lines = text.splitlines(keepends=True)
    cells = lines[line - 1].rstrip("\n").split("\t")
    cells[column - 1] = cell
    lines[line - 1] = "\t".join(cells) + "\n"
    return "".join(lines)


def files_in(folder: Path) -> list[str]:
    """Everything below a folder, folders included, relative to it; without the locks, which stay."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock")
