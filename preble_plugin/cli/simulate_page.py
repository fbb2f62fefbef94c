"""What the pictures of `preble simulate` share: the page, a colour for each policy, legends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from preble_plugin.sim.beyond import BOUND, ORACLE, POOLED

_INK: Final = "#22262b"
_FAINT: Final = "#8a939c"
_GRID: Final = "#e3e6e9"
_COLOURS: Final = {
    "e2": "#0b7a75",
    "round-robin": "#8794a3",
    "least-loaded": "#d1603d",
    "e2-paper": "#58b09c",
    ORACLE: _INK,
    POOLED: _INK,
    BOUND: _INK,
}
_OTHERS: Final = ("#5b5ea6", "#c99a2e", "#a2477f", "#3f88c5", "#7a9e3d", "#8c5a3c", "#b5838d")
_NARROWEST: Final = 9.5
"""Inches; a title has to fit."""
_STYLE: Final = {
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def need_matplotlib() -> None:
    """Raises ValueError where it is not there, with what to install."""
    if find_spec("matplotlib") is None:
        raise ValueError(
            "pictures need matplotlib: pip install 'preble-plugin[simulate]', or leave --plot out"
        )


@contextmanager
def page(size: tuple[float, float], title: str, path: Path) -> Iterator[Any]:
    """A figure of that size (inches), written to `path` at the end."""
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):
        figure = plt.figure(
            figsize=(max(size[0], _NARROWEST), size[1]), dpi=130, layout="constrained"
        )
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        yield figure
        figure.savefig(path, facecolor="white")
        plt.close(figure)


def colour_of(policies: Sequence[str], policy: str) -> str:
    """The same for a policy in all pictures of a run; e2's is always the same."""
    others = [name for name in policies if name not in _COLOURS]
    if policy in _COLOURS:
        return _COLOURS[policy]
    return _OTHERS[others.index(policy) % len(_OTHERS)]


def line_style(policies: Sequence[str], policy: str) -> dict[str, Any]:
    """What `plot` takes: those that no scheduler can be are dashed."""
    style = {ORACLE: (0, (5, 2)), POOLED: (0, (3, 1, 1, 1)), BOUND: (0, (1, 1.5))}.get(policy, "-")
    colour = colour_of(policies, policy)
    width = 2.2 if policy == "e2" else 1.4
    return {
        "color": colour,
        "linestyle": style,
        "linewidth": width,
        "marker": "o",
        "markersize": 4,
    }


def bar_style(policies: Sequence[str], policy: str) -> dict[str, Any]:
    """What `bar` takes: the bound is hatched, as it is no policy."""
    colour = colour_of(policies, policy)
    if policy == BOUND:
        return {"facecolor": "white", "edgecolor": colour, "hatch": "////"}
    return {"facecolor": colour, "edgecolor": colour}


def policy_legend(figure: Any, policies: Sequence[str], *, lines: bool) -> None:
    """Beside the panels: a line for each policy, or a patch."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def handle(policy: str) -> Any:
        if lines:
            return Line2D([], [], **line_style(policies, policy))
        return Patch(**bar_style(policies, policy))

    legend(figure, [handle(policy) for policy in policies], policies)


def legend(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Beside the panels."""
    figure.legend(
        handles, labels, loc="outside right upper", frameon=False, fontsize=10, handlelength=2.6
    )


def grid(axes: Any, axis: str = "both") -> None:
    """Behind the data."""
    axes.grid(True, axis=axis, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
