"""The dynamic systems beyond exactness: failures, interrupts, real concurrency, what they say and count."""

import gc
import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest
from batch_strategies import random_batch
from cupyrec_threads import cupyrec_threads
from made_systems import DENSE_FEATURES, made_system, run, small_config, stage_and_table, weights

from cupyrec.batch import Batch
from cupyrec.config import SystemConfig
from cupyrec.errors import ConfigError, StageError
from cupyrec.pipeline.stage_clock import StageClock
from cupyrec.pipeline.stages import COLLECT, EXCHANGE, INSERT, LOAD, PLAN, STAGES, TRAIN
from cupyrec.systems.resident import ResidentSystem
from cupyrec.systems.scratchpipe import ScratchpipeSystem
from cupyrec.systems.serial import SerialSystem
from cupyrec.systems.train_stage import TrainStage

TABLE_ROWS = (60, 40, 9)
CONFIG = small_config(TABLE_ROWS)
DYNAMIC = (SerialSystem, ScratchpipeSystem)
PATIENCE_S = 30


def made_batches(count, *, seed=2, samples=6):
    numbers = np.random.default_rng(seed)
    return [random_batch(numbers, TABLE_ROWS, samples, dense_features=DENSE_FEATURES) for _ in range(count)]


def make(kind=ScratchpipeSystem, *, slots=45, lookahead=3, clock=None, **settings):
    stage, table = stage_and_table(CONFIG, **settings)
    return kind(stage, table, slots=slots, lookahead=lookahead, clock=clock)


def pipeline_threads():
    return [thread.name for thread in cupyrec_threads()]


def failing_stage(system, stage, batch, error, *, after=False, part=None):
    """Let a stage fail on a batch: before or after its work, or in one part of it."""
    made = system._stages

    def stages(work, source):
        if part is not None:
            original = getattr(work, part)

            def do_part(number):
                if number == batch:
                    spoil(work, part, number)
                    raise error
                original(number)

            setattr(work, part, do_part)
            return made(work, source)
        original_stage = made(work, source)[stage]

        def do(number):
            if number == batch and not after:
                raise error
            ended = original_stage(number)
            if number == batch:
                raise error
            return ended

        return made(work, source) | {stage: do}

    system._stages = stages
    return system


def spoil(work, part, number):
    """What a part that fails in its middle may leave: half of what it writes is something else."""
    plan = work.entry(number).plan
    if part == "fill":
        work.scratchpad[plan.miss_slots[::2]] = np.nan
    elif part == "write_back":
        work.table.records[plan.evict_rows[::2]] = np.nan


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("stage", [LOAD, PLAN, COLLECT, EXCHANGE, INSERT])
@pytest.mark.parametrize("kind", DYNAMIC)
def test_a_stage_that_fails_is_named_and_loses_no_row(kind, stage, after):
    batches = made_batches(16)
    system = failing_stage(make(kind), stage, 9, ZeroDivisionError("oh"), after=after)
    results = []
    with pytest.raises(StageError, match=rf"^stage {stage} failed on batch 9, .*: ZeroDivisionError: oh$") as caught:
        results.extend(system.train(iter(batches)))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert pipeline_threads() == []
    assert system.steps_done == len(results) <= 10
    assert weights(system) == run(made_system("resident", CONFIG), batches[: len(results)])[-1]


@pytest.mark.parametrize("part", ["collect_victims", "exchange_in", "write_back", "fill"])
@pytest.mark.parametrize("kind", DYNAMIC)
def test_a_part_that_fails_in_its_middle_loses_no_row(kind, part):
    batches = made_batches(16)
    system = failing_stage(make(kind), None, 9, MemoryError(), part=part)
    with pytest.raises(StageError, match=r"^stage \w+ failed on batch 9, counted from 0: MemoryError$"):
        list(system.train(iter(batches)))
    assert weights(system) == run(made_system("resident", CONFIG), batches[: system.steps_done])[-1]
    # And it can go on from there.
    del system._stages
    rest = batches[system.steps_done :]
    assert run(system, rest)[-1] == run(made_system("resident", CONFIG), batches)[-1]


