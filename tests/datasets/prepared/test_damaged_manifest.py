"""Whatever stands in the manifest or in a split, what comes out is the data as they were, or a DataError."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared_for_tests import random_samples, read_all, without_checksum, write_prepared

from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.encoding import EarlierEncoding
from cupyrec.datasets.prepared.prepared_data import PreparedData
from cupyrec.datasets.prepared.splits import by_share, write_splits
from cupyrec.errors import DataError

BLOCK, SHARD, SAMPLES = 8, 16, 44
TABLES = (10, 300, 70_000)


pytestmark = pytest.mark.usefixtures("small_blocks")


@pytest.fixture(scope="module")
def samples():
    return random_samples(SAMPLES, TABLES, multi_hot=(1,))


@pytest.fixture(scope="module")
def whole(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "data"
    earlier = [EarlierEncoding("0" * 16, (1, 1, 1)), EarlierEncoding("1" * 16, (10, 20, 30))]
    content = write_prepared(folder, samples, earlier=earlier)
    write_splits(folder, content, "shares", by_share(SAMPLES, (0.5, 0.25, 0.25)), overwrite=False)
    return folder


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def changed_manifests(draw, content):
    """The manifest with anything at one place, or something left out, or twice."""
    content = json.loads(json.dumps(content))
    place, key = content, draw(st.sampled_from(sorted(content)))
    while isinstance(place[key], (list, dict)) and place[key] and draw(st.integers(0, 3)):
        place = place[key]
        key = draw(st.sampled_from(range(len(place)) if isinstance(place, list) else sorted(place)))
    change = draw(st.sampled_from(["anything", "gone", "twice", "shorter"]))
    if change == "gone":
        del place[key]
    elif change == "twice" and isinstance(place, list):
        place.append(place[key])
    elif change == "shorter" and isinstance(place[key], list):
        place[key] = place[key][:-1]
    else:
        place[key] = draw(JSON)
    return content


@given(data=st.data())
def test_any_change_of_the_manifest(whole, scratch, data):
    path = scratch / manifest.MANIFEST_FILE
    path.write_text(json.dumps(data.draw(changed_manifests(without_checksum(whole)))))
    try:
        found = read_all(scratch)
    except DataError as error:
        assert error.path is not None  # noqa: PT017
    else:
        # A change of what the reading does not depend on, such as a name, or a larger table.
        for one, other in zip(found, read_all(whole), strict=True):
            assert [batch.labels.tolist() for batch in one] == [batch.labels.tolist() for batch in other]
    finally:
        shutil.copy(whole / manifest.MANIFEST_FILE, path)


@given(data=st.data())
def test_any_flipped_byte_of_the_manifest_or_of_a_split(whole, scratch, data):
    name = data.draw(st.sampled_from([manifest.MANIFEST_FILE, "train.json", "valid.json"]))
    content = bytearray((whole / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (scratch / name).write_bytes(content)
    try:
        found = PreparedData(scratch / name)
    except DataError as error:
        assert error.path == scratch / name  # noqa: PT017
    else:
        # Only how a split is said to have come about is nowhere compared; a byte less of the format is another format.
        expected = PreparedData(whole / name)
        assert (found.manifest, found.ranges) == (expected.manifest, expected.ranges)
    finally:
        shutil.copy(whole / name, scratch / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][2].update(rows=70_001), "its checksum is wrong"),
        (lambda c: c.update(dense_transform="none"), "its checksum is wrong"),
        (lambda c: c.update(checksum=None), "its checksum is wrong"),
        (lambda c: (c.pop("checksum"), c.pop("encoding")), "encoding is missing"),
        (lambda c: (c.pop("checksum"), c["earlier"].reverse()), "tables of an earlier encoding do not fit"),
        (
            lambda c: (c.pop("checksum"), c["earlier"][1]["table_rows"].pop()),
            "tables of an earlier encoding do not fit",
        ),
        (lambda c: (c.pop("checksum"), c["earlier"][1]["table_rows"].append(1)), "of an earlier encoding do not fit"),
        (
            lambda c: (c.pop("checksum"), c["earlier"][1]["table_rows"].__setitem__(0, 11)),
            "earlier encoding do not fit",
        ),
        (lambda c: (c.pop("checksum"), c["shards"].reverse()), "shard-00002.arrow has 12 samples"),
        (lambda c: (c.pop("checksum"), c["shards"][1].update(file="shard-00000.arrow")), "two shards have the same"),
        (lambda c: (c.pop("checksum"), c["shards"][1].update(file="../x.arrow")), "not the name of a shard"),
        (lambda c: (c.pop("checksum"), c["categories"][0].update(vocabulary="a/../../x")), "is not in the folder"),
        (lambda c: (c.pop("checksum"), c["categories"][0].update(vocabulary="/etc/x")), "is not in the folder"),
        (lambda c: (c.pop("checksum"), c["categories"][0].update(vocabulary=3)), "3 is not a text"),
    ],
)
def test_an_edited_manifest_says_what_is_wrong(folder, change, message):
    path = folder / manifest.MANIFEST_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"^{path}: damaged: .*{message}") as error:
        PreparedData(folder)
    assert error.value.path == path


def test_a_manifest_laid_out_in_another_way_is_the_same(folder):
    path = folder / manifest.MANIFEST_FILE
    before = manifest.read_manifest(folder)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert manifest.read_manifest(folder) == before


@given(text=st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_the_manifest(scratch, whole, text):
    path = scratch / manifest.MANIFEST_FILE
    path.write_bytes(text)
    with pytest.raises(DataError):
        PreparedData(scratch)
    shutil.copy(whole / manifest.MANIFEST_FILE, path)
