"""What is in a checkpoint, and that one which is damaged, foreign, or of other data or options is refused."""

import json
import pickle
import shutil
import zlib

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_runs import as_array
from criteo_lines import learnable_text
from resumable_runs import DATA, Stopper, prepared, steps_kept, train, what_counts

from cupyrec.datasets.preparing.job import prepare
from cupyrec.datasets.preparing.prepare_options import PrepareOptions
from cupyrec.errors import ConfigError, DataError, ModelError, OutputError
from cupyrec.run_config import RunConfig
from cupyrec.runs.resume import options_to_resume
from cupyrec.saving import checkpoints
from cupyrec.saving.checkpoint import CHECKSUM_PREFIX, description_text, read_checkpoint
from cupyrec.saving.checkpoint_writer import CheckpointWriter
from cupyrec.saving.open_model import open_model
from cupyrec.training.trained_model import load_model

FILES = ["checkpoint.json", "dense.safetensors", "patch.safetensors", "tables-00001.safetensors"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Options, and a run with checkpoints of steps 4 and 5 of 6, the older one with a patch."""
    folder = tmp_path_factory.mktemp("made")
    options = prepared(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "AT_ONCE_BYTES", 0)
        # The thread that began after step 2 is waited for after step 4.
        patch.setattr(CheckpointWriter, "tables_ended", property(lambda writer: writer._model.steps_done == 4))
        train(Stopper(5), output=folder / "run", **options, checkpoint_every=2)
    train(output=folder / "whole", **options)
    return folder, options


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run."""
    shutil.copytree(made[0] / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def options(made, run):
    return made[1] | {"output": run}


def newest_of(run):
    return run / "checkpoints" / f"step-{steps_kept(run)[-1]:08}"


def older_of(run):
    return run / "checkpoints" / f"step-{steps_kept(run)[-2]:08}"


def refused(options, error, message, **change):
    """Resuming raises, and changes nothing."""
    run = options["output"]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(error, match=message) as raised:
        train(**options | change, **({} if "resume_step" in change else {"resume": True}))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    return str(raised.value)


def test_what_is_in_one(run, options):
    folder = older_of(run)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    content = json.loads((folder / "checkpoint.json").read_text())
    for name, file in content["files"].items():
        raw = (folder / name).read_bytes()
        assert (file["bytes"], file["crc32"]) == (len(raw), zlib.crc32(raw))
    assert content["files"].keys() == set(FILES[1:])
    # Others read it without cupyrec.
    tables = safetensors.numpy.load_file(folder / "tables-00001.safetensors")
    assert tables.keys() == {f"embedding.{table}.{what}" for table in range(26) for what in ("weight", "state")}
    assert tables["embedding.0.weight"].shape[1] == 4
    assert tables["embedding.0.state"].shape[1] == 1
    patch = safetensors.numpy.load_file(folder / "patch.safetensors")
    assert {name: array.shape[1:] for name, array in patch.items()} == {
        "patch.rows": (), "patch.weight": (4,), "patch.state": (1,),
    }  # fmt: skip
    assert "dense.state" in safetensors.numpy.load_file(folder / "dense.safetensors")
    for what in ("model", "optimizer", "state", "config", "data", "records", "encoding"):
        assert content[what]


def test_no_byte_of_it_is_a_pickle(run):
    for path in newest_of(run).iterdir():
        with pytest.raises(Exception, match=r".") as raised:
            pickle.loads(path.read_bytes())
        assert isinstance(raised.value, (pickle.UnpicklingError, ValueError, KeyError, EOFError, IndexError))


def flipped(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 1])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte(tmp_path, made, options, run, name, share):
    older = older_of(run)
    # The checkpoint with a patch is to be the damaged one, and another is to be older.
    shutil.rmtree(newest_of(run))
    shutil.copytree(made[0] / "whole" / "checkpoints" / "step-00000006", run / "checkpoints" / "step-00000001")
    rewrite(run / "checkpoints" / "step-00000001", steps=1)
    path = older / name
    flipped(path, round(share * (path.stat().st_size - 1)))
    message = refused(options, ModelError, rf"{name}: (damaged|not a cupyrec checkpoint|format version)")
    assert str(path) in message
    assert message.endswith("; an older checkpoint is whole: take it with --resume-step 1")


def rewrite(folder, remove=(), **values):
    """Another content of checkpoint.json, with its checksum."""
    path = folder / "checkpoint.json"
    content = json.loads(path.read_text()) | values
    for name in (*remove, "crc32", "format", "version"):
        content.pop(name, None)
    path.write_bytes(description_text(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["empty", "cut", "longer", "gone", "folder"])
def test_a_file_that_is_not_whole(run, options, name, how):
    shutil.rmtree(newest_of(run))
    path = newest_of(run) / name
    raw = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes({"empty": b"", "cut": raw[:-1], "longer": raw + b"\0"}[how])
    message = refused(options, ModelError, r"damaged|cannot be read|not a cupyrec checkpoint")
    assert str(path) in message
    assert message.endswith("; there is no older checkpoint that is whole")


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"crc32": 0}', pickle.dumps({"format": 1}),
        b'{"crc32": 0, "format": "cupyrec-checkpoint", "version": 1}',
        b'{"crc32": 0, "format": "cupyrec-checkpoint", "version": 2}', b'{"format": "pt"}',
    ],
)  # fmt: skip
def test_a_foreign_description(run, options, text):
    (newest_of(run) / "checkpoint.json").write_bytes(text)
    message = refused(options, ModelError, r"checkpoint\.json: (damaged|not a cupyrec checkpoint|format version 2)")
    assert message.endswith("; an older checkpoint is whole: take it with --resume-step 4")


