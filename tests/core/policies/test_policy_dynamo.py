from __future__ import annotations

import pytest
from builders import BLOCK, place, prompt, scheduler, store
from policy_views import Candidate, chosen, replicas, view

from preble_plugin.core import Finished, FirstToken
from preble_plugin.core.policies.dynamo import Dynamo


@pytest.mark.parametrize(("active", "expected"), [(99, 1), (101, 0)])
def test_a_block_to_compute_weighs_as_much_as_one_in_use(active, expected):
    candidates = replicas(2, holding=[1], hit=100 * BLOCK)
    candidates[1].active_blocks = active

    assert chosen(Dynamo(), view(2048, *candidates)) == (expected, "dynamo")


@pytest.mark.parametrize(("queued", "expected"), [(99 * BLOCK, 1), (101 * BLOCK, 0)])
def test_queued_prefill_counts_by_what_has_to_be_computed(queued, expected):
    candidates = replicas(2, holding=[1], hit=100 * BLOCK)
    candidates[1].queued_tokens = queued

    assert chosen(Dynamo(), view(2048, *candidates))[0] == expected


def test_blocks_that_the_prompt_shares_with_one_in_flight_are_not_added():
    # 128 + 50 against 128 + 10 + 60
    candidates = [
        Candidate(0, active_blocks=50, new_active_blocks=0),
        Candidate(1, active_blocks=10, new_active_blocks=60),
    ]

    assert chosen(Dynamo(), view(2048, *candidates))[0] == 0


@pytest.mark.parametrize("fewer", [0, 1])
def test_less_than_a_block_counts_as_the_share_it_is(fewer):
    candidates = replicas(2, queued_tokens=8)
    candidates[fewer].queued_tokens = 7

    assert chosen(Dynamo(), view(2048, *candidates))[0] == fewer


def test_seconds_and_requests_are_not_looked_at():
    candidates = replicas(2, holding=[1], hit=32)
    candidates[1].load = 100.0
    candidates[1].running = 1000

    assert chosen(Dynamo(), view(2048, *candidates))[0] == 1


def test_questions_about_one_document_stay_as_it_is_in_use_once():
    made = scheduler(2, policy="dynamo")
    document = prompt(1, 200)
    made.apply(1, [store(document)], 0.0)
    for name in range(20):
        asked = place(made, str(name), document + prompt(100 + name, 4))
        made.observe(1, [FirstToken(str(name), asked.cached_tokens)], 0.1)
        assert asked.replica == 1
    # 200 + 20 * 4 blocks are in use there, and this one needs 50 anywhere.
    assert place(made, "new", prompt(2, 50), 1.0).replica == 0


def test_a_prompt_in_flight_weighs_until_it_ends():
    made = scheduler(2, policy="dynamo")
    held = prompt(1, 20)
    made.apply(1, [store(held)], 0.0)
    place(made, "long", prompt(2, 50), fixed_replica=1)
    made.observe(1, [FirstToken("long", 0)], 0.5)
    assert place(made, "a", held, 0.5).replica == 0  # 20 + 20 against 50 + 1 + 20
    made.observe(0, [Finished("a", 0, aborted=True)], 0.6)
    made.observe(1, [Finished("long", 5)], 1.0)
    assert place(made, "b", held, 1.0).replica == 1
