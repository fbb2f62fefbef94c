"""What the adapter knows of vLLM's objects, as plain values.

`hooks` reads them; nothing else in the adapter looks into vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from preble_plugin.adapter.event_endpoints import EventsConfig


class Topology(NamedTuple):
    """How an engine is laid out: `ParallelConfig` and `CacheConfig`."""

    ranks: int
    """Data-parallel ranks on all nodes."""
    local_ranks: int
    hybrid: bool
    """Each node's API servers dispatch to their own ranks alone."""
    external: bool
    """Something outside dispatches to one API server per rank."""
    one_node: bool
    """All ranks that this node's API servers dispatch to are on this node."""
    api_servers: int
    api_server: int
    """Which of them this process is; -1 for their parent."""
    prefix_caching: bool


class EngineFacts(NamedTuple):
    """What a client knows of its engines after their handshake."""

    ranks: tuple[int, ...]
    """Global data-parallel ranks; the position is what `data_parallel_rank` of a
    request means."""
    block_size: int
    """Tokens of a block as the events name them."""
    capacity_blocks: int | None
    """Blocks of each rank's cache, without the null block."""
    drop_blocks: int
    lookahead_tokens: int
    """Tokens after each block that its hash covers: 0 up to 0.32."""
    max_running: int
    sources: Mapping[int, EventsConfig]
    """By rank, where its publisher is bound."""


class RequestFacts(NamedTuple):
    """What a request asks, `vllm/v1/engine/__init__.py: EngineCoreRequest`."""

    request_id: str
    tokens: Sequence[int] | None
    """None where part of the prompt is embeddings."""
    prompt_tokens: int
    features: tuple[tuple[str, int, int], ...]
    lora_name: str | None
    lora_id: int | None
    salt: str | None
    external_id: str | None
    max_output_tokens: int | None
    priority: int
    session_id: str | None
    fixed_index: int | None
    reads_cache: bool
    computes: bool
    """False where a KV connector brings the prompt from the server that computed it."""
    stops_on_text: bool
    """It has stop strings: the front end ends it, through an abort."""
    resumable: bool
    """More input may follow under its id; what ends a part does not end it."""


class OutputFacts(NamedTuple):
    """One request in one engine message, `EngineCoreOutput`."""

    request_id: str
    new_tokens: int
    prefilled: bool
    """This is its first output."""
    cached_tokens: int
    """Prompt tokens from the rank's own cache, not those a KV connector brought."""
    finished: bool
    aborted: bool
    """It ended without having come to its end."""


class QueueFacts(NamedTuple):
    """What a local queue has to know of the scheduler whose requests wait in it."""

    own_queue: Any
    """vLLM's own queue, empty."""
    by_priority: bool
    """Requests have priorities; else vLLM ignores them."""
    cached_tokens: Callable[[Any], int]
    """How many tokens of a request's prompt the rank's cache holds now."""
    looks: int
    """How many requests may be asked for in a step."""
