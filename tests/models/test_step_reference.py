"""Three training steps against numbers computed outside this code; see scripts/make_step_reference.py."""

import json
from pathlib import Path

import numpy as np
import pytest

from cupyrec.batch import Batch
from cupyrec.config import DlrmConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.models.dlrm import Dlrm
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.train_stage import TrainStage

REFERENCE = json.loads((Path(__file__).parent.parent / "model_step_reference.json").read_text(encoding="utf-8"))
TOLERANCES = {np.float64: 1e-10, np.float32: 1e-5}


def named_weights(system):
    """Views of all weights by the names of the reference."""
    model, table = system.model, system.table
    weights = {f"table.{f}": table.weights_of(f) for f in range(len(table.table_rows))}
    for name, net in (("bottom", model.bottom), ("top", model.top)):
        for layer, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
            weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"] = W, b
    return weights


def dense_gradients(pooling):
    """The first step's gradients of all dense parameters, (P,): bottom then top, each layer's weight then bias."""
    gradients = REFERENCE["models"][pooling]["first_gradients"]
    names = [f"{net}.{layer}.{part}" for net in ("bottom", "top") for layer in (0, 1) for part in ("weight", "bias")]
    return np.concatenate([np.ravel(gradients[name]) for name in names])


def make_system(pooling, optimizer_name, dtype, *, warmup_steps=REFERENCE["warmup_steps"], learning_rate=None):
    """A resident system with the weights of the reference."""
    device, expected = CpuDevice(1), REFERENCE["models"][pooling]
    config = DlrmConfig(
        REFERENCE["table_rows"],
        REFERENCE["dense_features"],
        REFERENCE["dimension"],
        REFERENCE["bottom"],
        REFERENCE["top"],
        pooling=pooling,
        self_interaction=expected["self_interaction"],
    )
    optimizer = make_optimizer(optimizer_name, eps=REFERENCE["eps"])
    state_width = optimizer.row_state_width(config.dimension)
    stage = TrainStage(
        device,
        Dlrm(device, config, max_samples=6, dtype=dtype),
        optimizer,
        WarmupPolynomialDecay(learning_rate or REFERENCE["learning_rate"], warmup_steps),
        max_samples=6,
    )
    table = HostTable(device, config.table_rows, config.dimension, state_width=state_width, dtype=dtype)
    system = ResidentSystem(stage, table)
    weights = named_weights(system)
    assert set(weights) == set(expected["initial"])
    for name, values in expected["initial"].items():
        assert weights[name].shape == np.shape(values)
        weights[name][...] = values
    return system


def batches():
    for batch in REFERENCE["batches"]:
        yield Batch.from_bags(
            np.array(batch["dense"]), batch["bags"], np.array(batch["labels"]), REFERENCE["table_rows"]
        )


@pytest.mark.parametrize("optimizer_name", ["sgd", "adagrad", "rowwise-adagrad"])
@pytest.mark.parametrize(("pooling", "dtype"), [("sum", np.float64), ("mean", np.float64), ("sum", np.float32)])
def test_three_steps(pooling, optimizer_name, dtype, monkeypatch):
    tolerance = TOLERANCES[dtype]
    system, expected = make_system(pooling, optimizer_name, dtype), REFERENCE["models"][pooling]
    run, forward, logits = expected["runs"][optimizer_name], system.model.forward, []

    def recorded(dense, Y):
        logits.append(forward(dense, Y).copy())
        return forward(dense, Y)

    monkeypatch.setattr(system.model, "forward", recorded)
    for result, loss in zip(system.train(batches()), run["losses"], strict=True):
        assert result.loss == pytest.approx(loss, rel=tolerance)
        if result.step == 1:
            gradients = dense_gradients(pooling)
            np.testing.assert_allclose(system.model.gradients, gradients, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(logits, run["logits"], rtol=tolerance, atol=tolerance)
    for name, weight in named_weights(system).items():
        np.testing.assert_allclose(weight, run["weights"][name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_gradients_of_the_rows(pooling):
    system = make_system(pooling, "sgd", np.float64, warmup_steps=0, learning_rate=1.0)
    before = [system.table.weights_of(table).copy() for table in range(3)]
    next(system.train(batches()))
    for table in range(3):
        gradient = before[table] - system.table.weights_of(table)
        expected = REFERENCE["models"][pooling]["first_gradients"][f"table.{table}"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-10)


def test_the_reference_is_worth_comparing_with():
    for model in REFERENCE["models"].values():
        gradients = np.concatenate([np.ravel(values) for values in model["first_gradients"].values()])
        assert np.count_nonzero(gradients) > gradients.size / 2
        for run in model["runs"].values():
            moved = [np.abs(np.subtract(run["weights"][name], model["initial"][name])).max() for name in run["weights"]]
            assert min(moved) > 0.01, "every array of weights is meant to move"
            assert run["losses"][0] == pytest.approx(model["runs"]["sgd"]["losses"][0], rel=1e-12)
    lengths = [len(bag) for batch in REFERENCE["batches"] for bags in batch["bags"] for bag in bags]
    assert set(lengths) == {0, 1, 2, 3}
