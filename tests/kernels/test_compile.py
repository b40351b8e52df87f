"""Every kernel file compiles for every architecture, by NVRTC and its assembler, which need no GPU; and the table of
what the kernels take, scripts/kernel_table.py, which compiles them for that.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

from cupyrec.devices.cuda_kernel import kernels_of
from cupyrec.kernels import source_path

nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="needs CuPy, which compiles by NVRTC")
try:
    nvrtc.getVersion()
except RuntimeError as error:
    pytest.skip(f"needs NVRTC (nvidia-cuda-nvrtc-cu12): {error}", allow_module_level=True)

# Vectors that a lane holds in registers, whatever is done with them.
MOST_WITHOUT_SPILLS = 512
SCRIPT = Path(__file__).parents[2] / "scripts" / "kernel_table.py"


def loaded_script():
    spec = importlib.util.spec_from_file_location("kernel_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


kernel_table = loaded_script()


def all_builds():
    for path in kernel_table.kernel_files():
        for constants in kernel_table.builds(path):
            named = "-".join(f"{name}={value}" for name, value in constants.items())
            yield pytest.param(path, constants, id=f"{path.stem}-{named}" if named else path.stem)


@pytest.mark.parametrize("architecture", kernel_table.ARCHITECTURES)
@pytest.mark.parametrize(("path", "constants"), list(all_builds()))
def test_a_kernel_file_compiles_without_a_warning(path, constants, architecture):
    usages, warnings = kernel_table.compile_file(path, constants, architecture)
    assert warnings == []
    assert {usage.kernel for usage in usages} == set(kernels_of(path))
    if constants.get("DIMENSION", 0) <= MOST_WITHOUT_SPILLS:
        assert not [usage for usage in usages if usage.spill_stores or usage.spill_loads]


def planted(tmp_path, body, head=""):
    path = tmp_path / "planted.cu"
    path.write_text(f'{head}\nextern "C" __global__ void k(float* x, int n) {{\n{body}\n}}\n', encoding="utf-8")
    return path


def test_an_error_names_file_and_line(tmp_path):
    path = planted(tmp_path, "x[0] = missing;")
    with pytest.raises(kernel_table.CompileError, match=r'planted\.cu\(3\): error: identifier "missing" is undefined'):
        kernel_table.compile_file(path, {}, "sm_80")


def test_an_error_of_the_assembler_is_one(tmp_path):
    path = planted(tmp_path, "__shared__ float part[20000]; part[n] = 1.0f; __syncthreads(); x[0] = part[n + 1];")
    with pytest.raises(kernel_table.CompileError, match="too much shared data"):
        kernel_table.compile_file(path, {}, "sm_80")


def test_a_warning_is_seen(tmp_path):
    path = planted(tmp_path, "int unused; x[0] = 1.0f;")
    _, warnings = kernel_table.compile_file(path, {}, "sm_70")
    assert any('planted.cu(3): warning #177-D: variable "unused"' in line for line in warnings)


def test_builds_have_every_value_of_every_constant(tmp_path):
    head = "// Text.\n// compiled with: A=1,2,3 B=0,1\n// compiled with: C=5\n"
    assert kernel_table.builds(planted(tmp_path, "", head)) == [
        {"A": 1, "B": 0},
        {"A": 2, "B": 1},
        {"A": 3, "B": 0},
        {"C": 5},
    ]
    assert kernel_table.builds(planted(tmp_path, "")) == [{}]


def test_what_a_kernel_takes(tmp_path):
    path = planted(
        tmp_path,
        """__shared__ float part[SIZE];
        float mine[100];
        for (int i = 0; i < 100; ++i) mine[i] = x[i];
        part[threadIdx.x] = mine[n];
        __syncthreads();
        x[0] = part[n];""",
    )
    (usage,), _ = kernel_table.compile_file(path, {"SIZE": 300}, "sm_80")
    assert usage.kernel == "k"
    assert usage.shared == 1200
    assert usage.stack >= 400
    assert usage.spill_stores == usage.spill_loads == 0
    assert 0 < usage.registers < 256


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "dense_update", "--architecture", "sm_80", "sm_90"])
    kernel_table.main()
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["file", "constants", "kernel", "architecture"]
    path = source_path("dense_update")
    kernels = len(kernels_of(path)) * len(kernel_table.builds(path))
    assert [row.split()[0] for row in rows] == ["dense_update.cu"] * 2 * kernels
    assert "sm_80" in rows[0]
    assert "0/0" in rows[0]
