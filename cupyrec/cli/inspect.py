"""`cupyrec inspect`: what a path holds."""

from __future__ import annotations

import json

import click

from cupyrec.cli import say


@click.command()
@click.argument("path", metavar="PATH")
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known as one line of JSON.")
@click.option("--verify", is_flag=True, help="Read everything; compare checksums, and see that weights are finite.")
def inspect(path: str, as_json: bool, verify: bool) -> None:
    """Say what PATH holds, in one screen.

    PATH is the output folder of a run, a trained model, an exported model, a checkpoint or a folder of them, a folder
    of prepared data, or a split file. With --verify the first damage that is found ends it with exit code 2.
    """
    import contextlib

    from cupyrec.cli.inspection_report import describe_inspection
    from cupyrec.cli.share_progress import ShareProgress
    from cupyrec.inspection.inspection import inspect_path

    with ShareProgress() if verify else contextlib.nullcontext() as progress:
        facts = inspect_path(path, verify=verify, on_progress=progress.show if progress else None)
    if as_json:
        say(json.dumps(facts))
        return
    for line in describe_inspection(facts):
        say(line)