@pytest.mark.parametrize(
    "change",
    [
        *({"remove": [name]} for name in ("model", "optimizer", "steps", "state", "files")),
        *({name: None} for name in ("model", "optimizer", "steps", "state", "files")),
        *({name: []} for name in ("model", "optimizer", "steps", "state", "files")),
        {"files": {"dense.safetensors": {}}},
        {"files": {"dense.safetensors": 3}},
        {"files": {"../dense.safetensors": {"bytes": 1, "crc32": 1}}},
        {"files": {}},
        {"optimizer": ["name"]},
        {"optimizer": {"name": "a\nb\x1b"}},
        {"steps": -1},
        {"steps": "5"},
        {"state": {"position": 3}},
    ],
)
def test_a_description_that_says_something_else_under_a_true_checksum(run, options, change):
    rewrite(newest_of(run), **change)
    refused(options, ModelError, r"step-00000005.*; an older checkpoint is whole")


@pytest.mark.parametrize("name", FILES[1:])
def test_a_pickled_file_in_the_place_of_another(run, options, name):
    """With its true size and checksum: it is never unpickled."""
    shutil.rmtree(newest_of(run))
    path = newest_of(run) / name
    path.write_bytes(pickle.dumps({"embedding.0.weight": np.zeros(3)}))
    content = json.loads((newest_of(run) / "checkpoint.json").read_text())
    file = {"bytes": path.stat().st_size, "crc32": zlib.crc32(path.read_bytes())}
    rewrite(newest_of(run), files=content["files"] | {name: file})
    assert str(path) in refused(options, ModelError, "damaged, or not a safetensors file")


def test_the_older_one_can_be_taken(made, run, options):
    flipped(newest_of(run) / "tables-00001.safetensors", 5000)
    refused(options, ModelError, "an older checkpoint is whole: take it with --resume-step 4")
    train(**options, resume_step=4)
    assert what_counts(run) == what_counts(made[0] / "whole")
    assert steps_kept(run) == [4, 6]


def test_the_newest_whole_one_is_named(run, options):
    shutil.copytree(older_of(run), run / "checkpoints" / "step-00000002")
    flipped(newest_of(run) / "dense.safetensors", 900)
    flipped(run / "checkpoints" / "step-00000004" / "patch.safetensors", 900)
    refused(options, ModelError, "an older checkpoint is whole: take it with --resume-step 2")


def test_a_step_without_a_checkpoint(run, options):
    refused(options, ModelError, "holds no checkpoint of step 3, but those of the steps 4, 5", resume_step=3)
    shutil.rmtree(run)
    with pytest.raises(ModelError, match="holds no checkpoint of step 3, nor any other"):
        train(**options, resume_step=3)


def test_a_folder_that_is_no_checkpoint(made, run):
    shutil.copytree(made[0] / "whole", run.parent / "whole", ignore=shutil.ignore_patterns("checkpoints"))
    for folder, message in (
        (run.parent / "whole", "holds a model, which has no state of its optimizer; name a checkpoint"),
        (run, f"holds no checkpoint itself; name one of its checkpoints, such as {newest_of(run)}"),
        (newest_of(run).parent, f"holds no checkpoint itself; name one of its checkpoints, such as {newest_of(run)}"),
    ):
        with pytest.raises(ModelError) as raised:
            read_checkpoint(folder)
        assert str(raised.value) == f"{folder}: {message}"


