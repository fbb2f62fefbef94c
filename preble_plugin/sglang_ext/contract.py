"""Each touch of SGLang's private API, and what must hold of it.

`hooks` uses these names and no others. The launching process verifies all of them before
it spawns anything, a controller `CONTROLLER` and a scheduler `SCHEDULER` once more.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Final

from preble_plugin.adapter.contract import (
    TELLS_RANKS_APART,
    called,
    has,
    mentions,
    probe,
    static,
    takes,
    touches,
)

_ARGS: Final = "sglang.srt.server_args:ServerArgs"
_COMPONENTS: Final = "sglang.srt.managers.scheduler_components"
_CONTROLLER: Final = "sglang.srt.managers.data_parallel_controller"
_DPC: Final = f"{_CONTROLLER}:DataParallelController"
_ENGINE: Final = "sglang.srt.entrypoints.engine"
_CONN: Final = "sglang.srt.disaggregation.common.conn"
_EVENTS: Final = "sglang.srt.disaggregation.kv_events"
_IO: Final = "sglang.srt.managers.io_struct"
_MEMORY: Final = "sglang.srt.mem_cache"
_LOADS: Final = "sglang.srt.managers.load_snapshot"
_RESULTS: Final = f"{_COMPONENTS}.batch_result_processor:SchedulerBatchResultProcessor"
_SCHEDULER: Final = "sglang.srt.managers.scheduler:Scheduler"
_OVERRIDES: Final = "sglang.srt.arg_groups.overrides"
_SPEC: Final = "sglang.srt.speculative.spec_info"
_POLICY: Final = "sglang.srt.managers.schedule_policy"
_REGISTRY: Final = "sglang.srt.plugins.hook_registry"
_HOOKS: Final = f"{_REGISTRY}:HookRegistry"
_ORDER: Final = f"{_POLICY}:SchedulePolicy"
_SENDER: Final = f"{_COMPONENTS}.output_sender:SenderWrapper"
_OF_A_LOOP: Final = {
    *("soft_watchdog", "feed", "sock_recv", "recv_from_tokenizer", "_request_dispatcher"),
    *("zmq", "NOBLOCK", "ZMQError"),
}


def _counts_what_it_dispatches(budget: Any) -> bool:
    made = budget(2)
    method = sys.modules[budget.__module__].LoadBalanceMethod.TOTAL_TOKENS
    ranks = [made.dispatch(method, 5), made.dispatch(method, 5)]
    return (ranks, made.total_requests) == ([0, 1], [1, 1])


def _names(function: Any) -> set[str]:
    return set(inspect.unwrap(function).__code__.co_names)


LAUNCH: Final = touches(
    {
        "sglang.version:__version__": (),
        "sglang.srt.environ:envs": [has("SGLANG_RUST_SERVER")],
        "sglang.srt.plugins:load_plugins": [mentions("apply_hooks")],
        f"{_REGISTRY}:HookType": [has("BEFORE AFTER AROUND")],
        f"{_HOOKS}._patched": (),
        f"{_HOOKS}.register": [called(None, "target", print, None)],
        f"{_HOOKS}.apply_hooks": [called(None)],
        f"{_HOOKS}._apply_target": [called(None, "target", [])],
        f"{_ARGS}": [
            has("dp_size attn_dp_size nnodes use_ray max_ep_size page_size"),
            has("disable_radix_cache disaggregation_mode kv_events_config"),
            has("schedule_policy dllm_algorithm load_balance_method"),
            has("max_running_requests speculative_algorithm"),
        ],
        f"{_ARGS}.add_cli_args": [static, called(None)],
        f"{_ARGS}.from_cli_args": [called(None, None)],
        f"{_ARGS}.check_server_args": [called(None)],
        f"{_OVERRIDES}:resolving_view": [called(None)],
        f"{_OVERRIDES}:declare_resolution": [
            called(None, "preble", load_balance_method="total_tokens")
        ],
        f"{_ENGINE}:Engine.server_args_class": (),
        f"{_ENGINE}:Engine.__init__": [mentions("load_plugins server_args_class")],
        f"{_ENGINE}:Engine._launch_subprocesses": [mentions("load_plugins check_server_args")],
        f"{_EVENTS}:KVEventsConfig": [
            has("publisher endpoint replay_endpoint buffer_steps topic bind"),
            has("format from_cli"),
        ],
        f"{_EVENTS}:ZmqEventPublisher.offset_endpoint_port": [static, TELLS_RANKS_APART],
        f"{_LOADS}:_LOAD_AWARE_METHODS": [
            probe("the controller owns the loads of total_tokens", lambda it: "total_tokens" in it)
        ],
    }
)
"""Where a server is launched."""

CONTROLLER: Final = touches(
    {
        f"{_CONTROLLER}:run_data_parallel_controller_process": [
            mentions("load_plugins DataParallelController event_loop")
        ],
        f"{_DPC}": [
            has("dispatching workers status _active_workers max_total_num_tokens"),
            has("server_args recv_from_tokenizer soft_watchdog load_snapshot_reader"),
            has("_request_dispatcher dp_budget round_robin_counter"),
        ],
        f"{_DPC}.__init__": [mentions("dispatching")],
        f"{_DPC}.event_loop": [
            takes("self"),
            probe("it does what ours does", lambda it: _names(it) == _OF_A_LOOP),
        ],
        f"{_DPC}.dispatching_with_trace": [mentions("dispatching dispatch_health_check")],
        f"{_DPC}.round_robin_scheduler": [
            takes("self", "req"),
            mentions("round_robin_counter _active_workers status"),
        ],
        f"{_DPC}.total_tokens_scheduler": [takes("self", "req"), mentions("dp_budget input_ids")],
        f"{_DPC}.maybe_external_dp_rank_routing": [
            takes("self", "req"),
            mentions("routed_dp_rank"),
        ],
        f"{_CONTROLLER}:DPBudget": [
            has("num_dp_ranks"),
            probe("it counts what it dispatches", _counts_what_it_dispatches),
        ],
        "sglang.srt.utils.watchdog:Watchdog.feed": [called(None)],
        f"{_IO}:sock_send": [called(None, None)],
        f"{_IO}:sock_recv": [called(None, flags=0)],
        f"{_IO}:TokenizedGenerateReqInput": [
            has("rid input_ids sampling_params lora_id extra_key cache_salt"),
            has("priority routed_dp_rank session_params input_embeds mm_inputs"),
            has("return_logprob logprob_start_len positional_embed_overrides stream"),
            has("need_wait_for_mm_inputs bootstrap_host"),
        ],
        f"{_IO}:TokenizedEmbeddingReqInput": [
            has("rid input_ids sampling_params lora_id mm_inputs"),
            has("priority routed_dp_rank"),
        ],
        f"{_LOADS}:ShmLoadSnapshotReader.read_all": [called(None)],
        f"{_LOADS}:LoadSnapshot": [
            has("dp_rank timestamp num_running_reqs num_waiting_reqs"),
            has("num_waiting_uncached_tokens total_prefill_uncached_tokens"),
            has("total_prefill_busy_us decode_moments queues disaggregation"),
        ],
        f"{_LOADS}:QueueMetrics.grammar": (),
        f"{_LOADS}:DisaggregationMetrics.prefill_inflight_queue_reqs": (),
        f"{_SPEC}:SpeculativeAlgorithm.from_string": (),
        f"{_SPEC}:SpeculativeAlgorithm.is_eagle": (),
    }
)
"""Where requests are dispatched among ranks."""

SCHEDULER: Final = touches(
    {
        f"{_CONN}:CommonKVManager.__init__": [mentions("attn_dp_rank system_dp_rank dp_size")],
        f"{_CONN}:CommonKVSender.__init__": [mentions("_register_prefill_dp_rank")],
        f"{_CONN}:CommonKVSender._register_prefill_dp_rank": [
            takes("self"),
            mentions("kv_mgr attn_dp_rank"),
        ],
        f"{_MEMORY}.unified_radix_cache:UnifiedRadixCache": [
            has("cache_controller ongoing_backup page_size")
        ],
        f"{_MEMORY}.unified_radix_cache:UnifiedRadixCache._drain_storage_control_queues_impl": [
            mentions("ongoing_backup ack_backup_queue")
        ],
        f"{_MEMORY}.unified_radix_cache:UnifiedRadixCache.take_events": [takes("self")],
        "sglang.srt.managers.cache_controller:StorageOperation": [
            has("id hash_value completed_tokens")
        ],
        f"{_MEMORY}.utils:hash_str_to_int64": [called("00")],
        f"{_EVENTS}:BlockStored": [called([], None, [], 0, None, None)],
        f"{_EVENTS}:StorageMedium.EXTERNAL": (),
        f"{_SENDER}.socket": (),
        f"{_SENDER}.send_output": [takes("self", "output", "recv_obj")],
        f"{_RESULTS}.process_batch_result_prefill": [
            takes("self", "batch", "result"),
            mentions("output_streamer stream_output"),
        ],
        f"{_COMPONENTS}.output_streamer:SchedulerOutputStreamer.send_to_detokenizer": (),
        f"{_IO}:AbortReq.rid": (),
        f"{_IO}:BatchTokenIDOutput": [has("rids finished_reasons cached_tokens completion_tokens")],
        f"{_IO}:BatchEmbeddingOutput": [has("rids finished_reasons cached_tokens")],
        "sglang.srt.managers.schedule_batch:Req": [
            has("rid cached_tokens output_ids finished origin_input_ids priority"),
            has("extra_key cache_salt session num_matched_prefix_tokens"),
        ],
        f"{_ORDER}": [has("policy tree_cache enable_priority_scheduling priority_sign")],
        f"{_ORDER}.calc_priority": [called(None, waiting_queue=[], running_batch=None)],
        f"{_POLICY}:match_kv_cache": [called(None, None)],
        f"{_ORDER}._compute_prefix_matches": [
            mentions("match_kv_cache IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD"),
            mentions("IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD"),
        ],
        f"{_POLICY}:IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD": (),
        f"{_POLICY}:IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD": (),
        f"{_SCHEDULER}": [has("policy waiting_queue")],
        f"{_SCHEDULER}.get_new_batch_prefill": [
            takes("self", "running_batch"),
            mentions("_get_new_batch_prefill_raw"),
        ],
        f"{_SCHEDULER}._get_new_batch_prefill_raw": [mentions("calc_priority waiting_queue")],
    }
)
"""Where requests wait on a rank, run and end."""

CONTRACT: Final = (*LAUNCH, *CONTROLLER, *SCHEDULER)
