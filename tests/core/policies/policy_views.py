"""Views for policy tests: a prompt, and replicas as plain figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from preble_plugin.core.policies.protocol import Policy
from preble_plugin.core.request import ReplicaId, Request

SECONDS_PER_TOKEN = 1e-4
BLOCK = 16


@dataclass
class Candidate:
    """A replica for one request; counts which costs were asked for."""

    index: int
    hit_tokens: int = 0
    load: float = 0.0
    window_load_seconds: float = 0.0
    eviction: float = 0.0
    evicted_blocks: int = 0
    waiting: int = 0
    running: int = 0
    decode_share: float = 0.0
    cache_usage: float = 0.0
    queued_tokens: int = 0
    tokens_in_flight: int = 0
    active_blocks: int = 0
    new_active_blocks: int = 0
    prompt_tokens: int = 0
    seconds_per_token: float = SECONDS_PER_TOKEN
    asked: Counter[str] = field(default_factory=Counter)

    @property
    def replica(self) -> ReplicaId:
        return f"replica-{self.index}"

    @property
    def miss_tokens(self) -> int:
        return self.prompt_tokens - self.hit_tokens

    @property
    def load_seconds(self) -> float:
        self.asked["load"] += 1
        return self.load

    @property
    def eviction_seconds(self) -> float:
        self.asked["eviction"] += 1
        return self.eviction

    @property
    def prefill_seconds(self) -> float:
        self.asked["prefill"] += 1
        return self.miss_tokens * self.seconds_per_token


@dataclass
class View:
    request: Request
    candidates: Sequence[Candidate]
    prefix_hash: int
    block_size: int = BLOCK
    now: float = 0.0
    hit_share: float = 0.0

    @property
    def longest_hit_tokens(self) -> int:
        return max(candidate.hit_tokens for candidate in self.candidates)

    @property
    def holders(self) -> Sequence[int]:
        longest = self.longest_hit_tokens
        return [i for i, one in enumerate(self.candidates) if one.hit_tokens == longest]

    @property
    def load_seconds(self) -> Sequence[float]:
        return [candidate.load for candidate in self.candidates]

    @property
    def in_flight(self) -> Sequence[int]:
        return [one.waiting + one.running for one in self.candidates]

    @property
    def new_active_blocks(self) -> Sequence[int]:
        return [candidate.new_active_blocks for candidate in self.candidates]

    @property
    def least_prefill_seconds(self) -> float:
        return min(one.miss_tokens * one.seconds_per_token for one in self.candidates)

    @property
    def least_prefill_elsewhere_seconds(self) -> float:
        elsewhere = [one for i, one in enumerate(self.candidates) if i not in self.holders]
        return min((one.miss_tokens * one.seconds_per_token for one in elsewhere), default=0.0)


def view(
    prompt_tokens: int,
    *candidates: Candidate,
    prefix_hash: int = 7,
    keys: bytes = b"",
    hit_share: float = 0.0,
) -> View:
    """A decision on a prompt among these replicas."""
    for candidate in candidates:
        candidate.prompt_tokens = prompt_tokens
    request = Request(request_id="r", keys=keys, prompt_tokens=prompt_tokens)
    return View(request, candidates, prefix_hash, hit_share=hit_share)


def replicas(
    count: int, holding: Sequence[int] = (), hit: int = 0, **same: float
) -> list[Candidate]:
    """`count` replicas that are alike, those in `holding` with a hit of `hit` tokens."""
    return [
        Candidate(index, hit_tokens=hit if index in holding else 0, **same)  # type: ignore[arg-type]
        for index in range(count)
    ]


def chosen(policy: Policy, shown: View) -> tuple[int, str]:
    """The chosen replica's slot, and the branch."""
    position, branch = policy.choose(shown)
    return shown.candidates[position].index, branch
