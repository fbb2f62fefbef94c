"""Each touch of vLLM's private API, and what must hold of it.

`hooks` uses these names and no others. They are verified where an engine's configuration
is prepared, in every process that does that, and `QUEUE` once more in the engine cores.
"""

from __future__ import annotations

import dis
import inspect
from itertools import pairwise
from typing import Any, Final

from preble_plugin.adapter.contract import (
    Touch,
    called,
    coroutine,
    has,
    mentions,
    probe,
    setters,
    static,
    takes,
)

_ARGS: Final = "vllm.engine.arg_utils"
_CLIENT: Final = "vllm.v1.engine.core_client"
_ENGINE: Final = "vllm.v1.engine"
_EVENTS: Final = "vllm.distributed.kv_events"
_SCHED: Final = "vllm.v1.core.sched"


def _known_before_an_await(function: Any) -> bool:
    steps = list(dis.get_instructions(function))
    chosen = [at for at, one in enumerate(steps) if one.argval == "get_core_engine_for_request"]
    waits = [at for at, one in enumerate(steps) if one.opname == "GET_AWAITABLE"]
    return bool(chosen) and all(chosen[0] < at for at in waits)


def _by_rank(offset: Any) -> bool:
    return [offset("ipc:///d/inproc-e", rank) for rank in (0, 3)] == [
        "ipc:///d/inproc-e",
        "ipc:///d/inproc-e_dp3",
    ] and offset("tcp://*:5557", 3) == "tcp://*:5560"


def _ours_is_one(queue: Any) -> bool:
    from preble_plugin.vllm_ext.local_queue import WaitingQueue

    names = queue.__abstractmethods__
    return all(
        called(*inspect.signature(getattr(queue, name)).parameters)(
            getattr(WaitingQueue, name, None)
        )
        is None
        for name in names
    )


def _asks_a_queue(scheduler: Any) -> bool:
    from preble_plugin.vllm_ext.local_queue import WaitingQueue

    asked = {
        then.argval
        for method in vars(scheduler).values()
        if inspect.isfunction(method)
        for step, then in pairwise(dis.get_instructions(method))
        if (step.opname, step.argval) == ("LOAD_ATTR", "waiting")
        and then.opname in ("LOAD_METHOD", "LOAD_ATTR")
    }
    return asked <= set(dir(WaitingQueue))


LAUNCH: Final = (
    Touch("vllm.version", "__version__"),
    Touch(
        "vllm.envs",
        "environment_variables",
        (probe("it has VLLM_USE_RUST_FRONTEND", lambda it: "VLLM_USE_RUST_FRONTEND" in it),),
    ),
    Touch(_ARGS, "EngineArgs.add_cli_args", (static, called(None))),
    Touch(_ARGS, "AsyncEngineArgs.add_cli_args", (mentions("load_general_plugins", "EngineArgs"),)),
    Touch(_ARGS, "EngineArgs.__post_init__", (called(None), mentions("load_general_plugins"))),
    Touch(_ARGS, "EngineArgs.create_engine_config", (called(None, None, False),)),
    Touch(_ARGS, "EngineArgs.additional_config"),
    Touch(_ARGS, "EngineArgs._api_process_count"),
    Touch(_ARGS, "EngineArgs._api_process_rank"),
    Touch("vllm.usage.usage_lib", "UsageContext.LLM_CLASS"),
    Touch(
        "vllm.config",
        "VllmConfig",
        (
            has("parallel_config", "cache_config", "scheduler_config", "speculative_config"),
            has("kv_events_config", "additional_config"),
        ),
    ),
    Touch(
        "vllm.config",
        "ParallelConfig",
        (
            has("data_parallel_size", "data_parallel_size_local", "data_parallel_backend"),
            has("data_parallel_hybrid_lb", "data_parallel_external_lb", "data_parallel_index"),
            has("nnodes", "_api_process_count", "_api_process_rank"),
        ),
    ),
    Touch("vllm.config", "CacheConfig", (has("enable_prefix_caching"),)),
    Touch(
        "vllm.config",
        "SchedulerConfig",
        (has("scheduler_cls", "async_scheduling", "get_scheduler_cls"),),
    ),
    Touch(
        "vllm.config.kv_events",
        "KVEventsConfig",
        (
            has("enable_kv_cache_events", "publisher", "topic", "buffer_steps"),
            called(enable_kv_cache_events=True, publisher="zmq", endpoint="", replay_endpoint=""),
        ),
    ),
    Touch(
        _EVENTS,
        "ZmqEventPublisher.offset_endpoint_port",
        (static, probe("it tells the endpoints of ranks apart", _by_rank)),
    ),
    Touch(
        f"{_SCHED}.scheduler",
        "Scheduler.__init__",
        (mentions("data_parallel_index", "use_eagle_block_drop"),),
    ),
)
"""Where the configuration of an engine is built."""

