"""Optimizers by name."""

import dataclasses

import pytest

from cupyrec.errors import ConfigError
from cupyrec.optim.adagrad import Adagrad
from cupyrec.optim.registry import check_optimizer, make_optimizer
from cupyrec.optim.rowwise_adagrad import RowwiseAdagrad
from cupyrec.optim.sgd import Sgd


def test_names():
    assert make_optimizer("sgd", eps=0.1) == Sgd()
    assert make_optimizer("adagrad", eps=0.1) == Adagrad(0.1)
    assert make_optimizer("rowwise-adagrad", eps=0.1) == RowwiseAdagrad(0.1)
    for name in ("sgd", "adagrad", "rowwise-adagrad"):
        assert make_optimizer(name, eps=0.1).name == name


def test_unknown_name():
    with pytest.raises(ConfigError, match="unknown optimizer 'adam'; choose sgd, adagrad or rowwise-adagrad"):
        make_optimizer("adam", eps=0.1)


class Plain:
    """What a trainer asks of an optimizer, but no dataclass."""

    name = "plain"
    row_state_width = dense_state_size = update_rows = update_dense = None


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (Adagrad, r"the optimizer must be an object, not the class Adagrad: Adagrad\(\)"),
        (Plain(), r"an object of a dataclass with the same members \(name, .*\), but a Plain is no dataclass"),
        (0.1, r"cupyrec\.Sgd\(\), .* but a float has no name, row_state_width"),
        (None, "a NoneType has no name"),
    ],
)
def test_what_is_no_optimizer(optimizer, message):
    with pytest.raises(ConfigError, match=message):
        check_optimizer(optimizer)


def test_one_of_ones_own():
    for optimizer in (Sgd(), Adagrad(), RowwiseAdagrad(), dataclasses.dataclass(Plain)()):
        check_optimizer(optimizer)
