"""The whole DLRM: gradients by central differences, the check's teeth, NaN, memory, seeds."""

import math
from unittest.mock import patch

import numpy as np
import pytest
from batch_strategies import random_batch
from gradcheck import assert_gradient

from cupyrec.config import DlrmConfig
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.embedding.host_table import HostTable
from cupyrec.functions.embedding_bag import embedding_bag_forward
from cupyrec.models import dlrm, mlp
from cupyrec.models.dlrm import Dlrm, activation_elements, dense_parameters
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.sgd import Sgd

# (B, table rows, D, pooling, self_interaction); F is 1, 2, 5.
CASES = [
    (1, (1,), 1, "sum", False),
    (3, (4, 1), 3, "mean", True),
    (7, (5, 1, 2, 3, 4), 16, "mean", False),
]


forward_of_activation = mlp.bias_activation_forward
backward_of_activation = mlp.bias_activation_backward
interaction_backward = dlrm.dot_interaction_backward
loss_of_logits = dlrm.bce_with_logits


class SmallModel:
    """A DLRM in float64 with its embedding rows and one batch."""

    def __init__(self, samples, table_rows, dimension, pooling, self_interaction, *, seed=17):
        self.device = CpuDevice(1)
        self.config = DlrmConfig(
            table_rows, 2, dimension, (3, dimension), (5, 1), pooling=pooling, self_interaction=self_interaction
        )
        random = np.random.default_rng(seed)
        self.batch = random_batch(random, table_rows, samples, dense_features=2, dtype=np.float64)
        self.table = HostTable(self.device, table_rows, dimension, dtype=np.float64)
        self.rows = self.table.records[:, :dimension]
        self.rows[:] = random.standard_normal(self.rows.shape)
        self.model = Dlrm(self.device, self.config, max_samples=samples, dtype=np.float64)
        self.model.parameters[:] = random.standard_normal(self.model.parameters.shape) / 2
        self.Y = np.empty((samples, len(table_rows), dimension))

    def loss(self):
        """The mean loss; fills the gradients and dY."""
        mean = self.config.pooling == "mean"
        embedding_bag_forward(self.device, self.table.records, self.batch.rows, self.batch.offsets, self.Y, mean=mean)
        logits = self.model.forward(self.batch.dense, self.Y)
        self.dY = self.model.backward(self.batch.dense, self.Y, logits, self.batch.labels)
        return float(self.model.loss_sum[0]) / self.batch.samples

    def row_gradient(self):
        """What one SGD step at rate 1 takes away from every row."""
        self.loss()
        before = self.rows.copy()
        plan = Coalescer(self.device, self.config.table_rows).plan(self.batch)
        update = RowUpdate(self.table.records, self.dY, self.batch.offsets, plan, self.config.pooling == "mean")
        Sgd().update_rows(self.device, update, learning_rate=1.0)
        gradient = before - self.rows
        self.rows[:] = before
        return gradient


def nearest_kink(small):
    """The smallest distance of a hidden unit from the kink of its ReLU."""
    distances = []

    def recorded(device, Y, b, *, relu):
        if relu:
            distances.append(np.abs(Y + b).min())
        forward_of_activation(device, Y, b, relu=relu)

    with patch.object(mlp, "bias_activation_forward", recorded):
        small.loss()
    assert len(distances) == 3
    return min(distances)


@pytest.fixture(params=CASES, ids=["B1 F1 D1", "B3 F2 D3", "B7 F5 D16"])
def small(request):
    made = SmallModel(*request.param)
    assert nearest_kink(made) > 1e-3, "too near a kink for differences"
    return made


def test_gradients_of_all_dense_parameters(small):
    small.loss()
    gradient = small.model.gradients.copy()
    assert np.count_nonzero(gradient) > gradient.size / 2
    assert_gradient(small.loss, small.model.parameters, gradient)


def test_gradients_of_all_embedding_rows(small):
    gradient = small.row_gradient()
    assert gradient.any()
    assert_gradient(small.loss, small.rows, gradient)


def without_relu(device, dY, Y, partial_sums, *, relu):
    backward_of_activation(device, dY, Y, partial_sums, relu=False)


def without_products(device, dR, X, Y, dX, dY, *, self_interaction):
    interaction_backward(device, dR, X, Y, dX, dY, self_interaction=self_interaction)
    dX[:] = dR[:, : X.shape[1]]


def without_mean(device, logits, labels, dlogits, loss_sum):
    loss_of_logits(device, logits, labels, dlogits, loss_sum)
    dlogits *= len(labels)


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (mlp, "bias_activation_backward", without_relu),
        (dlrm, "dot_interaction_backward", without_products),
        (dlrm, "bce_with_logits", without_mean),
    ],
)
def test_a_wrong_backward_pass_is_noticed(module, name, wrong, monkeypatch):
    small = SmallModel(*CASES[1])
    monkeypatch.setattr(module, name, wrong)
    small.loss()
    gradient = small.model.gradients.copy()
    with pytest.raises(AssertionError):
        assert_gradient(small.loss, small.model.parameters, gradient)


def test_nan_in_any_input_reaches_the_loss():
    small = SmallModel(*CASES[1])
    assert math.isfinite(small.loss())
    used = small.rows[np.unique(small.batch.rows)]
    assert used.size
    inputs = [small.batch.dense, small.batch.labels, small.model.parameters]
    for array in inputs:
        for at in np.ndindex(array.shape):
            kept, array[at] = array[at], np.nan
            assert math.isnan(small.loss()), f"NaN at {at} of an array {array.shape}"
            array[at] = kept
    for row in range(len(small.rows)):
        kept = small.rows[row].copy()
        small.rows[row, 1] = np.nan
        assert math.isnan(small.loss()) == (row in small.batch.rows)
        small.rows[row] = kept
    assert math.isfinite(small.loss())


def test_parameters_and_memory_are_as_planned(monkeypatch):
    config = DlrmConfig((5, 6, 7), 3, 4, (8, 4), (9, 6, 1))
    elements = []
    empty = CpuDevice.zeros

    def counted(self, shape, dtype=np.float32):
        array = empty(self, shape, dtype)
        elements.append(array.size)
        return array

    monkeypatch.setattr(CpuDevice, "zeros", counted)
    model = Dlrm(CpuDevice(1), config, max_samples=100)
    width = 4 + 6
    parameters = (3 * 8 + 8) + (8 * 4 + 4) + (width * 9 + 9) + (9 * 6 + 6) + (6 + 1)
    assert model.parameters.size == model.gradients.size == dense_parameters(config) == parameters
    pooled = 100 * 3 * 4
    loss_sum = 1
    assert sum(elements) + pooled == 2 * parameters + activation_elements(config, 100) + loss_sum


def test_weights_depend_on_the_seed_alone():
    config = DlrmConfig((5, 6), 3, 4, (8, 4), (9, 1))
    drawn = [Dlrm(CpuDevice(1), config, max_samples=1, seed=seed).parameters for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()
    assert len(np.unique(drawn[0])) == drawn[0].size, "both MLPs draw from seeds of their own"
