import threading

import numpy as np
import pytest
from emulated_cuda import adversarial_orders, rounded_factor
from gpu_devices import emulated_device

from cupyrec.config import PRECISIONS
from cupyrec.devices.gpu import MOST_BLOCKS, GpuDevice, GpuEvent
from cupyrec.errors import ConfigError, DeviceMemoryError
from cupyrec.kernels import kernel

ORDERS = adversarial_orders(("train", "side"))
DTYPES = (np.float32, np.float64, np.int32, np.int64, np.uint8)


SGD = kernel("dense_update", "dense_sgd")


def sgd_arguments(device, w):
    """w -= 0.5 g, where g is 1, 2, ..."""
    return w, device.upload(numbers(w.size) + 1), np.int64(w.size), np.float32(0.5)


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (0, 3), (5, 3), (2, 3, 4)])
def test_what_is_uploaded_is_downloaded(gpu_device, shape, dtype):
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    device_array = gpu_device.upload(array)
    assert (device_array.shape, device_array.dtype) == (shape, dtype)
    result = gpu_device.download(device_array)
    assert result.dtype == dtype
    assert np.array_equal(result, array)


def test_an_upload_takes_any_layout_and_leaves_it(gpu_device):
    array = numbers(6, 8)[::2, 1::3].T
    assert np.array_equal(gpu_device.download(gpu_device.upload(array)), array)
    assert np.array_equal(array, numbers(6, 8)[::2, 1::3].T)


def test_an_upload_may_be_into_a_part(gpu_device):
    target = gpu_device.zeros((4, 3))
    part = target[1:3]
    assert gpu_device.upload(numbers(2, 3) + 1, part) is part
    assert gpu_device.download(target)[:, 0].tolist() == [0, 1, 4, 0]
    assert gpu_device.download(part.reshape(6)).tolist() == [1, 2, 3, 4, 5, 6]


def test_zeros_are_zeros(gpu_device):
    assert not gpu_device.download(gpu_device.zeros((3, 5))).any()
    assert gpu_device.zeros((0, 5), np.int32).shape == (0, 5)


def test_zeros_are_there_for_every_stream():
    for order in ORDERS:
        device = emulated_device(order)
        side, array = device.stream("side"), device.zeros(3)
        result = device.page_locked(3)
        result[:] = 1
        side.copy(array, result)
        side.record().synchronize()
        assert not result.any(), order


def test_a_fill_sets_bytes(gpu_device):
    array = gpu_device.zeros((3, 2), np.int32)
    gpu_device.fill(array[1:2], 0xFF)
    assert gpu_device.download(array).tolist() == [[0, 0], [-1, -1], [0, 0]]
    gpu_device.fill(array[:0], 1)
    with pytest.raises(ValueError, match="not C-contiguous"):
        gpu_device.fill(array[:, :1], 1)


def test_copies_in_every_direction(gpu_device):
    host, pageable = gpu_device.page_locked((2, 3)), np.zeros((2, 3), np.float32)
    host[:] = numbers(2, 3)
    first, second = gpu_device.empty((2, 3)), gpu_device.empty((2, 3))
    back = gpu_device.page_locked((2, 3))
    gpu_device.copy(host, first)
    gpu_device.copy(first, second)
    gpu_device.copy(second, back)
    gpu_device.copy(second, pageable)
    gpu_device.record().synchronize()
    assert np.array_equal(back, numbers(2, 3))
    assert np.array_equal(pageable, numbers(2, 3))
    gpu_device.copy(numbers(2, 3) + 1, first)
    assert np.array_equal(gpu_device.download(first), numbers(2, 3) + 1)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32), "a copy from"),
        (np.zeros(2, np.float32), np.zeros(2, np.int32), "a copy from"),
        (np.zeros((4, 3), np.float32)[::2], np.zeros((2, 3), np.float32), "not C-contiguous"),
        (np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)[::2], "not C-contiguous"),
    ],
)
def test_copies_that_are_refused(source, target, message):
    with pytest.raises(ValueError, match=message):
        emulated_device().copy(source, target)


