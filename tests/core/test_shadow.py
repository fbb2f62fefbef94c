"""Shadow mode: the policy decides, the request is booked where the engine sent it."""

from __future__ import annotations

import pytest
from builders import BLOCK, place, prompt, request, scheduler, store

from preble_plugin.core import Finished, FirstToken, Receipt, Scheduler
from preble_plugin.core.policies.protocol import Choice, View
from preble_plugin.core.receipts import WouldBe
from preble_plugin.core.status import ShadowStatus

HELD = prompt(1, 20)
ASKED = prompt(1, 20, extra=5)


class Failing:
    """A policy that fails at whatever it is asked."""

    name = "failing"

    def choose(self, view: View) -> Choice:
        raise ArithmeticError("no choice")


@pytest.fixture
def made() -> Scheduler:
    """Two replicas; replica 1 holds `HELD`."""
    made = scheduler(2)
    made.apply(1, [store(HELD)], 0.0)
    return made


def shadowed(made: Scheduler, name: str, replica: int, **fields: object) -> Receipt:
    """The receipt of a request that the engine sent to `replica`."""
    made.dispatched(request(made, name, ASKED, **fields), replica, 1.0, shadow=True)  # type: ignore[arg-type]
    (receipt,) = made.explain(name)
    return receipt


def running(made: Scheduler) -> list[int]:
    return [one.running for one in made.status(1.0).replicas]


def test_a_receipt_has_what_was_done_and_what_would_have_been(made: Scheduler) -> None:
    receipt = shadowed(made, "a", 0)
    done = (receipt.replica, receipt.branch, receipt.predicted_cached_tokens)
    assert done == (0, "engine", 0)
    assert receipt.would_be == WouldBe(1, "exploit", 20 * BLOCK)


def test_the_choice_is_that_of_a_placement(made: Scheduler) -> None:
    would_be = shadowed(made, "a", 0).would_be
    placement = place(made, "a", ASKED, 1.0)
    assert would_be == WouldBe(placement.replica, placement.branch, placement.cached_tokens)


def test_the_request_is_load_where_it_went_alone(made: Scheduler) -> None:
    shadowed(made, "a", 0)
    shadowed(made, "b", 0)
    assert running(made) == [2, 0]


def test_its_outcome_is_held_against_the_prediction_where_it_went(made: Scheduler) -> None:
    receipt = shadowed(made, "a", 0)
    made.observe(0, [FirstToken("a", 0), Finished("a", 4)], 1.5)
    there, elsewhere = made.status(2.0).replicas
    assert (there.audited_requests, there.exact_audits, elsewhere.audited_requests) == (1, 1, 0)
    (receipt,) = made.explain("a")
    assert (receipt.actual_cached_tokens, receipt.finish) == (0, "finished")


def test_both_sides_are_added_up(made: Scheduler) -> None:
    for name, replica in (("a", 0), ("b", 1), ("c", 1)):
        shadowed(made, name, replica)
    # From the second on, the first is expected to leave its blocks on replica 0, too.
    assert made.status(1.0).shadow == ShadowStatus(
        requests=3,
        elsewhere=1,
        prompt_tokens=3 * len(ASKED),
        cached_tokens=40 * BLOCK,
        would_be_cached_tokens=60 * BLOCK,
    )


def test_a_request_that_moves_between_is_in_flight_once(made: Scheduler) -> None:
    shadowed(made, "a", 0)
    shadowed(made, "a", 1)
    assert running(made) == [0, 1]


def test_a_request_that_follows_its_session_would_have_gone_there(made: Scheduler) -> None:
    would_be = shadowed(made, "a", 1, fixed_replica=0).would_be
    assert would_be == WouldBe(0, "fixed", 0)


def test_a_replica_that_is_gone_fixes_nothing(made: Scheduler) -> None:
    would_be = shadowed(made, "a", 0, fixed_replica=7).would_be
    assert would_be == WouldBe(1, "exploit", 20 * BLOCK)


def test_a_policy_that_fails_costs_no_booking() -> None:
    made = scheduler(2, policy=Failing())
    with pytest.raises(ArithmeticError):
        shadowed(made, "a", 0)
    (receipt,) = made.explain("a")
    assert (running(made), receipt.branch, receipt.would_be) == ([1, 0], "engine", None)
    assert made.status(1.0).shadow is None


def test_without_shadow_mode_nothing_is_decided(made: Scheduler) -> None:
    made.dispatched(request(made, "a", ASKED), 0, 1.0)
    assert made.explain("a")[0].would_be is None
    assert made.status(1.0).shadow is None
