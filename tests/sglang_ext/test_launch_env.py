from __future__ import annotations

import os

import pytest

from preble_plugin.settings import Settings
from preble_plugin.sglang_ext.launch_env import Launch, clear, export, read


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that a test may write to."""
    mine = {"PATH": "/bin"}
    monkeypatch.setattr(os, "environ", mine)
    return mine


@pytest.mark.parametrize(
    "launch",
    [
        Launch(Settings(receipts=7, policy="round-robin"), "ipc:///run/outcomes", auto=True),
        Launch(Settings(), queue=True),
    ],
)
def test_what_is_told_is_read(launch: Launch) -> None:
    export(launch)
    assert read(os.environ) == launch


def test_the_last_launch_counts() -> None:
    export(Launch(Settings(receipts=7), "ipc:///one", queue=True))
    export(Launch(Settings(), "ipc:///two"))
    assert read(os.environ) == Launch(Settings(), "ipc:///two")


def test_what_is_cleared_is_gone_and_nothing_else(environment: dict[str, str]) -> None:
    before = dict(environment)
    export(Launch(Settings()))
    clear()
    clear()
    assert (read(os.environ), environment) == (None, before)
