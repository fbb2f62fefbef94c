"""What `sglang_ext/hooks.py` relies on, in an SGLang.

1. Each touch of the contract, by its name: the test that fails says what moved.
2. What no declaration can say: what `hooks` makes of SGLang's own objects. What can be
   called without a model is called; the rest is read.

Run on several versions by `other_versions.py`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import zmq

from preble_plugin.adapter.contract import Touch, verify
from preble_plugin.adapter.refusals import CannotWork
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.settings import Settings
from preble_plugin.sglang_ext import controller as takes_over
from preble_plugin.sglang_ext import hooks, launch, launch_env
from preble_plugin.sglang_ext.contract import CONTRACT
from preble_plugin.sglang_ext.facts import End
from preble_plugin.sglang_ext.known import SGLANG
from preble_plugin.sglang_ext.outcomes import Outcomes
from tests.contracts.renamed import refusal
from tests.engines import TINY_MODEL, TINY_QWEN3
from tests.engines.tiny_qwen3 import make_tiny_qwen3

pytestmark = pytest.mark.sglang
MEANT = os.environ.get("PREBLE_CONTRACT_SGLANG")
"""The version that `other_versions.py` put in the way of the one installed."""


def since(patch: int) -> bool:
    """Whether this is 0.5.`patch` or newer."""
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", hooks.version())
    assert numbers is not None
    return tuple(map(int, numbers.groups())) >= (0, 5, patch)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PREBLE_")]:
        monkeypatch.delenv(name)
    for name in ("PREBLE_DP_SCHEDULER", "PREBLE_CONFIG", "PREBLE_LAUNCH"):
        monkeypatch.setenv(name, "")  # restored, whatever is written
        monkeypatch.delenv(name)
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("PREBLE_RUN_DIR", str(base))
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SGLANG_RUST_SERVER", raising=False)


@pytest.fixture
def engine() -> Any:
    return importlib.import_module(hooks.ENGINE)


@pytest.fixture
def controllers() -> Any:
    return importlib.import_module(hooks.CONTROLLER)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, engine: Any) -> Any:
    """SGLang's hook registry, empty; what hooks are applied to is restored."""
    from sglang.srt.disaggregation.common import conn
    from sglang.srt.managers.schedule_policy import SchedulePolicy
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.managers.scheduler_components import batch_result_processor, output_sender
    from sglang.srt.plugins.hook_registry import HookRegistry
    from sglang.srt.server_args import ServerArgs

    controller = importlib.import_module(hooks.CONTROLLER)
    for owner, *names in (
        (ServerArgs, "add_cli_args", "from_cli_args", "check_server_args"),
        (engine.Engine, "server_args_class"),
        (controller.DataParallelController, "__init__", "event_loop"),
        (output_sender.SenderWrapper, "send_output"),
        (batch_result_processor.SchedulerBatchResultProcessor, "process_batch_result_prefill"),
        (SchedulePolicy, "calc_priority"),
        (Scheduler, "get_new_batch_prefill"),
        (conn.CommonKVSender, "_register_prefill_dp_rank"),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, inspect.getattr_static(owner, name))
    monkeypatch.setattr(HookRegistry, "_hooks", type(HookRegistry._hooks)(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    monkeypatch.setattr(hooks, "_wrapped", {})
    return HookRegistry


@pytest.fixture(scope="session")
def tiny_model() -> str:
    return str(make_tiny_model(TINY_MODEL))


@pytest.fixture(scope="session")
def tiny_qwen3() -> str:
    return str(make_tiny_qwen3(TINY_QWEN3))


@pytest.fixture
def make_record(tiny_model: str) -> Iterator[Callable[..., Any]]:
    """Makes a `ServerArgs`; what is published of one is taken back."""
    from sglang.srt.runtime_context import reset_context
    from sglang.srt.server_args import ServerArgs

    def make(**given: Any) -> Any:
        return ServerArgs(**{**on_a_cpu(tiny_model), **given})

    reset_context()
    yield make
    reset_context()


def on_a_cpu(model: str) -> dict[str, Any]:
    return {
        "model_path": model,
        "device": "cpu",
        "attention_backend": "torch_native",
        "page_size": 16,
        "max_total_tokens": 8192,
        "disable_overlap_schedule": True,
    }


def attention(ranks: int, model: str) -> dict[str, Any]:
    """How DP attention is asked for."""
    return {"model_path": model, "tp_size": ranks, "attn_dp_size": ranks}


def publish(record: Any, role: str = "tokenizer") -> Any:
    """What a process does with the record it gets; the same record."""
    from sglang.srt import runtime_context

    record.resolve_once()
    runtime_context.publish(record, role=role)
    return record


def resolved(record: Any) -> Any:
    from sglang.srt.arg_groups.overrides import resolving_view

    return resolving_view(record)


def balance_method() -> str:
    """As a process has it published."""
    from sglang.srt.runtime_context import get_parallel

    return str(get_parallel().load_balance_method)


def source(thing: Any) -> str:
    return re.sub(r"\s+", " ", inspect.getsource(thing))


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_under_test_is_the_one_meant() -> None:
    from importlib.metadata import version

    assert hooks.version() == (MEANT or version("sglang"))


@pytest.mark.parametrize("touch", CONTRACT, ids=str)
def test_each_touch_holds(touch: Touch) -> None:
    assert touch.fault() is None


@pytest.mark.parametrize("touch", CONTRACT, ids=str)
def test_a_version_with_one_touch_renamed_is_refused_by_its_name(touch: Touch) -> None:
    assert refusal(SGLANG, CONTRACT, touch).endswith(
        ": use SGLang 0.5.22 to 0.5.23, upgrade preble-plugin, or use --dp-scheduler default."
    )


def test_a_version_with_none_renamed_is_served_and_a_line_says_so() -> None:
    assert verify(SGLANG, "0.5.23.post1", CONTRACT) == []
    (line,) = verify(SGLANG, "0.6.0", CONTRACT)
    assert line.startswith("--dp-scheduler preble is tested on SGLang 0.5.22 to 0.5.23 and this is")


# --- processes, logs, the hook registry ---


def test_loaded() -> None:
    code = (
        "import sys, sglang.launch_server, sglang.cli.serve\n"
        f"print([m for m in {(hooks.ENGINE, hooks.CONTROLLER, hooks.SCHEDULER)!r} "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_loaded_in_the_processes_that_are_spawned(controllers: Any) -> None:
    assert hooks.loaded(hooks.CONTROLLER)
    assert controllers.run_scheduler_process.__module__ == hooks.SCHEDULER
    assert controllers.DataParallelController.__module__ == hooks.CONTROLLER


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class in a module, to be wrapped."""

    class Target:
        @classmethod
        def method(cls, number: int) -> int:
            return number

    module = ModuleType("contract_target")
    monkeypatch.setattr(module, "Target", Target, raising=False)
    monkeypatch.setitem(sys.modules, "contract_target", module)
    return Target


METHOD = "contract_target.Target.method"


def test_wrap(registry: Any, target: Any) -> None:
    seen: list[Any] = []

    def before(*args: Any) -> None:
        seen.append(args)

    hooks._wrap(METHOD, before, "BEFORE")
    hooks._wrap(METHOD, before, "BEFORE")
    hooks.apply()
    hooks.apply()
    assert (target.method(7), seen) == (7, [(target, 7)])


def test_wrap_around_a_hook_of_another_plugin(registry: Any, target: Any) -> None:
    from sglang.srt.plugins.hook_registry import HookType

    registry.register(METHOD, lambda original, cls, n: original(cls, n) + 1, HookType.AROUND)
    registry.apply_hooks()
    hooks._wrap(METHOD, lambda original, cls, n: original(cls, n) * 10, "AROUND")
    hooks.apply()
    assert (target.method(7), hooks.missing()) == (80, [])


def test_wrap_within_a_hook_of_another_plugin(registry: Any, target: Any) -> None:
    from sglang.srt.plugins.hook_registry import HookType

    hooks._wrap(METHOD, lambda original, cls, n: original(cls, n) * 10, "AROUND")
    registry.register(METHOD, lambda original, cls, n: original(cls, n) + 1, HookType.AROUND)
    registry.apply_hooks()
    assert (target.method(7), hooks.missing()) == (71, [])


def test_a_hook_that_raises_is_not_caught(registry: Any, target: Any) -> None:
    """So none of ours may, but to refuse."""

    def before(*args: Any) -> None:
        raise ZeroDivisionError

    hooks._wrap(METHOD, before, "BEFORE")
    hooks.apply()
    with pytest.raises(ZeroDivisionError):
        target.method(7)


def test_missing(registry: Any, target: Any) -> None:
    for name in (METHOD, "contract_target.Target.no_such", "no_such_module.Target.method"):
        hooks._wrap(name, lambda *args: None, "BEFORE")
    hooks.apply()
    assert hooks.missing() == ["contract_target.Target.no_such", "no_such_module.Target.method"]


# --- sglang/srt/server_args.py ---


@pytest.fixture
def flags(registry: Any) -> None:
    """What `plugin.register` does in a launching process before it parses."""
    launch.watch()
    hooks.apply()


def parse(model: str, *arguments: str) -> Any:
    from sglang.srt.server_args import prepare_server_args

    on_cpu = ("--device", "cpu", "--attention-backend", "torch_native")
    return prepare_server_args(["--model-path", model, *on_cpu, *arguments])


def test_wrap_cli_args(flags: None) -> None:
    from sglang.srt.server_args import ServerArgs

    assert isinstance(inspect.getattr_static(ServerArgs, "add_cli_args"), staticmethod)
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    assert parser.parse_args(["--model-path", "m", "--dp-scheduler", "auto"]).dp_scheduler == "auto"


@pytest.mark.parametrize("name", ["--dp", "--dp-size", "--data-parallel-size"])
def test_wrap_cli_args_keeps_what_argparse_completes(flags: None, name: str) -> None:
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    given = ["--model-path", "m", "--dp-scheduler", "preble"]
    assert parser.parse_args([*given, name, "3"]).dp_size == 3
    assert parser.parse_args(given).dp_size == 1


def test_wrap_cli_args_leaves_sglangs_own_where_ours_fail(registry: Any) -> None:
    from sglang.srt.server_args import ServerArgs

    def fail(parser: Any) -> None:
        raise argparse.ArgumentError(None, "conflicting option string")

    hooks.wrap_cli_args(fail)
    hooks.apply()
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    assert parser.parse_args(["--model-path", "m"]).model_path == "m"


def test_wrap_from_cli_args(registry: Any, tiny_model: str) -> None:
    def take(arguments: Any) -> str:
        arguments["dp_size"] = 3
        return "noted"

    hooks.wrap_from_cli_args(take)
    hooks.apply()
    record = parse(tiny_model, "--dp-size", "2")
    there = pickle.loads(pickle.dumps(publish(record)))
    assert (resolved(there).dp_size, there._preble_note) == (3, "noted")


def test_noted(make_record: Any) -> None:
    for record in (make_record(), publish(make_record())):
        assert hooks._noted(record, "note") is record
        assert pickle.loads(pickle.dumps(record))._preble_note == "note"


@pytest.mark.parametrize(
    "yaml",
    [
        "dp-scheduler: preble\ndp-scheduler-config:\n  policy: round-robin\n  receipts: 7\n",
        'dp-scheduler: preble\ndp-scheduler-config: \'{"policy": "round-robin", "receipts": 7}\'\n',
    ],
)
def test_the_keys_of_a_yaml_file_arrive(
    flags: None, tiny_model: str, tmp_path: Path, yaml: str
) -> None:
    (tmp_path / "serve.yaml").write_text(f"dp-size: 2\n{yaml}")
    record = parse(tiny_model, "--config", str(tmp_path / "serve.yaml"))
    assert record.dp_size == 2
    assert os.environ["PREBLE_DP_SCHEDULER"] == "preble"
    assert os.environ["PREBLE_CONFIG"] == '{"policy":"round-robin","receipts":7}'


CHANGES = {"load_balance_method": "total_tokens", "kv_events_config": '{"publisher": "zmq"}'}


def checked(record: Any) -> Any:
    """A record after what comes before anything is published or spawned."""
    record.resolve_once()
    record.check_server_args()
    return record


def test_wrap_check(registry: Any, make_record: Any) -> None:
    seen: list[Any] = []

    def decide(read: Callable[[], Any], method: str, note: str | None) -> Any:
        seen.append((read().ranks, method, note))
        return CHANGES

    hooks.wrap_check(decide)
    hooks.apply()
    record = hooks._noted(make_record(dp_size=2, load_balance_method="total_requests"), "note")
    checked(record)
    assert seen == [(2, "total_requests", "note")]
    there = pickle.loads(pickle.dumps(publish(record)))  # as a spawned process gets it
    publish(there, role="dp_controller")
    assert balance_method() == "total_tokens"
    assert resolved(there).kv_events_config == '{"publisher": "zmq"}'


def test_wrap_check_changes_nothing_by_itself(registry: Any, make_record: Any) -> None:
    hooks.wrap_check(lambda read, method, note: {})
    hooks.apply()
    publish(checked(make_record(dp_size=2)))
    assert balance_method() == "round_robin"


def test_wrap_check_passes_a_refusal_on(registry: Any, make_record: Any) -> None:
    def decide(*_: Any) -> Any:
        raise CannotWork("refused")

    hooks.wrap_check(decide)
    hooks.apply()
    with pytest.raises(CannotWork, match="refused"):
        checked(make_record(dp_size=2))


def test_all_ways_in_meet_where_the_record_is_checked(engine: Any) -> None:
    from sglang.srt.entrypoints import http_server
    from sglang.srt.server_args import ServerArgs

    assert parameters(inspect.unwrap(ServerArgs.check_server_args)) == ["self"]
    assert "self._launch_subprocesses(" in source(engine.Engine.__init__)
    assert "Engine._launch_subprocesses(" in source(http_server.launch_server)
    text = source(engine.Engine._launch_subprocesses)
    steps = [
        "server_args.resolve_once()",
        "load_plugins()",
        "server_args.check_server_args()",
        "publish(server_args",
        "_launch_scheduler_processes(",
    ]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert not re.search(r"mp\.Process|\.start\(\)", text[: places[-1]])


def test_all_that_a_launching_process_wraps_is_there(flags: None) -> None:
    assert (len(hooks._wrapped), hooks.missing()) == (3, [])


# --- sglang/srt/entrypoints/engine.py ---


def test_wrap_engine_arguments(registry: Any, engine: Any, tiny_model: str) -> None:
    def take(arguments: Any) -> str:
        return str(arguments.pop("dp_scheduler"))

    hooks.wrap_engine_arguments(take)
    hooks.wrap_engine_arguments(take)
    given = {**on_a_cpu(tiny_model), "dp_size": 2, "dp_scheduler": "preble"}
    record = object.__new__(engine.Engine).server_args_class(**given)
    assert (record.dp_size, record._preble_note) == (2, "preble")


@pytest.fixture
def ray_engine(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """SGLang's `RayEngine`, without Ray."""
    ray = MagicMock()
    for name in ("ray", "ray.util", "ray.util.placement_group", "ray.util.scheduling_strategies"):
        monkeypatch.setitem(sys.modules, name, ray)
    before = set(sys.modules)
    yield importlib.import_module("sglang.srt.ray.engine").RayEngine
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_ray_launches_by_the_same_method(make_record: Any, ray_engine: Any) -> None:
    assert "_launch_subprocesses" not in vars(ray_engine)
    assert hooks.launch_facts(publish(make_record(dp_size=2))).ray


def test_the_controller_is_looked_up_when_its_process_is_made(engine: Any) -> None:
    text = source(engine.Engine._launch_scheduler_processes)
    assert "mp.Process( target=run_data_parallel_controller_process," in text


# --- what is known of a launch ---


def test_launch_facts(make_record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_RUST_SERVER", "1")
    record = publish(
        make_record(dp_size=3, disable_radix_cache=True, kv_events_config='{"publisher": "zmq"}')
    )
    found = hooks.launch_facts(record)
    assert (found.ranks, found.attention_ranks, found.nodes) == (3, 1, 1)
    assert (found.radix_cache, found.rust_server, found.ray) == (False, True, False)
    assert (found.disaggregation, found.elastic) == ("null", False)
    assert (found.schedule_policy, found.diffusion) == ("fcfs", False)
    assert found.events is not None
    assert hooks.launch_facts(publish(make_record(schedule_policy="lpm"))).schedule_policy == "lpm"


def test_launch_facts_of_dp_attention(make_record: Any, tiny_qwen3: str) -> None:
    found = hooks.launch_facts(publish(make_record(**attention(2, tiny_qwen3))))
    assert (found.ranks, found.attention_ranks, found.radix_cache) == (2, 2, True)


def test_launch_facts_are_those_that_are_published(make_record: Any, tiny_qwen3: str) -> None:
    from sglang.srt.runtime_context import get_parallel

    for given in ({"dp_size": 1}, {"dp_size": 2}, attention(2, tiny_qwen3)):
        found = hooks.launch_facts(publish(make_record(**given)))
        parallel = get_parallel()
        assert (found.ranks, found.attention_ranks) == (
            parallel.num_dp_ranks,
            parallel.attn_dp_size,
        )


def test_events_config() -> None:
    assert hooks.events_config(None) is None
    assert hooks.events_config("") is None
    given = '{"publisher": "zmq", "endpoint": "tcp://*:9", "replay_endpoint": "tcp://*:8"}'
    assert hooks.events_config(given) == (True, "zmq", "tcp://*:9", "tcp://*:8", "", True)
    told = hooks.events_config('{"endpoint": "tcp://127.0.0.1:9", "bind": true}')
    assert told is not None
    assert told.binds
    found = hooks.events_config('{"topic": "t", "replay_endpoint": "tcp://*:8", "buffer_steps": 0}')
    assert found == (True, "null", "tcp://*:5557", None, "t", True)


def bound(endpoint: str) -> bool:
    """Whether a socket holds this address."""
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.linger = 0
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            return error.errno == zmq.EADDRINUSE
        return False


def free_port() -> int:
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        return socket.bind_to_random_port("tcp://127.0.0.1")


@pytest.mark.parametrize(
    "host",
    ["tcp://*:{port}", "tcp://0.0.0.0:{port}", "tcp://127.0.0.1:{port}", "inproc://events-{port}"],
)
def test_what_a_publisher_binds(host: str) -> None:
    from sglang.srt.disaggregation.kv_events import EventPublisherFactory

    endpoint = host.format(port=free_port())
    config = f'{{"publisher": "zmq", "endpoint": "{endpoint}"}}'
    publisher = EventPublisherFactory.create(config)
    try:
        found = hooks.events_config(config)
        assert found is not None
        if not endpoint.startswith("inproc"):  # which another context does not see
            assert found.binds == bound(endpoint)
    finally:
        publisher.shutdown()


def test_events_json(tmp_path: Path) -> None:
    from sglang.srt.disaggregation.kv_events import KVEventsConfig

    given = hooks.events_json(f"ipc://{tmp_path}/inproc-e", f"ipc://{tmp_path}/inproc-r")
    config = KVEventsConfig.from_cli(given)
    assert (config.publisher, config.buffer_steps > 0) == ("zmq", True)
    assert config.format == "dynamo"
    found = hooks.events_config(given)
    assert found is not None
    assert found[:4] == (
        True,
        "zmq",
        f"ipc://{tmp_path}/inproc-e",
        f"ipc://{tmp_path}/inproc-r",
    )
    assert found.binds


def test_a_rank_publishes_under_its_own_number() -> None:
    from sglang.srt.disaggregation.kv_events import select_kv_publisher_dp_rank
    from sglang.srt.managers.scheduler_components import kv_events_publisher

    assert select_kv_publisher_dp_rank(attn_dp_size=1, attn_dp_rank=0, dp_rank=3) == 3
    assert select_kv_publisher_dp_rank(attn_dp_size=4, attn_dp_rank=3, dp_rank=0) == 3
    assert "select_kv_publisher_dp_rank(" in source(kv_events_publisher)


# --- sglang/srt/managers/data_parallel_controller.py ---


class Ranks:
    """What stands where a controller's schedulers would: sockets that receive."""

    def __init__(self, directory: Path) -> None:
        self.context = zmq.Context()
        self.directory = directory
        self.sockets: list[Any] = []

    def launch(self, controller: Any, *_args: Any) -> None:
        """In place of `launch_dp_schedulers`: SGLang's own sockets, no processes."""
        from sglang.srt.utils.network import get_zmq_socket

        for rank in range(controller.launch_dp_size):
            endpoint = self._endpoint(rank)
            controller.workers[rank] = get_zmq_socket(controller.context, zmq.PUSH, endpoint, True)
            self.sockets.append(None)
            self.listen(rank)
        controller.max_total_num_tokens = 8192

    def _endpoint(self, rank: int) -> str:
        return f"ipc://{self.directory}/rank-{rank}"

    def listen(self, rank: int) -> None:
        """What a scheduler process does when it starts."""
        from sglang.srt.utils.network import get_zmq_socket

        self.sockets[rank] = get_zmq_socket(self.context, zmq.PULL, self._endpoint(rank), False)

    def waiting(self) -> list[int]:
        """How many messages came to each rank since the last time."""
        found = []
        for socket in self.sockets:
            count = 0
            while socket.poll(200):
                socket.recv()
                count += 1
            found.append(count)
        return found

    def received(self) -> int:
        """The rank that received a request."""
        from sglang.srt.managers.io_struct import sock_recv

        poller = zmq.Poller()
        for socket in self.sockets:
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(10_000))
        (found,) = [rank for rank, socket in enumerate(self.sockets) if socket in ready]
        sock_recv(self.sockets[found])
        return found


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    stand = Ranks(tmp_path)
    yield stand
    stand.context.destroy(linger=0)


@pytest.fixture
def make_controller(
    controllers: Any, make_record: Any, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Makes a real controller, built by its own `__init__`, that launches nothing."""
    from sglang.srt.server_args import PortArgs

    kind = controllers.DataParallelController
    for name in ("launch_dp_schedulers", "launch_dp_attention_schedulers"):
        monkeypatch.setattr(kind, name, lambda controller, *args: ranks.launch(controller, *args))
    made: list[Any] = []

    def make(**given: Any) -> Any:
        record = publish(make_record(**{"dp_size": 3, **given}), role="dp_controller")
        made.append(kind(record, PortArgs.init_new(record), None))
        return made[-1]

    yield make
    for controller in made:
        controller.context.destroy(linger=0)


@pytest.fixture
def controller(make_controller: Any) -> Any:
    return make_controller()


def generate_request(**given: Any) -> Any:
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput

    return TokenizedGenerateReqInput(**{**filled(TokenizedGenerateReqInput), **prompt(), **given})


def embedding_request(**given: Any) -> Any:
    from sglang.srt.managers.io_struct import TokenizedEmbeddingReqInput

    return TokenizedEmbeddingReqInput(**{**filled(TokenizedEmbeddingReqInput), **prompt(), **given})


def prompt() -> dict[str, Any]:
    from sglang.srt.sampling.sampling_params import SamplingParams

    return {
        "rid": "r",
        "input_ids": array("q", [1, 2, 3]),
        "sampling_params": SamplingParams(max_new_tokens=5),
    }


def filled(kind: Any) -> dict[str, Any]:
    """A neutral value for each field that has no default."""
    import msgspec

    neutral = {"bool": False, "int": 0}
    return {
        field.name: neutral.get(getattr(field.type, "__name__", str(field.type)))
        for field in msgspec.structs.fields(kind)
        if field.required
    }


def test_wrap_controller(registry: Any, make_controller: Any) -> None:
    seen: list[Any] = []
    hooks.wrap_controller(
        lambda made: seen.append(("built", made)), lambda made: seen.append(("loop", made))
    )
    hooks.apply()
    controller = make_controller(load_balance_method="total_tokens")
    assert seen == [("built", controller)]
    assert controller.dispatching == controller.total_tokens_scheduler
    controller.soft_watchdog = SimpleNamespace(feed=stop)
    with pytest.raises(Stopped):  # SGLang's own loop goes on after ours
        controller.event_loop()
    assert seen[1:] == [("loop", controller)]


class Stopped(Exception):
    """SGLang's own loop, or dispatch, was reached."""


def stop(*_: Any) -> None:
    raise Stopped


def test_controller_facts(make_controller: Any) -> None:
    events = hooks.events_json("tcp://*:5557", "tcp://*:6557")
    found = hooks.controller_facts(
        make_controller(kv_events_config=events, max_running_requests=24)
    )
    assert (found.ranks, found.page_size, found.capacity_tokens) == ((0, 1, 2), 16, 8192)
    assert (found.max_running, found.bigram, found.decodes) == (24, False, False)
    assert found.events == hooks.events_config(events)
    assert (found.dynamo_format, found.named_lora) == (True, since(23))


def test_controller_facts_of_dp_attention(make_controller: Any, tiny_qwen3: str) -> None:
    from sglang.srt.model_executor import pool_configurator

    given = attention(2, tiny_qwen3)
    found = hooks.controller_facts(
        make_controller(**{"dp_size": 1, **given}, max_running_requests=24)
    )
    assert (found.ranks, found.max_running, found.events) == ((0, 1), 12, None)
    assert re.search(
        r"max_running_requests // (kvc\.ps\.|kvc\.)?attn_dp_size", source(pool_configurator)
    )


def test_controller_facts_of_a_decode_server(make_controller: Any) -> None:
    assert hooks.controller_facts(make_controller(disaggregation_mode="decode")).decodes


def test_controller_facts_of_what_nobody_said(controller: Any) -> None:
    found = hooks.controller_facts(controller)
    assert (found.max_running, found.events, found.dynamo_format) == (None, None, False)


def test_keys_are_pairs_under_eagle() -> None:
    from sglang.srt.mem_cache import kv_cache_builder
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    assert "is_eagle=spec_algorithm.is_eagle()" in source(kv_cache_builder)
    assert SpeculativeAlgorithm.from_string("EAGLE").is_eagle()
    assert not SpeculativeAlgorithm.from_string(None).is_eagle()


def ranks_that_say(controller: Any, *status: bool) -> None:
    from sglang.srt.managers.io_struct import ActiveRanksOutput

    hooks.handle(controller, ActiveRanksOutput(status=list(status)))


def test_active_ranks(controller: Any) -> None:
    assert hooks.active_ranks(controller) == (0, 1, 2)
    ranks_that_say(controller, True, False, True)
    assert hooks.active_ranks(controller) == (0, 2)
    ranks_that_say(controller, True, True, True)
    assert hooks.active_ranks(controller) == (0, 1, 2)


def test_reachable(controller: Any, ranks: Ranks) -> None:
    def soon(wanted: bool) -> bool:
        end = time.monotonic() + 10.0
        while hooks.reachable(controller, 1) != wanted and time.monotonic() < end:
            time.sleep(0.01)
        return hooks.reachable(controller, 1) == wanted

    assert soon(True)
    for _ in range(5000):
        hooks.send(controller, 1, generate_request())
    assert hooks.reachable(controller, 1)
    ranks.sockets[1].close(linger=0)
    assert soon(False)
    ranks.listen(1)
    assert soon(True)


def test_set_active(controller: Any, ranks: Ranks) -> None:
    from sglang.srt.managers.io_struct import AbortReq, FlushCacheReqInput

    hooks.set_active(controller, 1, False)
    assert hooks.active_ranks(controller) == (0, 2)
    hooks.handle(controller, AbortReq(rid="r"))
    hooks.handle(controller, FlushCacheReqInput())
    assert ranks.waiting() == [2, 0, 2]
    for _ in range(4):
        assert hooks.dispatch_by_round_robin(controller, generate_request()) != 1
    hooks.set_active(controller, 1, True)
    assert hooks.active_ranks(controller) == (0, 1, 2)
    hooks.handle(controller, FlushCacheReqInput())
    assert ranks.waiting()[1] == 1


def test_unfix(controller: Any, tokenizer: Callable[[Any], None]) -> None:
    tokenizer(generate_request(routed_dp_rank=1))
    request = arrived(controller)
    hooks.unfix(request)
    assert hooks.request_facts(request).fixed_rank is None
    assert not hooks.send_to_fixed_rank(controller, request)


def test_can_go_again(controller: Any, tokenizer: Callable[[Any], None]) -> None:
    from sglang.srt.managers.io_struct import SessionParams

    for plain in (generate_request(), embedding_request()):
        tokenizer(plain)
        assert hooks.can_go_again(arrived(controller))
    for bound in (
        {"mm_inputs": object()},
        {"session_params": SessionParams(id="s")},
        {"bootstrap_host": "prefill", "bootstrap_room": 3},
    ):
        assert not hooks.can_go_again(generate_request(**bound))


@pytest.mark.parametrize("method", ["round_robin", "total_tokens"])
def test_take_dispatching(make_controller: Any, ranks: Ranks, method: str) -> None:
    controller = make_controller(load_balance_method=method)
    seen: list[Any] = []
    hooks.hold_dispatching(controller, stop)
    assert hooks.foreign_dispatching(controller) is None
    hooks.take_dispatching(controller, seen.append)
    request = generate_request()
    hooks.handle(controller, request)
    assert seen == [request]
    assert hooks.foreign_dispatching(controller) is not None
    hooks.give_dispatching_back(controller, method)
    assert hooks.foreign_dispatching(controller) is None
    hooks.handle(controller, generate_request())
    assert ranks.received() == 0


@pytest.mark.parametrize("mode", ["null", "decode"])
def test_prompts_are_no_prefill_on_a_decode_server(
    make_controller: Any, ranks: Ranks, run_dir: Path, mode: str
) -> None:
    """Elsewhere the second goes where the first is."""
    engine = make_controller(disaggregation_mode=mode, disable_radix_cache=False)
    taken = takes_over.Controller(engine, Settings(), f"ipc://{run_dir}/outcomes")
    frontend, dispatch = taken._frontend, taken._dispatch
    for request_id in ("first", "second"):
        dispatch(generate_request(rid=request_id, input_ids=array("q", range(1, 100))))
    first, second = (frontend.host.explain(one)[0] for one in ("first", "second"))
    loads = {one.replica: one.queued_prefill_seconds for one in frontend.status().replicas}
    decodes = mode == "decode"
    assert sum(ranks.waiting()) == 2
    assert (first.replica != second.replica) == decodes
    assert second.predicted_cached_tokens == (0 if decodes else 96)
    assert (loads[first.replica] == 0) == decodes
    dispatch.observe(Outcomes(time.monotonic(), ended=[End("second", 5, 96, False)]))
    (second,) = frontend.host.explain("second")
    assert (second.actual_cached_tokens, second.output_tokens) == (None if decodes else 96, 5)


def test_has_dispatching(controller: Any) -> None:
    hooks.take_dispatching(controller, stop)
    assert hooks.has_dispatching(controller, stop)
    controller.dispatching = print
    assert not hooks.has_dispatching(controller, stop)
    assert hooks.foreign_dispatching(controller) == "builtins.print"


def test_hold_dispatching(controller: Any, ranks: Ranks) -> None:
    """What comes before it is taken is told of, once, and goes on, unless that raises."""
    told: list[str] = []
    hooks.hold_dispatching(controller, lambda: told.append("unserved"))
    for rank in (0, 1):
        hooks.handle(controller, generate_request())
        assert (ranks.received(), told) == (rank, ["unserved"])
    hooks.hold_dispatching(controller, stop)
    with pytest.raises(Stopped):
        hooks.handle(controller, generate_request())


def test_each_request_of_a_batch_is_dispatched(controller: Any) -> None:
    from sglang.srt.managers.io_struct import (
        BatchTokenizedEmbeddingReqInput,
        BatchTokenizedGenerateReqInput,
    )

    seen: list[Any] = []
    hooks.take_dispatching(controller, lambda request: seen.append(request.rid))
    hooks.handle(controller, embedding_request(rid="a"))
    several = [generate_request(rid=name) for name in "bc"]
    hooks.handle(controller, BatchTokenizedGenerateReqInput(batch=several))
    hooks.handle(controller, BatchTokenizedEmbeddingReqInput(batch=[embedding_request(rid="d")]))
    assert seen == ["a", "b", "c", "d"]


# --- what another plugin may do to a controller ---


@pytest.fixture(params=[False, True], ids=["preble", "auto"])
def auto(request: pytest.FixtureRequest, tmp_path: Path) -> bool:
    """A controller's environment, by the choice that was made."""
    outcomes = f"ipc://{tmp_path}/outcomes"
    launch_env.export(launch_env.Launch(Settings(), outcomes, auto=request.param))
    return bool(request.param)


@contextmanager
def refused(auto: bool, caplog: pytest.LogCaptureFixture, said: str) -> Iterator[None]:
    """An error, or under `auto` one warning."""
    with nullcontext() if auto else pytest.raises(CannotWork, match=said):
        yield
    found = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(found) == auto
    assert all(re.search(f"SGLang's own dispatch is used. .*{said}", one) for one in found)


@pytest.mark.parametrize("seen_by", [takes_over.built, takes_over.run])
def test_a_replaced_dispatching_is_an_error_or_a_warning(
    controller: Any, auto: bool, caplog: pytest.LogCaptureFixture, seen_by: Callable[[Any], None]
) -> None:
    controller.dispatching = print
    with refused(auto, caplog, "dispatching, and builtins.print was put in its place"):
        seen_by(controller)
    assert controller.dispatching is print


def test_a_replaced_loop_is_an_error_or_a_warning(
    controller: Any, ranks: Ranks, auto: bool, caplog: pytest.LogCaptureFixture
) -> None:
    takes_over.built(controller)
    with refused(auto, caplog, "event_loop, and another loop runs in its place"):
        hooks.handle(controller, generate_request())
    hooks.handle(controller, generate_request())
    assert ranks.waiting() == ([1, 1, 0] if auto else [1, 0, 0])


def test_a_front_end_that_does_not_come_up_is_an_error_or_a_warning(
    controller: Any, auto: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "outcomes").mkdir()
    takes_over.built(controller)
    with refused(auto, caplog, "could not start: ZMQError"):
        takes_over.run(controller)
    assert controller.dispatching == controller.total_tokens_scheduler


def test_dispatch_by_round_robin(controller: Any, ranks: Ranks) -> None:
    def told_and_received(**given: Any) -> tuple[int, int]:
        told = hooks.dispatch_by_round_robin(controller, generate_request(**given))
        return told, ranks.received()

    assert [told_and_received() for _ in range(4)] == [(0, 0), (1, 1), (2, 2), (0, 0)]
    ranks_that_say(controller, True, False, True)
    assert [told_and_received() for _ in range(3)] == [(2, 2), (0, 0), (2, 2)]
    assert told_and_received(routed_dp_rank=1) == (1, 1)
    assert told_and_received() == (0, 0)


def test_dispatch_by_load(controller: Any, ranks: Ranks) -> None:
    def told_and_received(**given: Any) -> tuple[int, int]:
        told = hooks.dispatch_by_load(controller, generate_request(**given))
        return told, ranks.received()

    controller.dp_budget.total_tokens[:] = [100, 5, 7]
    assert [told_and_received() for _ in range(2)] == [(1, 1), (2, 2)]
    assert told_and_received(routed_dp_rank=0) == (0, 0)
    assert told_and_received(input_ids=None, input_embeds=[[0.5]]) == (0, 0)  # in turn
    hooks.set_active(controller, 1, False)
    assert [told_and_received() for _ in range(2)] == [(2, 2), (0, 0)]


def test_send_to_fixed_rank(controller: Any, ranks: Ranks) -> None:
    assert hooks.send_to_fixed_rank(controller, generate_request(routed_dp_rank=2))
    assert ranks.received() == 2
    assert not hooks.send_to_fixed_rank(controller, generate_request())
    with pytest.raises(ValueError, match="DP rank 7 is not active"):
        hooks.send_to_fixed_rank(controller, generate_request(routed_dp_rank=7))


def test_send(controller: Any, ranks: Ranks) -> None:
    hooks.send(controller, 1, generate_request())
    assert ranks.received() == 1


@pytest.fixture
def tokenizer(controller: Any) -> Iterator[Callable[[Any], None]]:
    """Sends what a tokenizer would to the controller."""
    from sglang.srt.managers.io_struct import sock_send
    from sglang.srt.utils.network import get_zmq_socket

    with zmq.Context() as context:
        address = controller.port_args.scheduler_input_ipc_name
        socket = get_zmq_socket(context, zmq.PUSH, address, True)
        yield lambda message: sock_send(socket, message)
        socket.close(linger=0)


def arrived(controller: Any) -> Any:
    assert hooks.input_socket(controller).poll(10_000)
    return hooks.receive(controller)


def test_receive(controller: Any, tokenizer: Callable[[Any], None]) -> None:
    with pytest.raises(zmq.Again):
        hooks.receive(controller)
    tokenizer(generate_request(rid="a", extra_key="k"))
    found = arrived(controller)
    assert (found.rid, list(found.input_ids), found.extra_key) == ("a", [1, 2, 3], "k")


def test_input_socket(controller: Any) -> None:
    socket = hooks.input_socket(controller)
    assert socket.getsockopt(zmq.TYPE) == zmq.PULL
    assert socket.getsockopt(zmq.FD) > 0


def test_handle(controller: Any, tokenizer: Callable[[Any], None], ranks: Ranks) -> None:
    from sglang.srt.managers.io_struct import AbortReq

    tokenizer(generate_request())
    hooks.handle(controller, arrived(controller))
    assert ranks.received() == 0
    tokenizer(AbortReq(rid="r"))  # goes to all
    hooks.handle(controller, arrived(controller))
    for socket in ranks.sockets:
        assert socket.poll(10_000)


def test_feed_watchdog(controller: Any) -> None:
    fed: list[Any] = []
    hooks.feed_watchdog(controller)
    controller.soft_watchdog = SimpleNamespace(feed=lambda: fed.append(1))
    hooks.feed_watchdog(controller)
    assert fed == [1]


def test_health_checks_are_not_dispatched(controller: Any, ranks: Ranks) -> None:
    from sglang.srt.managers.utils import HEALTH_CHECK_RID_PREFIX

    hooks.take_dispatching(controller, stop)
    hooks.handle(controller, generate_request(rid=f"{HEALTH_CHECK_RID_PREFIX}_1.0"))
    assert ranks.received() == 0


# --- requests ---


def test_request_facts(controller: Any, tokenizer: Callable[[Any], None]) -> None:
    named = {"lora_name": "french"} if since(23) else {}
    tokenizer(
        generate_request(
            lora_id="1f",
            **named,
            extra_key="key",
            cache_salt="salt",
            priority=2,
            routed_dp_rank=1,
        )
    )
    found = hooks.request_facts(arrived(controller))
    assert (found.request_id, list(found.tokens or ()), found.prompt_tokens) == ("r", [1, 2, 3], 3)
    assert (found.extra_key, found.salt) == ("key1f", "salt")
    assert found.lora_name == ("french" if since(23) else None)
    assert (found.max_output_tokens, found.priority, found.fixed_rank) == (5, 2, 1)
    assert found.session_id is None


def test_request_facts_of_what_nobody_said(
    controller: Any, tokenizer: Callable[[Any], None]
) -> None:
    tokenizer(generate_request(cache_salt=""))
    found = hooks.request_facts(arrived(controller))
    assert (found.extra_key, found.salt, found.lora_name) == (None, None, None)
    assert (found.priority, found.fixed_rank, found.session_id) == (0, None, None)


def test_request_facts_of_an_embedding(controller: Any, tokenizer: Callable[[Any], None]) -> None:
    tokenizer(embedding_request(lora_id="1f"))
    found = hooks.request_facts(arrived(controller))
    assert (found.prompt_tokens, found.max_output_tokens, found.extra_key) == (3, 0, "1f")


def test_request_facts_of_input_embeddings(
    controller: Any, tokenizer: Callable[[Any], None]
) -> None:
    tokenizer(generate_request(input_ids=None, input_embeds=[[0.5, 0.5]] * 7))
    found = hooks.request_facts(arrived(controller))
    assert (found.tokens, found.prompt_tokens) == (None, 7)


def test_request_facts_of_a_session(controller: Any, tokenizer: Callable[[Any], None]) -> None:
    from sglang.srt.managers.io_struct import SessionParams

    tokenizer(generate_request(session_params=SessionParams(id="s", rid="earlier")))
    found = hooks.request_facts(arrived(controller))
    assert (found.session_id, found.tokens, found.prompt_tokens) == ("s", None, 3)
    tokenizer(generate_request(session_params=SessionParams()))
    assert hooks.request_facts(arrived(controller)).session_id is None


def test_a_session_without_an_id_is_none() -> None:
    from sglang.srt.managers.scheduler import Scheduler

    text = source(Scheduler._handle_generate_request)
    assert "recv_req.session_params.id if recv_req.session_params is not None else None" in text
    assert "if session_id is None or radix_native_session:" in text


def scheduled(**given: Any) -> Any:
    """A request as a scheduler has it."""
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    tokens = array("q", range(1, 11))
    params = SamplingParams(max_new_tokens=2)
    params.normalize(None)
    return Req("r", "", tokens, params, vocab_size=4096, **given)


@pytest.mark.parametrize(
    ("extra_key", "lora_id"), [(None, None), ("k", None), (None, "1f"), ("k", "1f"), ("", None)]
)
def test_the_cache_key_is_composed_as_schedulers_do(
    make_record: Any, extra_key: str | None, lora_id: str | None
) -> None:
    publish(make_record())
    there = scheduled(extra_key=extra_key, lora_id=lora_id, cache_salt="")
    found = hooks.request_facts(generate_request(extra_key=extra_key, lora_id=lora_id))
    assert (there.extra_key, there.cache_salt) == (found.extra_key, None)


@pytest.mark.parametrize("start", [-1, 0, 4, 10])
@pytest.mark.parametrize("wanted", [False, True])
def test_readable_tokens_up_to_the_first_log_probability(
    make_record: Any, start: int, wanted: bool
) -> None:
    publish(make_record())
    there = scheduled(return_logprob=wanted)
    there.logprob_start_len = start
    request = generate_request(
        input_ids=array("q", range(1, 11)), return_logprob=wanted, logprob_start_len=start
    )
    readable = hooks._readable_tokens(request, 10)
    assert min(readable, 9) == there._compute_max_prefix_len(10)
    assert len(hooks.request_facts(request).tokens or ()) == readable


def test_readable_tokens_of_a_prompt_with_embeddings_in_it(
    controller: Any, tokenizer: Callable[[Any], None]
) -> None:
    import torch
    from sglang.srt.managers import schedule_batch
    from sglang.srt.managers.embed_types import PositionalEmbeds

    overrides = PositionalEmbeds(embeds=torch.zeros(1, 4), positions=[1])
    tokenizer(generate_request(positional_embed_overrides=overrides))
    found = hooks.request_facts(arrived(controller))
    assert (found.tokens, found.prompt_tokens) == (None, 3)
    text = source(schedule_batch.Req.init_next_round_input)
    assert 'overrides is not None: token_ids_to_match = array("q")' in text


def multimodal(*offsets: list[tuple[int, int]] | None) -> Any:
    from sglang.srt.managers.schedule_batch import (
        Modality,
        MultimodalDataItem,
        MultimodalProcessorOutput,
    )

    items = [MultimodalDataItem(modality=Modality.IMAGE, offsets=one) for one in offsets]
    return MultimodalProcessorOutput(mm_items=items)


@pytest.mark.parametrize(
    ("offsets", "readable"),
    [([[(4, 6)]], 4), ([[(7, 8), (5, 6)], [(8, 9)]], 5), ([[(0, 3)]], None), ([None], None)],
)
def test_readable_tokens_up_to_the_first_multimodal_item(
    controller: Any, tokenizer: Callable[[Any], None], offsets: Any, readable: int | None
) -> None:
    from sglang.srt.managers.io_struct import PickleWrapper

    request = generate_request(input_ids=array("q", range(1, 11)), mm_inputs=multimodal(*offsets))
    request.wrap_pickle_fields()
    tokenizer(request)
    found = hooks.request_facts(arrived(controller))
    expected = None if isinstance(request.mm_inputs, PickleWrapper) else readable
    assert (found.prompt_tokens, found.tokens and len(found.tokens)) == (10, expected)


def test_readable_tokens_of_items_that_cannot_be_seen() -> None:
    from sglang.srt.managers.io_struct import PickleWrapper

    request = generate_request(mm_inputs=PickleWrapper(b""))
    assert hooks.request_facts(request).tokens is None


def test_readable_tokens_where_an_encoder_computes_the_items() -> None:
    request = generate_request(need_wait_for_mm_inputs=True)
    assert (hooks.request_facts(request).tokens, hooks._readable_tokens(request, 3)) == (None, 0)


def test_ids_of_requests_in_flight_are_unique() -> None:
    from sglang.srt.managers import tokenizer_manager

    text = source(tokenizer_manager)
    assert "if rid in self.rid_to_state" in text
    assert 'raise ValueError(f"Duplicate request ID detected: {rid}")' in text


# --- sglang/srt/managers/load_snapshot.py ---


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[Any]:
    """SGLang's own writer of rank 1 of 2, and a controller that reads."""
    from sglang.srt.managers.load_snapshot import ShmLoadSnapshotReader, ShmLoadSnapshotWriter

    path = str(tmp_path / "loads.shm")
    reader = ShmLoadSnapshotReader(path, 2)
    writer = ShmLoadSnapshotWriter(path, 2, 1)
    yield writer, SimpleNamespace(load_snapshot_reader=reader)
    writer.close()
    reader.close()


def test_loads(snapshots: Any) -> None:
    from sglang.srt.managers.load_snapshot import LoadSnapshot
    from sglang.srt.managers.scheduler import _accumulate_decode_moment

    writer, controller = snapshots
    assert hooks.loads(controller) == []
    totals = [0.0] * 6
    _accumulate_decode_moment(totals, batch_size=4, step_us=2_000, generated=8)
    _accumulate_decode_moment(totals, batch_size=2, step_us=1_000, generated=2)
    writer.write(
        LoadSnapshot(
            dp_rank=1,
            timestamp=12.5,
            num_running_reqs=3,
            num_waiting_reqs=2,
            total_prefill_uncached_tokens=1_000,
            total_prefill_busy_us=250_000,
            decode_moments=totals,
        )
    )
    (found,) = hooks.loads(controller)
    assert found[:4] == (1, 12.5, 3, 2)
    assert found[4:8] == (1_000, 0.25, 2, 6)
    assert (found.decode_seconds, found.decode_tokens) == (pytest.approx(0.003), 10)


def test_loads_of_a_rank_that_has_not_decoded(snapshots: Any) -> None:
    from sglang.srt.managers.load_snapshot import LoadSnapshot

    writer, controller = snapshots
    writer.write(LoadSnapshot(dp_rank=1, timestamp=1.0))
    (found,) = hooks.loads(controller)
    assert found == (1, 1.0, 0, 0, 0, 0.0, 0, 0, 0.0, 0)


@pytest.mark.parametrize(
    ("given", "waiting"),
    [
        ({}, 0),
        ({"num_waiting_reqs": 2}, 2),
        ({"grammar": 1}, 1),
        ({"num_waiting_reqs": 2, "grammar": 1}, 3),
        ({"retracted": 4}, 0),
        ({"inflight": 3}, 3),
        ({"num_waiting_uncached_tokens": 700}, 1),
        ({"num_waiting_reqs": 2, "num_waiting_uncached_tokens": 700}, 2),
    ],
)
def test_waiting(given: dict[str, int], waiting: int) -> None:
    from sglang.srt.managers.load_snapshot import (
        DisaggregationMetrics,
        LoadSnapshot,
        QueueMetrics,
    )

    grammar, retracted = given.pop("grammar", 0), given.pop("retracted", 0)
    inflight = given.pop("inflight", 0)
    snapshot = LoadSnapshot(
        **given,
        queues=QueueMetrics(0, grammar, 0, retracted, 0),
        disaggregation=DisaggregationMetrics("null", prefill_inflight_queue_reqs=inflight),
    )
    assert hooks._waiting(snapshot) == waiting


def test_what_a_snapshot_counts_as_waiting() -> None:
    from sglang.srt.managers.scheduler_components.load_inquirer import SchedulerLoadInquirer

    text = source(SchedulerLoadInquirer.get_loads)
    assert "num_running_reqs = len(self.get_running_batch().reqs)" in text
    queues = set(re.findall(r"waiting_queues\.append\((\w+)\)", text))
    assert queues == {
        "prefill_bootstrap_queue",
        "decode_prealloc_queue",
        "decode_transfer_queue",
        "decode_retracted_queue",
    }
    assert "waiting_queues = [self.get_waiting_queue()]" in text
    assert "prefill_inflight_queue_reqs=prefill_inflight" in text
    uncached = source(SchedulerLoadInquirer.get_num_waiting_uncached_tokens)
    assert "cr = self.get_chunked_req()" in uncached


def test_an_idle_scheduler_goes_on_publishing() -> None:
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.managers.scheduler_components.idle_sleeper import IdleSleeper

    text = source(Scheduler.on_idle)
    assert text.index("self.publish_load_snapshot(force=True)") < text.index(
        "self.maybe_sleep_on_idle()"
    )
    assert "self.poller.poll(1000)" in source(IdleSleeper.maybe_sleep)
    assert "if self._engine_paused: " in source(Scheduler.event_loop_normal)


def test_a_snapshot_is_published_with_each_prefill_result() -> None:
    from sglang.srt.managers.scheduler import Scheduler

    text = source(Scheduler.process_batch_result)
    published = "self.publish_load_snapshot(force=batch.forward_mode.is_extend())"
    assert text.index(published) < text.index("process_batch_result_prefill(")
    assert text.index("process_batch_result_prefill(") < text.index("_record_step_counters(")


# --- sglang/srt/managers/schedule_policy.py; what is done there: test_sglang_local_queue.py ---


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("replicas", "attention", "replica"), [(2, 0, 1), (1, 1, 0)], ids=["dp_size", "DP attention"]
)
def test_wrap_prefill_registration(
    registry: Any, replicas: int, attention: int, replica: int, wrapped: bool
) -> None:
    """A rank is registered by its number, and by SGLang alone each replica as rank 0."""
    from sglang.srt.disaggregation.common import conn

    port = free_port()
    server = conn.CommonKVBootstrapServer("127.0.0.1", port)
    manager = SimpleNamespace(
        attn_dp_rank=attention, system_dp_size=replicas, system_dp_rank=replica
    )
    sender = SimpleNamespace(
        kv_mgr=manager, bootstrap_room=7, bootstrap_server_url=f"127.0.0.1:{port}"
    )
    if wrapped:
        hooks.wrap_prefill_registration()
        hooks.apply()
    try:
        while not (found := conn.CommonKVReceiver.query_prefill_dp_ranks(f"127.0.0.1:{port}", [7])):
            conn.CommonKVSender._register_prefill_dp_rank(sender)
    finally:
        server.close()
    assert found == {"7": 1 if wrapped else attention}


def test_wrap_prefill_pass(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.srt.managers.schedule_policy import SchedulePolicy
    from sglang.srt.managers.scheduler import Scheduler

    def walk(self: Any, prefill_delayer_single_pass: Any, running_batch: Any) -> Any:
        self.policy.calc_priority(self.waiting_queue, running_batch)
        self.waiting_queue = self.waiting_queue[1:]
        return None, running_batch

    def calc_priority(self: Any, waiting_queue: Any, *args: Any, **kwargs: Any) -> None:
        waiting_queue.sort()

    assert parameters(SchedulePolicy.calc_priority)[:3] == [
        "self",
        "waiting_queue",
        "running_batch",
    ]
    assert parameters(Scheduler.get_new_batch_prefill) == ["self", "running_batch"]
    monkeypatch.setattr(Scheduler, "_get_new_batch_prefill_raw", walk)
    monkeypatch.setattr(SchedulePolicy, "calc_priority", calc_priority)
    seen: list[Any] = []

    def before(policy: Any, waiting: list[Any]) -> None:
        seen.append((policy, list(waiting)))
        waiting.reverse()

    hooks.wrap_prefill_pass(before, lambda policy, waiting: seen.append((policy, list(waiting))))
    hooks.apply()
    assert hooks.missing() == []
    scheduler: Any = object.__new__(Scheduler)
    policy = object.__new__(SchedulePolicy)
    scheduler.policy, scheduler.waiting_queue, scheduler.prefill_delayer = policy, [2, 1, 3], None
    plan = scheduler.get_new_batch_prefill(SimpleNamespace())
    assert plan.batch_to_run is None
    assert seen == [(policy, [1, 2, 3]), (policy, [2, 1])]
    policy.calc_priority([5, 4])  # the walk of diffusion models
    policy.calc_priority(waiting_queue=[5, 4], running_batch=None)
    assert len(seen) == 2


def test_diffusion_models_have_another_walk() -> None:
    from sglang.srt.dllm.mixin import scheduler

    assert "self.policy.calc_priority(self.waiting_queue)" in source(scheduler)


def schedule_policy(name: str, *, cache: bool = True, **given: bool) -> Any:
    from sglang.srt.managers.schedule_policy import SchedulePolicy
    from sglang.srt.mem_cache.radix_cache import RadixCache

    tree = RadixCache.create_simulated(disable=not cache)
    priorities = given.get("priorities", False), given.get("low_first", False)
    return SchedulePolicy(name, tree, False, *priorities)


def test_takes_in_turn() -> None:
    assert hooks.takes_in_turn(schedule_policy("fcfs"))
    for name in ("lpm", "dfs-weight", "lof", "random", "routing-key"):
        assert not hooks.takes_in_turn(schedule_policy(name))
    for name in ("fcfs", "lpm"):
        assert not hooks.takes_in_turn(schedule_policy(name, cache=False))


def test_has_priorities() -> None:
    assert not hooks.has_priorities(schedule_policy("fcfs"))
    assert hooks.has_priorities(schedule_policy("fcfs", priorities=True))


def test_tokens_and_priority(make_record: Any) -> None:
    from sglang.srt.managers.schedule_policy import SchedulePolicy

    publish(make_record())
    some = [scheduled(priority=priority) for priority in (3, 9, -1)]
    for low_first in (False, True):
        policy = schedule_policy("fcfs", priorities=True, low_first=low_first)
        ours = [hooks.tokens_and_priority(policy, one) for one in some]
        assert {tokens for tokens, _ in ours} == {10}
        own = list(some)
        SchedulePolicy._sort_by_priority_and_fcfs(own, policy.priority_sign)
        assert own == sorted(some, key=lambda one: hooks.tokens_and_priority(policy, one)[1])
    assert hooks.tokens_and_priority(schedule_policy("fcfs"), scheduled(priority=None)) == (10, 0)


def test_cached_tokens(make_record: Any) -> None:
    import torch
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams
    from sglang.srt.mem_cache.radix_cache import RadixKey

    publish(make_record())
    policy = schedule_policy("fcfs")
    assert hooks.cached_tokens(policy, scheduled()) == 0
    key = RadixKey(token_ids=array("q", range(1, 8)), extra_key=None)
    policy.tree_cache.insert(InsertParams(key=key, value=torch.arange(7)))
    assert hooks.cached_tokens(policy, scheduled()) == 7
    assert hooks.cached_tokens(policy, scheduled(extra_key="k")) == 0


def test_alike_tokens() -> None:
    assert hooks.alike_tokens() == (32, 32)


def test_start_of_prompt(make_record: Any) -> None:
    publish(make_record())
    one, other = scheduled(), scheduled()
    other.origin_input_ids = array("q", [*range(1, 9), 99, 99])
    assert hooks.start_of_prompt(one, 8) == hooks.start_of_prompt(other, 8)
    assert hooks.start_of_prompt(one, 9) != hooks.start_of_prompt(other, 9)
    assert hooks.start_of_prompt(one, 11) is None
    tenants = (scheduled(), scheduled(extra_key="k"), scheduled(cache_salt="s"))
    assert len({hooks.start_of_prompt(tenant, 8) for tenant in tenants}) == 3


# --- sglang/srt/managers/scheduler_components/ ---


def token_output(**given: Any) -> Any:
    from sglang.srt.managers.io_struct import BatchTokenIDOutput

    return BatchTokenIDOutput(**{**filled(BatchTokenIDOutput), **given})


def embedding_output(**given: Any) -> Any:
    from sglang.srt.managers.io_struct import BatchEmbeddingOutput

    return BatchEmbeddingOutput(**{**filled(BatchEmbeddingOutput), **given})


def finish(kind: str, *arguments: Any) -> Any:
    """A finish reason as schedulers send it."""
    from sglang.srt.managers import schedule_batch

    return getattr(schedule_batch, kind)(*arguments).to_json()


def test_ends() -> None:
    output = token_output(
        rids=["a", "b", "c", "d"],
        finished_reasons=[
            finish("FINISH_LENGTH", 5),
            None,
            finish("FINISH_ABORT", "gone"),
            finish("FINISH_MATCHED_TOKEN", 2),
        ],
        completion_tokens=[5, 1, 3, 4],
        cached_tokens=[16, 0, 32, 48],
    )
    assert list(hooks.ends(output)) == [
        End("a", 5, 16, False),
        End("c", 3, 32, True),
        End("d", 4, 48, False),
    ]


def test_ends_of_embeddings() -> None:
    output = embedding_output(
        rids=["a", "b"], finished_reasons=[finish("FINISH_LENGTH", 0), None], cached_tokens=[16, 0]
    )
    assert list(hooks.ends(output)) == [End("a", 0, 16, False)]


def test_ends_by_an_abort_of_what_waits() -> None:
    from sglang.srt.managers.io_struct import AbortReq, HealthCheckOutput

    assert list(hooks.ends(AbortReq(rid="a"))) == [End("a", 0, None, True)]
    assert list(hooks.ends(AbortReq(abort_all=True))) == []
    assert list(hooks.ends(HealthCheckOutput())) == []


def test_whatever_ends_in_a_scheduler_is_sent_by_the_same_method() -> None:
    from sglang.srt.managers import scheduler
    from sglang.srt.managers.scheduler_components import ipc_channels, output_streamer

    text = source(scheduler.Scheduler)
    assert len(re.findall(r"send_to_tokenizer\.send_output\(", text)) > 0
    assert "sock_send(self.ipc_channels.send" not in text
    text = source(output_streamer.SchedulerOutputStreamer)
    assert text.count("self.send_to_detokenizer.send_output(") == 2  # generation, embedding
    text = source(ipc_channels)
    assert "send_to_detokenizer = SenderWrapper(send_to_detokenizer_raw)" in text
    assert "send_to_tokenizer = SenderWrapper(send_to_tokenizer_raw)" in text


def request_with(outputs: int, *, rid: str = "r", finished: bool = False) -> Any:
    """A request as it is after a result was processed."""
    request = scheduled()
    request.rid, request.cached_tokens = rid, 16
    for _ in range(outputs):
        request.output_ids.append(7)
    if finished:
        from sglang.srt.managers.schedule_batch import FINISH_LENGTH

        request.finished_reason = FINISH_LENGTH(1)
    return request


def test_first_tokens(make_record: Any) -> None:
    publish(make_record())
    batch = SimpleNamespace(
        reqs=[
            request_with(0, rid="chunked"),
            request_with(1, rid="first"),
            request_with(1, rid="done", finished=True),
            request_with(2, rid="retracted or decoding"),
        ]
    )
    assert hooks.first_tokens(batch) == [("first", 16)]


def test_a_retracted_request_keeps_its_output() -> None:
    """All but one whose prompt is embeddings, which starts again."""
    from sglang.srt.managers.schedule_batch import Req

    text = source(Req.reset_for_retract)
    assert text.count("self.output_ids = ") == 1
    assert 'if self.input_embeds is not None: self.output_ids = array("q")' in text


def test_an_embedding_ends_with_its_prefill(make_record: Any) -> None:
    publish(make_record())
    request = scheduled()
    request.sampling_params.max_new_tokens = 0  # as the tokenizer has it
    request.output_ids.append(0)
    request.update_finish_state()
    assert request.finished()


def test_a_prefill_appends_one_token_and_streams_within() -> None:
    from sglang.srt.managers.scheduler_components import batch_result_processor

    kind = batch_result_processor.SchedulerBatchResultProcessor
    text = source(kind.process_batch_result_prefill)
    chunk = text.index("if req.inflight_middle_chunks <= 0: req.time_stats")
    appended = text.index("req.output_ids.append(next_token_id)")
    streamed = text.index("self.output_streamer.stream_output( batch.reqs")
    assert chunk < appended < streamed
    assert "zip(batch.reqs, next_token_ids)" in text
    assert parameters(kind.process_batch_result_prefill) == ["self", "batch", "result"]


@pytest.fixture
def told(registry: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the hooks of a scheduler process told, with a prefill that does nothing."""
    from sglang.srt.managers.scheduler_components import batch_result_processor

    found: list[Any] = []
    monkeypatch.setattr(
        batch_result_processor.SchedulerBatchResultProcessor,
        "process_batch_result_prefill",
        lambda self, batch, result: found.append("processed"),
    )
    hooks.wrap_outputs(
        lambda ends: found.append(("ended", ends)), lambda starts: found.append(("started", starts))
    )
    hooks.apply()
    assert hooks.missing() == []
    return found


@contextmanager
def sender_and_receiver() -> Iterator[tuple[Any, Callable[[], Any]]]:
    """A `SenderWrapper`, and what receives from it."""
    from sglang.srt.managers.io_struct import sock_recv
    from sglang.srt.managers.scheduler_components.output_sender import SenderWrapper

    with zmq.Context() as context:
        push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        push.linger = pull.linger = 0
        pull.bind("inproc://detokenizer")
        push.connect("inproc://detokenizer")
        yield SenderWrapper(push), lambda: sock_recv(pull)
        push.close()
        pull.close()


def test_wrap_outputs_tells_of_ends(told: list[Any]) -> None:
    from sglang.srt.managers.io_struct import AbortReq
    from sglang.srt.managers.scheduler_components.output_sender import SenderWrapper

    assert parameters(inspect.unwrap(SenderWrapper.send_output)) == ["self", "output", "recv_obj"]
    with sender_and_receiver() as (sender, receive):
        sender.send_output(AbortReq(rid="a"), None)
        assert receive().rid == "a"
        sender.send_output(token_output(rids=["b"], finished_reasons=[None]))
        assert receive().rids == ["b"]
    SenderWrapper(None).send_output(AbortReq(rid="c"))  # of a rank that does not speak
    assert told == [("ended", [End("a", 0, None, True)])]


def processor(socket: Any) -> Any:
    from sglang.srt.managers.scheduler_components import batch_result_processor
    from sglang.srt.managers.scheduler_components.output_sender import SenderWrapper

    made = object.__new__(batch_result_processor.SchedulerBatchResultProcessor)
    streamer = SimpleNamespace(send_to_detokenizer=SenderWrapper(socket))
    object.__setattr__(made, "output_streamer", streamer)
    return made


def test_wrap_outputs_tells_of_first_tokens(told: list[Any], make_record: Any) -> None:
    publish(make_record())
    batch = SimpleNamespace(reqs=[request_with(1), request_with(0)])
    processor(object()).process_batch_result_prefill(batch, None)
    processor(None).process_batch_result_prefill(batch, None)
    assert told == ["processed", ("started", [("r", 16)]), "processed"]


def test_wrap_outputs_lets_nothing_of_ours_out(
    told: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with sender_and_receiver() as (sender, receive):
        sender.send_output(token_output(rids=["a"], finished_reasons=[{}], completion_tokens=[]))
        assert receive().rids == ["a"]
    processor(object()).process_batch_result_prefill(None, None)
    assert told == ["processed"]
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "preble failed in ends",
        "preble failed in first tokens",
    ]
