"""All that the adapter touches of SGLang's own code, and nothing else does.

1. What must hold of each name is declared in `contract`, which is verified before
   anything here is relied on. The docstrings name SGLang's files.
2. What is read leaves here as plain values, so that the rest of the adapter
   knows nothing of SGLang.

Functions are wrapped through SGLang's own hook registry, in processes that have
the module loaded already: a target is imported where it is registered. SGLang's
modules are imported inside the functions, for the same reason.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import pkgutil
import sys
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final

from preble_plugin.adapter.event_endpoints import EventsConfig
from preble_plugin.adapter.faults import Faults
from preble_plugin.sglang_ext.facts import (
    FCFS,
    ControllerFacts,
    End,
    LaunchFacts,
    LoadFacts,
    RequestFacts,
)

METHOD: Final = "total_tokens"
"""The `--load-balance-method` underneath: it sees load, and under it the controller owns
the reader of the load snapshots (`managers/load_snapshot.py: zmq_reader_owner`)."""
Changes = Mapping[str, str]
"""Fields of a `ServerArgs` and what they are to be."""

ENGINE: Final = "sglang.srt.entrypoints.engine"
CONTROLLER: Final = "sglang.srt.managers.data_parallel_controller"
SCHEDULER: Final = "sglang.srt.managers.scheduler"
_RAY: Final = "sglang.srt.ray.engine"
_NOTE: Final = "_preble_note"
_SERVER_ARGS: Final = "sglang.srt.server_args"
_CACHE: Final = "sglang.srt.mem_cache.unified_radix_cache"
_SENDER: Final = "sglang.srt.managers.scheduler_components.output_sender"
_RESULTS: Final = "sglang.srt.managers.scheduler_components.batch_result_processor"
_POLICY: Final = "sglang.srt.managers.schedule_policy"
_CONN: Final = "sglang.srt.disaggregation.common.conn"


def logger() -> logging.Logger:
    """SGLang logs through the root logger, each process with a prefix of its own
    (`sglang/srt/utils/common.py: configure_logger`)."""
    return logging.getLogger("sglang.preble")


def version() -> str:
    """`sglang/version.py`: as in `0.5.23`."""
    from sglang.version import __version__

    return str(__version__)


def loaded(module: str) -> bool:
    """Whether this process has one of SGLang's modules loaded, which tells what it
    is: `ENGINE` a process that launches servers, `CONTROLLER` a data-parallel
    controller (or one that starts it), `SCHEDULER` a scheduler (or one of these)."""
    return module in sys.modules


def _wrap(target: str, hook: Callable[..., Any], kind: str) -> None:
    """`sglang/srt/plugins/hook_registry.py: HookRegistry.register`; what a process
    has registered is not registered again. A target that another plugin's hooks
    were applied to is passed over by `apply_hooks`: ours goes around theirs at once.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    key = target, hook.__qualname__
    if key in _wrapped:
        return
    _wrapped[key] = hook
    if target in HookRegistry._patched:
        HookRegistry._apply_target(target, [(HookType[kind], hook, None)])
    else:
        HookRegistry.register(target, hook, HookType[kind])


_wrapped: Final[dict[tuple[str, str], Callable[..., Any]]] = {}
"""Our hooks by their target and name."""


