"""The `cupyrec` command. Each subcommand is a module of this folder, imported when it is called."""

from __future__ import annotations

import importlib
import sys

import click

from cupyrec.errors import CupyrecError

# name: one line for the overview; the module and its function are called the same.
COMMANDS = {
    "train": "Train a DLRM on Criteo files.",
    "evaluate": "Evaluate a trained model on Criteo files.",
    "generate": "Write Criteo-format data of any size from a known model.",
}


class LazyGroup(click.Group):
    """Knows its subcommands by name and imports one only when it runs, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"cupyrec.cli.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cupyrec")
def cupyrec() -> None:
    """Train recommendation models whose embedding tables are larger than GPU memory."""


def main() -> None:
    """Run the command; an error that cupyrec raises on purpose becomes one line and an exit code."""
    try:
        cupyrec()
    except CupyrecError as error:
        click.echo(f"cupyrec: error: {error}", err=True)
        sys.exit(error.exit_code)
