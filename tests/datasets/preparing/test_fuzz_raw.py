"""Raw input spoilt at random, of every kind that is prepared: it is prepared, or refused by an error of ours."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_prepare import criteo_text, prepare_small, small_shards
from spoilt_files import check_read_or_refused

from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.errors import CupyrecError

ROWS = 60
TEXTS = ("day_0", "day_0.gz", "day_0.zst")
TABLES = ("plain.parquet", "zstd.parquet", "file.arrow", "lz4.feather", "stream.arrow")


def made_table() -> pa.Table:
    draw = np.random.default_rng(2)
    numbers = draw.integers(-5, 30, ROWS)
    texts = [None if value < 0 else f"v{value}" for value in numbers]
    return pa.table(
        {
            "label": pa.array(draw.integers(0, 2, ROWS), pa.int8()),
            "I1": pa.array(draw.random(ROWS)),
            "I2": pa.array([None if value == 3 else int(value) for value in numbers], pa.int32()),
            "C1": pa.array(numbers, pa.int64()),
            "C2": pa.array(texts),
            "C3": pa.array(texts).dictionary_encode(),
            "C4": pa.array([list(range(value % 3)) for value in numbers], pa.list_(pa.uint16())),
            "C5": pa.array([[text, "w"] for text in texts], pa.list_(pa.string())),
        }
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    text = criteo_text(ROWS)
    (folder / "day_0").write_bytes(text)
    (folder / "day_0.gz").write_bytes(gzip.compress(text, mtime=0))
    (folder / "day_0.zst").write_bytes(pa.compress(text, codec="zstd", asbytes=True))
    table = made_table()
    pa.parquet.write_table(table, folder / "plain.parquet", compression=None, row_group_size=25)
    pa.parquet.write_table(table, folder / "zstd.parquet", compression="zstd")
    with pa.ipc.new_file(folder / "file.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    pa.feather.write_feather(table, folder / "lz4.feather", compression="lz4", chunksize=20)
    with pa.ipc.new_stream(folder / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        yield folder


def prepare_and_read(path, **options) -> None:
    """What is prepared can be read, too."""
    output = path.parent / "out"
    prepared = prepare_small(path, output, threads=1, **options)
    data = PreparedData(output)
    assert sum(len(batch.labels) for batch in data.batches(16)) == prepared.manifest.samples


@settings(max_examples=15)
@pytest.mark.parametrize("file", TEXTS)
@given(data=st.data(), on_bad_row=st.sampled_from(["error", "skip"]))
def test_text(whole, file, data, on_bad_row):
    check_read_or_refused(data, whole, file, lambda folder: prepare_and_read(folder / file, on_bad_row=on_bad_row))


@settings(max_examples=15)
@pytest.mark.parametrize("file", TABLES)
@given(data=st.data())
def test_tables(whole, file, data):
    check_read_or_refused(data, whole, file, lambda folder: prepare_and_read(folder / file))


@pytest.mark.parametrize("file", TABLES)
def test_a_byte_of_each_stretch_of_a_table_is_flipped(whole, tmp_path, file):
    """What random draws may miss."""
    content = (whole / file).read_bytes()
    refused = []
    for number, start in enumerate(range(0, len(content), max(len(content) // 20, 1))):
        path = tmp_path / str(number) / file
        path.parent.mkdir()
        path.write_bytes(content[:start] + bytes([content[start] ^ 0xFF]) + content[start + 1 :])
        try:
            prepare_and_read(path)
        except CupyrecError as error:
            refused.append(str(error))
    assert refused
    assert all("\n" not in message for message in refused)
