"""The planner on a GPU against the reference planner and the host's, plan for plan."""

from unittest.mock import patch

import numpy as np
import pytest
from cuda_on_cpu import ORDERS
from gpu_devices import emulated_device
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_traces import run_planner, traces
from reference_planner import reference_plans

from cupyrec.config import REPLACEMENTS
from cupyrec.devices.gpu import GpuEvent
from cupyrec.errors import ConfigError, ScratchpadError
from cupyrec.pipeline import gpu_victims
from cupyrec.pipeline.gpu_nodes import GpuNodes
from cupyrec.pipeline.gpu_planner import GpuPlanMemory, GpuPlanner
from cupyrec.pipeline.gpu_victims import digits_above
from cupyrec.pipeline.plan import Holds

HOLDS = Holds(3, 2)
ARRAYS = ("unique_slots", "miss_rows", "miss_slots", "evict_rows", "evict_slots")


def gpu_plans(device, batches, slots, *, since=0, **settings):
    """The plans of all batches, as run_planner's. since: the number of the first listing."""
    stream = device.stream("plan")
    planner = GpuPlanner(stream, slots, **settings)
    planner._since = since
    waiting, memory, plans = iter(batches), GpuPlanMemory(), []
    on_device = []  # as long as the stream may read it
    for _ in batches:
        while planner.may_look:
            rows = next(waiting, None)
            if rows is None:
                planner.end()
            else:
                on_device.append(device.upload(np.array(rows, np.int64)))
                planner.look(on_device[-1])
        plan = planner.plan(memory)
        device.wait(stream.record())
        fields = {name: device.download(getattr(plan, name)).tolist() for name in ARRAYS}
        plans.append({**fields, "given_up": plan.given_up, "bubbles": plan.bubbles})
        counts = [int(device.download(count)[0]) for count in (memory.miss_count, memory.evict_count)]
        assert counts == [len(plans[-1]["miss_rows"]), len(plans[-1]["evict_rows"])]
    return plans


def small_digits(spare_bits, digit_bits):
    """Lists are cut by digits of so few bits, and no more than that many rows beyond the cut are chosen."""
    return patch.multiple(gpu_victims, SPARE_BITS=spare_bits, MOST_DIGIT_BITS=digit_bits)


@settings(max_examples=200)
@given(
    batches=traces(),
    spare=st.integers(0, 12),
    lookahead=st.integers(0, 6),
    past=st.integers(0, 3),
    future=st.integers(0, 2),
    replacement=st.sampled_from(REPLACEMENTS),
    counted=st.booleans(),
    seed=st.integers(0, 3),
    since=st.sampled_from([0, 5, 2**40 - 20]),
    spare_bits=st.sampled_from([0, 1, 2, 16]),
    order=st.sampled_from(ORDERS),
)
def test_equals_reference_and_host_plan_for_plan(
    batches, spare, lookahead, past, future, replacement, counted, seed, since, spare_bits, order
):
    slots = max(1, max(map(len, batches)) + spare)
    base = min((row for batch in batches for row in batch), default=0)
    counts = np.random.default_rng(seed).integers(0, 200, 40) if counted and base < 2**20 else None
    same = {"lookahead": lookahead + future, "replacement": replacement, "row_counts": counts, "seed": seed}
    expected = reference_plans(batches, slots, past=past, future=future, **same)
    with small_digits(spare_bits, 12):
        got = gpu_plans(
            emulated_device(thread_order=order), batches, slots, holds=Holds(past, future), since=since, **same
        )
    assert got == expected
    assert got == run_planner(batches, slots, holds=Holds(past, future), **same)


