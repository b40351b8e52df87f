import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.datasets.preparing import vocabulary_file
from cupyrec.datasets.preparing.text_keys import text_keys
from cupyrec.datasets.preparing.vocabulary_file import read_texts, read_vocabulary, write_vocabulary
from cupyrec.errors import DataError, OutputError

KEYS = [0, 1, 2**32 - 1, 2**32, 0x123456789, 2**63, 2**64 - 1, 0xABC]
HEX = ["00000000", "00000001", "ffffffff", "100000000", "123456789", "8000000000000000", "f" * 16, "00000abc"]
TEXTS = ["click", None, "Grüße", "a\nb\t\0", "x" * 1000, "click2", "0", "9"]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(vocabulary_file, "GROUP_ROWS", 3)


def write(path, kind):
    """Write eight values. Returns what read_vocabulary should give."""
    counts = np.array([5, 1, 2**40, 0, 1, 1, 1, 1])
    texts, keys = None, np.array(KEYS, np.uint64)
    if kind == "text":
        keys, texts = text_keys(pa.array(TEXTS))
        texts = [texts[:1], texts[1:1], texts[1:6], texts[6:].cast(pa.string())]
    write_vocabulary(path, keys, counts, texts, kind)
    return keys, counts


@pytest.mark.parametrize("kind", ["hex", "integer", "text"])
def test_a_vocabulary_comes_back(tmp_path, kind):
    path = tmp_path / "C1.parquet"
    keys, counts = write(path, kind)
    found = read_vocabulary(path)
    assert found.kind == kind
    assert (found.keys.dtype, found.counts.dtype) == (np.uint64, np.int64)
    assert found.keys.tolist() == keys.tolist()
    assert found.counts.tolist() == counts.tolist()
    assert (found.texts is None) == (kind != "text")
    if kind == "text":
        assert found.texts.to_pylist() == TEXTS
    assert [file.name for file in tmp_path.iterdir()] == ["C1.parquet"]


@pytest.mark.parametrize("kind", ["hex", "integer", "text"])
def test_others_can_read_the_file_too(tmp_path, kind):
    keys, counts = write(tmp_path / "C1.parquet", kind)
    table = pq.read_table(tmp_path / "C1.parquet")
    assert table.column_names == ["id", "value", "key", "count"]
    assert table["id"].to_pylist() == list(range(1, 9))
    assert table["key"].to_pylist() == keys.tolist()
    assert table["count"].to_pylist() == counts.tolist()
    signed = [key - 2**64 if key >= 2**63 else key for key in KEYS]
    assert table["value"].to_pylist() == {"hex": HEX, "integer": signed, "text": TEXTS}[kind]
    assert pq.ParquetFile(tmp_path / "C1.parquet").num_row_groups == 3


@given(keys=st.lists(st.integers(0, 2**64 - 1), unique=True, min_size=1, max_size=8))
def test_hex_values_are_written_as_in_criteo_files(tmp_path_factory, keys):
    path = tmp_path_factory.getbasetemp() / "hex.parquet"
    write_vocabulary(path, np.array(keys, np.uint64), np.ones(len(keys), np.int64), None, "hex")
    assert pq.read_table(path)["value"].to_pylist() == [f"{key:08x}" for key in keys]
    assert read_vocabulary(path).keys.tolist() == keys


@pytest.mark.parametrize("kind", ["hex", "integer", "text"])
def test_the_bytes_are_always_the_same(tmp_path, kind):
    write(tmp_path / "one.parquet", kind)
    write(tmp_path / "other.parquet", kind)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


@pytest.mark.parametrize("kind", ["hex", "integer", "text"])
def test_an_empty_vocabulary(tmp_path, kind):
    path = tmp_path / "C1.parquet"
    write_vocabulary(path, np.array([], np.uint64), np.array([], np.int64), [] if kind == "text" else None, kind)
    found = read_vocabulary(path)
    assert len(found.keys) == len(found.counts) == 0
    assert found.texts is None or found.texts.to_pylist() == []


@pytest.mark.parametrize(
    ("texts", "kind", "message"),
    [
        (None, "text", "text column has texts"),
        (["a"], "hex", "text column has texts"),
        (["a"], "text", "fewer texts"),
        (["a", "b", "c"], "text", "more texts"),
    ],
)
def test_texts_must_belong_to_the_keys(tmp_path, texts, kind, message):
    pieces = None if texts is None else [pa.array(texts)]
    with pytest.raises(ValueError, match=message):
        write_vocabulary(tmp_path / "C1.parquet", np.arange(2, dtype=np.uint64), np.ones(2, np.int64), pieces, kind)
    assert list(tmp_path.iterdir()) == []


def test_texts_alone_come_back_in_pieces(tmp_path):
    keys, _ = write(tmp_path / "C1.parquet", "text")
    # Keys of values that came later are no matter.
    more = np.append(keys, np.uint64(5))
    pieces = list(read_texts(tmp_path / "C1.parquet", more, 8))
    assert [len(piece) for piece in pieces] == [3, 3, 2]
    assert pa.concat_arrays(pieces).to_pylist() == TEXTS


@pytest.mark.parametrize(("at", "n"), [(0, 8), (3, 8), (7, 8), (None, 6), (None, 7), (None, 9), (None, 0)])
def test_texts_alone_must_be_those_of_the_keys(tmp_path, at, n):
    keys, _ = write(tmp_path / "C1.parquet", "text")
    keys = np.append(keys, np.uint64(5))
    if at is not None:
        keys[at] += np.uint64(1)
    with pytest.raises(DataError, match=r"C1\.parquet: the vocabulary has changed since it was read"):
        list(read_texts(tmp_path / "C1.parquet", keys, n))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"C1\.parquet"):
        write(tmp_path / "none" / "C1.parquet", "hex")


@pytest.mark.parametrize("kind", ["hex", "integer", "text"])
def test_damage_is_noticed_wherever_it_is(tmp_path, kind):
    path = tmp_path / "C1.parquet"
    write(path, kind)
    whole = path.read_bytes()
    expected = read_vocabulary(path)
    noticed = 0
    places = range(len(kind) % 3, len(whole), 3)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = read_vocabulary(path)
        except DataError:
            noticed += 1
        else:
            # In what nothing depends on, such as the name of the program that wrote the file.
            assert found.keys.tolist() == expected.keys.tolist()
            assert found.counts.tolist() == expected.counts.tolist()
            assert found.texts == expected.texts
    assert noticed > len(places) / 2
    for length in (0, 3, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be read"):
            read_vocabulary(path)


def changed(table, column, values):
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(index), pa.chunked_array([values]))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("id", pa.array([1, 3, 2, 4, 5, 6, 7, 8], pa.uint32()), "do not fit together"),
        ("key", pa.array([*KEYS[:-1], 0xABD], pa.uint64()), "do not fit together"),
        ("value", pa.array([*HEX[:-1], "00000abd"]), "do not fit together"),
        ("count", pa.array([1] * 8, pa.int64()), "checksum"),
    ],
)
def test_a_file_that_somebody_changed(tmp_path, column, values, message):
    path = tmp_path / "C1.parquet"
    write(path, "hex")
    pq.write_table(changed(pq.read_table(path), column, values), path)
    with pytest.raises(DataError, match=message):
        read_vocabulary(path)


def test_a_foreign_file(tmp_path):
    path = tmp_path / "C1.parquet"
    pq.write_table(pa.table({"id": pa.array([1], pa.uint32())}), path)
    with pytest.raises(DataError, match="not a vocabulary"):
        read_vocabulary(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_vocabulary(tmp_path / "none.parquet")
