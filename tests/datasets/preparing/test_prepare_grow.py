"""Vocabularies that grow: known values keep their ids and new ones follow, whatever the threads and stops."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from criteo_files_for_tests import make_line, write
from hypothesis import given, settings
from hypothesis import strategies as st
from prepare_reference import Rows, check_prepared, contents_of, criteo_rows, encode, read_prepared
from small_prepare import criteo_text, prepare_small, prepare_with_stops, small_shards

from cupyrec import PreparedData, SampleEncoder
from cupyrec.datasets.prepared.encoding import EarlierEncoding
from cupyrec.datasets.prepared.manifest import read_manifest
from cupyrec.datasets.preparing import known_vocabularies
from cupyrec.datasets.preparing import vocabulary as vocabulary_module
from cupyrec.datasets.preparing.job import Stopped
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.datasets.preparing.text_keys import text_keys
from cupyrec.datasets.preparing.vocabulary_coverage import coverages
from cupyrec.errors import ConfigError, DataError, MemoryPlanError
from cupyrec.inspection.inspection import inspect_path

KINDS = {"C1": pa.int64(), "C2": pa.string(), "C3": pa.list_(pa.int64()), "C4": pa.list_(pa.string()), "C5": pa.bool_()}
NUMBERS, TEXTS = st.integers(-2, 9) | st.none(), st.sampled_from([*"abcdefgh", ""]) | st.none()
RAW_ROWS = st.lists(
    st.tuples(
        NUMBERS,
        TEXTS,
        st.lists(NUMBERS, max_size=3) | st.none(),
        st.lists(TEXTS, max_size=3) | st.none(),
        st.booleans() | st.none(),
    ),
    min_size=1,
    max_size=40,
)


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        yield


@pytest.fixture
def days(tmp_path):
    """Three days, of which the later ones have values that those before do not have; day_1 is a part of day_2."""
    texts = [criteo_text(rows, seed=rows, values=values) for rows, values in ((70, 6), (50, 14), (110, 20))]
    texts[2] = texts[1] + texts[2]
    return [write(tmp_path / f"day_{number}.tsv", text) for number, text in enumerate(texts)]


def table_of(raw_rows) -> pa.Table:
    n = len(raw_rows)
    columns = [[row[number] for row in raw_rows] for number in range(len(KINDS))]
    arrays = {name: pa.array(values, kind) for (name, kind), values in zip(KINDS.items(), columns, strict=True)}
    return pa.table({"label": [1] * n, "I1": [2.0] * n, **arrays})


def rows_of(raw_rows) -> Rows:
    """With keys as values: of integers and bools they are themselves, a missing value has 0."""

    def key(value):
        if isinstance(value, str):
            return int(text_keys(pa.array([value]))[0][0])
        return int(value or 0) % 2**64

    def keys(value, number):
        if number in (2, 3):
            return [key(each) for each in value or []]
        return [key(value)]

    values = [[keys(row[number], number) for row in raw_rows] for number in range(len(KINDS))]
    return Rows([1.0] * len(raw_rows), [[np.log(3)]] * len(raw_rows), values)


def vocabularies_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents_of(folder).items() if name.startswith("vocabulary/")}


def encoding_of(folder: Path) -> EarlierEncoding:
    content = read_manifest(folder)
    return EarlierEncoding(content.encoding, content.table_rows)


@settings(max_examples=12)
@given(RAW_ROWS, RAW_ROWS)
def test_by_first_appearance_day_by_day_is_as_all_days_at_once(first, second):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(table_of(first), folder / "a.parquet")
        pq.write_table(table_of(second), folder / "b.parquet")
        prepare_small(folder / "a.parquet", folder / "a", ids="first")
        prepare_small(folder / "b.parquet", folder / "b", vocabulary=folder / "a", grow=True)
        prepare_small([folder / "a.parquet", folder / "b.parquet"], folder / "both", ids="first")
        # Values, ids and counts, to the byte.
        assert vocabularies_of(folder / "b") == vocabularies_of(folder / "both")
        both = [column[len(first) :] for column in read_prepared(folder / "both").values]
        assert read_prepared(folder / "b").values == both
        assert encoding_of(folder / "b") == encoding_of(folder / "both")
        # And what was there before has the ids that it had.
        prepare_small(folder / "a.parquet", folder / "again", vocabulary=folder / "b")
        assert read_prepared(folder / "again").values == read_prepared(folder / "a").values


@settings(max_examples=12)
@given(RAW_ROWS, RAW_ROWS, st.sampled_from(["frequency", "first"]), st.integers(1, 3), st.none() | st.integers(1, 3))
def test_new_values_are_ordered_and_left_out_as_the_slow_way_does_it(first, second, ids, min_count, new_min_count):
    before = encode(rows_of(first), ids, min_count=min_count)
    expected = encode(
        rows_of(second), ids, min_count=new_min_count or min_count, known=before.keys, known_counts=before.counts
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(table_of(first), folder / "a.parquet")
        pq.write_table(table_of(second), folder / "b.parquet")
        prepare_small(folder / "a.parquet", folder / "a", ids=ids, min_count=min_count)
        options = {"vocabulary": folder / "a", "grow": True, "min_count": new_min_count}
        grown = prepare_small(folder / "b.parquet", folder / "b", **options)
        check_prepared(folder / "b", expected)
        for content in (grown.manifest, read_manifest(folder / "b")):
            assert (content.ids, content.unknown) == (ids, None)
            had = read_manifest(folder / "a")
            new = content.encoding != had.encoding
            assert content.earlier == ((encoding_of(folder / "a"),) if new else ())
            assert new == (content.table_rows != had.table_rows)
        assert grown.new_values == tuple(
            len(now) - len(keys) for now, keys in zip(expected.keys, before.keys, strict=True)
        )
        assert grown.min_count == (new_min_count or min_count)


@pytest.mark.parametrize(
    "options",
    [{}, {"ids": "first"}, {"min_count": 3}, {"ids": "first", "min_count": 2}, {"modulo": 90}],
    ids=str,
)
def test_day_after_day_counts_are_those_of_all(tmp_path, days, options):
    expected, earlier, folder, grow = None, (), None, {}
    for number, day in enumerate(days):
        rows = criteo_rows(day.read_bytes())
        known = {} if expected is None else {"known": expected.keys, "known_counts": expected.counts}
        expected = encode(rows, **options, **known)
        output = tmp_path / str(number)
        content = prepare_small(day, output, **(grow or options)).manifest
        check_prepared(output, expected, modulo=options.get("modulo"))
        assert content.earlier == earlier
        assert content.dense_transform == "dlrm"
        assert PreparedData(output).earlier_encodings == {each.encoding: each.table_rows for each in earlier}
        earlier, grow = (*earlier, encoding_of(output)), {"vocabulary": output, "grow": True}
        folder = output
    assert len({each.encoding for each in earlier}) == 3
    if options == {"ids": "first"}:
        prepare_small(days, tmp_path / "all", ids="first")
        assert vocabularies_of(folder) == vocabularies_of(tmp_path / "all")
    inspect_path(folder, verify=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Texts, numbers and lists of both: two tables, and the first prepared by frequency and by first appearance."""
    folder = tmp_path_factory.mktemp("base")
    draw = np.random.default_rng(4)
    for name, rows, values in (("a", 60, 12), ("b", 170, 60)):
        numbers = (draw.zipf(1.4, rows) % values).tolist()
        lists = [(draw.zipf(1.5, count) % values).tolist() for count in draw.integers(0, 4, rows)]
        raw_rows = [
            (number, f"v{number}", each, [f"w{value}" for value in each], number % 2 == 0)
            for number, each in zip(numbers, lists, strict=True)
        ]
        pq.write_table(table_of(raw_rows), folder / f"{name}.parquet", row_group_size=23)
    for ids in ("frequency", "first"):
        prepare_small(folder / "a.parquet", folder / ids, ids=ids)
    return folder


