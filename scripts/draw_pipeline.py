"""Draws docs/pipeline.svg: which batch each stage of the pipeline works on, and what is held and known meanwhile.

    pip install "cupyrec[plot]"
    python scripts/draw_pipeline.py

All positions follow from cupyrec.pipeline.stages.PIPELINED. The same version of matplotlib writes the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from cupyrec.pipeline.stages import COLLECT, EXCHANGE, INSERT, LOAD, PIPELINED, PLAN, STAGES, TRAIN

# The batch that is being planned in the step shown as now, and how many are known beyond it.
PLANNED, LOOKAHEAD = 8, 9
# At which step after its planning a batch is in each stage. Load must be done with b + K before b is planned.
DELAYS = {
    LOAD: -(LOOKAHEAD + 1),
    PLAN: 0,
    COLLECT: PIPELINED.collect,
    EXCHANGE: PIPELINED.exchange,
    INSERT: PIPELINED.insert,
    TRAIN: PIPELINED.train,
}
# Batch b is planned in step b, so a batch of the strip below stands under its place in the row of Plan.
FIRST, LAST = PLANNED - DELAYS[TRAIN], PLANNED - DELAYS[LOAD]
# "Light", for backgrounds under dark text and safe for the colour-blind: P. Tol, Colour schemes, SRON technical note,
# 2021. Nine, so that no two stages show the same at once; ordered so that neighbours differ.
COLOURS = ("#EEDD88", "#77AADD", "#EE8866", "#AAAA00", "#99DDFF", "#FFAABB", "#44BB99", "#DDDDDD", "#BBCC33")
TEXT, QUIET, HELD, KNOWN = "#222222", "#5A5A5A", "#A33A00", "#004F8A"
WIDTH_INCHES, BOX = 8.0, 0.86
FONTS = ["DejaVu Sans", "Arial"]
LEFT, RIGHT, TOP, BOTTOM = FIRST - 2.75, LAST + 0.75, 1.5, -9.5
STRIP = -7.5
PREVIEW_DPI = 100


def draw_box(axes: Axes, x: float, y: float, batch: int, *, planned: bool) -> None:
    """A batch in one place; framed where it is the one being planned."""
    corner = (x - BOX / 2, y - BOX / 2)
    colour = COLOURS[batch % len(COLOURS)]
    axes.add_patch(Rectangle(corner, BOX, BOX, facecolor=colour, edgecolor=TEXT if planned else colour, linewidth=1.5))
    axes.text(x, y - 0.02, str(batch), ha="center", va="center_baseline", color=TEXT, fontsize=10.5)


def draw_stages(axes: Axes) -> None:
    """A row for each stage, a column for each step, the present one framed."""
    for row, stage in enumerate(STAGES):
        axes.text(FIRST - 0.75, -row, stage, ha="right", va="center_baseline", color=TEXT, fontsize=11.5)
        for step in range(FIRST, LAST + 1):
            draw_box(axes, step, -row, step - DELAYS[stage], planned=stage == PLAN and step == PLANNED)
    frame = Rectangle((PLANNED - 0.5, 0.5), 1, -len(STAGES), fill=False, edgecolor=TEXT, linewidth=1.5)
    axes.add_patch(frame)
    axes.text(PLANNED, 0.7, "now", ha="center", va="bottom", color=TEXT, fontsize=10.5)
    arrow = {"arrowstyle": "->", "color": QUIET}
    axes.annotate("", xy=(LAST + 0.45, 0.97), xytext=(LAST - 2.2, 0.97), arrowprops=arrow)
    axes.text(LAST - 2.4, 0.97, "time, in steps", ha="right", va="center_baseline", color=QUIET, fontsize=10)


def draw_span(axes: Axes, first: int, last: int, y: float, colour: str, text: str) -> None:
    """A bracket under the batches from one to another, and what they are."""
    left, right = first - BOX / 2, last + BOX / 2
    axes.plot([left, left, right, right], [y + 0.18, y, y, y + 0.18], color=colour, linewidth=1.5)
    axes.text((left + right) / 2, y - 0.12, text, ha="center", va="top", color=colour, fontsize=10)


def draw_batches(axes: Axes) -> None:
    """All batches that are on their way now: which are held, which are known ahead, which is being loaded."""
    axes.text(FIRST - 0.75, STRIP, "Batches", ha="right", va="center_baseline", color=TEXT, fontsize=11.5)
    for batch in range(FIRST, LAST + 1):
        draw_box(axes, batch, STRIP, batch, planned=batch == PLANNED)
    holds = PIPELINED.holds
    first, last = PLANNED - holds.past, PLANNED + holds.future
    axes.add_patch(Rectangle((first - 0.5, STRIP - 0.5), last - first + 1, 1, fill=False, edgecolor=HELD, linewidth=2))
    axes.text(
        (first + last) / 2, STRIP + 0.62, f"rows held: {holds.past} past batches, {PLANNED}, {holds.future} future",
        ha="center", va="bottom", color=HELD, fontsize=10,
    )  # fmt: skip
    text = (
        f"known ahead (K = {LOOKAHEAD}): rows used by none of these leave first,\nthen those whose next use is furthest"
    )
    draw_span(axes, PLANNED + 1, PLANNED + LOOKAHEAD, STRIP - 0.85, KNOWN, text)
    axes.text(
        LAST + BOX / 2, STRIP + 0.62, "Load runs K + 1 batches ahead of Plan",
        ha="right", va="bottom", color=QUIET, fontsize=10,
    )  # fmt: skip
    for batch, stage in ((FIRST, TRAIN), (PLANNED, PLAN), (LAST, LOAD)):
        axes.text(batch, STRIP - 0.6, stage, ha="center", va="top", color=TEXT, fontsize=10)


def draw() -> plt.Figure:
    height = WIDTH_INCHES * (TOP - BOTTOM) / (RIGHT - LEFT)
    figure = plt.figure(figsize=(WIDTH_INCHES, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(LEFT, RIGHT), ylim=(BOTTOM, TOP))
    axes.set_axis_off()
    draw_stages(axes)
    draw_batches(axes)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs/pipeline.svg")
    parser.add_argument("--preview", type=Path, help="also write a PNG, 800 pixels wide, here")
    arguments = parser.parse_args()
    # Text stays text, and nothing in the file depends on when it was written.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cupyrec", "font.sans-serif": FONTS})
    figure = draw()
    figure.savefig(arguments.output, metadata={"Date": None, "Creator": None})
    if arguments.preview:
        figure.savefig(arguments.preview, dpi=PREVIEW_DPI)


if __name__ == "__main__":
    main()
