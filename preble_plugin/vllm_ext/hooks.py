"""Where the adapter leans on vLLM's private API, all of it.

1. What must hold of each name is declared in `contract`, which is verified before
   anything here is relied on. The docstrings name the engine's files.
2. What is read leaves here as plain values, so that the rest of the adapter
   knows nothing of vLLM.

vLLM's modules are imported inside the functions: the plugin is loaded in
processes where most of them never are.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, Protocol

from preble_plugin.adapter.event_endpoints import EventsConfig
from preble_plugin.core.local_queue import LOOKS
from preble_plugin.vllm_ext.dispatcher import Dispatcher
from preble_plugin.vllm_ext.facts import (
    EngineFacts,
    OutputFacts,
    QueueFacts,
    RequestFacts,
    Topology,
)

_WRAPPED: Final = "_preble_wrapped"


class WaitingRequests(Protocol):
    """A queue for vLLM's scheduler: a `RequestQueue`, and told when a step begins."""

    def begin_step(self) -> None:
        """The scheduler begins to fill a batch."""


def logger() -> logging.Logger:
    """vLLM's own log, `vllm/logger.py`: a child of the logger `vllm`."""
    return logging.getLogger("vllm.preble")


def adopt_logger() -> None:
    """Let our packages log where vLLM does, if vLLM set a log up."""
    engine = logging.getLogger("vllm")
    ours = logging.getLogger("preble_plugin")
    if engine.handlers and not ours.handlers:
        ours.handlers = list(engine.handlers)
        ours.setLevel(engine.level)
        ours.propagate = False


def version() -> str:
    """`vllm/version.py`: as in `0.32.0+cpu`."""
    from vllm.version import __version__

    return str(__version__)


def rust_frontend() -> bool:
    """`vllm/envs.py`: whether a Rust process serves in place of the API servers.

    `VLLM_RUST_FRONTEND_PATH` alone does not start it.
    """
    return os.environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0")


# --- vllm/engine/arg_utils.py ------------------------------------------------


def wrap_cli_args(add: Callable[[Any], None]) -> None:
    """`EngineArgs.add_cli_args(parser) -> parser`, a static method. `add` is called
    with the parser that it returns.

    `AsyncEngineArgs.add_cli_args` loads plugins and then calls it by its class.
    """
    engine_args = sys.modules["vllm.engine.arg_utils"].EngineArgs
    original = engine_args.add_cli_args
    if getattr(original, _WRAPPED, False):
        return

    @functools.wraps(original)
    def add_cli_args(parser: Any) -> Any:
        parser = original(parser)
        try:
            add(parser)
        except Exception:
            logger().exception("preble could not add --dp-scheduler")
        return parser

    setattr(add_cli_args, _WRAPPED, True)
    engine_args.add_cli_args = staticmethod(add_cli_args)


def wrap_engine_config(
    create: Callable[[Callable[[], Any], Any, Any, bool], Any],
    bypassed: Callable[[Any, str], None],
) -> None:
    """`EngineArgs.create_engine_config(usage_context=None, headless=False)`.

    Called as `create(original, engine_args, usage_context, headless)`; it must
    call `original()` once and return the config. `EngineArgs.__post_init__` loads the
    plugins. If what another put in our place by then does not call ours,
    `bypassed(engine_args, its name)` is called.
    """
    engine_args = sys.modules["vllm.engine.arg_utils"].EngineArgs
    original, post_init = engine_args.create_engine_config, engine_args.__post_init__
    if getattr(post_init, _WRAPPED, False):
        return
    calls = 0

    @functools.wraps(original)
    def create_engine_config(
        self: Any, usage_context: Any = None, headless: bool = False, **more: Any
    ) -> Any:
        nonlocal calls
        calls += 1
        return create(
            lambda: original(self, usage_context, headless, **more), self, usage_context, headless
        )

    ours = create_engine_config

    @functools.wraps(post_init)
    def __post_init__(self: Any) -> None:
        nonlocal ours
        post_init(self)
        if (theirs := engine_args.create_engine_config) is ours:
            return

        @functools.wraps(theirs)
        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            before = calls
            config = theirs(self, *args, **kwargs)
            if calls == before:
                bypassed(self, f"{theirs.__module__}.{theirs.__qualname__}")
            return config

        engine_args.create_engine_config = ours = watched

    setattr(__post_init__, _WRAPPED, True)
    engine_args.create_engine_config = create_engine_config
    engine_args.__post_init__ = __post_init__


