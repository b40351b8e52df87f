"""Files are known again by their size and content, also where only their middle has changed."""

import json

import pytest

from cupyrec.datasets.file_identity import END_BYTES, SAMPLE_BYTES, SAMPLES, file_identity
from cupyrec.errors import DataError

LARGE = 4 * (2 * END_BYTES + SAMPLES * SAMPLE_BYTES)
# No more than this of a large file lies between two samples.
GAP = LARGE // SAMPLES


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "day_0"
    path.write_bytes(bytes(range(256)) * (LARGE // 256))
    return path


def overwrite(path, at: int, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(content)


def test_is_json_and_depends_on_the_content_alone(path, tmp_path):
    identity = file_identity(path)
    assert json.loads(json.dumps(identity)) == identity
    assert identity["bytes"] == LARGE
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    assert file_identity(copy) == identity


@pytest.mark.parametrize("at", [0, END_BYTES - 1, END_BYTES, LARGE - END_BYTES - 1, LARGE - END_BYTES, LARGE - 1])
def test_one_byte_at_the_ends_and_beside_them(path, at):
    before = file_identity(path)
    overwrite(path, at, b"!" if at % 256 != ord("!") else b"?")
    assert file_identity(path) != before


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77, 0.9])
def test_other_lines_in_the_middle(path, share):
    before = file_identity(path)
    overwrite(path, int(share * LARGE), b"\n" * GAP)
    assert file_identity(path)["bytes"] == LARGE
    assert file_identity(path) != before


@pytest.mark.parametrize("size", [0, 1, END_BYTES + 1, 2 * END_BYTES + SAMPLES * SAMPLE_BYTES])
def test_small_files_are_read_as_a_whole(tmp_path, size):
    path = tmp_path / "small"
    path.write_bytes(b"a" * size)
    before = file_identity(path)
    assert before == file_identity(path, whole=True)
    if size:
        overwrite(path, size // 2, b"b")
        assert file_identity(path) != before


def test_whole_on_request(path):
    before = file_identity(path, whole=True)
    # Not within a sample.
    overwrite(path, END_BYTES + SAMPLE_BYTES + 5, b"!!")
    assert file_identity(path, whole=True) != before


def test_parts_that_are_swapped(path):
    overwrite(path, 0, b"a" * END_BYTES)
    overwrite(path, LARGE - END_BYTES, b"b" * END_BYTES)
    before = file_identity(path)
    overwrite(path, 0, b"b" * END_BYTES)
    overwrite(path, LARGE - END_BYTES, b"a" * END_BYTES)
    assert file_identity(path) != before


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        file_identity(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot be read"):
        file_identity(tmp_path)
