"""Every order of the stages' parts that the board allows, tried out on small cases with the real moves of rows.

A search over how far each part has come. Each of these states can be reached in many orders; all must leave the same
host table, scratchpad and staging, or some order matters that must not. Stages are cut into the parts in which they
touch memory (Collect: misses, victims; Exchange: in, out; Insert: back, fill; Train: read, write), so that parts of
different stages come between each other. Training is arithmetic on whole numbers here: another value or order of
updates gives another number.
"""

import numpy as np
import pytest
from plan_traces import plans_of

from cupyrec.batch import CoalescePlan
from cupyrec.devices.cpu import CpuDevice
from cupyrec.embedding.host_table import HostTable
from cupyrec.pipeline.plan import Holds
from cupyrec.pipeline.planner import Planner
from cupyrec.pipeline.stage_work import StageWork
from cupyrec.pipeline.stages import COLLECT, EXCHANGE, INSERT, LOAD, PIPELINED, PLAN, TRAIN, Board

PARTS = (
    (COLLECT, "collect_misses"),
    (COLLECT, "collect_victims"),
    (EXCHANGE, "exchange_in"),
    (EXCHANGE, "exchange_out"),
    (INSERT, "write_back"),
    (INSERT, "fill"),
    (TRAIN, "read"),
    (TRAIN, "write"),
)
ROWS = 12
WIDTH = 4
MODULUS = 2**20


def trained(values, batch):
    """What training makes of row values; the order of batches matters."""
    return (values * 3 + batch + 1) % MODULUS


class Case:
    """A few batches, planned, and the memory that their stages share."""

    def __init__(self, batches, slots, *, holds=PIPELINED.holds, lookahead=2, board=Board):
        self.batches = batches
        self.table = HostTable(CpuDevice(1), [ROWS], WIDTH, seed=None)
        self.table.records[:] = np.arange(ROWS)[:, None] * 1000
        self.expected = self.table.records.copy()
        for b, rows in enumerate(batches):
            self.expected[rows] = trained(self.expected[rows], b)
        planner = Planner(slots, lookahead=lookahead, holds=holds)
        plans = list(plans_of(planner, batches))
        # As long a ring as there are batches: that entries are used again is another test's subject.
        self.board = board(PIPELINED, max(lookahead, len(batches)))
        scratchpad = np.zeros((slots, WIDTH), np.float32)
        self.work = StageWork(CpuDevice(1), self.table, scratchpad, planner, self.board)
        for staging in self.work._staging:
            staging.reserve(max(map(len, batches)))
        self.held = [np.zeros((len(rows), WIDTH), np.float32) for rows in batches]
        for plan in plans:
            entry = self.work.entry(plan.batch)
            entry.plan = plan
            entry.coalesced = CoalescePlan(np.array(batches[plan.batch], np.int64), None, None, None)
            self.board.planned(plan)
            self.board.finished(LOAD)
            self.board.finished(PLAN)
        self.board.ended(len(batches))
        arrays = [self.table.records, scratchpad, self.work._rows, *self.held]
        for staging in self.work._staging:
            arrays += [staging.host_in, staging.device_in, staging.device_out, staging.host_out]
        self.arrays = arrays
        for array in arrays[3:]:
            array[:] = 0
        self.trained_rows = [self.table.records.copy()]
        for b, rows in enumerate(batches):
            after = self.trained_rows[-1].copy()
            after[rows] = trained(after[rows], b)
            self.trained_rows.append(after)

    def save(self):
        return [array.copy() for array in self.arrays]

    def load(self, saved):
        for array, values in zip(self.arrays, saved, strict=True):
            array[:] = values

    def run(self, part, batch):
        plan = self.work.entry(batch).plan
        if part == "read":
            self.held[batch][:] = self.work.scratchpad[plan.unique_slots]
        elif part == "write":
            self.work.scratchpad[plan.unique_slots] = trained(self.held[batch], batch)
        else:
            getattr(self.work, part)(batch)

    def flushes_every_row(self, progress):
        """Whether the host table, once it is flushed, has the values that the batches trained so far have given.

        Changes the host table.
        """
        if progress[-2] != progress[-1]:
            return True  # in the middle of an update
        self.work.flush()
        return np.array_equal(self.table.records, self.trained_rows[progress[-1]])

    def allowed(self, progress):
        """The parts that may come next. progress: for each part, how many batches it has done."""
        for at, (stage, _) in enumerate(PARTS):
            second = at % 2 == 1
            if second:
                if progress[at] < progress[at - 1]:
                    yield at
                continue
            # The first part of a stage begins when its second has ended with the batch before.
            if progress[at] != progress[at + 1]:
                continue
            for which, done in zip((COLLECT, EXCHANGE, INSERT, TRAIN), progress[1::2], strict=True):
                self.board.done[which] = done
            if self.board.may_begin(stage):
                yield at


