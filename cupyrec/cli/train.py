"""`cupyrec train`: every field of RunConfig is an option here and a key of the TOML file."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from cupyrec.cli import exit_stopped, say
from cupyrec.cli.report import describe_run
from cupyrec.option_values import option_name
from cupyrec.run_config import RunConfig, read_config_file


def _options(command: Any) -> Any:
    """Add an option for each field of RunConfig but the paths, which are arguments."""
    for each in reversed([each for each in dataclasses.fields(RunConfig) if each.name != "paths"]):
        name, is_flag = option_name(each.name), isinstance(each.default, bool)
        command = click.option(
            f"--{name}/--no-{name}" if is_flag else f"--{name}",
            each.name,
            is_flag=is_flag,
            multiple=each.name == "valid",
            default=None,
            metavar=each.metadata["metavar"],
            help=each.metadata["help"] + _shown_default(each.default),
        )(command)
    return command


def _shown_default(default: Any) -> str:
    if default is None or default == () or isinstance(default, bool):
        return ""
    shown = "-".join(map(str, default)) if isinstance(default, tuple) else f"{default}"
    return f"  [default: {shown}]"


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option(
    "--config", "config_file", metavar="FILE", help="TOML file with any of these options; the command line wins."
)
@_options
def train(paths: tuple[str, ...], config_file: str | None, **options: Any) -> None:
    """Train a DLRM.

    PATH is prepared data, a folder or a split file such as kaggle/train.json; or Criteo files, plain, .gz or .zst: one,
    several, a folder or a glob such as 'day_*'.
    """
    values: dict[str, Any] = {}
    if config_file is not None:
        in_file = read_config_file(config_file)
        from_file = RunConfig.from_values(in_file, source=config_file)
        # Those that stand there, and no defaults: --resume takes the others from the checkpoint.
        names = [name.replace("-", "_") for name in in_file]
        values = {name: getattr(from_file, name) for name in names}
        if options["output"] not in (None, from_file.output):
            values.pop("bad_rows", None)  # they are of the run in the other folder
    values |= {name: value for name, value in options.items() if value not in (None, ())}
    if paths:
        values["paths"] = paths
    config = RunConfig.from_values(values)

    # Here and not above: these load Numba and pyarrow, which `--help` and wrong options need not wait for.
    from cupyrec.runs.interrupt import StopOnInterrupt

    # Within compiled code that is being loaded, Ctrl-C would be reported and forgotten.
    with StopOnInterrupt(on_terminate=False) as stop:
        from cupyrec.runs.initial_weights import options_to_begin
        from cupyrec.runs.progress import open_progress
        from cupyrec.runs.resume import options_to_resume
        from cupyrec.runs.run import run_training
    if stop():
        raise KeyboardInterrupt

    resumed = options_to_resume(config, values) if config.resumes else None
    config = RunConfig.from_values(resumed or options_to_begin(config, values))

    progress = open_progress()
    try:
        report = run_training(config, say=say, progress=progress, config_file=config_file)
    finally:
        progress.close()
    for line in describe_run(report):
        say(line)
    if report.trace_error is not None:
        raise report.trace_error
    if report.result.interrupted:
        exit_stopped(report.stopped_by)
