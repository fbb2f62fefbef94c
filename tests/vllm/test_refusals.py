"""What cannot work is refused by a sentence with its remedy, before any model
loads; under `auto` it is vLLM's own dispatch, with one warning.

The real `vllm serve` parses its arguments and builds its configuration here.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.contract import CONTRACT
from preble_plugin.vllm_ext.placement import dispatch_for
from preble_plugin.vllm_ext.plan import plan_of
from tests.contracts.renamed import renamed
from tests.engines import TINY_MODEL, EngineRoom, Serving
from tests.vllm.serve_config import clean_process, engine_args, serve_config

pytestmark = pytest.mark.vllm


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_process(monkeypatch)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    """What we write into vLLM's log; vLLM sets its own up while it configures."""
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(hooks.logger(), "handle", records.append)
    return records


PREBLE = ("--dp-scheduler", "preble")
AUTO = ("--dp-scheduler", "auto")
REFUSED = [
    (
        ("--dp-scheduler-config", '{"local_queue": "off"}'),
        {"size": 1},
        r"one rank, whose local queue is off: set --data-parallel-size to 2 or more",
    ),
    (("--no-enable-prefix-caching",), {"size": 1}, r"prefix caching and it is off: set --enable"),
    (("--no-enable-prefix-caching",), {}, r"prefix caching and it is off: set --enable-prefix"),
    (
        ("--kv-events-config", '{"enable_kv_cache_events": false, "publisher": "null"}'),
        {},
        r"--kv-events-config does not publish events: leave it out, or set",
    ),
    (
        ("--kv-events-config", '{"enable_kv_cache_events": true, "publisher": "null"}'),
        {},
        r"does not publish events",
    ),
    (
        (
            "--kv-events-config",
            '{"enable_kv_cache_events": true, "endpoint": "tcp://collector:5557"}',
        ),
        {},
        r"publishes to tcp://collector:5557 instead of binding an address",
    ),
    (
        ("--kv-events-config", '{"enable_kv_cache_events": true, "endpoint": "ipc:///tmp/kv"}'),
        {},
        r"has one ipc path for all ranks",
    ),
    (
        ("--kv-events-config", '{"enable_kv_cache_events": true, "endpoint": "inproc://kv"}'),
        {},
        r"publishes to inproc://kv instead of binding an address",
    ),
    (
        ("--data-parallel-size-local", "1", "--data-parallel-hybrid-lb"),
        {},
        r"each rank has its own API server: leave out --data-parallel-external-lb",
    ),
]


