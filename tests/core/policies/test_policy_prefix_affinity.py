from __future__ import annotations

import pytest
from builders import place, prompt, scheduler
from policy_views import chosen, replicas, view

from preble_plugin.core import Finished
from preble_plugin.core.policies.prefix_affinity import IMBALANCE_REQUESTS, PrefixAffinity


def test_the_longest_hit_wins_over_a_shorter_queue():
    candidates = replicas(3, holding=[1], hit=1000)
    candidates[1].running = 50

    assert chosen(PrefixAffinity(), view(2000, *candidates)) == (1, "affinity")


@pytest.mark.parametrize(
    ("queues", "expected"),
    [
        ((65, 0), (1, "imbalanced")),
        ((64, 0), (0, "affinity")),
        ((300, 199), (1, "imbalanced")),
        ((300, 201), (0, "affinity")),
    ],
)
def test_imbalance_takes_both_thresholds(queues, expected):
    candidates = replicas(2, holding=[0], hit=1000)
    for candidate, queue in zip(candidates, queues, strict=True):
        candidate.waiting = queue

    assert chosen(PrefixAffinity(), view(2000, *candidates)) == expected


@pytest.mark.parametrize(("hit", "expected"), [(300, "least-loaded"), (301, "affinity")])
def test_below_the_match_ratio_the_shortest_queue_wins(hit, expected):
    candidates = replicas(3, holding=[0], hit=hit, running=1)
    candidates[2].running = 0

    index, branch = chosen(PrefixAffinity(), view(1000, *candidates))

    assert (index, branch) == (0 if expected == "affinity" else 2, expected)


def test_of_two_holders_the_shorter_queue_wins():
    candidates = replicas(4, holding=[2, 3], hit=1000, waiting=3)
    candidates[3].waiting = 2

    assert chosen(PrefixAffinity(), view(2000, *candidates)) == (3, "affinity")


def test_a_prompt_without_a_block_goes_to_the_shortest_queue():
    candidates = replicas(3, running=1)
    candidates[1].running = 0

    assert chosen(PrefixAffinity(), view(0, *candidates, prefix_hash=0)) == (1, "least-loaded")


def test_a_burst_on_one_prefix_stays_until_the_queues_are_apart_and_comes_back():
    made = scheduler(2, policy="prefix-affinity")
    document = prompt(1, 30)
    burst = [place(made, str(one), document).replica for one in range(IMBALANCE_REQUESTS + 1)]
    home = burst[0]
    assert set(burst) == {home}
    assert place(made, "over", document).branch == "imbalanced"
    made.observe(home, [Finished(str(one), 3) for one in range(60)], 0.5)
    made.observe(1 - home, [Finished("over", 0, aborted=True)], 0.5)
    again = place(made, "again", document, 0.6)
    assert (again.replica, again.branch) == (home, "affinity")
