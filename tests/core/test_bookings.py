"""What outcomes do to what was booked, and what becomes of ends that were lost."""

from __future__ import annotations

import pytest
from builders import BLOCK, place, prompt, request, scheduler

from preble_plugin.core import Finished, FirstToken, LoadReport, Scheduler
from preble_plugin.core.status import ReplicaStatus
from preble_plugin.core.tree_check import check_tree


def report(made: Scheduler, as_of: float, running: int = 0, waiting: int = 0) -> None:
    """Replica 0 says what it has, and that it computed nothing since the last time."""
    made.report(0, LoadReport(as_of, running, waiting, 1000, 0.2, 40, 160, 0.8), as_of + 0.01)


def still(made: Scheduler, since: float) -> None:
    """Replica 0 has nothing to do, for two seconds."""
    for tenth in range(21):
        report(made, since + tenth / 10)


def status(made: Scheduler, now: float) -> ReplicaStatus:
    return made.status(now).replicas[0]


def test_a_request_whose_end_was_lost_is_released():
    made = scheduler(1, capacity=100)
    place(made, "a", prompt(1, 30), 10.0)
    made.observe(0, [FirstToken("a", 0)], 10.5)
    place(made, "b", prompt(2, 30), 11.0)
    still(made, 15.0)
    one = status(made, 17.0)
    assert (one.running, one.lost_requests, made.status(17.0).in_flight) == (0, 2, 0)
    assert (one.queued_prefill_seconds, one.queued_decode_seconds) == (0.0, 0.0)
    assert [made.explain(name)[0].finish for name in "ab"] == ["lost", "lost"]


def test_what_a_lost_request_was_to_store_is_expected_as_that_of_a_finished_one():
    made = scheduler(1, capacity=100)
    place(made, "a", prompt(1, 30), 10.0)
    still(made, 15.0)
    assert status(made, 16.1).expected_blocks == 30
    place(made, "b", prompt(2, 1), 18.5)
    assert status(made, 18.5).expected_blocks == 1
    check_tree(made._tree)


@pytest.mark.parametrize(("running", "waiting"), [(1, 0), (0, 1)])
def test_while_the_replica_has_a_request_none_is_released(running, waiting):
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 10.0)
    for tenth in range(100):
        report(made, 12.0 + tenth / 10, running, waiting)
    assert (status(made, 30.0).running, status(made, 30.0).lost_requests) == (1, 0)


def test_a_request_just_placed_or_just_dispatched_is_not_released():
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 10.0)
    report(made, 5.0)
    report(made, 10.9)
    made.dispatched(request(made, "b", prompt(2, 30)), 0, 11.5)
    report(made, 12.0)
    report(made, 12.4)
    assert (status(made, 13.0).running, status(made, 13.0).lost_requests) == (2, 0)


def test_a_report_heard_again_proves_nothing_more():
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 10.0)
    for _ in range(50):
        made.report(0, LoadReport(12.0, 0, 0), 20.0)
    made.report(0, LoadReport(11.0, 0, 0), 21.0)
    assert status(made, 21.0).running == 1


def test_a_report_that_comes_after_a_newer_one_says_nothing():
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 10.0)
    report(made, 12.0)
    made.report(0, LoadReport(9.0, 1, 0), 12.5)
    report(made, 13.1)
    assert status(made, 13.1).lost_requests == 1


def test_the_end_of_a_released_request_that_comes_after_all_is_ignored():
    made = scheduler(1)
    place(made, "a", prompt(1, 30), 10.0)
    still(made, 15.0)
    made.observe(0, [FirstToken("a", 0), Finished("a", 4)], 18.0)
    one = status(made, 18.0)
    assert (one.running, one.lost_requests, one.audited_requests) == (0, 1, 0)


def test_other_replicas_keep_their_requests():
    made = scheduler(2)
    for name, replica in (("a", 0), ("b", 1)):
        place(made, name, prompt(replica, 30), 10.0, fixed_replica=replica)
    still(made, 15.0)
    assert [one.running for one in made.status(18.0).replicas] == [0, 1]
    assert [one.lost_requests for one in made.status(18.0).replicas] == [1, 0]


def test_a_release_leaves_room_for_the_requests_that_follow():
    made = scheduler(1, capacity=100)
    for number in range(20):
        at = 10.0 * number
        place(made, str(number), prompt(number, 30), at)
        if number % 2:
            made.observe(0, [FirstToken(str(number), 0), Finished(str(number), 4)], at + 1.0)
        still(made, at + 3.0)
        assert made._replicas[0].tokens_in_flight == 0
        check_tree(made._tree)
    assert status(made, 200.0).lost_requests == 10


def test_reports_of_an_unknown_replica_are_ignored():
    made = scheduler(1)
    made.report("nobody", LoadReport(5.0, 0, 0), 5.0)
    assert made.status(5.0).in_flight == 0


def test_reports_of_a_replica_teach_its_speed():
    made = scheduler(1)
    made.report(0, LoadReport(1.0, 0, 0), 1.0)
    tokens, seconds = 0, 0.0
    for number in range(40):
        at = 2.0 + number
        place(made, str(number), prompt(number, 128), at)
        made.observe(0, [FirstToken(str(number), 0), Finished(str(number), 1)], at + 0.9)
        tokens, seconds = tokens + 128 * BLOCK, seconds + 0.5
        made.report(0, LoadReport(at + 0.95, 0, 0, tokens, seconds), at + 0.96)
    # 0.5 s by the engine's clock, 0.9 s by ours
    assert status(made, 50.0).prefill_tokens_per_second == pytest.approx(128 * BLOCK / 0.5, rel=0.1)


