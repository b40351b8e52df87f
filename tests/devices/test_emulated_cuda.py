"""The emulation keeps what CUDA promises, and nothing more: what relies on more fails in some order."""

import gc
import threading

import numpy as np
import pytest
from emulated_cuda import EmulatedCuda, adversarial_orders, rounded_factor
from emulated_device_array import POISON
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyrec.errors import DeviceError, DeviceMemoryError
from cupyrec.kernels import kernel

STREAMS = ("first", "second", "third")
ORDERS = adversarial_orders(STREAMS)
every_order = pytest.mark.parametrize("order", ORDERS)


class Bench:
    """A runtime and three streams, with short words for what the tests do."""

    def __init__(self, order="as-queued", **options):
        self.runtime = EmulatedCuda(order, **options)
        self.first, self.second, self.third = (self.runtime.stream(name) for name in STREAMS)

    def locked(self, *values):
        array = self.runtime.page_locked(len(values), np.int32)
        array[:] = values
        return array

    def empty(self, size=1):
        return self.runtime.empty(size, np.int32)

    def copy(self, stream, source, target):
        self.runtime.copy(stream, source, target)

    def recorded(self, stream, timed=False):
        event = self.runtime.event(timed=timed)
        self.runtime.record(event, stream)
        return event

    def finish(self):
        self.runtime.synchronize_all()


def handed_over(order, **options):
    """What the second stream gives when it waits for the first."""
    bench = Bench(order, **options)
    device, result = bench.empty(), bench.locked(0)
    bench.copy(bench.first, bench.locked(7), device)
    bench.runtime.wait(bench.second, bench.recorded(bench.first))
    bench.copy(bench.second, device, result)
    bench.runtime.synchronize(bench.recorded(bench.second))
    return int(result[0])


@every_order
def test_a_wait_orders_two_streams(order):
    assert handed_over(order) == 7


def test_a_wait_that_is_left_out_is_seen():
    asked = set()

    def ignore(waiting, recorded):
        asked.add((waiting, recorded))
        return True

    results = {order: handed_over(order, ignore_wait=ignore) for order in ORDERS}
    assert asked == {("second", "first")}
    assert results["as-queued"] == 7
    poison = int(np.frombuffer(bytes([POISON] * 4), np.int32)[0])
    assert {results[order] for order in ("lazy", "latest:first", "earliest:second")} == {poison}


@every_order
def test_a_chain_of_waits_over_three_streams(order):
    bench = Bench(order)
    a, b, result = bench.empty(), bench.empty(), bench.locked(0)
    bench.copy(bench.first, bench.locked(5), a)
    bench.runtime.wait(bench.second, bench.recorded(bench.first))
    bench.copy(bench.second, a, b)
    bench.runtime.wait(bench.third, bench.recorded(bench.second))
    bench.copy(bench.third, b, result)
    bench.runtime.synchronize(bench.recorded(bench.third))
    assert result[0] == 5
    assert bench.runtime.waits == {("second", "first"): 1, ("third", "second"): 1}
    assert bench.runtime.log == [("first", "copy"), ("second", "copy"), ("third", "copy")]


BUFFERS = 4
steps = st.tuples(st.integers(0, 2), st.integers(0, BUFFERS - 1), st.integers(0, BUFFERS - 1), st.booleans())


@settings(max_examples=20)
@given(program=st.lists(steps, max_size=25), seed=st.integers(0, 5))
def test_all_orders_give_what_one_step_after_another_gives(program, seed):
    """program: copies on (a stream, from a buffer, to a buffer); the last: whether the host waits for it."""
    expected = list(range(BUFFERS))
    for _, source, target, _ in program:
        expected[target] = expected[source]
    for order in (*ORDERS, f"shuffled-{seed}"):
        bench = Bench(order)
        streams = (bench.first, bench.second, bench.third)
        buffers = [bench.empty() for _ in range(BUFFERS)]
        begun = [bench.locked(value) for value in range(BUFFERS)]
        for buffer, value in zip(buffers, begun, strict=True):
            bench.copy(bench.first, value, buffer)
        used: dict = {buffer: [bench.recorded(bench.first)] for buffer in range(BUFFERS)}
        for number, source, target, host_waits in program:
            stream = streams[number]
            for event in used[source] + used[target]:
                bench.runtime.wait(stream, event)
            bench.copy(stream, buffers[source], buffers[target])
            done = bench.recorded(stream)
            used[target] = [done]
            used[source].append(done)
            if host_waits:
                bench.runtime.synchronize(done)
        results = [bench.locked(0) for _ in buffers]
        for number, result in enumerate(results):
            for event in used[number]:
                bench.runtime.wait(bench.third, event)
            bench.copy(bench.third, buffers[number], result)
        bench.runtime.synchronize(bench.recorded(bench.third))
        assert [int(result[0]) for result in results] == expected, order


