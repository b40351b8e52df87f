"""Run the `cupyrec` command, here or in a process of its own, and keep what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from cupyrec.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str


def run_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """The command in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    return Outcome(end.value.code or 0, streams.out, streams.err)


def run_process(*arguments: object, **options: object) -> Outcome:
    """The command in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", "cupyrec", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONWARNINGS": "error"},
        timeout=300,
        check=False,
        **options,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def check_one_error_line(outcome: Outcome) -> str:
    """Exit code 2 and one line on stderr; returns the message."""
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("cupyrec: error: "), outcome
    assert outcome.err.endswith("\n"), outcome
    assert outcome.err.count("\n") == 1, outcome
    return outcome.err.removeprefix("cupyrec: error: ").rstrip("\n")
