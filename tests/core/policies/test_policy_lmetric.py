from __future__ import annotations

import pytest
from builders import place, prompt, scheduler, store
from policy_views import Candidate, chosen, replicas, view

from preble_plugin.core import Finished, FirstToken
from preble_plugin.core.policies.lmetric import LMetric


@pytest.mark.parametrize(("running", "expected"), [(8, 1), (10, 0)])
def test_a_hit_is_worth_the_batch_it_is_a_share_of(running, expected):
    # 2000 * 1 against 200 * (running + 1)
    candidates = replicas(2, holding=[1], hit=1800)
    candidates[1].running = running

    assert chosen(LMetric(), view(2000, *candidates)) == (expected, "lmetric")


@pytest.mark.parametrize(("queued", "expected"), [(799, 1), (801, 0)])
def test_what_is_queued_counts_with_what_is_new(queued, expected):
    # 1000 * 2 against (200 + queued) * 2
    candidates = replicas(2, holding=[1], hit=800, running=1)
    candidates[1].queued_tokens = queued

    assert chosen(LMetric(), view(1000, *candidates))[0] == expected


def test_those_that_wait_are_of_the_batch():
    candidates = [Candidate(0, waiting=2, running=1), Candidate(1, running=2)]

    assert chosen(LMetric(), view(1000, *candidates))[0] == 1


def test_of_idle_replicas_the_one_that_holds_the_prefix_wins():
    candidates = replicas(4, holding=[2], hit=32)

    assert chosen(LMetric(), view(1000, *candidates))[0] == 2


def test_a_queue_of_prefill_sends_a_prefix_elsewhere_until_it_is_done():
    made = scheduler(2, policy="lmetric")
    document = prompt(1, 40)
    made.apply(1, [store(document)], 0.0)
    place(made, "long", prompt(2, 100), fixed_replica=1)
    asked = document + prompt(3, 1)
    assert place(made, "a", asked).replica == 0  # 41 blocks * 1 against 101 blocks * 2
    made.observe(0, [Finished("a", 0, aborted=True)], 0.1)
    made.observe(1, [FirstToken("long", 0)], 0.5)
    assert place(made, "b", asked, 0.5).replica == 1  # 41 * 1 against 1 * 2
