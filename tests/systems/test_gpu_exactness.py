"""The promise on a GPU: `serial` and `scratchpipe` give the weights of `resident`, bit for bit, in all circumstances.

As test_exactness.py on the CPU, and with each way across the link in each direction; fewer cases, as the emulated GPU
takes its time. What orders of the streams may do is for test_gpu_systems.py.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from made_systems import DelayedSystem, made_batches, made_system, run, small_config, stage_and_table

from cupyrec.config import REPLACEMENTS
from cupyrec.pipeline.exchange import Exchange, all_exchanges
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem

LEAST_STEPS, MOST_STEPS, MOST_SAMPLES, MOST_DELAY_MS = 6, 14, 6, 4


@st.composite
def cases(draw):
    replacement = draw(st.sampled_from(REPLACEMENTS))
    steps = st.integers(1, MOST_STEPS)
    return {
        "table_rows": tuple(draw(st.permutations([draw(st.integers(20, 200)), 30, draw(st.integers(1, 9))]))),
        "sizes": draw(st.lists(st.integers(0, MOST_SAMPLES), min_size=LEAST_STEPS, max_size=MOST_STEPS)),
        "seed": draw(st.integers(0, 2**16)),
        "most_lookups": draw(st.integers(1, 4)),
        "spare": draw(st.one_of(st.integers(0, 6), st.integers(0, 100))),
        "lookahead": draw(st.one_of(st.none(), st.integers(2, 9))) if replacement == "lookahead" else None,
        "replacement": replacement,
        "optimizer": draw(st.sampled_from(["sgd", "adagrad", "rowwise-adagrad"])),
        "pooling": draw(st.sampled_from(["sum", "mean"])),
        "probe_steps": draw(st.sets(steps, max_size=3)),
        "finish_steps": draw(st.sets(steps, max_size=3)),
        "stop_after": draw(st.one_of(st.none(), st.integers(LEAST_STEPS, MOST_STEPS))),
    }


def check_exact(device, case, into, out):
    """Also where each stage of scratchpipe takes its time. into, out: how rows cross the link."""
    made = [case[each] for each in ("table_rows", "sizes", "seed", "most_lookups")]
    batches, (probe,) = made_batches(*made), made_batches(made[0], [5], made[2] + 1, made[3])
    same = {each: case[each] for each in ("probe_steps", "finish_steps", "stop_after")} | {"probe": probe}
    config, slots = small_config(case["table_rows"], case["pooling"]), 1 + case["spare"]
    slots = max(slots, case["spare"] + max(len(np.unique(batch.rows)) for batch in batches))
    given = {"optimizer": case["optimizer"], "device": device}
    with device.running():
        expected = run(made_system("resident", config, **given), batches, **same)
        for kind in (SerialSystem, ScratchpipeSystem, DelayedSystem):
            stage, table = stage_and_table(config, **given)
            settings = {each: case[each] for each in ("lookahead", "replacement")}
            system = kind(stage, table, slots=slots, exchange="staged", **settings)
            ways = all_exchanges(device, table)
            system._exchange = Exchange(ways[into].into, ways[out].out)
            if kind is DelayedSystem:
                system.slow_down(case["seed"], MOST_DELAY_MS)
            assert run(system, batches, **same) == expected, kind.__name__


# The device is the same for all examples; what one leaves there no other one sees. Examples that fail are not made
# smaller: that would take minutes.
@settings(max_examples=10, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("out", ["staged", "direct"])
@pytest.mark.parametrize("into", ["staged", "direct", "mixed 50%"])
@given(case=cases())
def test_the_same_bits_whatever_the_data_and_the_scratchpad(gpu_device, into, out, case):
    check_exact(gpu_device, case, into, out)
