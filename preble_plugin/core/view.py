"""What a policy is shown of one decision; costs are computed when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Final, TypeAlias, overload

from preble_plugin.core.active_blocks import ActiveBlocks
from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.candidate import ReplicaCandidate
from preble_plugin.core.hits import Loads, usable
from preble_plugin.core.match import Match
from preble_plugin.core.receipts import DIFFERENT_HITS, LISTED, LOOKED_AT, Figures, Roster
from preble_plugin.core.replica import Replica
from preble_plugin.core.request import ReplicaId, Request
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.usage import Placements

Hits: TypeAlias = tuple[int, int, float, Loads]
"""Mask of columns of replicas, the tokens of a prompt that each of them need not
compute, and what these are worth in tokens computed: less than their number where
blocks are loaded from slower media, the tokens of which come last."""


_NO_LOADS: Final[Loads] = ()


class Fleet:
    """The replicas of one moment, in order of their slots, and what of them does not
    depend on a request. Made anew when they, or how far their events can be believed,
    change."""

    __slots__ = (
        "active_blocks",
        "columns",
        "drop_blocks",
        "lately",
        "loads",
        "models",
        "position_of",
        "replicas",
        "roster",
    )

    def __init__(
        self,
        replicas: tuple[Replica, ...],
        active_blocks: Callable[[], ActiveBlocks],
        lately: Placements,
    ) -> None:
        self.replicas = replicas
        self.lately = lately
        self.active_blocks = active_blocks
        """Asked for, it begins to be kept; a policy that does not ask pays nothing."""
        self.roster = Roster(
            tuple(one.name for one in replicas),
            tuple(one.trust for one in replicas),
            tuple(one.column for one in replicas),
        )
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

    __slots__ = ("_fleet", "_hits", "_now", "_prompt_tokens", "made")

    def __init__(self, fleet: Fleet, prompt_tokens: int, hits: Sequence[Hits], now: float) -> None:
        self._fleet = fleet
        self._prompt_tokens = prompt_tokens
        self._hits = hits
        self._now = now
        self.made: dict[int, ReplicaCandidate] = {}
        """Those looked at, by position."""

    def __len__(self) -> int:
        return len(self._fleet.replicas)

    @overload
    def __getitem__(self, position: int) -> ReplicaCandidate: ...

    @overload
    def __getitem__(self, position: slice) -> list[ReplicaCandidate]: ...

    def __getitem__(self, position: int | slice) -> ReplicaCandidate | list[ReplicaCandidate]:
        if isinstance(position, slice):
            return [self[one] for one in range(*position.indices(len(self)))]
        made = self.made.get(position)
        if made is None:
            source = self._fleet.replicas[position]
            column, tokens, worth, loads = source.column, 0, 0.0, _NO_LOADS
            for hit in self._hits:
                if hit[0] >> column & 1:
                    _, tokens, worth, loads = hit
                    break
            made = ReplicaCandidate(
                source,
                self._prompt_tokens,
                tokens,
                worth,
                loads,
                self._now,
                self._fleet.active_blocks,
            )
            self.made[position] = made
        return made

    def __iter__(self) -> Iterator[ReplicaCandidate]:
        return map(self.__getitem__, range(len(self._fleet.replicas)))


class PlacementView:
    """One decision (`policies.protocol.View`)."""

    __slots__ = (
        "_fleet",
        "_hits",
        "_holding",
        "_in_flight",
        "_loads",
        "_next_hit_worth",
        "block_size",
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
        for columns, tokens, _, _ in hits:
            if tokens > longest:
                longest, holding = tokens, columns
            elif tokens == longest:
                holding |= columns
        if len(hits) > 1:
            for columns, _, worth, _ in hits:
                if worth > others and columns & ~holding:
                    others = worth
        self.request = request
        self.block_size = block_size
        self.now = now
        self.candidates = Candidates(fleet, request.prompt_tokens, hits, now)
        self.longest_hit_tokens = longest
        self.holders = fleet.positions(holding or fleet.columns)
        self.match = match
        self._fleet = fleet
        self._hits = hits
        self._holding = holding
        self._in_flight: list[int] | None = None
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
    def in_flight(self) -> list[int]:
        """Requests in flight on all candidates."""
        found = self._in_flight
        if found is None:
            found = self._in_flight = [load.in_flight for load in self._fleet.loads]
        return found

    @property
    def hit_share(self) -> float:
        """Share of the window's placements that used the longest hit."""
        blocks = self.longest_hit_tokens // self.block_size
        if blocks:
            for node in self.match.path:
                if node.depth + node.size >= blocks:
                    return self._fleet.lately.share(node, self.now)
        return 0.0

    @property
    def new_active_blocks(self) -> list[int]:
        """Blocks of this prompt that no request in flight on each has."""
        keys, fleet = self.request.keys, self._fleet
        shared = fleet.active_blocks().shared(keys)
        blocks = len(keys) // KEY_BYTES
        return [blocks - shared.get(one.name, 0) for one in fleet.replicas]

    @property
    def least_prefill_seconds(self) -> float:
        """At most P of any candidate."""
        return self._least_prefill(max((worth for _, _, worth, _ in self._hits), default=0.0))

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

    def figures(self, chosen: ReplicaCandidate, would_be: ReplicaId | None) -> Figures:
        """What the receipt keeps of the candidates: of those looked at, the replicas decided
        on and those with the longest hits. O(candidates looked at)."""
        roster, made = self._fleet.roster, self.candidates.made
        known: Sequence[Hits] = self._hits
        different = len(known)
        every_hit = different <= DIFFERENT_HITS
        hits: tuple[int, ...]
        if different < 2 or not every_hit:
            hits = (self._holding, self.longest_hit_tokens)
        elif different == 2:
            one, other = known
            hits = (one[0], one[1], other[0], other[1])
        else:
            hits = tuple([figure for hit in known for figure in hit[:2]])
        if len(made) == 1:
            return Figures(roster, hits, every_hit, chosen.looked_at())
        looked_at = list(made.values())
        if len(looked_at) > LISTED:
            looked_at.sort(key=attrgetter("miss_tokens"))
            decided = [chosen]
            if would_be is not None:
                decided += [one for one in looked_at if one.source.name == would_be]
            looked_at = [*decided, *looked_at[:LISTED]]
            looked_at = list(dict.fromkeys(looked_at))[:LISTED]
        rows = b"".join([LOOKED_AT.pack(*one.looked_at()) for one in looked_at])
        return Figures(roster, hits, every_hit, rows)