def apply() -> None:
    """`HookRegistry.apply_hooks`, which SGLang calls when all plugins are loaded: for
    what is registered later."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    HookRegistry.apply_hooks()


def missing() -> list[str]:
    """The targets of ours that could not be wrapped, which SGLang only logs."""
    return sorted({target for (target, _), hook in _wrapped.items() if not _holds(target, hook)})


def _holds(target: str, hook: Callable[..., Any]) -> bool:
    """Whether `hook` is among the wrappers of `hook_registry.py: _wrap_fn` around
    `target`; each keeps its hook in a closure, and what it wraps as `__wrapped__`."""
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return False
    while found is not None:
        cells = getattr(found, "__closure__", None) or ()
        if hook in [cell.cell_contents for cell in cells if cell != types.CellType()]:
            return True
        found = getattr(found, "__wrapped__", None)
    return False


# --- sglang/srt/server_args.py -----------------------------------------------


def wrap_cli_args(add: Callable[[Any], None]) -> None:
    """`ServerArgs.add_cli_args(parser)`, a static method. `add` is called with the
    parser afterwards; where that fails SGLang's own arguments are there still.
    """

    def after(result: Any, parser: Any) -> None:
        try:
            _keep_dp(parser)
            add(parser)
        except Exception:
            logger().exception("preble could not add --dp-scheduler to SGLang's arguments")

    _wrap(f"{_SERVER_ARGS}.ServerArgs.add_cli_args", after, "AFTER")


def _keep_dp(parser: Any) -> None:
    """`--dp N`, as many write it, is no flag of SGLang's: argparse completes it to
    `--dp-size`, which it does no more where flags of ours begin like that."""
    with contextlib.suppress(argparse.ArgumentError):  # it has become one
        parser.add_argument(
            "--dp", dest="dp_size", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def wrap_from_cli_args(take: Callable[[MutableMapping[str, Any]], str]) -> None:
    """`ServerArgs.from_cli_args(cls, args)`: `take` may change the arguments, which
    are the fields of `ServerArgs` by name. What it answers stays with the record
    that is built of them."""

    def around(original: Callable[..., Any], cls: Any, args: Any) -> Any:
        note = take(vars(args))
        return _noted(original(cls, args), note)

    _wrap(f"{_SERVER_ARGS}.ServerArgs.from_cli_args", around, "AROUND")


def wrap_check(decide: Callable[[Callable[[], LaunchFacts], str, str | None], Changes]) -> None:
    """`ServerArgs.check_server_args(self)`, where all ways in meet: `Engine.
    _launch_subprocesses` calls it when plugins are loaded and the record is resolved,
    before it is published and anything is spawned.

    `decide` gets what reads the facts, the `load_balance_method` as it was given and
    the record's note; it raises to refuse. The fields it answers are declared on the
    record (`arg_groups/overrides.py: declare_resolution`).
    """

    def before(record: Any) -> None:
        note = getattr(record, _NOTE, None)
        changes = decide(lambda: launch_facts(record), record.load_balance_method, note)
        if changes:
            from sglang.srt.arg_groups.overrides import declare_resolution

            declare_resolution(record, "preble", **changes)

    _wrap(f"{_SERVER_ARGS}.ServerArgs.check_server_args", before, "BEFORE")


def _noted(record: Any, note: str) -> Any:
    """A `ServerArgs` takes names with an underscore whatever its state, and keeps
    them when it is pickled."""
    setattr(record, _NOTE, note)
    return record


# --- sglang/srt/entrypoints/engine.py ----------------------------------------


def wrap_engine_arguments(take: Callable[[MutableMapping[str, Any]], str]) -> None:
    """`Engine.server_args_class`, which `Engine(**kwargs)` calls with its keyword
    arguments, after it has loaded plugins. `take` as in `wrap_from_cli_args`."""
    engine = importlib.import_module(ENGINE).Engine
    original = engine.server_args_class
    if getattr(original, "_preble_wrapped", False):
        return

    def server_args(**kwargs: Any) -> Any:
        note = take(kwargs)
        return _noted(original(**kwargs), note)

    server_args._preble_wrapped = True  # type: ignore[attr-defined]
    engine.server_args_class = staticmethod(server_args)


def launch_facts(record: Any) -> LaunchFacts:
    """`ServerArgs` as resolved (`arg_groups/overrides.py: resolving_view`). `dp_size`
    counts replicas, `attn_dp_size` the ranks of DP attention in each."""
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.environ import envs

    resolved = resolving_view(record)
    return LaunchFacts(
        ranks=int(resolved.dp_size) * int(resolved.attn_dp_size),
        attention_ranks=int(resolved.attn_dp_size),
        nodes=resolved.nnodes,
        radix_cache=not resolved.disable_radix_cache,
        rust_server=bool(envs.SGLANG_RUST_SERVER.get()),
        ray=bool(resolved.use_ray) or loaded(_RAY),
        elastic=resolved.max_ep_size is not None,
        disaggregation=resolved.disaggregation_mode,
        events=events_config(resolved.kv_events_config),
        schedule_policy=resolved.schedule_policy,
        diffusion=resolved.dllm_algorithm is not None,
    )


def events_config(given: str | None) -> EventsConfig | None:
    """`disaggregation/kv_events.py: KVEventsConfig`, the JSON of
    `--kv-events-config`; None where there is none. It binds an address with a
    wildcard or of a local socket, and any with `bind`."""
    if not given:
        return None
    from sglang.srt.disaggregation.kv_events import KVEventsConfig

    found = KVEventsConfig.from_cli(given)
    binds = found.bind
    if binds is None:
        binds = not found.endpoint.startswith("tcp://") or any(
            wildcard in found.endpoint for wildcard in ("*", "::", "0.0.0.0")
        )
    return EventsConfig(
        enabled=True,
        publisher=found.publisher,
        endpoint=found.endpoint,
        replay_endpoint=found.replay_endpoint if found.buffer_steps else None,
        topic=found.topic,
        binds=binds,
    )


def events_json(endpoint: str, replay_endpoint: str) -> str:
    """A `--kv-events-config`, in the format whose hashes depend on the whole namespace
    of a block."""
    config = {"publisher": "zmq", "endpoint": endpoint, "replay_endpoint": replay_endpoint}
    return json.dumps({**config, "format": "dynamo"})


def rank_endpoint(endpoint: str, rank: int) -> str:
    """`disaggregation/kv_events.py: ZmqEventPublisher.offset_endpoint_port`: where
    rank `rank` publishes. Of local sockets only those with `inproc` in their path
    are told apart by rank."""
    from sglang.srt.disaggregation.kv_events import ZmqEventPublisher

    return str(ZmqEventPublisher.offset_endpoint_port(endpoint, rank))


# --- sglang/srt/managers/data_parallel_controller.py --------------------------


def wrap_controller(built: Callable[[Any], None], loop: Callable[[Any], None]) -> None:
    """`DataParallelController.__init__` and `.event_loop`. `built` is called with a
    controller whose ranks are up; `loop` stands in for its event loop, and
    returns only where SGLang's own is to go on. What they raise ends the server."""

    def after(result: Any, controller: Any, *args: Any, **kwargs: Any) -> None:
        built(controller)

    def around(original: Callable[..., Any], controller: Any) -> Any:
        loop(controller)
        return original(controller)

    _wrap(f"{CONTROLLER}.DataParallelController.__init__", after, "AFTER")
    _wrap(f"{CONTROLLER}.DataParallelController.event_loop", around, "AROUND")