def is_child(engine_args: Any) -> bool:
    """`EngineArgs._api_process_count` and `_api_process_rank`: whether this is one
    of several API servers, whose parent (rank -1) has said what is to be said."""
    return bool(engine_args._api_process_count > 1 and engine_args._api_process_rank >= 0)


def offline(usage_context: Any) -> bool:
    """`vllm/usage/usage_lib.py: UsageContext.LLM_CLASS`: an `LLM(...)`, whose
    synchronous client has no dispatch among ranks."""
    return getattr(usage_context, "name", None) == "LLM_CLASS"


# --- vllm/config/ ------------------------------------------------------------


def topology(config: Any) -> Topology:
    """`vllm/config/parallel.py`, `vllm/config/cache.py`; `config` as resolved by
    `create_engine_config`. `nnodes` counts the nodes under one launch."""
    parallel = config.parallel_config
    local = parallel.data_parallel_backend == "mp" and parallel.nnodes == 1
    return Topology(
        ranks=parallel.data_parallel_size,
        local_ranks=parallel.data_parallel_size_local,
        hybrid=parallel.data_parallel_hybrid_lb,
        external=parallel.data_parallel_external_lb,
        one_node=local
        and (
            parallel.data_parallel_hybrid_lb
            or parallel.data_parallel_size_local == parallel.data_parallel_size
        ),
        api_servers=parallel._api_process_count,
        api_server=parallel._api_process_rank,
        prefix_caching=bool(config.cache_config.enable_prefix_caching),
    )


def events_config(config: Any) -> EventsConfig | None:
    """`VllmConfig.kv_events_config`, None where there is none."""
    found = config.kv_events_config
    return None if found is None else _events_config(found)


def _events_config(found: Any) -> EventsConfig:
    """`vllm/config/kv_events.py: KVEventsConfig`. With `buffer_steps` 0 the replay
    endpoint answers, and has nothing. An address is bound if it has a wildcard
    (`vllm/distributed/kv_events.py: ZmqEventPublisher._socket_setup`)."""
    return EventsConfig(
        found.enable_kv_cache_events,
        found.publisher,
        found.endpoint,
        found.replay_endpoint if found.buffer_steps else None,
        found.topic,
        "*" in found.endpoint or "::" in found.endpoint or not found.endpoint.startswith("tcp://"),
    )


def publish_events(config: Any, endpoint: str, replay_endpoint: str) -> None:
    """Set `VllmConfig.kv_events_config`, which is read when the engine cores
    build their schedulers (`vllm/v1/core/sched/scheduler.py`), and before that
    only for warnings."""
    from vllm.config.kv_events import KVEventsConfig

    config.kv_events_config = KVEventsConfig(
        enable_kv_cache_events=True,
        publisher="zmq",
        endpoint=endpoint,
        replay_endpoint=replay_endpoint,
    )


def rank_endpoint(endpoint: str, rank: int) -> str:
    """`vllm/distributed/kv_events.py: ZmqEventPublisher.offset_endpoint_port`:
    where rank `rank` publishes, `rank` being `ParallelConfig.data_parallel_index`.

    Of ipc endpoints only those with `inproc` in their path are told apart by
    rank; the others raise ValueError for ranks from 1.
    """
    from vllm.distributed.kv_events import ZmqEventPublisher

    return str(ZmqEventPublisher.offset_endpoint_port(endpoint, rank))


def scheduler_class(config: Any) -> str | None:
    """`vllm/config/scheduler.py: SchedulerConfig.scheduler_cls` as a name: the user's,
    or vLLM's own for models that need another (diffusion); mostly None."""
    found = config.scheduler_config.scheduler_cls
    if found is None:
        return None
    if isinstance(found, str):
        return found
    return f"{found.__module__}.{found.__qualname__}"


