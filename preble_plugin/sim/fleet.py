"""Replicas under a scheduler: a workload in, what became of each request out.

1. A request that comes is placed by core's own `Scheduler`, by the same calls as in
   an engine: `place`, then `apply` and `observe` with what the replica tells after
   each step.
2. Time is that of the replicas: the next thing that happens is a request that comes
   or a step that ends.
3. Where a request is to come after another, its time runs from that one's end.

Nothing is random: equal workloads give equal results.
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.policies.protocol import Policy
from preble_plugin.core.request import Request
from preble_plugin.core.scheduler import Scheduler
from preble_plugin.core.status import Trust
from preble_plugin.sim.asked import Asked, Part, Tokens, stream_tokens
from preble_plugin.sim.beyond import ABLATIONS, BOUND, CLAIRVOYANT, POOLED, ablation
from preble_plugin.sim.cache import BlockCache, SharedCache, SharedPool
from preble_plugin.sim.clairvoyant import Clairvoyant
from preble_plugin.sim.hardware import Hardware
from preble_plugin.sim.job import Job, block_names
from preble_plugin.sim.lockstep import Lockstep, LockstepReplica
from preble_plugin.sim.replica import Replica

_SEED: Final = b"simulated fleets"
_LONG_PART: Final = 256
_KEPT_STREAMS: Final = 512


class Served(NamedTuple):
    """One request that ended; times are seconds since the start."""

    request_id: str
    replica: int
    branch: str
    arrived: float
    first_token: float
    ended: float
    prompt_tokens: int
    cached_tokens: int
    predicted_tokens: int
    output_tokens: int


class Fleet:
    """`replicas` of `hardware` that share requests by a policy: a name of core's, or of
    `sim/beyond.py`, or a policy itself. With `local_queue` each takes up what waits in
    the order of core's `LocalQueue`; without, first come, first served. With `lockstep`
    they take their steps together (`sim/lockstep.py`)."""

    def __init__(
        self,
        hardware: Hardware,
        replicas: int,
        policy: str | Policy = "e2",
        *,
        local_queue: bool = False,
        lockstep: bool = False,
        block_size: int = 16,
        window_seconds: float = 180.0,
    ) -> None:
        if replicas < 1:
            raise ValueError(f"a fleet needs at least 1 replica, got {replicas}")
        capacity = hardware.kv_tokens // block_size
        shared = SharedPool(replicas * capacity if policy == POOLED else None)
        self.hardware = hardware
        self.block_size = block_size
        group = Lockstep() if lockstep else None
        self.replicas = [
            Replica(hardware, cache, local_queue=local_queue)
            if group is None
            else LockstepReplica(hardware, cache, group, local_queue=local_queue)
            for cache in (
                SharedCache(capacity, block_size, shared)
                if policy in (BOUND, POOLED)
                else BlockCache(capacity, block_size)
                for _ in range(replicas)
            )
        ]
        if isinstance(policy, str) and policy in CLAIRVOYANT:
            policy = Clairvoyant(policy, self.replicas, lambda: self._arriving)
        elif isinstance(policy, str) and policy in ABLATIONS:
            policy = ablation(policy)
        self.scheduler = Scheduler(
            block_size, policy=policy, seed=_SEED, window_seconds=window_seconds, receipts=1
        )
        for rank in range(replicas):
            self.scheduler.add_replica(
                rank, capacity_blocks=capacity, max_running=hardware.max_running
            )
            self.scheduler.set_trust(rank, Trust.EXACT)
        self._streams: dict[int, Tokens] = {}
        self._placed: dict[str, tuple[int, str, int]] = {}

    def serve(
        self, workload: Sequence[Asked], progress: Callable[[], object] | None = None
    ) -> Iterator[Served]:
        """Serve a workload, in order of ends; `progress` is called with each.

        Raises ValueError for a request that fits no replica's cache, for two of one
        id, and for one whose `after` is not there.
        """
        coming, following = self._order(workload)
        while True:
            rank = self._next_step()
            step_at = self.replicas[rank].ends_at
            if coming and (step_at is None or coming[0][0] <= step_at):
                at, _, asked = heapq.heappop(coming)
                self._arrive(asked, at)
                continue
            if step_at is None:
                return
            told = self.replicas[rank].step()
            if told.events:
                self.scheduler.apply(rank, told.events, step_at)
            if told.outcomes:
                self.scheduler.observe(rank, told.outcomes, step_at)
            for job in told.ended:
                for number, asked in following.pop(job.asked.request_id, ()):
                    heapq.heappush(coming, (step_at + asked.at, number, asked))
                if progress is not None:
                    progress()
                yield self._served(job, step_at)

    def _order(
        self, workload: Sequence[Asked]
    ) -> tuple[list[tuple[float, int, Asked]], dict[str, list[tuple[int, Asked]]]]:
        coming: list[tuple[float, int, Asked]] = []
        following: dict[str, list[tuple[int, Asked]]] = defaultdict(list)
        known: set[str] = set()
        limit = self.hardware.kv_tokens // self.block_size * self.block_size
        for number, asked in enumerate(workload):
            tokens = asked.prompt_tokens + asked.output_tokens
            if tokens > limit:
                raise ValueError(
                    f"request {asked.request_id!r} has {tokens} tokens, more than the "
                    f"{limit} that a replica of {self.hardware.name} holds"
                )
            if asked.request_id in known:
                raise ValueError(f"two requests are called {asked.request_id!r}")
            known.add(asked.request_id)
            if asked.after is None:
                coming.append((asked.at, number, asked))
            else:
                following[asked.after].append((number, asked))
        if not known.issuperset(following):
            missing = sorted(set(following) - known)[0]
            raise ValueError(f"a request comes after {missing!r}, which is not in the workload")
        heapq.heapify(coming)
        return coming, following

    def _next_step(self) -> int:
        """The replica whose step ends first; any, where all are idle."""
        first, at = 0, float("inf")
        for rank, replica in enumerate(self.replicas):
            ends_at = replica.ends_at
            if ends_at is not None and ends_at < at:
                first, at = rank, ends_at
        return first

    def _arrive(self, asked: Asked, now: float) -> None:
        tokens = self._tokens(asked)
        keys = self.scheduler.hasher.prompt_keys(tokens[:-1])
        job = self._arriving = Job(asked, tokens, block_names(keys), now)
        prompt = job.prompt_tokens
        placement = self.scheduler.place(
            Request(
                request_id=asked.request_id,
                keys=keys[: prompt // self.block_size * KEY_BYTES],
                prompt_tokens=prompt,
                max_output_tokens=asked.max_output_tokens,
                priority=asked.priority,
                session_id=asked.session_id,
            ),
            now,
        )
        rank = int(placement.replica)
        self._placed[asked.request_id] = (rank, placement.branch, placement.cached_tokens)
        self.replicas[rank].arrive(job, now)

    def _tokens(self, asked: Asked) -> array[int]:
        """The prompt, and the answer to be."""
        answer = asked.answer
        if answer is None:
            name = asked.request_id.encode("utf-8", "surrogatepass")
            answer = int.from_bytes(blake2b(name, digest_size=8).digest(), "little")
        parts = (*asked.prompt, Part(answer, asked.output_tokens))
        tokens = array("I")
        tokens.frombytes(np.concatenate([self._stream(*part) for part in parts]).tobytes())
        return tokens

    def _stream(self, stream: int, tokens: int) -> Tokens:
        known = self._streams.get(stream)
        if known is None or len(known) < tokens:
            known = stream_tokens(stream, tokens)
            if tokens >= _LONG_PART:
                if len(self._streams) >= _KEPT_STREAMS:
                    del self._streams[next(iter(self._streams))]
                self._streams[stream] = known
        return known[:tokens]

    def _served(self, job: Job, now: float) -> Served:
        rank, branch, predicted = self._placed.pop(job.asked.request_id)
        assert job.first_token_at is not None
        return Served(
            job.asked.request_id,
            rank,
            branch,
            job.arrived,
            job.first_token_at,
            now,
            job.prompt_tokens,
            job.cached_tokens or 0,
            predicted,
            job.output_tokens,
        )
