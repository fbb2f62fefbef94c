"""What finished requests leave expected, where events do not tell of their blocks."""

from __future__ import annotations

import pytest
from builders import BLOCK, place, prompt, scheduler, store

from preble_plugin.core import Clear, Finished, FirstToken, Scheduler, Trust
from preble_plugin.core.tree_check import check_tree

LATER = 100.0


def serve(
    made: Scheduler, name: str, tokens: list[int], now: float = 0.0, salt: str = "tenant"
) -> None:
    """Place and finish a request of a tenant whose blocks events do not tell."""
    place(made, name, tokens, now, salt=salt)
    made.observe(0, [FirstToken(name, 0)], now + 0.1)
    made.observe(0, [Finished(name, 4, events_tell=False)], now + 0.2)


def hit(made: Scheduler, tokens: list[int], now: float = LATER, salt: str = "tenant") -> int:
    """The hit predicted for a prompt, in blocks; it leaves nothing behind."""
    placed = place(made, "probe", tokens, now, salt=salt)
    made.observe(0, [Finished("probe", 0, aborted=True)], now)
    return placed.cached_tokens // BLOCK


def test_a_replica_is_taken_to_hold_what_events_do_not_tell_of():
    made = scheduler(1)
    serve(made, "a", prompt(1, 30))
    assert hit(made, prompt(1, 30, extra=1)) == 30


def test_another_namespace_gets_nothing_of_it():
    made = scheduler(1)
    serve(made, "a", prompt(1, 30))
    assert hit(made, prompt(1, 30, extra=1), salt="other") == 0
    assert hit(made, prompt(1, 30, extra=1), salt="") == 0


def test_a_longer_prompt_is_predicted_its_common_prefix():
    made = scheduler(1)
    serve(made, "a", prompt(1, 30))
    assert hit(made, [*prompt(1, 20), *prompt(2, 10, extra=1)]) == 20


def test_requests_that_events_tell_of_are_expected_no_longer_than_ever():
    made = scheduler(1)
    serve(made, "a", prompt(1, 30))
    place(made, "b", prompt(2, 30), 0.0)
    made.observe(0, [FirstToken("b", 0), Finished("b", 4)], 0.2)
    assert hit(made, prompt(2, 30, extra=1), salt="") == 0
    assert made.status(LATER).replicas[0].expected_blocks == 30


def test_the_oldest_give_way_where_together_they_exceed_the_cache():
    made = scheduler(1, capacity=100)
    for number in range(4):
        serve(made, str(number), prompt(number, 40), float(number))
    assert [hit(made, prompt(number, 40, extra=1)) for number in range(4)] == [0, 0, 40, 40]
    check_tree(made._tree)


def test_trust_regained_leaves_what_events_never_told():
    made = scheduler(1)
    made.set_trust(0, Trust.GAPPED)
    serve(made, "a", prompt(1, 30))
    place(made, "b", prompt(2, 30), 0.0)
    made.observe(0, [FirstToken("b", 0), Finished("b", 4)], 0.2)
    made.set_trust(0, Trust.EXACT)
    assert hit(made, prompt(1, 30, extra=1)) == 30
    assert hit(made, prompt(2, 30, extra=1), salt="") == 0


@pytest.mark.parametrize("trust", list(Trust))
def test_a_clear_ends_what_finished_requests_left(trust):
    made = scheduler(1)
    made.set_trust(0, trust)
    serve(made, "told not", prompt(1, 30))
    place(made, "told", prompt(2, 30), 0.0)
    made.observe(0, [FirstToken("told", 0), Finished("told", 4)], 0.2)
    made.apply(0, [Clear()], 50.0)
    assert hit(made, prompt(1, 30, extra=1)) == 0
    assert hit(made, prompt(2, 30, extra=1), salt="") == 0
    check_tree(made._tree)


def test_a_clear_leaves_what_requests_in_flight_will_store():
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 0.0, salt="tenant")
    made.apply(0, [Clear()], 0.1)
    made.observe(0, [FirstToken("a", 0), Finished("a", 4, events_tell=False)], 0.2)
    assert hit(made, prompt(1, 30, extra=1)) == 30


def test_a_forgotten_residency_ends_what_events_never_told_and_no_guess():
    """A guess stands in for events that are lost; these come, and say that the cache
    may be another one."""
    made = scheduler(1)
    made.set_trust(0, Trust.GAPPED)
    serve(made, "told not", prompt(1, 30))
    place(made, "told", prompt(2, 30), 0.0)
    made.observe(0, [FirstToken("told", 0), Finished("told", 4)], 0.2)
    made.clear_residency(0)
    assert hit(made, prompt(1, 30, extra=1)) == 0
    assert hit(made, prompt(2, 30, extra=1), salt="") == 30


def test_a_request_aborted_before_its_first_token_leaves_nothing():
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 0.0, salt="tenant")
    made.observe(0, [Finished("a", 0, aborted=True)], 0.1)
    assert hit(made, prompt(1, 30, extra=1), 0.2) == 0


def test_a_request_aborted_after_its_first_token_leaves_its_prompt():
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 0.0, salt="tenant")
    made.observe(0, [FirstToken("a", 0)], 0.1)
    made.observe(0, [Finished("a", 3, aborted=True, events_tell=False)], 0.2)
    assert hit(made, prompt(1, 30, extra=1)) == 30


def test_events_of_equal_tokens_in_another_namespace_change_nothing():
    made = scheduler(1)
    serve(made, "a", prompt(1, 30))
    made.apply(0, [store(prompt(1, 30))], 1.0)
    made.apply(0, [Clear()], 2.0)
    serve(made, "b", prompt(1, 30), 3.0)
    made.apply(0, [store(prompt(1, 30))], 4.0)
    assert (hit(made, prompt(1, 30, extra=1)), hit(made, prompt(1, 30, extra=1), salt="")) == (
        30,
        30,
    )


def test_a_removed_replica_leaves_none():
    made = scheduler(2)
    serve(made, "a", prompt(1, 30))
    made.remove_replica(0)
    made.remove_replica(1)
    assert made.status(LATER).tree_blocks == 0