def test_a_kernel_over_all_its_items(gpu_device):
    w, one_block = gpu_device.zeros((37, 50)), gpu_device.zeros((37, 50))
    arguments = sgd_arguments(gpu_device, w)
    gpu_device.launch_over(SGD, w.size, *arguments)
    gpu_device.launch(SGD, 1, (64, 1), one_block, *arguments[1:])
    expected = -0.5 * (numbers(37, 50) + 1)
    assert np.array_equal(gpu_device.download(w), expected)
    assert np.array_equal(gpu_device.download(one_block), expected)


def test_the_grid_of_a_kernel_has_a_limit():
    device, grids = emulated_device(), []
    device.runtime.launch = lambda stream, kernel, grid, block, arguments: grids.append((grid, block))
    arguments = sgd_arguments(device, device.empty(1))
    for items in (0, 1, 256, 257, 10**9):
        device.launch_over(SGD, items, *arguments)
    assert grids == [((blocks, 1, 1), (256, 1, 1)) for blocks in (1, 1, 2, MOST_BLOCKS)]


def test_a_launch_on_no_blocks_does_nothing_but_is_checked():
    device = emulated_device()
    w, g, size, learning_rate = sgd_arguments(device, device.empty(1))
    device.runtime.log.clear()
    device.launch(SGD, (0, 1), 32, w, g, size, learning_rate)
    device.synchronize()
    assert device.runtime.log == []
    with pytest.raises(TypeError, match="takes 4 arguments, not 1"):
        device.launch(SGD, 0, 32, w)
    with pytest.raises(TypeError, match="size of dense_sgd"):
        device.launch(SGD, 0, 32, w, g, 4, learning_rate)
    with pytest.raises(TypeError, match="learning_rate of dense_sgd"):
        device.launch(SGD, 0, 32, w, g, size, np.float64(0.5))


@pytest.mark.parametrize("transposed_B", [False, True], ids=["B", "B.T"])
@pytest.mark.parametrize("transposed_A", [False, True], ids=["A", "A.T"])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 7), (1, 4, 9), (8, 1, 2), (6, 3, 1), (2, 0, 3), (0, 3, 4)])
def test_products_of_all_layouts(gpu_device, sizes, transposed_A, transposed_B):
    m, k, n = sizes
    A, B = numbers(m, k) + 1, numbers(k, n) - 2
    device_A = gpu_device.upload(A.T).T if transposed_A else gpu_device.upload(A)
    device_B = gpu_device.upload(B.T).T if transposed_B else gpu_device.upload(B)
    out = gpu_device.upload(np.full((m, n), np.nan, np.float32))
    gpu_device.matmul(device_A, device_B, out)
    assert np.array_equal(gpu_device.download(out), A @ B)
    assert np.array_equal(gpu_device.download(device_A.T if transposed_A else device_A), A.T if transposed_A else A)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_round_their_factors_as_the_precision_says(precision):
    device = emulated_device(precision=precision)
    rng = np.random.default_rng(1)
    A, B = rng.standard_normal((5, 8), np.float32), rng.standard_normal((8, 3), np.float32)
    device_A, device_B, out = device.upload(A), device.upload(B), device.empty((5, 3))
    device.matmul(device_A, device_B, out)
    assert np.array_equal(device.download(out), rounded_factor(A, precision) @ rounded_factor(B, precision))
    assert np.array_equal(device.download(out), A @ B) is (precision == "fp32")


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match="unknown precision 'fp8'; choose fp32, tf32, bf16"):
        emulated_device(precision="fp8")


def test_a_graph_replays_what_was_queued(gpu_device):
    A, B = gpu_device.upload(numbers(3, 4)), gpu_device.upload(numbers(4, 2))
    out, copied = gpu_device.zeros((3, 2)), gpu_device.zeros((3, 2))

    def work():
        gpu_device.matmul(A, B, out)
        gpu_device.copy(out, copied)
        gpu_device.fill(out, 0)

    graph = gpu_device.capture(work)
    assert not gpu_device.download(copied).any()
    for factor in (1, 2):
        gpu_device.upload(factor * numbers(3, 4), A)
        gpu_device.replay(graph)
        assert np.array_equal(gpu_device.download(copied), factor * numbers(3, 4) @ numbers(4, 2))
        assert not gpu_device.download(out).any()


def test_a_capture_that_fails_leaves_the_stream_as_it_was(gpu_device):
    array = gpu_device.zeros(3)

    def work():
        gpu_device.fill(array, 1)
        raise KeyError("work")

    with pytest.raises(KeyError, match="work"):
        gpu_device.capture(work)
    gpu_device.fill(array, 0xFF)
    assert np.isnan(gpu_device.download(array)).all()


