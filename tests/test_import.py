"""What importing and asking for help loads: nothing that takes long, nothing that needs a GPU."""

import subprocess
import sys

import pytest

import cupyrec
from cupyrec.cli import COMMANDS

HEAVY = {"cupy", "numba", "pyarrow", "llvmlite", "scipy", "tqdm", "threadpoolctl"}


def loaded_after(code):
    """The heavy modules that a fresh interpreter has loaded after `code`, and its exit code."""
    script = (
        "import sys\n"
        "try:\n"
        f"    {code}\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('loaded:', *sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    return ended.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "code",
    [
        "import cupyrec",
        "import cupyrec; dir(cupyrec); cupyrec.__version__; cupyrec.CupyrecError; cupyrec.RunConfig; cupyrec.Batch",
        "import cupyrec.cli; cupyrec.cli.main(['--help'])",
        "import cupyrec.cli; cupyrec.cli.main(['--version'])",
        *(f"import cupyrec.cli; cupyrec.cli.main(['{command}', '--help'])" for command in COMMANDS),
    ],
)
def test_loads_nothing_heavy(code):
    assert loaded_after(code) == []


def test_the_check_itself_sees_what_is_loaded():
    assert "pyarrow" in loaded_after("import cupyrec; cupyrec.CriteoFiles")


def test_constants_said_again_for_a_quick_help_agree():
    from cupyrec.cli.generate import COMPRESSIONS, DEFAULT_CATEGORIES
    from cupyrec.datasets import planted_model, synthetic

    assert DEFAULT_CATEGORIES == planted_model.DEFAULT_CATEGORIES
    assert COMPRESSIONS == synthetic.COMPRESSIONS


def test_all_public_names_are_there():
    assert set(cupyrec.__all__) == {
        "Adagrad",
        "Batch",
        "BatchList",
        "CriteoFiles",
        "CupyrecError",
        "DataError",
        "DlrmConfig",
        "PrepareOptions",
        "PreparedData",
        "RowwiseAdagrad",
        "RunConfig",
        "SampleEncoder",
        "Sgd",
        "Source",
        "SystemConfig",
        "TraceFile",
        "Trainer",
        "WarmupPolynomialDecay",
        "__version__",
        "errors",
        "functions",
        "load_model",
        "optim",
        "prepare",
    }
    assert dir(cupyrec) == sorted(cupyrec.__all__)
    for name in cupyrec.__all__:
        assert getattr(cupyrec, name).__doc__


def test_modules_are_attributes_without_an_import_of_their_own():
    code = "import cupyrec; assert cupyrec.{0}.__name__ == 'cupyrec.{0}'; assert cupyrec.{1}"
    for module, name in {
        "errors": "errors.ConfigError",
        "functions": "functions.embedding_bag_forward",
        "optim": "optim.RowUpdate",
    }.items():
        loaded_after(code.format(module, name))


def test_names_of_functions_are_functions():
    """Two of them have the name of their module as well."""
    for package in (cupyrec.functions, cupyrec.optim):
        for name in package.__all__:
            assert callable(getattr(package, name)), name
            assert getattr(package, name).__doc__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match=r"module 'cupyrec' has no attribute 'Tariner'"):
        cupyrec.Tariner  # noqa: B018
