"""Beginning a run with the weights of a model: with its shape, and on data that mean the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cupyrec.counted import counted
from cupyrec.datasets.open_data import is_prepared
from cupyrec.errors import ConfigError
from cupyrec.optim.sgd import Sgd
from cupyrec.option_values import CRITEO_SPARSE_FEATURES, option_name, text_of
from cupyrec.run_config import RunConfig
from cupyrec.runs.run_data import RunData
from cupyrec.saving.checkpoint_folder import newest_checkpoint
from cupyrec.saving.open_model import OpenedModel, open_model
from cupyrec.saving.run_folder import RunFolder
from cupyrec.training.trainer import Trainer


def options_to_begin(given: RunConfig, values: dict[str, Any]) -> dict[str, Any]:
    """The values of options with which a run begins: those that are given, and the shape of the model that it begins
    with, if any, with --init-state its optimizer. given: made of `values`; values: by field name, those that are given.
    Raises ModelError.
    """
    if given.init_from is None:
        return values
    return _model_options(given, open_model(given.init_from, compare_checksums=False)) | values


class InitialWeights:
    """The model that a run begins with: opened, and not yet read."""

    def __init__(self, config: RunConfig, folder: RunFolder | None) -> None:
        """Raises ModelError, and ConfigError where an option is not as the model has it, or the run would replace the
        model. config: init_from is set.
        """
        assert config.init_from is not None
        self.path = Path(config.init_from)
        self._model: OpenedModel = open_model(self.path, compare_checksums=False)
        place = self.path.resolve()
        if folder is not None and folder.path.resolve() in (place, *place.parents):
            raise ConfigError(
                f"{self.path}: the model to begin with is in the folder of this run; choose another --output"
            )
        if config.init_state and self._model.optimizer is None:
            newest = newest_checkpoint(self.path)
            such_as = "" if newest is None else f", such as {newest}"
            raise ConfigError(
                f"--init-state: {self.path} is a model, which has no state of its optimizer; name a checkpoint with "
                f"--init-from{such_as}"
            )
        self._with_state, self._optimizer = config.init_state, config.optimizer
        rows = _short(config.hash_rows)
        spelt_out = replace(config, bottom_mlp=config.bottom_layers, hash_rows=rows)
        for name, wanted in _model_options(config, self._model).items():
            if (found := getattr(spelt_out, name)) != wanted:
                raise ConfigError(
                    f"--{option_name(name)} is {text_of(found)}, but the model {self.path} was made with "
                    f"{text_of(wanted)}; leave the option out, or begin without --init-from"
                )

    def check_fits(self, data: RunData) -> None:
        """Raise ConfigError where the data are not such as the model was trained on, and have not grown from these."""
        data.check_fits(self._model.config, self._model.encoding)

    def load(self, trainer: Trainer, say: Callable[[str], None]) -> None:
        """Give the weights to a trainer, whose tables may have grown. Raises ModelError."""
        state = ", and what its optimizer remembers" if self._with_state else ""
        say(f"beginning with the weights of {self.path}, of step {self._model.steps:,}{state}")
        if not self._with_state and self._optimizer != Sgd.name:
            say(
                "the optimizer begins without a state, so that its first steps are large: give --init-state with a "
                "checkpoint, or a lower --learning-rate"
            )
        before, now = self._model.config.table_rows, trainer.config.table_rows
        if before != now:
            say(f"the tables have {counted(sum(now) - sum(before), 'row')} more than there, {sum(now):,} in all")
        trainer.load_weights(self.path, grow=True, optimizer_state=self._with_state)


def _model_options(config: RunConfig, model: OpenedModel) -> dict[str, Any]:
    """The options of a run, on the data of a configuration, that begins with a model; by field name."""
    shape = model.config
    options: dict[str, Any] = {
        "dimension": shape.dimension,
        "bottom_mlp": shape.bottom,
        "top_mlp": shape.top,
        "pooling": shape.pooling,
        "self_interaction": shape.self_interaction,
    }
    if config.init_state and model.optimizer is not None:
        settings = {name: value for name, value in model.optimizer.items() if name != "name"}
        options |= {"optimizer": model.optimizer["name"], **settings}
    # Of other data the tables are what they are.
    if shape.features == CRITEO_SPARSE_FEATURES and not is_prepared(config.paths):
        options["hash_rows"] = _short(shape.table_rows)
    return options


def _short(rows: tuple[int, ...]) -> tuple[int, ...]:
    """Rows of every table as one number, where it is the same for all."""
    return rows[:1] if len(set(rows)) == 1 else rows