def test_training_that_fails_raises_its_own_error_and_loses_no_row():
    system, batches = make(), made_batches(12)
    train, calls = system._stage.run, []

    def fails(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError("in training")
        return train(*arguments)

    system._stage.run = fails
    with pytest.raises(ZeroDivisionError, match="in training"):
        list(system.train(iter(batches)))
    assert pipeline_threads() == []
    assert weights(system) == run(made_system("resident", CONFIG), batches[:5])[-1]


@pytest.mark.parametrize("kind", DYNAMIC)
def test_a_run_that_is_forgotten_ends_its_threads_and_leaves_all_rows(kind):
    system, batches = make(kind), made_batches(14)
    results = system.train(iter(batches))
    for _ in range(5):
        next(results)
    del results
    gc.collect()
    assert pipeline_threads() == []
    assert weights(system) == run(made_system("resident", CONFIG), batches[:5])[-1]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", DYNAMIC)
def test_an_interrupt_as_rows_are_brought_back_waits_for_them(monkeypatch, kind, after):
    from cupyrec.pipeline import stage_work

    batches, system, copy, calls = made_batches(12), make(kind), stage_work.copy_between, []

    def interrupted(*arguments):
        calls.append(1)
        if after or len(calls) > 1:
            copy(*arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt

    results = system.train(iter(batches))
    for _ in range(6):
        next(results)
    monkeypatch.setattr(stage_work, "copy_between", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.close()
    assert weights(system) == run(made_system("resident", CONFIG), batches[:6])[-1]
    assert run(system, batches[6:])[-1] == run(made_system("resident", CONFIG), batches)[-1]


@pytest.mark.parametrize("kind", DYNAMIC)
def test_training_that_is_under_way_is_not_begun_again(kind):
    system, batches = make(kind), made_batches(12)
    results = system.train(iter(batches))
    next(results)
    with pytest.raises(RuntimeError, match="training is under way"):
        next(system.train(iter(batches)))
    rest = list(results)
    assert len(rest) == 11
    assert weights(system) == run(made_system("resident", CONFIG), batches)[-1]


class Interrupted:
    """Calls a function, and is interrupted before or after one of its calls."""

    def __init__(self, function, call, after):
        self.function, self.left, self.after = function, call, after

    def __call__(self, *arguments):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KeyboardInterrupt
        ended = self.function(*arguments)
        if self.left == 0:
            raise KeyboardInterrupt
        return ended


KERNELS = ("look", "use", "release", "choose_victims", "evict", "assign")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_an_interrupt_in_the_middle_of_planning_loses_no_row(monkeypatch, kernel, after):
    """A serial run plans in the thread that an interrupt comes to. What is planned by half must not be believed."""
    from cupyrec.pipeline import planner_kernels

    batches, system = made_batches(16), make(SerialSystem, slots=30)
    monkeypatch.setattr(planner_kernels, kernel, Interrupted(getattr(planner_kernels, kernel), 9, after))
    with pytest.raises(KeyboardInterrupt):
        list(system.train(iter(batches)))
    monkeypatch.undo()
    assert 0 < system.steps_done < 16
    assert weights(system) == run(made_system("resident", CONFIG), batches[: system.steps_done])[-1]
    assert run(system, batches[system.steps_done :])[-1] == run(made_system("resident", CONFIG), batches)[-1]


def test_an_interrupt_while_it_waits_ends_everything_and_leaves_all_rows():
    system, batches = make(), made_batches(14)
    waiting, starved, interrupted = threading.Event(), threading.Event(), threading.Event()
    # Of 8 batches the last 3 are only known: none of them can be planned before what follows is known too.
    trained = 8 - 3

    def source():
        yield from batches[:8]
        # Not in the middle of a step, which is cut in two by an interrupt, as in any system.
        waiting.wait(PATIENCE_S)
        starved.set()
        # A thread that reads is waited for: the interrupt has come, but nobody can end before this.
        interrupted.wait(PATIENCE_S)

    def interrupt():
        starved.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGINT)
        interrupted.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    results = system.train(source())
    with pytest.raises(KeyboardInterrupt):
        all(result.step < trained or waiting.set() or True for result in results)
    thread.join()
    results.close()
    assert pipeline_threads() == []
    assert system.steps_done == trained
    assert weights(system) == run(made_system("resident", CONFIG), batches[:trained])[-1]


def test_all_stages_work_at_once_on_different_batches():
    """Each waits until all others are at work too: were two of them one after another, nobody would come."""
    system, batches, seen = make(slots=100), made_batches(30, samples=2), []
    together = threading.Barrier(len(STAGES))
    met = threading.Event()
    made, train = system._stages, system._stage.run

    def meet(stage, number):
        # The batches of one moment, as DESIGN has them: Train 10, Insert 11, ..., Plan 14; Load is further ahead.
        wanted = {TRAIN: 10, INSERT: 11, EXCHANGE: 12, COLLECT: 13, PLAN: 14, LOAD: 14 + 3 + 1}[stage]
        if number == wanted:
            together.wait(PATIENCE_S)
            seen.append(stage)
            met.set()

    def stages(work, source):
        return {
            name: lambda number, name=name, stage=stage: (meet(name, number), stage(number))[1]
            for name, stage in made(work, source).items()
        }

    def trained(*arguments):
        meet(TRAIN, system.steps_done)
        return train(*arguments)

    system._stages, system._stage.run = stages, trained
    assert len(list(system.train(iter(batches)))) == 30
    assert sorted(seen) == sorted(STAGES)


def test_boxes_of_a_trace_show_every_stage_of_every_batch():
    boxes = []

    class Sink:
        def box(self, stage, batch, begun_s, ended_s):
            boxes.append((stage, batch, begun_s, ended_s))

    system = make(clock=StageClock(Sink()))
    results = list(system.train(iter(made_batches(12))))
    assert sorted((stage, batch) for stage, batch, _, _ in boxes) == sorted(
        (stage, batch) for stage in STAGES for batch in range(12)
    )
    for stage in STAGES:
        own = [box for box in boxes if box[0] == stage]
        assert [box[1] for box in own] == list(range(12))
        assert all(one[3] <= other[2] for one, other in itertools.pairwise(own))
    assert all(set(result.stage_ms) == set(STAGES) for result in results)
    assert all(ms >= 0 for result in results for ms in result.stage_ms.values())


@pytest.mark.parametrize("kind", DYNAMIC)
def test_traffic_is_counted(kind):
    system, batches = make(kind, slots=45), made_batches(20)
    results = list(system.train(iter(batches)))
    resident: set = set()
    for result, batch in zip(results, batches, strict=True):
        rows = set(batch.rows.tolist())
        traffic = result.traffic
        assert traffic.hits + traffic.misses == len(rows)
        assert (traffic.bytes_in, traffic.bytes_out) == (traffic.misses * 16, traffic.evictions * 16)
        resident |= rows
    misses, evictions = (sum(getattr(result.traffic, each) for result in results) for each in ("misses", "evictions"))
    assert misses - evictions <= 45
    assert misses >= len(resident)
    if kind is SerialSystem:
        assert all(result.traffic.bubbles == 0 for result in results)


def test_training_waits_for_its_data_and_says_so():
    def slow():
        for batch in made_batches(6):
            time.sleep(0.02)
            yield batch

    for kind in DYNAMIC:
        results = list(make(kind, lookahead=2).train(slow()))
        assert sum(result.waited_s for result in results) > 0.04


@pytest.mark.parametrize("kind", DYNAMIC)
def test_what_it_chose_is_said(kind):
    said = []
    list(make(kind, slots=45, lookahead=None).train(iter(made_batches(9)), say=said.append))
    assert len(said) == 1
    assert "scratchpad of 45 rows, 720 B, for 109 (41.3%); replacement lookahead, looking " in said[0]


def test_steady_steps_take_no_memory_but_the_batches_own():
    """Ring entries, staging and plans are used again: many batches take no more than some."""
    system = make(slots=60, lookahead=4)
    batches = made_batches(6)
    works = []
    made = system._stages
    system._stages = lambda work, source: (works.append(work), made(work, source))[1]
    for _ in system.train(batch for _ in range(20) for batch in batches):
        pass
    (work,) = works
    most = max(batch.lookups for batch in batches)
    assert len(work._ring) == 4 + 1 + 4 + 2
    assert {entry.coalesce_memory.capacity for entry in work._ring} <= {batch.lookups for batch in batches}
    assert work.planner._nodes.shape[0] <= 2 * (60 + 12 * most)
    assert work.planner._window.shape[0] <= 2 * 12 * most


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"slots": 0}, "1 to"), ({"lookahead": 1}, r"look-ahead \(--lookahead\) must be at least 2")],
)
def test_wrong_settings_are_told_before_training(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_rows_beyond_32_bits(tmp_path):
    """A table of more rows than 2**31, in a file that holds nothing but what is written to it."""
    table_rows = (2**31 - 5, 2**20, 1)
    ids = [0, 2**31 - 6, 2**30, 77, 2**31 - 7]
    numbers = np.random.default_rng(1)

    def batch(b):
        bags = [[[ids[b % 5]], [ids[(b + 1) % 5]]], [[5 + b % 3, 2**20 - 1], []], [[0], [0]]]
        dense = numbers.standard_normal((2, DENSE_FEATURES))
        return Batch.from_bags(dense, bags, np.array([0, 1], np.float32), table_rows)

    batches = [batch(b) for b in range(15)]
    used = np.unique(np.concatenate([each.rows for each in batches]))
    assert used.max() > 2**31

    class SparseTable:
        def __init__(self, path):
            self.table_rows = table_rows
            self.records = np.memmap(path, np.float32, "w+", shape=(sum(table_rows), 4))
            self.records[used, :3] = used[:, None] % 7 / 10 - 0.3

    def result(name):
        stage, _ = stage_and_table(CONFIG)
        assert isinstance(stage, TrainStage)
        table = SparseTable(tmp_path / name)
        if name == "resident":
            system = ResidentSystem(stage, table)
        else:
            system = ScratchpipeSystem(stage, table, slots=9, lookahead=3)
        losses = [each.loss for each in system.train(iter(batches))]
        return losses, table.records[used].tobytes()

    assert result("resident") == result("scratchpipe")


def test_the_default_config_is_made_by_name():
    assert isinstance(made_system("scratchpipe", small_config((400, 40, 9))), ScratchpipeSystem)
    assert isinstance(made_system(SystemConfig("serial", "50%"), CONFIG), SerialSystem)
