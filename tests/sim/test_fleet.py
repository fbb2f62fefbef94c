from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preble_plugin.core.policies.registry import policy_names
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.beyond import ABLATIONS, BOUND, CLAIRVOYANT, ORACLE, POOLED
from preble_plugin.sim.fleet import Fleet, Served
from tests.sim.builders import asked, hardware, mixed


def served(workload: list[Asked], policy: str = "e2", replicas: int = 2) -> list[Served]:
    return list(Fleet(hardware(), replicas, policy).serve(workload))


@pytest.mark.parametrize("policy", [*policy_names(), *CLAIRVOYANT, *ABLATIONS])
def test_each_request_is_served_once_by_each_policy(policy: str) -> None:
    workload = mixed(seed=1, count=120, rate=6.0)
    done = served(workload, policy)
    assert sorted(one.request_id for one in done) == sorted(one.request_id for one in workload)
    by_id = {one.request_id: one for one in workload}
    for one in done:
        request = by_id[one.request_id]
        assert request.at == one.arrived < one.first_token <= one.ended
        assert (one.prompt_tokens, one.output_tokens) == (
            request.prompt_tokens,
            request.output_tokens,
        )
        assert 0 <= one.cached_tokens < one.prompt_tokens


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([1.0, 6.0, 30.0]), st.integers(1, 3))
def test_at_the_end_nothing_is_left_over(seed: int, rate: float, replicas: int) -> None:
    fleet = Fleet(hardware(kv_tokens=2048), replicas)
    workload = mixed(seed, 60, rate)
    assert len(list(fleet.serve(workload))) == 60
    status = fleet.scheduler.status(1e6)
    assert (status.in_flight, status.skipped_events) == (0, 0)
    for replica, known in zip(fleet.replicas, status.replicas, strict=True):
        assert replica.cache.free == replica.cache.capacity
        assert known.resident_blocks == len(replica.cache._held)


def test_one_at_a_time_the_scheduler_knows_what_is_cached() -> None:
    workload = [
        asked(number, 100.0 * number, (number % 7, 700), (number, 90)) for number in range(60)
    ]
    done = served(workload)
    assert sum(one.cached_tokens for one in done) > 0
    assert [one.predicted_tokens for one in done] == [one.cached_tokens for one in done]


@pytest.mark.parametrize("policy", ["round-robin", "e2", ORACLE])
def test_with_local_queues_each_request_is_served_once(policy: str) -> None:
    workload = mixed(seed=4, count=200, rate=40.0)
    fleet = Fleet(hardware(kv_tokens=2048), 2, policy, local_queue=True)
    done = list(fleet.serve(workload))
    assert sorted(one.request_id for one in done) == sorted(one.request_id for one in workload)
    assert all(replica.cache.free == replica.cache.capacity for replica in fleet.replicas)


def test_a_local_queue_finds_more_of_what_waits_in_a_small_cache() -> None:
    workload = mixed(seed=4, count=300, rate=40.0, shared=7)

    def cached(local_queue: bool) -> int:
        fleet = Fleet(hardware(kv_tokens=2048), 2, "round-robin", local_queue=local_queue)
        return sum(one.cached_tokens for one in fleet.serve(workload))

    assert cached(local_queue=True) > 1.2 * cached(local_queue=False)


def test_equal_workloads_give_equal_results() -> None:
    workload = mixed(seed=3, count=80, rate=8.0)
    assert served(workload) == served(workload)


def test_a_turn_comes_some_time_after_the_one_before_has_ended() -> None:
    workload = [
        asked(1, 0.0, (1, 100)),
        asked(2, 1.5, (1, 100), (2, 50), after="r1"),
        asked(3, 0.5, (1, 100), (3, 50), after="r2"),
    ]
    first, second, third = served(workload)
    assert second.arrived == first.ended + 1.5
    assert third.arrived == second.ended + 0.5


def test_a_prompt_that_goes_on_from_an_answer_finds_it_cached() -> None:
    workload = [
        asked(1, 0.0, (1, 90), output=70, answer=77),
        asked(2, 0.1, (1, 90), (77, 70), (2, 40), after="r1"),
    ]
    assert served(workload)[1].cached_tokens == (90 + 70 - 1) // 16 * 16


def test_streams_are_the_same_however_often_they_are_used() -> None:
    workload = [
        asked(number, 50.0 * number, (number % 600, 300), (number, 5)) for number in range(1300)
    ]
    done = served(workload, replicas=1)
    assert all(one.predicted_tokens == one.cached_tokens for one in done)


