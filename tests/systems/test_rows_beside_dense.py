"""Rows are pooled and updated on a stream of their own, while training does what does not need them; and weight
gradients of the top MLP are filled on another.
"""

from dataclasses import replace

import pytest
from gpu_devices import emulated_device
from made_systems import made_system, small_config
from test_gpu_systems import TABLE_ROWS, batches_of_one_size, system_config, trained

from cupyrec.devices.cuda_runtime import HIGHEST_PRIORITY, LOWEST_PRIORITY, MIDDLE_PRIORITY
from cupyrec.systems.dense_part import first_upper_layer

POOL, UPDATE = "embedding_bag_of_rows", "update_short_at_rows"


STEPS, BOTTOM_PRODUCTS, TOP_PRODUCTS = 4, 2, 2


def runs_of(order):
    """(stream, label) of what ran in steps of resident, in this order."""
    device = emulated_device(order)
    trained(system_config("resident"), device, batches_of_one_size(STEPS))
    return device.runtime.log


def log_of(order):
    """The labels alone."""
    return [label for _, label in runs_of(order)]


def places(log, label, a_step=1, first=True):
    """Where a label stands, the first time in each step, or each time."""
    found = [at for at, each in enumerate(log) if each == label]
    assert len(found) == a_step * STEPS
    return found[::a_step] if first else found


def test_the_bottom_mlp_waits_for_no_pool_that_is_late():
    log = log_of("latest:rows")
    begins = [0, *places(log, "dense_sgd")[:-1]]
    for begun, pooled, used in zip(begins, places(log, POOL), places(log, "dot_interaction_forward"), strict=True):
        assert log[begun:pooled].count("matmul") == BOTTOM_PRODUCTS
        assert pooled < used


def test_the_dense_part_waits_for_no_update_of_rows_that_is_late():
    log = log_of("latest:rows")
    assert all(dense < rows for dense, rows in zip(places(log, "dense_sgd"), places(log, UPDATE), strict=True))


@pytest.mark.parametrize("late", ["train", "gradients"])
def test_rows_wait_for_no_other_gradients_that_are_late(late):
    """On each of the two streams one MLP's bias gradients are added up."""
    streams, log = zip(*runs_of(f"latest:{late}"), strict=True)
    updates = places(log, UPDATE)
    gradients = [at for at in places(log, "add_partial_sums", a_step=2, first=False) if streams[at] == late]
    # In the first step memory is taken, which waits for everything.
    assert all(rows < other for rows, other in zip(updates[1:], gradients[1:], strict=True))


def test_the_way_to_the_rows_gradient_waits_for_no_weight_gradients_that_are_late():
    streams, log = zip(*runs_of("latest:gradients"), strict=True)
    beside = [at for at, stream in enumerate(streams) if stream == "gradients" and log[at] == "matmul"]
    assert len(beside) == TOP_PRODUCTS * STEPS
    for led, filled in zip(places(log, "dot_interaction_backward"), beside[::TOP_PRODUCTS], strict=True):
        assert led < filled


def test_weight_gradients_of_upper_layers_wait_for_nothing_below():
    streams, log = zip(*runs_of("earliest:gradients"), strict=True)
    upper = [at for at, stream in enumerate(streams) if stream == "gradients" and log[at] == "matmul"][::TOP_PRODUCTS]
    for filled, led in zip(upper, places(log, "dot_interaction_backward"), strict=True):
        assert filled < led


@pytest.mark.parametrize(
    ("widths", "cut"),
    [((9, 1), 1), ((9, 5, 1), 1), ((164, 1024, 1024, 512, 256, 1), 2), ((1, 1, 1, 1, 1), 2), ((1, 1, 1, 1), 2)],
)
def test_upper_layers_have_no_more_weights_than_those_below(widths, cut):
    assert first_upper_layer(widths) == cut


def test_a_top_mlp_of_one_layer_has_no_upper_ones():
    device, plain = emulated_device("latest:gradients"), emulated_device()
    config = replace(small_config(TABLE_ROWS), top=(1,))
    same = [
        trained(system_config("resident"), each, batches_of_one_size(STEPS), config=config) for each in (device, plain)
    ]
    assert same[0] == same[1]


@pytest.mark.parametrize("name", ["hybrid", "static"])
def test_where_the_host_updates_rows_the_device_completes_the_gradients_meanwhile(name, monkeypatch):
    """What is queued when the host begins."""
    device, queued = emulated_device(graphs=False), []
    with device.running():
        system = made_system(system_config(name), small_config(TABLE_ROWS), device=device)
        streams = device, system._stage._dense_part.beside
        batches = batches_of_one_size(3)
        system.prepare(lambda: batches, lambda line: None)
        launched = []
        update = system._host_rows.update
        for stream in streams:
            monkeypatch.setattr(
                stream,
                "launch",
                lambda kernel, *given, launch=stream.launch, **named: (
                    launched.append(kernel.name),
                    launch(kernel, *given, **named),
                ),
            )
        monkeypatch.setattr(
            system._host_rows, "update", lambda *given: (queued.append(list(launched)), update(*given))[1]
        )
        list(system.train(batches))
    assert [labels.count("add_partial_sums") for labels in queued] == [2, 4, 6]
    assert [labels.count("dense_sgd") for labels in queued] == [0, 1, 2]


def test_what_waits_for_memory_has_the_lowest_priority_and_weight_gradients_the_next():
    device = emulated_device()
    trained(system_config("scratchpipe"), device, batches_of_one_size(2))
    priority = {stream.name: stream.priority for stream in device.runtime._streams.all()}
    memory_bound = dict.fromkeys(("rows", "load", "plan", "collect", "insert"), LOWEST_PRIORITY)
    others = dict.fromkeys(("train", "in", "out", "link", "loss"), HIGHEST_PRIORITY)
    assert priority == {**others, "gradients": MIDDLE_PRIORITY, **memory_bound}


@pytest.mark.parametrize("name", ["resident", "static"])
def test_loading_has_the_lowest_priority_without_a_pipeline_too(name):
    device = emulated_device()
    trained(system_config(name), device, batches_of_one_size(2))
    priority = {stream.name: stream.priority for stream in device.runtime._streams.all()}
    assert priority["load"] == priority["rows"] == LOWEST_PRIORITY


def test_what_the_host_must_know_of_a_batch_comes_without_a_copy():
    """A copy would wait for the rows that leave."""
    device = emulated_device()
    count = 12
    trained(system_config("scratchpipe", exchange="staged"), device, batches_of_one_size(count))
    log = device.runtime.log
    told = {stream for stream, label in log if label.startswith("tell_")}
    assert told == {"load", "plan", "out"}
    # Dense features, rows, offsets and labels, the other way.
    assert log.count(("load", "copy")) == 4 * count
    # At first the planner's memory grows.
    rooms = [at for at, each in enumerate(log) if each == ("plan", "find_room")]
    assert ("plan", "copy") not in log[rooms[-4] :]
