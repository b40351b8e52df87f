"""Lists and texts of any length are read, kept and written within the memory that is planned."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from prepare_reference import Rows, check_prepared, contents_of, encode, files_of
from small_prepare import prepare_small, small_shards

from cupyrec.datasets.preparing import order_phase, raw_input, read_phase, rewrite
from cupyrec.datasets.preparing.raw_tables import RawTable
from cupyrec.datasets.preparing.text_keys import text_keys
from cupyrec.errors import DataError, MemoryPlanError

OPTIONS = [{}, {"ids": "first"}, {"hash_rows": 300}, {"ids": "first", "min_count": 2}]
SELECTED = {"label": "label", "dense": ["I1"], "categories": ["C1", "C2"], "transform": "none"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


def table_of(lengths, *, texts=False, seed=1):
    """Two list columns, the second of them twice as long; and the rows in them."""
    draw = np.random.default_rng(seed)
    columns, values = {}, []
    for name, factor in (("C1", 1), ("C2", 2)):
        lists = [draw.integers(0, 400, factor * length).tolist() for length in lengths]
        if texts:
            lists = [[f"{value}" * (value % 5 + 1) for value in each] for each in lists]
            columns[name] = pa.array(lists, pa.list_(pa.string()))
            values.append([text_keys(pa.array(each, pa.string()))[0].tolist() for each in lists])
        else:
            columns[name] = pa.array(lists, pa.list_(pa.int64()))
            values.append(lists)
    n = len(lengths)
    return pa.table({"label": [1] * n, "I1": [2.0] * n, **columns}), Rows([1.0] * n, [[np.log(3)]] * n, values)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(raw_input, "TABLE_BLOCK_BYTES", 1000)


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_long_lists_come_out_as_they_were(tmp_path, small_parts, options, texts):
    lengths = [0] * 40 + [3] * 30 + [700, 0, 1] + [50] * 30
    table, rows = table_of(lengths, texts=texts)
    pa.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=50)
    prepare_small(tmp_path / "t.parquet", tmp_path / "out", **options)
    expected = encode(rows, **options | ({"hash_rows": [300] * 2} if "hash_rows" in options else {}))
    check_prepared(tmp_path / "out", expected, hashed_texts=[0, 1] if texts else [])


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_blocks_of_long_lists_have_fewer_rows(tmp_path, name, texts):
    lengths = [0] * 300 + [2] * 300 + [2000, 1, 1, 300, 300, 300] + [10] * 100
    table, _ = table_of(lengths, texts=texts)
    if name.endswith("parquet"):
        pa.parquet.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, table.schema) as writer:
            writer.write_table(table)
    blocks = list(RawTable(tmp_path / name).blocks(**SELECTED, block_rows=256, block_bytes=8000))
    assert sum(map(len, blocks)) == len(lengths)
    assert len(blocks[0]) == 256
    taken = [block.columns[0].keys.nbytes + block.columns[1].keys.nbytes for block in blocks]
    largest = max(taken)
    assert sum(each >= 16_000 for each in taken) == 1
    # Rows before it that had room themselves, and the one of 6,000 values.
    assert largest <= 8000 + 48_000


def test_other_parts_change_no_byte(tmp_path, monkeypatch):
    table, _ = table_of([*range(60), 900, *range(60)], texts=True)
    pa.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=17)
    prepare_small(tmp_path / "t.parquet", tmp_path / "large")
    monkeypatch.setattr(raw_input, "TABLE_BLOCK_BYTES", 500)
    prepare_small(tmp_path / "t.parquet", tmp_path / "small", threads=1)
    assert contents_of(tmp_path / "large") == contents_of(tmp_path / "small")


def test_a_single_row_that_is_too_large_is_said(tmp_path, small_parts):
    table, rows = table_of([1] * 50 + [100_000] + [1] * 50)
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(MemoryPlanError, match=r"rows with long lists or texts take .* larger --memory to go on"):
        prepare_small(tmp_path / "t.parquet", tmp_path / "out", memory_bytes=10_000_000, threads=1)
    prepare_small(tmp_path / "t.parquet", tmp_path / "out", memory_bytes=50_000_000, threads=1)
    check_prepared(tmp_path / "out", encode(rows))


def test_a_block_that_is_too_large_is_said(tmp_path, monkeypatch, small_parts):
    table, rows = table_of([100] * 50)
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(read_phase, "BYTES_PER_LIST_ID", 10_000)
        with pytest.raises(
            MemoryPlanError, match=r"rows with long lists or texts take 2\d\.\d MB .* larger --memory to go on"
        ):
            prepare_small(tmp_path / "t.parquet", tmp_path / "out", memory_bytes=20_000_000, threads=1)
    prepare_small(tmp_path / "t.parquet", tmp_path / "out", memory_bytes=20_000_000, threads=1)
    check_prepared(tmp_path / "out", encode(rows))


def test_more_values_in_a_block_than_32_bits_count(tmp_path, monkeypatch):
    table, _ = table_of([10] * 33)
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    monkeypatch.setattr(read_phase, "MOST_BLOCK_IDS", 159)
    message = r"t\.parquet: column C2 has 160 values in 8 rows one after the other, and 159 at most can be; shorten"
    with pytest.raises(DataError, match=message):
        prepare_small(tmp_path / "t.parquet", tmp_path / "out")


def test_nothing_is_left_of_lists(tmp_path, small_parts):
    """Not at the end, and at the end of reading neither."""
    table, _ = table_of([5] * 100)
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    seen = []

    def look():
        seen.append([name for name in files_of(tmp_path / "out") if "lists-" in name])
        return False

    prepare_small(tmp_path / "t.parquet", tmp_path / "out", hooks={"stop": look}, threads=1)
    assert seen[0]
    assert seen[-1] == []


def test_columns_are_ordered_one_by_one_where_memory_is_short(monkeypatch):
    from cupyrec.datasets.preparing.vocabulary import Vocabulary

    vocabularies = [Vocabulary() for _ in range(3)]
    for number, vocabulary in enumerate(vocabularies):
        vocabulary.extend(np.arange(1, 1000 * (number + 1), dtype=np.uint64))
        vocabulary.drop_slots()
    held = sum(vocabulary.memory_bytes for vocabulary in vocabularies)
    each = order_phase.BYTES_PER_VALUE + order_phase.GROUP_BYTES_PER_ROW
    for room, at_once in ((0, 1), (3000, 1), (4999, 1), (5000, 2), (5999, 2), (6000, 3), (10**6, 3)):
        assert order_phase._at_once(vocabularies, 4, held + room * each) == at_once
    assert order_phase._at_once(vocabularies, 2, held + 10**9) == 2


def test_few_shards_are_written_again_at_once_where_memory_is_short(tmp_path, monkeypatch):
    table, rows = table_of([5] * 200)
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    pools = []
    real = rewrite.ThreadPoolExecutor
    monkeypatch.setattr(rewrite, "ThreadPoolExecutor", lambda threads: pools.append(threads) or real(threads))
    for number, most in enumerate((10**9, 1)):
        monkeypatch.setattr(rewrite, "BLOCKS_IN_MEMORY", 10**9 // most)
        prepare_small(tmp_path / "t.parquet", tmp_path / str(number), threads=3)
        check_prepared(tmp_path / str(number), encode(rows))
    assert pools == [3, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read as Linux has it")
def test_the_peak_of_a_process_with_long_lists(tmp_path):
    """Of 10 million values, 80 MB of keys, a block is in memory as a whole, 8 million ids, and little else."""
    script = tmp_path / "measure.py"
    script.write_text(
        "import re, sys\n"
        "from cupyrec.datasets.preparing.job import prepare\n"
        "from cupyrec.datasets.preparing.prepare_options import PrepareOptions\n"
        "prepare(PrepareOptions(sys.argv[1], sys.argv[2], threads=1, hash_rows=50, memory_bytes=2 * 10**8))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    peaks = []
    for rows in (2_000, 20_000):
        values = pa.array(np.random.default_rng(0).integers(0, 1000, 500 * rows))
        lists = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * 500), values)
        table = pa.table({"label": np.zeros(rows, np.int8), "I1": np.zeros(rows), "C1": lists})
        pa.parquet.write_table(table, tmp_path / f"{rows}.parquet", use_dictionary=False)
        command = [sys.executable, script, tmp_path / f"{rows}.parquet", tmp_path / f"out{rows}"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        peaks.append(int(done.stdout) * 1024)
    # Four bytes each as they were kept, one as they are written, and what pyarrow takes on the way.
    assert peaks[1] - peaks[0] < 100_000_000
