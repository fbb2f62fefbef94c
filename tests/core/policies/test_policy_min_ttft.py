from __future__ import annotations

import pytest
from builders import place, prompt, scheduler, store
from policy_views import Candidate, chosen, replicas, view

from preble_plugin.core import FirstToken
from preble_plugin.core.policies.min_ttft import MinTTFT


@pytest.mark.parametrize(("queue", "expected"), [(0.099, 1), (0.101, 0)])
def test_a_hit_is_worth_the_queue_it_saves(queue, expected):
    # 1000 tokens of 1e-4 seconds
    candidates = replicas(2, holding=[1], hit=1000)
    candidates[1].load = queue

    assert chosen(MinTTFT(), view(2000, *candidates)) == (expected, "min-ttft")


def test_each_replica_prefills_at_its_own_speed():
    candidates = [
        Candidate(0, hit_tokens=1000, seconds_per_token=3e-4),
        Candidate(1, seconds_per_token=1e-4),
    ]

    assert chosen(MinTTFT(), view(2000, *candidates))[0] == 1


def test_decoding_and_eviction_cost_nothing():
    candidates = replicas(2, holding=[1], hit=32)
    candidates[1].running, candidates[1].eviction = 500, 9.0

    assert chosen(MinTTFT(), view(2000, *candidates))[0] == 1


def test_of_equals_the_one_that_evicts_least_wins():
    candidates = replicas(3, evicted_blocks=5)
    candidates[1].evicted_blocks = 4

    assert chosen(MinTTFT(), view(2000, *candidates))[0] == 1


@pytest.mark.parametrize(("served", "expected"), [(0.0, 0), (0.97, 1)])
def test_a_queue_that_is_being_served_grows_shorter(served, expected):
    made = scheduler(2, policy="min-ttft")
    held = prompt(1, 60)
    made.apply(1, [store(held)], 0.0)
    place(made, "long", prompt(2, 600), fixed_replica=1)
    whole = made.status(0.0).replicas[1].queued_prefill_seconds
    assert place(made, "a", held, served * whole).replica == expected


def test_with_the_first_token_a_queue_is_over():
    made = scheduler(2, policy="min-ttft")
    held = prompt(1, 60)
    made.apply(1, [store(held)], 0.0)
    place(made, "long", prompt(2, 600), fixed_replica=1)
    made.observe(1, [FirstToken("long", 0)], 0.01)
    assert place(made, "a", held, 0.01).replica == 1
