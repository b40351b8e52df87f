"""The benchmark of a GPU runs whole on an emulated one, and every figure is there; values mean nothing here."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cupyrec.config import EXCHANGES

ROOT = Path(__file__).parents[1]
STEP = {
    "step_ms",
    "wall_step_ms",
    "windows_ms",
    "stages_ms",
    "host_stages_ms",
    "share_outside_train",
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


def test_no_section_is_left_without_time_by_those_after_it(scripts):
    from bench_gpu import section_ends

    assert section_ends(["ceilings", "systems", "train"], 1000.0, 168.0) == {
        "ceilings": 1020.0,
        "systems": 1168.0,
        "train": 1168.0,
    }
    assert section_ends(["ceilings", "systems", "train"], 1000.0, 500.0) == {
        "ceilings": 1215.0,
        "systems": 1455.0,
        "train": 1500.0,
    }


def test_it_says_where_it_ran(measured):
    assert measured["device"]["name"] == "emulated"
    assert measured["host"].keys() == {"cpu", "threads", "memory"}
    assert "numpy" in measured["versions"]
    assert measured["scale"] == "tiny"
    assert len(measured["sources"]) == 16


def test_ceilings(measured):
    found = items(measured, "ceilings")
    assert found["copies"]["copied_right"]
    assert {"copy_device_gb_s", "in_gb_s", "out_gb_s", "both_in_gb_s", "both_out_gb_s"} <= found["copies"].keys()
    assert {f"matmul_{each}_tflop_s" for each in ("fp32", "tf32", "bf16")} <= found["matmul"].keys()


def test_systems(measured):
    found = items(measured, "systems")
    assert found["check"]["right"]
    assert found["host table"]["memory"] == "ordinary"
    ways = {*EXCHANGES, "mixed 25%", "mixed 50%", "mixed 75%"} - {"auto", "mixed"}
    assert len(ways) == 7
    checked = {f"{name}, {way}: same bits" for name in ("scratchpipe", "serial") for way in ways}
    assert {key for key, value in found["check"].items() if key.endswith("bits") and value} == checked
    fastest = found["host table"]["auto_exchange"]
    other, *_ = sorted({"staged", "direct"} - {fastest})
    scratchpads = ["scratchpipe / 50% / " + fastest, "scratchpipe / 30% / " + fastest]
    scratchpads += ["scratchpipe / 50% / " + other, "serial / 50% / " + fastest]
    for name in scratchpads:
        assert found[f"Zipf 0.6 / {name}"].keys() >= SCRATCHPAD
        # Each entry of the ring was used twice before anything was timed.
        assert found[f"Zipf 0.6 / {name}"]["warm_steps"] > 2 * found[f"Zipf 0.6 / {name}"]["lookahead"] + 8
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
    outside = [each["case"] for each in bars["outside Train"]]
    assert outside == ["Zipf 0.6, resident", "Zipf 0.6, 50%, scratchpipe", "Zipf 0.6, 30%, scratchpipe"]


def test_host_tables_in_managed_memory(scripts, tmp_path):
    import bench_gpu

    options = ["--only", "embeddings,systems", "--host-memory", "managed"]
    assert bench_gpu.main(["--scale", "tiny", "--folder", str(tmp_path), "--seconds", "3600", *options]) == 0
    managed = json.loads((tmp_path / "gpu_emulated.json").read_text())
    assert managed["scale"] == "tiny, managed host memory"
    assert items(managed, "systems")["host table"]["memory"] == "managed"
    assert items(managed, "systems")["check"]["right"]
    assert "exchange" in items(managed, "embeddings")["scratchpipe"]


def test_a_scratchpad_that_was_never_full_counts_in_no_mean(scripts):
    from gpu_bench_scale import TINY
    from gpu_bench_systems import bars_of

    items = {"host table": {"auto_exchange": "direct"}, "Zipf 0.6 / hybrid": {"step_ms": 12.0}}
    items["Zipf 0.6 / resident"] = {"step_ms": 2.0, "share_outside_train": 0.04}
    for share, ms, full in (("50%", 1.0, False), ("30%", 2.0, True)):
        items[f"Zipf 0.6 / scratchpipe / {share} / direct"] = {
            "step_ms": ms,
            "full": full,
            "floors": {"link_ms": 1.0},
            "share_outside_train": 0.06,
        }
        items[f"Zipf 0.6 / static / {share}"] = {"step_ms": 6.0}
    bars = bars_of(items, TINY)
    against = {each["case"]: (each["full"], each["over_resident"]) for each in bars["against resident or the link"]}
    assert against == {"Zipf 0.6, 50%": (False, 0.5), "Zipf 0.6, 30%": (True, 1.0)}
    assert (bars["times static"]["mean"], bars["times static"]["cases"], bars["times static"]["met"]) == (3.0, 1, True)
    assert (bars["times hybrid"]["mean"], bars["times hybrid"]["cases"], bars["times hybrid"]["met"]) == (6.0, 1, True)
    assert [each["met"] for each in bars["outside Train"]] == [True, False, False]


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


def test_train_is_held_against_its_floor(scripts, measured):
    from gpu_bench_train import train_bars

    cases = [each["case"] for each in measured["sections"]["train"]["bars"]["share of floor"]]
    assert cases == [f"Zipf 0.6 / {each}, with graphs" for each in ("fp32", "tf32", "bf16")]
    bars = train_bars({"a, with graphs": {"share_of_floor": 0.7}, "b, with graphs": {"share_of_floor": 0.69}})
    assert [each["met"] for each in bars["share of floor"]] == [True, False]


def test_embeddings(measured):
    found = items(measured, "embeddings")
    times = {"forward_backward_ms", "with_coalescing_ms", "forward_ms", "backward_ms", "coalescing_ms"}
    assert found["all rows on the device"].keys() >= times | {"lookups", "unique_rows", "kernels", "published_peer_ms"}
    assert found["scratchpipe"].keys() >= (SCRATCHPAD - {"floors"}) | {"exchange", "published_peer_ms"}


def test_planning(measured):
    found = items(measured, "planning")
    figures = {"look_ms", "plan_ms", "both_ms", "host_ms", "full", "lookahead", "unique_rows", "missed_rows"}
    assert found["Zipf 0.6 / 100 slots"].keys() >= figures
    kernels = found["Zipf 0.6 / 100 slots, kernels"]
    names = {"look", "use", "find_room", "choose", "evict", "assign", "tell_int32"}
    assert kernels.keys() >= names
    assert all(kernels[name]["launches"] >= 1 and kernels[name]["ms"] > 0 for name in names)
    for name in ("beside Train", "beside Train, urgent"):
        beside = found[f"Zipf 0.6 / 100 slots, {name}"]
        assert beside.keys() >= {"look_ms", "plan_ms", "train_ms", "both_at_once_ms"}


def test_pages(measured):
    """But of allocated memory, which is the driver's: an emulated GPU has none."""
    found = measured["sections"]["pages"]
    assert found["allocated / made"]["error"].startswith("HostMemoryError: this device has no driver of CUDA")
    rates = {"read_gb_s", "write_gb_s", "both_read_gb_s", "both_write_gb_s"}
    wanted = {
        "made": {"bytes", "make_s", "touch_s", "settle_s", "read_right", "written_right", "right"},
        "random rows": rates | {f"wide_{name}" for name in rates} | {"record_bytes", "read_shuffled_gb_s"},
        "small part": rates | {f"read_of_{size}_bytes_gb_s" for size in (128, 1024, 16384)},
        "host": {f"{move}_{n}_gb_s" for move in ("gather", "scatter") for n in ("1_thread", "all_threads")},
        "in order": {"bytes", "read_gb_s", "wide_read_gb_s"},
        "copies": {"in_gb_s", "out_gb_s", "both_in_gb_s", "both_out_gb_s", "copied_right"},
        "launch shapes": {f"read_{shape}_gb_s" for shape in ("32x256", "4x1024", "16x1024", "256x256")},
        "record widths": {f"read_{size}_bytes_gb_s" for size in (4, 16, 64, 256)},
        "given back": {"seconds"},
    }
    kinds = "registered", "managed"
    assert list(found) == [*(f"{kind} / {item}" for kind in kinds for item in wanted), "allocated / made"]
    for kind in kinds:
        for item, keys in wanted.items():
            assert keys <= found[f"{kind} / {item}"].keys()
            assert not {"error", "mismatch", "skipped", "begun"} & found[f"{kind} / {item}"].keys()
        assert found[f"{kind} / copies"]["copied_right"]


