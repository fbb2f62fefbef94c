"""Our keys among the arguments of a launch. What needs SGLang is in tests/sglang."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import pytest

from preble_plugin.adapter.refusals import CannotWork
from preble_plugin.settings import Settings, SettingsError
from preble_plugin.sglang_ext import launch, launch_env
from preble_plugin.sglang_ext.facts import LaunchFacts


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("DP_SCHEDULER", "CONFIG", "LAUNCH")
    for name in (f"PREBLE_{one}" for one in ours):
        monkeypatch.setenv(name, "")  # restored, whatever is written
        monkeypatch.delenv(name)


def read() -> NoReturn:
    pytest.fail("the record was read")


def decided(note: str | None, method: str = "auto") -> Any:
    """What is decided where the record need not be read."""
    return launch.decide(read, method, note)


def test_keys_of_ours_are_taken_out_and_no_others() -> None:
    arguments = {"dp_size": 2, "dp_scheduler": "preble", "dp_scheduler_config": {"receipts": 7}}
    launch.take_keys(arguments)
    assert arguments == {"dp_size": 2}


def test_a_second_time_there_is_nothing_to_take() -> None:
    arguments: dict[str, Any] = {"dp_size": 2}
    launch.take_keys(arguments)
    assert arguments == {"dp_size": 2}


@pytest.mark.parametrize("method", [None, "auto", "round_robin", "total_tokens"])
def test_other_methods_stay(method: str | None) -> None:
    arguments = {"load_balance_method": method, "dp_scheduler": "preble"}
    launch.take_keys(arguments)
    assert arguments == {"load_balance_method": method}


def test_without_a_choice_nothing_is_done() -> None:
    assert decided(launch.take_keys({"dp_size": 2})) == {}
    assert decided(None) == {}


def test_the_default_is_a_choice_that_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "preble")
    assert decided(launch.take_keys({"dp_scheduler": "default"})) == {}


def test_what_an_earlier_launch_told_is_cleared() -> None:
    launch_env.export(launch_env.Launch(Settings()))
    decided(None)
    assert launch_env.read(os.environ) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"dp_scheduler": "best"},
            "dp_scheduler takes one of default, preble, auto, got 'best'",
        ),
        ({"dp_scheduler": "preble", "dp_scheduler_config": {"windw": 3}}, "windw"),
        ({"dp_scheduler": "preble", "dp_scheduler_config": "{"}, "not JSON"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        launch.take_keys(given)


def test_an_encoder_places_nothing() -> None:
    with pytest.raises(CannotWork, match="with --encoder-only there are none"):
        launch.take_keys({"encoder_only": True, "dp_scheduler": "preble"})
    launch.take_keys({"encoder_only": True})


def test_under_auto_an_encoder_starts_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    launch.take_keys({"encoder_only": True, "dp_scheduler": "auto"})
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_under_auto_a_fault_leaves_the_server_to_sglang(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> LaunchFacts:
        raise OSError("no record")

    note = launch.take_keys({"dp_scheduler": "auto"})
    assert launch.decide(fail, "auto", note) == {}
    assert len(caplog.records) == 1
    assert launch_env.read(os.environ) is None
