"""What a policy is shown of one decision; costs are computed when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, overload

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.hits import usable
from preble_plugin.core.match import Match
from preble_plugin.core.receipts import CandidateReceipt
from preble_plugin.core.replica import Replica
from preble_plugin.core.request import ReplicaId, Request
from preble_plugin.core.status import Trust


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

    def __init__(self, source: Replica, prompt_tokens: int, hit: Hits | None, now: float) -> None:
        self.source = source
        self.hit_tokens = 0 if hit is None else hit.tokens
        self.miss_tokens = prompt_tokens if hit is None else prompt_tokens - int(hit.worth)
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
            source = self.source
            blocks = source.evicted_blocks(self.miss_tokens)
            self._eviction = 0.0
            if blocks:
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

    def receipt(self, trust: Trust) -> CandidateReceipt:
        """The costs that were asked for."""
        return CandidateReceipt(
            self.source.name, self.hit_tokens, self._load, self._eviction, self._prefill, trust
        )


class Hits(NamedTuple):
    """What of a prompt one replica need not compute, in tokens."""

    tokens: int
    worth: float
    """Less than `tokens` where blocks come from a slower medium."""


class Fleet(NamedTuple):
    """The replicas of one moment, in order of their slots, and how far each one's
    events could be believed then. Made anew when either changes."""

    replicas: tuple[Replica, ...] = ()
    trusts: tuple[Trust, ...] = ()
    position_of: Mapping[int, int] = MappingProxyType({})
    """Positions by column."""


class Candidates(Sequence[ReplicaCandidate]):
    """The candidates of one decision, each made when it is looked at."""

    __slots__ = ("_fleet", "_hits", "_made", "_now", "_prompt_tokens")

    def __init__(
        self, fleet: Fleet, prompt_tokens: int, hits: Mapping[int, Hits], now: float
    ) -> None:
        self._fleet = fleet
        self._prompt_tokens = prompt_tokens
        self._hits = hits
        self._now = now
        self._made: dict[int, ReplicaCandidate] = {}

    def __len__(self) -> int:
        return len(self._fleet.replicas)

    @overload
    def __getitem__(self, position: int) -> ReplicaCandidate: ...

    @overload
    def __getitem__(self, position: slice) -> list[ReplicaCandidate]: ...

    def __getitem__(self, position: int | slice) -> ReplicaCandidate | list[ReplicaCandidate]:
        if isinstance(position, slice):
            return [self[one] for one in range(*position.indices(len(self)))]
        made = self._made.get(position)
        if made is None:
            hit = self._hits.get(position)
            made = self._made[position] = ReplicaCandidate(
                self._fleet.replicas[position], self._prompt_tokens, hit, self._now
            )
        return made

    def __iter__(self) -> Iterator[ReplicaCandidate]:
        return map(self.__getitem__, range(len(self._fleet.replicas)))

    def receipts(self) -> list[CandidateReceipt]:
        """All of them, with the costs that were asked for."""
        return [one.receipt(trust) for one, trust in zip(self, self._fleet.trusts, strict=True)]


class PlacementView:
    """One decision (`policies.protocol.View`)."""

    __slots__ = (
        "candidates",
        "holders",
        "longest_hit_tokens",
        "match",
        "now",
        "request",
    )

    def __init__(
        self, request: Request, fleet: Fleet, match: Match, block_size: int, now: float
    ) -> None:
        hits = _hits(request, fleet, match, block_size) if request.reads_cache else {}
        longest = 0
        holders: Sequence[int] = range(len(fleet.replicas))
        for position, hit in hits.items():
            if hit.tokens > longest:
                longest, holders = hit.tokens, [position]
            elif hit.tokens == longest and longest:
                holders = [*holders, position]
        self.request = request
        self.now = now
        self.candidates = Candidates(fleet, request.prompt_tokens, hits, now)
        self.longest_hit_tokens = longest
        self.holders = holders
        self.match = match

    @property
    def prefix_hash(self) -> int:
        """Prompts share templates: what sets this one apart begins where the tree
        ends."""
        keys = self.request.keys
        start = max(min(self.match.blocks * KEY_BYTES, len(keys) - KEY_BYTES), 0)
        return int.from_bytes(keys[start : start + KEY_BYTES], "little")


def _hits(request: Request, fleet: Fleet, match: Match, block_size: int) -> dict[int, Hits]:
    """Usable hits by position, of those replicas that have any. O(those), and
    O(replicas) where some have several layers."""
    limit = max(0, (request.prompt_tokens - 1) // block_size)
    found: dict[int, Hits] = {}
    layered = match.layered
    for mask, blocks in match.levels:
        tokens = (blocks if blocks < limit else limit) * block_size
        while mask:
            lowest = mask & -mask
            mask ^= lowest
            position = fleet.position_of[lowest.bit_length() - 1]
            if layered or fleet.replicas[position].drop_blocks:
                hit = _hit_of(fleet.replicas[position], match, blocks, limit, block_size)
                if hit is not None:
                    found[position] = hit
            elif tokens:
                found[position] = Hits(tokens, tokens)
    if layered:
        for position, replica in enumerate(fleet.replicas):
            if replica.residency.layers and position not in found:
                hit = _hit_of(replica, match, 0, limit, block_size)
                if hit is not None:
                    found[position] = hit
    return found


def _hit_of(replica: Replica, match: Match, level: int, limit: int, block_size: int) -> Hits | None:
    hit = usable(replica.residency, match, level, limit)
    blocks = hit.blocks - replica.drop_blocks
    if blocks <= 0:
        return None
    return Hits(blocks * block_size, min(hit.credit, blocks) * block_size)
