"""The names that the DLRM reference's PyTorch code gives the weights, and the shape of a model from them.

    emb_l.T.weight (rows, D)                             of table T
    bot_l.K.weight (out, in), bot_l.K.bias (out,)        of the bottom MLP: K = 0, 2, 4, ..., with activations between
    top_l.K.weight, top_l.K.bias                         of the top MLP alike

The pairs of the dot interaction come in the same order there: the lower triangle, row by row.
Source: DLRM_Net in dlrm_s_pytorch.py of facebookresearch/dlrm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import numpy as np

from cupyrec.config import DlrmConfig
from cupyrec.errors import ConfigError, ModelError
from cupyrec.functions.dot_interaction import interaction_width

# Linear layers and activations take turns in the reference's nn.Sequential.
LAYER_STEP = 2
_MLPS = {"bottom": "bot_l", "top": "top_l"}
# No leading zeros, so that two names cannot mean one tensor.
_OWN_NAME = re.compile(r"(?:embedding\.\d+\.weight|(?:bottom|top)\.\d+\.(?:weight|bias))", re.ASCII)
_NAME = re.compile(r"(?:(emb_l)\.(0|[1-9]\d{0,5})\.weight|(bot_l|top_l)\.(0|[1-9]\d{0,5})\.(weight|bias))", re.ASCII)


def reference_name(name: str) -> str:
    """`embedding.3.weight` is `emb_l.3.weight`, `top.1.bias` is `top_l.2.bias`."""
    part, number, kind = name.split(".")
    if part == "embedding":
        return f"emb_l.{number}.{kind}"
    return f"{_MLPS[part]}.{LAYER_STEP * int(number)}.{kind}"


def are_reference_names(names: Iterable[str]) -> bool:
    """Whether at least one of them is a name of the reference."""
    return any(_NAME.fullmatch(name) for name in names)


def are_own_names(names: Iterable[str]) -> bool:
    """Whether at least one of them is a name of a saved model of cupyrec's."""
    return any(_OWN_NAME.fullmatch(name) for name in names)


def infer_config(tensors: Mapping[str, Any], pooling: str, *, where: object) -> DlrmConfig:
    """The shape of the model that these weights make.

    tensors: by the names of the reference, with shape and dtype; pooling: weights do not tell it; where: the file or
    folder, for messages. Raises ModelError that names the first tensor that does not fit.
    """
    return _Weights(tensors, where).config(pooling)


class _Weights:
    """The tensors, and how to complain about one of them."""

    def __init__(self, tensors: Mapping[str, Any], where: object) -> None:
        self._tensors, self._where = tensors, where

    def config(self, pooling: str) -> DlrmConfig:
        self._check_names()
        table_rows, dimension = self._tables()
        bottom = self._widths("bot_l")
        if bottom[-1] != dimension:
            last = f"bot_l.{LAYER_STEP * (len(bottom) - 2)}.weight"
            self._refuse(last, f"ends the bottom MLP in {bottom[-1]}, but the tables have dimension {dimension}")
        top = self._widths("top_l")
        if top[-1] != 1:
            last = f"top_l.{LAYER_STEP * (len(top) - 2)}.weight"
            self._refuse(last, f"ends the top MLP in {top[-1]}; one logit was expected")
        without, within = (
            interaction_width(len(table_rows), dimension, self_interaction=itself) for itself in (False, True)
        )
        if top[0] not in (without, within):
            self._refuse(
                "top_l.0.weight",
                f"takes {top[0]} inputs, but the dot interaction of {len(table_rows)} tables of dimension {dimension} "
                f"gives {without}, or {within} with each vector's product with itself",
            )
        try:
            return DlrmConfig(
                table_rows, bottom[0], dimension, tuple(bottom[1:]), tuple(top[1:]), pooling, top[0] == within
            )
        except ConfigError as error:
            raise ModelError(f"{self._where}: {error}") from None

    def _check_names(self) -> None:
        if are_own_names(self._tensors) and not are_reference_names(self._tensors):
            raise ModelError(
                f"{self._where}: these are the weights of a cupyrec model, under its own names: evaluate, predict and "
                "export take its folder as it is; `cupyrec export` gives them the names of the reference"
            )
        for name, tensor in self._tensors.items():
            if not _NAME.fullmatch(name):
                self._refuse(name, "has none of the names emb_l.T.weight, bot_l.K.weight/bias and top_l.K.weight/bias")
            if tensor.dtype != np.float32:
                self._refuse(name, f"is {tensor.dtype}, but float32 was expected")

    def _tables(self) -> tuple[tuple[int, ...], int]:
        """Rows of each table, and the dimension of all."""
        table_rows, dimension = [], None
        for table in self._numbers("emb_l", step=1):
            name = f"emb_l.{table}.weight"
            rows, columns = self._matrix(name)
            if dimension is not None and columns != dimension:
                self._refuse(name, f"has dimension {columns}, but emb_l.0.weight has {dimension}")
            table_rows.append(rows)
            dimension = columns
        assert dimension is not None  # _numbers gives at least one
        return tuple(table_rows), dimension

    def _widths(self, part: str) -> list[int]:
        """The input's width, then that of each layer."""
        widths: list[int] = []
        for number in self._numbers(part, step=LAYER_STEP):
            name, bias = f"{part}.{number}.weight", f"{part}.{number}.bias"
            outputs, inputs = self._matrix(name)
            if widths and inputs != widths[-1]:
                self._refuse(name, f"takes {inputs} inputs, but the layer before gives {widths[-1]}")
            if bias not in self._tensors:
                self._refuse(bias, "is missing")
            if tuple(self._tensors[bias].shape) != (outputs,):
                self._refuse(bias, f"is {tuple(self._tensors[bias].shape)}, but {(outputs,)} was expected")
            widths = [*(widths or [inputs]), outputs]
        return widths

    def _numbers(self, part: str, *, step: int) -> list[int]:
        """The numbers of a part's tensors: 0, step, 2 * step, ..., at least one."""
        found = {int(name.split(".")[1]) for name in self._tensors if name.startswith(f"{part}.")}
        expected = [step * count for count in range(max(len(found), 1))]
        for number in expected:
            if f"{part}.{number}.weight" not in self._tensors:
                self._refuse(f"{part}.{number}.weight", "is missing")
        for number in sorted(found - set(expected)):
            self._refuse(f"{part}.{number}", f"has a number that was not expected; the others are {expected}")
        return expected

    def _matrix(self, name: str) -> tuple[int, int]:
        shape = tuple(self._tensors[name].shape)
        if len(shape) != 2 or 0 in shape:
            self._refuse(name, f"is {shape}, but a matrix was expected")
        return shape[0], shape[1]

    def _refuse(self, name: str, reason: str) -> NoReturn:
        # The name may come from a file of anybody.
        raise ModelError(f"{self._where}: tensor {name[:100]!r} {reason}")
