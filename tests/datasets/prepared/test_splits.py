"""Which samples the parts have, and that a split file is believed only when it fits its data."""

import contextlib
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared_for_tests import random_samples, write_prepared

from cupyrec.datasets.prepared import splits
from cupyrec.datasets.prepared.manifest import InputFile
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.errors import ConfigError, DataError, OutputError

SAMPLES = 90


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return folder, write_prepared(folder, random_samples(SAMPLES, (5, 6)), input_samples=[40, 29, 21])


def kaggle_of_the_reference(samples: int) -> dict[str, list[int]]:
    """By lists of all samples: seven days, the first ones longer; the last one by numpy.array_split."""
    each, left_over = divmod(samples, 7)
    days = [each + 1 if day < left_over else each for day in range(7)]
    numbers = np.array_split(np.arange(samples), np.cumsum(days)[:-1])
    test, valid = np.array_split(numbers[-1], 2)
    return {"train": np.concatenate(numbers[:-1]).tolist(), "valid": valid.tolist(), "test": test.tolist()}


def numbers(parts) -> dict[str, list[int]]:
    return {name: list(range(*part)) for name, part in parts.items()}


@given(samples=st.integers(14, 2000))
def test_kaggle_is_what_the_reference_does(samples):
    assert numbers(splits.kaggle(samples)) == kaggle_of_the_reference(samples)


def test_kaggle_of_the_kaggle_set():
    parts = splits.kaggle(45_840_617)
    assert [stop - start for start, stop in parts.values()] == [39_291_958, 3_274_329, 3_274_330]


@given(days=st.lists(st.integers(2, 50), min_size=2, max_size=6))
def test_terabyte_halves_the_last_file(days):
    inputs = [InputFile(str(day), count) for day, count in enumerate(days)]
    *train, last = np.array_split(np.arange(sum(days)), np.cumsum(days)[:-1])
    test, valid = np.array_split(last, 2)
    expected = {"train": np.concatenate(train).tolist(), "valid": valid.tolist(), "test": test.tolist()}
    assert numbers(splits.terabyte(inputs)) == expected


@given(
    days=st.lists(st.integers(1, 30), min_size=3, max_size=8),
    cuts=st.sets(st.integers(1, 7), min_size=2, max_size=2),
)
def test_days_are_input_files(days, cuts):
    first, second = sorted(cuts)
    inputs = [InputFile(str(day), count) for day, count in enumerate(days)]
    counts = [first, second - first, len(days) - second]
    if counts[2] < 1:
        with pytest.raises(ConfigError, match=f"sum to the {len(days)} input files"):
            splits.by_day(inputs, counts)
        return
    day_of = [day for day, count in enumerate(days) for _ in range(count)]
    found = numbers(splits.by_day(inputs, counts))
    assert sorted(n for part in found.values() for n in part) == list(range(len(day_of)))
    assert {day_of[n] for n in found["train"]} == set(range(first))
    assert {day_of[n] for n in found["valid"]} == set(range(first, second))
    assert {day_of[n] for n in found["test"]} == set(range(second, len(days)))


@given(samples=st.integers(30, 10**10), percents=st.tuples(st.integers(10, 80), st.integers(5, 10)))
def test_shares_are_kept_to_within_a_sample(samples, percents):
    shares = [percents[0] / 100, percents[1] / 100, (100 - sum(percents)) / 100]
    parts = splits.by_share(samples, shares)
    assert list(parts) == ["train", "valid", "test"]
    assert parts["train"][0] == 0
    assert parts["train"][1] == parts["valid"][0]
    assert parts["valid"][1] == parts["test"][0]
    assert parts["test"][1] == samples
    for part, share in zip(parts.values(), shares, strict=True):
        assert abs(part[1] - part[0] - share * samples) <= 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: splits.by_share(100, [0.5, 0.5]),
        lambda: splits.by_share(100, [0.5, 0.6, 0.1]),
        lambda: splits.by_share(100, [1.0, 0.0, 0.0]),
        lambda: splits.by_share(100, [0.5, float("nan"), 0.5]),
        lambda: splits.by_share(3, [0.98, 0.01, 0.01]),
        lambda: splits.by_day([InputFile("a", 1)] * 3, [2, 1]),
        lambda: splits.by_day([InputFile("a", 1)] * 3, [3, 0, 0]),
        lambda: splits.by_day([InputFile("a", 1), InputFile("b", 0), InputFile("c", 1)], [1, 1, 1]),
        lambda: splits.terabyte([InputFile("a", 9)]),
        lambda: splits.kaggle(13),
    ],
)
def test_what_cannot_be_split(make):
    with pytest.raises(ConfigError):
        make()


