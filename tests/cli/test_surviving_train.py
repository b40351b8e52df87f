"""`cupyrec train` in processes of its own: killed at any moment, stopped by signals, without room, twice at once."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from commands import check_one_error_line, run_here, run_process
from small_disk import remount, small_disk

from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.saving import checkpoint_writer, safetensors_file
from cupyrec.saving.checkpoint import read_checkpoint
from cupyrec.saving.checkpoint_folder import CheckpointFolder
from cupyrec.saving.checkpoints import AT_ONCE_BYTES
from cupyrec.saving.run_folder import RunFolder
from cupyrec.training.trained_model import load_model

# CUPYREC_KILLS=50 kills more often.
KILLS = int(os.environ.get("CUPYREC_KILLS", "3"))
# Tables that a thread writes while training goes on.
LARGE = ["--hash-rows=40000", "--dimension=16", "--bottom-mlp=16-16", "--top-mlp=16-1", "--batch-size=64"]
TABLE_BYTES = 26 * 40_000 * (16 + 1) * 4
# Tables of a megabyte.
SMALL = ["--hash-rows=2000", "--dimension=4", "--bottom-mlp=8-4", "--top-mlp=8-1", "--batch-size=64"]
SMALL_MODEL_BYTES = 26 * 2000 * 4 * 4
ALL = ["--threads=1", "--log-every=10", "--learning-rate=0.05", "--warmup-steps=20"]
ROWS = 6000
WAIT_S = 300  # with kernels to compile
TIMES = {"seconds", "samples_per_s", "stage_ms", "data_wait_seconds", "evaluation_seconds"}


def write_rows(path, rows):
    """Categories from all over the tables; the label follows from the first integer."""
    random = np.random.default_rng(3)
    with open(path, "w", encoding="ascii") as file:
        for _ in range(rows):
            integers = random.integers(0, 20, 13)
            categories = random.integers(0, 2**32, 26)
            cells = [integers[0] % 2, *integers, *(f"{value:08x}" for value in categories)]
            file.write("\t".join(map(str, cells)) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With raw data, the same prepared, and runs that nothing disturbed."""
    made = tmp_path_factory.mktemp("made")
    write_rows(made / "day_0", ROWS)
    prepare(PrepareOptions(made / "day_0", made / "prepared", threads=1, hash_rows=40_000))
    return made


# By name: what is trained, and how.
KINDS = {
    "resident": (["prepared", *LARGE], ["--shuffle", "--shuffle-window=1000", "--valid=0.1", "--eval-every=60"]),
    "scratchpipe": (["day_0", *LARGE], ["--system=scratchpipe", "--scratchpad=20000", "--lookahead=3", "--valid=0.1"]),
}
HOW = ["--epochs=2", "--checkpoint-every=20"]


def arguments_of(folder, kind, output):
    (name, *model), options = KINDS[kind]
    return [str(folder / name), *model, *ALL, *options, *HOW, f"--output={output}"]


@pytest.fixture(scope="module")
def undisturbed(folder):
    """By kind: what counts of a run that nothing disturbed, made when it is first asked for."""
    found = {}

    def of(kind):
        if kind not in found:
            process = start(arguments_of(folder, kind, folder / kind))
            _, lasts_s = wait_until_trains(process), time.monotonic()
            process.communicate(timeout=WAIT_S)
            assert process.returncode == 0
            found[kind] = what_counts(folder / kind, kind), time.monotonic() - lasts_s
            shutil.rmtree(folder / kind)
        return found[kind]

    return of


def what_counts(output, kind):
    """The weights and what was recorded, but for times and, where a scratchpad began empty again, what moved."""
    varies = TIMES | ({"traffic"} if kind == "scratchpipe" else set())
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    records = [{name: value for name, value in line.items() if name not in varies} for line in lines]
    checksum = zlib.crc32((output / "model.safetensors").read_bytes())
    return {"model": checksum, "records": records, "last checkpoint": steps_of(output)[-1]}


def steps_of(output):
    return CheckpointFolder(output / "checkpoints").steps()


def start(arguments):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cupyrec", "train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    )


def wait_until_trains(process):
    """Until the last line before training; what was said before."""
    lines = []
    timer = threading.Timer(WAIT_S, process.kill)
    timer.start()
    for line in process.stdout:
        lines.append(line)
        if line.startswith("system "):
            break
    timer.cancel()
    return lines


