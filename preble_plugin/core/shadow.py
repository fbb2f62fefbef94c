"""Shadow mode: what the policy would have chosen, beside what was done.

1. The engine's own dispatch has sent a request, and the policy is asked as well, on the
   same view. The request is booked where it went.
2. Its receipt keeps the choice, and both sides are added up here.

The sums compare one request at a time, on the caches that the engine's dispatch built:
what the policy would make of caches of its own only a replay can say.
"""

from __future__ import annotations

from preble_plugin.core.candidate import ReplicaCandidate
from preble_plugin.core.receipts import WouldBe
from preble_plugin.core.request import Request
from preble_plugin.core.status import ShadowStatus


class ShadowCount:
    """Both sides of what was decided and not acted on."""

    def __init__(self) -> None:
        self._requests = 0
        self._elsewhere = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._would_be_cached_tokens = 0

    def compare(
        self, request: Request, went: ReplicaCandidate, chosen: ReplicaCandidate, branch: str
    ) -> WouldBe:
        """Count a request that `went` one way and was `chosen` for another. O(1)."""
        self._requests += 1
        self._elsewhere += chosen is not went
        self._prompt_tokens += request.prompt_tokens
        self._cached_tokens += went.hit_tokens
        self._would_be_cached_tokens += chosen.hit_tokens
        return WouldBe(chosen.source.name, branch, chosen.hit_tokens)

    def status(self) -> ShadowStatus | None:
        """The sums; None where nothing was compared."""
        if not self._requests:
            return None
        return ShadowStatus(
            self._requests,
            self._elsewhere,
            self._prompt_tokens,
            self._cached_tokens,
            self._would_be_cached_tokens,
        )
