"""SGD: no state, one plain step."""

import numpy as np

from cupyrec.devices.cpu import CpuDevice
from cupyrec.optim.sgd import Sgd


def test_no_state():
    assert (Sgd().row_state_width(16), Sgd().dense_state_size(100)) == (0, 0)


def test_step():
    w = np.array([1.0, 2.0])
    Sgd().update_dense(CpuDevice(1), w, np.array([4.0, -1.0]), np.empty(0), learning_rate=0.5)
    np.testing.assert_array_equal(w, [-1, 2.5])
