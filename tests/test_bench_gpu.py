"""The benchmark of a GPU runs whole on an emulated one, and every figure is there; values mean nothing here."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
STEP = {
    "step_ms",
    "wall_step_ms",
    "windows_ms",
    "stages_ms",
    "host_stages_ms",
    "gpu_idle_share",
    "floors",
    "warm_steps",
}
TRAFFIC = {f"{each}_a_step" for each in ("hits", "misses", "evictions", "bytes_in", "bytes_out", "bubbles")}
SCRATCHPAD = STEP | TRAFFIC | {"slots", "full", "lookahead"}
FLOORS = {"train_ms", "link_ms", "step_ms", "step_over_floor"}
TRAIN = {"ms", "host_ms", "unique_rows", "floor_ms", "share_of_floor"}


@pytest.fixture(scope="module")
def scripts():
    """The scripts can be imported."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def measured(scripts, tmp_path_factory):
    import bench_gpu

    folder = tmp_path_factory.mktemp("bench")
    assert bench_gpu.main(["--scale", "tiny", "--folder", str(folder), "--seconds", "3600"]) == 0
    return json.loads((folder / "gpu_emulated.json").read_text())


def items(measured, section):
    """The items of a section; none of them failed."""
    found = measured["sections"][section]
    failed = {name: item for name, item in found.items() if {"error", "mismatch", "skipped", "begun"} & item.keys()}
    assert not failed
    return found


def test_it_says_where_it_ran(measured):
    assert measured["device"]["name"] == "emulated"
    assert measured["host"].keys() == {"cpu", "threads", "memory"}
    assert "numpy" in measured["versions"]
    assert measured["scale"] == "tiny"


def test_ceilings(measured):
    found = items(measured, "ceilings")
    assert found["copies"]["copied_right"]
    assert {"copy_device_gb_s", "in_gb_s", "out_gb_s", "both_in_gb_s", "both_out_gb_s"} <= found["copies"].keys()
    assert {f"matmul_{each}_tflop_s" for each in ("fp32", "tf32", "bf16")} <= found["matmul"].keys()


def test_systems(measured):
    found = items(measured, "systems")
    assert found["check"]["right"]
    fastest = found["host table"]["auto_exchange"]
    other, *_ = sorted({"staged", "direct"} - {fastest})
    scratchpads = ["scratchpipe / 50% / " + fastest, "scratchpipe / 30% / " + fastest]
    scratchpads += ["scratchpipe / 50% / " + other, "serial / 50% / " + fastest]
    for name in scratchpads:
        assert found[f"Zipf 0.6 / {name}"].keys() >= SCRATCHPAD
        assert found[f"Zipf 0.6 / {name}"]["stages_ms"].keys() >= {"train", "in", "out"}
    for name in ("static / 50%", "static / 30%", "hybrid"):
        assert found[f"Zipf 0.6 / {name}"].keys() >= STEP | TRAFFIC
    assert found["Zipf 0.6 / resident"].keys() >= STEP
    assert found["Zipf 0.6 / resident"]["floors"].keys() == FLOORS
    rows = {f"host_{move}_1 thread_gb_s" for move in ("gather", "scatter")}
    rows |= {f"direct_{way}_gb_s" for way in ("read", "write", "both_read", "both_write")}
    assert rows <= found["host rows"].keys()
    bars = found["bars"]
    assert [each["case"] for each in bars["against resident or the link"]] == ["Zipf 0.6, 50%", "Zipf 0.6, 30%"]
    assert all(isinstance(bars[f"times {name}"]["met"], bool) for name in ("static", "hybrid"))


def test_train(measured):
    found = items(measured, "train")
    for precision in ("fp32", "tf32", "bf16"):
        for graphs in ("with graphs", "without graphs"):
            assert found[f"Zipf 0.6 / {precision}, {graphs}"].keys() >= TRAIN
        kernels = found[f"Zipf 0.6 / {precision}, kernels"]["kernels"]
        names = {each["name"].split()[0] for each in kernels}
        assert {
            "matmul",
            "dot_interaction_forward",
            "dot_interaction_backward",
            "bce_with_logits",
            "dense_sgd",
        } <= names
        assert {"embedding_bag_of_rows", "update_short_at_rows", "bias_activation_forward"} <= names


