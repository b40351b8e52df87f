"""The names of the DLRM reference, and what follows from the shapes of tensors that have them."""

import dataclasses

import numpy as np
import pytest

from cupyrec.config import DlrmConfig
from cupyrec.errors import ModelError
from cupyrec.saving.open_model import tensor_shapes
from cupyrec.saving.reference_names import are_reference_names, infer_config, reference_name

CONFIG = DlrmConfig((7, 40, 11), dense_features=3, dimension=4, bottom=(6, 4), top=(5, 9, 1))


def weights(config=CONFIG):
    return {reference_name(name): np.zeros(shape, np.float32) for name, shape in tensor_shapes(config).items()}


def test_the_names_are_those_of_the_reference():
    """Written down from a state dict of DLRM_Net with these widths."""
    assert {name: array.shape for name, array in weights().items()} == {
        "emb_l.0.weight": (7, 4),
        "emb_l.1.weight": (40, 4),
        "emb_l.2.weight": (11, 4),
        "bot_l.0.weight": (6, 3),
        "bot_l.0.bias": (6,),
        "bot_l.2.weight": (4, 6),
        "bot_l.2.bias": (4,),
        "top_l.0.weight": (5, 10),
        "top_l.0.bias": (5,),
        "top_l.2.weight": (9, 5),
        "top_l.2.bias": (9,),
        "top_l.4.weight": (1, 9),
        "top_l.4.bias": (1,),
    }


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(CONFIG, self_interaction=True, pooling="mean"),
        dataclasses.replace(CONFIG, table_rows=(1,), bottom=(4,), top=(1,)),
        dataclasses.replace(CONFIG, table_rows=tuple(range(1, 27)), dense_features=1, top=(1, 1)),
    ],
)
def test_the_shape_follows_from_the_weights_in_any_order(config):
    named = weights(config)
    assert infer_config(named, config.pooling, where="x") == config
    assert infer_config(dict(sorted(named.items(), reverse=True)), config.pooling, where="x") == config


def array(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"emb_l.1.weight": array(40, 5)}, "'emb_l.1.weight' has dimension 5, but emb_l.0.weight has 4"),
        ({"emb_l.1.weight": array(40)}, r"'emb_l.1.weight' is \(40,\), but a matrix was expected"),
        ({"emb_l.1.weight": array(0, 4)}, r"'emb_l.1.weight' is \(0, 4\), but a matrix"),
        ({"emb_l.1.weight": array(40, 4, dtype=np.float64)}, "'emb_l.1.weight' is float64, but float32"),
        ({"emb_l.1.weight": None}, "'emb_l.1.weight' is missing"),
        ({"emb_l.0.weight": None, "emb_l.1.weight": None, "emb_l.2.weight": None}, "'emb_l.0.weight' is missing"),
        ({"emb_l.999999.weight": array(1, 4)}, "'emb_l.3.weight' is missing"),
        ({"emb_l.03.weight": array(1, 4)}, "'emb_l.03.weight' has none of the names"),
        ({"emb_l.٣.weight": array(1, 4)}, "has none of the names"),
        ({"emb_l.9999999999999999999999.weight": array(1, 4)}, "has none of the names"),
        ({"emb_l.3.bias": array(1)}, "'emb_l.3.bias' has none of the names"),
        ({"emb_l.0.weight_q": array(7, 4)}, "'emb_l.0.weight_q' has none of the names"),
        ({"module.top_l.0.bias": array(5)}, "'module.top_l.0.bias' has none of the names"),
        ({"v_W_l.0": array(7)}, "'v_W_l.0' has none of the names"),
        ({"x" * 10**6: array(7)}, "'x{100}' has none of the names"),
        ({"bot_l.0.bias": None}, "'bot_l.0.bias' is missing"),
        ({"bot_l.0.weight": None}, "'bot_l.0.weight' is missing"),
        ({"bot_l.0.bias": array(7)}, r"'bot_l.0.bias' is \(7,\), but \(6,\) was expected"),
        ({"bot_l.1.weight": array(7, 6), "bot_l.1.bias": array(7)}, "'bot_l.4.weight' is missing"),
        ({"bot_l.2.weight": array(4, 7)}, "'bot_l.2.weight' takes 7 inputs, but the layer before gives 6"),
        (
            {"bot_l.2.weight": array(5, 6), "bot_l.2.bias": array(5)},
            "'bot_l.2.weight' ends the bottom MLP in 5, but the tables have dimension 4",
        ),
        (
            {"top_l.4.weight": array(2, 9), "top_l.4.bias": array(2)},
            "'top_l.4.weight' ends the top MLP in 2; one logit was expected",
        ),
        (
            {"top_l.0.weight": array(5, 11)},
            "'top_l.0.weight' takes 11 inputs, but the dot interaction of 3 tables of dimension 4 gives 10, or 14 with",
        ),
        ({"top_l.3.bias": array(3)}, "'top_l.6.weight' is missing"),
    ],
)
def test_the_tensor_that_does_not_fit_is_named(changes, message):
    named = {name: tensor for name, tensor in (weights() | changes).items() if tensor is not None}
    with pytest.raises(ModelError, match=message) as caught:
        infer_config(named, "sum", where="the-file")
    assert str(caught.value).startswith("the-file: tensor '")


def test_any_change_of_one_extent_is_found():
    """Of the rows of a table, the input's width and what both sides of a layer share nobody else knows."""
    for name, tensor in weights().items():
        for axis in range(tensor.ndim):
            if (name.startswith("emb_l") and axis == 0) or (name == "bot_l.0.weight" and axis == 1):
                continue
            shape = list(tensor.shape)
            shape[axis] += 1
            with pytest.raises(ModelError):
                infer_config(weights() | {name: array(*shape)}, "sum", where="x")


def test_weights_of_something_else_are_told_from_these():
    assert are_reference_names(["x", "emb_l.0.weight"])
    assert not are_reference_names(["embedding.0.weight", "emb_l.0.weight.x", "xemb_l.0.weight"])
    assert not are_reference_names([])
