"""DualMap: two homes for each prefix, the warmer one unless it is slow.

DualMap (ICLR 2026, arXiv 2602.06502), with the figures of its published code:

1. *Key*: the prompt's first 512 tokens. While a key makes up `HOT_SHARE` or more of the
   last `WINDOW` requests it is hot, and 512 tokens more are taken, so that what one key
   cannot hold is spread over more homes.
2. *Homes*: each key has two, any two alike often. Here those that it is drawn to most
   (rendezvous), there by two hash rings: either way few move when replicas come and go.
3. *Affinity*: the home that has more of the prompt cached; of equals, the one with
   fewer tokens in flight, then the first.
4. *Load*: where the time to first token predicted there exceeds half the objective,
   the home where it is less.
5. *Rebalance*: where that exceeds the objective, the next replica after it which is
   no home, if it meets the objective there.

The published code queues requests at its router, and rebalances by moving queued ones,
also when the oldest has waited for 3 s; here a request is placed when it comes, and
moves at that moment or never. Time to first token is `min_ttft.ttft_seconds`, where the
code multiplies tokens by a constant. Without a key, or beside no other replica, the
least such time over all replicas wins.
"""

from __future__ import annotations

from collections import Counter, deque
from hashlib import blake2b
from typing import Final

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.policies.min_ttft import ttft_seconds
from preble_plugin.core.policies.protocol import Choice, View, least, rendezvous

TTFT_OBJECTIVE_SECONDS: Final = 5.0
KEY_TOKENS: Final = 512
WINDOW: Final = 200
"""Requests over which the share of a key is taken."""
LEAST_SAMPLES: Final = 20
"""Requests before which no key is hot."""
HOT_SHARE: Final = 0.0612


class DualMap:
    """The better of two homes. O(prompt blocks of a hot key + replicas)."""

    name = "dualmap"

    def __init__(self) -> None:
        self._window: deque[list[int]] = deque()
        self._seen: Counter[int] = Counter()

    def choose(self, view: View) -> Choice:
        """Affinity, load or rebalance."""
        candidates, keys = view.candidates, view.request.keys
        if len(candidates) == 1 or not keys:
            seconds = [ttft_seconds(one) for one in candidates]
            return Choice(least(candidates, seconds, view), "load")
        homes = _homes(self._key(keys, view.block_size), view)
        seconds = [ttft_seconds(candidates[home]) for home in homes]
        chosen = max(
            (0, 1),
            key=lambda one: (
                candidates[homes[one]].hit_tokens,
                -candidates[homes[one]].tokens_in_flight,
            ),
        )
        branch = "affinity"
        if seconds[chosen] > TTFT_OBJECTIVE_SECONDS / 2:
            chosen, branch = seconds.index(min(seconds)), "load"
        if seconds[chosen] > TTFT_OBJECTIVE_SECONDS and len(candidates) > 2:
            near = (homes[chosen] + 1) % len(candidates)
            if near == homes[1 - chosen]:
                near = (near + 1) % len(candidates)
            if ttft_seconds(candidates[near]) <= TTFT_OBJECTIVE_SECONDS:
                return Choice(near, "rebalance")
        return Choice(homes[chosen], branch)

    def _key(self, keys: bytes, block_size: int) -> int:
        """A hash of the shortest prefix that is not hot; of all, where each is."""
        step = max(1, KEY_TOKENS // block_size) * KEY_BYTES
        window, seen = self._window, self._seen
        counted: list[int] = []
        window.append(counted)
        if len(window) > WINDOW:
            for old in window.popleft():
                seen[old] -= 1
                if not seen[old]:
                    del seen[old]
        digest = blake2b(digest_size=8)
        key = 0
        for start in range(0, len(keys), step):
            digest.update(keys[start : start + step])
            key = int.from_bytes(digest.digest(), "little")
            counted.append(key)
            seen[key] += 1
            if len(window) < LEAST_SAMPLES or seen[key] < HOT_SHARE * len(window):
                break
        return key


def _homes(key: int, view: View) -> tuple[int, int]:
    """Positions of the two homes, of two candidates or more. O(replicas)."""
    drawn = [rendezvous(key, one.index) for one in view.candidates]
    first = drawn.index(max(drawn))
    drawn[first] = -1
    return first, drawn.index(max(drawn))