@pytest.mark.parametrize("ids", ["frequency", "first"])
@pytest.mark.parametrize("min_count", [1, 2])
def test_stops_and_threads_change_no_byte(tmp_path, base, ids, min_count):
    grow = {"vocabulary": base / ids, "grow": True, "min_count": min_count}
    whole = prepare_small(base / "b.parquet", tmp_path / "whole", threads=3, **grow)
    assert min(whole.new_values) >= 0
    assert whole.new_values[0] > 5
    prepare_with_stops(base / "b.parquet", tmp_path / "stopped", **grow)
    assert contents_of(tmp_path / "stopped") == contents_of(tmp_path / "whole")
    again = prepare_small(base / "b.parquet", tmp_path / "whole", **grow)
    assert (again.worked, again.new_values, again.min_count) == (False, whole.new_values, min_count)


def stop_in_reading(paths, output, **options):
    with pytest.raises(Stopped):
        prepare_small(paths, output, hooks={"stop": lambda: True}, threads=1, **options)
    assert list(output.rglob("new-00000.arrow"))


def test_it_goes_on_with_the_vocabulary_elsewhere_and_not_with_another(tmp_path, base):
    grow = {"vocabulary": base / "first", "grow": True}
    prepare_small(base / "b.parquet", tmp_path / "whole", **grow)
    stop_in_reading(base / "b.parquet", tmp_path / "out", **grow)
    with pytest.raises(ConfigError, match=r'an unfinished preparation with vocabulary "[0-9a-f]+", not "'):
        prepare_small(base / "b.parquet", tmp_path / "out", vocabulary=base / "frequency", grow=True)
    shutil.copytree(base / "first", tmp_path / "moved")
    resumed = prepare_small(base / "b.parquet", tmp_path / "out", vocabulary=tmp_path / "moved", grow=True)
    assert 0 < resumed.rows_read < 170
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


