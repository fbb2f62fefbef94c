"""Replicas that take their steps together: data-parallel ranks of a mixture of experts.

Each layer's experts are spread over all ranks, so that none begins a layer before the
others have ended the one before (SGLang's DP attention, vLLM's data parallelism with
experts). So steps begin together and take as long as the longest of them, and whoever
comes meanwhile waits for the next. An idle rank takes empty steps, which cost nothing
here. What the ranks say to each other is not priced.
"""

from __future__ import annotations

from preble_plugin.sim.cache import BlockCache
from preble_plugin.sim.hardware import Hardware
from preble_plugin.sim.job import Job
from preble_plugin.sim.replica import Replica


class Lockstep:
    """Those that step together."""

    def __init__(self) -> None:
        self._members: list[LockstepReplica] = []
        self._under_way = 0
        """Members whose part of the step under way is not yet told."""

    def join(self, member: LockstepReplica) -> None:
        """One more rank."""
        self._members.append(member)

    def begin(self, now: float) -> None:
        """Begin a step of all that have work, unless one is under way. O(ranks)."""
        if self._under_way:
            return
        at_work = [member for member in self._members if member.begin(now)]
        ends_at = max((member.ends_at or now for member in at_work), default=now)
        for member in at_work:
            member.ends_at = ends_at
        self._under_way = len(at_work)

    def ended(self, now: float) -> None:
        """A member told its part; the last one lets the next step begin."""
        self._under_way -= 1
        self.begin(now)


class LockstepReplica(Replica):
    """A replica that steps with its group; one step at a time, also where all decode."""

    def __init__(
        self, hardware: Hardware, cache: BlockCache, group: Lockstep, *, local_queue: bool = False
    ) -> None:
        super().__init__(hardware, cache, local_queue=local_queue)
        self._group = group
        group.join(self)

    def arrive(self, job: Job, now: float) -> None:
        """A request comes. O(ranks) where all are idle."""
        self.waiting.add(job, job.prompt_tokens)
        self._group.begin(now)

    def begin(self, now: float) -> bool:
        """Begin a step; whether there is anything to do."""
        super()._start(now)
        return self.ends_at is not None

    def _start(self, now: float) -> None:
        self.ends_at = None
        self._group.ended(now)

    def _steps_alike(self) -> int:
        return 1
