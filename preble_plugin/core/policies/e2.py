"""E2: exploit what is cached, explore where little is (PREBLE 3, Algorithm 1).

The cost of a replica is `(L + P) C + M`, in seconds: the prefill that waits there and
the request's own, the eviction, and the crowding `C = (1 + n) / (1 + mean n)` by the
`n` requests in flight there. Prefill stands in the way of whoever decodes, and each of
those slows the rest; where replicas are equally crowded it is the paper's sum.

With `longest` the longest hit of any replica:

1. *Exploit* if less of the prompt is missing than cached (strictly) at the
   longest hit: candidates are the replicas that have that hit. *Explore*
   otherwise: all are candidates.
2. The least cost takes the request. Costs that exceed the least by no more than
   `SLACK` of its P are ties for `protocol.least`: no prediction is better than that,
   and a few cached tokens of a common preamble, or a replica that measures a little
   faster, must not draw every new prefix to one place.
3. *Replicate*: a prefix that a share of all requests goes through deserves that share
   of the replicas, and half as many again. While fewer hold it, a target that has
   work gives way to the cheapest other replica that has less: one recomputation now,
   before there is a queue. As many whole replicas as its share is are its own, whatever
   it puts out there; further ones only where M is no more than `SLACK` of its P. So
   prefixes that do not fit side by side come to as many replicas as each is asked for,
   and do not put each other out for ever. What a share no longer deserves is used less,
   and leaves the caches by itself.
4. *Rebalance*: an exploit target `t` that has work gives way to the cheapest replica
   `o` outside the candidates if both
       cost(t) > TH_BAL * cost(o)   and   cost(t) - cost(o) > TH_BAL * P(o).
   Cost(o) includes computing the prompt there anew, so the first says that this
   request itself gains, and by how much: where all queues are long, moving makes
   them longer. The second asks that it gain several times the recomputation: those
   seconds are taken from everyone on `o`, and the copy takes others' room.

The paper rebalances by comparing window loads alone; here it is the request's
own cost that decides, so that a prefix too dear to compute again stays, and a
cheap one moves once its replica's queue is several times the recomputation.
`e2-paper` keeps the paper's letter. docs/policies.md has what each rule adds.

Costs are asked for only as far as needed: a lone holder that is idle is not priced.

Each rule can be left out (`RULES`), to measure what it adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from preble_plugin.core.policies.protocol import Choice, View, least

TH_BAL: Final = 4.0
"""How far costs must be apart for a move, in times of the lesser and of its P."""
HEADROOM: Final = 1.5
"""Replicas of a prefix, over its share of the requests times all replicas."""
SLACK: Final = 0.1
"""Share of a prefill that is nothing to speak of: costs within it are equal."""
RULES: Final[Mapping[str, str]] = {
    "restriction": "what exploits may go anywhere, at its cost",
    "crowding": "C is 1",
    "eviction": "M is 0",
    "slack": "only equal costs are ties",
    "replication": "a hot prefix gets no second home before a queue does it",
    "rebalancing": "what exploits never leaves the holders",
}
"""The rules that can be left out, and what is so then."""
_NO_COST: Final = float("inf")


def exploits(view: View) -> bool:
    """Whether the longest hit covers more of the prompt than it leaves."""
    cached = view.longest_hit_tokens
    return view.request.prompt_tokens - cached < cached


class E2:
    """Preble's placement with exact hits and live load. O(replicas).

    `without` names rules of `RULES` to leave out. Raises ValueError for any other.
    """

    name = "e2"

    def __init__(self, without: Iterable[str] = ()) -> None:
        left_out = frozenset(without)
        if not left_out <= RULES.keys():
            raise ValueError(
                f"e2 has no rule {sorted(left_out - RULES.keys())[0]!r} to leave out "
                f"(there are: {', '.join(RULES)})"
            )
        self._restricts = "restriction" not in left_out
        self._replicates = "replication" not in left_out
        self._rebalances = "rebalancing" not in left_out
        self._crowds = "crowding" not in left_out
        self._evicts = "eviction" not in left_out
        self._slack = 0.0 if "slack" in left_out else SLACK

    def choose(self, view: View) -> Choice:
        """Exploit, explore, replicate or rebalance."""
        exploiting = exploits(view)
        holding, candidates = view.holders, view.candidates
        if not (exploiting and self._restricts):
            everywhere = range(len(candidates))
            chosen, _ = self._costs(view).cheapest(everywhere, view.least_prefill_seconds)
            return Choice(chosen, "exploit" if exploiting and chosen in holding else "explore")
        if len(holding) == 1 and candidates[holding[0]].load_seconds <= 0.0:
            return Choice(holding[0], "exploit")
        costs = self._costs(view)
        target, cost = costs.cheapest(holding)
        load = candidates[target].load_seconds
        if load > 0.0 and len(holding) < len(candidates):
            held = set(holding)
            elsewhere = [one for one in range(len(candidates)) if one not in held]
            prefill = view.least_prefill_elsewhere_seconds
            deserved = view.hit_share * len(candidates)
            if deserved * HEADROOM > len(holding) and self._replicates:
                other, _ = costs.cheapest(elsewhere, prefill)
                own = int(deserved) > len(holding)
                if candidates[other].load_seconds < load and (own or costs.has_room(other)):
                    return Choice(other, "replicate")
            if cost > TH_BAL * prefill and self._rebalances:
                other, least_cost = costs.cheapest(elsewhere, prefill, cost / TH_BAL)
                gain = cost - least_cost
                if other >= 0 and gain > TH_BAL * candidates[other].prefill_seconds:
                    return Choice(other, "rebalance")
        return Choice(target, "exploit")

    def _costs(self, view: View) -> Costs:
        return Costs(view, self._crowds, self._evicts, self._slack)


class Costs:
    """The costs of one decision, with or without crowding and eviction."""

    __slots__ = ("_crowding", "_evicts", "_slack", "_view")

    def __init__(
        self, view: View, crowds: bool = True, evicts: bool = True, slack: float = SLACK
    ) -> None:
        self._view = view
        self._evicts = evicts
        self._slack = slack
        in_flight = view.in_flight
        if crowds:
            unit = len(in_flight) / (len(in_flight) + sum(in_flight))
            self._crowding = [(1 + requests) * unit for requests in in_flight]
        else:
            self._crowding = [1.0] * len(in_flight)

    def has_room(self, position: int) -> bool:
        """Whether nothing is evicted there that would soon be computed again."""
        candidate = self._view.candidates[position]
        return not self._evicts or candidate.eviction_seconds <= SLACK * candidate.prefill_seconds

    def cheapest(
        self, positions: Sequence[int], least_prefill: float = 0.0, below: float = _NO_COST
    ) -> tuple[int, float]:
        """The position of the least cost among `positions`, and that cost; ties within
        the slack by `least`. -1 if no cost is below `below`. None of them has a P of less
        than `least_prefill`. O(positions), and looks closer only at those that may be
        it."""
        view, crowding = self._view, self._crowding
        candidates = view.candidates
        if len(positions) == 1:
            only = positions[0]
            one = candidates[only]
            cost = (one.load_seconds + one.prefill_seconds) * crowding[only]
            if self._evicts:
                cost += one.eviction_seconds
            return (only if cost < below else -1), cost
        loads = view.load_seconds
        bounds = [((loads[one] + least_prefill) * crowding[one], one) for one in positions]
        among, costs = [], []
        lowest = enough = below
        for bound, position in sorted(bounds):
            if bound > enough:
                break
            # M costs most to ask for, and is never negative.
            candidate = candidates[position]
            own = candidate.prefill_seconds
            cost = (loads[position] + own) * crowding[position]
            if cost > enough:
                continue
            if self._evicts:
                cost += candidate.eviction_seconds
            if cost < below:
                among.append(position)
                costs.append(cost)
                if cost < lowest:
                    lowest = cost
                    enough = cost + self._slack * own
        if not among:
            return -1, below
        tied = sorted(one for one, cost in zip(among, costs, strict=True) if cost <= enough)
        chosen = tied[0]
        if len(tied) > 1:
            chosen = tied[least([candidates[one] for one in tied], [lowest] * len(tied), view)]
        return chosen, costs[among.index(chosen)]
