"""The whole job against a slow reference: ids, options, inputs of every kind, any number of threads."""

import gzip
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from criteo_files_for_tests import make_line, make_lines, write
from prepare_reference import Rows, check_prepared, contents_of, criteo_rows, encode, files_of, read_prepared
from small_prepare import SIZES, criteo_text, prepare_small, small_shards

from cupyrec.datasets.criteo import CriteoFiles
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.preparing.prepare_options import PrepareOptions, ShardSizes
from cupyrec.datasets.preparing.text_keys import text_keys
from cupyrec.errors import ConfigError, DataError, MemoryPlanError, OutputError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    small_shards(monkeypatch)


@pytest.fixture
def text():
    return criteo_text(150)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ids": "first"},
        {"ids": "frequency", "min_count": 3},
        {"ids": "first", "min_count": 2},
        {"modulo": 40},
        {"ids": "first", "modulo": 7, "min_count": 20},
        {"hash_rows": [5] * 26},
        {"hash_rows": [300 * table + 1 for table in range(26)], "modulo": 1000},
    ],
    ids=str,
)
def test_is_what_the_slow_way_makes_of_it(tmp_path, text, options):
    path = write(tmp_path / "a.tsv", text)
    prepared = prepare_small(path, tmp_path / "out", **options)
    expected = encode(criteo_rows(text), **options)
    check_prepared(tmp_path / "out", expected, modulo=options.get("modulo"))
    assert prepared.manifest == read_manifest(tmp_path / "out")
    assert prepared.manifest.ids == ("hash" if "hash_rows" in options else options.get("ids", "frequency"))
    assert (prepared.rows_read, prepared.worked, prepared.bad_rows, prepared.bad_rows_path) == (150, True, 0, None)
    assert prepared.size_bytes == sum(
        len(content) for name, content in contents_of(tmp_path / "out").items() if name.startswith("shard")
    )


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 31, 32, 33, 64, 65])
def test_blocks_and_shards_of_every_length(tmp_path, rows):
    text = criteo_text(rows)
    prepare_small(write(tmp_path / "a.tsv", text), tmp_path / "out")
    check_prepared(tmp_path / "out", encode(criteo_rows(text)))


def test_files_follow_each_other_whatever_their_compression(tmp_path):
    parts = [criteo_text(rows, seed=rows) for rows in (5, 70, 1, 40)]
    names = ("d", "c.gz", "b.tsv.zst", "a.txt")
    paths = [write(tmp_path / name, part) for name, part in zip(names, parts, strict=True)]
    prepared = prepare_small(paths, tmp_path / "out")
    check_prepared(tmp_path / "out", encode(criteo_rows(*parts)))
    assert [(file.name, file.samples, file.bad_rows) for file in prepared.manifest.inputs] == [
        (str(path), rows, 0) for path, rows in zip(paths, (5, 70, 1, 40), strict=True)
    ]


def test_neither_threads_nor_memory_nor_chunks_change_a_byte(tmp_path, text):
    path = write(tmp_path / "a.tsv", text)
    outcomes = []
    for number, (threads, chunk_bytes) in enumerate(itertools.product((1, 3), (300, 5000))):
        sizes = ShardSizes(SIZES.block_samples, SIZES.shard_samples, chunk_bytes)
        output = tmp_path / str(number)
        prepare_small(path, output, sizes=sizes, threads=threads, memory_bytes=10**9 + number)
        outcomes.append(contents_of(output))
    assert outcomes[0].keys()
    assert all(outcome == outcomes[0] for outcome in outcomes)


def test_narrow_types_for_ids(tmp_path):
    """The table of C1 has 256 rows, that of C2 257, that of C3 2**16 and that of C4 more."""
    hash_rows = [256, 257, 2**16, 2**16 + 1] + [2] * 22
    prepare_small(write(tmp_path / "a.tsv", criteo_text(10)), tmp_path / "out", hash_rows=hash_rows)
    types = pa.ipc.open_file(tmp_path / "out/shard-00000.arrow").schema.types
    assert types[2:7] == [pa.uint8(), pa.uint16(), pa.uint16(), pa.uint32(), pa.uint8()]


