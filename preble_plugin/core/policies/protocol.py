"""What a placement policy sees and says.

A policy is a small class with a `name` and one method, `choose`. It is found by
name through the entry-point group `preble.policies` and built without
arguments, once per scheduler, so it may keep state of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from preble_plugin.core.request import ReplicaId, Request


class Candidate(Protocol):
    """One replica, as it stands for one request. Costs are computed when asked
    for, once, in seconds of that replica's time."""

    @property
    def replica(self) -> ReplicaId:
        """Its name."""

    @property
    def index(self) -> int:
        """Its slot in the scheduler: small, stable while the replica lives."""

    @property
    def hit_tokens(self) -> int:
        """Prompt tokens it need not compute: cached now, or expected to be."""

    @property
    def miss_tokens(self) -> int:
        """Prompt tokens it has to compute."""

    @property
    def load_seconds(self) -> float:
        """L, live: prefill of the requests that wait there, less what the first of
        them was served. When a new one would be begun, if nothing decoded."""

    @property
    def window_load_seconds(self) -> float:
        """L as the paper has it: the work of all requests placed there in the
        window H, done or not."""

    @property
    def eviction_seconds(self) -> float:
        """M: what it would cost to compute again, by use in H, the blocks that
        LRU evicts next to make room for this request."""

    @property
    def prefill_seconds(self) -> float:
        """P: prefill of this request's missing tokens there."""

    @property
    def evicted_blocks(self) -> int:
        """Blocks it would evict to make room for this request."""

    @property
    def waiting(self) -> int:
        """Requests placed there that have not produced a token."""

    @property
    def running(self) -> int:
        """Requests placed there that have produced a token and go on."""

    @property
    def decode_share(self) -> float:
        """Share of decode in its work of the window, 0 to 1 (IMBALR)."""

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that the requests that wait there have to be computed."""

    @property
    def tokens_in_flight(self) -> int:
        """Prompt tokens of the requests in flight there, cached ones included."""

    @property
    def active_blocks(self) -> int:
        """Full blocks of the prompts in flight there; one that several share counts
        once. Counted for policies that ask for it."""

    @property
    def cache_usage(self) -> float:
        """Share of its cache that `active_blocks` fill, 0 to 1; 0 where its capacity is
        not known. Counted for policies that ask for it."""


class Choice(NamedTuple):
    """A policy's decision: an index into `View.candidates`, and the rule's name."""

    position: int
    branch: str


class View(Protocol):
    """One decision to take."""

    @property
    def request(self) -> Request:
        """What is to be placed."""

    @property
    def candidates(self) -> Sequence[Candidate]:
        """The replicas there are, at least one, in order of their slots."""

    @property
    def longest_hit_tokens(self) -> int:
        """The largest `hit_tokens` among the candidates."""

    @property
    def holders(self) -> Sequence[int]:
        """Positions of the candidates with the longest hit; all of them where
        nobody has any. Known without looking at the candidates."""

    @property
    def load_seconds(self) -> Sequence[float]:
        """`load_seconds` of all candidates, without a look at each."""

    @property
    def in_flight(self) -> Sequence[int]:
        """Requests in flight on each candidate, waiting and running, likewise."""

    @property
    def hit_share(self) -> float:
        """Of the requests placed in the window H, the share of those that go through
        the longest hit's last block, 0 to 1. O(path + replicas that had any)."""

    @property
    def block_size(self) -> int:
        """Tokens in a block."""

    @property
    def new_active_blocks(self) -> Sequence[int]:
        """By candidate, the full blocks of this prompt that no request in flight there
        has: by so many `active_blocks` would grow. O(path + replicas)."""

    @property
    def least_prefill_seconds(self) -> float:
        """No candidate has less `prefill_seconds`."""

    @property
    def least_prefill_elsewhere_seconds(self) -> float:
        """No candidate outside `holders` has less `prefill_seconds`."""

    @property
    def prefix_hash(self) -> int:
        """A stable hash of the first block that no replica knows, or else of the
        last one, to break ties without herding: prompts that share a template
        differ there. 0 for a prompt shorter than a block."""

    @property
    def now(self) -> float:
        """Seconds, monotonic."""


class Policy(Protocol):
    """Chooses a replica. Must not keep the view beyond the call."""

    name: str

    def choose(self, view: View) -> Choice:
        """Choose among `view.candidates`. O(replicas)."""


def least(candidates: Sequence[Candidate], costs: Sequence[float], view: View) -> int:
    """Position of the least cost; ties go to the replica that would evict least,
    then to the one that the prefix hashes to (rendezvous), so that they neither
    herd nor rotate. O(replicas)."""
    lowest = min(costs)
    tied = [position for position, cost in enumerate(costs) if cost <= lowest + 1e-9]
    if len(tied) == 1:
        return tied[0]
    fewest = min(candidates[position].evicted_blocks for position in tied)
    tied = [position for position in tied if candidates[position].evicted_blocks == fewest]
    return max(tied, key=lambda position: rendezvous(view.prefix_hash, candidates[position].index))


def rendezvous(prefix_hash: int, index: int) -> int:
    """How strongly a prefix is drawn to a slot: the largest of all is its home, which
    stays the same while that slot is there. O(1)."""
    mixed = (prefix_hash ^ (index + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ (mixed >> 31)) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
    return mixed ^ (mixed >> 32)