@pytest.mark.parametrize(("arguments", "more", "message"), REFUSED)
def test_what_cannot_work_is_refused(
    arguments: tuple[str, ...],
    more: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vllm.config.ModelConfig.is_moe", True)  # lets external LB pass
    with pytest.raises(ValueError, match=message) as refusal:
        serve_config(*PREBLE, *arguments, **more)
    said = str(refusal.value)
    assert said.startswith("--dp-scheduler preble")
    assert said.endswith(".")
    assert "\n" not in said


@pytest.mark.parametrize(("arguments", "more", "message"), REFUSED)
def test_what_cannot_work_is_left_to_vllm_under_auto(
    arguments: tuple[str, ...],
    more: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    told: list[logging.LogRecord],
) -> None:
    monkeypatch.setattr("vllm.config.ModelConfig.is_moe", True)
    given = serve_config("--dp-scheduler", "default", *arguments, **more).kv_events_config
    config = serve_config(*AUTO, *arguments, **more)
    assert (plan_of(config), config.kv_events_config) == (None, given)
    (warning,) = told
    assert warning.levelno == logging.WARNING
    assert warning.getMessage().startswith("vLLM's own dispatch is used. --dp-scheduler preble")


def test_dispatch_in_a_rust_front_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    for local_queue in ("auto", "off"):
        with pytest.raises(ValueError, match=r"Rust front end .*: put `preble serve` in front"):
            serve_config(*PREBLE, "--dp-scheduler-config.local_queue", local_queue)
    off = serve_config(*AUTO, "--dp-scheduler-config.local_queue", "off")
    assert (plan_of(off), off.scheduler_config.scheduler_cls) == (None, None)


@pytest.mark.parametrize(
    "arguments", [AUTO, (*PREBLE, "--dp-scheduler-config.local_queue", "on")], ids=str
)
def test_the_ranks_behind_a_rust_front_end_have_the_local_queue(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, told: list[logging.LogRecord]
) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    config = serve_config(*arguments)
    assert plan_of(config) is None
    assert config.kv_events_config is None
    assert config.scheduler_config.scheduler_cls.endswith(".PrebleScheduler")
    (warning,) = told
    assert warning.getMessage().startswith("vLLM's Rust front end dispatches requests")
    assert "put `preble serve` in front" in warning.getMessage()


# --- versions, and what another plugin does ---


@pytest.mark.parametrize("version", ["0.28.0", "0.34.0", "1.0.0rc1", "0.35.dev7+g12ab"])
@pytest.mark.parametrize("scheduler", [PREBLE, AUTO])
def test_a_version_that_is_not_tested_is_served_and_a_line_says_so(
    scheduler: tuple[str, ...],
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    told: list[logging.LogRecord],
) -> None:
    monkeypatch.setattr(hooks, "version", lambda: version)
    assert plan_of(serve_config(*scheduler)) is not None
    assert [one.getMessage() for one in told] == [
        f"--dp-scheduler preble is tested on vLLM 0.31 to 0.33 and this is {version}: all that is "
        "used of it is as it was there, and it is served."
    ]


@pytest.mark.parametrize("version", ["0.31.3", "0.33.1", "0.32.9+cu130", "0.32.1.post1"])
def test_patch_releases_of_tested_minors_are_tested(
    version: str, monkeypatch: pytest.MonkeyPatch, told: list[logging.LogRecord]
) -> None:
    monkeypatch.setattr(hooks, "version", lambda: version)
    assert plan_of(serve_config(*PREBLE)) is not None
    assert told == []


@pytest.mark.parametrize(
    "name",
    [
        "DPLBAsyncMPClient.abort_requests_async",
        "SpeculativeConfig.use_eagle_block_drop",
        "ZmqEventPublisher._bind",
        "BlockPool.get_cached_block",
    ],
)
def test_a_version_with_one_touch_renamed_is_refused_by_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, told: list[logging.LogRecord]
) -> None:
    monkeypatch.setattr(hooks, "version", lambda: "0.34.0")
    (touch,) = [one for one in CONTRACT if one.name == name]
    serve_config()  # what vLLM imports for it, it has imported
    with renamed(touch):
        with pytest.raises(ValueError, match=rf"relies on {touch} of vLLM, and in 0\.34\.0 it"):
            serve_config(*PREBLE)
        assert plan_of(serve_config(*AUTO)) is None
    (warning,) = told
    assert warning.getMessage().startswith("vLLM's own dispatch is used. --dp-scheduler preble rel")


@pytest.fixture
def another_plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Puts a `create_engine_config` of its own in the place of ours; it may call ours."""
    from vllm.engine.arg_utils import EngineArgs

    engine_args()  # its plugins are loaded
    ours = EngineArgs.create_engine_config
    own = inspect.unwrap(ours)

    def replace(calls_ours: bool) -> None:
        before = ours if calls_ours else own
        monkeypatch.setattr(
            EngineArgs, "create_engine_config", lambda self, *args, **more: before(self, **more)
        )

    return replace


def test_a_replaced_create_engine_config_is_an_error_or_a_warning(
    another_plugin: Callable[[bool], None], told: list[logging.LogRecord]
) -> None:
    another_plugin(False)
    said = r"create_engine_config makes, and tests\..*<lambda> was put in its place: leave out the"
    with pytest.raises(ValueError, match=said):
        serve_config(*PREBLE)
    given = json.dumps({"dp_scheduler": "preble"})
    with pytest.raises(ValueError, match=said):
        serve_config("--dp-scheduler", "default", "--additional-config", given)
    assert told == []
    assert plan_of(serve_config(*AUTO)) is None
    (warning,) = told
    assert re.search("vLLM's own dispatch is used. --dp-scheduler.*" + said, warning.getMessage())
    serve_config("--dp-scheduler", "default")
    assert len(told) == 1


def test_a_create_engine_config_around_ours_is_no_fault(
    another_plugin: Callable[[bool], None], told: list[logging.LogRecord]
) -> None:
    another_plugin(True)
    assert plan_of(serve_config(*PREBLE)) is not None
    assert told == []


@pytest.mark.parametrize("scheduler", [PREBLE, AUTO])
def test_a_replaced_client_is_an_error_or_a_warning(
    scheduler: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, told: list[logging.LogRecord]
) -> None:
    from vllm.v1.engine import core_client

    class Theirs:
        """Another plugin's client."""

        def __init__(self, vllm_config: Any, *args: Any, **more: Any) -> None:
            self.vllm_config = vllm_config
            self.shut = False

        def shutdown(self) -> None:
            self.shut = True

    config = serve_config(*scheduler)
    monkeypatch.setattr(core_client, "DPLBAsyncMPClient", Theirs)
    make = core_client.EngineCoreClient.make_async_mp_client
    said = "in DPLBAsyncMPClient, and tests.vllm.test_refusals.test_a_replaced_client"
    if scheduler is PREBLE:
        with pytest.raises(ValueError, match=said):
            make(config, None, False)
        assert told == []
    else:
        assert not make(config, None, False).shut
        (warning,) = told
        assert said in warning.getMessage()
    assert make(serve_config("--dp-scheduler", "default"), None, False).shut is False


