"""What a policy is shown of one decision; costs are computed when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, overload

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.hits import usable
from preble_plugin.core.match import Match
from preble_plugin.core.receipts import CandidateReceipt
from preble_plugin.core.replica import Replica
from preble_plugin.core.request import ReplicaId, Request
from preble_plugin.core.status import Trust
from preble_plugin.core.time_model import TimeModel


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

    def __init__(
        self, source: Replica, prompt_tokens: int, hit_tokens: int, worth: float, now: float
    ) -> None:
        self.source = source
        self.hit_tokens = hit_tokens
        self.miss_tokens = prompt_tokens - int(worth)
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
        seconds = self._load
        if seconds is None:
            seconds = self._load = self.source.load.load_seconds(self._now)
        return seconds

    @property
    def window_load_seconds(self) -> float:
        """L over the window."""
        return self.source.load.window_load_seconds(self._now)

    @property
    def eviction_seconds(self) -> float:
        """M."""
        seconds = self._eviction
        if seconds is None:
            source = self.source
            blocks = source.evicted_blocks(self.miss_tokens)
            seconds = 0.0
            if blocks:
                seconds = source.eviction.uses_lost_seconds(blocks, self._now)
                if seconds:
                    # What was used in the window was so by a request assigned in it.
                    seconds /= max(1, source.load.requests_in_window(self._now))
            self._eviction = seconds
        return seconds

    @property
    def prefill_seconds(self) -> float:
        """P."""
        seconds = self._prefill
        if seconds is None:
            model = self.source.model
            seconds = model.prefill_seconds(self.miss_tokens, self._prompt_tokens)
            self._prefill = seconds
        return seconds

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


Hits: TypeAlias = tuple[int, int, float]
"""Mask of columns of replicas, the tokens of a prompt that each of them need not
compute, and what these are worth: less than their number where blocks come from a
slower medium."""


class Fleet:
    """The replicas of one moment, in order of their slots, and what of them does not
    depend on a request. Made anew when they, or how far their events can be believed,
    change."""

    __slots__ = ("columns", "drop_blocks", "loads", "models", "position_of", "replicas", "trusts")

    def __init__(self, replicas: tuple[Replica, ...] = ()) -> None:
        self.replicas = replicas
        self.trusts = tuple(one.trust for one in replicas)
        self.position_of = {one.column: position for position, one in enumerate(replicas)}
        self.columns = sum(1 << one.column for one in replicas)
        dropped = {one.drop_blocks for one in replicas}
        self.drop_blocks = dropped.pop() if len(dropped) == 1 else None
        """Blocks that each computes again at the end of a hit; None where they differ."""
        self.loads = [one.load for one in replicas]
        self.models = [one.model for one in replicas]

    def positions(self, columns: int) -> Sequence[int]:
        """Those of a mask of columns. O(of them); of all, O(1)."""
        if columns == self.columns:
            return range(len(self.replicas))
        if not columns & columns - 1:
            return (self.position_of[columns.bit_length() - 1],)
        found = []
        while columns:
            lowest = columns & -columns
            columns ^= lowest
            found.append(self.position_of[lowest.bit_length() - 1])
        return found


class Candidates(Sequence[ReplicaCandidate]):
    """The candidates of one decision, each made when it is looked at."""

    __slots__ = ("_fleet", "_hits", "_made", "_now", "_prompt_tokens")

    def __init__(self, fleet: Fleet, prompt_tokens: int, hits: Sequence[Hits], now: float) -> None:
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
            source = self._fleet.replicas[position]
            column, tokens, worth = source.column, 0, 0.0
            for hit in self._hits:
                if hit[0] >> column & 1:
                    _, tokens, worth = hit
                    break
            made = ReplicaCandidate(source, self._prompt_tokens, tokens, worth, self._now)
            self._made[position] = made
        return made

    def __iter__(self) -> Iterator[ReplicaCandidate]:
        return map(self.__getitem__, range(len(self._fleet.replicas)))

    def receipts(self) -> list[CandidateReceipt]:
        """All of them, with the costs that were asked for."""
        return [one.receipt(trust) for one, trust in zip(self, self._fleet.trusts, strict=True)]


class PlacementView:
    """One decision (`policies.protocol.View`)."""

    __slots__ = (
        "_fleet",
        "_hits",
        "_loads",
        "_next_hit_worth",
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
        hits = _hits(request, fleet, match, block_size) if request.reads_cache else ()
        longest = holding = 0
        others = 0.0
        for columns, tokens, _ in hits:
            if tokens > longest:
                longest, holding = tokens, columns
            elif tokens == longest:
                holding |= columns
        if len(hits) > 1:
            for columns, _, worth in hits:
                if worth > others and columns & ~holding:
                    others = worth
        self.request = request
        self.now = now
        self.candidates = Candidates(fleet, request.prompt_tokens, hits, now)
        self.longest_hit_tokens = longest
        self.holders = fleet.positions(holding or fleet.columns)
        self.match = match
        self._fleet = fleet
        self._hits = hits
        self._loads: list[float] | None = None
        self._next_hit_worth = others

    @property
    def load_seconds(self) -> list[float]:
        """L of all candidates."""
        loads = self._loads
        if loads is None:
            now = self.now
            loads = self._loads = [load.load_seconds(now) for load in self._fleet.loads]
        return loads

    @property
    def least_prefill_seconds(self) -> float:
        """At most P of any candidate."""
        return self._least_prefill(max((worth for _, _, worth in self._hits), default=0.0))

    @property
    def least_prefill_elsewhere_seconds(self) -> float:
        """At most P of any candidate that is not a holder."""
        return self._least_prefill(self._next_hit_worth)

    def _least_prefill(self, worth: float) -> float:
        tokens = self.request.prompt_tokens
        models = self._fleet.models
        return TimeModel.least_prefill_seconds(models, tokens - int(worth), tokens)

    @property
    def prefix_hash(self) -> int:
        """Prompts share templates: what sets this one apart begins where the tree
        ends."""
        keys = self.request.keys
        start = max(min(self.match.blocks * KEY_BYTES, len(keys) - KEY_BYTES), 0)
        return int.from_bytes(keys[start : start + KEY_BYTES], "little")


def _hits(request: Request, fleet: Fleet, match: Match, block_size: int) -> list[Hits]:
    """Usable hits of those replicas that have any. O(different hits), and O(replicas)
    where some have several layers, or differ in what they drop."""
    limit = max(0, (request.prompt_tokens - 1) // block_size)
    drop = fleet.drop_blocks
    if match.layered or drop is None:
        return _hits_of_each(fleet, match, limit, block_size)
    found: list[Hits] = []
    for columns, level in match.levels:
        tokens = ((level if level < limit else limit) - drop) * block_size
        if tokens > 0:
            found.append((columns, tokens, tokens))
    return found


def _hits_of_each(fleet: Fleet, match: Match, limit: int, block_size: int) -> list[Hits]:
    found: list[Hits] = []
    touched = match.touched()
    levels = {
        position: level for columns, level in match.levels for position in fleet.positions(columns)
    }
    for position, replica in enumerate(fleet.replicas):
        level = levels.get(position, 0)
        if level or replica.residency.columns & touched:
            hit = usable(replica.residency, match, level, limit)
            blocks = hit.blocks - replica.drop_blocks
            if blocks > 0:
                worth = min(hit.credit, blocks) * block_size
                found.append((1 << replica.column, blocks * block_size, worth))
    return found
