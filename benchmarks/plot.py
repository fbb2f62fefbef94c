"""Cost of a placement against tokens, tree size and replicas, beside Dynamo's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Row = dict[str, Any]
MIDDLE = {"tokens": 2_048, "blocks": 100_000, "replicas": 8}
AXES = {"tokens": "tokens of the prompt", "blocks": "resident blocks", "replicas": "replicas"}


def plot(rows: list[Row], path: Path) -> bool:
    """Write the picture; False where there is nothing to show or to draw with."""
    rows = [row for row in rows if row["what"] == "place" and row["block"] == 16]
    try:
        import matplotlib
    except ImportError:
        return False
    if not rows:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(AXES), figsize=(11, 3.4), sharey=True)
    for axis, (field, label) in zip(axes, AXES.items(), strict=True):
        for shape, colour in (("shallow", "C0"), ("deep", "C1"), ("hot", "C2")):
            line = sorted(
                (row for row in rows if row["tree"] == shape and _at_middle(row, field)),
                key=lambda row: int(row[field]),
            )
            places = [row[field] for row in line]
            axis.plot(places, [row["p50_us"] for row in line], "o-", color=colour, label=shape)
            if any(row["dynamo_p50_us"] for row in line):
                theirs = [row["dynamo_p50_us"] for row in line]
                axis.plot(places, theirs, "x--", color=colour, label=f"{shape}, Dynamo's find")
        axis.set_xscale("log")
        axis.set_yscale("log")
        values = sorted({int(row[field]) for row in rows if _at_middle(row, field)})
        axis.set_xticks(values, [f"{value:,}" for value in values])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_yticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    axes[0].set_ylabel("until the answer, p50, microseconds")
    axes[0].legend(fontsize=7)
    figure.suptitle("2,048 tokens, 100,000 blocks of 16, 8 replicas, one of them varied")
    figure.tight_layout()
    figure.savefig(path, dpi=140)
    return True


def _at_middle(row: Row, varied: str) -> bool:
    return all(row[field] == value for field, value in MIDDLE.items() if field != varied)