def test_a_record_in_eight_at_most_is_moved_in_one_round(scripts):
    from gpu_bench_host_memory import LEAST_STRIDE, FilledMemory
    from gpu_bench_scale import TINY
    from gpu_devices import emulated_device

    memory = FilledMemory(TINY, emulated_device(), "registered")
    # (records, at most so many of them, rounds); as many as the scale moves where it is None.
    for records, count, rounds in ((1000, None, 1), (100, None, 6), (64, None, 8), (10, None, 8), (1000, 200, 2)):
        rows = memory.rows(records, count)
        assert np.unique(rows).size == rows.size == min(count or TINY.moved_rows, records)
        assert rows.min() >= 0
        assert rows.max() < records
        parts = np.array_split(rows, rounds)
        assert all((np.diff(part) > 0).all() for part in parts)
        assert max(part.size for part in parts) <= -(-records // LEAST_STRIDE)


def test_memory_is_smaller_where_little_is_left(scripts, monkeypatch):
    import gpu_bench_host_memory
    from gpu_bench_scale import PAPER

    block = PAPER.copy_bytes
    for free, blocks in ((None, 32), (10**12, 32), (block * 20, 10), (0, 4)):
        monkeypatch.setattr(gpu_bench_host_memory, "available_bytes", lambda free=free: free)
        assert gpu_bench_host_memory.buffer_elements(PAPER) * 4 == blocks * block


def test_tables_show_every_section(scripts, measured):
    import gpu_table

    # What an emulated GPU cannot have.
    assert all(line.startswith("pages, ") for line in gpu_table.left_out(measured["sections"]))
    shown = gpu_table.markdown(measured)
    read = gpu_table.number(measured["sections"]["pages"]["registered / random rows"], "read_gb_s", digits=1)
    assert f"| registered | {read} | " in shown
    without = {name: items for name, items in measured["sections"].items() if name != "pages"}
    assert "host memory over the link" not in gpu_table.markdown({**measured, "sections": without})
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


def test_results_of_other_sources_or_machines_are_not_mixed(scripts, tmp_path, monkeypatch):
    import gpu_bench_report
    from gpu_bench_report import Report

    path = tmp_path / "gpu.json"

    def report(device="one", threads=1, scale="tiny"):
        return Report(path, {"name": device}, threads, scale)

    report().put("any", "a", {"ms": 1})
    assert report().section("any") == {"a": {"ms": 1}}
    for other in ({"device": "another"}, {"threads": 2}, {"scale": "paper"}):
        assert report(**other).path.name == "gpu_2.json"
        assert report(**other).section("any") == {}
    for function in ("commit", "sources_digest", "versions"):
        with monkeypatch.context() as changed:
            changed.setattr(gpu_bench_report, function, lambda *names: "another")
            assert report().path.name == "gpu_2.json"
            report().put("any", "b", {"ms": 2})
            assert report().section("any") == {"b": {"ms": 2}}
            (tmp_path / "gpu_2.json").unlink()
    assert json.loads(path.read_text())["sections"] == {"any": {"a": {"ms": 1}}}


def test_sources_are_told_apart_with_git_and_without(scripts, tmp_path):
    import subprocess

    from gpu_bench_report import commit, sources_digest

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    root, script = tmp_path / "copy", tmp_path / "copy/scripts/any.py"
    script.parent.mkdir(parents=True)
    script.write_text("1\n")
    first = sources_digest(root)
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")
    assert commit(root) is None  # the repository is not its own
    known = commit(tmp_path)
    assert known is not None
    assert len(known) == 40
    script.write_text("2\n")
    assert commit(tmp_path) == f"{known} with changes"
    assert sources_digest(root) != first


def test_batches_are_drawn_anew_each(scripts):
    from gpu_bench_scale import BatchSource, Locality

    from cupyrec.config import DlrmConfig
    from cupyrec.devices.cpu import CpuDevice

    config = DlrmConfig((1_000_000,) * 2, 2, 4, (4,), (1,))
    source = BatchSource(CpuDevice(1), config, 100, 5, Locality("any", 0.0, 0))
    rows = [source.batch(number).validate(config.table_rows, 2).rows for number in range(200)]
    # Two of 1,000 lookups in two million rows have one in common, if any.
    in_common = [np.intersect1d(rows[0], each).size for each in rows[1:]]
    assert max(in_common) < 10


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
