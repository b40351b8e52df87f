"""Decides when checkpoints are written, and does it at the boundaries of steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from cupyrec import __version__
from cupyrec.batch import Batch
from cupyrec.errors import ConfigError, ModelError, OutputError
from cupyrec.saving.changed_rows import ChangedRows
from cupyrec.saving.checkpoint import read_checkpoint
from cupyrec.saving.checkpoint_folder import CheckpointFolder
from cupyrec.saving.checkpoint_writer import CheckpointWriter
from cupyrec.saving.model_state import ModelState
from cupyrec.saving.training_state import TrainingState

# Tables below this are written while training waits: a fraction of a second.
AT_ONCE_BYTES = 2**26


class Checkpoints:
    """The checkpoints of a run, made by Trainer.checkpoints and given to Trainer.fit.

    At most one is being written. Where the tables are large a thread writes them while training goes on, and the
    checkpoint is that of the step at which the thread was through, not of the one at which it began; but where the host
    table rests while training goes on, on a GPU, of that one.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        model: ModelState,
        *,
        every: int,
        keep: int,
        keep_best: bool = False,
        describe: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """every: steps, 0: none but the best; keep: how many; keep_best: whether there is one of each evaluation that
        is the best so far, and stays until another is; describe: what the run adds to checkpoint.json, asked between
        two steps.
        """
        self.folder, self._model, self._every, self._keep = folder, model, every, keep
        self._keep_best = keep_best
        self._describe = describe
        self._at_once = model.table_bytes < AT_ONCE_BYTES
        self._changed = ChangedRows(model.table.records.shape[0])
        self._writer: CheckpointWriter | None = None
        # Of a table that rests: taken when the thread began.
        self._taken: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None
        self._last_step: int | None = None

    def check_is_of(self, model: ModelState) -> None:
        """Raise ConfigError unless it is this model that is written."""
        if self._model is not model:
            raise ConfigError(
                "these checkpoints are of another Trainer, whose weights they would hold; make them with the method "
                "checkpoints of this one"
            )

    def begin(self) -> None:
        """Training begins. Raises OutputError."""
        self.folder.clean()
        self._changed.forget_batches()
        steps = self.folder.steps()
        if steps and steps[-1] > self._model.steps_done:
            raise OutputError(
                f"{self.folder.path}: holds a checkpoint of step {steps[-1]:,}, but training is at step "
                f"{self._model.steps_done:,}; go on from that one, or choose another folder"
            )
        # That it was just loaded from, or was made at the end of a call before.
        self._last_step = self._model.steps_done if steps and steps[-1] == self._model.steps_done else None

    def batch_read(self, batch: Batch) -> None:
        """In whatever thread: a batch is about to be handed to training."""
        if not self._at_once:
            self._changed.read(batch)

    def batch_trained(self) -> None:
        """The next of the batches read has trained."""
        if not self._at_once:
            self._changed.trained()

    @property
    def is_due(self) -> bool:
        """After a step: whether `take` has something to do."""
        if self._writer is not None:
            return self._writer.tables_ended
        steps = self._model.steps_done
        return self._every > 0 and steps % self._every == 0 and steps != self._last_step

    def take(self, state: TrainingState) -> None:
        """Between two steps, after all that is to be told of them: begin a checkpoint, or end one.

        Raises OutputError, DivergenceError.
        """
        if self._writer is not None:
            self._complete(state)
            return
        self._begin(state, at_once=self._at_once)

    def evaluated(self, state: TrainingState) -> None:
        """Between two steps, the last of which was evaluated: let there be a checkpoint of it, where that was the best
        so far and is to be kept. Training waits for it. Raises OutputError, DivergenceError.
        """
        if not self._keep_best or state.best is None or state.best.step != self._model.steps_done:
            return
        if self._writer is not None:
            self._complete(state)  # where the host table rests, of an earlier step
        if self._model.steps_done != self._last_step:
            self._begin(state, at_once=True)

    def end(self, state: TrainingState) -> None:
        """Training has ended, and every row's value is in the host table: let there be a checkpoint of this step."""
        if not self._every:
            return
        if self._taken is not None:
            self.close()  # what it was made of is no more
        if self._writer is not None:
            self._complete(state)
        elif self._model.steps_done != self._last_step and state.steps:
            self._begin(state, at_once=True)

    def let_host_table_change(self) -> None:
        """Somebody is about to bring later values to the host table: one that is to rest is written before."""
        if self._writer is not None and self._taken is not None:
            self._writer.wait_until_tables_ended()

    def close(self) -> None:
        """Give up what is being written."""
        if self._writer is not None:
            self._writer.give_up()
        self._writer = self._taken = None

    def _begin(self, state: TrainingState, *, at_once: bool) -> None:
        model = self._model
        # From here on only batches in flight, and those still to be read, change values in the host table.
        model.system.finish()
        self._writer = CheckpointWriter(self.folder.place(model.steps_done), model)
        if at_once:
            self._writer.write_tables()
            self._publish(model.dense(), self._content(state))
            return
        if model.system.host_table_rests:
            self._taken = model.dense(), self._content(state)
        else:
            self._changed.begin()
        self._writer.start_tables()

    def _complete(self, state: TrainingState) -> None:
        assert self._writer is not None
        self._writer.wait_for_tables()
        if self._taken is not None:
            self._publish(*self._taken)
            return
        model = self._model
        model.system.finish()
        self._changed.end()
        self._writer.write_changed(self._changed)
        self._writer.target = self.folder.place(model.steps_done)
        self._publish(model.dense(), self._content(state))

    def _publish(self, dense: dict[str, np.ndarray], content: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.publish(dense, content)
        self._writer = self._taken = None
        self._last_step = content["steps"]
        self.folder.keep_newest(self._keep, also=self._bests())

    def _bests(self) -> set[int]:
        """Of each checkpoint that stays, the step of the best evaluation by then: a run that goes on from there may
        come to no better one.
        """
        bests = set()
        for step in self.folder.steps()[-self._keep :] if self._keep_best else ():
            with contextlib.suppress(ModelError):  # nobody can go on from it
                best = read_checkpoint(self.folder.place(step)).state.best
                bests |= set() if best is None else {best.step}
        return bests

    def _content(self, state: TrainingState) -> dict[str, Any]:
        return checkpoint_content(self._model, state, self._describe())


def checkpoint_content(model: ModelState, state: TrainingState, described: dict[str, Any]) -> dict[str, Any]:
    """What checkpoint.json says, but for the files. described: what a run adds."""
    return {
        "cupyrec": __version__,
        "numpy": np.__version__,
        "model": asdict(model.model_config),
        "optimizer": model.optimizer,
        "steps": model.steps_done,
        "state": state.as_dict(),
        **described,
    }