def explore(case):
    """(states seen, whether one was reached with different contents or shows a row wrongly, contents at the end)."""
    begin = (0,) * len(PARTS)
    level, states, differ = {begin: case.save()}, 0, False
    while True:
        states += len(level)
        following: dict = {}
        for progress, saved in level.items():
            for at in case.allowed(progress):
                case.load(saved)
                case.run(PARTS[at][1], progress[at])
                reached = (*progress[:at], progress[at] + 1, *progress[at + 1 :])
                contents = case.save()
                if reached in following:
                    same = all(map(np.array_equal, contents, following[reached]))
                    differ = differ or not same
                else:
                    following[reached] = contents
                    differ = differ or not case.flushes_every_row(reached)
        if not following:
            (ended,) = level
            assert ended == (len(case.batches),) * len(PARTS), "stuck"
            return states, differ, level[ended]
        level = following


def final_rows(case, contents):
    """The value of every row, wherever it is at the end."""
    case.load(contents)
    case.work.flush()
    return case.table.records


SWAPPING = [[0, 1], [2, 3], [0, 4], [1, 2], [3, 0], [4, 5], [0, 1]]
RETURNING = [[0, 1, 2], [3, 4], [5, 6], [7, 8], [0, 9], [3, 1], [5, 2]]
RANDOM = [
    [sorted(numbers.choice(ROWS, 2, replace=False).tolist()) for _ in range(10)]
    for numbers in map(np.random.default_rng, range(12))
]
ALTERNATING = [[0], [1], [0], [1], [0], [1], [0], [1]]


@pytest.mark.parametrize(
    ("batches", "slots"),
    [
        *((SWAPPING, slots) for slots in (2, 3, 4, 5, 6)),
        *((RETURNING, slots) for slots in (3, 5, 8, 9, 10)),
        (ALTERNATING, 1),
        (ALTERNATING, 2),
        ([[0, 1, 2, 3]] * 7, 4),
        ([[b] for b in range(9)], 6),
        ([[b] for b in range(9)], 1),
        ([[], [0], [], [1], [0, 1], []], 2),
        ([[0, 1]], 2),
    ],
)
def test_every_order_gives_what_one_after_another_gives(batches, slots):
    case = Case(batches, slots)
    states, differ, contents = explore(case)
    assert not differ
    np.testing.assert_array_equal(final_rows(case, contents), case.expected)
    if len(batches) > 1 and slots >= 6:
        assert states > 100, "there is meant to be a choice of orders"


def goes_wrong(case):
    _, differ, contents = explore(case)
    return differ or not np.array_equal(final_rows(case, contents), case.expected)


@pytest.mark.parametrize(("holds", "known"), [(Holds(2, 2), 2), (Holds(3, 1), 1)])
def test_a_hold_window_shrunk_by_one_is_found_out(holds, known):
    assert any(goes_wrong(Case(RETURNING, slots, holds=holds, lookahead=known)) for slots in range(5, 11))


@pytest.mark.parametrize(("stage", "other"), [(COLLECT, TRAIN), (COLLECT, INSERT)])
def test_a_missing_wait_is_found_out(stage, other):
    class Without(Board):
        def waits_for(self, each, batch):
            return [wait for wait in super().waits_for(each, batch) if (each, wait[0]) != (stage, other)]

    assert any(goes_wrong(Case(batches, slots, board=Without)) for batches in RANDOM for slots in (8, 9))


@pytest.mark.parametrize("batches", RANDOM)
@pytest.mark.parametrize("slots", [2, 4, 6, 8, 9])
def test_every_order_of_random_batches(batches, slots):
    case = Case(batches, slots)
    _, differ, contents = explore(case)
    assert not differ
    np.testing.assert_array_equal(final_rows(case, contents), case.expected)