def test_types_of_renumbered_ids_are_those_of_the_tables(tmp_path):
    lines = b"".join(make_line(number, c15=b"%x" % number) for number in range(300))
    prepare_small(write(tmp_path / "a.tsv", lines), tmp_path / "out", min_count=2)
    for shard in read_manifest(tmp_path / "out").shards:
        assert pa.ipc.open_file(tmp_path / "out" / shard.file).schema.field("C1").type == pa.uint8()
    prepare_small(write(tmp_path / "a.tsv", lines), tmp_path / "more")
    for shard in read_manifest(tmp_path / "more").shards:
        assert pa.ipc.open_file(tmp_path / "more" / shard.file).schema.field("C1").type == pa.uint16()


def test_hashes_are_those_of_training_on_the_files(tmp_path, text):
    path = write(tmp_path / "a.tsv", text)
    hash_rows = [30 + table for table in range(26)]
    prepare_small(path, tmp_path / "out", hash_rows=hash_rows)
    source = CriteoFiles(path, hash_rows=hash_rows)
    (batch,) = source.batches(150)
    found = read_prepared(tmp_path / "out")
    starts = np.concatenate([[0], np.cumsum(hash_rows)[:-1]])
    ids = np.array(found.values).reshape(26, 150)
    np.testing.assert_array_equal(batch.rows.reshape(26, 150), ids + starts[:, None])
    np.testing.assert_array_equal(batch.dense, np.array(found.dense, dtype=np.float32))
    np.testing.assert_array_equal(batch.labels, found.labels)
    assert read_manifest(tmp_path / "out").encoding == source.encoding


@pytest.mark.parametrize("options", [{}, {"modulo": 50, "min_count": 2}, {"hash_rows": 9}], ids=str)
def test_a_vocabulary_of_before_gives_its_ids_to_test_data(tmp_path, text, options):
    other = criteo_text(60, seed=5, values=20)
    train = prepare_small(write(tmp_path / "a.tsv", text), tmp_path / "train", **options).manifest
    test = prepare_small(write(tmp_path / "b.tsv", other), tmp_path / "test", vocabulary=tmp_path / "train").manifest
    if "hash_rows" in options:
        check_prepared(tmp_path / "test", encode(criteo_rows(other), hash_rows=[9] * 26))
    else:
        keys = encode(criteo_rows(text), **options).keys
        expected = encode(criteo_rows(other), known=keys, modulo=options.get("modulo", 2**64))
        expected.counts = encode(criteo_rows(text), **options).counts
        check_prepared(tmp_path / "test", expected, modulo=options.get("modulo"))
        assert any(0 in ids for column in expected.rows.values for ids in column)
    assert (test.encoding, test.ids, test.categories) == (train.encoding, train.ids, train.categories)


def test_a_vocabulary_must_be_whole_and_fit(tmp_path, text):
    path = write(tmp_path / "a.tsv", text)
    prepare_small(path, tmp_path / "train")
    table = pa.table({"label": [1], "I1": [1], "C1": [1]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="train: has the dense features I1, I2"):
        prepare_small(tmp_path / "t.parquet", tmp_path / "test", vocabulary=tmp_path / "train")
    one, other = (tmp_path / "train/vocabulary" / name for name in ("C1.parquet", "C2.parquet"))
    one.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match="train: the vocabularies are not those of the data"):
        prepare_small(path, tmp_path / "test", vocabulary=tmp_path / "train")
    one.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"C1\.parquet: .*cannot be read"):
        prepare_small(path, tmp_path / "test2", vocabulary=tmp_path / "train")
    with pytest.raises(DataError, match="nothing: no prepared data"):
        prepare_small(path, tmp_path / "test2", vocabulary=tmp_path / "nothing")


