"""Kernels of rows touch no memory but that of their arrays: each lies against pages that may not be touched.

In a process of its own, which dies of a fault.
"""

import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
import mmap
import numpy as np
from cupyrec.batch import Batch, CoalescePlan
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.coalesce import Coalescer
from cupyrec.functions.embedding_bag import embedding_bag_backward, embedding_bag_forward
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.row_update import RowUpdate

# More rows than any kernel asks for ahead.
PAGE, ROWS, SAMPLES, DEVICE = mmap.PAGESIZE, 300, 200, CpuDevice(1)
libc = ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
kept = []


def guarded(array, at_end):
    pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    kept.append(memory)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, pages + 1):
        assert libc.mprotect(begin + page * PAGE, PAGE, 0) == 0
    start = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    copied = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copied[...] = array
    return copied


for D in (3, 16):
    for at_end in (False, True):
        random = np.random.default_rng(D)
        bags = [random.integers(0, ROWS, random.integers(0, 5)).tolist() for _ in range(SAMPLES - 1)] + [[0, ROWS - 1]]
        batch = Batch.from_bags(np.zeros((SAMPLES, 1)), [bags], np.zeros(SAMPLES), [ROWS])
        rows, offsets = guarded(batch.rows, at_end), guarded(batch.offsets, at_end)
        plan = Coalescer(DEVICE, [ROWS]).plan(batch)
        names = CoalescePlan.__dataclass_fields__
        plan = CoalescePlan(**{name: guarded(np.ascontiguousarray(getattr(plan, name)), at_end) for name in names})
        dY = guarded(random.standard_normal((SAMPLES, 1, D)).astype(np.float32), at_end)
        Y, dW = (guarded(np.empty(shape, np.float32), at_end) for shape in ((SAMPLES, 1, D), (plan.unique, D)))
        embedding_bag_backward(DEVICE, dY, offsets, plan, dW, mean=True)
        for name in ("sgd", "adagrad", "rowwise-adagrad"):
            optimizer = make_optimizer(name, eps=1e-8)
            width = D + optimizer.row_state_width(D)
            records = guarded(random.random((ROWS, width), np.float32), at_end)
            embedding_bag_forward(DEVICE, records, rows, offsets, Y, mean=False)
            optimizer.update_rows(DEVICE, RowUpdate(records, dY, offsets, plan, False), learning_rate=0.1)
print("none")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are guarded as Linux does it")
def test_nothing_beyond_the_arrays_is_touched():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout) == (0, "none\n"), done.stderr
