import gzip
import re
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from cupyrec.datasets.planted_model import PlantedModel
from cupyrec.datasets.synthetic import BLOCK_ROWS, generate_blocks, write_blocks
from cupyrec.errors import ConfigError

CRITEO_LINE = re.compile(rb"[01](\t(-?\d+)?){13}(\t([0-9a-f]{8})?){26}")
SAMPLE = Path(__file__).parents[2] / "data" / "sample.tsv.gz"
MODEL = PlantedModel(5, 10_000)


def text_of(blocks):
    return b"".join(block.text.tobytes() for block in blocks)


@pytest.fixture(scope="module")
def thousand_rows():
    return text_of(generate_blocks(MODEL, 0, 1_000))


def test_every_line_is_a_criteo_line(thousand_rows):
    lines = thousand_rows.splitlines()
    assert len(lines) == 1_000
    assert all(CRITEO_LINE.fullmatch(line) for line in lines)


@pytest.mark.parametrize("block_rows", [1, 7, 999, 1_000])
def test_the_block_size_changes_nothing(thousand_rows, block_rows):
    assert text_of(generate_blocks(MODEL, 0, 1_000, block_rows=block_rows)) == thousand_rows


def test_a_smaller_set_is_the_beginning_of_a_larger_one(thousand_rows):
    assert text_of(generate_blocks(MODEL, 0, BLOCK_ROWS + 5)).startswith(thousand_rows)


def test_a_range_is_a_part_of_the_whole(thousand_rows):
    lines = thousand_rows.splitlines(keepends=True)
    assert text_of(generate_blocks(MODEL, 300, 450)) == b"".join(lines[300:450])


@pytest.mark.parametrize("other", [PlantedModel(6, 10_000), PlantedModel(5, 11_000), PlantedModel(5, 10_000, 0.1)])
def test_seed_and_options_change_the_rows(thousand_rows, other):
    assert text_of(generate_blocks(other, 0, 1_000)) != thousand_rows


def test_labels_are_calibrated_against_the_planted_probabilities():
    blocks = list(generate_blocks(MODEL, 0, 60_000))
    labels = np.concatenate([block.labels for block in blocks])
    probabilities = 1 / (1 + np.exp(-np.concatenate([block.logits for block in blocks])))
    order = np.argsort(probabilities)
    for part in np.array_split(order, 10):
        deviation = np.sqrt((probabilities[part] * (1 - probabilities[part])).sum()) / len(part)
        assert abs(labels[part].mean() - probabilities[part].mean()) < 4 * deviation
    assert probabilities[order[-6_000:]].mean() > 5 * probabilities[order[:6_000]].mean()


def test_blocks_hold_the_labels_of_their_text():
    (block,) = generate_blocks(MODEL, 10, 60)
    assert [float(line[:1]) for line in block.text.tobytes().splitlines()] == block.labels.tolist()
    assert (block.logits.dtype, block.labels.dtype, block.text.dtype) == (np.float32, np.float32, np.uint8)
    assert block.logits.shape == block.labels.shape == (50,)


def read(path):
    if path.suffix == ".zst":
        with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd") as stream:
            return stream.read()
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.parametrize("compression", [None, "gz", "zst"])
def test_any_number_of_files_holds_the_same_rows(tmp_path, thousand_rows, compression):
    ending = "" if compression is None else f".{compression}"
    single = tmp_path / f"single{ending}"
    rows = sum(len(block.labels) for block in write_blocks(MODEL, 1_000, single, compression=compression))
    assert rows == 1_000
    assert read(single) == thousand_rows
    list(write_blocks(MODEL, 1_000, tmp_path / "days", files=3, compression=compression))
    days = [tmp_path / "days" / f"day_{number}{ending}" for number in range(3)]
    assert sorted((tmp_path / "days").iterdir()) == days
    assert [read(day).count(b"\n") for day in days] == [333, 333, 334]
    assert b"".join(read(day) for day in days) == thousand_rows


def test_gzip_files_hold_neither_time_nor_name(tmp_path):
    list(write_blocks(MODEL, 10, tmp_path / "a.gz", compression="gz"))
    header = (tmp_path / "a.gz").read_bytes()[:10]
    flags, time = header[3], header[4:8]
    assert (flags, time) == (0, b"\0\0\0\0")


@pytest.mark.parametrize(("rows", "files"), [(0, 1), (-5, 1), (3, 4), (3, 0)])
def test_numbers_that_cannot_be_are_refused(tmp_path, rows, files):
    with pytest.raises(ConfigError, match="rows"):
        list(write_blocks(MODEL, rows, tmp_path / "a", files=files))


def test_an_unknown_compression_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="compression must be one of gz, zst, but is xz"):
        list(write_blocks(MODEL, 5, tmp_path / "a", compression="xz"))


def test_the_committed_sample_is_what_the_generator_makes():
    """The first rows of data/sample.tsv.gz, made as data/README.md says."""
    expected = text_of(generate_blocks(PlantedModel(1, 10_000), 0, 2_000))
    with gzip.open(SAMPLE) as sample:
        assert sample.read(len(expected)) == expected
