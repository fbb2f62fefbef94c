"""E2 to the paper's letter (PREBLE 3, Algorithm 1), to compare with.

1. Cost is `L + M + P` with L the work assigned in the window H, done or not.
2. *Exploit* if less is missing than cached (strictly): the least cost among the
   replicas with the longest hit.
3. *Rebalance*: while the heaviest replica's L exceeds `TH_BAL` times the
   lightest's, what would exploit the heaviest goes to the lightest.
4. *Explore* otherwise: a replica whose window is decode by more than `IMBALR`
   gets the request, the most decode-heavy first, as prefill is nearly free
   there; else the least cost over all.

Its letter has consequences: an empty window beside one request is already out
of balance, and work that is long done still weighs. What is left out: a second replica
for a prefix whose requests' mean queueing time has doubled over H, as a policy is not
told of queueing times; and the order within a replica, which is no placement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from preble_plugin.core.policies.e2 import exploits
from preble_plugin.core.policies.protocol import Candidate, Choice, View, least

TH_BAL: Final = 1.5
"""Th_bal of the paper's code: how far apart heavy and light may be."""
IMBALR: Final = 0.8
"""Share of decode in the window's work above which a replica is decode-heavy.
The paper gives no figure."""


class E2Paper:
    """Preble's placement with the load of the window. O(replicas)."""

    name = "e2-paper"

    def choose(self, view: View) -> Choice:
        """Exploit, rebalance, or explore."""
        candidates = view.candidates
        if not exploits(view):
            return self._explore(view)
        holding = view.holders
        target = _least_of(holding, [_cost(candidates[position]) for position in holding], view)
        loads = [candidate.window_load_seconds for candidate in candidates]
        lightest = min(loads)
        if loads[target] == max(loads) and loads[target] > TH_BAL * lightest:
            return Choice(least(candidates, loads, view), "rebalance")
        return Choice(target, "exploit")

    def _explore(self, view: View) -> Choice:
        candidates = view.candidates
        shares = [candidate.decode_share for candidate in candidates]
        heaviest = max(shares)
        if heaviest > IMBALR:
            return Choice(least(candidates, [-share for share in shares], view), "decode-heavy")
        return Choice(least(candidates, [_cost(each) for each in candidates], view), "explore")


def _cost(candidate: Candidate) -> float:
    return candidate.window_load_seconds + candidate.eviction_seconds + candidate.prefill_seconds


def _least_of(positions: Sequence[int], costs: Sequence[float], view: View) -> int:
    return positions[least([view.candidates[position] for position in positions], costs, view)]
