"""Prefix affinity: the longest hit wins until queues drift apart.

The rule of the SGLang model gateway's `cache_aware` policy
(`sgl-model-gateway/src/policies/cache_aware.rs`), with the defaults of its launcher
(`sglang_router/router_args.py`: 64, 1.5 and 0.3; the bare Rust struct has others):

1. *Imbalanced* (the longest queue exceeds the shortest by more than 64 requests
   and by more than half): the shortest queue.
2. *Affinity* (more than 0.3 of the prompt is cached somewhere): the longest hit.
3. Otherwise the shortest queue.

A queue is the requests in flight. Ties: fewest requests, then `protocol.least`. The
gateway guesses hits, by the text it has sent each worker, and of several workers with
the longest takes the one that its tree names; hits are exact here, and of several the
shortest queue wins.
"""

from __future__ import annotations

from typing import Final

from preble_plugin.core.policies.protocol import Choice, View, least

IMBALANCE_REQUESTS: Final = 64
IMBALANCE_RATIO: Final = 1.5
MATCH_RATIO: Final = 0.3


class PrefixAffinity:
    """Follows the cache and looks at load only beyond thresholds. O(replicas)."""

    name = "prefix-affinity"

    def choose(self, view: View) -> Choice:
        """Shortest queue if imbalanced or hardly cached, else longest hit."""
        candidates = view.candidates
        queues = [float(candidate.waiting + candidate.running) for candidate in candidates]
        longest, shortest = max(queues), min(queues)
        if longest - shortest > IMBALANCE_REQUESTS and longest > IMBALANCE_RATIO * shortest:
            return Choice(least(candidates, queues, view), "imbalanced")
        cached = view.longest_hit_tokens
        if cached <= MATCH_RATIO * view.request.prompt_tokens:
            return Choice(least(candidates, queues, view), "least-loaded")
        holding = view.holders
        chosen = least(
            [candidates[position] for position in holding],
            [queues[position] for position in holding],
            view,
        )
        return Choice(holding[chosen], "affinity")
