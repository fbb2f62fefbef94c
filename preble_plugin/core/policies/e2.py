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
is idle or not much behind the others, that is its own and a bound on the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from preble_plugin.core.policies.protocol import Candidate, Choice, View, least

TH_BAL: Final = 1.5
"""Th_bal of the paper's code: how far apart heavy and light may be."""
SLACK: Final = 0.1
"""Share of a prefill within which costs are equal."""
_NO_COST: Final = float("inf")


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
        if not exploits(view):
            everywhere = range(len(view.candidates))
            return Choice(cheapest(everywhere, view, view.least_prefill_seconds)[0], "explore")
        holding = view.holders
        target, cost = cheapest(holding, view)
        candidates = view.candidates
        if candidates[target].load_seconds > 0.0 and len(holding) < len(candidates):
            lighter = self._lighter(holding, cost, view)
            if lighter is not None:
                return Choice(lighter, "rebalance")
        return Choice(target, "exploit")

    def _lighter(self, holding: Sequence[int], cost: float, view: View) -> int | None:
        """The replica outside `holding` that `cost` is too far above, if any."""
        enough = cost / TH_BAL
        # What can be said of all at once first: mostly it settles it.
        least_prefill = view.least_prefill_elsewhere_seconds
        gains = min(enough - least_prefill, cost - 2.0 * least_prefill)
        if gains <= 0.0:
            return None
        loads = view.load_seconds
        if min(loads) >= gains:
            return None
        near = [
            position
            for position, load in enumerate(loads)
            if load < enough - least_prefill and position not in holding
        ]
        best, least_cost = cheapest(near, view, least_prefill, enough)
        if best < 0 or cost - least_cost <= view.candidates[best].prefill_seconds:
            return None
        return best


def cheapest(
    positions: Sequence[int], view: View, least_prefill: float = 0.0, below: float = _NO_COST
) -> tuple[int, float]:
    """The position of the least L + M + P among `positions`, and that cost; ties within
    `SLACK` by `least`. -1 if no cost is below `below`. None of them has a P of less than
    `least_prefill`. O(positions), and looks closer only at those that may be it."""
    candidates = view.candidates
    if len(positions) == 1:
        cost = cost_seconds(candidates[positions[0]])
        return (positions[0] if cost < below else -1), cost
    loads = view.load_seconds
    among, costs = [], []
    lowest = enough = below
    for position in sorted(positions, key=loads.__getitem__):
        if loads[position] + least_prefill > enough:
            break
        # M costs most to ask for, and is never negative.
        candidate = candidates[position]
        prefill = candidate.prefill_seconds
        cost = candidate.load_seconds + prefill
        if cost > enough:
            continue
        cost += candidate.eviction_seconds
        if cost < below:
            among.append(position)
            costs.append(cost)
            if cost < lowest:
                lowest = cost
                enough = cost + SLACK * prefill
    if not among:
        return -1, below
    tied = sorted(one for one, cost in zip(among, costs, strict=True) if cost <= enough)
    chosen = tied[0]
    if len(tied) > 1:
        chosen = tied[least([candidates[one] for one in tied], [lowest] * len(tied), view)]
    return chosen, costs[among.index(chosen)]
