"""Adagrad: state, where eps stands."""

import numpy as np

from cupyrec.devices.cpu import CpuDevice
from cupyrec.optim.adagrad import Adagrad


def test_one_h_for_each_weight():
    assert (Adagrad().row_state_width(16), Adagrad().dense_state_size(100)) == (16, 100)


def test_eps_stands_outside_the_root():
    w, h = np.array([1.0]), np.array([7.0])
    Adagrad(eps=2.0).update_dense(CpuDevice(1), w, np.array([3.0]), h, learning_rate=0.5)
    # h = 7 + 9 = 16; the step is 0.5 * 3 / (4 + 2).
    np.testing.assert_allclose([w[0], h[0]], [0.75, 16], rtol=1e-15)
