"""Checks before the data are counted and anything trains: options, memory, options without effect."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.datasets.open_data import is_prepared
from cupyrec.devices.device import Device
from cupyrec.devices.gpu import GpuDevice
from cupyrec.devices.host_memory import available_bytes
from cupyrec.embedding.host_table import record_width
from cupyrec.embedding.row_counts import read_row_counts
from cupyrec.errors import ConfigError, ScratchpadError
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.option_values import option_name, option_words
from cupyrec.run_config import RunConfig
from cupyrec.runs.thread_count import thread_warning
from cupyrec.saving.saved_model import WEIGHT_BYTES, model_bytes
from cupyrec.systems.registry import SYSTEMS_WITH_SCRATCHPAD, resolve_system
from cupyrec.training.device_memory_plan import plan_device_memory
from cupyrec.training.memory_plan import plan_lines, plan_memory
from cupyrec.training.scratchpad_memory import FLOAT_BYTES, most_bytes_ahead

# What Python and the libraries take before anything is allocated.
PROGRAM_BYTES = 200_000_000

Say = Callable[[str], None]


def schedule_of(config: RunConfig) -> WarmupPolynomialDecay:
    """The learning rate as configured. Raises ConfigError."""
    return WarmupPolynomialDecay(
        config.learning_rate,
        config.warmup_steps,
        config.decay_start_step,
        config.decay_steps,
        config.end_learning_rate,
        config.decay_power,
    )


def check_options(config: RunConfig) -> None:
    """Raise ConfigError on options that cannot be used together, whatever the data are."""
    toml_of(config)
    schedule_of(config)
    if config.save == "best" and config.output is None:
        raise ConfigError("--save best needs a folder for the model: name it with --output")
    if config.save == "best" and not config.valid:
        raise ConfigError("--save best needs data to evaluate on: name them with --valid")
    if config.patience and not (config.valid and config.eval_every):
        raise ConfigError("--patience counts evaluations on the way: give --valid and --eval-every")


def check_row_counts(config: RunConfig, system: SystemConfig, shape: DlrmConfig) -> None:
    """Raise DataError when a system, resolved, cannot use the counts that are named: they are read once more later."""
    if config.row_counts is not None and system.name in SYSTEMS_WITH_SCRATCHPAD:
        read_row_counts(config.row_counts, sum(shape.table_rows))


def say_warnings(config: RunConfig, say: Say) -> None:
    """Tell of options that cannot be what was meant."""
    warning = thread_warning(config.threads)
    if warning is not None:
        say(warning)
    names = options_without_effect(config)
    if names:
        say(f"without effect: {', '.join(names)}")


def options_without_effect(config: RunConfig) -> list[str]:
    """The options that are set to something and do nothing without another, with why."""
    without = {
        "--checkpoint-every": (config.checkpoint_every, ("keep",)),
        "--shuffle": (config.shuffle, ("shuffle_window",)),
        "--decay-steps": (config.decay_steps, ("decay_start_step", "decay_power", "end_learning_rate")),
        "--init-from": (config.init_from, ("init_state",)),
        "--valid": (config.valid, ("eval_every",)),
        "--eval-every": (config.eval_every, ("save",)),
        "--on-bad-row skip": (config.on_bad_row == "skip", ("bad_rows",)),
    }
    found = {name: f"needs {other}" for other, (is_given, names) in without.items() if not is_given for name in names}
    if config.optimizer == "sgd":
        found["eps"] = "not used by sgd"
    plain = RunConfig()
    return [
        f"--{option_name(name)} ({why})" for name, why in found.items() if getattr(config, name) != getattr(plain, name)
    ]


def options_of_a_gpu(config: RunConfig) -> list[str]:
    """The options that are set to something and mean something on a GPU alone."""
    plain = RunConfig()
    found = [name for name in ("exchange", "host_memory") if getattr(config, name) != getattr(plain, name)]
    return [*(f"--{option_name(name)}" for name in found), *([] if config.cuda_graphs else ["--no-cuda-graphs"])]


def toml_of(config: RunConfig) -> str:
    """The configuration as TOML, which is UTF-8. Raises ConfigError."""
    toml = config.to_toml()
    try:
        toml.encode("utf-8")
    except UnicodeEncodeError:
        line = next(line for line in toml.splitlines() if line.encode("utf-8", "replace").decode() != line)
        raise ConfigError(f"a name that is not UTF-8 cannot be kept in config.toml; rename it: {line}") from None
    return toml


def check_memory(
    config: RunConfig, shape: DlrmConfig, device: Device, say: Say, *, shuffled_samples: int = 0
) -> tuple[SystemConfig, str]:
    """Print the memory plans; the system that they are for, as resolve_system gives it.

    shuffled_samples: of a window. Raises MemoryPlanError.
    """
    optimizer = make_optimizer(config.optimizer, eps=config.eps)
    resident = plan_device_memory(shape, optimizer, config.batch_size)
    system, why = resolve_system(config.system_config(), device, resident.total_bytes)
    on_gpu, free_bytes = isinstance(device, GpuDevice), available_bytes()
    plan = plan_memory(
        shape, optimizer, config.batch_size, system, device_apart=on_gpu, shuffled_samples=shuffled_samples
    )
    record_bytes = record_width(shape.dimension, optimizer.row_state_width(shape.dimension), FLOAT_BYTES) * FLOAT_BYTES
    ahead_bytes = most_bytes_ahead(system, shape, config.batch_size, record_bytes, free_bytes)
    ahead_text = f"more: batches {'known ahead' if system.lookahead else 'ahead, chosen later'}, at most"
    ahead = plan_lines([(ahead_text, ahead_bytes)] if ahead_bytes else [])
    program = plan_lines([("more: the program and its libraries, about", PROGRAM_BYTES)])
    _say_plan("memory plan:", [*plan.lines(), *ahead, *program], say)
    if isinstance(device, GpuDevice):
        on_device = plan_device_memory(shape, optimizer, config.batch_size, system)
        _say_plan("memory plan of the GPU:", [*on_device.lines(), *ahead], say)
        on_device.check(device.runtime.memory_bytes()[0])
    plan.check(free_bytes)
    return system, why


@contextmanager
def size_advice(config: RunConfig) -> Iterator[None]:
    """Within it an error for want of a larger scratchpad names the command that finds how large it must be."""
    try:
        yield
    except ScratchpadError as error:
        raise ScratchpadError(f"{error}; this finds a size for all batches: {advise_command(config)}") from error


def advise_command(config: RunConfig) -> str:
    """Of `cupyrec advise`, for the data and batches of a run."""
    names = ["batch_size", "dimension", "optimizer"]
    if config.shuffle:
        names += ["shuffle", "shuffle_window", "seed"]
    if not is_prepared(config.paths):
        names = ["hash_rows", *names, "on_bad_row"]
    words, plain = ["cupyrec", "advise", *config.paths], RunConfig()
    for name in names:
        if getattr(config, name) != getattr(plain, name):
            words += option_words(name, getattr(config, name))
    return shlex.join(words)


def checkpoints_to_come(config: RunConfig, there: int, steps_done: int) -> int:
    """The most new ones that a run adds to those on the disk: the oldest goes when one more than are kept is whole.

    there: how many are on the disk; steps_done: of that from which the run goes on.
    """
    keeps_best = config.save == "best"
    if not (config.checkpoint_every or keeps_best):
        return 0
    most = max((config.keep if config.checkpoint_every else 0) + keeps_best + 1 - there, 1)
    if config.max_steps is None or keeps_best:
        return most
    return min(most, math.ceil((config.max_steps - steps_done) / config.checkpoint_every))


def checkpoint_bytes(config: RunConfig, shape: DlrmConfig) -> int:
    """What one takes, at least."""
    row_state = make_optimizer(config.optimizer, eps=config.eps).row_state_width(shape.dimension)
    return model_bytes(shape) + WEIGHT_BYTES * sum(shape.table_rows) * row_state


def _say_plan(title: str, lines: list[str], say: Say) -> None:
    say(title)
    for line in lines:
        say(f"  {line}")
