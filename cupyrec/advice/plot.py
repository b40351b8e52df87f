"""The curves of an Advice as a PNG. Matplotlib is loaded here and nowhere else, and only when a picture is wanted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupyrec.advice.policies import POLICIES
from cupyrec.byte_sizes import format_bytes
from cupyrec.counted import counted
from cupyrec.datasets.durable_files import write_durably
from cupyrec.errors import ConfigError

if TYPE_CHECKING:
    from cupyrec.advice.result import Advice

WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 11, 4.8, 120
# Distinct in colour and in dash, for readers who see no colours.
STYLES = {
    "lookahead": {"color": "#0b5fa5", "marker": "o"},
    "lru": {"color": "#d1601d", "marker": "s", "linestyle": "--"},
    "static": {"color": "#6b6b6b", "marker": "^", "linestyle": ":"},
    "min": {"color": "#2a8a4a", "marker": "v", "linestyle": "-."},
}
NAMES = {"min": "MIN (knows all steps)", "lru": "LRU"}


def load_matplotlib() -> Any:
    """The class of a figure. Raises ConfigError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib, or cupyrec with its extra "
            "'plot'; without --plot the figures are printed all the same"
        ) from None
    return Figure


def write_plot(path: Path, advice: Advice) -> None:
    """Draw hit rate and bytes a step over the size of the scratchpad. Raises ConfigError, OutputError."""
    figure = load_matplotlib()(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained")
    hits, bytes_moved = figure.subplots(1, 2)
    sizes = [each for each in advice.sizes if not each.too_small]
    slots = [each.slots for each in sizes]
    for policy in POLICIES:
        costs, style = [each.costs[policy] for each in sizes], STYLES[policy]
        name = NAMES.get(policy, policy)
        hits.plot(slots, [100 * cost.hit_rate for cost in costs], label=name, **style)
        bytes_moved.plot(slots, [cost.bytes_per_step for cost in costs], label=name, **style)
    hits.set_ylabel("hits, % of the different rows of a step")
    bytes_moved.set_ylabel("bytes a step, both ways")
    bytes_moved.set_yscale("log")
    bytes_moved.yaxis.set_major_formatter(lambda value, _: format_bytes(round(value)))
    bytes_moved.yaxis.set_minor_formatter(lambda value, _: "")
    recommended = advice.recommendation.advice
    for axes in (hits, bytes_moved):
        axes.set_xscale("log")
        axes.set_xlabel(f"scratchpad, rows (of {advice.rows:,})")
        axes.set_xticks(slots, [f"{each:,}" for each in slots], rotation=30)
        axes.xaxis.minorticks_off()
        axes.axvline(advice.never_bubbles_rows, color="0.6", linewidth=1, label="never bubbles from here on")
        axes.axvline(
            recommended.slots, color="#b8860b", linewidth=6, alpha=0.25, label=f"recommended: {recommended.size}"
        )
        axes.grid(alpha=0.3)
    hits.legend(fontsize="small")
    figure.suptitle(
        f"{counted(advice.steps, 'step')} of {counted(advice.batch_samples, 'sample')}; "
        f"the last {advice.counted_steps:,} counted"
        + ("" if advice.sample_rate == 1 else f"; estimated from 1 row in {1 / advice.sample_rate:,.0f}"),
        fontsize="medium",
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_durably(path, picture.getvalue())