def test_the_weights_of_a_checkpoint_are_those_of_its_step(made, run, options):
    """With what changed while the tables were written."""
    train(**made[1], max_steps=4, output=run.parent / "four")
    model = load_model(run.parent / "four")
    opened = open_model(older_of(run))
    assert (opened.steps, model.description["steps"]) == (4, 4)
    for name, tensor in open_model(run.parent / "four").tensors.items():
        assert np.array_equal(as_array(opened.tensors[name]), as_array(tensor)), name


def test_rows_of_a_patch_that_are_in_no_table(run, options):
    shutil.rmtree(newest_of(run))
    path = newest_of(run) / "patch.safetensors"
    patch = safetensors.numpy.load_file(path)
    for rows in (patch["patch.rows"] - 10**6, patch["patch.rows"] + 10**6, patch["patch.rows"][::-1].copy()):
        safetensors.numpy.save_file(patch | {"patch.rows": rows}, path)
        content = json.loads((newest_of(run) / "checkpoint.json").read_text())
        file = {"bytes": path.stat().st_size, "crc32": zlib.crc32(path.read_bytes())}
        rewrite(newest_of(run), files=content["files"] | {path.name: file})
        refused(options, ModelError, r"patch\.safetensors: damaged: its rows are not those of this model")
        with pytest.raises(ModelError, match="its rows are not those of this model"):
            open_model(newest_of(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 10}, "--batch-size is 10, but the checkpoint .*step-00000005 was made with 20; go on with"),
        ({"learning_rate": 0.1}, r"--learning-rate is 0\.1, but .* made with 0\.05"),
        ({"optimizer": "sgd"}, "--optimizer is sgd, but .* made with rowwise-adagrad"),
        ({"bottom_mlp": "9-4"}, "--bottom-mlp is 9-4, but .* made with 8-4"),
        ({"dimension": 8, "bottom_mlp": "8-8"}, "--dimension is 8, but .* made with 4"),
        ({"seed": 9}, "--seed is 9, but .* made with 1"),
        ({"eps": 1e-6}, "--eps is 1e-06, but .* made with 1e-10"),
        ({"warmup_steps": 0}, "--warmup-steps is 0, but .* made with 4"),
        ({"decay_steps": 6}, "--decay-steps is 6, but .* made with 5"),
        ({"pooling": "mean"}, "--pooling is mean, but .* made with sum"),
        ({"shuffle": True}, "--shuffle is on, but .* made with off"),
        ({"valid": "0.3"}, r"--valid is 0\.3, but .* made with 0\.2"),
        ({"system": "static"}, "--system is static, but .* made with resident"),
    ],
)
def test_options_that_lead_elsewhere(options, change, message):
    refused(options, ConfigError, message, **change)


def test_static_goes_on_with_the_rows_that_it_pinned(made, tmp_path):
    options = made[1] | {"output": tmp_path / "run", "system": "static"}
    train(Stopper(3), **options)
    refused(options, ConfigError, "--scratchpad is 800, but .* made with 900", scratchpad=800)
    refused(options, ConfigError, "--system is resident, but .* made with static", system="resident")
    said = []
    train(**options, resume=True, max_steps=5, said=said)
    assert "--max-steps is another: static may pin other rows, and sums be rounded otherwise" in said


def test_row_counts_that_changed(made, tmp_path):
    counts, rows = tmp_path / "counts.npy", sum(open_model(made[0] / "whole").config.table_rows)
    np.save(counts, np.arange(rows))
    options = made[1] | {"output": tmp_path / "run", "system": "static", "row_counts": str(counts), "scratchpad": 300}
    train(Stopper(3), **options)
    np.save(counts, np.arange(rows)[::-1])
    refused(options, DataError, r"counts\.npy: has changed since the checkpoint was made \(its content is another\)")


def test_what_may_be_another(made, run, options):
    """The bits are the same all the same."""
    said = []
    change = {"system": "hybrid", "log_every": 3, "keep": 5, "checkpoint_every": 3, "shuffle_window": 9, "trace": None}
    train(**options | change, resume=True, said=said)
    found, expected = what_counts(run, traffic=False), what_counts(made[0] / "whole", traffic=False)
    assert found["model.safetensors"] == expected["model.safetensors"]
    assert steps_kept(run) == [4, 5, 6]
    assert not any("rounded otherwise" in line for line in said)


