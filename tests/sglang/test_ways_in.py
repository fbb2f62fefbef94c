"""Each way to choose placement reaches the processes that place, with its settings.

SGLang parses, resolves and checks here as it does, up to its first child; what
really serves is at the end, and in test_python.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.settings import Settings
from tests.engines import serving
from tests.engines.client import tokens
from tests.engines.preble import Scheduler
from tests.sglang.launching import Launching
from tests.sglang.mode_servers import EMBEDDINGS, TOKENIZERS
from tests.sglang.preble_servers import SglangClient

pytestmark = pytest.mark.sglang
TWO = ("--dp-size", "2")
PREBLE = ("--dp-scheduler", "preble")


@pytest.fixture(scope="module")
def launching() -> Iterator[Launching]:
    with Launching() as process:
        yield process


# --- the command line, YAML, the environment ---


def test_the_flag(launching: Launching) -> None:
    found = launching.ask("serve", [*TWO, *PREBLE, "--dp-scheduler-config", '{"receipts": 5}'])
    assert (found.error, found.settings) == (None, Settings(receipts=5))


def test_the_flag_with_a_file_of_settings(launching: Launching, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"receipts": 6}')
    given = ("--dp-scheduler-config", f"@{tmp_path / 'settings.json'}")
    assert launching.ask("serve", [*TWO, *PREBLE, *given]).settings == Settings(receipts=6)


def test_a_yaml_file(launching: Launching, tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(
        "dp-scheduler: preble\ndp-scheduler-config:\n  policy: round-robin\n  receipts: 8\n"
        "dp-size: 2\n"
    )
    found = launching.ask("serve", ["--config", str(tmp_path / "serve.yaml")])
    assert (found.error, found.settings) == (None, Settings(policy="round-robin", receipts=8))


@pytest.mark.parametrize("way", ["serve", "engine", "record"])
def test_the_environment(launching: Launching, way: str) -> None:
    chosen = {"PREBLE_DP_SCHEDULER": "preble", "PREBLE_CONFIG": '{"receipts": 9}'}
    arguments: Any = TWO if way == "serve" else {"dp_size": 2}
    assert launching.ask(way, arguments, chosen).settings == Settings(receipts=9)


def test_the_flag_wins_over_the_environment(launching: Launching) -> None:
    chosen = {
        "PREBLE_DP_SCHEDULER": "preble",
        "PREBLE_CONFIG": '{"receipts": 9, "window_seconds": 60}',
    }
    own = launching.ask("serve", [*TWO, "--dp-scheduler", "default"], chosen)
    assert (own.method, own.settings) == ("round_robin", None)
    given = ("--dp-scheduler", "auto", "--dp-scheduler-config", '{"receipts": 3}')
    found = launching.ask("serve", [*TWO, *given], chosen)
    assert found.settings == Settings(receipts=3, window_seconds=60)


# --- Python ---


@pytest.mark.parametrize("given", [{"receipts": 3}, '{"receipts": 3}'])
def test_an_engine_from_python(launching: Launching, given: Any) -> None:
    arguments = {"dp_size": 2, "dp_scheduler": "preble", "dp_scheduler_config": given}
    assert launching.ask("engine", arguments).settings == Settings(receipts=3)


def test_python_wins_over_the_environment_key_by_key(launching: Launching) -> None:
    chosen = {
        "PREBLE_DP_SCHEDULER": "default",
        "PREBLE_CONFIG": '{"receipts": 9, "window_seconds": 60}',
    }
    arguments = {"dp_size": 2, "dp_scheduler": "auto", "dp_scheduler_config": {"receipts": 3}}
    found = launching.ask("engine", arguments, chosen)
    assert found.settings == Settings(receipts=3, window_seconds=60)


def test_a_choice_from_python_holds_for_one_engine(launching: Launching) -> None:
    first = {"dp_size": 2, "dp_scheduler": "preble", "dp_scheduler_config": {"receipts": 3}}
    found = launching.ask("engines", [first, {"dp_size": 2}])
    assert (found.error, found.method, found.environment) == (None, "round_robin", {})


def test_two_engines_in_one_process_do_not_share_sockets(launching: Launching) -> None:
    placed = {"dp_size": 2, "dp_scheduler": "preble"}
    found = launching.ask("engines", [placed, placed])
    (first,) = found.earlier
    assert first is not None
    assert found.events is not None
    assert first["endpoint"] != found.events["endpoint"]


# --- what is left alone, and what the ranks are told ---


@pytest.mark.parametrize("way", ["serve", "engine", "record"])
def test_without_a_choice_sglang_is_left_alone(launching: Launching, way: str) -> None:
    arguments: Any = TWO if way == "serve" else {"dp_size": 2}
    found = launching.ask(way, arguments)
    assert (found.method, found.events, found.environment) == ("round_robin", None, {})


def test_events_stay_on_the_machine_and_name_their_tenants(launching: Launching) -> None:
    events = launching.ask("serve", [*TWO, *PREBLE]).events
    assert events is not None
    assert events["endpoint"].startswith("ipc://")
    assert "inproc" in events["endpoint"]
    assert (events["publisher"], events["format"]) == ("zmq", "dynamo")


def test_a_readable_events_configuration_of_the_users_is_kept(launching: Launching) -> None:
    given = {"publisher": "zmq", "endpoint": "tcp://*:7000", "topic": "kv"}
    found = launching.ask("serve", [*TWO, *PREBLE, "--kv-events-config", json.dumps(given)])
    assert (found.events, found.settings) == (given, Settings())


# --- errors ---


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"polcy": "e2"}', "unknown preble setting 'polcy'; did you mean 'policy'"),
        ('{"receipts": "many"}', "preble setting 'receipts' takes a whole number"),
        ("@/nowhere.json", "'/nowhere.json' cannot be read"),
        ("policy=e2", "not JSON"),
    ],
)
def test_settings_that_are_wrong_end_the_command_line(
    launching: Launching, config: str, message: str
) -> None:
    found = launching.ask("serve", [*TWO, *PREBLE, "--dp-scheduler-config", config])
    assert found.error == "SystemExit: 2"
    assert "argument --dp-scheduler-config: " in found.said
    assert message in found.said


@pytest.mark.parametrize("scheduler", ["preble", "auto"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"polcy": 1}, "unknown preble setting 'polcy'"),
        ("{", "not JSON"),
        ({"policy": "no-such"}, "preble setting 'policy': "),
        ({"receipts": -1}, "'receipts' takes a whole number from 0"),
    ],
)
def test_settings_that_are_wrong_are_refused_from_python(
    launching: Launching, scheduler: str, config: Any, message: str
) -> None:
    arguments = {"dp_size": 2, "dp_scheduler": scheduler, "dp_scheduler_config": config}
    found = launching.ask("engine", arguments)
    assert found.error is not None
    assert found.error.startswith("SettingsError: ")
    assert message in found.error


def test_a_policy_that_does_not_exist_is_refused(launching: Launching) -> None:
    given = ("--dp-scheduler-config", '{"policy": "no-such"}')
    found = launching.ask("serve", [*TWO, *PREBLE, *given])
    assert found.error is not None
    assert found.error.startswith("SettingsError: preble setting 'policy': ")


def test_a_scheduler_that_does_not_exist_is_refused(launching: Launching) -> None:
    flag = launching.ask("serve", [*TWO, "--dp-scheduler", "prebel"])
    assert "argument --dp-scheduler: invalid choice: 'prebel'" in flag.said
    assert flag.error == "SystemExit: 2"
    python = launching.ask("engine", {"dp_size": 2, "dp_scheduler": "prebel"})
    environment = launching.ask("serve", TWO, {"PREBLE_DP_SCHEDULER": "prebel"})
    takes = "takes one of default, preble, auto, got 'prebel'"
    assert python.error == f"SettingsError: dp_scheduler {takes}"
    assert environment.error == f"SettingsError: PREBLE_DP_SCHEDULER {takes}"


# --- what really serves ---


@serving(TOKENIZERS)
def test_the_example_serves_with_placement(server: SglangServer) -> None:
    """`sglang serve MODEL --config examples/sglang/preble.yaml`."""
    client, scheduler = SglangClient(server), Scheduler()
    before = server.metrics().total("preble:placements_total")
    found = [client.complete(tokens(940, 320)) for _ in range(2)]
    receipts = [scheduler.receipt(one["id"]) for one in found]
    assert [one.predicted_cached_tokens for one in receipts] == [0, 304]
    assert len({one.replica for one in receipts}) == 1
    assert server.metrics().total("preble:placements_total") == before + 2


@serving(EMBEDDINGS)
def test_a_choice_in_the_environment_serves_with_its_settings(server: SglangServer) -> None:
    scheduler = Scheduler()
    assert "requests are placed by preble (policy e2) on ranks [0, 1]" in server.log_text()
    assert scheduler.status().policy == "e2"
