"""Row-wise Adagrad: state, one accumulator a row, where eps stands."""

import numpy as np

from cupyrec.batch import Batch
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.rowwise_adagrad import RowwiseAdagrad


def test_one_h_for_each_row_and_each_dense_parameter():
    assert (RowwiseAdagrad().row_state_width(16), RowwiseAdagrad().dense_state_size(100)) == (1, 100)


def test_mean_of_the_squares_and_eps_outside_the_root():
    device = CpuDevice(1)
    batch = Batch.from_bags(np.zeros((2, 1)), [[[1], [1]]], np.zeros(2), [2])
    records = np.array([[9, 9, 9, 9], [1, 1, 1, 2.5]], dtype=np.float32)
    dY = np.array([[[1, 2, 3]], [[0, 0, 6]]], dtype=np.float32)
    update = RowUpdate(records, dY, batch.offsets, Coalescer(device, [2]).plan(batch), True)
    RowwiseAdagrad(eps=0.5).update_rows(device, update, learning_rate=0.5)
    # g = (1, 2, 9), the sum over both samples, coalesced before it is squared: h = 2.5 + 86 / 3.
    h = 2.5 + 86 / 3
    expected = [1 - 0.5 * g / (h**0.5 + 0.5) for g in (1, 2, 9)]
    np.testing.assert_allclose(records, [[9, 9, 9, 9], [*expected, h]], rtol=1e-6)
