"""A preparation that was stopped and then spoilt at random: it is refused, or ends as it would have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_prepare import criteo_text, prepare_small, small_shards
from spoilt_files import check_read_or_refused

from cupyrec.datasets.preparing.job import Stopped


def content_of(prepared):
    files = [path for path in prepared.folder.rglob("*") if path.is_file() and path.name != "preparation.json"]
    return {path.relative_to(prepared.folder): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The input, the folder, and what the files hold in the end."""
    place = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        (place / "day_0").write_bytes(criteo_text(200))
        shares = [0.0]
        hooks = {"on_progress": lambda share, _: shares.append(share), "stop": lambda: shares[-1] > 0.4}
        with pytest.raises(Stopped):
            prepare_small([place / "day_0"], place / "prepared", threads=1, hooks=hooks)
        finished = prepare_small([place / "day_0"], place / "finished", threads=1)
        yield place / "day_0", place / "prepared", content_of(finished)


@pytest.mark.parametrize("file", ["preparation.json", ".preparing/journal.jsonl", ".preparing/first-00000.arrow"])
@given(data=st.data())
def test_a_begun_preparation(begun, file, data):
    day, whole, wanted = begun

    def go_on(folder):
        prepared = prepare_small([day], folder, threads=1)
        assert content_of(prepared) == wanted

    check_read_or_refused(data, whole, file, go_on)
