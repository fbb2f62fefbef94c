"""What `vllm_ext/hooks.py` relies on, in the vLLM installed.

1. Each touch of the contract, by its name: the test that fails says what moved.
2. What no declaration can say: what `hooks` makes of vLLM's own objects.

The same file runs on other versions of vLLM, see `other_versions.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from preble_plugin.adapter.contract import Touch, verify
from preble_plugin.adapter.refusals import CannotWork
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.vllm_ext import hooks, plugin
from preble_plugin.vllm_ext.contract import CONTRACT
from preble_plugin.vllm_ext.known import VLLM
from tests.contracts.renamed import refusal
from tests.engines import TINY_MODEL
from tests.engines.client import tokens
from tests.vllm.in_process import Core

pytestmark = pytest.mark.vllm
MEANT = os.environ.get("PREBLE_CONTRACT_VLLM")
"""The version that `other_versions.py` put in the way of the one installed."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PREBLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "default")  # restored, whatever the flag writes
    monkeypatch.setenv("PREBLE_CONFIG", "")
    monkeypatch.setenv("PREBLE_RUN_DIR", str(tmp_path))
    for name, value in (
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("HF_HUB_OFFLINE", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
    ):
        monkeypatch.setenv(name, value)


@pytest.fixture
def arg_utils() -> Any:
    from vllm.engine import arg_utils

    plugin.register()
    return arg_utils


@pytest.fixture
def core_client(monkeypatch: pytest.MonkeyPatch) -> Any:
    from vllm.v1.engine import core_client

    own = core_client.EngineCoreClient.make_async_mp_client
    monkeypatch.setattr(core_client, "DPLBAsyncMPClient", core_client.DPLBAsyncMPClient)
    monkeypatch.setattr(core_client.EngineCoreClient, "make_async_mp_client", staticmethod(own))
    return core_client


@pytest.fixture(scope="session")
def tiny_model() -> str:
    return str(make_tiny_model(TINY_MODEL))


def source(thing: Any) -> str:
    return re.sub(r"\s+", " ", inspect.getsource(thing))


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_under_test_is_the_one_meant() -> None:
    from importlib.metadata import version

    meant = MEANT or version("vllm").split("+")[0]
    assert hooks.version().split("+")[0] == meant


@pytest.mark.parametrize("touch", CONTRACT, ids=str)
def test_each_touch_holds(touch: Touch) -> None:
    assert touch.fault() is None


@pytest.mark.parametrize("touch", CONTRACT, ids=str)
def test_a_version_with_one_touch_renamed_is_refused_by_its_name(touch: Touch) -> None:
    assert refusal(VLLM, CONTRACT, touch).endswith(
        ": use vLLM 0.31 to 0.33, upgrade preble-plugin, or use --dp-scheduler default."
    )


def test_a_version_with_none_renamed_is_served_and_a_line_says_so() -> None:
    assert verify(VLLM, "0.33.1", CONTRACT) == []
    (line,) = verify(VLLM, "0.99.0", CONTRACT)
    assert line.startswith("--dp-scheduler preble is tested on vLLM 0.31 to 0.33 and this is 0.99")


# --- processes and logs ---


def test_register_imports_nothing_where_vllm_parses_no_arguments() -> None:
    code = (
        "import sys; from preble_plugin.vllm_ext.plugin import register; register();"
        "print([m for m in ('vllm', 'numpy', 'zmq', 'msgspec') if m in sys.modules])"
    )
    process = __import__("subprocess").run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


def test_register_raises_where_the_environment_chooses_preble_alone(
    arg_utils: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(arg_utils, "EngineArgs")
    plugin.register()
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "preble")
    with pytest.raises(CannotWork, match=r"relies on vllm\.engine\.arg_utils:EngineArgs"):
        plugin.register()


def test_register_twice_wraps_once(arg_utils: Any) -> None:
    first = arg_utils.EngineArgs.create_engine_config
    plugin.register()
    assert arg_utils.EngineArgs.create_engine_config is first


def test_rust_frontend(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs

    assert "VLLM_USE_RUST_FRONTEND" in envs.environment_variables
    for value in ("0", "1"):
        monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", value)
        asked = envs.environment_variables["VLLM_USE_RUST_FRONTEND"]()
        assert hooks.rust_frontend() == asked
    monkeypatch.delenv("VLLM_USE_RUST_FRONTEND")
    assert not hooks.rust_frontend()


def test_which_paths_read_the_ranks_header() -> None:
    import vllm

    from preble_plugin.serve.kinds import Kind
    from preble_plugin.serve.vllm_http import names_rank

    paths = {
        Kind.CHAT: "openai/chat_completion",
        Kind.COMPLETION: "openai/completion",
        Kind.RESPONSES: "openai/responses",
        Kind.EMBEDDING: "pooling/embed",
    }
    root = Path(vllm.__file__).parent / "entrypoints"
    reading = {
        kind
        for kind, path in paths.items()
        if "_get_data_parallel_rank(" in (root / path / "serving.py").read_text()
    }
    assert names_rank(hooks.version()) == reading


# --- vllm/engine/arg_utils.py ---


def parse(*arguments: str) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return AsyncEngineArgs.add_cli_args(FlexibleArgumentParser()).parse_args(list(arguments))


def test_wrap_cli_args(arg_utils: Any) -> None:
    assert parse("--dp-scheduler", "preble").dp_scheduler == "preble"
    assert os.environ["PREBLE_DP_SCHEDULER"] == "preble"


@pytest.mark.parametrize(
    "yaml",
    [
        "dp-scheduler: auto\ndp-scheduler-config:\n  policy: round-robin\n  receipts: 7\n",
        'dp-scheduler: auto\ndp-scheduler-config: \'{"policy": "round-robin", "receipts": 7}\'\n',
        "dp_scheduler: auto\ndp_scheduler_config: {policy: round-robin, receipts: 7}\n",
    ],
)
def test_the_keys_of_a_yaml_file_arrive(arg_utils: Any, tmp_path: Path, yaml: str) -> None:
    (tmp_path / "serve.yaml").write_text(yaml)
    parse("--config", str(tmp_path / "serve.yaml"))
    assert os.environ["PREBLE_DP_SCHEDULER"] == "auto"
    assert os.environ["PREBLE_CONFIG"] == '{"policy":"round-robin","receipts":7}'


def test_dotted_settings_arrive(arg_utils: Any) -> None:
    parse("--dp-scheduler-config.receipts", "7")
    assert os.environ["PREBLE_CONFIG"] == '{"receipts":7}'


def test_wrap_engine_config(arg_utils: Any, tiny_model: str) -> None:
    args = arg_utils.AsyncEngineArgs(
        model=tiny_model, additional_config={"dp_scheduler": "default", "receipts": 1, "x": 2}
    )
    config = args.create_engine_config()
    assert config.additional_config == {"x": 2}
    assert args.additional_config == {"dp_scheduler": "default", "receipts": 1, "x": 2}


def test_our_keys_do_not_enter_the_hash(arg_utils: Any, tiny_model: str) -> None:
    hashes = {
        arg_utils.AsyncEngineArgs(model=tiny_model, additional_config=given)
        .create_engine_config()
        .compute_hash()
        for given in ({}, {"dp_scheduler": "default", "dp_scheduler_config": {"receipts": 3}})
    }
    assert len(hashes) == 1


def test_is_child(arg_utils: Any) -> None:
    args = arg_utils.AsyncEngineArgs.__new__(arg_utils.AsyncEngineArgs)
    for count, rank, child in ((1, 0, False), (2, -1, False), (2, 0, True), (2, 1, True)):
        args._api_process_count, args._api_process_rank = count, rank
        assert hooks.is_child(args) == child
    defaults = arg_utils.EngineArgs
    assert (defaults._api_process_count, defaults._api_process_rank) == (1, 0)


def test_the_parent_of_several_api_servers_has_rank_minus_one() -> None:
    from vllm.entrypoints.cli import serve

    text = source(serve.run_multi_api_server)
    assert "engine_args._api_process_count = num_api_servers" in text
    assert "engine_args._api_process_rank = -1" in text


def test_offline() -> None:
    from vllm.usage.usage_lib import UsageContext

    assert hooks.offline(UsageContext.LLM_CLASS)
    assert not any(map(hooks.offline, [None, *set(UsageContext) - {UsageContext.LLM_CLASS}]))


def test_the_offline_engine_says_that_it_is_one() -> None:
    from vllm.entrypoints.llm import LLM

    assert "usage_context=UsageContext.LLM_CLASS" in source(sys.modules[LLM.__module__])


# --- vllm/config/ ---


def two_ranks(arg_utils: Any, tiny_model: str, **more: Any) -> Any:
    return arg_utils.AsyncEngineArgs(
        model=tiny_model, data_parallel_size=2, block_size=32, max_model_len=2048, **more
    )


def test_topology(arg_utils: Any, tiny_model: str) -> None:
    args = two_ranks(arg_utils, tiny_model)
    args._api_process_count, args._api_process_rank = 2, -1
    found = hooks.topology(args.create_engine_config())
    assert (found.ranks, found.local_ranks, found.external, found.hybrid) == (2, 2, False, False)
    assert (found.one_node, found.api_servers, found.api_server) == (True, 2, -1)
    assert found.prefix_caching


def test_topology_across_nodes(arg_utils: Any, tiny_model: str) -> None:
    args = two_ranks(arg_utils, tiny_model, data_parallel_size_local=1)
    assert not hooks.topology(args.create_engine_config()).one_node


def test_topology_under_hybrid_balancing(arg_utils: Any, tiny_model: str) -> None:
    args = arg_utils.AsyncEngineArgs(
        model=tiny_model,
        data_parallel_size=4,
        data_parallel_size_local=2,
        data_parallel_start_rank=2,
        block_size=32,
    )
    found = hooks.topology(args.create_engine_config())
    assert (found.hybrid, found.one_node, found.local_ranks) == (True, True, 2)


def test_events_config(arg_utils: Any, tiny_model: str) -> None:
    from vllm.config.kv_events import KVEventsConfig

    given = KVEventsConfig(
        enable_kv_cache_events=True, endpoint="tcp://*:9", replay_endpoint="tcp://*:19", topic="t"
    )
    args = two_ranks(arg_utils, tiny_model, kv_events_config=given)
    found = hooks.events_config(args.create_engine_config())
    assert found == (True, "zmq", "tcp://*:9", "tcp://*:19", "t", True)
    given.buffer_steps = 0
    found = hooks.events_config(args.create_engine_config())
    assert found is not None
    assert found.replay_endpoint is None


@pytest.mark.parametrize(
    ("endpoint", "binds"),
    [("tcp://*:9", True), ("tcp://[::]:9", True), ("tcp://10.0.0.1:9", False)],
)
def test_which_events_endpoints_are_bound(
    arg_utils: Any, tiny_model: str, endpoint: str, binds: bool
) -> None:
    from vllm.config.kv_events import KVEventsConfig
    from vllm.distributed.kv_events import ZmqEventPublisher

    given = KVEventsConfig(enable_kv_cache_events=True, endpoint=endpoint)
    args = two_ranks(arg_utils, tiny_model, kv_events_config=given)
    found = hooks.events_config(args.create_engine_config())
    assert found is not None
    assert found.binds is binds
    text = source(ZmqEventPublisher)
    assert '"*" in ' in text
    assert '"::" in ' in text


def test_publish_events(arg_utils: Any, tiny_model: str) -> None:
    config = two_ranks(arg_utils, tiny_model).create_engine_config()
    assert hooks.events_config(config) is None
    hooks.publish_events(config, "ipc:///tmp/inproc-kv", "ipc:///tmp/inproc-kv-replay")
    assert hooks.events_config(config) == (
        True,
        "zmq",
        "ipc:///tmp/inproc-kv",
        "ipc:///tmp/inproc-kv-replay",
        "",
        True,
    )


def test_the_events_configuration_is_read_by_the_schedulers_alone() -> None:
    """It may be set on a finished configuration: nothing was derived from it."""
    import vllm

    root = Path(vllm.__file__).parent
    derived = [
        str(path.relative_to(root))
        for path in sorted((root / "config").glob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"=.*kv_events_config|kv_events_config\s*=(?!=)", line)
        and not re.search(r"kv_events_config: KVEventsConfig", line)
    ]
    assert derived == []


def test_scheduler_class(arg_utils: Any, tiny_model: str) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    own = "vllm.v1.core.sched.scheduler.Scheduler"
    for given, expected in ((None, None), (own, own), (Scheduler, own)):
        args = arg_utils.AsyncEngineArgs(model=tiny_model, scheduler_cls=given)
        assert hooks.scheduler_class(args.create_engine_config()) == expected


@pytest.mark.parametrize("ahead", [False, True])
def test_set_scheduler_class(arg_utils: Any, tiny_model: str, ahead: bool) -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    config = arg_utils.AsyncEngineArgs(model=tiny_model).create_engine_config()
    config.scheduler_config.async_scheduling = ahead
    module = "preble_plugin.vllm_ext.schedulers"
    hooks.set_scheduler_class(config, f"{module}.PrebleScheduler", f"{module}.PrebleAsyncScheduler")
    found = config.scheduler_config.get_scheduler_cls()
    assert found.__base__ is (AsyncScheduler if ahead else Scheduler)


def test_the_scheduler_class_is_asked_for_by_the_engine_core_alone() -> None:
    from vllm.v1.engine import core

    assert "scheduler_config.get_scheduler_cls()" in source(core.EngineCore.__init__)


# --- vllm/v1/core/sched/ ---


@pytest.mark.parametrize("ahead", [False, True])
def test_a_scheduler_takes_up_what_our_queue_shows(ahead: bool) -> None:
    from preble_plugin.vllm_ext.schedulers import PrebleAsyncScheduler, PrebleScheduler

    core = Core(PrebleAsyncScheduler if ahead else PrebleScheduler, ahead=ahead, max_num_seqs=1)
    document = tokens(1, 640)
    core.add("document", document)
    core.steps()
    core.add("other", tokens(2, 640))
    core.add("question", [*document, *tokens(3, 20)], tokens=3)
    assert core.steps() == ["question", "other"]
    assert core.hits["question"] == 640


def state(manager: Any) -> Any:
    """The blocks that go next, in order, who refers to each, and what was counted."""
    free = manager.block_pool.free_block_queue.get_all_free_blocks()
    references = [block.ref_cnt for block in manager.block_pool.blocks]
    counted = manager.prefix_cache_stats
    return [block.block_id for block in free], references, (counted.requests, counted.hits)


@pytest.mark.parametrize("attention", [(None,), (256,), (None, 256)])
def test_queue_facts(attention: tuple[int | None, ...]) -> None:
    """A look finds what vLLM would, and leaves everything as it was."""
    from vllm.v1.core.sched.scheduler import Scheduler

    core = Core(Scheduler, blocks=120, attention=attention, max_num_seqs=2)
    facts = hooks.queue_facts(core.scheduler)
    manager = core.scheduler.kv_cache_manager
    assert (facts.own_queue, facts.by_priority) == (core.scheduler.waiting, False)
    looked = 0
    for number in range(40):
        document, length = tokens(number * 7 % 5, 800), 50 + number * 97 % 750
        prompt = [*document[:length], *tokens(number, 10)]
        request = core.request(f"look {number}", prompt)
        before = state(manager)
        found = facts.cached_tokens(request)
        assert state(manager) == before
        assert found == manager.get_computed_blocks(request)[1]
        looked += found
        core.add(f"request {number}", prompt)
        core.steps()
    assert looked > 0


def test_queue_facts_of_requests_that_read_no_cache() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    for window, caching in ((None, True), (256, True), (None, False)):
        core = Core(Scheduler, attention=(window,), enable_prefix_caching=caching)
        document = tokens(1, 640)
        core.add("document", document)
        core.steps()
        request = core.request("again", document)
        request.skip_reading_prefix_cache = caching
        assert hooks.queue_facts(core.scheduler).cached_tokens(request) == 0


def test_the_policy_says_whether_priorities_count() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    core = Core(Scheduler, scheduling_policy="priority")
    assert hooks.queue_facts(core.scheduler).by_priority


def test_prompt_tokens() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    assert hooks.prompt_tokens(Core(Scheduler).request("one", [5] * 40)) == 40


def test_priority() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    core = Core(Scheduler)
    assert hooks.priority(core.request("one", [5])) == 0
    assert hooks.priority(core.request("two", [5], priority=-3)) == -3


# --- vllm/v1/engine/core_client.py ---


def engine_response(**more: Any) -> Any:
    from vllm.v1.engine import EngineCoreReadyResponse

    known = inspect.signature(EngineCoreReadyResponse).parameters
    neutral: dict[Any, Any] = {int: 1, str: "", bool: False}
    values = {
        name: neutral.get(one.annotation)
        for name, one in known.items()
        if one.default is inspect.Parameter.empty
    } | {"max_model_len": 2048, "num_gpu_blocks": 100, "block_size": 32}
    return EngineCoreReadyResponse(**{k: v for k, v in (values | more).items() if k in known})


def shaken_client(core_client: Any, config: Any) -> Any:
    """A client as it is after the handshake of two engines, without processes."""
    import msgspec

    client = object.__new__(core_client.DPLBAsyncMPClient)
    client.vllm_config = config
    client._effective_attention_block_sizes = set()
    client._kv_event_sources = {}
    client.stats_update_address = None
    client.core_engines = [rank.to_bytes(2, "little") for rank in (0, 1)]
    client.lb_engines = [[0, 0, 0.0], [0, 0, 0.0]]
    client.reqs_in_flight = {}
    client.streaming_reqs = set()
    client.engine_inflight = __import__("collections").Counter()
    client.client_count, client.eng_start_index = 1, 0
    from vllm.config.kv_events import KVEventsConfig

    for rank in (0, 1):
        told = KVEventsConfig(enable_kv_cache_events=True, endpoint=f"tcp://10.0.0.{rank}:7")
        response = engine_response(
            data_parallel_rank=rank, kv_events_config=told, effective_attention_block_size=32
        )
        client._apply_ready_response(msgspec.msgpack.encode(response))
    return client


def test_engine_facts(core_client: Any, arg_utils: Any, tiny_model: str) -> None:
    client = shaken_client(core_client, two_ranks(arg_utils, tiny_model).create_engine_config())
    found = hooks.engine_facts(client)
    assert (found.ranks, found.block_size, found.capacity_blocks) == ((0, 1), 32, 99)
    assert (found.drop_blocks, found.max_running > 0) == (0, True)
    assert set(found.sources) == {0, 1}


@pytest.mark.parametrize("method", ["mtp", "ngram"])
def test_engine_facts_of_speculation(
    core_client: Any, arg_utils: Any, tiny_model: str, method: str
) -> None:
    """From 0.33 hashes look ahead, and the last block of a hit is kept."""
    from vllm.config import SpeculativeConfig

    config = two_ranks(arg_utils, tiny_model).create_engine_config()
    client = shaken_client(core_client, config)
    config.speculative_config = object.__new__(SpeculativeConfig)
    config.speculative_config.__dict__.update(
        method=method, disable_eagle_block_drop=False, disable_lookahead_block_hashes=False
    )
    ahead = hasattr(type(config), "num_hash_lookahead_tokens")
    assert hooks.engine_facts(client).drop_blocks == (method == "mtp" and not ahead)


def engine_request(**more: Any) -> Any:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    values = {
        "request_id": "cmpl-1-0-ab",
        "prompt_token_ids": [1, 2, 3],
        "mm_features": None,
        "sampling_params": SamplingParams(max_tokens=5, stop=["x"]),
        "pooling_params": None,
        "arrival_time": 0.0,
        "lora_request": None,
        "cache_salt": None,
        "data_parallel_rank": None,
    }
    return EngineCoreRequest(**(values | more))


def test_request_facts() -> None:
    from vllm.lora.request import LoRARequest

    found = hooks.request_facts(
        engine_request(
            lora_request=LoRARequest("french", 4, "/adapters/french"),
            cache_salt="tenant",
            external_req_id="cmpl-1",
            priority=2,
            session_id="s",
            data_parallel_rank=1,
        )
    )
    assert (found.request_id, found.external_id) == ("cmpl-1-0-ab", "cmpl-1")
    assert (found.tokens, found.prompt_tokens, found.max_output_tokens) == ([1, 2, 3], 3, 5)
    assert (found.lora_name, found.lora_id, found.salt) == ("french", 4, "tenant")
    assert (found.priority, found.session_id, found.fixed_index) == (2, "s", 1)
    assert (found.reads_cache, found.stops_on_text, found.resumable) == (True, True, False)


def test_request_facts_of_multimodal_items() -> None:
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    image = MultiModalFeatureSpec(
        data=None,
        modality="image",
        identifier="hash",
        mm_position=PlaceholderRange(offset=2, length=9),
    )
    assert hooks.request_facts(engine_request(mm_features=[image])).features == (("hash", 2, 9),)


def test_request_facts_of_embeddings() -> None:
    import torch

    found = hooks.request_facts(
        engine_request(prompt_token_ids=None, prompt_embeds=torch.zeros(7, 4))
    )
    assert (found.tokens, found.prompt_tokens) == (None, 7)


@pytest.mark.parametrize(
    ("params", "computes"),
    [
        (None, True),
        ({"do_remote_decode": True}, True),
        ({"do_remote_prefill": False, "do_remote_decode": True}, True),
        ({"do_remote_prefill": True, "remote_block_ids": [[1]], "remote_engine_id": "p"}, False),
    ],
)
def test_request_facts_of_prompts_that_a_connector_brings(
    params: dict[str, Any] | None, computes: bool
) -> None:
    from vllm import SamplingParams
    from vllm.v1.request import Request

    extra = None if params is None else {"kv_transfer_params": params}
    given = engine_request(sampling_params=SamplingParams(extra_args=extra))
    assert Request.from_engine_core_request(given, None).kv_transfer_params == params
    assert hooks.request_facts(given).computes == computes


def test_request_facts_of_requests_that_skip_the_cache() -> None:
    from vllm import PoolingParams, SamplingParams

    prompt_logprobs = engine_request(sampling_params=SamplingParams(prompt_logprobs=1))
    assert not hooks.request_facts(prompt_logprobs).reads_cache
    pooling = engine_request(sampling_params=None, pooling_params=PoolingParams(task="embed"))
    assert hooks.request_facts(pooling).max_output_tokens == 0


def test_placed_by_vllm() -> None:
    from vllm import PoolingParams
    from vllm.v1.pool.late_interaction import build_late_interaction_query_params

    client = SimpleNamespace(core_engines=[b"", b""])
    pinned = PoolingParams(task="token_embed")
    pinned.late_interaction_params = build_late_interaction_query_params("q", 1)
    assert hooks.placed_by_vllm(client, engine_request(pooling_params=pinned))
    assert not hooks.placed_by_vllm(client, engine_request())


def test_output_facts() -> None:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
    from vllm.v1.metrics.stats import PrefillStats

    stats = PrefillStats()
    stats.set(num_prompt_tokens=100, num_local_cached_tokens=32, num_external_cached_tokens=16)
    found = list(
        hooks.output_facts(
            EngineCoreOutputs(
                outputs=[
                    EngineCoreOutput("a", [1, 2], prefill_stats=stats),
                    EngineCoreOutput("b", [], finish_reason=FinishReason.STOP),
                    EngineCoreOutput("c", [], finish_reason=FinishReason.ABORT),
                    EngineCoreOutput("d", [], finish_reason=FinishReason.ERROR),
                ]
            )
        )
    )
    assert found == [
        ("a", 2, True, 32, False, False),
        ("b", 0, False, 0, True, False),
        ("c", 0, False, 0, True, True),
        ("d", 0, False, 0, True, True),
    ]


def test_message_facts() -> None:
    from vllm.v1.engine import EngineCoreOutputs

    assert hooks.message_facts(EngineCoreOutputs(engine_index=3, finished_requests={"a"})) == (
        3,
        {"a"},
    )
    assert not hooks.message_facts(EngineCoreOutputs())[1]


# --- hooks.replace_client ---


class Recorder:
    """A `Dispatcher` that sends every request to one place and takes notes."""

    def __init__(self, index: int | None = None) -> None:
        self.index = index
        self.notes: list[Any] = []

    async def place(self, client: Any, request: Any) -> bool:
        request.data_parallel_rank = self.index
        return True

    def chosen(self, request: Any, rank: int) -> None:
        self.notes.append(("chosen", request.request_id, rank))

    def failed(self, request_id: str) -> None:
        self.notes.append(("failed", request_id))

    def aborting(self, request_ids: Any) -> None:
        self.notes.append(("aborting", list(request_ids)))

    def observe(self, outputs: Any) -> None:
        self.notes.append(("observe", outputs.engine_index))

    def close(self) -> None:
        self.notes.append("close")


@pytest.fixture
def client(
    core_client: Any, arg_utils: Any, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Our client with its engines' sockets replaced by a list of what is sent."""
    hooks.replace_client(lambda _: None, lambda *_: None)
    built = shaken_client(core_client, two_ranks(arg_utils, tiny_model).create_engine_config())
    built.sent = []
    built.current_wave = built.client_index = 0
    built.engines_running = True
    built.resources = SimpleNamespace(engine_dead=False)
    kind = type(built)
    monkeypatch.setattr(kind, "_ensure_stats_update_task", lambda self: None)
    monkeypatch.setattr(kind, "_ensure_output_queue_task", lambda self: None)

    async def sent() -> None:
        return None

    def send(self: Any, kind: Any, request: Any, engine: bytes) -> Any:
        self.sent.append((kind.name, request, engine))
        return sent()

    monkeypatch.setattr(kind, "_send_input", send)
    return built


def test_replace_client(core_client: Any) -> None:
    base = core_client.DPLBAsyncMPClient
    hooks.replace_client(lambda _: None, lambda *_: None)
    replaced = core_client.DPLBAsyncMPClient
    hooks.replace_client(lambda _: None, lambda *_: None)
    assert core_client.DPLBAsyncMPClient is replaced
    assert replaced.__mro__[1] is base
    assert [touch for touch in CONTRACT if touch.fault()] == []  # ours does not stand in its way


@pytest.mark.parametrize("refuses", [0, 1, None])
def test_a_client_that_is_refused_is_shut_down(
    core_client: Any,
    arg_utils: Any,
    tiny_model: str,
    monkeypatch: pytest.MonkeyPatch,
    refuses: int | None,
) -> None:
    """As it asks for its dispatcher, or once it is made."""
    done: list[Any] = []

    def told(*given: Any) -> None:
        done.extend(given[1:])
        if len(given) - 1 == refuses:
            raise CannotWork("refused")

    base = core_client.DPLBAsyncMPClient
    monkeypatch.setattr(base, "__init__", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(base, "shutdown", lambda self, *args, **kwargs: done.append("shut down"))
    hooks.replace_client(told, told)
    config = two_ranks(arg_utils, tiny_model).create_engine_config()
    expected = pytest.raises(CannotWork) if refuses is not None else nullcontext()
    with expected:
        core_client.EngineCoreClient.make_async_mp_client(config, None, False)
    assert done == {0: ["shut down"], 1: [True, "shut down"], None: [True]}[refuses]


@pytest.mark.parametrize("index", [0, 1])
async def test_the_client_obeys_a_placement(client: Any, index: int) -> None:
    client._preble = Recorder(index)
    await client.add_request_async(engine_request())
    assert client.sent[0][2] == index.to_bytes(2, "little")
    assert client._preble.notes == [("chosen", "cmpl-1-0-ab", index)]


async def test_without_a_placement_vllm_chooses_and_we_learn(client: Any) -> None:
    client._preble = Recorder(None)
    for name in ("a", "b"):
        await client.add_request_async(engine_request(request_id=name))
    ranks = [int.from_bytes(engine, "little") for _, _, engine in client.sent]
    assert sorted(ranks) == [0, 1]
    assert client._preble.notes == [("chosen", "a", ranks[0]), ("chosen", "b", ranks[1])]


async def test_a_client_without_a_plan_is_vllms_own(client: Any) -> None:
    await client.add_request_async(engine_request())
    assert len(client.sent) == 1


async def test_the_client_passes_aborts_and_outputs_on(client: Any) -> None:
    from vllm.v1.engine import EngineCoreOutputs

    client._preble = Recorder(1)
    await client.add_request_async(engine_request())
    await client.abort_requests_async(["cmpl-1-0-ab"])
    assert client.sent[-1][0] == "ABORT"
    message = EngineCoreOutputs(engine_index=1, finished_requests={"cmpl-1-0-ab"})
    await type(client).process_engine_outputs(client, message)
    assert client.reqs_in_flight == {}
    assert client._preble.notes[1:] == [("aborting", ["cmpl-1-0-ab"]), ("observe", 1)]


async def test_a_request_that_could_not_be_sent_is_released(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no engine")

    monkeypatch.setattr(type(client), "_send_input", fail)
    client._preble = Recorder(1)
    with pytest.raises(RuntimeError, match="no engine"):
        await client.add_request_async(engine_request())
    assert client._preble.notes[-1] == ("failed", "cmpl-1-0-ab")


async def test_a_request_cancelled_while_it_is_sent_stays_in_flight(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait() -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(type(client), "_send_input", lambda *_: wait())
    client._preble = Recorder(1)
    with pytest.raises(asyncio.CancelledError):
        await client.add_request_async(engine_request())
    assert client._preble.notes == [("chosen", "cmpl-1-0-ab", 1)]
