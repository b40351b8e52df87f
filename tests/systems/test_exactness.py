"""The promise: `serial` and `scratchpipe` give the weights of `resident`, bit for bit, whatever the circumstances."""

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_systems import (
    DENSE_FEATURES,
    MAX_SAMPLES,
    DelayedSystem,
    made_batches,
    made_system,
    run,
    small_config,
    stage_and_table,
    weights,
)

from cupyrec.batch import Batch
from cupyrec.config import REPLACEMENTS, SystemConfig
from cupyrec.errors import ScratchpadError
from cupyrec.pipeline.stages import PIPELINED

DYNAMIC = ("serial", "scratchpipe")


def unique_rows(batch):
    return len(np.unique(batch.rows))


def bags_batch(bags, table_rows):
    """bags: for each table, for each sample, ids."""
    samples, numbers = len(bags[0]), np.random.default_rng(len(bags[0]))
    dense = numbers.standard_normal((samples, DENSE_FEATURES))
    return Batch.from_bags(dense, bags, numbers.integers(0, 2, samples).astype(np.float32), table_rows)


def check_exact(batches, table_rows, slots, *, lookahead=None, replacement="lookahead", pooling="sum", **settings):
    """All three systems on the same batches; returns the traffic of scratchpipe's steps."""
    same = {
        each: settings.pop(each) for each in ("probe", "probe_steps", "finish_steps", "stop_after") if each in settings
    }
    config = small_config(table_rows, pooling)
    expected = run(made_system("resident", config, **settings), batches, **same)
    for name in DYNAMIC:
        system = SystemConfig(name, scratchpad=str(slots), lookahead=lookahead, replacement=replacement)
        assert run(made_system(system, config, **settings), batches, **same) == expected, name
    system = made_system(SystemConfig("scratchpipe", str(slots), lookahead, replacement), config, **settings)
    return [result.traffic for result in system.train(iter(batches))]


@st.composite
def cases(draw):
    return {
        "table_rows": tuple(draw(st.lists(st.sampled_from([1, 2, 9, 40, 300]), min_size=3, max_size=3))),
        "sizes": draw(st.lists(st.integers(0, MAX_SAMPLES), min_size=1, max_size=16)),
        "seed": draw(st.integers(0, 2**16)),
        "most_lookups": draw(st.integers(1, 4)),
        "spare": draw(st.one_of(st.integers(0, 10), st.integers(0, 200))),
        "lookahead": draw(st.one_of(st.none(), st.integers(2, 9))),
        "optimizer": draw(st.sampled_from(["sgd", "adagrad", "rowwise-adagrad"])),
        "pooling": draw(st.sampled_from(["sum", "mean"])),
        "threads": draw(st.integers(1, 2)),
        "probe_steps": draw(st.sets(st.integers(1, 16), max_size=3)),
        "finish_steps": draw(st.sets(st.integers(1, 16), max_size=3)),
        "stop_after": draw(st.one_of(st.none(), st.integers(1, 16))),
    }


@settings(max_examples=200)
@given(case=cases(), replacement=st.sampled_from(REPLACEMENTS))
def test_the_same_bits_whatever_the_data_and_the_scratchpad(case, replacement):
    table_rows, spare, lookahead = case.pop("table_rows"), case.pop("spare"), case.pop("lookahead")
    made = {each: case.pop(each) for each in ("sizes", "seed", "most_lookups")}
    batches = made_batches(table_rows, **made)
    (probe,) = made_batches(table_rows, [5], seed=made["seed"] + 1)
    slots = max(1, max(map(unique_rows, batches)) + spare)
    lookahead = lookahead if replacement == "lookahead" else None
    check_exact(batches, table_rows, slots, lookahead=lookahead, replacement=replacement, probe=probe, **case)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    spare=st.integers(0, 60),
    lookahead=st.integers(2, 6),
    slow=st.sampled_from([None, "Collect", "Exchange", "Insert"]),
    train_ms=st.sampled_from([0, 3]),
)
def test_the_same_bits_whatever_a_stage_waits_for(seed, spare, lookahead, slow, train_ms):
    config = small_config((60, 9, 1))
    batches = made_batches(config.table_rows, [4] * 14, seed=seed)
    expected = run(made_system("resident", config), batches, finish_steps={5})
    stage, table = stage_and_table(config)
    slots = max(map(unique_rows, batches)) + spare
    system = DelayedSystem(stage, table, slots=slots, lookahead=lookahead).slow_down(seed, 4)
    if slow is not None:
        undelayed = system._stages

        def with_one_slow(work, source):
            stages = undelayed(work, source)
            return stages | {slow: lambda number, stage=stages[slow]: (time.sleep(0.003), stage(number))[1]}

        system._stages = with_one_slow
    train = stage.run
    stage.run = lambda *arguments: (time.sleep(train_ms / 1e3), train(*arguments))[1]
    assert run(system, batches, finish_steps={5}) == expected


