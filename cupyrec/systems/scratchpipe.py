"""`scratchpipe`: the scratchpad filled by a pipeline that looks forward, all stages at once on different batches.

While batch b trains, the rows that b+1 misses are going into their slots, those of b+2 over the link, those of b+3 are
being gathered and b+4 is being planned: training finds every row in the scratchpad and waits for none, as long as no
stage takes longer than training itself. The weights are bit for bit those of `resident`.

Source: ScratchPipe, Kwon and Rhu, ISCA 2022, arXiv 2205.04702.
"""

from __future__ import annotations

from cupyrec.pipeline.stage_threads import StageThreads
from cupyrec.pipeline.stages import PIPELINED
from cupyrec.systems.scratchpad_system import ScratchpadSystem


class ScratchpipeSystem(ScratchpadSystem):
    """Trains in the scratchpad while other threads fill it."""

    name = "scratchpipe"
    depth = PIPELINED
    driver = StageThreads
