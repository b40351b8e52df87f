"""Raw data, configurations and counts of rows, spoilt at random."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from criteo_lines import learnable_text
from hypothesis import given
from hypothesis import strategies as st
from spoilt_files import check_read_or_refused

from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.embedding.row_counts import read_row_counts, write_row_counts
from cupyrec.run_config import RunConfig, read_config_file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    text = learnable_text(40).encode()
    (folder / "day_0").write_bytes(text)
    (folder / "day_0.gz").write_bytes(gzip.compress(text, mtime=0))
    (folder / "day_0.zst").write_bytes(pa.compress(text, codec="zstd", asbytes=True))
    config = RunConfig(paths=("a", "b"), valid=("0.1",), bottom_mlp=(8, 4), dimension=4, row_counts="c.npy", seed=7)
    (folder / "run.toml").write_text(config.to_toml())
    write_row_counts(folder / "counts.npy", np.arange(30, dtype=np.uint32))
    return folder


def read_text(path, on_bad_row):
    source = CriteoFiles(
        path, hash_rows=50, on_bad_row=on_bad_row, bad_rows_path=path.parent / "bad", _chunk_bytes=1000
    )
    for batch in source.batches(16):
        batch.validate((50,) * 26, 13)


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("file", ["day_0", "day_0.gz", "day_0.zst"])
@given(data=st.data())
def test_raw_data(whole, file, on_bad_row, data):
    check_read_or_refused(data, whole, file, lambda folder: read_text(folder / file, on_bad_row))


@given(data=st.data())
def test_a_configuration(whole, data):
    def read(folder):
        RunConfig.from_values(read_config_file(folder / "run.toml"), source="run.toml")

    check_read_or_refused(data, whole, "run.toml", read)


@given(data=st.data())
def test_counts_of_rows(whole, data):
    check_read_or_refused(data, whole, "counts.npy", lambda folder: read_row_counts(folder / "counts.npy", 30))
