from __future__ import annotations

import pytest
from builders import (
    chosen,
    decode,
    hold,
    place,
    prompt,
    scheduler,
    slow,
    use,
    wait_seconds,
)

from preble_plugin.core import FirstToken, Scheduler

DOCUMENT = prompt(1, 128)


def holder(**more: object) -> Scheduler:
    """Replica 1 of two holds the document, which saves 0.228 - 0.018 s."""
    made = scheduler(2, policy="min-ttft", **more)
    hold(made, 1, DOCUMENT)
    return made


@pytest.mark.parametrize(("queue", "expected"), [(0.20, 1), (0.22, 0)])
def test_a_hit_is_worth_the_queue_it_saves(queue, expected):
    made = holder()
    wait_seconds(made, 1, queue)
    assert chosen(made, DOCUMENT) == (expected, "min-ttft")


def test_each_replica_prefills_at_its_own_speed():
    made = scheduler(2, policy="min-ttft")
    hold(made, 0, DOCUMENT[:1024])
    slow(made, 0, 3.0)
    slow(made, 1, 1.0)
    assert chosen(made, DOCUMENT)[0] == 1


def test_decoding_and_eviction_cost_nothing():
    made = holder(capacity=128)
    use(made, 1, DOCUMENT)
    decode(made, 1, 200, 1)
    assert chosen(made, DOCUMENT[:640] + prompt(2, 100))[0] == 1


def test_of_equals_the_one_that_evicts_least_wins():
    made = scheduler(3, policy="min-ttft", capacity=4)
    made.add_replica(1, capacity_blocks=5)
    assert {chosen(made, prompt(10 + one, 9))[0] for one in range(12)} == {1}


@pytest.mark.parametrize(("served", "expected"), [(0.0, 0), (0.97, 1)])
def test_a_queue_that_is_being_served_grows_shorter(served, expected):
    made = scheduler(2, policy="min-ttft")
    held = prompt(1, 60)
    hold(made, 1, held)
    place(made, "long", prompt(2, 600), fixed_replica=1)
    whole = made.status(0.0).replicas[1].queued_prefill_seconds
    assert place(made, "a", held, served * whole).replica == expected


def test_with_the_first_token_a_queue_is_over():
    made = scheduler(2, policy="min-ttft")
    held = prompt(1, 60)
    hold(made, 1, held)
    place(made, "long", prompt(2, 600), fixed_replica=1)
    made.observe(1, [FirstToken("long", 0)], 0.01)
    assert place(made, "a", held, 0.01).replica == 1
