from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from preble_plugin.cli.main import main

pyplot = pytest.importorskip("matplotlib.pyplot")

SMALL = ("simulate", "--requests", "100", "--replicas", "2")


def drawn(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Of each picture its width, height, and the colours in it."""
    found = {}
    for path in directory.iterdir():
        pixels = np.round(pyplot.imread(path)[..., :3] * 9).astype(int)
        colours = np.unique(pixels @ [100, 10, 1])
        found[path.name] = (pixels.shape[1], pixels.shape[0], len(colours))
    return found


def test_pictures_are_drawn_of_each_workload(tmp_path: Path) -> None:
    load = ("--workload", "tool,video", "--rate", "2,8", "--policy", "round-robin,e2,oracle,bound")
    assert main([*SMALL, *load, "--plot", str(tmp_path / "pictures")]) == 0
    pictures = drawn(tmp_path / "pictures")
    assert pictures.keys() == {"latency.png", "cached.png", "load-tool.png", "load-video.png"}
    for width, height, colours in pictures.values():
        assert width >= 1200
        assert height >= 400
        assert colours > 20


def test_more_workloads_take_more_panels(tmp_path: Path) -> None:
    load = ("--rate", "4", "--policy", "e2", "--plot", str(tmp_path))
    assert main([*SMALL, *load, "--workload", "tool"]) == 0
    one = drawn(tmp_path)["cached.png"]
    assert main([*SMALL, *load, "--workload", "tool,tool-zipf,hot,unique,agent"]) == 0
    five = drawn(tmp_path)["cached.png"]
    assert five[0] > one[0]
    assert five[1] > 1.5 * one[1]


def test_a_trace_at_its_own_times_is_drawn(tmp_path: Path) -> None:
    from preble_plugin.sim.trace import write_trace
    from preble_plugin.sim.workloads import make

    trace = tmp_path / "mine.jsonl"
    write_trace(trace, make("hot", requests=60, rate=10, seed=1))
    assert main(["simulate", "--trace", str(trace), "--plot", str(tmp_path / "out")]) == 0
    assert drawn(tmp_path / "out").keys() == {"latency.png", "cached.png", "load-mine.png"}


def test_without_matplotlib_the_remedy_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*SMALL, "--workload", "tool", "--plot", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install 'preble-plugin[simulate]'" in err
    assert list(tmp_path.iterdir()) == []
