from __future__ import annotations

from builders import chosen, hold, place, prompt, scheduler, wait_seconds


def test_replicas_take_turns_whatever_they_hold_or_do():
    made = scheduler(3, policy="round-robin")
    hold(made, 1, prompt(1, 20))
    wait_seconds(made, 0, 9.0)
    taken = [chosen(made, prompt(1, 20)) for _ in range(7)]
    assert taken == [(index, "round-robin") for index in (0, 1, 2, 0, 1, 2, 0)]


def test_the_turn_goes_on_when_a_replica_leaves():
    made = scheduler(3, policy="round-robin")
    chosen(made, prompt(1, 1))
    made.remove_replica(1)
    assert [chosen(made, prompt(1, 1))[0] for _ in range(3)] == [2, 0, 2]


def test_a_request_whose_replica_is_fixed_takes_nobodys_turn():
    made = scheduler(3, policy="round-robin")
    place(made, "a", prompt(1, 2))
    place(made, "fixed", prompt(1, 2), fixed_replica=1)
    assert place(made, "b", prompt(1, 2)).replica == 1
