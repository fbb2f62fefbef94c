"""LMetric: tokens to prefill, times requests in the batch.

The score of LMetric (OSDI 2026, arXiv 2603.15202), the least of which wins:

    (new tokens that wait there + this request's new tokens there) * (BS + 1)

BS is the replica's running and waiting requests. The paper writes the product with BS;
the one more is in its published router (blitz-router, `lmetric-q`), without which all
idle replicas would score 0, whatever they hold. A product needs no weight between cache
and load: a constant factor of either cancels in the comparison.

Left out is the paper's optional detector of hot prefixes, which sets such replicas
aside where the product fails. Ties go by `protocol.least`.
"""

from __future__ import annotations

from preble_plugin.core.policies.protocol import Choice, View, least


class LMetric:
    """Least product of new tokens and batch size. O(replicas)."""

    name = "lmetric"

    def choose(self, view: View) -> Choice:
        """The least score."""
        candidates = view.candidates
        scores = [
            float((one.queued_tokens + one.miss_tokens) * (one.waiting + one.running + 1))
            for one in candidates
        ]
        return Choice(least(candidates, scores, view), self.name)
