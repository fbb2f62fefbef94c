"""Least predicted time to first token: the live queue plus this request's prefill.

    prefill of those waiting that is left + prefill of what misses here

Mooncake's scheduler (FAST 2025) picks its prefill node so, without the transfer
between nodes, which does not arise here. Both terms are seconds of the replica's own
time model, so a long hit counts for what it saves and no more. It does not see what
the placement costs others: requests that decode there, prefixes that are evicted.
Ties go by `protocol.least`.
"""

from __future__ import annotations

from preble_plugin.core.policies.protocol import Candidate, Choice, View, least


def ttft_seconds(candidate: Candidate) -> float:
    """When this request would have its first token there, if nothing decoded. O(1)."""
    return candidate.load_seconds + candidate.prefill_seconds


class MinTTFT:
    """Least predicted time to first token. O(replicas)."""

    name = "min-ttft"

    def choose(self, view: View) -> Choice:
        """The least prediction."""
        candidates = view.candidates
        seconds = [ttft_seconds(one) for one in candidates]
        return Choice(least(candidates, seconds, view), self.name)