def check_nothing_torn(output):
    """Whatever has its name is whole."""
    for step in steps_of(output):
        read_checkpoint(output / "checkpoints" / f"step-{step:08}").check()
    if (output / "model.json").exists():
        load_model(output)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_and_gone_on_with(folder, undisturbed, tmp_path, kind):
    """Every other time while a checkpoint is being written. At the end all is as in a run that nothing disturbed."""
    assert TABLE_BYTES > AT_ONCE_BYTES
    expected, lasts_s = undisturbed(kind)
    random = np.random.default_rng(list(KINDS).index(kind))
    output, killed, while_writing = tmp_path / "run", 0, 0
    arguments = [*arguments_of(folder, kind, output), "--resume"]
    while killed < -(-KILLS // len(KINDS)):
        process = start(arguments)
        try:
            wait_until_trains(process)
            if killed % 2 == 0:
                wait_for_a_checkpoint_in_the_making(process, output)
                time.sleep(random.uniform(0, 0.1))
            else:
                time.sleep(random.uniform(0, lasts_s))
            was_at_it = bool(partials(output))
            process.kill()
            code = process.wait(WAIT_S)
        finally:
            process.kill()
            process.communicate()
        check_nothing_torn(output)
        if code == -signal.SIGKILL:
            killed, while_writing = killed + 1, while_writing + was_at_it
        else:  # it was faster
            assert code == 0
            assert what_counts(output, kind) == expected
            shutil.rmtree(output)
    outcome = run_process("train", *arguments)
    assert outcome.code == 0, outcome
    assert what_counts(output, kind) == expected
    check_nothing_torn(output)
    assert len(steps_of(output)) <= 2
    assert list(output.rglob("*.partial")) + list(output.rglob("*.old")) == []
    # Of a few kills none may have come at the right moment.
    assert while_writing or killed < 10
    sys.stdout.write(f"{kind}: {killed} kills, {while_writing} of them while tables were being written\n")


def partials(output):
    return list((output / "checkpoints").glob(".step-*.partial/tables*"))


def wait_for_a_checkpoint_in_the_making(process, output):
    while not partials(output) and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_a_checkpoint_is_being_written_saves(folder, undisturbed, tmp_path, number):
    output = tmp_path / "run"
    process = start(arguments_of(folder, "resident", output))
    try:
        wait_until_trains(process)
        wait_for_a_checkpoint_in_the_making(process, output)
        process.send_signal(number)
        out, _ = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 128 + number
    how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    steps = int(re.search(rf"^{how} after (\d+) steps", out, re.MULTILINE)[1])
    last = output / "checkpoints" / f"step-{steps:08}"
    assert out.splitlines()[-2:] == [f"last checkpoint: {last}; go on from it with --resume", f"saved in {output}"]
    check_nothing_torn(output)
    assert load_model(output).description["steps"] == steps
    assert list(output.rglob("*.partial")) == []
    # Nothing but the folder is named.
    outcome = run_process("train", "--resume", "--output", output)
    assert outcome.code == 0, outcome
    assert what_counts(output, "resident") == undisturbed("resident")[0]


def test_two_runs_on_one_folder(folder, tmp_path):
    output = tmp_path / "run"
    process = start([*arguments_of(folder, "resident", output), "--epochs=1000000"])
    try:
        wait_until_trains(process)
        for how in ("--resume", "--overwrite"):
            message = check_one_error_line(
                run_process("train", folder / "day_0", *LARGE, *ALL, how, "--output", output)
            )
            assert message == f"{output}: another cupyrec is writing to it; wait for its end, or name another folder"
        process.terminate()
        assert process.wait(WAIT_S) == 143
    finally:
        process.kill()
        process.communicate()
    check_nothing_torn(output)


def small(folder, output, *options):
    return ["train", folder / "day_0", *SMALL, *ALL, "--checkpoint-every=20", "--output", output, *options]


def small_alike(folder, tmp_path, capsys, output):
    """What was stopped by an error goes on to the same end."""
    assert run_here(capsys, *small(folder, output, "--resume")).code == 0
    assert run_here(capsys, *small(folder, tmp_path / "whole")).code == 0
    assert what_counts(output, "resident") == what_counts(tmp_path / "whole", "resident")
    assert list(output.rglob("*.partial")) == []


def error_of(outcome):
    """The message after the line that shows the progress."""
    *before, last = outcome.err.splitlines()
    assert outcome.code == 2, outcome
    assert [line.split()[0] for line in before] in ([], ["step"])
    assert last.startswith("cupyrec: error: ")
    return last.removeprefix("cupyrec: error: ")


@pytest.mark.parametrize("at_once_bytes", [0, AT_ONCE_BYTES])
@pytest.mark.parametrize("calls", [0, 1, 3, 4])
def test_a_disk_that_is_full_while_a_checkpoint_is_written(folder, tmp_path, monkeypatch, capsys, calls, at_once_bytes):
    """An error of the system at one of its writes, in any thread. The model is saved, the checkpoint before whole."""
    output, write_all, made = tmp_path / "run", safetensors_file._write_all, []

    def full(file, data):
        if "step-00000040" in str(file.name) or (at_once_bytes == 0 and steps_of(output)):
            made.append(file.name)
            if len(made) > calls and "checkpoints" in str(file.name):
                raise OSError(28, "No space left on device")
        write_all(file, data)

    monkeypatch.setattr(safetensors_file, "_write_all", full)
    monkeypatch.setattr("cupyrec.saving.checkpoints.AT_ONCE_BYTES", at_once_bytes)
    # The thread is given one step, however slow the disk: training is so short that it would end before.
    ended = property(lambda writer: writer.wait_until_tables_ended() is None)
    monkeypatch.setattr(checkpoint_writer.CheckpointWriter, "tables_ended", ended)
    message = error_of(run_here(capsys, *small(folder, output)))
    assert re.match(
        rf"{output}/checkpoints/\.step-\d+\.partial/\S+: cannot be written: No space left on device; "
        rf"make room, and try again \(the \d+ steps trained before are saved in {output}\)$",
        message,
    ), message
    assert list(output.rglob("*.partial")) == []
    assert len(steps_of(output)) == 1
    check_nothing_torn(output)
    description = load_model(output).description
    assert description["steps"] >= 40
    assert "No space left on device" in description["training"]["stopped_by"]
    monkeypatch.undo()
    small_alike(folder, tmp_path, capsys, output)


def test_files_that_may_not_grow(folder, tmp_path, capsys):
    """As with a quota: the model fits, the tables of a checkpoint do not, with their optimizer state."""
    output, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_MODEL_BYTES + 50_000, before[1]))
    try:
        outcome = run_here(capsys, *small(folder, output))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = error_of(outcome)
    assert re.match(
        rf"{output}/checkpoints/\.step-00000020\.partial/tables-00001\.safetensors: cannot be written: "
        r"File too large; allow larger files \(ulimit -f\), or .*, and try again "
        rf"\(the 20 steps trained before are saved in {output}\)$",
        message,
    ), message
    assert not (output / "checkpoints").exists()
    assert load_model(output).description["steps"] == 20