def rows_batches(lists, table_rows=(100, 1, 1)):
    """Batches of two samples; lists: for each batch, the ids that they look up in the first table."""
    return [bags_batch([[ids, []], [[0], []], [[], [0]]], table_rows) for ids in lists]


def test_all_hits():
    traffic = check_exact(rows_batches([[1, 2, 3]] * 12), (100, 1, 1), 5)
    assert [each.misses for each in traffic] == [5] + [0] * 11
    assert [each.hits for each in traffic] == [0] + [5] * 11


def test_no_hits():
    batches = [bags_batch([[[3 * b, 3 * b + 1], [3 * b + 2]], [[], []], [[], []]], (100, 1, 1)) for b in range(20)]
    traffic = check_exact(batches, (100, 1, 1), 20)
    assert all((each.hits, each.misses, each.bubbles) == (0, 3, 0) for each in traffic)
    assert sum(each.evictions for each in traffic) == 60 - 20


def test_batches_without_lookups_and_without_samples():
    nothing = bags_batch([[[], []]] * 3, (100, 1, 1))
    empty = Batch.from_bags(np.zeros((0, DENSE_FEATURES)), [[], [], []], np.zeros(0), (100, 1, 1))
    some = rows_batches([[1, 2], [3], [1]])
    traffic = check_exact([nothing, empty, some[0], nothing, some[1], empty, nothing, some[2]], (100, 1, 1), 4)
    assert len(traffic) == 6
    assert check_exact([nothing] * 7, (100, 1, 1), 1)[0].misses == 0
    assert check_exact([empty], (100, 1, 1), 1) == []
    assert check_exact([], (100, 1, 1), 1) == []


def test_all_lookups_of_the_same_row():
    traffic = check_exact([bags_batch([[[7] * 9, [7]], [[], []], [[], []]], (100, 1, 1))] * 9, (100, 1, 1), 1)
    assert sum(each.misses for each in traffic) == 1


def test_one_row_tables_beside_large_ones():
    table_rows = (1, 100_000, 1)
    check_exact(made_batches(table_rows, [MAX_SAMPLES] * 12, seed=3), table_rows, 40)


def six_batch_sets():
    batches = made_batches((60, 40, 9), [6] * 16, seed=8)
    reach = PIPELINED.holds.past + 1 + PIPELINED.holds.future
    windows = [np.concatenate([batch.rows for batch in batches[at : at + reach]]) for at in range(16 - reach + 1)]
    return batches, max(map(unique_rows, batches)), max(len(np.unique(rows)) for rows in windows)


def test_a_scratchpad_of_just_one_batch():
    batches, U, _ = six_batch_sets()
    traffic = check_exact(batches, (60, 40, 9), U)
    assert sum(each.bubbles for each in traffic) > 10


def test_a_scratchpad_of_just_the_six_batches_held():
    batches, _, held = six_batch_sets()
    traffic = check_exact(batches, (60, 40, 9), held)
    assert all(each.bubbles == 0 for each in traffic)
    assert sum(each.evictions for each in traffic) > 0


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_scratchpad_below_the_six_batches_held_is_slow_and_right(share):
    batches, U, held = six_batch_sets()
    traffic = check_exact(batches, (60, 40, 9), U + int(share * (held - U)))
    if share < 0.5:
        assert any(each.bubbles for each in traffic)


