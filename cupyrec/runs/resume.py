"""Going on from a checkpoint: which one, with which options, and whether they lead to the same bits."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cupyrec.errors import ConfigError, ModelError
from cupyrec.option_values import option_name, text_of
from cupyrec.run_config import RunConfig, parse_toml
from cupyrec.runs.run_data import share_of
from cupyrec.saving.checkpoint import Checkpoint, read_checkpoint
from cupyrec.saving.checkpoint_folder import CheckpointFolder
from cupyrec.saving.run_folder import checkpoints_to_resume
from cupyrec.systems.static import StaticSystem

# What may be another than when the checkpoint was made. The data are compared file by file, the system by itself.
FREE_OPTIONS = {
    *("paths", "valid", "output", "overwrite", "resume", "resume_step", "bad_rows", "trace"),
    *("epochs", "max_steps", "eval_every", "save", "patience", "log_every", "checkpoint_every", "keep"),
    *("system", "scratchpad", "lookahead", "replacement", "row_counts", "exchange", "host_memory"),
    *("device", "threads", "cuda_graphs"),
}
# Options that are a path each, and go with a checkpoint.
SINGLE_PATHS = ("init_from", "row_counts", "bad_rows")
# Of these `static` chooses the rows that are summed apart, which rounds otherwise.
STATIC_OPTIONS = ("scratchpad", "row_counts")


def find_checkpoint(folder: CheckpointFolder, step: int | None) -> Checkpoint | None:
    """The newest checkpoint, or that of a step; None where there is none at all.

    Raises ModelError when it is damaged, or when there are others but not this one.
    """
    steps = folder.steps()
    if step is not None and step not in steps:
        there = f", but those of the steps {', '.join(map(str, steps))}" if steps else ", nor any other"
        raise ModelError(f"{folder.path}: holds no checkpoint of step {step}{there}")
    if not steps:
        return None
    step = steps[-1] if step is None else step
    try:
        return read_checkpoint(folder.place(step))
    except ModelError as error:
        raise with_older(error, folder, step) from None


def with_older(error: ModelError, folder: CheckpointFolder, step: int) -> ModelError:
    """An error of the checkpoint of a step, with the newest older one that is whole."""
    for older in reversed([each for each in folder.steps() if each < step]):
        try:
            read_checkpoint(folder.place(older)).check()
        except ModelError:
            continue
        return ModelError(f"{error}; an older checkpoint is whole: take it with --resume-step {older}")
    return ModelError(f"{error}; there is no older checkpoint that is whole")


def options_to_resume(given: RunConfig, values: dict[str, Any]) -> dict[str, Any] | None:
    """The values of all options with which a run goes on: those that are given, the others as the checkpoint has them;
    None where there is no checkpoint.

    given: made of `values`; values: by field name, those that are given. Raises ConfigError, ModelError.
    """
    if given.output is None:
        raise ConfigError(f"{given.resume_option} needs the folder of the run: name it with --output")
    checkpoint = find_checkpoint(CheckpointFolder(checkpoints_to_resume(Path(given.output))), given.resume_step)
    if checkpoint is None:
        return None
    config = config_of(checkpoint)
    kept = {each.name: getattr(config, each.name) for each in fields(RunConfig)}
    return {name: value for name, value in kept.items() if value is not None} | values


def config_of(checkpoint: Checkpoint) -> RunConfig:
    """The options with which a run made a checkpoint. Raises ModelError where no run did."""
    try:
        return RunConfig.from_values(parse_toml(checkpoint.content["config"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{checkpoint.folder}: holds no options of `cupyrec train` that could be used ({error})"
        ) from None


def config_to_keep(config: RunConfig) -> RunConfig:
    """The options as a checkpoint keeps them: they can be used from any folder, and again."""
    paths: dict[str, Any] = {"paths": tuple(map(_absolute, config.paths))}
    if share_of(config.valid) is None:
        paths["valid"] = tuple(map(_absolute, config.valid))
    paths |= {name: _absolute(path) for name in SINGLE_PATHS if (path := getattr(config, name)) is not None}
    return replace(config, **paths, overwrite=False)


def check_resumed(config: RunConfig, checkpoint: Checkpoint) -> list[str]:
    """Raise ConfigError when options lead elsewhere than those of the checkpoint: it names the option and both values.

    Returns what is to be told: options with which the bits may be others.
    """
    checkpoint.state.check_not_beyond(config.epochs, config.max_steps)
    before = config_of(checkpoint)
    names = [each.name for each in fields(RunConfig) if each.name not in FREE_OPTIONS]
    if not config.shuffle and not before.shuffle:
        names.remove("shuffle_window")
    if share_of(config.valid) != share_of(before.valid):
        names.append("valid")
    if (config.system == StaticSystem.name) != (before.system == StaticSystem.name):
        names.append("system")
    elif config.system == StaticSystem.name:
        names += STATIC_OPTIONS
    now = replace(config_to_keep(config), bottom_mlp=config.bottom_layers)
    then = replace(before, bottom_mlp=before.bottom_layers)
    for name in names:
        if getattr(now, name) != getattr(then, name):
            raise ConfigError(
                f"--{option_name(name)} is {text_of(getattr(now, name))}, but the checkpoint {checkpoint.folder} was "
                f"made with {text_of(getattr(then, name))}; go on with that, or begin another run in another --output"
            )
    notes = [
        f"--{option_name(name)} is {text_of(getattr(config, name))}, and was {text_of(getattr(before, name))}: "
        "sums may be rounded otherwise"
        for name in ("device", "threads")
        if getattr(config, name) not in (None, "auto", getattr(before, name))
    ]
    if config.system == StaticSystem.name and config.row_counts is None and config.max_steps != before.max_steps:
        notes.append("--max-steps is another: static may pin other rows, and sums be rounded otherwise")
    return notes


def _absolute(path: str) -> str:
    return str(Path(path).absolute())
