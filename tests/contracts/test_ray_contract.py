"""What `ray_ext/router.py` relies on, in the Ray installed: one test for each thing, by its
name."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import fields
from typing import Any

import pytest
from ray.serve._private import long_poll, router
from ray.serve._private.common import RequestMetadata, RunningReplicaInfo
from ray.serve._private.request_router.pow_2_router import PowerOfTwoChoicesRequestRouter
from ray.serve.request_router import (
    FIFOMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from preble_plugin.ray_ext.router import PrebleRouter

OVERRIDDEN = (
    "initialize_state",
    "choose_replicas",
    "on_request_routed",
    "on_request_completed",
    "update_replicas",
    "on_replica_actor_died",
    "_get_pending_request_matching_internal_request_id",
)


def parameters(method: Any) -> list[str]:
    return list(inspect.signature(method).parameters)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_what_is_overridden_takes_the_same(name: str) -> None:
    rays, ours = getattr(RequestRouter, name), getattr(PrebleRouter, name)
    if name != "initialize_state":
        assert parameters(ours) == parameters(rays)
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(rays)


def test_the_power_of_two_choice_is_made_by_any_router_of_its_mixins() -> None:
    assert parameters(PowerOfTwoChoicesRequestRouter.choose_replicas) == [
        "self",
        "candidate_replicas",
        "pending_request",
    ]
    assert set(PowerOfTwoChoicesRequestRouter.__bases__) - set(PrebleRouter.__bases__) == {
        FIFOMixin
    }


def test_replicas_are_ranked_by_their_models() -> None:
    assert parameters(MultiplexMixin.rank_replicas_via_multiplex) == [
        "self",
        "replicas",
        "multiplexed_model_id",
    ]


def test_a_pending_request_has_what_is_read_of_it() -> None:
    assert {"args", "metadata", "future"} <= {one.name for one in fields(PendingRequest)}
    assert {
        "request_id",
        "internal_request_id",
        "call_method",
        "multiplexed_model_id",
        "session_id",
    } <= {one.name for one in fields(RequestMetadata)}


async def test_a_call_that_is_sent_again_has_another_future() -> None:
    metadata = RequestMetadata(request_id="1", internal_request_id="1")
    pending = PendingRequest(args=[], kwargs={}, metadata=metadata)
    first = pending.future
    pending.reset_future()
    assert isinstance(pending.future, asyncio.Future)
    assert pending.future is not first


def test_a_replica_has_what_is_read_of_it() -> None:
    assert isinstance(RunningReplica.replica_id, property)
    assert isinstance(RunningReplica.max_ongoing_requests, property)
    assert "unique_id" in {one.name for one in fields(ReplicaID)}
    assert "max_ongoing_requests" in {one.name for one in fields(RunningReplicaInfo)}


def test_an_end_is_told_for_each_time_that_a_call_was_sent() -> None:
    source = inspect.getsource(router.AsyncioRouter)
    assert "_process_finished_request" in inspect.getsource(
        router.AsyncioRouter._register_completion_callback
    )
    assert "on_request_completed" in inspect.getsource(
        router.AsyncioRouter._process_finished_request
    )
    assert source.count(".on_request_routed(") == 1


def test_what_settings_raise_would_end_rays_long_poll() -> None:
    # Hence `initialize_state` raises nothing: a callback that raises is never counted, and
    # the next poll waits for it.
    poll = inspect.getsource(long_poll.LongPollClient)
    assert "callback(arg)\n                self._on_callback_completed(" in poll
    assert "request_router.initialize_state(" in inspect.getsource(router.AsyncioRouter)


def test_a_task_does_not_leave_the_call_that_it_took() -> None:
    # Before 2.60 a router that answers each call by itself could lose calls under load.
    source = inspect.getsource(RequestRouter._fulfill_pending_requests)
    assert "if pending_request.future.done():\n                                break" in source
