"""Configuration: conversions, messages, the TOML round trip; the shape of a DLRM."""

import dataclasses
import re
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cupyrec.config import DlrmConfig, SystemConfig
from cupyrec.errors import ConfigError
from cupyrec.option_values import option_name
from cupyrec.run_config import RunConfig, read_config_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = [each.name for each in dataclasses.fields(RunConfig)]
TWENTY_SIX = tuple(range(1, 27))

WHOLE_FROM_1 = (
    *("batch_size", "epochs", "max_steps", "dimension", "log_every", "threads"),
    *("shuffle_window", "keep", "resume_step"),
)
WHOLE_FROM_2 = ("lookahead",)
WHOLE_FROM_0 = (
    *("warmup_steps", "decay_start_step", "decay_steps", "eval_every", "patience", "seed"),
    "checkpoint_every",
)
ABOVE_0 = ("learning_rate", "decay_power")
FROM_0 = ("end_learning_rate",)
FLAGS = ("init_state", "overwrite", "self_interaction", "cuda_graphs", "shuffle", "resume")
CHOICES = {
    "on_bad_row": ("error", "skip"),
    "pooling": ("sum", "mean"),
    "save": ("last", "best"),
    "optimizer": ("sgd", "adagrad", "rowwise-adagrad"),
    "system": ("auto", "resident", "hybrid", "static", "serial", "scratchpipe"),
    "replacement": ("lookahead", "lru", "lfu", "random"),
    "exchange": ("auto", "staged", "direct", "direct-in", "direct-out", "mixed"),
    "host_memory": ("auto", "ordinary", "managed"),
    "device": ("auto", "cpu", "gpu"),
    "precision": ("fp32", "tf32", "bf16"),
}
WIDTHS = ("bottom_mlp", "top_mlp")
TEXTS = ("output", "bad_rows", "row_counts", "trace", "init_from")


def refusal(values, **settings):
    """The message of the ConfigError that these values give."""
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_values(values, **settings)
    return str(caught.value)


def test_defaults_pass_their_own_converters():
    given_values = {name: value for name, value in dataclasses.asdict(RunConfig()).items() if value is not None}
    assert RunConfig.from_values(given_values) == RunConfig.from_values({}) == RunConfig()


def test_every_option_has_help_and_no_option_is_forgotten_here():
    assert all(len(each.metadata["help"]) > 10 for each in dataclasses.fields(RunConfig))
    listed = {*WHOLE_FROM_1, *WHOLE_FROM_2, *WHOLE_FROM_0, *ABOVE_0, *FROM_0, *FLAGS, *CHOICES, *WIDTHS}
    assert listed | {"paths", "valid", *TEXTS, "hash_rows", "eps", "scratchpad"} == set(NAMES)


@pytest.mark.parametrize(
    ("name", "raw", "converted"),
    [
        ("batch-size", "1000", 1000),
        ("batch-size", "1_000", 1000),
        ("batch-size", "1e6", 1_000_000),
        ("batch-size", 2048.0, 2048),
        ("batch_size", 7, 7),
        ("seed", "0", 0),
        ("seed", str(2**63 - 1), 2**63 - 1),
        ("learning-rate", "1e-3", 0.001),
        ("learning-rate", 1, 1.0),
        ("eps", "1e-8", 1e-8),
        ("bottom-mlp", "512-256-16", (512, 256, 16)),
        ("bottom-mlp", "512,256,16", (512, 256, 16)),
        ("bottom-mlp", [8, "4"], (8, 4)),
        ("top-mlp", 1, (1,)),
        ("hash-rows", "1e5", (100_000,)),
        ("hash-rows", 40, (40,)),
        ("hash-rows", ",".join(map(str, TWENTY_SIX)), TWENTY_SIX),
        ("hash-rows", list(TWENTY_SIX), TWENTY_SIX),
        ("paths", "day_0", ("day_0",)),
        ("paths", ["day_0", "day_1"], ("day_0", "day_1")),
        ("valid", 0.1, ("0.1",)),
        ("valid", ("a", "b"), ("a", "b")),
        ("output", "out", "out"),
        ("overwrite", True, True),
        ("pooling", "mean", "mean"),
    ],
)
def test_conversions(name, raw, converted):
    value = getattr(RunConfig.from_values({name: raw}), name.replace("-", "_"))
    assert value == converted
    assert type(value) is type(converted)


