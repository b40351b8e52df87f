"""`serial`: the scratchpad with its stages one after another, for each batch: plan, collect, exchange, insert, train.

The same rows move as in `scratchpipe`, and the weights are the same; but training waits for each of the moves, which is
what the pipeline is there to hide. Nothing else is in flight while a batch is planned, so no rows are held: a
scratchpad that can hold a single batch is enough. The paper calls it the straw-man.
"""

from __future__ import annotations

from cupyrec.pipeline.stages import ONE_AFTER_ANOTHER
from cupyrec.pipeline.stages_in_turn import StagesInTurn
from cupyrec.systems.scratchpad_system import ScratchpadSystem


class SerialSystem(ScratchpadSystem):
    """Trains in the scratchpad, stage after stage."""

    name = "serial"
    depth = ONE_AFTER_ANOTHER
    driver = StagesInTurn