def test_events_order_streams_and_can_be_used_again(gpu_device):
    side, array, event = gpu_device.stream("side"), gpu_device.zeros(1, np.int32), None
    for value in range(3):
        source = gpu_device.upload(np.array([value], np.int32))
        gpu_device.copy(source, array)
        event = gpu_device.record(event)
        side.wait(event)
        result = gpu_device.page_locked(1, np.int32)
        side.copy(array, result)
        done = side.record()
        gpu_device.wait(done)
        done.synchronize()
        assert done.is_done
        assert event.is_done
        assert result[0] == value
        gpu_device.synchronize()


def test_time_is_told_by_the_devices_clock(gpu_device):
    begun, array = gpu_device.record(timed=True), gpu_device.zeros(1)
    gpu_device.fill(array, 1)
    ended = gpu_device.record(timed=True)
    gpu_device.synchronize()
    assert gpu_device.runtime.elapsed_ms(begun.handle, ended.handle) > 0


def test_an_event_tells_the_time_only_where_it_is_asked_to():
    device = emulated_device()
    assert [GpuEvent(device.runtime, timed=timed).handle.timed for timed in (False, True)] == [False, True]
    assert not GpuEvent(device.runtime).handle.timed
    assert not device.record().handle.timed


def test_kernels_and_copies_reach_managed_memory(gpu_device):
    try:
        host = gpu_device.managed_zeros((4, 3))
    except DeviceMemoryError as error:
        pytest.skip(str(error))
    assert not host.any()
    gpu_device.runtime.lock_pages(host)  # which it need not be
    mapped = gpu_device.runtime.mapped(host[1:3])
    arguments = sgd_arguments(gpu_device, mapped)
    gpu_device.launch_over(SGD, 6, *arguments)
    back = gpu_device.page_locked((4, 3))
    there = gpu_device.empty((4, 3))
    gpu_device.copy(host, there)
    gpu_device.copy(there, back)
    gpu_device.record().synchronize()
    assert np.array_equal(back, host)
    assert np.array_equal(host[1:3], -0.5 * (numbers(2, 3) + 1))
    assert not host[[0, 3]].any()


def test_kernels_reach_page_locked_memory(gpu_device):
    host = gpu_device.page_locked((4, 3))
    arguments = sgd_arguments(gpu_device, gpu_device.runtime.mapped(host[1:3]))
    gpu_device.launch_over(SGD, 6, *arguments)
    gpu_device.synchronize()
    assert np.array_equal(host[1:3], -0.5 * (numbers(2, 3) + 1))
    assert not host[[0, 3]].any()


def test_pages_of_an_array_can_be_locked_afterwards(gpu_device):
    host = np.zeros(10_000, np.float32)
    gpu_device.runtime.lock_pages(host)
    mapped = gpu_device.runtime.mapped(host)
    gpu_device.fill(mapped, 0xFF)
    gpu_device.synchronize()
    assert np.isnan(host).all()


def test_a_device_tells_what_it_is(gpu_device):
    free, total = gpu_device.runtime.memory_bytes()
    assert 0 < free <= total
    assert gpu_device.runtime.describe()["name"]
    assert gpu_device.name == "gpu"


def test_memory_that_is_not_there(gpu_device):
    _, total = gpu_device.runtime.memory_bytes()
    with pytest.raises(DeviceMemoryError):
        gpu_device.empty(2 * total, np.uint8)


def test_the_hosts_threads_run_within_a_running_device():
    device = emulated_device(threads=2)
    assert isinstance(device, GpuDevice)
    before = threading.active_count()
    with device.running() as running:
        assert running is device
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert device.threads == device.host.threads == 2


def test_each_thread_may_queue_on_a_stream_of_its_own(gpu_device):
    results = {}

    def count(number):
        stream, host = gpu_device.stream(f"side {number}"), gpu_device.page_locked(1, np.int32)
        array = stream.zeros(1, np.int32)
        for value in range(10):
            host[0] = 10 * number + value
            stream.copy(host, array)
            stream.record().synchronize()
            host[0] = -1
            stream.copy(array, host)
            stream.record().synchronize()
        results[number] = int(host[0])

    threads = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: 10 * number + 9 for number in range(4)}
