from __future__ import annotations

import os

import pytest

from preble_plugin.settings import Settings
from preble_plugin.sglang_ext import word


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that a test may write to."""
    mine = {"PATH": "/bin"}
    monkeypatch.setattr(os, "environ", mine)
    return mine


def test_what_is_left_is_found() -> None:
    word.leave(Settings(receipts=7, policy="round-robin"), "ipc:///run/outcomes")
    found = word.left(os.environ)
    assert found == (Settings(receipts=7, policy="round-robin"), "ipc:///run/outcomes")


def test_the_word_of_the_last_launch_counts() -> None:
    word.leave(Settings(receipts=7), "ipc:///one")
    word.leave(Settings(), "ipc:///two")
    assert word.left(os.environ) == (Settings(), "ipc:///two")


def test_the_local_queue_is_a_word_of_its_own() -> None:
    word.leave(Settings(), "ipc:///one")
    assert not word.queue_left(os.environ)
    word.take_back()
    word.leave_queue()
    assert word.queue_left(os.environ)
    assert word.left(os.environ) is None


def test_what_is_taken_back_is_gone_and_nothing_else(environment: dict[str, str]) -> None:
    before = dict(environment)
    word.leave(Settings(receipts=7), "ipc:///run/outcomes")
    word.leave_queue()
    word.take_back()
    word.take_back()
    assert (word.left(os.environ), environment) == (None, before)


def test_without_a_word_nothing_is_found() -> None:
    assert word.left({}) is None
