"""On a GPU Plan never waits for what was only just loaded: that was sorted while other batches trained."""

from typing import ClassVar

import numpy as np
import pytest
from batch_strategies import random_batch
from gpu_devices import emulated_device
from made_systems import DENSE_FEATURES, small_config, stage_and_table

from cupyrec.pipeline.gpu_stage_work import LOADED_AHEAD, GpuStageWork, loaded_ahead
from cupyrec.pipeline.stages import LOAD, ONE_AFTER_ANOTHER, PIPELINED, PLAN, STAGES, TRAIN, Board
from cupyrec.pipeline.stages_in_turn import StagesInTurn
from cupyrec.systems.scratchpipe import ScratchpipeSystem

TABLE_ROWS, BATCHES, LOOKAHEAD = (30, 9, 200), 24, 3


class SlowLoad(StagesInTurn):
    """As the thread that trains goes on where batches are loaded by another, which is always too late."""

    def begin_train(self):
        board = self._board
        while not board.exhausted(TRAIN):
            stage = next((each for each in STAGES[1:] if board.may_begin(each)), LOAD)
            if stage == TRAIN:
                return board.done[TRAIN]
            self._run(stage)
        return None


class Noted(GpuStageWork):
    """begun: (batch that is planned, what was queued of Load before) of each batch whose planning is begun."""

    begun: ClassVar[list] = []

    def plan(self, number):
        self._at, self._loaded_before = number, self._loaded
        super().plan(number)

    def _begin_plan(self, number):
        if self._begun != number:
            self.begun.append((number, self._at, self._loaded_before))
        super()._begin_plan(number)


def begun(monkeypatch, ahead):
    """What Noted notes of a run."""

    class System(ScratchpipeSystem):
        driver = SlowLoad

    monkeypatch.setattr("cupyrec.systems.scratchpad_system.GpuStageWork", Noted)
    monkeypatch.setattr("cupyrec.systems.scratchpad_system.loaded_ahead", lambda depth: ahead)
    monkeypatch.setattr(Noted, "begun", [])
    numbers, device = np.random.default_rng(1), emulated_device()
    batches = [random_batch(numbers, TABLE_ROWS, 4, dense_features=DENSE_FEATURES) for _ in range(BATCHES)]
    with device.running():
        stage, table = stage_and_table(small_config(TABLE_ROWS), device=device)
        trained = list(System(stage, table, slots=80, lookahead=LOOKAHEAD, exchange="staged").train(batches))
    assert len(trained) == BATCHES
    return Noted.begun


def test_each_batch_is_begun_while_the_one_before_is_planned_with_what_was_sorted_meanwhile(monkeypatch):
    noted = begun(monkeypatch, LOADED_AHEAD)
    assert [number for number, *_ in noted] == list(range(BATCHES))
    for number, at, loaded_before in noted[1:]:
        assert at == number - 1
        # Nothing was before the first.
        assert at == 0 or loaded_before > min(number + LOOKAHEAD, BATCHES - 1)


def test_one_after_another_nothing_is_loaded_beyond_what_plan_knows():
    assert (loaded_ahead(ONE_AFTER_ANOTHER), loaded_ahead(PIPELINED)) == (0, LOADED_AHEAD)


def test_without_it_plan_waits_for_each_batch(monkeypatch):
    assert all(at == number for number, at, _ in begun(monkeypatch, 0)[: BATCHES - LOOKAHEAD])


@pytest.mark.parametrize("ahead", range(LOADED_AHEAD + 1))
@pytest.mark.parametrize("depth", [PIPELINED, ONE_AFTER_ANOTHER], ids=["pipelined", "one after another"])
@pytest.mark.parametrize("total", [0, 1, 3, 12, 40])
def test_the_ring_has_places_for_the_whole_depth_and_two_more(depth, ahead, total):
    """Whatever may begin begins, Train last: while there is something to load, so many batches are planned ahead."""
    board, planned_ahead = Board(depth, LOOKAHEAD, loaded_ahead=ahead), set()
    while not board.exhausted(TRAIN):
        stage = next(each for each in STAGES if board.may_begin(each))
        if stage == LOAD and board.done[LOAD] == total:
            board.ended(total)
            continue
        if stage == TRAIN and board.done[LOAD] < total:
            planned_ahead.add(board.done[PLAN] - board.done[TRAIN])
        board.finished(stage)
    assert board.done[TRAIN] == total
    # The batches from Plan to Train; one that is being loaded and a spare one.
    assert planned_ahead == ({depth.train + 1 + 2} if total > board.ring_size else set())
