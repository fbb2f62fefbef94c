"""Calls from their placement to their end, as the scheduler is told of them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from ray.serve.request_router import PendingRequest

from preble_plugin.core import Placement, ReplicaStatus
from preble_plugin.ray_ext.placing import BLOCK_TOKENS, Placing
from preble_plugin.service.interface import Unplaced
from preble_plugin.settings import Settings
from tests.ray.calls import call, sent, text, turns

REPLICAS = {"a": 100, "b": 100, "c": 100}


@pytest.fixture
async def placing() -> AsyncIterator[Placing]:
    made = Placing(Settings())
    made.set_replicas(REPLICAS)
    yield made
    assert made.frontend.dropped == 0


def where(answer: Placement | Unplaced) -> str:
    assert isinstance(answer, Placement)
    return str(answer.replica)


async def send(placing: Placing, pending: PendingRequest) -> str:
    """Place a call, and let Ray send it there."""
    replica = where(placing.choose(pending))
    await sent(pending, replica)
    placing.routed(pending)
    return replica


def replica_status(placing: Placing, name: str) -> ReplicaStatus:
    status = placing.frontend.status()
    assert status is not None
    return next(one for one in status.replicas if one.replica == name)


def running(placing: Placing) -> dict[str, int]:
    return {name: replica_status(placing, name).running for name in REPLICAS}


def expected_blocks(placing: Placing) -> int:
    return sum(replica_status(placing, name).expected_blocks for name in REPLICAS)


async def test_a_prompt_goes_where_its_start_went(placing: Placing) -> None:
    home = await send(placing, call(text("x"), "1"))
    placing.ended(home, "1")
    answer = placing.choose(call(text("x") + "And why?", "2"))
    assert where(answer) == home
    assert isinstance(answer, Placement)
    assert answer.cached_tokens == 20 * BLOCK_TOKENS


async def test_calls_in_flight_are_load(placing: Placing) -> None:
    homes = {await send(placing, call(text(subject), subject)) for subject in "xyz"}
    assert homes == set(REPLICAS)


async def test_an_end_frees_the_load(placing: Placing) -> None:
    home = await send(placing, call(text("x"), "1"))
    assert running(placing)[home] == 1
    placing.ended(home, "1")
    assert running(placing) == dict.fromkeys(REPLICAS, 0)
    assert placing.in_flight == 0


async def test_a_call_cancelled_before_it_is_sent_leaves_nothing(placing: Placing) -> None:
    pending = call(text("x"))
    placing.choose(pending)
    assert expected_blocks(placing) == 20
    pending.future.cancel()
    await turns()
    assert running(placing) == dict.fromkeys(REPLICAS, 0)
    assert (placing.in_flight, expected_blocks(placing)) == (0, 0)


async def test_where_ray_has_sent_it_counts(placing: Placing) -> None:
    pending = call(text("x"), "1")
    other = next(name for name in REPLICAS if name != where(placing.choose(pending)))
    await sent(pending, other)
    assert running(placing) == {name: int(name == other) for name in REPLICAS}
    placing.ended(other, "1")
    assert where(placing.choose(call(text("x"), "2"))) == other


@pytest.mark.parametrize("again", ["a", "b"])
async def test_a_refusal_does_not_end_what_was_sent_again(placing: Placing, again: str) -> None:
    pending = call(text("x"), "1")
    placing.choose(pending)
    await sent(pending, "a")
    pending.reset_future()
    placing.choose(pending)
    await sent(pending, again)
    placing.routed(pending)
    placing.ended("a", "1")  # of the refusal
    assert running(placing) == {name: int(name == again) for name in REPLICAS}
    placing.ended(again, "1")
    assert (placing.in_flight, running(placing)) == (0, dict.fromkeys(REPLICAS, 0))


async def test_calls_of_one_client_request_end_one_by_one(placing: Placing) -> None:
    homes = [await send(placing, call(text(subject), "shared")) for subject in "xyzv"]
    for left, home in zip((3, 2, 1, 0), homes, strict=True):
        placing.ended(home, "shared")
        assert placing.in_flight == left
    assert running(placing) == dict.fromkeys(REPLICAS, 0)


async def test_an_end_nobody_waits_for_is_ignored(placing: Placing) -> None:
    home = await send(placing, call(text("x"), "1"))
    for name in REPLICAS:
        placing.ended(name, "unknown")
    placing.ended(next(name for name in REPLICAS if name != home), "1")
    assert placing.in_flight == 1


async def test_a_call_under_way_outlives_rays_own_record_of_it(placing: Placing) -> None:
    await send(placing, call(text("x"), "1"))
    gc.collect()
    await turns()
    assert placing.in_flight == 1


async def test_a_place_that_was_kept_and_never_used_is_given_back(placing: Placing) -> None:
    pending = call(text("x"), "1")
    await sent(pending, where(placing.choose(pending)))
    del pending
    gc.collect()
    await turns()
    assert placing.in_flight == 0
    assert isinstance(placing.choose(call(text("x"), "2")), Placement)


async def test_where_calls_are_sent_by_another_way_ray_chooses(
    placing: Placing, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        pending = call(text("x"), str(number))
        placing.choose(pending)
        del pending
        gc.collect()
        await turns()
    assert placing.choose(call(text("x"), "last")) == Unplaced("not_sent_from_here")
    assert placing.in_flight == 0
    assert caplog.text.count("direct streaming") == 1


async def test_a_replica_that_left_is_not_chosen(placing: Placing) -> None:
    home = await send(placing, call(text("x"), "1"))
    placing.set_replicas({name: 100 for name in REPLICAS if name != home})
    assert where(placing.choose(call(text("x"), "2"))) != home
    placing.ended(home, "1")
    assert placing.in_flight == 1


async def test_a_replica_is_taken_to_hold_as_much_as_its_cache_does() -> None:
    placing = Placing(Settings(), capacity_tokens=50 * BLOCK_TOKENS)
    placing.set_replicas({"a": 100})
    for subject in "uvwxyz":
        placing.ended(await send(placing, call(text(subject), subject)), subject)
    assert replica_status(placing, "a").expected_blocks == 40
    answers = [placing.choose(call(text(subject) + "Why?", f"{subject}2")) for subject in "zu"]
    assert [getattr(one, "cached_tokens", None) for one in answers] == [20 * BLOCK_TOKENS, 0]


async def test_in_shadow_ray_chooses_and_what_would_have_been_is_kept() -> None:
    placing = Placing(Settings(shadow=True))
    placing.set_replicas(REPLICAS)
    for number, replica in enumerate("aab"):
        pending = call(text("x"), str(number))
        assert placing.choose(pending) == Unplaced("shadow")
        await sent(pending, replica)
        placing.ended(replica, str(number))
    status = placing.frontend.status()
    assert status is not None
    assert status.shadow is not None
    assert status.shadow.requests == 3
    [receipt] = placing.frontend.host.explain("client-2")
    assert receipt.would_be is not None
    assert (receipt.replica, receipt.would_be.replica) == ("b", "a")


async def test_explain_finds_a_call_by_the_clients_id(placing: Placing) -> None:
    home = await send(placing, call(text("x"), "1"))
    [receipt] = placing.frontend.host.explain("client-1")
    assert receipt.replica == home


async def test_many_calls_leave_nothing(placing: Placing) -> None:
    async def one(number: int) -> None:
        pending = call(text(str(number % 7)), str(number % 50))
        replica = where(placing.choose(pending))
        if number % 5 == 0:
            pending.future.cancel()
            await turns()
            return
        await sent(pending, replica)
        placing.routed(pending)
        placing.ended(replica, str(number % 50))

    await asyncio.gather(*(one(number) for number in range(500)))
    assert (placing.in_flight, running(placing)) == (0, dict.fromkeys(REPLICAS, 0))


async def test_a_call_that_waits_for_room_is_placed_once(placing: Placing) -> None:
    pending = call(text("x"), "1")
    answers = {where(placing.choose(pending)) for _ in range(5)}
    status = placing.frontend.status()
    assert status is not None
    assert (len(answers), status.placements) == (1, 1)


async def test_each_answer_is_counted_by_its_rule() -> None:
    counts: Counter[str] = Counter()
    placing = Placing(Settings(), count=lambda branch: counts.update([branch]))
    early = call(text("x"), "0")
    placing.choose(early)
    placing.set_replicas(REPLICAS)
    for number in range(1, 4):
        placing.ended(await send(placing, call(text("x"), str(number))), str(number))
    assert counts == {"not_ready": 1, "explore": 1, "exploit": 2}


async def test_a_call_refused_and_cancelled_in_shadow_leaves_no_load() -> None:
    placing = Placing(Settings(shadow=True))
    placing.set_replicas(REPLICAS)
    pending = call(text("x"), "1")
    placing.choose(pending)
    await sent(pending, "a")
    pending.reset_future()
    placing.choose(pending)
    pending.future.cancel()
    await turns()
    assert (placing.in_flight, running(placing)) == (0, dict.fromkeys(REPLICAS, 0))
