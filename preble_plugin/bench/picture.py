"""The comparison as a picture: how long people waited, who worked, what was reused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from preble_plugin.bench.result import PREBLE, Comparison
from preble_plugin.bench.table import caption

_INK: Final = "#22262b"
_FAINT: Final = "#8a939c"
_GRID: Final = "#e3e6e9"
_OURS: Final = "#0b7a75"
_OTHERS: Final = ("#8794a3", "#d1603d", "#5b5ea6")


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture to `path` (PNG, 1800 x 720 pixels). Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        "font.size": 11,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _FAINT,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(style):
        figure = plt.figure(figsize=(12, 4.8), dpi=150)
        waits, work, cache = figure.subplots(1, 3, width_ratios=(2.3, 1.25, 1))
        _waits(waits, comparison)
        _work(work, comparison)
        _cache(cache, comparison)
        figure.suptitle(_title(comparison), x=0.012, ha="left", fontsize=15, fontweight="bold")
        figure.text(0.012, 0.02, caption(comparison), fontsize=8.5, color=_FAINT)
        figure.tight_layout(rect=(0, 0.045, 1, 0.97), w_pad=2.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, facecolor="white")
        plt.close(figure)


def _title(comparison: Comparison) -> str:
    sides = comparison.sides
    ratios = [
        (over, comparison.ratio("mean_ttft", over, under)) for over, under in comparison.pairs
    ]
    told = [(sides[over], ratio) for over, ratio in ratios if ratio is not None]
    if not told or (len(told) > 1 and PREBLE not in comparison.dispatches):
        return "Time to first token, work and reuse"
    if any(ratio < 1.05 for _, ratio in told):
        parts = [f"{1 / ratio:.2f} of {side.heading}" for side, ratio in told]
        return f"Mean time to first token: {', '.join(parts)}"
    if len(told) > 1:
        parts = [f"{ratio:.1f}x sooner than by {side.short}" for side, ratio in told]
        return f"The first token comes {', '.join(parts)}"
    return f"The first token comes {told[0][1]:.1f}x sooner on average"


def _colours(comparison: Comparison) -> list[str]:
    """One for each side; preble's is always the same."""
    others = iter(_OTHERS)
    return [_OURS if side == PREBLE else next(others, _FAINT) for side in comparison.dispatches]


def _waits(axes: Any, comparison: Comparison) -> None:
    """Share of requests whose first token came within x seconds, log scale."""
    lowest, highest = np.inf, 0.0
    for side, colour in zip(comparison.dispatches, _colours(comparison), strict=True):
        runs = comparison.of(side)
        times = np.sort([answer.ttft_seconds for run in runs for answer in run.answers])
        shares = np.arange(1, len(times) + 1) / len(times)
        mean = comparison.figure(side, "mean_ttft")
        label = f"{comparison.sides[side].heading}, mean {mean * 1000:.0f} ms"
        axes.step(times, shares, where="post", color=colour, linewidth=2.4, label=label)
        axes.fill_between(times, shares, step="post", color=colour, alpha=0.06)
        axes.axvline(mean, color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
        lowest, highest = min(lowest, times[0]), max(highest, times[-1])
    axes.set_xscale("log")
    axes.set_xlim(lowest * 0.9, highest * 1.1)
    axes.set_ylim(0, 1.005)
    axes.xaxis.set_major_formatter(_milliseconds)
    axes.tick_params(axis="x", which="minor", length=0, labelbottom=False)
    axes.set_xticks([tick for tick in _TICKS if lowest * 0.9 <= tick <= highest * 1.1])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title("Requests whose first token came within ...", loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", fontsize=10)


_TICKS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def _milliseconds(value: float, _: Any = None) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"


def _work(axes: Any, comparison: Comparison) -> None:
    """Prompt tokens that each replica computed, a bar for each side."""
    sides = comparison.dispatches
    replicas = list(comparison.work_shares(sides[0]))
    width = 0.8 / len(sides)
    for number, (side, colour) in enumerate(zip(sides, _colours(comparison), strict=True)):
        runs = comparison.of(side)
        thousands = [
            sum(run.figures.computed_tokens.get(replica, 0) for run in runs) / len(runs) / 1000
            for replica in replicas
        ]
        places = np.arange(len(replicas)) + (number - (len(sides) - 1) / 2) * width
        bars = axes.bar(places, thousands, width * 0.92, color=colour)
        axes.bar_label(bars, fmt="%.0fk", padding=2, fontsize=9.5)
    axes.set_xticks(np.arange(len(replicas)), [f"replica {replica}" for replica in replicas])
    axes.set_title("Prompt tokens computed", loc="left", fontsize=11)
    _bare(axes)


def _cache(axes: Any, comparison: Comparison) -> None:
    """Share of the prompt tokens that came from a cache."""
    shares = [comparison.figure(side, "cached_share") for side in comparison.dispatches]
    bars = axes.bar(range(len(shares)), shares, 0.7, color=_colours(comparison))
    axes.bar_label(bars, labels=[f"{share:.0%}" for share in shares], padding=2, fontsize=9.5)
    axes.set_ylim(0, 1)
    names = [comparison.sides[side].short.replace(" ", "\n") for side in comparison.dispatches]
    axes.set_xticks(range(len(shares)), names)
    axes.set_title("Prompt tokens from cache", loc="left", fontsize=11)
    _bare(axes)


def _bare(axes: Any) -> None:
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="both", length=0)
    axes.set_yticks([])
    axes.margins(y=0.12)
