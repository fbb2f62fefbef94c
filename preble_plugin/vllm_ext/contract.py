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
    TELLS_RANKS_APART,
    called,
    coroutine,
    has,
    mentions,
    probe,
    setters,
    static,
    takes,
    touches,
)

_ARG_UTILS: Final = "vllm.engine.arg_utils"
_ARGS: Final = f"{_ARG_UTILS}:EngineArgs"
_EVENTS: Final = "vllm.distributed.kv_events"
_KV: Final = "vllm.v1.kv_cache_interface"
_CLIENT: Final = "vllm.v1.engine.core_client"
_DPLB: Final = f"{_CLIENT}:DPLBAsyncMPClient"
_INIT: Final = ["__init__"]
_RUST: Final = "VLLM_USE_RUST_FRONTEND"
_SCHED: Final = "vllm.v1.core.sched"


def _known_before_an_await(function: Any) -> bool:
    steps = list(dis.get_instructions(function))
    chosen = [at for at, one in enumerate(steps) if one.argval == "get_core_engine_for_request"]
    waits = [at for at, one in enumerate(steps) if one.opname == "GET_AWAITABLE"]
    return bool(chosen) and all(chosen[0] < at for at in waits)


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


def _states_lookahead(core: Any) -> bool:
    hashes = inspect.signature(core.__globals__["get_request_block_hasher"])
    told = core.__code__.co_names
    return len(hashes.parameters) == 2 or "num_hash_lookahead_tokens" in told


def _drops_or_looks_ahead(function: Any) -> bool:
    named = [one.argval for one in dis.get_instructions(function)]
    if "num_hash_lookahead_tokens" not in named:
        return True
    then = named[named.index("num_hash_lookahead_tokens") :]
    stored = zip(then, then[2:], strict=False)  # a constant, whose attribute, which
    return any(value is False and name == "use_eagle_block_drop" for value, name in stored)


LAUNCH: Final = touches(
    {
        "vllm.version:__version__": (),
        "vllm.envs:environment_variables": [probe(f"it has {_RUST}", lambda it: _RUST in it)],
        f"{_ARGS}.add_cli_args": [static, called(None)],
        f"{_ARG_UTILS}:AsyncEngineArgs.add_cli_args": [mentions("load_general_plugins EngineArgs")],
        f"{_ARGS}.__post_init__": [called(None), mentions("load_general_plugins")],
        f"{_ARGS}.create_engine_config": [called(None, None, False)],
        f"{_ARGS}.additional_config": (),
        f"{_ARGS}._api_process_count": (),
        f"{_ARGS}._api_process_rank": (),
        "vllm.usage.usage_lib:UsageContext.LLM_CLASS": (),
        "vllm.config:VllmConfig": [
            has("parallel_config cache_config scheduler_config speculative_config"),
            has("kv_events_config additional_config"),
        ],
        "vllm.config:ParallelConfig": [
            has("data_parallel_size data_parallel_size_local data_parallel_backend nnodes"),
            has("data_parallel_hybrid_lb data_parallel_external_lb data_parallel_index"),
            has("_api_process_count _api_process_rank"),
        ],
        "vllm.config:CacheConfig.enable_prefix_caching": (),
        "vllm.config:SchedulerConfig": [has("scheduler_cls async_scheduling get_scheduler_cls")],
        "vllm.config.kv_events:KVEventsConfig": [
            has("enable_kv_cache_events publisher endpoint replay_endpoint topic buffer_steps")
        ],
        "vllm.v1.engine.core:EngineCore.__init__": [
            probe("VllmConfig states how far its hashes look ahead", _states_lookahead)
        ],
        f"{_EVENTS}:ZmqEventPublisher.offset_endpoint_port": [static, TELLS_RANKS_APART],
        f"{_EVENTS}:ZmqEventPublisher._bind": (),
        f"{_SCHED}.scheduler:Scheduler.__init__": [
            mentions("data_parallel_index use_eagle_block_drop"),
            probe("hashes that look ahead let no block be dropped", _drops_or_looks_ahead),
        ],
    }
)
"""Where the configuration of an engine is built."""

