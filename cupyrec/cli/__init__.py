"""The `cupyrec` command. Each subcommand is a module of this folder, imported when it is called."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import keyword
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

import click

from cupyrec import __version__
from cupyrec.errors import CupyrecError, OutputError
from cupyrec.option_values import nearest_name

# What a shell adds to the number of the signal that ended a process.
SIGNAL_EXIT_CODE = 128

# name: one line for the overview; the module and its function are called the same, but for the words of Python.
COMMANDS = {
    "prepare": "Turn raw files into data that are read at the speed of memory.",
    "split": "Divide prepared data into training, validation and test data.",
    "train": "Train a DLRM on Criteo files or prepared data.",
    "evaluate": "Evaluate a trained model.",
    "predict": "Write the predictions of a trained model to a Parquet file.",
    "export": "Write a trained model with the names of the DLRM reference.",
    "import": "Make a model from weights with the names of the DLRM reference.",
    "inspect": "Say what a run, a model, a checkpoint or prepared data hold.",
    "advise": "Say how large a scratchpad Criteo files or prepared data need.",
    "generate": "Write Criteo-format data of any size from a known model.",
}


class LazyGroup(click.Group):
    """Knows its subcommands by name and imports one only when it runs, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = f"{name}_" if keyword.iskeyword(name) else name
        return getattr(importlib.import_module(f"cupyrec.cli.{module}"), module)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            ctx.fail(_no_such("command", args[0], nearest_name(args[0], COMMANDS)))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Training handles Ctrl-C by itself; this is the one that came at another time, or a second one.
            click.echo("cupyrec: interrupted", err=True)
            return ctx.exit(SIGNAL_EXIT_CODE + signal.SIGINT)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    no_args_is_help=False,
)
@click.version_option(__version__)
@click.pass_context
def cupyrec(ctx: click.Context) -> None:
    """Train recommendation models (DLRM): prepare data, train, evaluate, predict, and exchange weights."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit; whatever the user can set right becomes one line and an exit code.

    arguments: those of the process when None.
    """
    try:
        result = cupyrec.main(arguments, prog_name="cupyrec", standalone_mode=False)
    except click.ClickException as error:
        _fail(_describe(error), error.exit_code)
    except CupyrecError as error:
        _fail(str(error), error.exit_code)
    except MemoryError as error:
        _fail(f"out of memory: {error}" if str(error) else "out of memory", CupyrecError.exit_code)
    except OSError as error:
        # What reads and writes files says so itself; this is something like standard error on a full disk.
        reason = error.strerror or str(error)
        _fail(f"{error.filename}: {reason}" if error.filename else reason, CupyrecError.exit_code)
    # What ctx.exit was given, or what a command returned: nothing.
    _exit(result)


def exit_stopped(number: signal.Signals | None) -> NoReturn:
    """End a command that a signal stopped in order, with the code of a process that the signal ended: what comes after
    it in a script must not take half of the work for the whole. number: None for SIGINT.
    """
    sys.exit(SIGNAL_EXIT_CODE + (number or signal.SIGINT))


def say(line: str) -> None:
    """Print a line of results.

    Raises BrokenPipeError where the reader of standard output is gone, which ends the command quietly with exit code 1;
    OutputError where standard output cannot be written for another reason.
    """
    try:
        click.echo(line)
    except BrokenPipeError:
        _discard(sys.stdout)
        raise
    except OSError as error:
        _discard(sys.stdout)
        raise OutputError(f"standard output: cannot be written: {error.strerror}") from None


def _discard(stream: TextIO) -> None:
    """Send what the stream still holds to nowhere: Python would try to write it again at the end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _describe(error: click.ClickException) -> str:
    """click's message, and where the options are listed."""
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    if isinstance(error, click.NoSuchOption):
        # click compares names with the hyphens that all of them have, and takes --lr for --help.
        known = {name.lstrip("-"): name for each in context.command.get_params(context) for name in _spellings(each)}
        nearest = nearest_name(error.option_name.lstrip("-"), known)
        message = _no_such("option", error.option_name, None if nearest is None else known[nearest])
    return f"{message} (see {context.command_path} --help)"


def _spellings(parameter: click.Parameter) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts] if isinstance(parameter, click.Option) else []


def _no_such(what: str, name: str, nearest: str | None) -> str:
    return f"No such {what} '{name}'" + (f". Did you mean '{nearest}'?" if nearest else "")


def _fail(message: str, exit_code: int) -> NoReturn:
    try:
        click.echo(f"cupyrec: error: {' '.join(message.split())}", err=True)
    except OSError:
        _discard(sys.stderr)
    _exit(exit_code)


def _exit(code: int | None) -> NoReturn:
    # While Python shuts down the work is done: ignore Ctrl-C, so that it cannot change the exit code. (atexit runs the
    # last registered first.)
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)