@pytest.mark.parametrize("raw", [[], None, "", "many", "1.5", True, "nan", "inf", float("inf"), [3], {"a": 1}])
@pytest.mark.parametrize(("names", "least"), [(WHOLE_FROM_1, 1), (WHOLE_FROM_2, 2), (WHOLE_FROM_0, 0)])
def test_whole_numbers(names, least, raw):
    for name in names:
        expected = f"{option_name(name)} must be a whole number of at least {least}, but is "
        assert refusal({name: raw}) == expected + repr(raw)
        assert refusal({name: least - 1}) == f"{expected}{least - 1}"
        assert getattr(RunConfig.from_values({name: str(least)}), name) == least


@pytest.mark.parametrize("raw", [[], None, "", "much", False, "nan", "-inf", float("nan"), [0.5]])
def test_real_numbers(raw):
    for name in ABOVE_0:
        assert refusal({name: raw}) == f"{option_name(name)} must be a number above 0, but is {raw!r}"
        assert refusal({name: 0}) == f"{option_name(name)} must be a number above 0, but is 0"
        assert refusal({name: "-1"}) == f"{option_name(name)} must be a number above 0, but is '-1'"
    for name in FROM_0:
        assert refusal({name: raw}) == f"{option_name(name)} must be a number of at least 0, but is {raw!r}"
        assert refusal({name: -0.5}) == f"{option_name(name)} must be a number of at least 0, but is -0.5"
        assert getattr(RunConfig.from_values({name: 0}), name) == 0.0
    assert refusal({"eps": raw}).startswith("eps must be a number ")
    assert refusal({"eps": -1}).startswith("eps must be a number ")


@pytest.mark.parametrize("name", ["learning-rate", "epochs"])
def test_whole_numbers_beyond_float64(name):
    assert "must be a" in refusal({name: 10**400})


@pytest.mark.parametrize("raw", ["true", 1, 0, None, []])
def test_flags(raw):
    for name in FLAGS:
        assert refusal({name: raw}) == f"{option_name(name)} must be true or false, but is {raw!r}"
        assert getattr(RunConfig.from_values({name: True}), name) is True


@pytest.mark.parametrize("raw", ["SUM", "", None, 3, ["sum"]])
def test_choices(raw):
    for name, choices in CHOICES.items():
        assert refusal({name: raw}) == f"{option_name(name)} must be {' or '.join(choices)}, but is {raw!r}"
        for choice in choices:
            assert getattr(RunConfig.from_values({name: choice}), name) == choice


@pytest.mark.parametrize("raw", ["", "512-", "512-x", "5.5", "0-1", "-5", None, True, 16.5, [0], [16, True], [[16]]])
def test_widths(raw):
    for name in WIDTHS:
        assert refusal({name: raw}) == (f"{option_name(name)} must be layer widths such as 512-256-16, but is {raw!r}")


@pytest.mark.parametrize("raw", ["", "x", 0, -3, 2.5, "1,2", [1] * 25, [1] * 27, [0] * 26, [], None, True])
def test_hash_rows(raw):
    expected = f"hash-rows must be one number, or 26 with commas between them, each at least 1, but is {raw!r}"
    assert refusal({"hash_rows": raw}) == expected


def test_texts():
    for name in TEXTS:
        assert refusal({name: 3}) == f"{option_name(name)} must be a text, but is 3"
        assert refusal({name: ""}) == f"{option_name(name)} must be a text that is not empty, but is ''"
    assert refusal({"paths": None}) == "paths must be one path or a list of paths, but is None"


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("batchsize", "batch-size"),
        ("learning_rat", "learning-rate"),
        ("optimiser", "optimizer"),
        ("seeds", "seed"),
        ("lr", "learning-rate"),
    ],
)
def test_unknown_name_with_the_nearest(wrong, nearest):
    assert refusal({wrong: 1}) == f"unknown option '{wrong}'; did you mean '{nearest}'?"


@pytest.mark.parametrize("name", ["", "%", "qqqqqqqqqqqqqqqqqqqqqqqqqq"])
def test_a_name_like_no_other(name):
    assert refusal({name: 1}) == f"unknown option '{name}'; see cupyrec train --help"


def test_names_of_the_command_line_that_stand_in_no_file():
    assert refusal({"no-cuda-graphs": True}) == "unknown option 'no-cuda-graphs'; write 'cuda-graphs = false'"
    assert refusal({"config": "a.toml"}) == "'config' names a file of options, and cannot stand in one"


def test_an_option_in_both_spellings():
    message = "batch-size is there twice, also as batch_size; take one of them away"
    for names in (("batch-size", "batch_size"), ("batch_size", "batch-size")):
        assert refusal(dict.fromkeys(names, 4)) == message