@pytest.mark.parametrize("grown", [False, True])
def test_growing_and_not_are_other_data(tmp_path, base, grown):
    # Where values do not grow, min_count says nothing.
    prepare_small(base / "a.parquet", tmp_path / "a", min_count=2)
    options = {"vocabulary": tmp_path / "a", "grow": grown}
    prepare_small(base / "b.parquet", tmp_path / "out", **options)
    made, other = ("with", {"grow": False}) if grown else ("without", {"grow": True})
    with pytest.raises(ConfigError, match=f"out: holds prepared data made {made} --grow; choose another --output, or"):
        prepare_small(base / "b.parquet", tmp_path / "out", **(options | other))
    with pytest.raises(
        ConfigError, match=r"out: holds prepared data made with --vocabulary, of data with the encoding"
    ):
        prepare_small(base / "b.parquet", tmp_path / "out")
    if grown:
        with pytest.raises(ConfigError, match="out: holds prepared data with min count 2, not 3"):
            prepare_small(base / "b.parquet", tmp_path / "out", min_count=3, **options)
    # An earlier cupyrec had no such option: what it has prepared is still known.
    asked = json.loads((tmp_path / "out/preparation.json").read_text())["options"]
    assert asked.get("grow") == (True if grown else None)
    assert asked["vocabulary"] == read_manifest(tmp_path / "a").encoding


def test_where_nothing_is_new_the_encoding_stays(tmp_path, base, days):
    prepare_small(days[0], tmp_path / "first")
    content = prepare_small(days[1], tmp_path / "second", vocabulary=tmp_path / "first", grow=True).manifest
    again = prepare_small(days[1], tmp_path / "again", vocabulary=tmp_path / "second", grow=True)
    assert again.new_values == (0,) * 26
    assert again.manifest.earlier == content.earlier == (encoding_of(tmp_path / "first"),)
    assert (again.manifest.encoding, again.manifest.categories) == (content.encoding, content.categories)
    assert read_prepared(tmp_path / "again").values == read_prepared(tmp_path / "second").values