def test_the_bound_computes_everything_once() -> None:
    workload = [
        asked(number, 40.0 * number, (number % 20, 640), (number, 32)) for number in range(60)
    ]
    bound = served(workload, BOUND)
    assert [one.cached_tokens for one in bound[20:]] == [640] * 40
    assert {one.replica for one in bound} == {0, 1}
    assert sum(one.cached_tokens for one in served(workload, "round-robin")) < 40 * 640


def test_the_oracle_is_no_worse_than_what_it_stands_above() -> None:
    workload = mixed(seed=5, count=300, rate=14.0)

    def mean_latency(policy: str) -> float:
        return sum(one.ended - one.arrived for one in served(workload, policy)) / 300

    oracle = mean_latency(ORACLE)
    assert mean_latency(BOUND) < oracle < mean_latency("round-robin")


def test_a_pool_of_caches_lies_between_caches_apart_and_the_bound() -> None:
    workload = tight(5, 300, 0.12)

    def cached(policy: str) -> int:
        return sum(one.cached_tokens for one in served(workload, policy))

    assert cached("round-robin") < cached(POOLED) < cached(BOUND)


def test_prefixes_that_do_not_fit_side_by_side_do_not_put_each_other_out() -> None:
    """Each of half of all requests, so that both deserve more replicas than there are."""
    workload = [
        asked(number, 0.05 * number, (number * 7 % 13 % 2, 2400), (100 + number, 32), output=40)
        for number in range(300)
    ]
    done = list(Fleet(hardware(kv_tokens=4096), 4).serve(workload))
    assert sum(one.cached_tokens < 2400 for one in done) <= 6


def mean_latency(workload: list[Asked], policy: str, replicas: int = 2) -> float:
    done = served(workload, policy, replicas)
    return sum(one.ended - one.arrived for one in done) / len(done)


def test_restricting_what_exploits_keeps_prompts_with_their_prefixes() -> None:
    for workload in (mixed(5, 300, 14.0), crowded()):
        with_rule, without = (
            sum(one.cached_tokens for one in served(workload, policy))
            for policy in ("e2", "e2-without-restriction")
        )
        assert with_rule > 1.01 * without


def test_a_second_home_before_a_queue_halves_the_latency_of_a_hot_prefix() -> None:
    hot = [
        asked(number, 0.03 * number, (0, 1600), (1 + number, 60), output=8) for number in range(200)
    ]
    assert 2 * mean_latency(hot, "e2", 4) < mean_latency(hot, "e2-without-replication", 4)


@pytest.mark.parametrize("rule", ["crowding", "rebalancing"])
def test_on_crowded_replicas_a_rule_makes_no_answer_later(rule: str) -> None:
    assert mean_latency(crowded(), "e2") < mean_latency(crowded(), f"e2-without-{rule}")


def test_the_price_of_eviction_keeps_more_of_what_is_used() -> None:
    with_price, without = (
        sum(one.cached_tokens for one in served(tight(5, 300, 0.12), policy))
        for policy in ("e2", "e2-without-eviction")
    )
    assert with_price > without


def crowded() -> list[Asked]:
    """Short prompts with twenty prefixes, more than two replicas answer at once."""
    draw = Random(1)
    return [
        asked(
            number,
            0.03 * number,
            (draw.randrange(20), 96),
            (100 + number, draw.randrange(1, 40)),
            output=draw.randrange(1, 60),
        )
        for number in range(400)
    ]


def tight(seed: int, count: int, apart: float) -> list[Asked]:
    """Subjects that the caches of two replicas cannot hold together, some of them hot."""
    draw = Random(seed)
    return [
        asked(number, apart * number, (int(16 * draw.random() ** 2), 640), (100 + number, 32))
        for number in range(count)
    ]


def test_what_cannot_be_served_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'r1' has 5004 tokens, more than the 4096"):
        served([asked(1, 0.0, (1, 5000))])
    with pytest.raises(ValueError, match="two requests are called 'r1'"):
        served([asked(1, 0.0, (1, 50)), asked(1, 1.0, (1, 50))])
    with pytest.raises(ValueError, match="comes after 'r9', which is not in the workload"):
        served([asked(1, 0.0, (1, 50), after="r9")])
    with pytest.raises(ValueError, match="at least 1 replica, got 0"):
        Fleet(hardware(), 0)