def _hits(request: Request, fleet: Fleet, match: Match, block_size: int) -> list[Hits]:
    """Usable hits of those replicas that have any. O(different hits), and O(replicas)
    where some have several layers, or differ in what they drop."""
    limit = max(0, (request.prompt_tokens - 1) // block_size)
    drop = fleet.drop_blocks
    if match.layered or drop is None:
        return _hits_of_each(fleet, match, limit, block_size, request.prompt_tokens)
    found: list[Hits] = []
    for columns, level in match.levels:
        tokens = ((level if level < limit else limit) - drop) * block_size
        if tokens > 0:
            found.append((columns, tokens, tokens, _NO_LOADS))
    return found


def _hits_of_each(
    fleet: Fleet, match: Match, limit: int, block_size: int, prompt_tokens: int
) -> list[Hits]:
    found: list[Hits] = []
    touched = match.touched()
    levels = {
        position: level for columns, level in match.levels for position in fleet.positions(columns)
    }
    for position, replica in enumerate(fleet.replicas):
        level = levels.get(position, 0)
        residency = replica.residency
        if level or (residency.columns | residency.pool.columns) & touched:
            blocks, loaded = usable(residency, match, level, limit, replica.drop_blocks)
            if blocks:
                tokens = blocks * block_size
                loads = tuple([(medium, count * block_size) for medium, count in loaded])
                worth = tokens - sum(
                    count * replica.model.load_share(medium, prompt_tokens)
                    for medium, count in loads
                )
                found.append((1 << replica.column, tokens, worth, loads))
    return found