def controller_facts(controller: Any) -> ControllerFacts:
    """`DataParallelController.max_total_num_tokens`, what its schedulers said when
    they were up, and its `server_args` as resolved. KV events of named LoRAs are
    told apart from 0.5.23 (`mem_cache/events.py: KvEventLoraNames`); keys are pairs
    of tokens under EAGLE (`mem_cache/kv_cache_builder.py`); ranks of DP attention
    share `max_running_requests` (`model_executor/pool_configurator.py`)."""
    from sglang.srt.arg_groups.overrides import resolving_view
    from sglang.srt.mem_cache import events
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    resolved = resolving_view(controller.server_args)
    config = json.loads(resolved.kv_events_config or "{}")
    running = resolved.max_running_requests
    return ControllerFacts(
        ranks=active_ranks(controller),
        page_size=resolved.page_size,
        capacity_tokens=controller.max_total_num_tokens,
        max_running=max(1, running // resolved.attn_dp_size) if running else None,
        events=events_config(resolved.kv_events_config),
        dynamo_format=config.get("format") == "dynamo",
        named_lora=hasattr(events, "KvEventLoraNames"),
        bigram=SpeculativeAlgorithm.from_string(resolved.speculative_algorithm).is_eagle(),
        decodes=resolved.disaggregation_mode == "decode",
    )


def active_ranks(controller: Any) -> tuple[int, ...]:
    """`DataParallelController._active_workers` and `.status`: the ranks that SGLang's
    own methods choose from."""
    return tuple(rank for rank in controller._active_workers if controller.status[rank])


def reachable(controller: Any, rank: int) -> bool:
    """Whether a process listens for what is sent to `DataParallelController.workers
    [rank]`: a PUSH socket that binds, without a high-water mark
    (`utils/network.py: config_socket`), takes a message where it has a peer. Where
    not, SGLang waits in `sock_send` for ever."""
    import zmq

    return bool(controller.workers[rank].getsockopt(zmq.EVENTS) & zmq.POLLOUT)


def set_active(controller: Any, rank: int, active: bool) -> None:
    """`DataParallelController.status`, where requests and aborts go, and
    `._active_workers`, in order, where control messages and health checks go too."""
    controller.status[rank] = active
    others = {one for one in controller._active_workers if one != rank}
    controller._active_workers = sorted({*others, rank} if active else others)


def unfix(request: Any) -> None:
    """`TokenizedGenerateReqInput.routed_dp_rank`, the rank that the user fixed: none."""
    request.routed_dp_rank = None


def can_go_again(request: Any) -> bool:
    """Whether a request whose rank died before its first output can be sent to
    another as it is: not one whose multimodal items lie in shared memory that a rank
    gives back, that goes on in a session of that rank, or whose KV another engine
    awaits from there (`TokenizedGenerateReqInput`)."""
    return not any(
        getattr(request, name, None) for name in ("mm_inputs", "session_params", "bootstrap_host")
    )


class _Held:
    """`DataParallelController.dispatching` until a loop is served."""

    def __init__(self, controller: Any, unserved: Callable[[], None]) -> None:
        self.own: Callable[[Any], None] = controller.dispatching
        self._controller = controller
        self._unserved = unserved

    def __call__(self, request: Any) -> None:
        self._controller.dispatching = self.own
        self._unserved()
        self.own(request)


def hold_dispatching(controller: Any, unserved: Callable[[], None]) -> None:
    """`DataParallelController.dispatching(req)`, called for each request: SGLang's own
    goes on, but the first that comes before `take_dispatching` calls `unserved`."""
    controller.dispatching = _Held(controller, unserved)


def take_dispatching(controller: Any, dispatch: Callable[[Any], None]) -> None:
    """Put `dispatch` in the place of SGLang's own."""
    controller.dispatching = dispatch


def give_dispatching_back(controller: Any, method: str = METHOD) -> None:
    """SGLang's own again, by this method (`dispatch_lookup` in `__init__`)."""
    controller.dispatching = getattr(controller, f"{method}_scheduler")


def has_dispatching(controller: Any, dispatch: Callable[[Any], None]) -> bool:
    """Whether what was taken is still ours."""
    return controller.dispatching is dispatch


def foreign_dispatching(controller: Any) -> str | None:
    """What stands in the place of SGLang's own `dispatching`, and of ours; None if nothing."""
    found = controller.dispatching
    found = found.own if isinstance(found, _Held) else found
    if getattr(found, "__self__", None) is controller:
        return None
    return f"{found.__module__}.{getattr(found, '__qualname__', type(found).__qualname__)}"


def dispatch_by_round_robin(controller: Any, request: Any) -> int:
    """`DataParallelController.round_robin_scheduler(req)`: where it sent the request.
    `round_robin_counter` goes by the place in `_active_workers`, one step for each
    rank it looks at."""
    controller.round_robin_scheduler(request)
    if request.routed_dp_rank is not None:
        return int(request.routed_dp_rank)
    active = controller._active_workers
    return int(active[(controller.round_robin_counter - 1) % len(active)])


def dispatch_by_load(controller: Any, request: Any) -> int:
    """`DataParallelController.total_tokens_scheduler(req)`: where it sent the request,
    which `DPBudget.total_requests` counts. It knows no rank that is gone, and no prompt
    without tokens: those go by round robin."""
    budget = controller.dp_budget
    if request.input_ids is None or len(active_ranks(controller)) < budget.num_dp_ranks:
        return dispatch_by_round_robin(controller, request)
    before = list(budget.total_requests)
    controller.total_tokens_scheduler(request)
    if request.routed_dp_rank is not None:
        return int(request.routed_dp_rank)
    return next(rank for rank, count in enumerate(before) if budget.total_requests[rank] > count)


def send_to_fixed_rank(controller: Any, request: Any) -> bool:
    """`DataParallelController.maybe_external_dp_rank_routing(req)`: whether the user
    fixed the rank, where the request is then sent. Raises ValueError where that
    rank is not active, as without us."""
    return bool(controller.maybe_external_dp_rank_routing(request))


def send(controller: Any, rank: int, request: Any) -> None:
    """`io_struct.py: sock_send` to `DataParallelController.workers[rank]`."""
    from sglang.srt.managers.io_struct import sock_send

    sock_send(controller.workers[rank], request)


def input_socket(controller: Any) -> Any:
    """`DataParallelController.recv_from_tokenizer`, a ZMQ PULL socket."""
    return controller.recv_from_tokenizer


def receive(controller: Any) -> Any:
    """`io_struct.py: sock_recv`, without waiting. Raises `zmq.Again`."""
    import zmq
    from sglang.srt.managers.io_struct import sock_recv

    return sock_recv(controller.recv_from_tokenizer, flags=zmq.NOBLOCK)


def handle(controller: Any, message: Any) -> None:
    """`DataParallelController._request_dispatcher(obj)`: whatever the tokenizer sent."""
    controller._request_dispatcher(message)


def feed_watchdog(controller: Any) -> None:
    """`DataParallelController.soft_watchdog.feed()`, once a turn of the event loop."""
    controller.soft_watchdog.feed()


def request_facts(request: Any) -> RequestFacts:
    """`io_struct.py: TokenizedGenerateReqInput`, `TokenizedEmbeddingReqInput`; the
    cache key as `schedule_batch.py: Req` composes it, its readable part as
    `Req._compute_max_prefix_len` and `Req.init_next_round_input` bound it."""
    tokens = request.input_ids
    length = len(tokens) if tokens is not None else 0
    embeds = getattr(request, "input_embeds", None)
    session = getattr(request, "session_params", None)
    session_id = getattr(session, "id", None) or None
    readable = _readable_tokens(request, length)
    if embeds is not None:
        tokens, length = None, len(embeds)
    elif session_id is not None or readable == 0:
        tokens = None  # the cache holds the session's earlier turns, which are not here
    elif tokens is not None and readable < length:
        tokens = tokens[:readable]
    lora_id = request.lora_id
    extra_key = getattr(request, "extra_key", None)
    if lora_id is not None:
        extra_key = (extra_key or "") + lora_id
    sampling = request.sampling_params
    generates = hasattr(request, "stream")
    return RequestFacts(
        request_id=request.rid,
        tokens=tokens,
        prompt_tokens=length,
        extra_key=extra_key,
        lora_name=getattr(request, "lora_name", None) if lora_id is not None else None,
        salt=getattr(request, "cache_salt", None) or None,
        max_output_tokens=sampling.max_new_tokens if generates else 0,
        priority=request.priority or 0,
        session_id=session_id,
        fixed_rank=request.routed_dp_rank,
    )


def _readable_tokens(request: Any, length: int) -> int:
    """How much of the prompt can be read from the cache under its own tokens. The
    schedulers put hashes in the place of multimodal items, and where an encoder
    computes these (`disaggregation/`: encode receiver) their places are not yet in
    the prompt."""
    if getattr(request, "positional_embed_overrides", None) is not None:
        return 0
    if getattr(request, "need_wait_for_mm_inputs", None):
        return 0
    bound = length
    if getattr(request, "return_logprob", False) and request.logprob_start_len >= 0:
        bound = min(bound, request.logprob_start_len)
    inputs = request.mm_inputs
    if inputs is not None:
        for item in getattr(inputs, "mm_items", None) or [None]:
            offsets = getattr(item, "offsets", None)
            bound = min(bound, min((start for start, _ in offsets), default=0) if offsets else 0)
    return bound


def loads(controller: Any) -> list[LoadFacts]:
    """`managers/load_snapshot.py: LoadSnapshot` of each rank that has published one.
    `decode_moments` are the number of steps, then sums over them of batch size,
    microseconds, two products, and tokens (`scheduler.py: _accumulate_decode_moment`).
    """
    found = []
    for one in controller.load_snapshot_reader.read_all():
        if not one.timestamp:
            continue
        moments = one.decode_moments or [0.0] * 6
        found.append(
            LoadFacts(
                one.dp_rank,
                one.timestamp,
                one.num_running_reqs,
                _waiting(one),
                one.total_prefill_uncached_tokens,
                one.total_prefill_busy_us * 1e-6,
                int(moments[0]),
                int(moments[1]),
                moments[2] * 1e-6,
                int(moments[5]),
            )
        )
    return found


def _waiting(snapshot: Any) -> int:
    """`scheduler_components/load_inquirer.py: get_loads`: `num_waiting_reqs` leaves
    out those whose grammar is compiled (`queues.grammar`, as of the last batch that
    was reported, and only where metrics are on), those whose KV is sent to decode
    (`disaggregation`), and the one of which only chunks are computed so far, whose
    rest is among the uncached tokens. Retracted requests wait again; those that
    run wait no longer."""
    waiting = int(snapshot.num_waiting_reqs)
    if snapshot.queues is not None:
        waiting += snapshot.queues.grammar
    if snapshot.disaggregation is not None:
        waiting += snapshot.disaggregation.prefill_inflight_queue_reqs
    return waiting or int(snapshot.num_waiting_uncached_tokens > 0)


# --- sglang/srt/mem_cache/ -------------------------------------------------------


def announce_storage() -> None:
    """In a scheduler process: `unified_radix_cache.py: UnifiedRadixCache.
    _drain_storage_control_queues_impl`, which takes out of `ongoing_backup` what storage
    has acknowledged, and `.take_events`, which gives what is to be published. The pages
    acknowledged are announced there by their hashes, in `StorageMedium.EXTERNAL`, which
    SGLang declares and itself never sends. The hashes in storage leave tenants and
    adapters out of what events name, so their pages are not announced by a name that is
    known. What fails here is counted, logged once, and goes no further.
    """
    faults = Faults(logger(), "SGLang")
    stored: list[Any] = []

    def drained(original: Callable[..., Any], cache: Any, *args: Any, **kwargs: Any) -> Any:
        waiting = list(cache.cache_controller.ack_backup_queue.queue)
        result = original(cache, *args, **kwargs)
        try:
            done = [one for one in waiting if one.id not in cache.ongoing_backup]
            stored.extend(_stored(cache.page_size, done))
        except Exception:
            faults.note("blocks in storage")
        return result

    def taken(result: Any, cache: Any) -> Any:
        events = [*result, *stored]
        stored.clear()
        return events

    _wrap(f"{_CACHE}.UnifiedRadixCache._drain_storage_control_queues_impl", drained, "AROUND")
    _wrap(f"{_CACHE}.UnifiedRadixCache.take_events", taken, "AFTER")


def _stored(page_size: int, done: list[Any]) -> Iterator[Any]:
    from sglang.srt.disaggregation.kv_events import BlockStored, StorageMedium
    from sglang.srt.mem_cache.utils import hash_str_to_int64

    for operation in done:
        pages = operation.hash_value[: operation.completed_tokens // page_size]
        if pages:
            names = [hash_str_to_int64(one) for one in pages]
            yield BlockStored(names, None, [], 0, None, StorageMedium.EXTERNAL)


# --- sglang/srt/managers/scheduler_components/ ---------------------------------


def wrap_outputs(
    ended: Callable[[Sequence[End]], None],
    started: Callable[[Sequence[tuple[str, int]]], None],
) -> None:
    """In a scheduler process: `output_sender.py: SenderWrapper.send_output(output)`
    and `batch_result_processor.py: SchedulerBatchResultProcessor.
    process_batch_result_prefill(batch, result)`.

    `ended` is told of requests that leave, `started` of those that have had their
    first output and go on, with the tokens that were found cached. Of the processes
    of one rank, the one that has a socket speaks. What fails here is counted, logged
    once, and goes no further.
    """
    faults = Faults(logger(), "SGLang")

    def before_send(sender: Any, output: Any, *args: Any, **kwargs: Any) -> None:
        try:
            if sender.socket is not None and (found := list(ends(output))):
                ended(found)
        except Exception:
            faults.note("ends")

    def after_prefill(result: Any, processor: Any, batch: Any, *args: Any, **kwargs: Any) -> None:
        try:
            speaks = processor.output_streamer.send_to_detokenizer.socket is not None
            if speaks and (found := first_tokens(batch)):
                started(found)
        except Exception:
            faults.note("first tokens")

    _wrap(f"{_SENDER}.SenderWrapper.send_output", before_send, "BEFORE")
    _wrap(
        f"{_RESULTS}.SchedulerBatchResultProcessor.process_batch_result_prefill",
        after_prefill,
        "AFTER",
    )


def ends(output: Any) -> Iterator[End]:
    """Requests that end with `output`: of `io_struct.py: BatchTokenIDOutput` and
    `BatchEmbeddingOutput` those with a reason, and the one of an `AbortReq`, which
    was aborted while it waited."""
    kind = type(output).__name__
    if kind == "AbortReq":
        if output.rid:
            yield End(output.rid, 0, None, True)
    elif kind in ("BatchTokenIDOutput", "BatchEmbeddingOutput"):
        generated = getattr(output, "completion_tokens", None)
        for place, reason in enumerate(output.finished_reasons):
            if reason is not None:
                yield End(
                    output.rids[place],
                    generated[place] if generated is not None else 0,
                    output.cached_tokens[place],
                    reason.get("type") == "abort",
                )


def first_tokens(batch: Any) -> list[tuple[str, int]]:
    """`ScheduleBatch.reqs` of a prefill whose result was processed: those that have
    their first output now. A request of which only a chunk was computed has none,
    one that was retracted, or decodes in a mixed batch, more; a prompt of embeddings
    that was retracted starts again, and comes again. Those that ended with it (all
    embedding requests do) were told of by `ends`: they were streamed within."""
    return [
        (request.rid, request.cached_tokens)
        for request in batch.reqs
        if len(request.output_ids) == 1 and not request.finished()
    ]


# --- sglang/srt/disaggregation/common/conn.py ---------------------------------


def wrap_prefill_registration() -> None:
    """In a scheduler process of a prefill server: `CommonKVSender.
    _register_prefill_dp_rank`, which tells decode servers which rank has a prompt. It names
    `attn_dp_rank` of its `CommonKVManager`, which is 0 in each replica of `--dp-size`; decode
    servers look that rank up under the replica's number, `system_dp_rank`."""

    def before(sender: Any) -> None:
        manager = sender.kv_mgr
        if manager.system_dp_size > 1:
            manager.attn_dp_rank = manager.system_dp_rank

    _wrap(f"{_CONN}.CommonKVSender._register_prefill_dp_rank", before, "BEFORE")


# --- sglang/srt/managers/schedule_policy.py ------------------------------------


def wrap_prefill_pass(
    before_walk: Callable[[Any, list[Any]], None], after_walk: Callable[[Any, list[Any]], None]
) -> None:
    """`SchedulePolicy.calc_priority(waiting_queue, running_batch, ...)`, which puts a
    scheduler's waiting list in order, and `scheduler.py: Scheduler.get_new_batch_prefill`,
    which calls it, walks the list and leaves in `Scheduler.waiting_queue` who was not
    taken up. Between two passes requests are appended to that list or, where they are
    aborted, taken out.

    Both are called with a `SchedulePolicy` and the list, and may not raise. `before_walk`
    may put the list in another order, in place. Diffusion models have another walk, which
    names no running batch: they are left alone.
    """

    def after_order(
        result: Any, policy: Any, waiting_queue: Any, running_batch: Any = None, **kwargs: Any
    ) -> None:
        if running_batch is not None:
            before_walk(policy, waiting_queue)

    def after_pass(result: Any, scheduler: Any, *args: Any, **kwargs: Any) -> None:
        after_walk(scheduler.policy, scheduler.waiting_queue)

    _wrap(f"{_POLICY}.SchedulePolicy.calc_priority", after_order, "AFTER")
    _wrap(f"{SCHEDULER}.Scheduler.get_new_batch_prefill", after_pass, "AFTER")


def takes_in_turn(policy: Any) -> bool:
    """`SchedulePolicy.policy`, as adjusted to its cache: whether it is `fcfs`, and
    `.tree_cache` caches prefixes."""
    return policy.policy.value == FCFS and not getattr(policy.tree_cache, "disable", True)


def has_priorities(policy: Any) -> bool:
    """`SchedulePolicy.enable_priority_scheduling`."""
    return bool(policy.enable_priority_scheduling)


def tokens_and_priority(policy: Any, request: Any) -> tuple[int, int]:
    """Of a `Req` that waits, `origin_input_ids` and `priority`: the length of its prompt,
    and its priority, the lowest first (`SchedulePolicy._sort_by_priority_and_fcfs`)."""
    priority = policy.priority_sign * request.priority if has_priorities(policy) else 0
    return len(request.origin_input_ids), int(priority)


def cached_tokens(policy: Any, request: Any) -> int:
    """How many tokens of a request that waits are in the cache now, those on the host
    too: `Req.num_matched_prefix_tokens` after `mem_cache/common.py: match_kv_cache`. This
    is what `lpm` does for each in each pass: what is matched is used more recently, and the
    request keeps what it found until the walk matches it again. A streaming session keeps
    its own tokens, whatever is evicted, and to match it would lend them out: all count as
    cached."""
    if getattr(request.session, "streaming", False):
        return len(request.origin_input_ids)
    from sglang.srt.managers.schedule_policy import match_kv_cache

    match_kv_cache(request, policy.tree_cache)
    return int(request.num_matched_prefix_tokens)


def alike_tokens() -> tuple[int, int]:
    """`IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD` and `..._DEPRIORITIZE_THRESHOLD`, which
    the environment may set: up to how many cached tokens a request is put off for another
    that waits, and how many first tokens they have in common then."""
    own: Any = importlib.import_module(_POLICY)
    return (
        int(own.IN_BATCH_PREFIX_CACHING_CHECK_THRESHOLD),
        int(own.IN_BATCH_PREFIX_CACHING_DEPRIORITIZE_THRESHOLD),
    )


def start_of_prompt(request: Any, tokens: int) -> Hashable | None:
    """What `Req`s whose first `tokens` tokens share cache have in common; None for a
    shorter prompt."""
    start = request.origin_input_ids[:tokens]
    if len(start) < tokens:
        return None
    return request.extra_key, request.cache_salt, tuple(start)