def made_table(rows: int, seed: int = 3) -> tuple[pa.Table, Rows]:
    """A table with integers, texts and lists of both, and the rows in it."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    dense = draw.integers(0, 9, (2, rows))
    numbers = draw.zipf(1.5, rows) % 50 - 10
    texts = [f"v{value}" for value in draw.zipf(1.6, rows) % 30]
    number_lists = [(draw.zipf(1.7, count) % 20).tolist() for count in draw.integers(0, 4, rows)]
    text_lists = [[f"w{value % 9}" for value in each] for each in number_lists]
    table = pa.table(
        {
            "C1": pa.array(numbers, pa.int32()),
            "C2": pa.array(texts),
            "C3": pa.array(number_lists, pa.list_(pa.int64())),
            "C4": pa.array(text_lists, pa.list_(pa.string())),
            "I1": dense[0],
            "I2": dense[1],
            "label": labels,
        }
    )
    values = [
        [[int(value) % 2**64] for value in numbers],
        [[key_of(value)] for value in texts],
        number_lists,
        [[key_of(value) for value in each] for each in text_lists],
    ]
    return table, Rows(labels.tolist(), np.log(dense.T + 1).tolist(), values)


def key_of(text: str) -> int:
    keys, _ = text_keys(pa.array([text]))
    return int(keys[0])


@pytest.mark.parametrize("options", [{}, {"ids": "first"}, {"min_count": 3}, {"hash_rows": [7, 300, 5, 4]}], ids=str)
def test_tables_with_numbers_texts_and_lists(tmp_path, options):
    table, rows = made_table(100)
    pa.parquet.write_table(table.slice(0, 37), tmp_path / "a.parquet", row_group_size=10)
    pa.feather.write_feather(table.slice(37, 50), tmp_path / "b.feather", chunksize=9)
    with pa.ipc.new_stream(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table.slice(87))
    prepared = prepare_small(tmp_path, tmp_path / "out", **options)
    check_prepared(tmp_path / "out", encode(rows, **options), hashed_texts=[1, 3])
    assert [file.samples for file in prepared.manifest.inputs] == [37, 50, 13]
    if "hash_rows" not in options:
        texts = pa.parquet.read_table(tmp_path / "out/vocabulary/C2.parquet")
        assert [key_of(text) for text in texts["value"].to_pylist()] == texts["key"].to_pylist()


def test_columns_by_name_and_names_that_no_file_can_have(tmp_path):
    table, rows = made_table(40)
    table = table.rename_columns(["a/b", "x", "A/B", "y", "d", "e", "click"])
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    prepared = prepare_small(
        tmp_path / "t.parquet",
        tmp_path / "out",
        label="click",
        dense_columns=["e"],
        category_columns=["A/B", "a/b"],
    )
    expected = Rows(rows.labels, [[values[1]] for values in rows.dense], [rows.values[2], rows.values[0]])
    check_prepared(tmp_path / "out", encode(expected))
    assert [category.vocabulary for category in prepared.manifest.categories] == [
        "vocabulary/column-1.parquet",
        "vocabulary/column-2.parquet",
    ]


def test_tables_that_do_not_go_together(tmp_path):
    table, _ = made_table(5)
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    pa.parquet.write_table(table.set_column(0, "C1", pa.array(list("abcde"))), tmp_path / "b.parquet")
    pa.parquet.write_table(table.set_column(0, "C1", pa.array([True] * 5)), tmp_path / "c.parquet")
    text = write(tmp_path / "x.csv", make_lines(0, 3))
    with pytest.raises(DataError, match=r"b\.parquet: column C1 holds text values, but integer values in .*a\.parquet"):
        prepare_small([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out")
    with pytest.raises(DataError, match=r"c\.parquet: column C1 holds bool values, but integer values in .*a\.parquet"):
        prepare_small([tmp_path / "a.parquet", tmp_path / "c.parquet"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"a\.parquet is a table and .*x\.csv is text"):
        prepare_small([tmp_path / "a.parquet", text], tmp_path / "out")
    with pytest.raises(ConfigError, match="--label is for tables"):
        prepare_small(text, tmp_path / "out", label="x")
    with pytest.raises(ConfigError, match="--modulo is for numbers, but column C2 holds texts"):
        prepare_small(tmp_path / "a.parquet", tmp_path / "out", modulo=5)
    with pytest.raises(ConfigError, match="--on-bad-row skip is for text"):
        prepare_small(tmp_path / "a.parquet", tmp_path / "out", on_bad_row="skip")
    with pytest.raises(ConfigError, match="--hash-rows has 3 numbers, but there are 4 category columns"):
        prepare_small(tmp_path / "a.parquet", tmp_path / "out", hash_rows=[1, 2, 3])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dense_columns": []}, r"--dense-columns names no column \(at least one; .* add a column of zeros\)$"),
        ({"category_columns": []}, "--category-columns names no column$"),
        ({"category_columns": ["C1", "C2", "C1"]}, "--category-columns names C1 twice"),
        ({"label": "label", "dense_columns": ["I1", "label"]}, "--dense-columns names label, which is the label"),
    ],
)
def test_columns_that_cannot_be_meant(tmp_path, options, message):
    pa.parquet.write_table(made_table(5)[0], tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=message):
        prepare_small(tmp_path / "a.parquet", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {},
            {"dense_columns": ["I2", "I1"]},
            "has the dense features I1, I2, but the input the same in another order, I2, I1; leave --dense-columns out",
        ),
        (
            {},
            {"category_columns": ["C2", "C1", "C3", "C4"]},
            "has the categories C1, C2, C3, C4, but the input the same in another order, C2, C1, C3, C4; leave "
            "--category-columns out",
        ),
        (
            {},
            {"category_columns": ["C2", "C1"]},
            "has the categories C1, C2, C3, C4, but the input C2, C1",
        ),
        ({"C3": [1, 2, 3, 4, 5]}, {}, "column C3 has single values in the input, lists in the data of the vocabulary"),
        ({"C2": [["a"]] * 5}, {}, "column C2 has lists in the input, single values in the data of the vocabulary"),
        ({"C1": [True, False] + [None] * 3}, {}, "column C1 holds integer values, but bool values in the input"),
        ({"C3": [[True], [], [], [], []]}, {}, "column C3 holds integer values, but lists of bool values in the input"),
        ({"C1": list("abcde")}, {}, "column C1 holds integer values, but text values in the input"),
    ],
)
def test_columns_that_are_not_those_of_the_vocabulary(tmp_path, columns, options, message):
    table, _ = made_table(40)
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    prepare_small(tmp_path / "a.parquet", tmp_path / "train")
    other = pa.table({**dict(zip(table.column_names, table.slice(0, 5).columns, strict=True)), **columns})
    pa.parquet.write_table(other, tmp_path / "b.parquet")
    with pytest.raises(DataError) as caught:
        prepare_small(tmp_path / "b.parquet", tmp_path / "test", vocabulary=tmp_path / "train", **options)
    assert str(caught.value) == f"{tmp_path / 'train'}: {message}"


@pytest.mark.parametrize("values", [[True, False, None], [1, 0, 1]])
def test_bools_are_known_by_a_vocabulary_of_bools(tmp_path, values):
    """Which cannot be told from one of zeros and ones."""
    table = pa.table({"label": [0, 1, 1], "I1": [1, 2, 3], "C1": values})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    prepare_small(tmp_path / "a.parquet", tmp_path / "train", ids="first")
    pa.parquet.write_table(table.set_column(2, "C1", pa.array([False, True, True])), tmp_path / "b.parquet")
    prepare_small(tmp_path / "b.parquet", tmp_path / "test", vocabulary=tmp_path / "train")
    assert read_prepared(tmp_path / "test").values == [[[2], [1], [1]]]


def with_bad_lines(text: bytes, numbers: list[int]) -> bytes:
    lines = text.splitlines(keepends=True)
    for number in numbers:
        lines[number] = b"bad %d\n" % number
    return b"".join(lines)


def test_bad_rows_are_left_out_and_written_down(tmp_path):
    bad = [[0, 31, 32, 33, 64, 65, 79], [3]]
    texts = [with_bad_lines(criteo_text(80), bad[0]), with_bad_lines(criteo_text(5, seed=8), bad[1])]
    paths = [write(tmp_path / name, text) for name, text in zip(("a.tsv", "b.tsv"), texts, strict=True)]
    prepared = prepare_small(paths, tmp_path / "out", on_bad_row="skip")
    check_prepared(tmp_path / "out", encode(criteo_rows(*texts)))
    assert [(file.samples, file.bad_rows) for file in prepared.manifest.inputs] == [(73, 7), (4, 1)]
    assert (prepared.bad_rows, prepared.bad_rows_path) == (8, tmp_path / "out/bad_rows.tsv")
    found = [line.split("\t") for line in (tmp_path / "out/bad_rows.tsv").read_text().splitlines()]
    assert [(line[0], int(line[1]), line[3]) for line in found] == [
        (str(path), number + 1, f"bad {number}") for path, lines in zip(paths, bad, strict=True) for number in lines
    ]


def test_bad_rows_go_where_they_are_told_to(tmp_path):
    path = write(tmp_path / "a.tsv", with_bad_lines(criteo_text(5), [2]))
    prepared = prepare_small(path, tmp_path / "out", on_bad_row="skip", bad_rows=tmp_path / "bad")
    assert prepared.bad_rows_path == tmp_path / "bad"
    assert "bad_rows.tsv" not in files_of(tmp_path / "out")
    for bad_rows, message in ((path, "overwrite the input"), (tmp_path / "no/x", "no folder"), (tmp_path, "a folder")):
        with pytest.raises(ConfigError, match=message):
            prepare_small(path, tmp_path / "other", on_bad_row="skip", bad_rows=bad_rows)


def test_a_bad_row_is_an_error_with_its_place_and_the_job_can_go_on(tmp_path):
    text = with_bad_lines(criteo_text(200), [150])
    path = write(tmp_path / "a.tsv", text)
    with pytest.raises(DataError, match=r"a\.tsv, line 151: expected 40 columns .*--on-bad-row skip"):
        prepare_small(path, tmp_path / "out")
    assert not (tmp_path / "out/prepared.json").exists()
    resumed = prepare_small(path, tmp_path / "out", on_bad_row="skip")
    assert resumed.rows_read < 199
    check_prepared(tmp_path / "out", encode(criteo_rows(text)))


def test_only_bad_rows_are_an_error(tmp_path):
    path = write(tmp_path / "a.tsv", b"x\ny\n")
    with pytest.raises(DataError, match=r"a\.tsv, line 1: none of the lines is a good row; of this one: expected 40"):
        prepare_small(path, tmp_path / "out", on_bad_row="skip")


def test_a_line_that_is_too_long_is_never_skipped(tmp_path):
    path = write(tmp_path / "a.tsv", make_lines(0, 5) + b"x" * 70_000 + b"\n" + make_lines(5, 6))
    sizes = ShardSizes(8, 32, 100_000)
    with pytest.raises(DataError, match=r"a\.tsv, line 6: .*longer than"):
        prepare_small(path, tmp_path / "out", sizes=sizes, on_bad_row="skip")


def test_compressed_data_that_end_early_are_an_error(tmp_path, text):
    (tmp_path / "a.gz").write_bytes(gzip.compress(text)[:-20])
    with pytest.raises(DataError, match=r"a\.gz: the gzip file is truncated"):
        prepare_small(tmp_path / "a.gz", tmp_path / "out")


def test_vocabularies_that_outgrow_the_memory_stop_the_job_which_then_goes_on(tmp_path):
    lines = b"".join(make_line(number, c17=b"%x" % number) for number in range(3000))
    path = write(tmp_path / "a.tsv", lines)
    with pytest.raises(MemoryPlanError, match=r"--memory 500 kB is too little: .* with 40 threads"):
        prepare_small(path, tmp_path / "out", memory_bytes=500_000, threads=40)
    with pytest.raises(MemoryPlanError, match=r"beyond --memory 1 MB; the largest, of C\d+, has [\d,]+ .*--modulo"):
        prepare_small(path, tmp_path / "out", memory_bytes=1_000_000, threads=1)
    resumed = prepare_small(path, tmp_path / "out")
    assert 0 < resumed.rows_read < 3000
    check_prepared(tmp_path / "out", encode(criteo_rows(lines)))


def test_progress_rises_to_the_end(tmp_path, text):
    reports = []
    path = write(tmp_path / "a.tsv", text)
    prepare_small(path, tmp_path / "out", hooks={"on_progress": lambda *report: reports.append(report)})
    assert reports == sorted(reports)
    assert reports[-1] == (1.0, 150)
    assert len(reports) > 5


def test_a_disk_that_is_surely_too_small_is_said_at_once(tmp_path, text, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"out: the data take at least .* more, but 1 kB are free"):
        prepare_small(write(tmp_path / "a.tsv", text), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": "best"}, "ids must be one of"),
        ({"ids": "hash"}, "--ids hash needs --hash-rows"),
        ({"ids": "first", "hash_rows": 5}, "--hash-rows makes ids by hashing, not by --ids first"),
        ({"hash_rows": 5, "min_count": 2}, "--hash-rows and --min-count exclude each other"),
        ({"hash_rows": 0}, "--hash-rows must be a whole number from 1"),
        ({"hash_rows": [5, 2**32 + 1]}, "--hash-rows must be a whole number from 1 to 4294967296"),
        ({"min_count": 0}, "--min-count must be"),
        ({"modulo": -1}, "--modulo must be"),
        ({"threads": 0}, "--threads must be"),
        ({"on_bad_row": "keep"}, "on_bad_row must be"),
        ({"vocabulary": "x", "ids": "first"}, "--vocabulary and --ids exclude each other"),
        ({"vocabulary": "x", "dense_transform": "none"}, "--vocabulary and --dense-transform exclude each other"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(ConfigError, match=message):
        PrepareOptions("a", "b", **options)