def skewed_trace(seed, *, batches=40, most=60):
    """(batches, slots, settings): windows, nodes and the hit map grow while rows are cached, coming, gone and back."""
    random = np.random.default_rng(seed)
    rows, lookahead = int(random.integers(60, 400)), int(random.integers(2, 12))
    sizes = random.integers(0, min(rows, most), batches)
    sizes[random.integers(0, batches, 4)] = min(rows, most * 3 // 2)
    hot = random.random(rows) ** int(random.integers(1, 6))
    trace = [sorted(random.choice(rows, size, replace=False, p=hot / hot.sum()).tolist()) for size in sizes]
    settings = {
        "lookahead": lookahead,
        "replacement": REPLACEMENTS[seed % 4] if seed % 3 else "lookahead",
        "row_counts": random.integers(0, 50, rows) if seed % 2 else None,
        "seed": seed,
    }
    return trace, int(sizes.max() + random.integers(0, rows // 2)), settings


@pytest.mark.parametrize("seed", range(6))
def test_larger_traces(gpu_device, seed):
    batches, slots, settings = skewed_trace(seed)
    expected = reference_plans(batches, slots, past=3, future=2, **settings)
    with small_digits(3, 4):
        assert gpu_plans(gpu_device, batches, slots, holds=HOLDS, **settings) == expected


@pytest.mark.parametrize("order", ["lazy", "shuffled-1"])
def test_streams_that_run_late(order):
    batches, slots, settings = skewed_trace(7, batches=15, most=30)
    device = emulated_device(order, thread_order="shuffled-1")
    with small_digits(2, 3):
        assert gpu_plans(device, batches, slots, holds=HOLDS, **settings) == run_planner(
            batches, slots, holds=HOLDS, **settings
        )


@pytest.mark.parametrize("order", ORDERS[1:])
def test_no_order_of_threads_changes_the_victims(order):
    """Several warps count the rows of one list, and in bins of each other's."""
    random = np.random.default_rng(8)
    batches = [np.unique(random.integers(0, 1000, 60)).tolist() for _ in range(12)]
    slots, settings = 400, {"lookahead": 2, "holds": HOLDS, "replacement": "lru"}
    with small_digits(1, 12):
        plans = gpu_plans(emulated_device(thread_order=order), batches, slots, **settings)
    assert plans == run_planner(batches, slots, **settings)


def test_growing_far_beyond_the_first_memory_changes_nothing(gpu_device):
    random = np.random.default_rng(4)
    batches = [np.unique(random.integers(0, 5000, 3 + 40 * (b % 7))).tolist() for b in range(40)]
    slots, settings = 600, {"lookahead": 9, "holds": HOLDS}
    assert gpu_plans(gpu_device, batches, slots, **settings) == run_planner(batches, slots, **settings)


def test_batches_of_several_tiles(gpu_device):
    """Misses and victims of one batch from several tiles, with all known at once and a look-ahead beyond the end."""
    random = np.random.default_rng(6)
    batches = [np.unique(random.integers(0, 6000, 3000)).tolist() for _ in range(6)]
    slots, settings = 3500, {"lookahead": 9, "holds": Holds(1, 1)}
    assert gpu_plans(gpu_device, batches, slots, **settings) == run_planner(batches, slots, **settings)


def test_a_list_far_longer_than_what_leaves(gpu_device):
    """More rows are left in it than may be sorted in vain, so that it is cut, in two passes and at last in three."""
    random = np.random.default_rng(0)
    batches = [np.unique(random.integers(0, 3_000_000, 20_000)).tolist() for _ in range(11)]
    slots, settings = 150_000, {"lookahead": 2, "holds": HOLDS, "replacement": "lru"}
    got = gpu_plans(gpu_device, batches, slots, since=2**40 - 300_000, **settings)
    assert got == run_planner(batches, slots, **settings)
    assert len(got[-1]["evict_rows"]) > 15_000


@pytest.mark.parametrize("replacement", ["lookahead", "lfu"])
def test_rows_used_ever_more_often_leave_in_the_order_of_the_host(replacement):
    """Counts at every border of the ranks, up to those that 32 bits do not hold; rows leave in small batches."""
    counts = sorted({max(0, (8 + part << octave) + by) for octave in range(29) for part in range(8) for by in (-1, 0)})
    counts = np.array([0, *counts, 2**31 - 1, 2**31, 2**40])
    random = np.random.default_rng(2)
    random.shuffle(counts)
    rows = len(counts)
    # All in one batch, then others in their place, none of which comes again.
    batches = [list(range(rows)), *([rows + 8 * b + i for i in range(8)] for b in range(rows // 8 + 2))]
    known = np.concatenate([counts, np.full(8 * len(batches), 2**40)])
    settings = {"lookahead": 1, "holds": Holds(0, 0), "replacement": replacement, "row_counts": known}
    assert gpu_plans(emulated_device(), batches, rows, **settings) == run_planner(batches, rows, **settings)


def test_random_replacement_takes_seeds_of_any_sign():
    batches = [[3 * b, 3 * b + 1, 3 * b + 2] for b in range(12)]
    plans = [
        [plan["evict_rows"] for plan in gpu_plans(emulated_device(), batches, 12, **each)]
        for seed in (-1, 2**63 + 5)
        for each in [{"lookahead": 1, "holds": Holds(0, 0), "replacement": "random", "seed": seed}]
    ]
    assert plans[0] != plans[1]
    settings = {"lookahead": 1, "holds": Holds(0, 0), "replacement": "random", "seed": -1}
    assert plans[0] == [plan["evict_rows"] for plan in run_planner(batches, 12, **settings)]


def test_one_wait_a_plan_and_bounded_memory_while_the_hit_map_is_filled_anew():
    device, random = emulated_device(), np.random.default_rng(5)
    planner, memory = GpuPlanner(device, 100, lookahead=4, holds=HOLDS), GpuPlanMemory()
    rows = [device.upload(np.unique(random.integers(0, 2**50, 20))) for _ in range(150)]
    sizes, waits, filled = [], [], []
    with (
        patch.object(GpuEvent, "synchronize", autospec=True, side_effect=GpuEvent.synchronize) as event,
        patch.object(device.runtime, "synchronize_all", side_effect=device.runtime.synchronize_all) as everything,
        patch.object(GpuNodes, "_fill_cells", autospec=True, side_effect=GpuNodes._fill_cells) as fill,
    ):
        for each in rows:
            before = event.call_count + everything.call_count
            planner.look(each)
            if planner.may_plan:
                planner.plan(memory)
            sizes.append(planner.size_bytes)
            waits.append(event.call_count + everything.call_count - before)
            filled.append(fill.call_count)
    # Once all has grown.
    assert set(sizes[30:]) == {sizes[30]}
    assert sizes[-1] < 300 * (100 + 12 * 20) + 5000
    assert set(waits[30:]) == {1}
    assert 3 <= filled[-1] - filled[30] <= 12


def test_a_plan_may_be_begun_and_ended_apart():
    device = emulated_device()
    planner, memory, rows = GpuPlanner(device, 6, lookahead=2, holds=HOLDS), GpuPlanMemory(), []
    with pytest.raises(RuntimeError, match="no plan has been begun"):
        planner.end_plan()
    with pytest.raises(RuntimeError, match="batch 0 is to be planned, but only 0 are known"):
        planner.begin_plan(memory)
    for batch in range(3):
        rows.append(device.upload(np.array([batch, 5])))
        planner.look(rows[-1])
    planner.begin_plan(memory)
    assert not planner.may_look
    with pytest.raises(RuntimeError, match="batch 0 is being planned already"):
        planner.begin_plan(memory)
    with pytest.raises(RuntimeError, match="batch 3 is shown"):
        planner.look(rows[0])
    plan = planner.end_plan()
    assert device.download(plan.miss_rows).tolist() == [0, 5]
    assert (plan.batch, planner.planned, planner.may_look) == (0, 1, True)
    planner.end()
    assert not planner.may_look
    assert [planner.plan(memory).batch for _ in range(2)] == [1, 2]
    assert not planner.may_plan


def test_holds_of_batches_that_hold_nothing_are_no_bubbles():
    """Row 0 comes back in the batch after next: its hold goes last, after that of the batch beyond, without rows."""
    settings = {"lookahead": 2, "holds": HOLDS}
    plans = gpu_plans(emulated_device(), [[0], [1], [0]], 1, **settings)
    assert [(plan["evict_rows"], plan["given_up"], plan["bubbles"]) for plan in plans] == [
        ([], -1, 0),
        ([0], 0, 2),
        ([1], 1, 1),
    ]
    assert plans == run_planner([[0], [1], [0]], 1, **settings)


def test_no_batches_at_all_and_empty_ones():
    batches = [[], [], [4], [], []]
    settings = {"lookahead": 2, "holds": HOLDS}
    assert gpu_plans(emulated_device(), batches, 1, **settings) == run_planner(batches, 1, **settings)
    assert gpu_plans(emulated_device(), [], 1, **settings) == []


def test_a_batch_larger_than_the_scratchpad():
    device = emulated_device()
    planner, rows = GpuPlanner(device, 3, lookahead=2, holds=HOLDS), device.upload(np.arange(4))
    planner.look(rows[:3])
    with pytest.raises(ScratchpadError, match=r"4 different rows.*3 slots; .*at least --scratchpad 5"):
        planner.look(rows)
    assert planner.looked == 1
    device.synchronize()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"slots": 0}, "1 to"), ({"lookahead": 1}, "at least 2"), ({"replacement": "fifo"}, "unknown")],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        GpuPlanner(emulated_device(), **{"slots": 6, "lookahead": 2, "holds": HOLDS, **settings})


@pytest.mark.parametrize("bits", range(64))
def test_digits_cover_all_bits_above_the_low_ones(bits):
    digits = digits_above(16, bits)
    assert [bit for shift, width in reversed(digits) for bit in range(shift, shift + width)] == [*range(16, bits)]
    assert all(width <= 12 for _, width in digits)
