"""Rows are pooled and updated on a stream of their own, while training does what does not need them."""

import pytest
from gpu_devices import emulated_device
from made_systems import made_system, small_config
from test_gpu_systems import TABLE_ROWS, batches_of_one_size, system_config, trained

POOL, UPDATE = "embedding_bag_of_rows", "update_short_at_rows"


STEPS, BOTTOM_PRODUCTS = 4, 2


def log_of(order):
    """What ran in steps of resident, in this order."""
    device = emulated_device(order)
    trained(system_config("resident"), device, batches_of_one_size(STEPS))
    return [label for _, label in device.runtime.log]


def places(log, label, a_step=1):
    """Where a label stands, the first time in each step."""
    found = [at for at, each in enumerate(log) if each == label]
    assert len(found) == a_step * STEPS
    return found[::a_step]


def test_the_bottom_mlp_waits_for_no_pool_that_is_late():
    log = log_of("latest:rows")
    begins = [0, *places(log, "dense_sgd")[:-1]]
    for begun, pooled, used in zip(begins, places(log, POOL), places(log, "dot_interaction_forward"), strict=True):
        assert log[begun:pooled].count("matmul") == BOTTOM_PRODUCTS
        assert pooled < used


def test_the_dense_part_waits_for_no_update_of_rows_that_is_late():
    log = log_of("latest:rows")
    assert all(dense < rows for dense, rows in zip(places(log, "dense_sgd"), places(log, UPDATE), strict=True))


def test_rows_wait_for_no_other_gradients_that_are_late():
    log = log_of("latest:train")
    updates, gradients = places(log, UPDATE), places(log, "add_partial_sums", a_step=2)
    # In the first step memory is taken, which waits for everything.
    assert all(rows < other for rows, other in zip(updates[1:], gradients[1:], strict=True))


@pytest.mark.parametrize("name", ["hybrid", "static"])
def test_where_the_host_updates_rows_the_device_completes_the_gradients_meanwhile(name, monkeypatch):
    """What is queued when the host begins."""
    device, queued = emulated_device(graphs=False), []
    with device.running():
        system = made_system(system_config(name), small_config(TABLE_ROWS), device=device)
        batches = batches_of_one_size(3)
        system.prepare(lambda: batches, lambda line: None)
        launched = []
        launch, update = device.launch, system._host_rows.update
        monkeypatch.setattr(
            device,
            "launch",
            lambda kernel, *given, **named: (launched.append(kernel.name), launch(kernel, *given, **named)),
        )
        monkeypatch.setattr(
            system._host_rows, "update", lambda *given: (queued.append(list(launched)), update(*given))[1]
        )
        list(system.train(batches))
    assert [labels.count("add_partial_sums") for labels in queued] == [2, 4, 6]
    assert [labels.count("dense_sgd") for labels in queued] == [0, 1, 2]


def test_only_what_is_done_to_rows_is_patient():
    device = emulated_device()
    trained(system_config("scratchpipe"), device, batches_of_one_size(2))
    assert {stream.name for stream in device.runtime._streams.all() if stream.patient} == {"rows"}