def test_test_data_of_a_grown_vocabulary(tmp_path, days):
    prepare_small(days[0], tmp_path / "first")
    prepare_small(days[1], tmp_path / "second", vocabulary=tmp_path / "first", grow=True)
    prepared = prepare_small(days[2], tmp_path / "test", vocabulary=tmp_path / "second")
    known, grown = encode(criteo_rows(days[0].read_bytes())), criteo_rows(days[1].read_bytes())
    known = encode(grown, known=known.keys, known_counts=known.counts)
    expected = encode(criteo_rows(days[2].read_bytes()), known=known.keys)
    expected.counts = known.counts
    check_prepared(tmp_path / "test", expected)
    assert (prepared.new_values, prepared.manifest.encoding) == (None, encoding_of(tmp_path / "second").encoding)
    # The ids are the same, and so are those out of which they have grown.
    assert prepared.manifest.earlier == (encoding_of(tmp_path / "first"),)
    assert 0 < prepared.manifest.unknown[25] < 1
    # Counts of grown vocabularies are of more than the data.
    assert coverages(tmp_path / "second", read_manifest(tmp_path / "second")) == [None] * 26


def test_samples_are_encoded_as_the_grown_data_are(tmp_path, base):
    prepare_small(base / "b.parquet", tmp_path / "grown", vocabulary=base / "frequency", grow=True)
    (expected,) = PreparedData(tmp_path / "grown").batches(1000)
    encoder = SampleEncoder(tmp_path / "grown")
    batch = encoder.batch(pq.read_table(base / "b.parquet"))
    np.testing.assert_array_equal(batch.rows, expected.rows)
    np.testing.assert_array_equal(batch.offsets, expected.offsets)
    assert encoder.table_rows == PreparedData(tmp_path / "grown").table_rows


def test_data_without_labels_grow_too(tmp_path, days):
    prepare_small(days[0], tmp_path / "first")
    grow = {"vocabulary": tmp_path / "first", "grow": True}
    labelled = prepare_small(days[1], tmp_path / "labelled", **grow).manifest
    lines = days[1].read_bytes().splitlines(keepends=True)
    path = write(tmp_path / "unlabelled.tsv", b"".join(line.partition(b"\t")[2] for line in lines))
    content = prepare_small(path, tmp_path / "out", no_labels=True, **grow).manifest
    assert (content.labels, content.encoding, content.earlier) == (False, labelled.encoding, labelled.earlier)
    assert vocabularies_of(tmp_path / "out") == vocabularies_of(tmp_path / "labelled")


def single_column(folder, name, values, kind=None, **options):
    n = len(values)
    table = pa.table({"label": [1] * n, "I1": [1] * n, "C1": pa.array(values, kind)})
    pq.write_table(table, folder / f"{name}.parquet")
    return prepare_small(folder / f"{name}.parquet", folder / name, **options)


def test_bools_and_numbers_do_not_mix(tmp_path):
    single_column(tmp_path, "bools", [True, True])
    grow = {"grow": True, "vocabulary": tmp_path / "bools"}
    assert single_column(tmp_path, "more", [None, False, True], **grow).new_values == (1,)
    single_column(tmp_path, "numbers", [1, 2])
    with pytest.raises(DataError, match="numbers: column C1 holds integer values, but bool values in the input"):
        single_column(tmp_path, "none", [True], grow=True, vocabulary=tmp_path / "numbers")
    with pytest.raises(DataError, match="numbers: column C1 holds integer values, but text values in the input"):
        single_column(tmp_path, "none", ["1"], grow=True, vocabulary=tmp_path / "numbers")


def test_a_vocabulary_without_a_value_grows(tmp_path):
    for name, kind, values in (("texts", pa.string(), ["a", "b"]), ("numbers", pa.int64(), [4, 5])):
        lists = pa.list_(kind)
        single_column(tmp_path, name, [[], None], lists)
        grown = single_column(tmp_path, f"{name}2", [values, []], lists, grow=True, vocabulary=tmp_path / name)
        assert grown.manifest.table_rows == (3,)
        # And stays as it is where nothing comes.
        same = single_column(tmp_path, f"{name}3", [[]], lists, grow=True, vocabulary=tmp_path / f"{name}2")
        assert vocabularies_of(tmp_path / f"{name}3") == vocabularies_of(tmp_path / f"{name}2")
        assert same.new_values == (0,)