CLIENT: Final = (
    Touch(
        _CLIENT,
        "DPLBAsyncMPClient",
        (
            has("core_engines", "reqs_in_flight", "vllm_config"),
            probe("it is vLLM's own", lambda it: it.__module__ == _CLIENT),
        ),
    ),
    Touch(
        _CLIENT,
        "EngineCoreClient.make_async_mp_client",
        (static, mentions("DPLBAsyncMPClient"), called(None, None, False)),
    ),
    Touch(_CLIENT, "DPLBAsyncMPClient.add_request_async", (coroutine, takes("self", "request"))),
    Touch(
        _CLIENT,
        "DPAsyncMPClient.add_request_async",
        (probe("nothing is awaited before a request is known", _known_before_an_await),),
    ),
    Touch(
        _CLIENT,
        "DPLBAsyncMPClient.get_core_engine_for_request",
        (takes("self", "request"), mentions("data_parallel_rank", "reqs_in_flight")),
    ),
    Touch(
        _CLIENT,
        "DPLBAsyncMPClient.abort_requests_async",
        (coroutine, takes("self", "request_ids")),
    ),
    Touch(
        _CLIENT,
        "DPLBAsyncMPClient.process_engine_outputs",
        (static, coroutine, takes("self", "outputs")),
    ),
    Touch(
        _CLIENT, "AsyncMPClient._ensure_output_queue_task", (mentions("process_engine_outputs"),)
    ),
    Touch(_CLIENT, "DPLBAsyncMPClient.shutdown"),
    Touch(_CLIENT, "DPLBAsyncMPClient.get_kv_event_sources", (takes("self"),)),
    Touch(
        _CLIENT,
        "MPClient._apply_ready_response",
        (mentions("num_gpu_blocks", "block_size", "effective_attention_block_size"),),
    ),
    Touch(_EVENTS, "ZmqEventPublisher._bind"),
    Touch("vllm.config", "SpeculativeConfig.use_eagle_block_drop", (takes("self"),)),
    Touch(
        _ENGINE,
        "EngineCoreRequest",
        (
            has("request_id", "external_req_id", "prompt_token_ids", "prompt_embeds"),
            has("mm_features", "sampling_params", "pooling_params", "lora_request", "cache_salt"),
            has("priority", "session_id", "data_parallel_rank", "resumable"),
        ),
    ),
    Touch(
        _ENGINE,
        "EngineCoreOutput",
        (has("request_id", "new_token_ids", "prefill_stats", "finish_reason"),),
    ),
    Touch(_ENGINE, "EngineCoreOutputs", (has("engine_index", "outputs", "finished_requests"),)),
    Touch(_ENGINE, "FinishReason.ABORT", (probe("it is 2", lambda it: it == 2),)),
    Touch(_ENGINE, "FinishReason.ERROR", (probe("it is 3", lambda it: it == 3),)),
    Touch("vllm.v1.metrics.stats", "PrefillStats.num_local_cached_tokens"),
    Touch("vllm.v1.request", "Request.take_prefill_stats", (mentions("prefill_stats"),)),
    Touch(
        "vllm.v1.request",
        "Request.get_skip_reading_prefix_cache",
        (mentions("skip_reading_prefix_cache"),),
    ),
    Touch("vllm.lora.request", "LoRARequest", (has("lora_name", "adapter_id"),)),
    Touch("vllm.multimodal.inputs", "MultiModalFeatureSpec", (has("identifier", "mm_position"),)),
    Touch("vllm.multimodal.inputs", "PlaceholderRange", (has("offset", "length"),)),
    Touch(
        "vllm.sampling_params",
        "SamplingParams",
        (has("max_tokens", "stop", "skip_reading_prefix_cache"),),
    ),
    Touch("vllm.pooling_params", "PoolingParams.skip_reading_prefix_cache"),
    Touch(
        "vllm.v1.pool.late_interaction",
        "get_late_interaction_engine_index",
        (called(None, 2),),
    ),
)
"""Where requests are dispatched among ranks."""

QUEUE: Final = (
    Touch(f"{_SCHED}.scheduler", "Scheduler.schedule"),
    Touch(
        f"{_SCHED}.scheduler",
        "Scheduler",
        (
            has("waiting", "kv_holding_waiting", "policy", "kv_cache_manager", "kv_cache_config"),
            probe("__init__ alone sets waiting", lambda it: setters(it, "waiting") == ["__init__"]),
            probe("a queue of ours has what it asks of waiting", _asks_a_queue),
        ),
    ),
    Touch(
        f"{_SCHED}.async_scheduler",
        "AsyncScheduler",
        (probe("it is a Scheduler", lambda it: it.__mro__[1].__name__ == "Scheduler"),),
    ),
    Touch(
        f"{_SCHED}.request_queue",
        "RequestQueue",
        (probe("a queue of ours is one", _ours_is_one),),
    ),
    Touch(
        "vllm.v1.core.kv_cache_manager",
        "KVCacheManager",
        (has("coordinator", "block_pool", "prefix_cache_lookup_enabled"),),
    ),
    Touch(
        "vllm.v1.core.kv_cache_coordinator",
        "KVCacheCoordinator.find_longest_cache_hit",
        (called(None, (), 0),),
    ),
    Touch("vllm.v1.core.block_pool", "BlockPool", (has("hash_block_size", "null_block"),)),
    Touch("vllm.v1.core.block_pool", "BlockPool.get_cached_block", (called(None, b"", [0]),)),
    Touch("vllm.v1.kv_cache_interface", "FullAttentionSpec"),
    Touch("vllm.v1.kv_cache_interface", "KVCacheConfig.kv_cache_groups"),
    Touch("vllm.v1.kv_cache_interface", "KVCacheGroupSpec.kv_cache_spec"),
    Touch(
        "vllm.v1.request",
        "Request",
        (has("block_hashes", "num_tokens", "num_prompt_tokens", "priority"),),
    ),
)
"""Where a rank takes up what waits."""

CONTRACT: Final = (*LAUNCH, *CLIENT, *QUEUE)