def set_scheduler_class(config: Any, plain: str, asynchronous: str) -> None:
    """Set `SchedulerConfig.scheduler_cls`, which `get_scheduler_cls` imports by its
    name in the engine core (`vllm/v1/engine/core.py: EngineCore.__init__`). A plain
    scheduler does not do under `async_scheduling`, which is resolved by now."""
    scheduler = config.scheduler_config
    scheduler.scheduler_cls = asynchronous if scheduler.async_scheduling else plain


# --- vllm/v1/core/sched/ -----------------------------------------------------


def queueing_schedulers(queue_for: Callable[[Any], WaitingRequests | None]) -> tuple[Any, Any]:
    """`vllm/v1/core/sched/scheduler.py: Scheduler` and `async_scheduler.py:
    AsyncScheduler`, whose `waiting` is what `queue_for(scheduler)` makes of it; None
    leaves it vLLM's own.

    `waiting` is made in `__init__` and never again. Its requests are taken up in
    `schedule()` alone, by `peek_request` and `pop_request`; what holds blocks or was put
    off waits in a queue of vLLM's, which is served first: `kv_holding_waiting`.
    """
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    def queueing(base: Any) -> Any:
        class Queueing(base):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self._preble_queue = queue_for(self)
                if self._preble_queue is not None:
                    self.waiting = self._preble_queue

            def schedule(self, *args: Any, **kwargs: Any) -> Any:
                """Once a step; it fills a batch."""
                if self._preble_queue is not None:
                    self._preble_queue.begin_step()
                return super().schedule(*args, **kwargs)

        return Queueing

    return queueing(Scheduler), queueing(AsyncScheduler)


def queue_facts(scheduler: Any) -> QueueFacts:
    """`Scheduler.waiting`, empty, and `Scheduler.policy`: under the policy `fcfs` vLLM
    ignores priorities."""
    cached_tokens, looks = _cached_tokens(scheduler)
    return QueueFacts(scheduler.waiting, scheduler.policy.value == "priority", cached_tokens, looks)


