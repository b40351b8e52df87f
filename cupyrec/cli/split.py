"""`cupyrec split`: divide prepared data into training, validation and test data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cupyrec.cli import say
from cupyrec.counted import counted
from cupyrec.errors import ConfigError

if TYPE_CHECKING:
    from cupyrec.datasets.prepared.manifest import Manifest
    from cupyrec.datasets.prepared.splits import Range


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--kaggle", is_flag=True, help="Of seven equal days the first six train; half of the last tests, half validates."
)
@click.option(
    "--terabyte", is_flag=True, help="All input files but the last train; half of that tests, half validates."
)
@click.option(
    "--shares", metavar="TRAIN,VALID,TEST", help="Shares of the samples, one part after the other: 0.8,0.1,0.1."
)
@click.option("--days", metavar="TRAIN,VALID,TEST", help="Numbers of input files, one part after the other: 22,1,1.")
@click.option("--overwrite", is_flag=True, help="Replace another split.")
def split(folder: Path, kaggle: bool, terabyte: bool, shares: str | None, days: str | None, overwrite: bool) -> None:
    """Divide the prepared data in DIR into training, validation and test data.

    Writes train.json, valid.json and test.json into DIR, which `cupyrec train` and the other commands take in place of
    DIR. The data are not copied. --kaggle and --terabyte divide the Criteo sets as the DLRM reference does.
    """
    from cupyrec.datasets.prepared.manifest import read_manifest
    from cupyrec.datasets.prepared.splits import write_splits

    chosen = {"kaggle": kaggle, "terabyte": terabyte, "shares": shares is not None, "days": days is not None}
    if sum(chosen.values()) != 1:
        raise ConfigError("say how to split by one of --kaggle, --terabyte, --shares and --days")
    if folder.is_file():
        raise ConfigError(f"{folder}: a file; name the folder of the prepared data")
    content = read_manifest(folder)
    (how,) = (name for name, is_chosen in chosen.items() if is_chosen)
    parts = _parts(content, how, shares or days or "")
    splits = write_splits(folder, content, " ".join(filter(None, (how, shares or days))), parts, overwrite=overwrite)
    for path, each in splits.items():
        say(f"{path}: {counted(each.samples, 'sample')}, {each.samples / content.samples:.1%}")
    train, valid = (shlex.quote(str(path)) for path in list(splits)[:2])
    say(f"next: cupyrec train {train} --valid {valid} --shuffle")


def _parts(content: Manifest, how: str, numbers: str) -> dict[str, Range]:
    """Raises ConfigError."""
    from cupyrec.datasets.prepared import splits

    if how == "kaggle":
        return splits.kaggle(content.samples)
    if how == "terabyte":
        return splits.terabyte(content.inputs)
    convert = float if how == "shares" else int
    try:
        values = [convert(number) for number in numbers.split(",")]
    except ValueError:
        raise ConfigError(f"--{how} must be three numbers with commas between them, but is {numbers!r}") from None
    if how == "shares":
        return splits.by_share(content.samples, values)
    return splits.by_day(content.inputs, [int(value) for value in values])