def test_source_stands_first():
    assert refusal({"epochs": 0}, source="run.toml").startswith("run.toml: epochs must be")
    assert refusal({"epoch": 1}, source="run.toml").startswith("run.toml: unknown option 'epoch'")


whole = {
    name: st.integers(least, 2**63 - 1)
    for least, names in enumerate((WHOLE_FROM_0, WHOLE_FROM_1, WHOLE_FROM_2))
    for name in names
}
real = {name: st.floats(1e-30, allow_nan=False, allow_infinity=False) for name in (*ABOVE_0, *FROM_0, "eps")}
# TOML holds no surrogates; a file name that is not UTF-8 would give one.
path_texts = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF))
name_texts = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), min_size=1)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        **whole,
        **real,
        **{name: st.booleans() for name in FLAGS},
        **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
        **{name: st.lists(st.integers(1, 2**40), min_size=1, max_size=4) for name in WIDTHS},
        "hash_rows": st.one_of(st.integers(1, 2**40), st.lists(st.integers(1, 2**40), min_size=26, max_size=26)),
        "paths": st.lists(path_texts, max_size=3),
        "valid": st.lists(path_texts, max_size=2),
        **dict.fromkeys(TEXTS, name_texts),
    },
)


@given(values=VALUES)
@example(values={"output": 'a "quoted" \\ back\\slash\n\ttab \x00 \x7f é 漢'})
def test_toml_round_trip(values):
    config = RunConfig.from_values(values)
    assert RunConfig.from_values(tomllib.loads(config.to_toml())) == config


def test_toml_round_trip_of_characters_beyond_16_bits():
    config = RunConfig(output="run-\U0001f600")
    assert RunConfig.from_values(tomllib.loads(config.to_toml())) == config


def test_toml_names_are_those_of_the_command_line_and_unset_options_are_left_out():
    written = tomllib.loads(RunConfig(batch_size=5).to_toml())
    assert written["batch-size"] == 5
    unset = {each.name for each in dataclasses.fields(RunConfig) if each.default is None}
    assert {"output", "max_steps", "threads"} <= unset
    assert set(written) == {option_name(name) for name in set(NAMES) - unset}


def test_read_config_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('batch-size = 5\npaths = ["é"]\n', encoding="utf-8")
    assert read_config_file(path) == {"batch-size": 5, "paths": ["é"]}


@pytest.mark.parametrize("content", [b"batch-size = \n", b"a = 1\na = 2\n", b'paths = ["\xff"]\n'])
def test_not_a_toml_file(tmp_path, content):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config_file(path)
    assert str(caught.value).startswith(f"{path}: not a TOML file: ")
    assert "\n" not in str(caught.value)


def test_config_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        read_config_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_config_file(tmp_path)


def test_model_of_a_run():
    config = RunConfig.from_values(
        {"dimension": 8, "top-mlp": "32-1", "pooling": "mean", "self-interaction": True}
    ).model_for((5, 6), 13)
    assert config == DlrmConfig((5, 6), 13, 8, (512, 256, 64, 8), (32, 1), pooling="mean", self_interaction=True)
    assert RunConfig(bottom_mlp=(4, 16)).model_for((5,), 2) == DlrmConfig((5,), 2, 16, (4, 16), (512, 256, 1))


def test_dlrm_config_takes_lists_and_counts_features():
    config = DlrmConfig(table_rows=[5, 6], dimension=4, bottom=[8, 4], top=[1])
    assert (config.table_rows, config.bottom, config.top) == ((5, 6), (8, 4), (1,))
    assert config.features == 2
    assert hash(config) == hash(DlrmConfig((5, 6), dimension=4, bottom=(8, 4), top=(1,)))


