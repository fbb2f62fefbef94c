"""What the choice makes of an engine's configuration, for each way in and each
layout of ranks. No model is loaded."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from preble_plugin.service.environment import SCHEDULER_ADDRESS
from preble_plugin.settings import Settings
from preble_plugin.vllm_ext import hooks, prepare
from preble_plugin.vllm_ext.plan import Plan, plan_of
from tests.engines.preble import RUN_DIR, until
from tests.vllm.serve_config import (
    CONFIG_RUN_DIR,
    clean_process,
    engine_args,
    serve_config,
)

pytestmark = pytest.mark.vllm
PREBLE = ("--dp-scheduler", "preble")
CONFIG = ("--dp-scheduler-config",)
PLAIN = "preble_plugin.vllm_ext.schedulers.PrebleScheduler"


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_process(monkeypatch)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What we write into vLLM's log."""
    records: list[str] = []

    def handle(record: logging.LogRecord) -> None:
        records.append(record.getMessage())

    monkeypatch.setattr(hooks.logger(), "handle", handle)
    return records


def scheduler_of(config: Any) -> Any:
    return config.scheduler_config.scheduler_cls


def planned(config: Any) -> Plan:
    plan = plan_of(config)
    assert plan is not None
    return plan


# --- ways in ---


def test_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    config = serve_config(*PREBLE, "--dp-scheduler-config", '{"receipts": 7}')
    assert planned(config).settings == Settings(receipts=7)


def test_a_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text(
        "dp-scheduler: preble\ndp-scheduler-config:\n  policy: round-robin\n"
    )
    config = serve_config("--config", str(tmp_path / "serve.yaml"))
    assert planned(config).settings == Settings(policy="round-robin")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "preble")
    monkeypatch.setenv("PREBLE_CONFIG", '{"receipts": 9}')
    assert planned(serve_config()).settings == Settings(receipts=9)


@pytest.mark.parametrize(
    "given",
    [
        {"dp_scheduler": "preble", "dp_scheduler_config": {"receipts": 3}},
        {"dp_scheduler": "preble", "dp_scheduler_config": '{"receipts": 3}'},
        {"dp_scheduler": "preble", "receipts": 3},
    ],
)
def test_python(given: dict[str, Any]) -> None:
    args = engine_args("--additional-config", json.dumps({**given, "other": 1}))
    config = args.create_engine_config()
    assert planned(config).settings == Settings(receipts=3)
    assert config.additional_config == {"other": 1}
    assert planned(args.create_engine_config()).settings == Settings(receipts=3)


def test_python_wins_over_the_environment_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "default")
    monkeypatch.setenv("PREBLE_CONFIG", '{"receipts": 9, "window_seconds": 60}')
    given = {"dp_scheduler": "auto", "receipts": 3}
    config = serve_config("--additional-config", json.dumps(given))
    assert planned(config).settings == Settings(receipts=3, window_seconds=60)


def test_the_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "preble")
    monkeypatch.setenv("PREBLE_CONFIG", '{"receipts": 9, "window_seconds": 60}')
    assert plan_of(serve_config("--dp-scheduler", "default")) is None
    config = serve_config("--dp-scheduler", "auto", "--dp-scheduler-config.receipts", "3")
    assert planned(config).settings == Settings(receipts=3, window_seconds=60)


def test_without_a_choice_the_configuration_and_the_client_are_vllms_own() -> None:
    from vllm.v1.engine import core_client

    own = core_client.DPLBAsyncMPClient
    config = serve_config()
    assert (plan_of(config), config.kv_events_config) == (None, None)
    assert core_client.DPLBAsyncMPClient is own


def test_of_an_offline_engine_the_queue_alone_is_ours(
    monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    from vllm.usage.usage_lib import UsageContext

    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "preble")
    config = engine_args(size=1).create_engine_config(UsageContext.LLM_CLASS)
    assert (plan_of(config), config.kv_events_config) == (None, None)
    assert (scheduler_of(config), told) == (PLAIN, [])


