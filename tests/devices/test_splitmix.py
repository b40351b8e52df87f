"""The mixing function of SplitMix64."""

import numpy as np
import reference
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.devices.splitmix import GOLDEN_GAMMA, mix64


def test_known_answers():
    # The first outputs of splitmix64 from seed 0, as its authors' implementation gives them.
    outputs = [int(mix64(np.uint64(int(GOLDEN_GAMMA) * step % 2**64))) for step in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(st.integers(0, 2**64 - 1))
def test_it_is_the_references(z):
    assert int(mix64(np.uint64(z))) == reference.mix64(z)