@every_order
def test_one_stream_keeps_its_order(order):
    bench = Bench(order)
    device, result = bench.empty(), bench.locked(0)
    for value in range(5):
        bench.copy(bench.first, bench.locked(value), device)
    bench.copy(bench.first, device, result)
    bench.finish()
    assert result[0] == 4


@pytest.mark.parametrize("order", ["as-queued", "lazy", "latest:first"])
def test_nothing_runs_before_somebody_waits(order):
    bench = Bench(order)
    result = bench.locked(0)
    bench.copy(bench.first, bench.locked(7), result)
    event = bench.recorded(bench.first)
    assert result[0] == 0
    assert bench.runtime.log == []
    bench.runtime.synchronize(event)
    assert result[0] == 7


def test_only_what_is_needed_runs_in_lazy_order():
    bench = Bench("lazy")
    needed, other = bench.locked(0), bench.locked(0)
    bench.copy(bench.first, bench.locked(1), other)
    bench.copy(bench.second, bench.locked(1), needed)
    event = bench.recorded(bench.second)
    bench.copy(bench.second, bench.locked(2), needed)
    bench.runtime.synchronize(event)
    assert (needed[0], other[0]) == (1, 0)


def test_a_stream_runs_latest_or_earliest():
    for order, expected in (("latest:first", ["second", "third", "first"]), ("earliest:third", ["third", "first"])):
        bench = Bench(order)
        for stream in (bench.first, bench.second, bench.third):
            bench.copy(stream, bench.locked(1), bench.locked(0))
        bench.runtime.synchronize(bench.recorded(bench.first))
        assert [name for name, _ in bench.runtime.log] == expected


def test_the_earliest_stream_runs_as_soon_as_it_is_queued():
    bench = Bench("earliest:second")
    result = bench.locked(0)
    bench.copy(bench.second, bench.locked(7), result)
    assert result[0] == 7


def test_shuffled_orders_differ_by_their_seed_alone():
    def log(order):
        bench = Bench(order)
        for _ in range(10):
            for stream in (bench.first, bench.second, bench.third):
                bench.copy(stream, bench.locked(1), bench.locked(0))
        bench.finish()
        return bench.runtime.log

    assert log("shuffled-1") == log("shuffled-1")
    assert log("shuffled-1") != log("shuffled-2")


def test_unknown_orders_are_refused():
    with pytest.raises(ValueError, match="unknown order 'some'"):
        EmulatedCuda("some")


@every_order
def test_an_event_means_its_latest_record_when_it_was_waited_for(order):
    bench = Bench(order)
    event, result = bench.runtime.event(), bench.locked(0)
    assert bench.runtime.is_done(event)
    bench.runtime.synchronize(event)
    bench.runtime.wait(bench.second, event)
    bench.copy(bench.first, bench.locked(1), result)
    bench.runtime.record(event, bench.first)
    bench.runtime.synchronize(event)
    bench.copy(bench.first, bench.locked(2), result)
    bench.runtime.record(event, bench.first)
    bench.runtime.wait(bench.second, event)
    bench.copy(bench.first, bench.locked(3), result)
    bench.runtime.record(event, bench.first)
    seen = bench.locked(0)
    bench.copy(bench.second, result, seen)
    bench.runtime.synchronize(bench.recorded(bench.second))
    assert seen[0] in (2, 3)


@every_order
def test_an_event_of_the_past_cannot_hold_up_what_is_recorded_again(order):
    bench = Bench(order)
    event = bench.recorded(bench.first)
    bench.runtime.wait(bench.second, event)
    bench.runtime.wait(bench.first, bench.recorded(bench.second))
    bench.runtime.record(event, bench.first)
    bench.runtime.synchronize(event)