def test_embeddings(measured):
    found = items(measured, "embeddings")
    times = {"forward_backward_ms", "with_coalescing_ms", "forward_ms", "backward_ms", "coalescing_ms"}
    assert found["all rows on the device"].keys() >= times | {"lookups", "unique_rows", "kernels", "published_peer_ms"}
    assert found["scratchpipe"].keys() >= (SCRATCHPAD - {"floors"}) | {"exchange", "published_peer_ms"}


def test_planning(measured):
    found = items(measured, "planning")
    figures = {"look_ms", "plan_ms", "both_ms", "host_ms", "full", "lookahead", "unique_rows", "missed_rows"}
    assert found["Zipf 0.6 / 100 slots"].keys() >= figures


def test_tables_show_every_section(scripts, measured):
    import gpu_table

    shown = gpu_table.markdown(measured)
    assert "Without figures" not in shown
    texts = ("Zipf 0.6 | resident", "copy device gb s", "forward backward ms", "look ms", "fp32, with graphs")
    for text in (*texts, "scratchpipe, Zipf 0.6, 50%"):
        assert text in shown


def test_a_run_goes_on_where_one_was_cut_off(scripts, tmp_path):
    from gpu_bench_report import Report, Section

    path = tmp_path / "gpu.json"
    calls = []

    def section(seconds=100.0):
        report = Report(path, {"name": "none"}, 1, "tiny")
        return Section(report, "any", time.monotonic() + seconds, impatient=False)

    def figure(name):
        def measure():
            calls.append(name)
            if name == "fails":
                raise ValueError("no figure")
            return {"ms": 1}

        return measure

    first = section()
    assert first.measure("a", 1, figure("a"))["ms"] == 1
    assert first.measure("fails", 1, figure("fails")) is None
    assert first.measure("long", 1000, figure("long")) is None
    first.report.put("any", "crashed", {"begun": True})
    again = section()
    assert again.measure("a", 1, figure("a"))["ms"] == 1
    assert again.measure("fails", 1, figure("fails")) is None
    assert again.measure("crashed", 1, figure("crashed")) is None
    assert again.measure("long", 1, figure("long"))["ms"] == 1
    assert calls == ["a", "fails", "long"]
    kept = json.loads(path.read_text())["sections"]["any"]
    assert kept["fails"]["error"] == "ValueError: no figure"
    assert "ended during" in kept["crashed"]["error"]


def test_drawn_rows_follow_their_locality(scripts):
    from gpu_bench_scale import BatchSource, Locality, expected_order

    from cupyrec.config import DlrmConfig
    from cupyrec.devices.cpu import CpuDevice

    rows, lookups = 50, 40_000
    config = DlrmConfig((rows,) * 2, 2, 4, (4,), (1,))
    ranks = expected_order(config)[:rows].argsort()[::-1]
    for exponent in (0.0, 0.6, 1.1):
        source = BatchSource(CpuDevice(1), config, lookups // 20, 20, Locality("any", exponent, 0))
        batch = source.batch(3).validate(config.table_rows, 2)
        counts = np.bincount(batch.rows[:lookups], minlength=rows)[ranks]
        wanted = np.arange(1, rows + 1) ** -exponent
        np.testing.assert_allclose(counts / lookups, wanted / wanted.sum(), rtol=0.15, atol=0.002)
        assert batch.rows.tobytes() == source.batch(3).rows.tobytes()
        assert batch.rows.tobytes() != source.batch(4).rows.tobytes()


def test_errors_of_the_sanitizer_are_counted(scripts):
    from gpu_sanitize import errors_of

    assert errors_of("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 3 errors\n") == 3
    assert errors_of("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n") == 0
    assert errors_of("========= Invalid __global__ read of size 4 bytes\n=========     at f\n") == 1
