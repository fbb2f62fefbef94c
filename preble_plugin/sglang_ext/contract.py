"""Each touch of SGLang's private API, and what must hold of it.

`hooks` uses these names and no others. The launching process verifies all of them before
it spawns anything, a controller `CONTROLLER` and a scheduler `SCHEDULER` once more.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Final

from preble_plugin.adapter.contract import Touch, called, has, mentions, probe, static, takes

_ARGS: Final = "sglang.srt.server_args"
_COMPONENTS: Final = "sglang.srt.managers.scheduler_components"
_CONTROLLER: Final = "sglang.srt.managers.data_parallel_controller"
_ENGINE: Final = "sglang.srt.entrypoints.engine"
_EVENTS: Final = "sglang.srt.disaggregation.kv_events"
_IO: Final = "sglang.srt.managers.io_struct"
_LOADS: Final = "sglang.srt.managers.load_snapshot"
_POLICY: Final = "sglang.srt.managers.schedule_policy"
_REGISTRY: Final = "sglang.srt.plugins.hook_registry"
_OF_A_LOOP: Final = {
    *("soft_watchdog", "feed", "sock_recv", "recv_from_tokenizer", "_request_dispatcher"),
    *("zmq", "NOBLOCK", "ZMQError"),
}


def _by_rank(offset: Any) -> bool:
    return [offset("ipc:///d/inproc-e", rank) for rank in (0, 3)] == [
        "ipc:///d/inproc-e",
        "ipc:///d/inproc-e_dp3",
    ] and offset("tcp://*:5557", 3) == "tcp://*:5560"


def _counts_what_it_dispatches(budget: Any) -> bool:
    made = budget(2)
    method = sys.modules[budget.__module__].LoadBalanceMethod.TOTAL_TOKENS
    ranks = [made.dispatch(method, 5), made.dispatch(method, 5)]
    return (ranks, made.total_requests) == ([0, 1], [1, 1])


def _names(function: Any) -> set[str]:
    return set(inspect.unwrap(function).__code__.co_names)


LAUNCH: Final = (
    Touch("sglang.version", "__version__"),
    Touch("sglang.srt.environ", "envs", (has("SGLANG_RUST_SERVER"),)),
    Touch("sglang.srt.plugins", "load_plugins", (mentions("apply_hooks"),)),
    Touch(_REGISTRY, "HookType", (has("BEFORE", "AFTER", "AROUND"),)),
    Touch(_REGISTRY, "HookRegistry._patched"),
    Touch(_REGISTRY, "HookRegistry.register", (called(None, "target", print, None),)),
    Touch(_REGISTRY, "HookRegistry.apply_hooks", (called(None),)),
    Touch(_REGISTRY, "HookRegistry._apply_target", (called(None, "target", []),)),
    Touch(
        _ARGS,
        "ServerArgs",
        (
            has("dp_size", "attn_dp_size", "nnodes", "use_ray", "max_ep_size", "page_size"),
            has("disable_radix_cache", "disaggregation_mode", "kv_events_config"),
            has("schedule_policy", "dllm_algorithm", "load_balance_method"),
            has("max_running_requests", "speculative_algorithm"),
        ),
    ),
    Touch(_ARGS, "ServerArgs.add_cli_args", (static, called(None))),
    Touch(_ARGS, "ServerArgs.from_cli_args", (called(None, None),)),
    Touch(_ARGS, "ServerArgs.check_server_args", (called(None),)),
    Touch("sglang.srt.arg_groups.overrides", "resolving_view", (called(None),)),
    Touch(
        "sglang.srt.arg_groups.overrides",
        "declare_resolution",
        (called(None, "preble", load_balance_method="total_tokens"),),
    ),
    Touch(_ENGINE, "Engine.server_args_class"),
    Touch(_ENGINE, "Engine.__init__", (mentions("load_plugins", "server_args_class"),)),
    Touch(_ENGINE, "Engine._launch_subprocesses", (mentions("load_plugins", "check_server_args"),)),
    Touch(
        _EVENTS,
        "KVEventsConfig",
        (
            has("publisher", "endpoint", "replay_endpoint", "buffer_steps", "topic", "bind"),
            has("format", "from_cli"),
        ),
    ),
    Touch(
        _EVENTS,
        "ZmqEventPublisher.offset_endpoint_port",
        (static, probe("it tells the endpoints of ranks apart", _by_rank)),
    ),
    Touch(
        _LOADS,
        "_LOAD_AWARE_METHODS",
        (probe("the controller owns the loads of total_tokens", lambda it: "total_tokens" in it),),
    ),
)
"""Where a server is launched."""

CONTROLLER: Final = (
    Touch(
        _CONTROLLER,
        "run_data_parallel_controller_process",
        (mentions("load_plugins", "DataParallelController", "event_loop"),),
    ),
    Touch(
        _CONTROLLER,
        "DataParallelController",
        (
            has("dispatching", "workers", "status", "_active_workers", "max_total_num_tokens"),
            has("server_args", "recv_from_tokenizer", "soft_watchdog", "load_snapshot_reader"),
            has("_request_dispatcher", "dp_budget", "round_robin_counter"),
        ),
    ),
    Touch(_CONTROLLER, "DataParallelController.__init__", (mentions("dispatching"),)),
    Touch(
        _CONTROLLER,
        "DataParallelController.event_loop",
        (
            takes("self"),
            probe("it does what ours does", lambda it: _names(it) == _OF_A_LOOP),
        ),
    ),
    Touch(
        _CONTROLLER,
        "DataParallelController.dispatching_with_trace",
        (mentions("dispatching", "dispatch_health_check"),),
    ),
    Touch(
        _CONTROLLER,
        "DataParallelController.round_robin_scheduler",
        (takes("self", "req"), mentions("round_robin_counter", "_active_workers", "status")),
    ),
    Touch(
        _CONTROLLER,
        "DataParallelController.total_tokens_scheduler",
        (takes("self", "req"), mentions("dp_budget", "input_ids")),
    ),
    Touch(
        _CONTROLLER,
        "DataParallelController.maybe_external_dp_rank_routing",
        (takes("self", "req"), mentions("routed_dp_rank")),
    ),
    Touch(
        _CONTROLLER,
        "DPBudget",
        (
            has("num_dp_ranks"),
            probe("it counts what it dispatches", _counts_what_it_dispatches),
        ),
    ),
    Touch("sglang.srt.utils.watchdog", "Watchdog.feed", (called(None),)),
    Touch(_IO, "sock_send", (called(None, None),)),
    Touch(_IO, "sock_recv", (called(None, flags=0),)),
    Touch(
        _IO,
        "TokenizedGenerateReqInput",
        (
            has("rid", "input_ids", "sampling_params", "lora_id", "extra_key", "cache_salt"),
            has("priority", "routed_dp_rank", "session_params", "input_embeds", "mm_inputs"),
            has("return_logprob", "logprob_start_len", "positional_embed_overrides", "stream"),
            has("need_wait_for_mm_inputs", "bootstrap_host"),
        ),
    ),
    Touch(
        _IO,
        "TokenizedEmbeddingReqInput",
        (
            has("rid", "input_ids", "sampling_params", "lora_id", "mm_inputs"),
            has("priority", "routed_dp_rank"),
        ),
    ),
    Touch(_LOADS, "ShmLoadSnapshotReader.read_all", (called(None),)),
    Touch(
        _LOADS,
        "LoadSnapshot",
        (
            has("dp_rank", "timestamp", "num_running_reqs", "num_waiting_reqs"),
            has("num_waiting_uncached_tokens", "total_prefill_uncached_tokens"),
            has("total_prefill_busy_us", "decode_moments", "queues", "disaggregation"),
        ),
    ),
    Touch(_LOADS, "QueueMetrics.grammar"),
    Touch(_LOADS, "DisaggregationMetrics.prefill_inflight_queue_reqs"),
    Touch("sglang.srt.speculative.spec_info", "SpeculativeAlgorithm.from_string"),
    Touch("sglang.srt.speculative.spec_info", "SpeculativeAlgorithm.is_eagle"),
)
"""Where requests are dispatched among ranks."""

SCHEDULER: Final = (
    Touch(f"{_COMPONENTS}.output_sender", "SenderWrapper.socket"),
    Touch(
        f"{_COMPONENTS}.output_sender",
        "SenderWrapper.send_output",
        (takes("self", "output", "recv_obj"),),
    ),
    Touch(
        f"{_COMPONENTS}.batch_result_processor",
        "SchedulerBatchResultProcessor.process_batch_result_prefill",
        (takes("self", "batch", "result"), mentions("output_streamer", "stream_output")),
    ),
    Touch(
        f"{_COMPONENTS}.output_streamer",
        "SchedulerOutputStreamer.send_to_detokenizer",
    ),
    Touch(_IO, "AbortReq.rid"),
    Touch(
        _IO,
        "BatchTokenIDOutput",
        (has("rids", "finished_reasons", "cached_tokens", "completion_tokens"),),
    ),
    Touch(_IO, "BatchEmbeddingOutput", (has("rids", "finished_reasons", "cached_tokens"),)),
    Touch(
        "sglang.srt.managers.schedule_batch",
        "Req",
        (
            has("rid", "cached_tokens", "output_ids", "finished", "origin_input_ids", "priority"),
            has("extra_key", "cache_salt", "session", "num_matched_prefix_tokens"),
        ),
    ),
    Touch(
        _POLICY,
        "SchedulePolicy",
        (has("policy", "tree_cache", "enable_priority_scheduling", "priority_sign"),),
    ),
    Touch(
        _POLICY,
        "SchedulePolicy.calc_priority",
        (called(None, waiting_queue=[], running_batch=None),),
    ),
    Touch(_POLICY, "match_kv_cache", (called(None, None),)),
    Touch(
        _POLICY,
        "SchedulePolicy._compute_prefix_matches",
        (
            mentions("match_kv_cache", "IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD"),
            mentions("IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD"),
        ),
    ),
    Touch(_POLICY, "IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD"),
    Touch(_POLICY, "IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD"),
    Touch("sglang.srt.managers.scheduler", "Scheduler", (has("policy", "waiting_queue"),)),
    Touch(
        "sglang.srt.managers.scheduler",
        "Scheduler.get_new_batch_prefill",
        (takes("self", "running_batch"), mentions("_get_new_batch_prefill_raw")),
    ),
    Touch(
        "sglang.srt.managers.scheduler",
        "Scheduler._get_new_batch_prefill_raw",
        (mentions("calc_priority", "waiting_queue"),),
    ),
)
"""Where requests wait on a rank, run and end."""

CONTRACT: Final = (*LAUNCH, *CONTROLLER, *SCHEDULER)
