"""Fixtures for folders of prepared data, of the sizes that a test module names: BLOCK and SHARD."""

import shutil

import pytest

from cupyrec.datasets.prepared import manifest


@pytest.fixture(scope="module")
def small_blocks(request):
    """BLOCK samples in a block, and SHARD in a shard, in what is written and read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "BLOCK_SAMPLES", request.module.BLOCK)
        patch.setattr(manifest, "SHARD_SAMPLES", request.module.SHARD)
        yield


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of `whole`, the data of the module."""
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def scratch(whole, tmp_path_factory):
    """A copy for many examples, each of which writes the file it changes anew."""
    folder = tmp_path_factory.mktemp("scratch") / "data"
    shutil.copytree(whole, folder)
    return folder
