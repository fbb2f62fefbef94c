"""vLLM's real scheduler in this process, and in place of a model a token that it says.

core = Core(max_num_seqs=1)
core.add("a", document)
core.add("b", other)
assert core.steps() == ["a", "b"]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from preble_plugin.bench.tiny_model import make_tiny_model
from tests.engines import TINY_MODEL

BLOCK = 32
BLOCK_BYTES = 2 * BLOCK * 2 * 64 * 4
"""Of one layer: keys and values of two heads, 64 floats each."""
_SAID = 7


class Core:
    """One scheduler with a cache of `blocks` blocks of `BLOCK` tokens.

    `kind` is its class; `more` are engine arguments. With `ahead` a step is scheduled
    before the outcome of the one before is known, as under async scheduling.
    `attention` says of each group of layers whether its window is limited, in tokens,
    `speculation` is what a `SpeculativeConfig` has.
    """

    def __init__(
        self,
        kind: type[Any],
        *,
        blocks: int = 1000,
        ahead: bool = False,
        attention: Sequence[int | None] = (None,),
        speculation: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        import torch
        from vllm import AsyncEngineArgs, SamplingParams
        from vllm.config import KVEventsConfig, SpeculativeConfig
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import (
            FullAttentionSpec,
            KVCacheConfig,
            KVCacheGroupSpec,
            KVCacheTensor,
            SlidingWindowSpec,
        )
        from vllm.v1.outputs import KVConnectorOutput, ModelRunnerOutput
        from vllm.v1.request import Request
        from vllm.v1.structured_output import StructuredOutputManager

        events = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
        given = {
            "block_size": BLOCK,
            "max_model_len": 8192,
            "enable_prefix_caching": True,
            "kv_events_config": events,
            **more,
        }
        config = AsyncEngineArgs(model=str(make_tiny_model(TINY_MODEL)), **given)
        config = config.create_engine_config()
        config.cache_config.num_gpu_blocks = blocks
        if speculation is not None:
            config.speculative_config = object.__new__(SpeculativeConfig)
            config.speculative_config.__dict__.update(speculation)
        self.config = config
        shape = {"block_size": BLOCK, "num_kv_heads": 2, "head_size": 64, "dtype": torch.float32}
        groups = [
            KVCacheGroupSpec(
                [f"layer {number}"],
                FullAttentionSpec(**shape)
                if window is None
                else SlidingWindowSpec(**shape, sliding_window=window),
            )
            for number, window in enumerate(attention)
        ]
        tensors = [
            KVCacheTensor(blocks * BLOCK_BYTES, list(group.layer_names), 0, BLOCK_BYTES)
            for group in groups
        ]
        self.scheduler: Any = kind(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(blocks, tensors, groups),
            structured_output_manager=StructuredOutputManager(config),
            block_size=BLOCK,
            log_stats=True,
        )
        self.scheduler.kv_event_publisher = self
        init_none_hash(sha256)
        ahead_of_blocks = getattr(config, "num_hash_lookahead_tokens", 0)
        lookahead = (ahead_of_blocks,) if ahead_of_blocks else ()
        self._hasher = get_request_block_hasher(BLOCK, sha256, *lookahead)
        self._ahead = ahead
        self._scheduled: deque[Any] = deque()
        self._request, self._sampling = Request, SamplingParams
        self._output, self._brought = ModelRunnerOutput, KVConnectorOutput
        self.said: dict[str, int] = {}
        """Tokens said to each request."""
        self.hits: dict[str, int] = {}
        """Tokens that each request found cached when it was taken up first."""
        self.computed = 0
        """Tokens that the last step computed."""
        self.preempted = 0
        self.published: list[bytes] = []
        """Batches of events, as on the wire."""
        self.arrived: set[str] = set()
        """Requests whose blocks a KV connector has brought by the next outcome."""
        self.worker: Callable[[Any], tuple[set[str], Any]] = lambda asked: (set(), None)
        """What the worker's half of a connector says to what its scheduler's asked for in
        a step: the requests whose blocks it brought, and its metadata."""

    def publish(self, batch: Any) -> None:
        """Take what the scheduler publishes."""
        self.published.append(msgspec.msgpack.encode(batch))

    def request(self, name: str, prompt: Sequence[int], **more: Any) -> Any:
        """A request of vLLM; `tokens` is how many it is told."""
        sampling = self._sampling(max_tokens=more.pop("tokens", 1), ignore_eos=True)
        return self._request(name, list(prompt), sampling, None, block_hasher=self._hasher, **more)

    def add(self, name: str, prompt: Sequence[int], **more: Any) -> Any:
        """A request comes."""
        request = self.request(name, prompt, **more)
        self.scheduler.add_request(request)
        return request

    def abort(self, *names: str) -> None:
        """The client has gone away."""
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests(list(names), RequestStatus.FINISHED_ABORTED)

    def step(self) -> list[str]:
        """One step of the engine; the requests it took up for the first time."""
        scheduled = self.scheduler.schedule()
        self.computed = scheduled.total_num_scheduled_tokens
        self.preempted += len(scheduled.preempted_req_ids or ())
        self._scheduled.append(scheduled)
        if not self._ahead or len(self._scheduled) > 1:
            self._outcome()
        for one in scheduled.scheduled_new_reqs:
            self.hits[one.req_id] = one.num_computed_tokens
        return [one.req_id for one in scheduled.scheduled_new_reqs]

    def steps(self, most: int = 500) -> list[str]:
        """Steps until nothing is left to do; in which order requests were taken up."""
        order = []
        for _ in range(most):
            order += self.step()
            if not self.scheduler.has_unfinished_requests():
                return order
        raise AssertionError(f"{most} steps were not enough: {order}")

    def _outcome(self) -> None:
        done = self._scheduled.popleft()
        names = list(done.num_scheduled_tokens)
        told = [[_SAID] if self._sampled(name, done) else [] for name in names]
        for name, new in zip(names, told, strict=True):
            self.said[name] = self.said.get(name, 0) + len(new)
        places = {name: place for place, name in enumerate(names)}
        arrived, carried = self.worker(done.kv_connector_metadata)
        brought = self._brought(
            finished_recving=self.arrived | arrived or None, kv_connector_worker_meta=carried
        )
        self.arrived = set()
        self.scheduler.update_from_output(
            done, self._output(names, places, told, kv_connector_output=brought)
        )

    def _sampled(self, name: str, done: Any) -> bool:
        """Whether this step's chunk was the last of what was to be computed."""
        request = self.scheduler.requests.get(name)
        if request is None:
            return True
        starts = {one.req_id: one.num_computed_tokens for one in done.scheduled_new_reqs}
        cached = done.scheduled_cached_reqs
        starts |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        end: int = starts[name] + done.num_scheduled_tokens[name]
        return end >= request.num_prompt_tokens
