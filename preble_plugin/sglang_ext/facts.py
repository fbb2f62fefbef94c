"""What the adapter knows of SGLang's objects, as plain values.

`hooks` reads them; nothing else in the adapter looks into SGLang.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from preble_plugin.adapter.event_endpoints import EventsConfig

FCFS: Final = "fcfs"
"""`--schedule-policy` where nobody chose one; given by name it looks the same."""


class LaunchFacts(NamedTuple):
    """How a server is about to be launched, `ServerArgs` as resolved."""

    ranks: int
    """Data-parallel ranks, those of DP attention included."""
    attention_ranks: int
    """Ranks of DP attention; 1 without it."""
    nodes: int
    radix_cache: bool
    rust_server: bool
    ray: bool
    """The data-parallel controller is a thread of the launching process."""
    disaggregation: str
    """`null`, `prefill` or `decode`."""
    events: EventsConfig | None
    elastic: bool = False
    """Ranks may join while it runs (`--max-ep-size`)."""
    schedule_policy: str = FCFS
    """In which order each rank takes up what waits."""
    diffusion: bool = False
    """A diffusion language model (`--dllm-algorithm`)."""


class ControllerFacts(NamedTuple):
    """What a data-parallel controller knows of its ranks once they are up."""

    ranks: tuple[int, ...]
    """Those that take requests now."""
    page_size: int
    capacity_tokens: int
    """Tokens that each rank's cache holds."""
    max_running: int | None
    """Requests that a rank runs at once, where the user said so."""
    events: EventsConfig | None
    dynamo_format: bool
    """The hashes of the events depend on the whole namespace of their blocks."""
    named_lora: bool
    """The hashes of blocks of a named LoRA depend on it, whatever the format."""
    bigram: bool
    """The cache's keys are pairs of tokens (EAGLE)."""
    decodes: bool
    """Prompts come from prefill servers (`--disaggregation-mode decode`)."""


class RequestFacts(NamedTuple):
    """What a request asks, `TokenizedGenerateReqInput` or `TokenizedEmbeddingReqInput`."""

    request_id: str
    tokens: Sequence[int] | None
    """Those whose blocks can be read from the cache: up to the first multimodal
    item, and to the first token whose log probability is asked for. None where
    the prompt is embeddings, or reads no cache."""
    prompt_tokens: int
    extra_key: str | None
    """With the id of the LoRA, as the cache keys have it."""
    lora_name: str | None
    """Where SGLang tells it to its schedulers."""
    salt: str | None
    max_output_tokens: int | None
    priority: int
    session_id: str | None
    """Of a session that one rank holds."""
    fixed_rank: int | None


class LoadFacts(NamedTuple):
    """One rank's load snapshot, `LoadSnapshot`; sums are since its start, over the
    steps that SGLang measures: of the prefills all that take less than 2 s, from
    0.5.23 whatever they take."""

    rank: int
    timestamp: float
    """Seconds since the epoch."""
    running: int
    waiting: int
    """All others that it tells of."""
    prefill_tokens: int
    prefill_seconds: float
    decode_steps: int
    decode_requests: int
    """Sum over the steps of the batch size."""
    decode_seconds: float
    decode_tokens: int


class End(NamedTuple):
    """A request that left a scheduler."""

    request_id: str
    output_tokens: int
    cached_tokens: int | None
    """None where it was not computed."""
    aborted: bool