def test_a_first_token_told_again_with_the_hit_audits_and_keeps_its_time():
    made = scheduler(1, capacity=100)
    place(made, "a", prompt(1, 30), 10.0)
    made.observe(0, [FirstToken("a", None)], 10.5)
    made.observe(0, [FirstToken("a", 0, timed=False), Finished("a", 3)], 14.0)

    receipt = made.explain("a")[0]
    assert (receipt.first_token_seconds, receipt.actual_cached_tokens) == (0.5, 0)
    assert status(made, 14.0).audited_requests == 1


def running(made: Scheduler, now: float = 20.0) -> list[int]:
    return [one.running for one in made.status(now).replicas]


def expected(made: Scheduler, now: float = 20.0) -> list[int]:
    return [one.expected_blocks for one in made.status(now).replicas]


# -- the replica that reports ------------------------------------------------------------


OF_REQUEST = [FirstToken("a", 0), Finished("a", 4), Finished("a", 0, aborted=True)]


def moved_from_0_to_1() -> Scheduler:
    made = scheduler(2, capacity=100)
    place(made, "a", prompt(1, 30), 10.0, fixed_replica=0)
    made.dispatched(request(made, "a", prompt(1, 30)), 1, 10.1)
    return made


@pytest.mark.parametrize("outcome", OF_REQUEST)
@pytest.mark.parametrize("replica", [0, "no such replica"])
def test_what_another_replica_reports_of_a_request_that_moved_is_ignored(outcome, replica):
    made = moved_from_0_to_1()
    before = made.status(20.0), made.explain("a")

    made.observe(replica, [outcome], 10.2)

    assert (made.status(20.0), made.explain("a")) == before
    assert (running(made), expected(made)) == ([0, 1], [0, 30])


@pytest.mark.parametrize("outcome", OF_REQUEST[1:])
def test_the_end_counts_where_a_request_moved_to(outcome):
    made = moved_from_0_to_1()
    made.observe(1, [outcome], 10.2)
    assert running(made) == [0, 0]


def test_a_message_of_several_replicas_frees_each_ones_own():
    made = scheduler(2)
    for name, replica in (("a", 0), ("b", 1)):
        place(made, name, prompt(replica, 30), 10.0, fixed_replica=replica)
    mixed = [FirstToken("a", 0), FirstToken("b", 0)]
    waiting = []
    for replica in (0, 1):
        made.observe(replica, mixed, 10.5)
        waiting.append([one.load.waiting for one in made._replicas.values()])
    assert waiting == [[0, 1], [0, 0]]


def test_a_request_that_goes_to_an_unknown_replica_is_booked_nowhere():
    made = scheduler(2, capacity=100)
    place(made, "a", prompt(1, 30), 10.0)
    made.dispatched(request(made, "a", prompt(1, 30)), "no such replica", 10.1)
    assert (running(made), expected(made), made.status(20.0).in_flight) == ([0, 0], [0, 0], 0)
    check_tree(made._tree)


# -- first tokens ------------------------------------------------------------------------


def test_a_first_token_reported_again_counts_once():
    made = scheduler(1, capacity=100)
    place(made, "a", prompt(1, 30), 10.0)
    for now in (10.5, 11.0, 19.5):
        made.observe(0, [FirstToken("a", 16), FirstToken("a", 32)], now)
    one, (receipt,) = status(made, 20.0), made.explain("a")
    assert (one.audited_requests, one.actual_cached_tokens) == (1, 16)
    assert (receipt.first_token_seconds, receipt.actual_cached_tokens) == (0.5, 16)


def test_a_late_report_of_a_first_token_sets_no_time():
    made = scheduler(1, capacity=100)
    place(made, "a", prompt(1, 30), 10.0)
    made.observe(0, [FirstToken("a", None, timed=False)], 14.0)
    made.observe(0, [FirstToken("a", None)], 15.0)
    assert made.explain("a")[0].first_token_seconds is None


@pytest.mark.parametrize(
    ("started", "outcomes", "left"),
    [
        (False, [], 0),
        (False, [FirstToken("a", 0)], 30),
        (False, [FirstToken("a", 0, timed=False)], 30),
        (False, [FirstToken("a", None, timed=False)], 30),
        (True, [], 30),
    ],
)
def test_what_an_aborted_request_stores_is_expected_once_it_had_a_token(started, outcomes, left):
    made = scheduler(1, capacity=100)
    made.dispatched(request(made, "a", prompt(1, 30)), 0, 10.0, started)
    made.observe(0, [*outcomes, Finished("a", 0, aborted=True)], 10.5)
    assert expected(made, 10.6) == [left]


def test_an_abort_with_output_is_one_that_had_a_token():
    made = scheduler(1, capacity=100)
    place(made, "a", prompt(1, 30), 10.0)
    made.observe(0, [Finished("a", 5, aborted=True)], 10.5)
    assert expected(made, 10.6) == [30]


# -- a bound -----------------------------------------------------------------------------


def test_beyond_the_bound_the_oldest_request_is_taken_as_lost():
    made = scheduler(2, capacity=1000)
    made._bookings.max_in_flight = 5
    for number in range(40):
        place(made, str(number), prompt(number, 3), 10.0 + number, fixed_replica=number % 2)
    made.settle()
    assert (made.status(60.0).in_flight, running(made, 60.0)) == (5, [2, 3])
    assert [one.lost_requests for one in made.status(60.0).replicas] == [18, 17]
    assert [made.explain(name)[0].finish for name in ("0", "34", "35")] == ["lost", "lost", None]
    made.observe(1, [Finished("35", 4)], 61.0)
    assert running(made, 61.0) == [2, 2]
    check_tree(made._tree)