@pytest.mark.parametrize("given", [["--no-enable-prefix-caching"], [*CONFIG, '{"shadow": true}']])
def test_an_offline_engine_without_the_queue_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, told: list[str], given: list[str]
) -> None:
    from vllm.usage.usage_lib import UsageContext

    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "preble")
    config = engine_args(*given, size=1).create_engine_config(UsageContext.LLM_CLASS)
    assert (plan_of(config), scheduler_of(config)) == (None, None)
    assert told == [
        "LLM(...) does not dispatch among data-parallel ranks and the local queue is off: "
        "dp_scheduler has no effect."
    ]


def test_a_fault_of_ours_at_start_up_is_left_to_vllm_under_auto(
    monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    def broken(_: object) -> bool:
        raise RuntimeError("no topology")

    monkeypatch.setattr(hooks, "topology", broken)
    assert plan_of(serve_config("--dp-scheduler", "auto")) is None
    assert told == [
        "vLLM's own dispatch is used. preble could not start: RuntimeError('no topology')"
    ]
    with pytest.raises(RuntimeError, match="no topology"):
        serve_config(*PREBLE)


def test_the_plan_goes_with_its_configuration() -> None:
    config = serve_config(*PREBLE)
    key = id(config)
    planned(config)
    del config
    __import__("gc").collect()
    from preble_plugin.vllm_ext import plan

    assert key not in plan._plans


# --- the local queue ---


@pytest.mark.parametrize("size", [1, 2])
def test_the_ranks_get_the_local_queue(size: int, told: list[str]) -> None:
    assert (scheduler_of(serve_config(*PREBLE, size=size)), told) == (PLAIN, [])


def test_the_ranks_of_a_headless_node_get_it_too() -> None:
    assert scheduler_of(serve_config(*PREBLE, *ACROSS, headless=True)) == PLAIN


def test_under_async_scheduling_the_ranks_get_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    config = serve_config()
    config.scheduler_config.async_scheduling = True
    prepare.prepare(config, Settings(), auto=False, headless=False, offline=False)
    assert scheduler_of(config) == "preble_plugin.vllm_ext.schedulers.PrebleAsyncScheduler"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('{"local_queue": "off"}', None),
        ('{"local_queue": "on"}', PLAIN),
        ('{"shadow": true}', None),
        ('{"shadow": true, "local_queue": "on"}', PLAIN),
    ],
)
def test_the_local_queue_can_be_chosen(settings: str, expected: str | None) -> None:
    config = serve_config(*PREBLE, *CONFIG, settings)
    assert (scheduler_of(config), plan_of(config) is None) == (expected, False)


def test_of_one_rank_the_queue_alone_is_ours() -> None:
    from vllm.v1.engine import core_client

    own = core_client.DPLBAsyncMPClient
    config = serve_config(*PREBLE, size=1)
    assert (plan_of(config), config.kv_events_config) == (None, None)
    assert core_client.DPLBAsyncMPClient is own


@pytest.mark.parametrize("size", [1, 2])
def test_a_scheduler_class_of_the_users_is_left_alone(size: int, told: list[str]) -> None:
    theirs = "vllm.v1.core.sched.scheduler.Scheduler"
    config = serve_config(*PREBLE, "--scheduler-cls", theirs, size=size)
    assert scheduler_of(config) == theirs
    assert told == [f"the local queue is off: the scheduler class {theirs} is left in its place."]
    assert (plan_of(config) is None) == (size == 1)


def test_without_a_choice_the_scheduler_is_vllms_own() -> None:
    assert scheduler_of(serve_config()) is None


# --- where events go ---


def test_events_stay_on_the_machine_when_all_ranks_do(told: list[str]) -> None:
    config = serve_config(*PREBLE)
    events = config.kv_events_config
    assert (events.enable_kv_cache_events, events.publisher) == (True, "zmq")
    assert events.endpoint.startswith(f"ipc://{CONFIG_RUN_DIR}/events/")
    assert events.replay_endpoint.startswith(f"ipc://{CONFIG_RUN_DIR}/events/")
    assert hooks.rank_endpoint(events.endpoint, 1) == f"{events.endpoint}_dp1"
    assert told == []


