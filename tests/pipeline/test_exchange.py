"""The ways of rows over the link: each moves all rows and no other; which one is chosen, and what is said."""

import numpy as np
import pytest
from emulated_cuda import EmulatedCuda
from gpu_devices import emulated_device

from cupyrec.devices.gpu import GpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.errors import ConfigError, DeviceMemoryError
from cupyrec.pipeline import exchange
from cupyrec.pipeline.exchange import MIXED_SHARES, all_exchanges, make_exchange
from cupyrec.pipeline.gpu_ring import GpuStaging

NAMES = ["staged", "direct", "direct-in", "direct-out", "mixed 25%", "mixed 50%", "mixed 75%"]
D, ROWS = 8, 90


def made_table(device):
    return HostTable(device.host, (50, ROWS - 50), D, seed=3)


def test_all_are_there_by_the_names_that_are_told():
    device = emulated_device()
    there = all_exchanges(device, made_table(device))
    assert sorted(there) == sorted(NAMES)
    assert all(name == each.name for name, each in there.items())
    assert [f"mixed {share:.0%}" for share in MIXED_SHARES] == NAMES[4:]


@pytest.mark.parametrize("order", ["as-queued", "latest:in", "earliest:in"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missed", [0, 1, 2, 3, 5, 31])
def test_missed_records_come_in_in_their_order(name, missed, order):
    device = emulated_device(order)
    table, rows = made_table(device), np.random.default_rng(missed).permutation(ROWS)[:missed]
    way, stream = all_exchanges(device, table)[name].into, device.stream("in")
    staging = GpuStaging(device, D, in_on_host=way.by_host, out_on_host=False)
    staging.reserve(missed, 0)
    on_device = device.upload(rows)
    way.gather(rows, staging)
    way.bring(stream, on_device, staging)
    stream.record().synchronize()
    np.testing.assert_array_equal(device.download(staging.device_in(missed)), table.records[rows])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("evicted", [0, 1, 2, 31])
def test_victims_reach_their_rows_and_no_other(name, evicted):
    device = emulated_device("lazy")
    table, rows = made_table(device), np.random.default_rng(evicted).permutation(ROWS)[:evicted]
    way, stream = all_exchanges(device, table)[name].out, device.stream("out")
    staging = GpuStaging(device, D, in_on_host=False, out_on_host=way.by_host)
    staging.reserve(0, evicted)
    victims = np.arange(evicted * D, dtype=np.float32).reshape(evicted, D)
    expected = table.records.copy()
    expected[rows] = victims
    device.upload(victims, staging.device_out(evicted))
    on_device = device.upload(rows)
    way.take(stream, on_device, staging)
    stream.record().synchronize()
    way.scatter(rows, staging)
    np.testing.assert_array_equal(table.records, expected)


def test_mixed_lets_the_host_gather_its_share_and_no_more():
    device = emulated_device()
    table = made_table(device)
    way = all_exchanges(device, table)["mixed 25%"].into
    staging = GpuStaging(device, D, in_on_host=True, out_on_host=False)
    staging.reserve(8, 0)
    staging.host_in(8)[:] = np.nan
    way.gather(np.arange(8), staging)
    assert np.isnan(staging.host_in(8)).all(axis=1).tolist() == [False] * 2 + [True] * 6


@pytest.mark.parametrize(
    ("wanted", "tried", "chosen"), [("auto", NAMES, "direct-in"), ("mixed", NAMES[4:], "mixed 75%")]
)
def test_the_fastest_of_those_that_are_tried_is_taken(wanted, tried, chosen, monkeypatch):
    device, said, seen = emulated_device(), [], []
    times = dict.fromkeys(NAMES, 9e-3) | {"direct-in": 1e-3, "mixed 75%": 2e-3}

    def trial(device, table, exchanges, most_rows):
        seen.extend(each.name for each in exchanges)
        return {name: times[name] for name in seen}

    monkeypatch.setattr(exchange, "try_exchanges", trial)
    made = make_exchange(wanted, device, made_table(device), said.append, slots=7)
    assert made.name == chosen
    assert sorted(seen) == sorted(tried)
    assert len(said) == 1
    assert said[0].startswith(f"exchange {chosen}: 7 rows each way took ")
    assert all(f"{name} {1e3 * times[name]:.2f} ms" in said[0] for name in tried)


@pytest.mark.parametrize("wanted", ["auto", "mixed"])
def test_a_trial_leaves_the_table_as_it_is(wanted):
    device = emulated_device()
    table = made_table(device)
    before = table.records.copy()
    make_exchange(wanted, device, table, lambda line: None)
    np.testing.assert_array_equal(table.records, before)


@pytest.mark.parametrize("wanted", ["auto", "mixed", "direct"])
def test_pages_that_cannot_be_locked_leave_the_staged_way(wanted):
    device, said = GpuDevice(EmulatedCuda(lockable=False), threads=1, say=lambda line: None), []
    assert make_exchange(wanted, device, made_table(device), said.append).name == "staged"
    assert len(said) == 1
    assert said[0].startswith("exchange staged, because the host table cannot be reached from the GPU")


def test_too_little_memory_to_try_leaves_the_staged_way(monkeypatch):
    def trial(*_):
        raise DeviceMemoryError("none")

    device, said = emulated_device(), []
    monkeypatch.setattr(exchange, "try_exchanges", trial)
    assert make_exchange("mixed", device, made_table(device), said.append).name == "staged"
    assert said == ["exchange staged, because there is no memory to try the others: none"]


def test_an_unknown_name_is_refused():
    device = emulated_device()
    with pytest.raises(
        ConfigError, match="unknown exchange 'mix'; choose auto, staged, direct, direct-in, direct-out, mixed"
    ):
        make_exchange("mix", device, made_table(device), print)