def test_dlrm_config_makes_numpy_whole_numbers_plain():
    config = DlrmConfig(np.array([5, 6]), dimension=np.int64(4), bottom=(np.int32(4),), top=(1,))
    assert {type(value) for value in (*config.table_rows, *config.bottom, config.dimension)} == {int}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"table_rows": ()}, "table_rows must be whole numbers of at least 1, but is empty"),
        ({"table_rows": (5, 0)}, "table_rows must be whole numbers of at least 1, but is 5-0"),
        ({"table_rows": 5}, "table_rows must be a list of whole numbers, such as (64, 16), but is 5"),
        ({"bottom": "8-4"}, "bottom must be a list of whole numbers, such as (64, 16), but is '8-4'"),
        ({"bottom": ()}, "bottom must be whole numbers of at least 1, but is empty"),
        ({"top": (0, 1)}, "top must be whole numbers of at least 1, but is 0-1"),
        ({"table_rows": (3.9,)}, "table_rows must be whole numbers of at least 1, but is 3.9"),
        ({"table_rows": (5, True)}, "table_rows must be whole numbers of at least 1, but is 5-True"),
        (
            {"table_rows": (5, np.float64(6))},
            f"table_rows must be whole numbers of at least 1, but is 5-{np.float64(6)!r}",
        ),
        ({"bottom": (8.0, 4)}, "bottom must be whole numbers of at least 1, but is 8.0-4"),
        ({"top": ("8", 1)}, "top must be whole numbers of at least 1, but is '8'-1"),
        ({"dimension": 4.0}, "dimension must be whole numbers of at least 1, but is 4.0"),
        ({"dimension": True, "bottom": (1,)}, "dimension must be whole numbers of at least 1, but is True"),
        ({"dense_features": 12.5}, "dense_features must be whole numbers of at least 1, but is 12.5"),
        ({"dimension": 0}, "dimension must be whole numbers of at least 1, but is 0"),
        ({"dense_features": 0}, "dense_features must be whole numbers of at least 1, but is 0"),
        ({"bottom": (8, 5)}, "the bottom MLP must end in the embedding dimension, 4, but is 8-5"),
        ({"top": (8, 2)}, "the top MLP must end in 1, the logit, but is 8-2"),
        ({"pooling": "max"}, "pooling must be sum or mean, but is 'max'"),
    ],
)
def test_dlrm_config_messages(changed, message):
    good = {"table_rows": (5,), "dimension": 4, "bottom": (8, 4), "top": (8, 1)}
    with pytest.raises(ConfigError) as caught:
        DlrmConfig(**{**good, **changed})
    assert str(caught.value) == message


def test_a_section_is_refused_as_one():
    with pytest.raises(
        ConfigError, match=re.escape("run.toml: options stand in no section; take away the line [train]")
    ):
        RunConfig.from_values({"train": {"epochs": 2}}, source="run.toml")


@pytest.mark.parametrize(("raw", "kept"), [("8GB", "8GB"), (50_000, "50000"), ("2.5%", "2.5%"), ("512 MiB", "512 MiB")])
def test_sizes_of_a_scratchpad(raw, kept):
    assert RunConfig.from_values({"scratchpad": raw}).scratchpad == kept


@pytest.mark.parametrize("raw", ["", "big", "0", "0%", "-3", "10 %%", "1e3 rows", True, 1.5, None, "0B"])
def test_what_is_no_size_of_a_scratchpad(raw):
    assert refusal({"scratchpad": raw}) == (
        "scratchpad must be bytes with a unit (8GB), a number of rows (50000), or a share of all rows (10%), "
        f"but is {raw!r}"
    )


def test_the_system_that_the_options_describe():
    config = RunConfig.from_values({"system": "serial", "scratchpad": "7%", "lookahead": 5, "row_counts": "counts.npy"})
    assert config.system_config() == SystemConfig("serial", "7%", 5, "lookahead", "counts.npy")
    assert RunConfig().system_config() == SystemConfig()
    with pytest.raises(ConfigError, match="lru does not look ahead; leave --lookahead out"):
        RunConfig.from_values({"lookahead": 5, "replacement": "lru"}).system_config()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "scratch"}, "unknown system 'scratch'; choose auto, resident, hybrid, static, serial, scratchpipe"),
        ({"replacement": "fifo"}, "unknown replacement 'fifo'; choose lookahead, lru, lfu, random"),
        ({"scratchpad": "10"}, None),
        ({"scratchpad": 10}, None),
        ({"scratchpad": np.int64(10)}, None),
        ({"scratchpad": 0}, "a scratchpad of 0 holds no row"),
        ({"scratchpad": 10.5}, "scratchpad must be a text such as '8GB' or '10%', or a number of rows, but is 10.5"),
        ({"scratchpad": True}, "or a number of rows, but is True"),
        ({"scratchpad": "ten"}, "'ten' is not the size of a scratchpad: give bytes with a unit"),
        ({"lookahead": 2}, None),
        ({"lookahead": 1}, "lookahead must be a whole number of at least 2, but is 1"),
        ({"lookahead": 2.5}, "lookahead must be a whole number of at least 2, but is 2.5"),
    ],
)
def test_system_configs_are_checked(settings, message):
    if message is None:
        SystemConfig(**settings)
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        SystemConfig(**settings)
