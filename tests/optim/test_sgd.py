"""SGD: state and dense steps."""

import numpy as np
import pytest
from dense_steps import check_dense_steps

from cupyrec.optim.sgd import Sgd


def test_no_state():
    assert (Sgd().row_state_width(16), Sgd().dense_state_size(100)) == (0, 0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
def test_dense_steps(dtype, tolerance):
    check_dense_steps(Sgd(), eps=0, dtype=dtype, tolerance=tolerance)
