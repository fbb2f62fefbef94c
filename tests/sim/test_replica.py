from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.request import Finished, FirstToken
from preble_plugin.sim.asked import stream_tokens
from preble_plugin.sim.cache import BlockCache
from preble_plugin.sim.hardware import Hardware
from preble_plugin.sim.job import Job, block_names
from preble_plugin.sim.replica import Replica
from tests.sim.builders import asked, hardware

SIZE = 16
HASHER = BlockHasher(SIZE, b"0123456789abcdef")


def replica(law: Hardware, **given: bool) -> Replica:
    return Replica(law, BlockCache(law.kv_tokens // SIZE, SIZE), **given)


def job(number: int, *parts: tuple[int, int], output: int = 4, at: float = 0.0) -> Job:
    request = asked(number, at, *parts, output=output)
    tokens = [
        int(token) for part in (*parts, (9000 + number, output)) for token in stream_tokens(*part)
    ]
    return Job(request, tokens, block_names(HASHER.prompt_keys(tokens[:-1])), at)


def told(engine: Replica) -> dict[float, list[Any]]:
    """All that it tells until it is idle, by time."""
    found: dict[float, list[Any]] = {}
    while engine.ends_at is not None:
        at = engine.ends_at
        found.setdefault(at, []).extend(engine.step().outcomes)
    return {at: outcomes for at, outcomes in found.items() if outcomes}


def test_a_prompt_is_computed_in_chunks_and_then_decoded() -> None:
    law = hardware()
    engine = replica(law)
    engine.arrive(job(1, (1, 600), output=4), 1.0)
    first = 1.0 + sum(
        law.step_seconds([part], 0, 0) for part in ((256, 256), (256, 512), (88, 600))
    )
    # A decode step reads the token that it computes, too.
    end = first + sum(law.step_seconds([], 1, 601 + one) for one in range(3))
    outcomes = told(engine)
    assert list(outcomes) == pytest.approx([first, end])
    assert list(outcomes.values()) == [[FirstToken("r1", 0)], [Finished("r1", 4)]]
    assert engine.steps == 6
    assert engine.busy_seconds == pytest.approx(end - 1.0)


def test_of_a_prompt_that_is_cached_the_last_token_is_computed() -> None:
    engine = replica(hardware())
    for number in (1, 2):
        engine.arrive(job(number, (1, 64)), 0.0)
        outcomes = [each for some in told(engine).values() for each in some]
    assert outcomes[0] == FirstToken("r2", 48)


def test_an_answer_is_cached_with_its_prompt() -> None:
    engine = replica(hardware())
    engine.arrive(job(1, (1, 30), output=35), 0.0)
    told(engine)
    engine.arrive(job(2, (1, 30), (9001, 35), (5, 40)), 9.0)
    first = next(iter(told(engine).values()))[0]
    assert first == FirstToken("r2", 64)


def test_prefill_shares_the_step_with_those_that_decode() -> None:
    law = hardware()
    engine = replica(law)
    engine.arrive(job(1, (1, 100), output=50), 0.0)
    assert engine.ends_at is not None
    began = engine.ends_at
    engine.step()
    engine.arrive(job(2, (2, 300), output=2), began)
    # The step under way is decode alone and ends as it would; the prompt has two chunks.
    at = began + law.step_seconds([], 1, 101)
    at += law.step_seconds([(255, 255)], 1, 102)
    at += law.step_seconds([(45, 300)], 1, 103)
    outcomes = told(engine)
    assert next(iter(outcomes)) == pytest.approx(at)
    assert outcomes[next(iter(outcomes))] == [FirstToken("r2", 0)]


def test_who_waits_is_taken_up_in_order_as_places_last() -> None:
    engine = replica(hardware(max_running=2))
    for number in range(5):
        engine.arrive(job(number, (number, 20), output=3), 0.0)
    assert (len(engine.running), len(engine.waiting)) == (1, 4)
    order: list[Any] = []
    while engine.ends_at is not None:
        assert len(engine.running) <= 2
        order += engine.step().outcomes
    started = [each.request_id for each in order if isinstance(each, FirstToken)]
    assert started == ["r0", "r1", "r2", "r3", "r4"]


def test_where_blocks_run_short_the_last_one_waits_and_is_computed_anew() -> None:
    engine = replica(hardware(kv_tokens=160))
    engine.arrive(job(1, (1, 48), output=90), 0.0)
    engine.arrive(job(2, (2, 60), output=90), 0.0)
    order = [each for some in told(engine).values() for each in some]
    assert [each for each in order if isinstance(each, Finished)] == [
        Finished("r1", 90),
        Finished("r2", 90),
    ]
    assert engine.preemptions >= 1
    assert [each for each in order if isinstance(each, FirstToken)] == [
        FirstToken("r1", 0),
        FirstToken("r2", 0),
    ]
    assert engine.cache.free == 10


def test_a_request_that_comes_ends_the_steps_that_were_taken_together() -> None:
    law = hardware()
    alone, met = replica(law), replica(law)
    for engine in (alone, met):
        engine.arrive(job(1, (1, 100), output=200), 0.0)
        engine.step()
    assert alone.ends_at is not None
    long = alone.ends_at
    now = long / 3
    met.arrive(job(2, (2, 10), output=1), now)
    assert met.ends_at is not None
    assert now <= met.ends_at < now + law.step_seconds([], 1, 300)


def test_with_a_local_queue_what_is_cached_goes_first() -> None:
    engine = replica(hardware(max_running=1), local_queue=True)
    engine.arrive(job(1, (1, 64)), 0.0)
    for number, document in ((2, 2), (3, 1), (4, 4), (5, 1)):
        engine.arrive(job(number, (document, 64)), 0.0)
    assert first_tokens(engine) == ["r1", "r3", "r5", "r2", "r4"]


def test_with_a_local_queue_what_was_preempted_goes_first_all_the_same() -> None:
    engine = replica(hardware(kv_tokens=160, max_running=2), local_queue=True)
    engine.arrive(job(1, (1, 48), output=90), 0.0)
    engine.arrive(job(2, (2, 60), output=90), 0.0)
    engine.step()
    assert len(engine.running) == 2
    engine.arrive(job(3, (1, 48), output=90), 0.1)
    ended = [each for some in told(engine).values() for each in some]
    assert engine.preemptions >= 1
    assert [each for each in ended if isinstance(each, Finished)] == [
        Finished(f"r{number}", 90) for number in (1, 2, 3)
    ]


def test_prompts_with_nothing_in_common_come_in_order_of_arrival() -> None:
    def order(local_queue: bool) -> list[str]:
        engine = replica(hardware(max_running=2), local_queue=local_queue)
        for number in range(20):
            engine.arrive(job(number, (number, 20 + 13 * number % 300)), 0.0)
        return first_tokens(engine)

    assert order(local_queue=True) == order(local_queue=False) == [f"r{n}" for n in range(20)]


def first_tokens(engine: Replica) -> list[str]:
    """Who has a first token, in order, until it is idle."""
    outcomes = [each for some in told(engine).values() for each in some]
    return [each.request_id for each in outcomes if isinstance(each, FirstToken)]