def test_a_small_disk(folder, tmp_path, capsys, monkeypatch):
    """Room for two checkpoints and the model, and not for the third, which must be whole before the first goes."""
    with small_disk("3m") as disk:
        output = disk / "run"
        refused = check_one_error_line(run_here(capsys, *small(folder, output)))
        assert refused.startswith(f"{output}: the model with 3 checkpoints (--keep 2) takes 4 MB, but 3.1 MB are free")
        # As where somebody else takes what was free at the start.
        monkeypatch.setattr(RunFolder, "check_space", lambda *_: None)
        message = error_of(run_here(capsys, *small(folder, output)))
        assert re.match(
            rf"{output}/checkpoints: a checkpoint takes 1 MB, but \S+ kB are free on this disk; make room, or keep "
            rf"fewer \(--keep\) \((the \d+ steps trained before) (are saved in {output}|could not be saved: .*; "
            rf"the checkpoint of step \d+ is whole: go on with --resume)\)$",
            message,
        ), message
        assert len(steps_of(output)) == 2
        check_nothing_torn(output)
        assert list(output.rglob("*.partial")) == []
        remount(disk, "size=40m")
        small_alike(folder, tmp_path, capsys, output)


def test_a_disk_that_fills_up_meanwhile(folder, tmp_path, capsys, monkeypatch):
    """Somebody else takes what was free a moment ago."""
    monkeypatch.setattr(checkpoint_writer, "check_space", lambda *_: None)
    monkeypatch.setattr(RunFolder, "check_space", lambda *_: None)
    with small_disk("3m") as disk:
        output = disk / "run"
        message = error_of(run_here(capsys, *small(folder, output)))
        assert "No space left on device" in message
        assert str(output / "checkpoints" / ".step-") in message
        assert len(steps_of(output)) == 2
        check_nothing_torn(output)
        assert list(output.rglob("*.partial")) == []
        remount(disk, "size=40m")
        small_alike(folder, tmp_path, capsys, output)


def test_a_folder_that_can_only_be_read(folder, capsys):
    with small_disk("40m") as disk:
        output = disk / "run"
        assert run_here(capsys, *small(folder, output, "--max-steps=20")).code == 0
        remount(disk, "ro")
        for how in ("--resume", "--overwrite"):
            message = error_of(run_here(capsys, *small(folder, output, how)))
            assert message == f"{output}: cannot be written: Read-only file system; choose another --output"
        remount(disk, "rw")
        assert steps_of(output) == [20]
        check_nothing_torn(output)
