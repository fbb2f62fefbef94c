"""What a policy is shown of one decision; costs are computed when asked for."""

from __future__ import annotations

from collections.abc import Mapping

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.hits import usable
from preble_plugin.core.match import Match
from preble_plugin.core.receipts import CandidateReceipt
from preble_plugin.core.replica import Replica
from preble_plugin.core.request import ReplicaId, Request


class ReplicaCandidate:
    """One replica for one request (`policies.protocol.Candidate`)."""

    __slots__ = (
        "_eviction",
        "_load",
        "_now",
        "_prefill",
        "_prompt_tokens",
        "hit_tokens",
        "miss_tokens",
        "source",
    )

    def __init__(self, source: Replica, prompt_tokens: int, now: float) -> None:
        self.source = source
        self.hit_tokens = 0
        self.miss_tokens = prompt_tokens
        self._prompt_tokens = prompt_tokens
        self._now = now
        self._load: float | None = None
        self._eviction: float | None = None
        self._prefill: float | None = None

    @property
    def replica(self) -> ReplicaId:
        """Its name."""
        return self.source.name

    @property
    def index(self) -> int:
        """Its slot."""
        return self.source.index

    @property
    def load_seconds(self) -> float:
        """L."""
        if self._load is None:
            self._load = self.source.load.load_seconds(self._now)
        return self._load

    @property
    def window_load_seconds(self) -> float:
        """L over the window."""
        return self.source.load.window_load_seconds(self._now)

    @property
    def eviction_seconds(self) -> float:
        """M."""
        if self._eviction is None:
            blocks = self.evicted_blocks
            self._eviction = 0.0
            if blocks:
                source = self.source
                requests = source.load.requests_in_window(self._now)
                self._eviction = source.eviction.seconds(blocks, requests, self._now)
        return self._eviction

    @property
    def prefill_seconds(self) -> float:
        """P."""
        if self._prefill is None:
            self._prefill = self.source.model.prefill_seconds(self.miss_tokens, self._prompt_tokens)
        return self._prefill

    @property
    def evicted_blocks(self) -> int:
        """Blocks to be evicted to make room."""
        return self.source.evicted_blocks(self.miss_tokens)

    @property
    def waiting(self) -> int:
        """Requests without a token yet."""
        return self.source.load.waiting

    @property
    def running(self) -> int:
        """Requests that decode."""
        return self.source.load.running

    @property
    def decode_share(self) -> float:
        """Share of decode in the window's work."""
        return self.source.load.decode_share(self._now)

    @property
    def cache_usage(self) -> float:
        """Share of the cache in use."""
        return self.source.cache_usage()

    def receipt(self) -> CandidateReceipt:
        """The costs that were asked for."""
        source = self.source
        return CandidateReceipt(
            source.name, self.hit_tokens, self._load, self._eviction, self._prefill, source.trust
        )


class PlacementView:
    """One decision (`policies.protocol.View`)."""

    __slots__ = ("candidates", "longest_hit_tokens", "now", "prefix_hash", "request")

    def __init__(
        self, request: Request, candidates: list[ReplicaCandidate], match: Match, now: float
    ) -> None:
        self.request = request
        self.now = now
        self.candidates = candidates
        longest = 0
        for one in candidates:
            if one.hit_tokens > longest:
                longest = one.hit_tokens
        self.longest_hit_tokens = longest
        # Prompts share templates: what sets this one apart begins where the tree ends.
        start = min(match.blocks * KEY_BYTES, len(request.keys) - KEY_BYTES)
        self.prefix_hash = int.from_bytes(request.keys[max(start, 0) :][:KEY_BYTES], "little")


def candidates_for(
    request: Request,
    match: Match,
    replicas: Mapping[int, Replica],
    block_size: int,
    now: float,
) -> list[ReplicaCandidate]:
    """The candidates of a decision, in order of their slots. `replicas` maps
    columns to replicas. O(replicas)."""
    prompt_tokens = request.prompt_tokens
    candidates = [ReplicaCandidate(one, prompt_tokens, now) for one in replicas.values()]
    if not request.reads_cache:
        return candidates
    limit = max(0, (prompt_tokens - 1) // block_size)
    levels: dict[int, int] = {}
    for mask, blocks in match.levels:
        while mask:
            lowest = mask & -mask
            mask ^= lowest
            levels[lowest.bit_length() - 1] = blocks
    for candidate in candidates:
        source = candidate.source
        level = levels.get(source.column, 0)
        if level or source.residency.layers:
            hit = usable(source.residency, match, level, limit)
            blocks = max(0, hit.blocks - source.drop_blocks)
            candidate.hit_tokens = blocks * block_size
            candidate.miss_tokens = prompt_tokens - int(min(hit.credit, blocks) * block_size)
    return candidates