@pytest.mark.parametrize(("said", "min_count"), [(3, 3), (None, 1)])
def test_min_count_is_that_of_the_folder_unless_it_is_given(tmp_path, said, min_count):
    single_column(tmp_path, "a", [1] * 9, min_count=said)
    if said is None:  # as a folder may that was made by hand
        path = tmp_path / "a/preparation.json"
        content = json.loads(path.read_text())
        del content["options"]["min_count"]
        path.write_text(json.dumps(content))
    grow = {"grow": True, "vocabulary": tmp_path / "a"}
    values = [1, 2, 3, 3, 4, 4, 4]
    kept = [value for value in (2, 3, 4) if values.count(value) >= min_count]
    grown = single_column(tmp_path, "b", values, **grow)
    assert (grown.min_count, grown.new_values) == (min_count, (len(kept),))
    assert json.loads((tmp_path / "b/preparation.json").read_text())["options"]["min_count"] == min_count
    assert single_column(tmp_path, "c", values, min_count=2, **grow).new_values == (2,)


@pytest.mark.parametrize("min_count", [0, -1, 2**63, 1.0, "2", True, None])
def test_a_min_count_that_cannot_be(tmp_path, min_count):
    single_column(tmp_path, "a", [1])
    path = tmp_path / "a/preparation.json"
    content = json.loads(path.read_text())
    content["options"]["min_count"] = min_count
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"preparation\.json: damaged: its min_count is not a whole number"):
        single_column(tmp_path, "b", [1], grow=True, vocabulary=tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grow": True}, "--grow needs --vocabulary, the prepared data whose ids new values are added to"),
        ({"grow": True, "ids": "first"}, "--grow needs --vocabulary"),
        ({"grow": 1, "vocabulary": "x"}, "grow must be True or False, but is 1"),
        ({"grow": True, "vocabulary": "x", "ids": "first"}, "--vocabulary and --ids exclude each other"),
        ({"grow": True, "vocabulary": "x", "modulo": 5}, "--vocabulary and --modulo exclude each other"),
        ({"grow": True, "vocabulary": "x", "hash_rows": 5}, "--vocabulary and --hash-rows exclude each other"),
        ({"grow": True, "vocabulary": "x", "dense_transform": "none"}, "--vocabulary and --dense-transform exclude"),
        ({"grow": True, "vocabulary": "x", "min_count": 0}, "--min-count must be a whole number from 1"),
        ({"vocabulary": "x", "min_count": 2}, "--vocabulary and --min-count exclude each other: without --grow no val"),
    ],
)
def test_options_that_cannot_be_used(options, message):
    with pytest.raises(ConfigError, match=message):
        PrepareOptions("a", "b", **options)


def test_hashes_need_no_growing(tmp_path, days):
    prepare_small(days[0], tmp_path / "hashed", hash_rows=50)
    with pytest.raises(ConfigError, match="hashed: its ids are hashes, which need no growing"):
        prepare_small(days[1], tmp_path / "out", vocabulary=tmp_path / "hashed", grow=True)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_is_damaged_or_of_other_data_does_not_grow(tmp_path, days):
    prepare_small(days[0], tmp_path / "a")
    grow = {"vocabulary": tmp_path / "a", "grow": True}
    one, other = (tmp_path / "a/vocabulary" / name for name in ("C1.parquet", "C2.parquet"))
    whole = one.read_bytes()
    one.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match="a: the vocabularies are not those of the data"):
        prepare_small(days[1], tmp_path / "out", **grow)
    one.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"C1\.parquet: the vocabulary cannot be read"):
        prepare_small(days[1], tmp_path / "out", **grow)
    assert not (tmp_path / "out").exists()
    one.write_bytes(whole)
    for folder, message in ((tmp_path / "a", "cannot be --output and --vocab"), (tmp_path / "x", "no prepared data")):
        with pytest.raises((ConfigError, DataError), match=message):
            prepare_small(days[1], tmp_path / "a", overwrite=True, vocabulary=folder, grow=True)
    prepare_small(days[1], tmp_path / "out", **grow)


