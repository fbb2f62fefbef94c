"""Least loaded, by the formula of vLLM's own data-parallel dispatch.

vLLM 0.32, `v1/engine/core_client.py`, `DPLBAsyncMPClient.get_core_engine_for_request`.
The score is the requests in flight (waiting and running), plus for each waiting one up
to three more as the cache fills from half to full: a queue before a full cache drains
slowly. The scan starts one slot further each time, and the first least score wins, so
that equal replicas are taken in turn.

vLLM goes by what each engine last told and by what this front end sent; here all is
counted exactly. A request waits here until its first token, there until it is
scheduled; and the cache is filled here by the prompts in flight, there by what runs
and by its output.
"""

from __future__ import annotations

from typing import Final

from preble_plugin.core.policies.protocol import Candidate, Choice, View

_WAITING_PENALTY: Final = 6.0
_FREE_USAGE: Final = 0.5


class LeastLoaded:
    """Fewest requests, a queue before a full cache counting more. O(replicas)."""

    name = "least-loaded"

    def __init__(self) -> None:
        self._start = 0

    def choose(self, view: View) -> Choice:
        """The least score, from the moving start on."""
        candidates = view.candidates
        order = [(self._start + step) % len(candidates) for step in range(len(candidates))]
        self._start = (self._start + 1) % len(candidates)
        return Choice(min(order, key=lambda position: _score(candidates[position])), self.name)


def _score(candidate: Candidate) -> float:
    waiting = candidate.waiting
    score = float(waiting + candidate.running)
    if waiting:
        score += waiting * _WAITING_PENALTY * max(0.0, candidate.cache_usage - _FREE_USAGE)
    return score
