"""A step on a GPU that is cut in two, on whichever stream: what follows does not depend on the order of the streams.

And training that ends, whose memory nothing uses any more.
"""

import gc

import pytest
from gpu_devices import emulated_device
from made_systems import made_system, small_config
from test_gpu_systems import ALL_SYSTEMS, TABLE_ROWS, batches_of_one_size, system_config

# Where an interrupt comes: in the dense part, and in the stage that has it.
POINTS = [
    ("_dense_part", "begin"),
    ("_dense_part", "run"),
    ("_dense_part", "end"),
    ("_dense_part", "loss"),
    ("", "update_rows"),
    ("", "update_dense"),
]
CUT_STEP, BATCHES = 3, 12
ORDERS = ("latest:rows", "latest:gradients", "latest:train", "earliest:rows", "lazy")


def cut(name, point, order):
    """All that can be seen of a run whose third step is interrupted, and of one that goes on after it."""
    batches, device = batches_of_one_size(BATCHES), emulated_device(order)
    with device.running():
        system = made_system(system_config(name), small_config(TABLE_ROWS), device=device)
        system.prepare(lambda: batches, lambda line: None)
        interrupt(system._stage, *point)
        with pytest.raises(KeyboardInterrupt):
            list(system.train(batches[: BATCHES // 2]))
        system.finish()
        table, logits = system.table.records.tobytes(), system.predict(batches[0]).tobytes()
        losses = [float(result.loss) for result in system.train(batches[BATCHES // 2 :])]
        system.finish()
        parameters = device.download(system.model.parameters).tobytes()
        return table, logits, losses, system.table.records.tobytes(), parameters


def interrupt(stage, part, name):
    """Let a method of a stage, or of a part of it, be interrupted as the third step comes to it."""
    owner = getattr(stage, part) if part else stage
    method, calls = getattr(owner, name), []

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == CUT_STEP:
            raise KeyboardInterrupt
        return method(*arguments, **named)

    setattr(owner, name, interrupted)


@pytest.mark.parametrize("name", ALL_SYSTEMS)
@pytest.mark.parametrize("point", POINTS, ids=[name for _, name in POINTS])
def test_what_follows_is_the_same_in_every_order(name, point):
    expected = cut(name, point, "as-queued")
    for order in ORDERS:
        assert cut(name, point, order) == expected, order


@pytest.mark.parametrize("order", ["latest:loss", "lazy"])
@pytest.mark.parametrize("name", ALL_SYSTEMS)
def test_a_system_may_be_dropped_when_training_has_ended(name, order):
    """Its losses unread. The emulated GPU says so where memory is given back that queued work still uses."""
    device, batches = emulated_device(order), batches_of_one_size(6)
    with device.running():
        system = made_system(system_config(name), small_config(TABLE_ROWS), device=device)
        system.prepare(lambda: batches, lambda line: None)
        for result in system.train(batches):
            assert result.samples
        system.finish()
        del result, system
        gc.collect()
        device.synchronize()
