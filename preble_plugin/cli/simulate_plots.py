"""Simulated runs as pictures: latency against rate, load over time, share from cache.

`latency.png` and `cached.png` have a panel for each workload, `load-WORKLOAD.png` one
for each policy, at the highest rate. All are PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np

from preble_plugin.cli.simulate_page import bar_style, grid, legend, line_style, page, policy_legend
from preble_plugin.cli.simulate_table import blocks_of, figures_of, policies_of
from preble_plugin.sim.figures import LoadOverTime
from preble_plugin.sim.sweep import Result

_REPLICAS: Final = ("#0b7a75", "#d1603d", "#5b5ea6", "#c99a2e", "#3f88c5", "#a2477f", "#7a9e3d")
_ACROSS: Final = 4
"""Panels of a row, at most."""


def draw_all(results: Sequence[Result], fleet: str, directory: Path) -> list[Path]:
    """Draw what succeeded into `directory`, which is there; the paths. `fleet` says
    which hardware it was, and how many."""
    import matplotlib

    matplotlib.use("Agg")
    good = [one for one in results if one.figures is not None]
    if not good:
        return []
    paths = [directory / "latency.png", directory / "cached.png"]
    _latency(good, fleet, paths[0])
    _cached(good, fleet, paths[1])
    for workload in _workloads(good):
        paths.append(directory / f"load-{workload}.png")
        _load([one for one in good if one.workload == workload], fleet, paths[-1])
    return paths


def _workloads(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(one.workload for one in results))


def _rows(panels: int) -> tuple[int, int]:
    """Rows and columns, as even as can be."""
    down = -(-panels // _ACROSS)
    return down, -(-panels // down)


def _blank_rest(panels: Any, used: int, rows: int) -> None:
    """Panels without a workload or policy are not shown; `rows` stand for one."""
    for row, line in enumerate(panels):
        for column, axes in enumerate(line):
            if row // rows * len(line) + column >= used:
                axes.set_visible(False)


# -- latency against rate --------------------------------------------------------------


def _latency(results: Sequence[Result], fleet: str, path: Path) -> None:
    workloads = _workloads(results)
    down, across = _rows(len(workloads))
    size = (3.3 * across + 2.2, 5.4 * down + 0.6)
    with page(size, f"Latency by rate of requests, {fleet}", path) as figure:
        panels = figure.subplots(2 * down, across, squeeze=False)
        for number, workload in enumerate(workloads):
            row, column = 2 * (number // across), number % across
            here = [one for one in results if one.workload == workload]
            _lines(panels[row][column], here, "mean_latency")
            _lines(panels[row + 1][column], here, "p99_latency")
            panels[row][column].set_title(workload, loc="left", fontweight="bold", fontsize=11)
            panels[row + 1][column].set_xlabel("requests/s")
            if column == 0:
                panels[row][column].set_ylabel("mean latency, s")
                panels[row + 1][column].set_ylabel("p99 latency, s")
        _blank_rest(panels, len(workloads), rows=2)
        policy_legend(figure, policies_of(results), lines=True)


def _lines(axes: Any, results: Sequence[Result], name: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    policies = policies_of(results)
    for policy in policies:
        points = []
        for block in blocks_of(results).values():
            found = figures_of(block, policy)
            if found:
                rate = block[0].rate or fmean(one.arrivals_per_second for one in found)
                points.append((rate, fmean(getattr(one, name) for one in found)))
        points.sort()
        axes.plot(*zip(*points, strict=True), **line_style(policies, policy))
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    within = high < 10 * low
    axes.yaxis.set_major_locator(MaxNLocator(5) if within else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(left=0)
    grid(axes)


# -- share from cache ------------------------------------------------------------------


def _cached(results: Sequence[Result], fleet: str, path: Path) -> None:
    workloads = _workloads(results)
    down, across = _rows(len(workloads))
    policies = policies_of(results)
    size = (3.3 * across + 2.2, 2.9 * down + 0.6)
    with page(size, f"Share of prompt tokens from cache, {fleet}", path) as figure:
        panels = figure.subplots(down, across, squeeze=False, sharey=True)
        for number, workload in enumerate(workloads):
            axes = panels[number // across][number % across]
            blocks = blocks_of(one for one in results if one.workload == workload)
            width = 0.84 / len(policies)
            for place, policy in enumerate(policies):
                found = [figures_of(block, policy) for block in blocks.values()]
                shares = [fmean(one.cached_share for one in some) if some else 0 for some in found]
                middle = np.arange(len(blocks)) + (place - (len(policies) - 1) / 2) * width
                axes.bar(middle, shares, width * 0.9, **bar_style(policies, policy))
            rates = ["own times" if rate is None else f"{rate:g}" for _, rate in blocks]
            axes.set_xticks(range(len(blocks)), rates)
            axes.set_xlabel("requests/s")
            axes.set_title(workload, loc="left", fontweight="bold", fontsize=11)
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            grid(axes, axis="y")
        _blank_rest(panels, len(workloads), rows=1)
        policy_legend(figure, policies_of(results), lines=False)


# -- load over time --------------------------------------------------------------------


def _load(results: Sequence[Result], fleet: str, path: Path) -> None:
    """The first seed at the highest rate, a panel a policy, a line a replica."""
    (workload, rate), block = max(
        blocks_of(results).items(), key=lambda item: item[0][1] or float("inf")
    )
    policies = policies_of(block)
    down, across = _rows(len(policies))
    at = "at its own times" if rate is None else f"at {rate:g} requests/s"
    title = f"Requests on each replica over time: {workload} {at}, {fleet}"
    with page((3.3 * across + 1.2, 2.7 * down + 0.6), title, path) as figure:
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        found = {policy: figures_of(block, policy)[0].load for policy in policies}
        most = max(max(map(max, load.in_flight)) for load in found.values())
        _root_scale(panels[0][0], most)
        for number, policy in enumerate(policies):
            axes = panels[number // across][number % across]
            _load_lines(axes, found[policy])
            axes.set_title(policy, loc="left", fontweight="bold", fontsize=11)
            axes.set_xlabel("seconds")
            axes.tick_params(labelbottom=True)
            if number % across == 0:
                axes.set_ylabel("waiting or running (root scale)")
        panels[0][0].set_xlim(left=0)
        _blank_rest(panels, len(policies), rows=1)
        handles, labels = panels[0][0].get_legend_handles_labels()
        legend(figure, handles[:16], labels[:16])


def _root_scale(axes: Any, most: float) -> None:
    """From 0 to `most`, so that few requests are seen beside many."""
    top = max(most, 1.0)
    axes.set_ylim(0, top * 1.05)
    axes.set_yscale("function", functions=(lambda y: np.sqrt(np.abs(y)), np.square))
    round_counts = [number * 10**power for power in range(7) for number in (1, 2, 5)]
    axes.set_yticks([0, *(count for count in round_counts if top / 40 <= count <= top)])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _load_lines(axes: Any, load: LoadOverTime) -> None:
    for replica, row in enumerate(load.in_flight):
        seconds = (np.arange(len(row)) + 0.5) * load.every_seconds
        colour = _REPLICAS[replica % len(_REPLICAS)]
        axes.plot(seconds, row, color=colour, linewidth=1.3, label=f"replica {replica}")
    grid(axes)
