"""What docs/own_model.md shows: it runs as it stands, and learns."""

import re
from pathlib import Path

from cupyrec.devices.cpu import CpuDevice

PAGE = (Path(__file__).parents[1] / "docs/own_model.md").read_text(encoding="utf-8")


def test_the_model_of_ones_own_learns(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(block, "docs/own_model.md", "exec"), names)
    losses = [float(loss) for loss in re.findall(r"^step \d+: loss (0\.\d{3})$", capsys.readouterr().out, re.MULTILINE)]
    assert len(losses) == 5
    assert 0.6 < losses[0] < 0.75  # log(2) for a guess
    assert losses[-1] < 0.3
    assert isinstance(names["device"], CpuDevice)


def test_files_that_the_page_names_exist():
    links = re.findall(r"\]\((\.\./[^)]+)\)", PAGE)
    assert links
    assert all((Path(__file__).parents[1] / "docs" / link).exists() for link in links)