def test_two_engines_in_one_process_do_not_share_sockets() -> None:
    first, second = serve_config(*PREBLE), serve_config(*PREBLE)
    assert first.kv_events_config.endpoint != second.kv_events_config.endpoint


def test_hybrid_balancing_keeps_events_on_each_node() -> None:
    layout = ("--data-parallel-size-local", "2", "--data-parallel-start-rank", "2")
    config = serve_config(*PREBLE, *layout, size=4)
    assert config.kv_events_config.endpoint.startswith("ipc://")
    assert planned(config).topology.one_node


ACROSS = ("--data-parallel-size-local", "1", "--data-parallel-address", "127.0.0.1")


@pytest.mark.parametrize("headless", [False, True])
def test_across_nodes_events_use_ports_and_a_warning_says_so(
    told: list[str], headless: bool
) -> None:
    config = serve_config(*PREBLE, *ACROSS, headless=headless)
    events = config.kv_events_config
    assert (events.endpoint, events.replay_endpoint) == ("tcp://*:0", "tcp://*:0")
    assert (plan_of(config) is None) == headless
    (warning,) = told
    assert "unauthenticated" in warning
    assert "docs/security.md" in warning


@pytest.mark.parametrize("endpoint", ["tcp://*:7000", "tcp://[::]:7000", "ipc:///tmp/inproc-x"])
def test_a_readable_events_configuration_of_the_users_is_kept(endpoint: str) -> None:
    given = {"enable_kv_cache_events": True, "endpoint": endpoint, "topic": "kv"}
    config = serve_config(*PREBLE, "--kv-events-config", json.dumps(given))
    assert config.kv_events_config.endpoint == endpoint
    assert planned(config).events == hooks.events_config(config)


# --- several API servers ---


def test_the_parent_starts_one_scheduler_process_and_its_children_find_it() -> None:
    args = engine_args(*PREBLE)
    args._api_process_count, args._api_process_rank = 2, -1
    try:
        config = args.create_engine_config()
        (scheduler,) = prepare._kept
        assert plan_of(config) is None
        assert scheduler.directory is not None
        directory = scheduler.directory.path
        assert os.environ[SCHEDULER_ADDRESS] == f"ipc://{directory}/scheduler.sock"
        args._api_process_rank = 1
        child = args.create_engine_config()
        assert planned(child).scheduler_address == os.environ[SCHEDULER_ADDRESS]
        assert child.kv_events_config == config.kv_events_config
        assert child.kv_events_config.endpoint.startswith(f"ipc://{directory}/")
        assert prepare._kept == [scheduler]
    finally:
        while prepare._kept:
            prepare._kept.pop().stop()


def test_only_the_parent_of_several_api_servers_warns(told: list[str]) -> None:
    args = engine_args("--dp-scheduler", "auto", "--no-enable-prefix-caching")
    args._api_process_count, args._api_process_rank = 2, -1
    args.create_engine_config()
    assert len(told) == 1
    for args._api_process_rank in (0, 1):
        args.create_engine_config()
    assert len(told) == 1


def test_the_scheduler_process_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "import sys, time\n"
        "from tests.vllm.serve_config import engine_args\n"
        "args = engine_args('--dp-scheduler', 'preble')\n"
        "args._api_process_count, args._api_process_rank = 2, -1\n"
        "args.create_engine_config()\n"
        "from preble_plugin.vllm_ext import prepare\n"
        "print('\\nPID', prepare._kept[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PREBLE_TEST_RUN_DIR": str(RUN_DIR)}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    try:
        pid = next(int(line[4:]) for line in parent.stdout if line.startswith("PID "))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: Path(f"/proc/{pid}").exists(), lambda there: not there)
