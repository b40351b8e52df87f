"""The weights with which training begins: of a model that fits, or from which the present one has grown."""

from __future__ import annotations

from pathlib import Path

from cupyrec.config import DlrmConfig
from cupyrec.errors import ModelError
from cupyrec.saving.model_state import ModelState
from cupyrec.saving.open_model import OpenedModel, open_model
from cupyrec.saving.safetensors_file import TensorSource


def open_weights(folder: str | Path, config: DlrmConfig, *, grow: bool) -> OpenedModel:
    """Open the model in a folder, of the shape `config`; grow: its tables may have fewer rows. Raises ModelError."""
    opened = open_model(folder)
    found = opened.config
    if found == config or (grow and found.grown_to(config.table_rows) == config):
        return opened
    hint = ""
    if not grow and found.grown_to(config.table_rows) == config:
        hint = "; where data were prepared with --grow, load_weights takes grow=True"
    raise ModelError(f"{folder}: made for another model: {found}, and not {config}{hint}")


def state_to_load(opened: OpenedModel, model: ModelState, folder: str | Path) -> dict[str, TensorSource]:
    """What the optimizer of a checkpoint remembers. model: that is to go on with it. Raises ModelError."""
    if opened.optimizer is None:
        raise ModelError(f"{folder}: a model, which has no state of its optimizer; name a checkpoint")
    model.check_optimizer(opened.optimizer, folder)
    for name, shape in model.state_shapes(opened.config.table_rows).items():
        if name not in opened.state:
            raise ModelError(f"{folder}: tensor {name} is missing")
        if opened.state[name].shape != shape:
            raise ModelError(f"{folder}: tensor {name} is {opened.state[name].shape}, but {shape} was expected")
    return opened.state
