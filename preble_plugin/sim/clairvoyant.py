"""A policy that knows what no scheduler can: the true law of the hardware, the true
caches and queues, and how long each answer will be.

A placement costs the request's own wait (the prefill before it, and its own) and the
delay that it puts on those that are there: on each one that runs or waits its own
prefill, on each that runs its share of their common steps. It looks one request
ahead, so it is no bound; on shared caches it is close to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from preble_plugin.core.policies.protocol import Choice, View
from preble_plugin.sim.job import Job
from preble_plugin.sim.replica import Replica


class Clairvoyant:
    """`arriving` says which request is asked about. O(requests in flight)."""

    def __init__(self, name: str, replicas: Sequence[Replica], arriving: Callable[[], Job]) -> None:
        self.name = name
        self._replicas = replicas
        self._arriving = arriving

    def choose(self, view: View) -> Choice:
        """The least cost; of equal ones the first from where the prefix hashes to."""
        job, replicas = self._arriving(), self._replicas
        start = view.prefix_hash % len(replicas)
        order = [*range(start, len(replicas)), *range(start)]
        return Choice(min(order, key=lambda one: _cost(replicas[one], job, view.now)), self.name)


def _cost(replica: Replica, job: Job, now: float) -> float:
    law, cache = replica.hardware, replica.cache
    hit = cache.find(job.names, (job.prompt_tokens - 1) // cache.block_size)
    own = law.prefill_seconds(job.prompt_tokens - hit * cache.block_size, job.prompt_tokens)
    wait, there, decoding, steps = 0.0, 0, 0, 0
    for other in (*replica.running, *replica.waiting):
        there += 1
        left = other.total - other.computed
        if left > 1 or other.computed < other.prompt_tokens:
            if not other.computed:
                known = cache.find(other.names, (other.total - 1) // cache.block_size)
                left = other.total - known * cache.block_size
            wait += law.prefill_seconds(left, other.total)
        else:
            decoding += 1
        steps += min(other.output_tokens - other.generated, job.output_tokens)
    if replica.ends_at is not None:
        wait += max(replica.ends_at - now, 0.0) if decoding else 0.0
    # What one more request adds to a step, for itself and for those in it.
    alone = law.decode_steps_seconds(1, job.prompt_tokens, 1)
    batch = law.decode_steps_seconds(there + 1, (there + 1) * job.prompt_tokens, 1)
    more = max(batch - alone, 0.0) / max(there, 1)
    return wait + own * (1 + there) + more * (there * job.output_tokens + steps)