def test_what_is_written_is_read_and_gives_its_samples(made):
    folder, content = made
    parts = {"train": (0, 50), "valid": (50, 60), "test": (60, SAMPLES)}
    written = splits.write_splits(folder, content, "some way", parts, overwrite=True)
    assert [path.name for path in written] == ["train.json", "valid.json", "test.json"]
    for (start, stop), (path, split) in zip(parts.values(), written.items(), strict=True):
        assert splits.read_split(path, content) == split
        assert (split.how, split.samples, split.ranges) == ("some way", stop - start, ((start, stop),))
        found = [n for batch in PreparedData(path).batches(7) for n in batch.dense[:, 0].tolist()]
        assert found == list(range(start, stop))
    assert not list(folder.glob(".*"))


def test_another_split_is_replaced_only_when_asked(made, monkeypatch):
    folder, content = made
    for path in folder.glob("*.json"):
        if path.name != "prepared.json":
            path.unlink()
    old, new = splits.kaggle(SAMPLES), splits.by_share(SAMPLES, [0.5, 0.25, 0.25])
    written = splits.write_splits(folder, content, "kaggle", old, overwrite=False)
    before = {path: path.read_bytes() for path in written}
    splits.write_splits(folder, content, "kaggle", old, overwrite=False)  # the same again
    with pytest.raises(OutputError, match=r"train\.json: there is another split already.*--overwrite"):
        splits.write_splits(folder, content, "shares", new, overwrite=False)
    assert {path: path.read_bytes() for path in written} == before

    # When it fails in the middle, no part of the old split is left beside one of the new.
    replace, calls = os.replace, []

    def fail_the_second_time(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_the_second_time)
        with pytest.raises(OutputError, match=r"valid\.json.*No space left"):
            splits.write_splits(folder, content, "shares", new, overwrite=True)
    left = [splits.read_split(path, content).how for path in written if path.exists()]
    assert left == ["shares"]
    splits.write_splits(folder, content, "shares", new, overwrite=True)
    assert splits.read_split(folder / "test.json", content).ranges == (new["test"],)


def test_data_that_are_not_whole_are_not_split(tmp_path):
    content = write_prepared(tmp_path / "data", random_samples(SAMPLES, (5, 6)))
    shard = tmp_path / "data" / content.shards[0].file
    for spoil, message in ((lambda: os.truncate(shard, 9), "it has 9 bytes"), (shard.unlink, "is missing")):
        spoil()
        with pytest.raises(DataError, match=rf"shard-00000\.arrow: .*{message}"):
            splits.write_splits(tmp_path / "data", content, "kaggle", splits.kaggle(SAMPLES), overwrite=False)
    assert not list((tmp_path / "data").glob("train*"))


@pytest.fixture
def valid_split(made):
    _, content = made
    return {
        "format": "cupyrec-split",
        "version": 1,
        "how": "by hand",
        "encoding": content.encoding,
        "data_samples": SAMPLES,
        "samples": 30,
        "ranges": [[0, 10], [20, 40]],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not a split"),
        ({"version": 2}, "format version 2, but this cupyrec reads 1"),
        ({"version": "1\n2"}, r"format version '1\\n2', but"),
        ({"encoding": "0" * 16}, "made for other data.*run cupyrec split again"),
        ({"data_samples": 91}, "made for other data"),
        ({"samples": 29}, "its samples are not those of its ranges"),
        ({"how": 3}, "damaged"),
        *(
            ({"ranges": ranges}, "ascending ranges")
            for ranges in (
                None, [], {}, "ab", [[0, 0]], [[10, 5]], [[-5, 25]], [[61, 91]], [[20, 40], [0, 10]],
                [[0, 20], [10, 20]], [[0, 30.0]], [[0, 30, 40]], [[False, 30]], [0, 30], [["0", "30"]], [None],
            )
        ),
    ],
)  # fmt: skip
def test_a_split_that_does_not_fit_is_an_error(made, valid_split, change, message):
    folder, _ = made
    path = folder / "part.json"
    path.write_text(json.dumps(valid_split))
    assert PreparedData(path).samples == 30
    path.write_text(json.dumps(valid_split | change))
    with pytest.raises(DataError, match=message) as error:
        PreparedData(path)
    assert error.value.path == path


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(key=st.sampled_from(["format", "version", "how", "encoding", "data_samples", "samples", "ranges"]), value=JSON)
def test_a_split_with_anything_in_it(made, key, value):
    folder, content = made
    fields = {"format": "cupyrec-split", "version": 1, "how": "", "encoding": content.encoding, "data_samples": SAMPLES}
    path = folder / "part.json"
    path.write_text(json.dumps(fields | {"samples": 30, "ranges": [[0, 30]]} | {key: value}))
    with contextlib.suppress(DataError):
        assert splits.read_split(path, content).samples == 30


@given(text=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_split_of_any_bytes(made, text):
    folder, content = made
    path = folder / "part.json"
    path.write_bytes(text)
    with pytest.raises(DataError):
        splits.read_split(path, content)


def test_a_split_that_is_not_there(made):
    folder, _ = made
    with pytest.raises(DataError, match="no such split"):
        PreparedData(folder / "none.json")
    with pytest.raises(DataError, match=r"none: no prepared data"):
        PreparedData(folder / "none")
    (folder / "folder.json").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="no prepared data"):
        PreparedData(folder / "folder.json")
