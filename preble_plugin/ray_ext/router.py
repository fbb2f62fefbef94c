"""Ray Serve's request router with preble's choice in it: `request_router_class`.

1. Ray makes one router in each process that calls the deployment, for each handle, and asks
   it where a call may go, best first (`choose_replicas`).
2. Ours comes first, Ray's own two random replicas next: they take the call if the first is
   full. Ray's queues, retries and limits stay as they are.
3. Whatever fails in here is counted and logged once, and Ray's own choice goes on.

All that is imported of Ray stands in this file; what is relied on is checked by name in
`tests/contracts/test_ray_contract.py`. Ray pickles this module by value: nothing in it may
depend on being imported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import (
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)
from ray.util import metrics

from preble_plugin.adapter.faults import Faults
from preble_plugin.core import Placement
from preble_plugin.ray_ext.placing import Placing
from preble_plugin.ray_ext.settings import read_settings
from preble_plugin.settings import SettingsError

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class PrebleRouter(LocalityMixin, MultiplexMixin, RequestRouter):  # type: ignore[misc]
    """Sends each call to the replica where its prompt costs least.

    NOTE: without `FIFOMixin`, which would give a replica chosen for one call to the call
    that waits longest.
    """

    def initialize_state(self, **given: Any) -> None:
        """Take the deployment's `request_router_kwargs` (docs/ray.md). Raises nothing: Ray
        would then wait with every request for ever (serve/_private/long_poll.py)."""
        self.faults = Faults(_log, "Ray Serve", "choice of replicas")
        self.placing: Placing | None = None
        self._starting: asyncio.Task[None] | None = None
        choices = metrics.Counter(
            "serve_preble_choices",
            description="Calls by the rule that placed them, or why Ray's own choice went on.",
            tag_keys=("application", "deployment", "branch"),
        )
        choices.set_default_tags(
            {"application": self._deployment_id.app_name, "deployment": self._deployment_id.name}
        )
        try:
            self.placing = Placing(
                *read_settings(given), lambda branch: choices.inc(tags={"branch": branch})
            )
        except SettingsError as error:
            _log.error("preble is off for %s: %s", self._deployment_id, error)
        except Exception:
            self.faults.note("initialize_state")

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Replicas for a call, best first. `Placing.choose`'s cost, beside Ray's."""
        # Asked each time: it sets how Ray waits before it asks again.
        own: list[list[RunningReplica]] = await PowerOfTwoChoicesRequestRouter.choose_replicas(
            self, candidate_replicas=candidate_replicas, pending_request=pending_request
        )
        if pending_request is None:
            return own
        chosen = self._safely(
            "choose_replicas",
            lambda placing: self._choose(placing, candidate_replicas, pending_request),
        )
        if chosen is None:
            return own
        return [[chosen], *([one for one in rank if one is not chosen] for rank in own)]

    def _choose(
        self, placing: Placing, candidates: list[RunningReplica], pending: PendingRequest
    ) -> RunningReplica | None:
        answer = placing.choose(pending)
        if not isinstance(answer, Placement):
            return None
        model = pending.metadata.multiplexed_model_id
        if model:  # where it is loaded, or else where the fewest are: loading costs more
            ranks = self.rank_replicas_via_multiplex(candidates, model)
            candidates = next(filter(None, ranks), candidates)
        return next((one for one in candidates if one.replica_id.unique_id == answer.replica), None)

    def _get_pending_request_matching_internal_request_id(
        self, request_metadata: Any = None
    ) -> Any:
        """The call that a replica was chosen for. O(1); for calls of one client request that
        wait together O(calls that wait).

        NOTE: Ray (2.60) finds it by an id that these share: all but one would wait for ever.
        """
        found = super()._get_pending_request_matching_internal_request_id(request_metadata)
        if found is not None and found.metadata is request_metadata:
            return found
        waiting = self._pending_requests_to_fulfill
        same = (one for one in waiting if one.metadata is request_metadata)
        return next((one for one in same if not one.future.done()), None)

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """A replica has taken a call."""
        self._safely("on_request_routed", lambda placing: placing.routed(pending_request))

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A call has ended, or was turned down by a replica."""
        self._safely(
            "on_request_completed",
            lambda placing: placing.ended(replica_id.unique_id, internal_request_id),
        )

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """These are the replicas now."""
        super().update_replicas(replicas)
        self._safely("update_replicas", self._state)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A replica is gone, before Ray's controller has said so."""
        super().on_replica_actor_died(replica_id)
        self._safely("on_replica_actor_died", self._state)

    def _state(self, placing: Placing) -> None:
        running = self.curr_replicas.values()
        placing.set_replicas(
            {one.replica_id.unique_id: one.max_ongoing_requests for one in running}
        )
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(placing.frontend.start())

    def _safely(self, where: str, work: Callable[[Placing], _Result]) -> _Result | None:
        if self.placing is None:
            return None
        try:
            return work(self.placing)
        except Exception:
            self.faults.note(where)
            return None