@every_order
def test_whoever_asks_often_enough_sees_an_event_done(order):
    bench = Bench(order)
    for stream in (bench.third, bench.second, bench.first):
        for _ in range(3):
            bench.copy(stream, bench.locked(1), bench.locked(0))
    event = bench.recorded(bench.first)
    asked = 1
    while not bench.runtime.is_done(event):
        asked += 1
    assert asked <= 10


def test_a_question_may_be_answered_no_first():
    bench = Bench("latest:first")
    for stream in (bench.first, bench.second):
        bench.copy(stream, bench.locked(1), bench.locked(0))
    event = bench.recorded(bench.first)
    assert [bench.runtime.is_done(event) for _ in range(3)] == [False, False, True]


def test_a_page_locked_buffer_must_not_be_used_again_too_early():
    results = {}
    for order in ORDERS:
        bench = Bench(order)
        buffer, device, result = bench.locked(1), bench.empty(), bench.locked(0)
        bench.copy(bench.first, buffer, device)
        buffer[:] = 2
        bench.copy(bench.first, device, result)
        bench.finish()
        results[order] = result[0]
    assert results["earliest:first"] == 1
    assert results["lazy"] == results["latest:first"] == results["as-queued"] == 2


@every_order
def test_pageable_memory_is_taken_and_given_while_the_caller_waits(order):
    bench = Bench(order)
    source, target, device = np.array([1], np.int32), np.zeros(1, np.int32), bench.empty()
    bench.copy(bench.first, source, device)
    source[:] = 2
    bench.copy(bench.first, device, target)
    assert target[0] == 1


def test_page_locked_memory_is_known_by_its_addresses():
    bench = Bench()
    array = bench.runtime.page_locked((4, 2), np.float32)
    assert array.shape == (4, 2)
    assert not array.any()
    mapped = bench.runtime.mapped(array[1:3])
    bench.runtime.fill(bench.first, mapped, 1)
    bench.finish()
    assert array.view(np.uint8).reshape(4, 8).max(axis=1).tolist() == [0, 1, 1, 0]

    own = np.zeros(4096, np.int32)
    with pytest.raises(DeviceError, match="not locked"):
        bench.runtime.mapped(own)
    bench.runtime.lock_pages(own)
    assert bench.runtime.mapped(own[:7]).shape == (7,)
    with pytest.raises(DeviceError, match="locked already"):
        bench.runtime.lock_pages(own[5:])


def test_pages_that_cannot_be_locked():
    runtime = EmulatedCuda(lockable=False)
    with pytest.raises(DeviceMemoryError):
        runtime.page_locked(3, np.float32)
    with pytest.raises(DeviceMemoryError):
        runtime.lock_pages(np.zeros(3, np.float32))


def test_new_memory_holds_poison():
    bench = Bench()
    result = bench.locked(0, 0)
    bench.copy(bench.first, bench.empty(2), result)
    with pytest.raises(AssertionError, match="freed"):
        bench.finish()
    bench = Bench()
    device = bench.empty(2)
    bench.copy(bench.first, device, result)
    bench.finish()
    assert result.tobytes() == bytes([POISON] * 8)