def _cached_tokens(scheduler: Any) -> tuple[Callable[[Any], int], int]:
    """How many tokens of a prompt `KVCacheManager.get_computed_blocks` would find now,
    and how often a step may ask. It is asked of `Scheduler.kv_cache_manager` without
    its statistics; neither reference counts nor the order of eviction change.

    Where all layers have full attention a block's hash stands for all before it, and the
    first that `BlockPool.get_cached_block` does not find is sought by halves: a hole
    that eviction left may be passed over, for a rank in a queue that is near enough.
    Elsewhere `KVCacheCoordinator.find_longest_cache_hit` walks the whole prompt.
    """
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    manager = scheduler.kv_cache_manager
    groups = scheduler.kv_cache_config.kv_cache_groups
    plain = len(groups) == 1 and isinstance(groups[0].kv_cache_spec, FullAttentionSpec)
    coordinator, pool = manager.coordinator, manager.block_pool
    tokens = pool.hash_block_size

    def by_halves(request: Any) -> int:
        if not manager.prefix_cache_lookup_enabled(request):
            return 0
        hashes = request.block_hashes
        most = min(len(hashes), (request.num_tokens - 1) // tokens)
        found = bisect_left(
            range(most), True, key=lambda block: pool.get_cached_block(hashes[block], [0]) is None
        )
        return int(found * tokens)

    def by_vllm(request: Any) -> int:
        if not manager.prefix_cache_lookup_enabled(request):
            return 0
        most = request.num_tokens - 1
        return int(coordinator.find_longest_cache_hit(request.block_hashes, most)[1])

    return (by_halves, LOOKS) if plain else (by_vllm, LOOKS // 4)


def prompt_tokens(request: Any) -> int:
    """`vllm/v1/request.py: Request.num_prompt_tokens`; 0 is taken as 1."""
    return max(1, int(request.num_prompt_tokens))


def priority(request: Any) -> int:
    """`Request.priority`: the lowest value first."""
    return int(request.priority)


# --- vllm/v1/engine/core_client.py -------------------------------------------


def client_ranks(client: Any) -> tuple[int, ...]:
    """`MPClient.core_engines`: ZMQ identities, each its global rank in two bytes,
    little-endian, in order of rank; elastic EP changes the list."""
    return tuple(int.from_bytes(identity, "little") for identity in client.core_engines)


def client_size(client: Any) -> int:
    """How many engines `MPClient.core_engines` has now."""
    return len(client.core_engines)


def in_flight(client: Any, request_id: str) -> bool:
    """`DPLBAsyncMPClient.reqs_in_flight`: requests sent and not finished."""
    return request_id in client.reqs_in_flight


def engine_facts(client: Any) -> EngineFacts:
    """`MPClient.vllm_config` after `_apply_ready_response` of each engine.

    `effective_attention_block_size` is that of the full-attention group, where there is
    one. `num_gpu_blocks` is the sum over the engines; one block of each is the null
    block (`BlockPool`).
    """
    config = client.vllm_config
    cache = config.cache_config
    ranks = client_ranks(client)
    drop_blocks, lookahead_tokens = speculation(config)
    return EngineFacts(
        ranks=ranks,
        block_size=cache.effective_attention_block_size or cache.block_size,
        capacity_blocks=cache.num_gpu_blocks // len(ranks) - 1 if cache.num_gpu_blocks else None,
        drop_blocks=drop_blocks,
        lookahead_tokens=lookahead_tokens,
        max_running=config.scheduler_config.max_num_seqs,
        sources={
            rank: _events_config(found) for rank, found in client.get_kv_event_sources().items()
        },
    )


def speculation(config: Any) -> tuple[int, int]:
    """Blocks at the end of a hit that are computed again, and tokens after each block that
    its hash covers (`VllmConfig.num_hash_lookahead_tokens`, from 0.33). Where there are any
    of these, no block is computed again (v1/core/sched/scheduler.py)."""
    speculative = config.speculative_config
    drops = speculative is not None and speculative.use_eagle_block_drop()
    lookahead: int = getattr(config, "num_hash_lookahead_tokens", 0)
    return int(drops and not lookahead), lookahead


def request_facts(request: Any) -> RequestFacts:
    """`EngineCoreRequest`, `vllm/lora/request.py: LoRARequest`,
    `vllm/multimodal/inputs.py: MultiModalFeatureSpec`, and
    `skip_reading_prefix_cache` of `SamplingParams` and `PoolingParams`. A request that asks a
    decode server to fetch its prompt says so in `SamplingParams.extra_args`
    (`vllm/v1/request.py: Request.kv_transfer_params`)."""
    sampling, lora, embeds = request.sampling_params, request.lora_request, request.prompt_embeds
    params = sampling if sampling is not None else request.pooling_params
    tokens = request.prompt_token_ids
    extra = (sampling.extra_args if sampling is not None else None) or {}
    transfer = extra.get("kv_transfer_params") or {}
    length = len(tokens) if tokens is not None else 0 if embeds is None else len(embeds)
    return RequestFacts(
        request_id=request.request_id,
        tokens=tokens if embeds is None else None,
        prompt_tokens=length,
        features=tuple(
            (feature.identifier, feature.mm_position.offset, feature.mm_position.length)
            for feature in request.mm_features or ()
        ),
        lora_name=lora.lora_name if lora is not None else None,
        lora_id=lora.adapter_id if lora is not None else None,
        salt=request.cache_salt,
        external_id=request.external_req_id,
        max_output_tokens=sampling.max_tokens if sampling is not None else 0,
        priority=request.priority,
        session_id=request.session_id,
        fixed_index=request.data_parallel_rank,
        reads_cache=not params.skip_reading_prefix_cache,
        computes=not transfer.get("do_remote_prefill"),
        stops_on_text=bool(sampling is not None and sampling.stop),
        resumable=request.resumable,
    )


def placed_by_vllm(client: Any, request: Any) -> bool:
    """Requests whose rank is not ours to choose: late-interaction pooling, whose
    query lives in one rank's memory (`vllm/v1/pool/late_interaction.py`)."""
    if request.pooling_params is None:
        return False
    from vllm.v1.pool.late_interaction import get_late_interaction_engine_index

    index = get_late_interaction_engine_index(request.pooling_params, len(client.core_engines))
    return index is not None


def output_facts(outputs: Any) -> Iterator[OutputFacts]:
    """`EngineCoreOutputs.outputs`; `prefill_stats` comes once a request, with its
    first output (`vllm/v1/metrics/stats.py: PrefillStats`). `FinishReason` is an
    integer: 2 is an abort, 3 an error."""
    for output in outputs.outputs:
        stats = output.prefill_stats
        yield OutputFacts(
            output.request_id,
            len(output.new_token_ids),
            stats is not None,
            stats.num_local_cached_tokens if stats is not None else 0,
            output.finish_reason is not None,
            output.finish_reason in (2, 3),
        )


def message_facts(outputs: Any) -> tuple[int, Collection[str]]:
    """`EngineCoreOutputs.engine_index`, the global rank that speaks, and
    `finished_requests`, which names those without a last output too."""
    return outputs.engine_index, outputs.finished_requests or ()


def replace_client(
    dispatcher_for: Callable[[Any], Dispatcher | None], made: Callable[[Any, bool], None]
) -> None:
    """`DPLBAsyncMPClient`, which `EngineCoreClient.make_async_mp_client` looks up
    in its module when ranks are dispatched to by load.

    Every client so made asks `dispatcher_for(client)` once, after its handshake;
    None leaves it vLLM's own. Of each client `made` is told whether it is ours. Where
    either raises, the client is shut down.
    """
    from vllm.v1.engine import core_client

    base: Any = core_client.DPLBAsyncMPClient
    if getattr(base, _WRAPPED, False):
        return  # it stands there already

    class PrebleClient(base):  # type: ignore[misc]
        """`DPLBAsyncMPClient` whose requests are placed by prefix and load."""

        _preble_wrapped = True  # `_WRAPPED`
        __wrapped__ = base
        _preble: Dispatcher | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            with _shut_down_if_refused(self):
                self._preble = dispatcher_for(self)

        async def add_request_async(self, request: Any) -> None:
            """`request.request_id` enters `reqs_in_flight` before the first await."""
            if self._preble is None:
                await super().add_request_async(request)
                return
            if not await self._preble.place(self, request):
                return
            try:
                await super().add_request_async(request)
            except BaseException as error:
                cancelled = isinstance(error, asyncio.CancelledError)
                if not cancelled or request.request_id not in self.reqs_in_flight:
                    self._preble.failed(request.request_id)
                raise

        def get_core_engine_for_request(self, request: Any) -> bytes:
            """Called by `add_request_async`; obeys `request.data_parallel_rank`."""
            known = request.request_id in self.reqs_in_flight
            engine: bytes = super().get_core_engine_for_request(request)
            if self._preble is not None and not known:
                self._preble.chosen(request, int.from_bytes(engine, "little"))
            return engine

        async def abort_requests_async(self, request_ids: list[str]) -> None:
            """Of requests not in `reqs_in_flight` vLLM drops the abort."""
            if self._preble is not None:
                self._preble.aborting(request_ids)
            await super().abort_requests_async(request_ids)

        @staticmethod
        async def process_engine_outputs(self: Any, outputs: Any) -> None:
            """Found by name on the class, for each message of an engine."""
            if self._preble is not None:
                self._preble.observe(outputs)
            await base.process_engine_outputs(self, outputs)

        def shutdown(self, *args: Any, **kwargs: Any) -> None:
            """May be called more than once, from any thread, and half built."""
            if self._preble is not None:
                self._preble.close()
            super().shutdown(*args, **kwargs)

    make = core_client.EngineCoreClient.make_async_mp_client

    @functools.wraps(make)
    def make_async_mp_client(*args: Any, **kwargs: Any) -> Any:
        client = make(*args, **kwargs)
        with _shut_down_if_refused(client):
            made(client, isinstance(client, PrebleClient))
        return client

    core_client.DPLBAsyncMPClient = PrebleClient
    core_client.EngineCoreClient.make_async_mp_client = staticmethod(make_async_mp_client)


@contextlib.contextmanager
def _shut_down_if_refused(client: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        client.shutdown()
        raise