@pytest.mark.parametrize("change", ["other", "cut", "longer"])
def test_texts_that_change_on_the_way_are_noticed_and_it_goes_on_when_they_are_back(
    tmp_path, base, change, monkeypatch
):
    shutil.copytree(base / "first", tmp_path / "known")
    file, grow = tmp_path / "known/vocabulary/C2.parquet", {"vocabulary": tmp_path / "known", "grow": True}
    whole = file.read_bytes()
    prepare_small(base / "b.parquet", tmp_path / "whole", **grow)
    longer = (tmp_path / "whole/vocabulary/C2.parquet").read_bytes()
    content = {"other": (base / "frequency/vocabulary/C2.parquet").read_bytes(), "cut": whole[:-20], "longer": longer}
    real = known_vocabularies.read_texts

    def read_texts(path, *arguments):
        if path == file:
            path.write_bytes(content[change])
        return real(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(known_vocabularies, "read_texts", read_texts)
        message = "cannot be read" if change == "cut" else "has changed since it was read; put back what was there"
        with pytest.raises(DataError, match=rf"C2\.parquet: the vocabulary {message}"):
            prepare_small(base / "b.parquet", tmp_path / "out", **grow)
    file.write_bytes(whole)
    prepare_small(base / "b.parquet", tmp_path / "out", **grow)
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "whole")


def test_more_values_than_there_are_ids_are_refused(tmp_path, monkeypatch):
    single_column(tmp_path, "a", [1, 2, 3])
    monkeypatch.setattr(vocabulary_module, "MOST_IDS", 4)
    grow = {"grow": True, "vocabulary": tmp_path / "a"}
    with pytest.raises(ConfigError, match="a column has more than 4 different values"):
        single_column(tmp_path, "b", [4, 5], **grow)
    assert single_column(tmp_path, "b", [4, 1, 3], **grow).manifest.table_rows == (5,)


def test_what_is_known_takes_of_the_memory_too(tmp_path):
    lines = [make_line(number, c17=b"%x" % number) for number in range(2000)]
    prepare_small(write(tmp_path / "a.tsv", b"".join(lines)), tmp_path / "a")
    day = write(tmp_path / "b.tsv", make_line(0, c17=b"ffffff"))
    prepare_small(day, tmp_path / "alone", memory_bytes=1_000_000, threads=1)
    grow = {"grow": True, "vocabulary": tmp_path / "a"}
    with pytest.raises(MemoryPlanError, match=r"the vocabularies have grown to .*, of C\d+, has 2,0\d\d values. Run"):
        prepare_small(day, tmp_path / "b", memory_bytes=1_000_000, threads=1, **grow)
    assert sum(prepare_small(day, tmp_path / "b", **grow).new_values) == 1


def test_data_with_the_ids_of_others_do_not_know_which_values_are_rare(tmp_path):
    """They say nothing of the least count by which these have chosen theirs."""
    single_column(tmp_path, "a", [1] * 9 + [7], min_count=2)
    single_column(tmp_path, "b", [1, 7], vocabulary=tmp_path / "a")
    grow = {"vocabulary": tmp_path / "b", "grow": True}
    with pytest.raises(ConfigError, match="which rare values that has left out: give --min-count, or let the other"):
        single_column(tmp_path, "c", [7, 8, 8], **grow)
    assert not (tmp_path / "c").exists()
    assert single_column(tmp_path, "c", [7, 8, 8], min_count=2, **grow).new_values == (1,)
    # What has grown knows it.
    grow["vocabulary"] = tmp_path / "c"
    assert single_column(tmp_path, "d", [9, 9, 10], **grow).min_count == 2