READS = {
    "asarray": np.asarray,
    "list": list,
    "bool": bool,
    "float": float,
    "int": int,
    "ufunc": lambda array: np.add(array, 1),
    "sum": np.sum,
    "operator": lambda array: array + 1,
    "reflected": lambda array: np.float32(1) * array,
    "equal": lambda array: array == 1,
    "in": lambda array: 1 in array,
    "hash": hash,
    "written": lambda array: array.__setitem__(0, 1),
    "copyto": lambda array: np.copyto(np.zeros(1, np.int32), array),
    "mask": lambda array: array[np.array([True])],
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_host_cannot_read_a_device_array(read):
    with pytest.raises(TypeError):
        read(Bench().empty())


def test_views_of_a_device_array():
    runtime = EmulatedCuda()
    array = runtime.empty((4, 6), np.float32)
    assert (array.shape, array.ndim, array.size, array.nbytes, array.itemsize) == ((4, 6), 2, 24, 96, 4)
    assert array.dtype == np.float32
    assert len(array) == 4
    assert array._array.ctypes.data % 256 == 0
    for view, shape, in_order in (
        (array[1:3], (2, 6), True),
        (array[1], (6,), True),
        (array[:, 1:3], (4, 2), False),
        (array.T, (6, 4), False),
        (array.T.T, (4, 6), True),
        (array.reshape(2, 12), (2, 12), True),
        (array.reshape(-1)[5], (), True),
        (array[..., 1:2], (4, 1), False),
    ):
        assert view.shape == shape
        assert view.flags.c_contiguous is in_order
        assert np.shares_memory(view._array, array._array)
    with pytest.raises(ValueError, match="would copy"):
        array.T.reshape(24)


def test_memory_has_a_limit_and_comes_back():
    runtime = EmulatedCuda(memory_bytes=4096)
    kept = [runtime.empty(512, np.uint8) for _ in range(7)]
    view = runtime.empty(512, np.uint8)[3:]
    assert runtime.memory_bytes() == (0, 4096)
    with pytest.raises(DeviceMemoryError, match="0 are free"):
        runtime.empty(1, np.uint8)
    del view, kept[0]
    gc.collect()
    assert runtime.memory_bytes() == (1024, 4096)
    runtime.empty(1024, np.uint8)


def test_memory_that_is_freed_while_work_is_queued_is_an_error():
    bench = Bench()
    device = bench.empty()
    bench.runtime.fill(bench.second, device[0:1], 0)
    del device
    gc.collect()
    for _ in range(2):
        with pytest.raises(AssertionError, match="queued work on stream second still uses it"):
            bench.finish()


def test_memory_that_is_freed_when_its_work_is_done_is_none():
    bench = Bench()
    device = bench.empty()
    bench.runtime.fill(bench.second, device[0:1], 0)
    bench.finish()
    del device
    gc.collect()
    bench.finish()


def test_errors_of_queued_work_come_at_the_next_wait_and_stay():
    bench = Bench()
    stream = bench.first
    ruined = bench.locked(0)
    bench.copy(stream, bench.locked(1), ruined)
    stream.queue[0].run = lambda: 1 // 0
    event = bench.recorded(stream)
    for ask in (bench.runtime.synchronize, bench.runtime.is_done, lambda event: bench.finish()):
        with pytest.raises(DeviceError, match="division"):
            ask(event)
    with pytest.raises(DeviceError, match="division"):
        bench.empty()


def test_a_graph_is_queued_when_it_is_replayed():
    bench = Bench()
    source, device, result = bench.locked(1), bench.empty(), bench.locked(0)

    def work():
        bench.copy(bench.first, source, device)
        bench.copy(bench.first, device, result)

    graph = bench.runtime.capture(bench.first, work)
    bench.finish()
    assert bench.runtime.log == []
    for value in (3, 4):
        source[:] = value
        bench.runtime.replay(bench.second, graph)
        bench.finish()
        assert result[0] == value
    assert bench.runtime.log == [("second", "copy")] * 4


def filling_graph(bench):
    device = bench.empty()
    return bench.runtime.capture(bench.first, lambda: bench.runtime.fill(bench.first, device, 0))


def test_a_graph_must_not_use_memory_that_is_gone():
    bench = Bench()
    graph = filling_graph(bench)
    gc.collect()
    with pytest.raises(AssertionError, match="freed"):
        bench.runtime.replay(bench.first, graph)


WHILE_CAPTURED = {
    "another stream": lambda bench, event: bench.copy(bench.second, bench.locked(1), bench.locked(2)),
    "a record": lambda bench, event: bench.recorded(bench.first),
    "a wait": lambda bench, event: bench.runtime.wait(bench.first, event),
    "a question": lambda bench, event: bench.runtime.is_done(event),
    "waiting": lambda bench, event: bench.runtime.synchronize(event),
    "waiting for all": lambda bench, event: bench.finish(),
    "memory": lambda bench, event: bench.empty(),
    "pageable memory": lambda bench, event: bench.copy(bench.first, np.zeros(1, np.int32), bench.locked(2)),
    "another capture": lambda bench, event: bench.runtime.capture(bench.first, lambda: None),
}


@pytest.mark.parametrize("act", WHILE_CAPTURED.values(), ids=WHILE_CAPTURED)
def test_what_cannot_be_captured(act):
    bench = Bench()
    event = bench.recorded(bench.first)
    with pytest.raises(DeviceError, match="captured"):
        bench.runtime.capture(bench.first, lambda: act(bench, event))
    bench.finish()


def test_other_threads_go_on_while_one_captures():
    bench = Bench()
    result = bench.locked(0)

    def other():
        bench.copy(bench.second, bench.locked(1), result)
        bench.finish()

    def work():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    bench.runtime.capture(bench.first, work)
    assert result[0] == 1


@every_order
def test_several_threads_queue_and_wait_at_once(order):
    bench = Bench(order)
    streams = (bench.first, bench.second, bench.third)
    results = [bench.locked(0) for _ in streams]

    def count(stream, result):
        device = bench.empty()
        for value in range(20):
            source = bench.locked(value)
            bench.copy(stream, source, device)
            bench.copy(stream, device, result)
            bench.runtime.synchronize(bench.recorded(stream))
            assert result[0] == value

    threads = [threading.Thread(target=count, args=each) for each in zip(streams, results, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result[0] for result in results] == [19] * 3


def test_time_is_told_between_events_that_are_done():
    bench = Bench()
    begun = bench.recorded(bench.first, timed=True)
    bench.copy(bench.first, bench.locked(1), bench.locked(0))
    ended, untimed = bench.recorded(bench.first, timed=True), bench.recorded(bench.first)
    with pytest.raises(DeviceError, match="not done"):
        bench.runtime.elapsed_ms(begun, ended)
    bench.finish()
    assert bench.runtime.elapsed_ms(begun, ended) > 0
    with pytest.raises(DeviceError, match="not timed"):
        bench.runtime.elapsed_ms(begun, untimed)


SGD = kernel("dense_update", "dense_sgd")


def sgd_arguments(w, g):
    return w, g, np.int64(12), np.float32(0.5)


def test_a_kernel_is_executed_when_the_device_comes_to_it():
    bench = Bench()
    w, g = bench.runtime.empty((3, 4), np.float32), bench.runtime.page_locked((3, 4), np.float32)
    bench.runtime.fill(bench.first, w, 0)
    bench.runtime.launch(bench.first, SGD, (1, 1, 1), (32, 1, 1), sgd_arguments(w, bench.runtime.mapped(g)))
    result = bench.runtime.page_locked((3, 4), np.float32)
    bench.copy(bench.first, w, result)
    g[:] = np.arange(12).reshape(3, 4)
    assert not result.any()
    bench.finish()
    assert np.array_equal(result, -0.5 * g)
    assert bench.runtime.log == [("first", "fill"), ("first", "dense_sgd"), ("first", "copy")]


@pytest.mark.parametrize(("grid", "block"), [((1, 1, 1), (1025, 1, 1)), ((1, 65_536, 1), (1, 1, 1))])
def test_a_launch_that_no_gpu_would_take(grid, block):
    bench = Bench()
    w = bench.runtime.empty((3, 4), np.float32)
    with pytest.raises(DeviceError, match="dense_sgd"):
        bench.runtime.launch(bench.first, SGD, grid, block, sgd_arguments(w, w))


def test_a_kernel_is_given_no_host_array_and_nothing_else_that_is_wrong():
    bench = Bench()
    w, host, device = (
        bench.runtime.empty((3, 4), np.float32),
        np.zeros((3, 4), np.float32),
        bench.runtime.empty((3, 4), np.float64),
    )
    for g, message in ((host, "not on the device"), (device, "g of dense_sgd .* must be float32")):
        with pytest.raises(TypeError, match=message):
            bench.runtime.launch(bench.first, SGD, (1, 1, 1), (1, 1, 1), sgd_arguments(w, g))


def test_factors_are_rounded_to_nearest_even():
    one = np.float32(1)
    for precision, bits in (("tf32", 10), ("bf16", 7)):
        step = np.float32(2.0**-bits)
        values = np.array(
            [one, one + step, one + step / 2, one + 3 * step / 2, -one - step * 0.51, np.inf, 0], np.float32
        )
        expected = np.array([one, one + step, one, one + 2 * step, -one - step, np.inf, 0], np.float32)
        assert np.array_equal(rounded_factor(values, precision), expected)
    assert np.isnan(rounded_factor(np.array([np.nan], np.float32), "bf16")[0])
    assert rounded_factor(values, "fp32") is values
