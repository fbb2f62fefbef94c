from __future__ import annotations

from builders import place, prompt, scheduler, store
from policy_views import Candidate, chosen, replicas, view

from preble_plugin.core.policies.round_robin import RoundRobin


def test_replicas_take_turns_whatever_they_hold_or_do():
    policy = RoundRobin()
    candidates = replicas(3, holding=[1], hit=2032)
    candidates[0].load = 100.0

    taken = [chosen(policy, view(2048, *candidates)) for _ in range(7)]

    assert taken == [(index, "round-robin") for index in (0, 1, 2, 0, 1, 2, 0)]


def test_the_turn_goes_on_when_a_replica_leaves():
    policy = RoundRobin()
    chosen(policy, view(10, *replicas(3)))
    left = [Candidate(0), Candidate(2)]

    assert [chosen(policy, view(10, *left))[0] for _ in range(3)] == [2, 0, 2]


def test_a_prompt_that_is_cached_on_one_replica_goes_round_them_all():
    made = scheduler(3, policy="round-robin")
    made.apply(1, [store(prompt(1, 20))], 0.0)

    assert [place(made, name, prompt(1, 20)).replica for name in "abcd"] == [0, 1, 2, 0]


def test_a_request_whose_replica_is_fixed_takes_nobodys_turn():
    made = scheduler(3, policy="round-robin")
    place(made, "a", prompt(1, 2))
    place(made, "fixed", prompt(1, 2), fixed_replica=1)

    assert place(made, "b", prompt(1, 2)).replica == 1
