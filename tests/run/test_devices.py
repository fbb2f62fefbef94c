"""Which devices there are, and whose they are."""

from __future__ import annotations

import sys

import pytest

from preble_plugin.run.devices import Devices, visible
from preble_plugin.run.flags import RunError


@pytest.mark.parametrize(
    ("environment", "names", "variable"),
    [
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, ("3", "5"), "CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a, MIG-b"}, ("GPU-a", "MIG-b"), "CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": ""}, (), "CUDA_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, (), "CUDA_VISIBLE_DEVICES"),
        ({"HIP_VISIBLE_DEVICES": "0,1"}, ("0", "1"), "HIP_VISIBLE_DEVICES"),
    ],
)
def test_the_environment_names_them(
    environment: dict[str, str], names: tuple[str, ...], variable: str
) -> None:
    found = visible(environment, ask=("/nowhere",))
    assert (found.names, found.variable) == (names, variable)


def says(words: str) -> list[str]:
    return [sys.executable, "-S", "-c", f"print({words!r})"]


@pytest.mark.parametrize(
    ("words", "found"),
    [("cuda 2", Devices("cuda", ("0", "1"))), ("a warning\ncpu 0", Devices())],
)
def test_else_they_are_counted(words: str, found: Devices) -> None:
    assert visible({}, ask=says(words)) == found


@pytest.mark.parametrize("ask", [["/nowhere"], says(""), says("cuda many")])
def test_where_they_cannot_be_counted_the_remedy_is_named(ask: list[str]) -> None:
    with pytest.raises(RunError, match="set CUDA_VISIBLE_DEVICES"):
        visible({}, ask=ask)


def test_each_replica_has_its_own() -> None:
    devices = Devices("cuda", ("3", "5", "7", "9"), "HIP_VISIBLE_DEVICES")
    assert [devices.share(place, 2) for place in (0, 1)] == [
        {"HIP_VISIBLE_DEVICES": "3,5"},
        {"HIP_VISIBLE_DEVICES": "7,9"},
    ]
    assert Devices().share(5, 2) == {}


def test_a_kind_that_cannot_be_dealt_out_is_refused() -> None:
    with pytest.raises(RunError, match="devices of the kind 'xpu'"):
        Devices("xpu", ("0",)).share(0, 1)
