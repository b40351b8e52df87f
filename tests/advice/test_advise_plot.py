"""The picture: a PNG that opens, or one line that says what to install."""

import builtins

import pytest
from usage_traces import source_of, zipf_batches

from cupyrec.advice.plot import load_matplotlib, write_plot
from cupyrec.advice.sample import RowSample
from cupyrec.advice.sizes import Question, advise
from cupyrec.errors import ConfigError, OutputError


@pytest.fixture(scope="module", params=["all rows", "a sample"])
def advice(request):
    batches = zipf_batches(40, 12, 2000)
    sample = RowSample(most_rows=100) if request.param == "a sample" else None
    question = Question(batch_size=12, record_bytes=48, dimension=8, sizes=["3", "10%", "100%"])
    return advise(source_of(batches, 2000), question, sample=sample)


def test_draws_a_png_that_opens(tmp_path, advice):
    from matplotlib.image import imread

    write_plot(tmp_path / "curves", advice)
    with open(tmp_path / "curves", "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
        file.seek(0)
        picture = imread(file, format="png")
    assert picture.ndim == 3
    assert picture.shape[1] > picture.shape[0] > 300
    # Something is drawn, and in colours.
    assert picture[..., :3].std() > 0.05
    assert (picture[..., 0] != picture[..., 2]).any()
    assert [file.name for file in tmp_path.iterdir()] == ["curves"]


def test_a_place_that_cannot_be_written(tmp_path, advice):
    with pytest.raises(OutputError, match="cannot be written"):
        write_plot(tmp_path / "none" / "curves.png", advice)


def test_says_what_to_install(monkeypatch):
    def import_without(name, *arguments, **named):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *arguments, **named)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        load_matplotlib()