@pytest.mark.parametrize("auto", [False, True])
def test_a_front_end_that_does_not_come_up_is_an_error_or_a_warning(
    auto: bool, told: list[logging.LogRecord]
) -> None:
    """Its engines tell nothing that it could use."""
    config = serve_config(*(AUTO if auto else PREBLE))
    client = SimpleNamespace(vllm_config=config)
    if auto:
        assert dispatch_for(client) is None
        (warning,) = told
        assert "could not start: AttributeError" in warning.getMessage()
    else:
        with pytest.raises(ValueError, match="preble could not start: AttributeError"):
            dispatch_for(client)


# --- settings ---


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"polcy": "e2"}', r"unknown preble setting 'polcy'; did you mean 'policy'"),
        ('{"receipts": "many"}', r"'receipts' takes a whole number"),
        ("@/nowhere.json", r"'/nowhere.json' cannot be read"),
        ("policy=e2", r"not JSON"),
    ],
)
@pytest.mark.parametrize("scheduler", [PREBLE, AUTO])
def test_settings_that_are_wrong_end_the_command_line(
    scheduler: tuple[str, ...],
    config: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        serve_config(*scheduler, "--dp-scheduler-config", config)
    assert re.search(r"argument --dp-scheduler-config: .*" + message, capsys.readouterr().err)


@pytest.mark.parametrize("scheduler", ["preble", "auto"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dp_scheduler_config": {"polcy": 1}}, r"unknown preble setting 'polcy'"),
        ({"dp_scheduler_config": "{"}, r"not JSON"),
        ({"policy": "no-such"}, r"'policy': .*no-such.*e2"),
        ({"receipts": -1}, r"'receipts' takes a whole number from 0"),
    ],
)
def test_settings_that_are_wrong_are_refused_from_python(
    scheduler: str, more: dict[str, Any], message: str
) -> None:
    given = json.dumps({"dp_scheduler": scheduler, **more})
    with pytest.raises(ValueError, match=message):
        serve_config("--additional-config", given)


@pytest.mark.parametrize("name", ["best", "", 3])
def test_a_scheduler_that_does_not_exist_is_refused(name: object) -> None:
    given = json.dumps({"dp_scheduler": name})
    with pytest.raises(ValueError, match=r"takes one of default, preble, auto, got"):
        serve_config("--additional-config", given)


def test_the_environment_is_checked_like_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "prebel")
    with pytest.raises(ValueError, match=r"PREBLE_DP_SCHEDULER takes one of .*, got 'prebel'"):
        serve_config()


def test_a_run_directory_that_others_can_use_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("PREBLE_RUN_DIR", str(tmp_path / "open"))
    with pytest.raises(ValueError, match=r"others can use it .*set PREBLE_RUN_DIR"):
        serve_config(*PREBLE)


def test_an_api_server_without_its_scheduler_process_is_refused() -> None:
    from vllm import AsyncEngineArgs

    args = AsyncEngineArgs(
        model=str(TINY_MODEL),
        data_parallel_size=2,
        max_model_len=2048,
        additional_config={"dp_scheduler": "preble"},
    )
    args._api_process_count, args._api_process_rank = 2, 1
    with pytest.raises(ValueError, match=r"found no scheduler process .* start the API servers by"):
        args.create_engine_config()


def test_the_real_command_ends_with_the_sentence_before_any_engine_starts(
    engine_room: EngineRoom,
) -> None:
    said = engine_room.refused(Serving(flags=(*PREBLE, "--no-enable-prefix-caching")))
    assert "CannotWork: --dp-scheduler preble needs prefix caching and it is off" in said
    assert "EngineCore" not in said