CLIENT: Final = touches(
    {
        f"{_CLIENT}:EngineCoreClient.make_async_mp_client": [static, mentions("DPLBAsyncMPClient")],
        f"{_DPLB}": [
            has("core_engines reqs_in_flight vllm_config shutdown"),
            probe("it is vLLM's own", lambda it: it.__module__ == _CLIENT),
        ],
        f"{_DPLB}.add_request_async": [coroutine, takes("self", "request")],
        f"{_CLIENT}:DPAsyncMPClient.add_request_async": [
            probe("nothing is awaited before a request is known", _known_before_an_await)
        ],
        f"{_DPLB}.get_core_engine_for_request": [
            takes("self", "request"),
            mentions("data_parallel_rank reqs_in_flight"),
        ],
        f"{_DPLB}.abort_requests_async": [coroutine, takes("self", "request_ids")],
        f"{_DPLB}.process_engine_outputs": [static, coroutine, takes("self", "outputs")],
        f"{_CLIENT}:AsyncMPClient._ensure_output_queue_task": [mentions("process_engine_outputs")],
        f"{_DPLB}.get_kv_event_sources": [takes("self")],
        f"{_CLIENT}:MPClient._apply_ready_response": [
            mentions("num_gpu_blocks block_size effective_attention_block_size")
        ],
        "vllm.config:SpeculativeConfig.use_eagle_block_drop": [takes("self")],
        "vllm.v1.engine:EngineCoreRequest": [
            has("request_id external_req_id prompt_token_ids prompt_embeds mm_features"),
            has("sampling_params pooling_params lora_request cache_salt priority session_id"),
            has("data_parallel_rank resumable"),
        ],
        "vllm.v1.engine:EngineCoreOutput": [
            has("request_id new_token_ids prefill_stats finish_reason")
        ],
        "vllm.v1.engine:EngineCoreOutputs": [has("engine_index outputs finished_requests")],
        "vllm.v1.engine:FinishReason.ABORT": [probe("it is 2", lambda it: it == 2)],
        "vllm.v1.engine:FinishReason.ERROR": [probe("it is 3", lambda it: it == 3)],
        "vllm.v1.metrics.stats:PrefillStats.num_local_cached_tokens": (),
        "vllm.lora.request:LoRARequest": [has("lora_name adapter_id")],
        "vllm.multimodal.inputs:MultiModalFeatureSpec": [has("identifier mm_position")],
        "vllm.multimodal.inputs:PlaceholderRange": [has("offset length")],
        "vllm.sampling_params:SamplingParams": [
            has("max_tokens stop skip_reading_prefix_cache extra_args")
        ],
        "vllm.v1.request:Request.__init__": [mentions("extra_args kv_transfer_params")],
        "vllm.pooling_params:PoolingParams.skip_reading_prefix_cache": (),
        "vllm.v1.pool.late_interaction:get_late_interaction_engine_index": [called(None, 2)],
    }
)
"""Where requests are dispatched among ranks."""

QUEUE: Final = touches(
    {
        f"{_SCHED}.scheduler:Scheduler": [
            has("waiting kv_holding_waiting policy kv_cache_manager kv_cache_config schedule"),
            probe("__init__ alone sets waiting", lambda it: setters(it, "waiting") == _INIT),
            probe("a queue of ours has what it asks of waiting", _asks_a_queue),
        ],
        f"{_SCHED}.async_scheduler:AsyncScheduler": [
            probe("it is a Scheduler", lambda it: it.__mro__[1].__name__ == "Scheduler")
        ],
        f"{_SCHED}.request_queue:RequestQueue": [probe("a queue of ours is one", _ours_is_one)],
        "vllm.v1.core.kv_cache_manager:KVCacheManager": [
            has("coordinator block_pool prefix_cache_lookup_enabled")
        ],
        "vllm.v1.core.kv_cache_coordinator:KVCacheCoordinator.find_longest_cache_hit": [
            called(None, (), 0)
        ],
        "vllm.v1.core.block_pool:BlockPool": [has("hash_block_size null_block")],
        "vllm.v1.core.block_pool:BlockPool.get_cached_block": [called(None, b"", [0])],
        f"{_KV}:FullAttentionSpec": (),
        f"{_KV}:KVCacheConfig.kv_cache_groups": (),
        f"{_KV}:KVCacheGroupSpec.kv_cache_spec": (),
        "vllm.v1.request:Request": [has("block_hashes num_tokens num_prompt_tokens priority")],
        "vllm.v1.request:Request.take_prefill_stats": [mentions("prefill_stats")],
        "vllm.v1.request:Request.get_skip_reading_prefix_cache": [
            mentions("skip_reading_prefix_cache")
        ],
    }
)
"""Where a rank takes up what waits."""

CONTRACT: Final = (*LAUNCH, *CLIENT, *QUEUE)
