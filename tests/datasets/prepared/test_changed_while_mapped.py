"""A shard that is cut off, written to, replaced or removed while it is being read."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from prepared_for_tests import random_samples, write_prepared

from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.errors import DataError

BLOCK, SHARD, SAMPLES = 8, 16, 44


@pytest.fixture
def folder(tmp_path, small_blocks):
    write_prepared(tmp_path / "data", random_samples(SAMPLES, (10, 300, 70_000), multi_hot=(1,)))
    return tmp_path / "data"


def half_a_block_read(folder):
    """The batches of 4 from the second on; no thread reads ahead."""
    batches = PreparedData(folder)._make(4, 0, 0)
    next(batches)
    return batches


def test_a_copy_put_in_its_place_is_read_on(folder):
    batches = half_a_block_read(folder)
    shutil.copy(folder / "shard-00000.arrow", folder / "copy")
    (folder / "copy").replace(folder / "shard-00000.arrow")
    assert sum(1 for _ in batches) == SAMPLES // 4 - 1


def test_other_numbers_written_to_it_are_found(folder):
    path = folder / "shard-00000.arrow"
    data = PreparedData(folder)
    list(data.batches(4))  # every block was good
    batches = data._make(4, 0, 0)
    next(batches)
    content = path.read_bytes()
    assert np.float32(9).tobytes() in content
    path.write_bytes(content.replace(np.float32(9).tobytes(), np.float32(-9).tobytes()))
    next(batches)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: damaged: the checksum of rows 8 to 15 is wrong"):
        next(batches)


def test_removed(folder):
    batches = half_a_block_read(folder)
    (folder / "shard-00000.arrow").unlink()
    next(batches)
    with pytest.raises(DataError, match=r"shard-00000\.arrow: a file of the prepared data is missing"):
        next(batches)


CUT_OFF = """
import os, sys
from pathlib import Path
from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.errors import DataError
manifest.BLOCK_SAMPLES, manifest.SHARD_SAMPLES = 8, 16
folder, left_bytes, shuffle = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "shuffled"
batches = PreparedData(folder, shuffle=shuffle, shuffle_window=16)._make(4, 0, 0)
read = [next(batches)]
for path in folder.glob("*.arrow"):
    os.truncate(path, left_bytes)
try:
    read += batches
except DataError as error:
    print(error)
print(sum(float(batch.dense.sum()) + float(batch.labels.sum()) + int(batch.rows.sum()) for batch in read))
"""


@pytest.mark.parametrize(("left_bytes", "order"), [(0, "as they are"), (1000, "shuffled")])
def test_cut_off_it_does_not_end_the_process(folder, left_bytes, order):
    """Neither what is read from then on nor batches that were made before need what is gone."""
    command = [sys.executable, "-c", CUT_OFF, folder, str(left_bytes), order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert re.search(rf"\.arrow: damaged: it has {left_bytes:,} bytes instead of", done.stdout)
