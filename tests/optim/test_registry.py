"""Optimizers by name."""

import pytest

from cupyrec.errors import ConfigError
from cupyrec.optim.adagrad import Adagrad
from cupyrec.optim.registry import make_optimizer
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
