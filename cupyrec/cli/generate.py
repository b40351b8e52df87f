"""`cupyrec generate`: write Criteo-format data of any size from a known model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cupyrec import __version__
from cupyrec.cli import say
from cupyrec.cli.share_progress import ShareProgress
from cupyrec.cli.whole_number import WholeNumber
from cupyrec.counted import counted
from cupyrec.datasets.staged_output import staged_output
from cupyrec.errors import ConfigError

if TYPE_CHECKING:
    from cupyrec.evaluation.metrics import MetricsResult

# As in cupyrec.datasets.planted_model and .synthetic; said again here so that `--help` need not load Numba.
DEFAULT_CATEGORIES = 10_000_000
COMPRESSIONS = ("gz", "zst")
# Of compressed files of other kinds, and of archives.
OTHER_COMPRESSIONS = ("bz2", "xz", "lzma", "lz4", "br", "z", "zip", "7z", "rar", "tgz", "zlib", "snappy", "sz")


@click.command()
@click.option("--rows", type=WholeNumber(), required=True, help="How many rows to write in all.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write; one that ends with .gz or .zst is compressed. With --files, the folder to write.",
)
@click.option(
    "--seed", type=WholeNumber(0), default=1, show_default=True, help="Another seed is another model and other rows."
)
@click.option(
    "--files", type=WholeNumber(), default=1, show_default=True, help="More than 1 writes a folder of day_0, day_1, ..."
)
@click.option("--compress", type=click.Choice(COMPRESSIONS), help="Compress the files of a folder (with --files).")
@click.option(
    "--categories",
    type=WholeNumber(),
    default=DEFAULT_CATEGORIES,
    show_default=True,
    help="Values of the largest category column; the other large ones follow. A few thousand suit a small set.",
)
@click.option(
    "--skew",
    type=float,
    default=0.0,
    show_default=True,
    help="Added to the Zipf exponents of large columns, about 1.6: negative makes rare values more common.",
)
@click.option("--overwrite", is_flag=True, help="Replace output that exists.")
def generate(
    rows: int,
    output: Path,
    seed: int,
    files: int,
    compress: str | None,
    categories: int,
    skew: float,
    overwrite: bool,
) -> None:
    """Write Criteo-format data of any size from a known model.

    The same options give the same rows, and a smaller set is the beginning of a larger one. The log loss and
    AUC of the model that made the labels, the best that any learner can expect on these rows, are printed and
    written to a .json file beside the output.
    """
    from cupyrec.datasets.planted_model import PlantedModel
    from cupyrec.datasets.synthetic import write_blocks
    from cupyrec.evaluation.metrics import BinaryMetrics

    model = PlantedModel(seed, categories, skew)
    compression = _compression(output, files, compress)
    report_path = report_path_of(output)
    with (
        staged_output([output, report_path], overwrite=overwrite) as (staged_data, staged_report),
        BinaryMetrics() as metrics,
    ):
        written = 0
        with ShareProgress() as progress:
            for block in write_blocks(model, rows, staged_data, files=files, compression=compression):
                metrics.update(block.logits, block.labels)
                written += len(block.labels)
                progress.show(written / rows)
        result = metrics.result()
        report = {
            "cupyrec": __version__,
            "rows": rows,
            "files": files,
            **dataclasses.asdict(model),
            "planted": {"log_loss": result.log_loss, "auc": result.auc},
            "constant": {"log_loss": result.constant_log_loss, "base_rate": result.base_rate},
        }
        staged_report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _print_result(result, rows, output, report_path)


def report_path_of(output: Path) -> Path:
    """The .json file beside the output: its name without .gz or .zst, and without .tsv or .txt.

    Raises ConfigError for an output without a name of its own, such as `.`.
    """
    if output.name in ("", ".."):
        raise ConfigError(f"the output {output} has no name; give a file or folder to be made")
    name = output.name
    for suffixes in ((".gz", ".zst"), (".tsv", ".txt")):
        for suffix in suffixes:
            name = name.removesuffix(suffix)
    return output.with_name(f"{name or output.name}.json")


def _compression(output: Path, files: int, compress: str | None) -> str | None:
    ending = output.suffix.removeprefix(".")
    ending_compression = ending if ending in COMPRESSIONS else None
    if files > 1:
        if ending_compression:
            raise ConfigError(
                f"with --files, {output} is a folder; name it without .{ending} and add --compress {ending}"
            )
        return compress
    if ending.lower() in OTHER_COMPRESSIONS:
        raise ConfigError(f"{output}: .{ending} is not written; end it with .gz or .zst, or with .tsv for plain text")
    if compress not in (None, ending_compression):
        raise ConfigError(f"a single file that is to be compressed must end with .{compress}: {output}")
    return ending_compression


def _print_result(result: MetricsResult, rows: int, output: Path, report_path: Path) -> None:
    auc = "undefined, as the labels are all alike" if result.auc is None else f"{result.auc:.6f}"
    say(f"{counted(rows, 'row')} written to {output}, figures to {report_path}")
    say(f"planted model:       log loss {result.log_loss:.6f}, AUC {auc}")
    constant = "undefined" if result.constant_log_loss is None else f"{result.constant_log_loss:.6f}"
    say(f"constant prediction: log loss {constant}, base rate {result.base_rate:.6f}")