@pytest.mark.parametrize("name", DYNAMIC)
def test_a_scratchpad_below_one_batch_is_an_error_with_numbers_and_leaves_all_rows(name):
    table_rows = (60, 40, 9)
    batches = made_batches(table_rows, [1] * 8 + [MAX_SAMPLES] + [1] * 3, seed=4)
    U = unique_rows(batches[8])
    system = made_system(SystemConfig(name, str(U - 1), 2), small_config(table_rows))
    with pytest.raises(ScratchpadError, match=rf"{U} different rows.*{U - 1} slots.*--scratchpad \d+,"):
        list(system.train(iter(batches)))
    reached = system.steps_done
    expected = run(made_system("resident", small_config(table_rows)), batches[:reached])
    assert weights(system) == expected[-1]


@pytest.mark.parametrize("count", range(1, 8))
def test_fewer_batches_than_the_pipeline_is_deep(count):
    check_exact(made_batches((60, 40, 9), [4] * count), (60, 40, 9), 40, lookahead=9)


def test_a_short_last_batch():
    check_exact(made_batches((60, 40, 9), [MAX_SAMPLES] * 9 + [1]), (60, 40, 9), 60)


def test_evaluation_in_the_middle_changes_no_state():
    batches = made_batches((60, 40, 9), [6] * 20, seed=8)
    (probe,) = made_batches((60, 40, 9), [6], seed=9)
    slots = 40
    watched = check_exact(batches, (60, 40, 9), slots, lookahead=4, probe=probe, probe_steps=set(range(1, 21)))
    config = small_config((60, 40, 9))
    systems = [made_system(SystemConfig("scratchpipe", str(slots), 4), config) for _ in range(2)]
    plain = [result.traffic for result in systems[0].train(iter(batches))]
    probed = []
    for result in systems[1].train(iter(batches)):
        before = [result.step, weights_on_device(systems[1])]
        system_predicts = [np.array(systems[1].predict(probe)) for _ in range(2)]
        np.testing.assert_array_equal(*system_predicts)
        assert before == [result.step, weights_on_device(systems[1])]
        probed.append(result.traffic)
    assert plain == probed == watched
    assert sum(each.evictions for each in plain) > 0


def weights_on_device(system):
    return system.model.parameters.tobytes()


def test_a_row_evicted_and_needed_again_in_the_next_batch():
    # One slot: every batch evicts the row of the one before.
    batches = [bags_batch([[[b % 2], []], [[], []], [[], []]], (100, 1, 1)) for b in range(12)]
    traffic = check_exact(batches, (100, 1, 1), 1)
    assert [each.misses for each in traffic] == [1] * 12
    assert [each.evictions for each in traffic] == [0] + [1] * 11
    # And two slots for three rows.
    batches = [bags_batch([[[b % 3], [(b + 1) % 3]], [[], []], [[], []]], (100, 1, 1)) for b in range(12)]
    assert sum(each.evictions for each in check_exact(batches, (100, 1, 1), 2)) > 5


def test_a_second_call_goes_on_where_the_first_ended():
    config, batches = small_config((60, 40, 9)), made_batches((60, 40, 9), [6] * 18, seed=2)
    expected = run(made_system("resident", config, optimizer="adagrad"), batches)
    for name in DYNAMIC:
        system = made_system(SystemConfig(name, "50", 3), config, optimizer="adagrad")
        run(system, batches[:7])
        # Stopped in the middle: the batches that were on their way are none that trained.
        run(system, batches[7:], stop_after=12)
        assert run(system, batches[12:])[-1] == expected[-1], name


@example(name="scratchpipe", failing=9)
@given(name=st.sampled_from(DYNAMIC), failing=st.integers(0, 12))
@settings(max_examples=10)
def test_what_reading_raises_comes_after_all_batches_before_it(name, failing):
    config, batches = small_config((60, 40, 9)), made_batches((60, 40, 9), [6] * 12, seed=2)

    def spoilt():
        yield from batches[:failing]
        raise ZeroDivisionError("spoilt")

    system = made_system(SystemConfig(name, "50", 3), config)
    results = []
    with pytest.raises(ZeroDivisionError, match="spoilt"):
        results.extend(system.train(spoilt()))
    assert len(results) == failing
    assert weights(system) == run(made_system("resident", config), batches[:failing])[-1]