def test_other_threads_are_told(options):
    said = []
    train(**options | {"threads": 2}, resume=True, said=said)
    assert "--threads is 2, and was 1: sums may be rounded otherwise" in said


def test_options_are_taken_from_the_checkpoint(run, made, monkeypatch, tmp_path):
    """From any folder."""
    monkeypatch.chdir(tmp_path)
    given = {"output": str(run), "resume": True, "keep": 7}
    values = options_to_resume(RunConfig.from_values(given), given)
    config = RunConfig.from_values(values)
    assert (config.paths, config.valid) == ((str(made[0] / "prepared"),), ("0.2",))
    assert (config.batch_size, config.bottom_mlp, config.keep) == (20, (8, 4), 7)
    assert (config.output, config.overwrite, config.resume) == (str(run), False, True)


@pytest.mark.parametrize("kind", ["raw_files", "prepared"])
def test_moved_data_are_the_same_data(tmp_path, kind):
    (tmp_path / "here").mkdir()
    options = DATA[kind](tmp_path / "here") | {"output": tmp_path / "run"}
    train(Stopper(3), **options)
    shutil.move(tmp_path / "here", tmp_path / "there")

    def moved(value):
        return value.replace("/here/", "/there/") if isinstance(value, str) else value

    options = {
        name: [moved(each) for each in value] if isinstance(value, list) else moved(value)
        for name, value in options.items()
    }
    assert train(**options, resume=True).result.steps == 6


def test_raw_files_that_changed(tmp_path):
    options = DATA["raw_files"](tmp_path) | {"output": tmp_path / "run"}
    train(Stopper(3), **options)
    first, last = options["paths"]
    refused(options, DataError, r"day_1\.gz: is missing among the training files", paths=[first])
    refused(options, DataError, "day_1.gz: is read in place of day_0", paths=[last, first])
    refused(options, DataError, "extra: was not among the training files", paths=[first, last, extra(tmp_path)])
    text = (tmp_path / "day_0").read_text()
    (tmp_path / "day_0").write_text(text + learnable_text(1))
    refused(options, DataError, r"day_0: has changed since the checkpoint was made \(it had [\d,]+ bytes\)")
    (tmp_path / "day_0").write_text("1" + text[1:] if text[0] == "0" else "0" + text[1:])
    refused(options, DataError, r"day_0: has changed since the checkpoint was made \(its content is another\)")
    (tmp_path / "day_0").write_text(text)
    flipped(tmp_path / "valid.tsv", 0)
    refused(options, DataError, r"valid\.tsv: has changed since the checkpoint was made")


def extra(folder):
    (folder / "extra").write_text(learnable_text(3))
    return str(folder / "extra")


@pytest.mark.parametrize("change", [{"hash_rows": 50}, {"min_count": 5}, {"dense_transform": "none"}])
def test_data_prepared_otherwise(tmp_path, made, run, change):
    folder = tmp_path / "prepared"
    prepare(PrepareOptions(made[0] / "raw.tsv", folder, threads=1, **change))
    options = made[1] | {"paths": str(folder), "output": run}
    refused(options, DataError, r"prepared\.json: has changed since the checkpoint was made")


def test_other_samples_prepared_alike(tmp_path, made, run):
    (tmp_path / "raw.tsv").write_text(learnable_text(140, first=1))
    prepare(PrepareOptions(tmp_path / "raw.tsv", tmp_path / "prepared", threads=1, vocabulary=made[0] / "prepared"))
    options = made[1] | {"paths": str(tmp_path / "prepared"), "output": run}
    refused(options, DataError, r"prepared\.json: has changed since the checkpoint was made")


def test_a_model_without_a_checkpoint_is_not_replaced(run, options):
    shutil.rmtree(run / "checkpoints")
    refused(options, OutputError, "holds a model .* but no checkpoint to go on from")


def test_a_checkpoint_made_by_hand_is_not_that_of_a_run(run, options):
    rewrite(newest_of(run), remove=["config"])
    refused(options, ModelError, "step-00000005: holds no options of `cupyrec train` that could be used")


def test_the_checksum_comes_first(run):
    assert (newest_of(run) / "checkpoint.json").read_bytes().startswith(CHECKSUM_PREFIX)
    assert read_checkpoint(newest_of(run)).steps == 5
