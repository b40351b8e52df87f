"""`cupyrec prepare`: turn raw files into data that are read at the speed of memory."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cupyrec.byte_sizes import format_bytes, parse_bytes
from cupyrec.cli import exit_stopped, say
from cupyrec.cli.data_options import bad_row_options
from cupyrec.cli.prepare_progress import PrepareProgress
from cupyrec.cli.whole_number import WholeNumber
from cupyrec.counted import counted
from cupyrec.errors import ConfigError
from cupyrec.option_values import whole_number
from cupyrec.runs.interrupt import StopOnInterrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cupyrec.datasets.prepared.manifest import Manifest
    from cupyrec.datasets.preparing.job import Prepared

# As in cupyrec.datasets.preparing; said again here so that `--help` need not load Numba and pyarrow.
IDS = ("frequency", "first", "hash")
TRANSFORMS = ("dlrm", "torchrec", "nvidia", "none")


def _numbers(_context: Any, _parameter: Any, value: str | None) -> int | list[int] | None:
    if value is None:
        return None
    try:
        numbers = [whole_number(1)(part) for part in value.split(",")]
    except ValueError as error:
        raise ConfigError(f"--hash-rows must be {error}, or several with commas, but is {value!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _names(_context: Any, parameter: click.Parameter, value: str | None) -> list[str] | None:
    names = None if value is None else [name.strip() for name in value.split(",")]
    if names is not None and not all(names):
        raise ConfigError(f"{parameter.opts[0]} must be names with commas between them, but is {value!r}")
    return names


# Of the tables, the largest, in the summary; and the columns that have lost most.
NAMED_TABLES = NAMED_COLUMNS = 6


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--output", required=True, metavar="DIR", help="Folder to write; new, empty, or with what was begun there."
)
@click.option(
    "--ids",
    type=click.Choice(IDS),
    help="How values become ids: in order of falling frequency, of first appearance, or by --hash-rows.  "
    "[default: frequency]",
)
@click.option(
    "--hash-rows",
    callback=_numbers,
    metavar="ROWS",
    help="No vocabularies: an id is its value modulo the rows of its table; one number, or one for each column.",
)
@click.option(
    "--min-count",
    type=WholeNumber(),
    metavar="COUNT",
    help="Values that appear less often get the id 0, that of unknown values.  [default: 1, or with --grow, where new "
    "values alone are meant, that of the data of --vocabulary]",
)
@click.option(
    "--modulo",
    type=WholeNumber(),
    metavar="NUMBER",
    help="Take each value modulo this first, which bounds the vocabularies; --max-ind-range of the DLRM reference.",
)
@click.option(
    "--vocabulary",
    metavar="DIR",
    help="Prepared data whose ids and dense transform are used, unknown values getting the id 0: for test data.",
)
@click.option(
    "--grow",
    is_flag=True,
    help="With --vocabulary: values that it does not know get new ids after its own, for training that goes on.",
)
@click.option(
    "--dense-transform",
    type=click.Choice(TRANSFORMS),
    help="What becomes of dense features x: log(max(x, 0) + 1) as in the DLRM reference, log(x + 3) as in torchrec or "
    "(other where x is missing) in NVIDIA's example, or x.  [default: dlrm]",
)
@click.option(
    "--no-labels",
    is_flag=True,
    help="There are none: text has the other 39 columns, tables no label. Such data can be predicted, and no more.",
)
@click.option("--label", metavar="COLUMN", help="Tables: the column of the label.")
@click.option("--dense-columns", callback=_names, metavar="COLUMNS", help="Tables: the dense features, with commas.")
@click.option("--category-columns", callback=_names, metavar="COLUMNS", help="Tables: the categories, with commas.")
@bad_row_options(default=None)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Most that rows on their way and vocabularies may take, such as 8GB.  [default: a quarter of what is free]",
)
@click.option("--threads", type=WholeNumber(), metavar="COUNT", help="Threads at work.  [default: all cores]")
@click.option("--overwrite", is_flag=True, help="Replace prepared data, or what was begun, in DIR.")
def prepare(paths: tuple[str, ...], output: str, memory: str | None, **options: Any) -> None:
    """Turn raw files into data that are read at the speed of memory.

    PATH: Criteo files, plain, .gz or .zst; or tables, .parquet, .arrow, .feather or .ipc. One, several, a folder or a
    glob such as 'day_*'. A command that was stopped, or killed, goes on where it was when it is run again.
    """
    if options["bad_rows"] is not None and options["on_bad_row"] != "skip":
        click.echo("without effect: --bad-rows (needs --on-bad-row skip)", err=True)
    memory_bytes = None if memory is None else parse_bytes(memory)
    started = time.monotonic()
    # Within compiled code that is being loaded, a signal would be reported and forgotten.
    with StopOnInterrupt() as stop:
        from cupyrec.datasets.preparing.job import Stopped
        from cupyrec.datasets.preparing.job import prepare as prepare_data
        from cupyrec.datasets.preparing.lost_negatives import lost_negatives
        from cupyrec.datasets.preparing.prepare_options import PrepareOptions

        settings = PrepareOptions(paths, output, memory_bytes=memory_bytes, **options)
        try:
            with PrepareProgress() as progress:
                prepared = prepare_data(
                    settings, on_progress=progress.show, on_rebuild=progress.show_rebuild, stop=stop
                )
        except Stopped:
            click.echo("cupyrec: stopped; the same command goes on where it was", err=True)
            exit_stopped(stop.signal)
    for line in _summary(prepared, time.monotonic() - started):
        say(line)
    if prepared.new_values is not None:
        say(_new_values(prepared, prepared.new_values, options["vocabulary"]))
    for line in _warnings(prepared.manifest, lost_negatives(prepared.manifest), options["vocabulary"]):
        say(line)


def _summary(prepared: Prepared, seconds: float) -> list[str]:
    manifest = prepared.manifest
    bad_rows = f", {counted(prepared.bad_rows, 'bad row')}" if prepared.bad_rows else ""
    bad_rows += f" in {prepared.bad_rows_path}" if prepared.bad_rows_path else ""
    labels = "" if manifest.labels else " without labels"
    rows = f"{counted(manifest.samples, 'row')}{labels} of {counted(len(manifest.inputs), 'file')}{bad_rows}"
    largest = sorted(manifest.categories, key=lambda category: -category.rows)[:NAMED_TABLES]
    tables = ", ".join(f"{category.name} {category.rows:,}" for category in largest)
    if len(manifest.categories) > len(largest):
        tables += ", ..."
    size = f"{format_bytes(prepared.size_bytes)} in {counted(len(manifest.shards), 'shard')}"
    lines = [
        f"{prepared.folder}: {rows}",
        f"{size}, {prepared.size_bytes / manifest.samples:.0f} bytes a row",
        f"{counted(len(manifest.categories), 'table')} with {counted(sum(manifest.table_rows), 'row')}: {tables}",
    ]
    if not prepared.worked:
        return [*lines, "all was there already; nothing has changed"]
    peak = _peak_memory_bytes()
    memory = f", peak memory {format_bytes(peak)}" if peak is not None else ""
    rows_read = counted(prepared.rows_read, "row")
    return [
        *lines,
        f"{rows_read} read in {seconds:.1f} s, {prepared.rows_read / seconds:,.0f} rows/s{memory}"
        if prepared.rows_read
        else f"finished in {seconds:.1f} s{memory}",
    ]


def _new_values(prepared: Prepared, new_values: Sequence[int], vocabulary: str) -> str:
    """What the tables have grown by."""
    what = "new values" if prepared.min_count == 1 else f"new values that appear at least {prepared.min_count:,} times"
    names = (category.name for category in prepared.manifest.categories)
    counts = {name: count for name, count in zip(names, new_values, strict=True) if count}
    if not counts:
        return f"no {what}" + (f": all have an id in {vocabulary}" if prepared.min_count == 1 else "")
    return f"{what}: {''.join(_largest(counts, '{:,}'.format))}"


def _warnings(manifest: Manifest, lost: dict[str, float], vocabulary: str | None) -> Iterator[str]:
    """What the data lack: values in the vocabulary, labels of both kinds, and negative values; see lost_negatives."""
    if manifest.unknown is not None:
        names = (category.name for category in manifest.categories)
        unknown = {name: share for name, share in zip(names, manifest.unknown, strict=True) if share > 0}
        yield (
            f"without an id in {vocabulary}: {_shares(unknown, 'values')}"
            if unknown
            else (f"all values have an id in {vocabulary}")
        )
    if manifest.positives in (0, manifest.samples):
        yield f"warning: all labels are {int(manifest.positives > 0)}: from such data nothing can be learned"
    if lost:
        which = "give" if vocabulary is None else f"prepare this and {vocabulary} with"
        yield (
            f"negative values count as 0 under --dense-transform {manifest.dense_transform}: {_shares(lost, 'rows')}; "
            f"for columns that are scaled already {which} --dense-transform none"
        )


def _shares(shares: dict[str, float], what: str) -> str:
    largest, more = _largest(shares, lambda share: "<0.01%" if 0 < share < 0.0001 else f"{share:.2%}")
    return f"{largest} of the {what}{more}"


def _largest(numbers: Mapping[str, float], shown: Callable[[float], str]) -> tuple[str, str]:
    """The largest ones, by name, and what follows them where there are more."""
    largest = sorted(numbers, key=lambda name: -numbers[name])
    text = ", ".join(f"{name} {shown(numbers[name])}" for name in largest[:NAMED_COLUMNS])
    return text, ", ..." * (len(largest) > NAMED_COLUMNS)


def _peak_memory_bytes() -> int | None:
    """The most memory that this process has used; None where the system does not say."""
    with contextlib.suppress(OSError):
        match = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
        return int(match[1]) * 1024 if match else None
    return None
