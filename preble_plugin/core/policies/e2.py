"""E2: exploit what is cached, explore where little is (PREBLE 3, Algorithm 1).

With `longest` the longest hit of any replica:

1. *Exploit* if less of the prompt is missing than cached (strictly) at the
   longest hit: candidates are the replicas that have that hit. *Explore*
   otherwise: all are candidates.
2. The least cost `L + M + P` takes the request: live load, eviction, prefill of
   what misses there, each for that replica. Costs that exceed the least by no
   more than `SLACK` of its P are ties for `protocol.least`: no prediction is
   better than that, and a few cached tokens of a common preamble, or a replica
   that measures a little faster, must not draw every new prefix to one place.
3. *Rebalance*: an exploit target `t` that has work gives way to the cheapest
   replica `o` outside the candidates if both
       cost(t) > TH_BAL * cost(o)   and   cost(t) - cost(o) > P(o).
   Cost(o) includes computing the prompt there anew, so the first says that this
   request itself gains, by the paper's threshold between heavy and light. The
   second asks that it gain more than the recomputation once more: those seconds
   are taken from everyone on `o`, and a move for less would copy prefixes from
   replica to replica at the first queue. An idle target is never left.

The paper rebalances by comparing window loads alone; here it is the request's
own cost that decides, so that a prefix too dear to compute again stays, and a
cheap one moves as soon as its replica's queue is longer than the recomputation.
`e2-paper` keeps the paper's letter.

Costs are asked for only as far as needed: in the common case, one holder that
is idle or not much behind the others, that is one load for each replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from preble_plugin.core.policies.protocol import Candidate, Choice, View, least

TH_BAL: Final = 1.5
"""Th_bal of the paper's code: how far apart heavy and light may be."""
SLACK: Final = 0.1
"""Share of a prefill within which costs are equal."""


def cost_seconds(candidate: Candidate) -> float:
    """L + M + P, with L live."""
    return candidate.load_seconds + candidate.eviction_seconds + candidate.prefill_seconds


def exploits(view: View) -> bool:
    """Whether the longest hit covers more of the prompt than it leaves."""
    cached = view.longest_hit_tokens
    return view.request.prompt_tokens - cached < cached


class E2:
    """Preble's placement with exact hits and live load. O(replicas)."""

    name = "e2"

    def choose(self, view: View) -> Choice:
        """Exploit, explore or rebalance."""
        candidates = view.candidates
        if not exploits(view):
            return Choice(cheapest(range(len(candidates)), view)[0], "explore")
        holding = view.holders
        target, cost = cheapest(holding, view)
        if candidates[target].load_seconds > 0.0 and len(holding) < len(candidates):
            lighter = self._lighter(holding, cost, view)
            if lighter is not None:
                return Choice(lighter, "rebalance")
        return Choice(target, "exploit")

    def _lighter(self, holding: Sequence[int], cost: float, view: View) -> int | None:
        """The replica outside `holding` that `cost` is too far above, if any."""
        enough = cost / TH_BAL
        positions = []
        for position, candidate in enumerate(view.candidates):
            # Load first: it is there already, and mostly settles it.
            load = candidate.load_seconds
            if (
                load < enough
                and position not in holding
                and load + candidate.prefill_seconds < enough
                and cost_seconds(candidate) < enough
            ):
                positions.append(position)
        if not positions:
            return None
        best, least_cost = cheapest(positions, view)
        return best if cost - least_cost > view.candidates[best].prefill_seconds else None


def cheapest(positions: Sequence[int], view: View) -> tuple[int, float]:
    """The position of the least L + M + P among `positions`, and that cost; ties
    within `SLACK` by `least`. O(positions)."""
    if len(positions) == 1:
        only = positions[0]
        return only, cost_seconds(view.candidates[only])
    among = [view.candidates[position] for position in positions]
    costs = [cost_seconds(candidate) for candidate in among]
    lowest = min(costs)
    enough = lowest + SLACK * among[costs.index(lowest)].prefill_seconds
    tied = [place for place, cost in enumerate(costs) if cost <= enough]
    chosen = tied[0]
    if len(tied) > 1:
        chosen = tied[least([among[place] for place in tied], [lowest] * len(tied), view)]
    return positions[chosen], costs[chosen]
