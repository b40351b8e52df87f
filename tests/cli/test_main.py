"""The command as a whole: help, versions, usage errors, exit codes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from commands import check_one_error_line, run_here

import cupyrec
from cupyrec import cli
from cupyrec.cli import COMMANDS, train
from cupyrec.errors import DataError

README = Path(__file__).parents[2] / "README.md"


def subcommand(name):
    command = cli.cupyrec.get_command(click.Context(cli.cupyrec), name)
    assert command is not None
    return command


def test_the_help_lists_every_command_with_its_line(capsys):
    for arguments in (["--help"], ["-h"], []):
        outcome = run_here(capsys, *arguments)
        assert (outcome.code, outcome.err) == (0, "")
        shown = " ".join(outcome.out.split())
        for name, line in COMMANDS.items():
            assert f"{name} {line}" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does_and_documents_each_option(name, capsys):
    command = subcommand(name)
    assert command.help
    undocumented = [
        each.name for each in command.params if isinstance(each, click.Option) and not (each.help or "").strip()
    ]
    assert undocumented == []
    outcome = run_here(capsys, name, "--help")
    assert outcome.code == 0
    for option in (each for each in command.params if isinstance(each, click.Option) and not each.hidden):
        for spelling in (*option.opts, *option.secondary_opts):
            assert spelling in outcome.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_mentions_every_command(name):
    assert f"cupyrec {name}" in README.read_text(encoding="utf-8")


def test_prints_the_version(capsys):
    assert run_here(capsys, "--version").out == f"cupyrec, version {cupyrec.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian"], ["No such command 'trian'. Did you mean 'train'? (see cupyrec --help)"]),
        (["learn"], ["No such command 'learn' (see cupyrec --help)"]),
        (["train", "x", "--lr", "3"], ["No such option '--lr'. Did you mean '--learning-rate'? (see cupyrec train"]),
        (["train", "x", "--lr=3"], ["No such option '--lr'. Did you mean '--learning-rate'? (see cupyrec train"]),
        (["train", "x", "--batch", "3"], ["No such option '--batch'. Did you mean '--batch-size'? (see"]),
        (["train", "x", "--no-shufle"], ["No such option '--no-shufle'. Did you mean '--no-shuffle'? (see"]),
        (["train", "x", "--hellp"], ["No such option '--hellp'. Did you mean '--help'? (see"]),
        (["evaluate", "m", "x", "--lr", "3"], ["No such option '--lr' (see cupyrec evaluate --help)"]),
        (["--nonsense"], ["--nonsense", "cupyrec --help"]),
        (["train", "--batchsize", "3", "x"], ["--batchsize", "--batch-size", "cupyrec train --help"]),
        (["train", "x", "--output"], ["--output", "argument"]),
        (["evaluate"], ["MODEL", "cupyrec evaluate --help"]),
        (["evaluate", "m", "x", "--threads", "0"], ["--threads must be a whole number of at least 1, but is '0'"]),
        (["evaluate", "m", "x", "--batch-size", "1e-3"], ["--batch-size must be a whole number of at least 1"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_helps(capsys, arguments, parts):
    message = check_one_error_line(run_here(capsys, *arguments))
    for part in parts:
        assert part in message


def test_an_error_raised_on_purpose_is_one_line_even_when_its_message_is_not(capsys, monkeypatch):
    def fail(*_, **__):
        raise DataError("not\ngood", path="day_0", line=3)

    monkeypatch.setattr(subcommand("train"), "callback", fail)
    assert check_one_error_line(run_here(capsys, "train", "x")) == r"day_0, line 3: not\ngood"


def test_ctrl_c_outside_of_training_is_one_line_and_exit_code_130(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subcommand("train"), "callback", interrupted)
    outcome = run_here(capsys, "train", "x")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "cupyrec: interrupted\n")


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(subcommand("train"), "callback", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "x"])


def test_the_commands_are_where_their_names_say():
    assert subcommand("train") is train.train
    assert cli.cupyrec.get_command(click.Context(cli.cupyrec), "nonsense") is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 1 TiB"), "out of memory: Unable to allocate 1 TiB"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (FileNotFoundError(2, "No such file", "/tmp/x"), "/tmp/x: No such file"),
    ],
)
def test_what_the_machine_lacks_is_one_line(capsys, monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subcommand("train"), "callback", fail)
    assert check_one_error_line(run_here(capsys, "train", "x")) == message


def test_an_interrupt_after_the_end_changes_nothing():
    """Python ends in this order: what was registered last comes first. So what is registered on the way comes later."""
    script = (
        "import atexit, os, signal, weakref\nimport cupyrec.cli\n"
        "class Registers:\n    def __str__(self): atexit.register(os.kill, os.getpid(), signal.SIGINT); return 'x'\n"
        "cupyrec.cli.cupyrec.callback = None\n"
        "cupyrec.cli.cupyrec.main = lambda *_, **__: str(Registers()) and None\ncupyrec.cli.main(['--version'])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
