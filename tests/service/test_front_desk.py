from __future__ import annotations

import pytest
from service_builders import BLOCK_SIZE, document, replica, request

from preble_plugin.core import BlockHasher, Finished, FirstToken, Request
from preble_plugin.service import messages
from preble_plugin.service.front_desk import FrontDesk
from preble_plugin.service.messages import FromFrontEnd, FromScheduler
from preble_plugin.service.scheduler_host import SchedulerHost
from preble_plugin.settings import Settings

SEED = bytes(range(16))
HASHER = BlockHasher(BLOCK_SIZE, SEED)


class Desk:
    """A desk with a clock in the test's hand."""

    def __init__(self) -> None:
        self.host = SchedulerHost(Settings(), SEED)
        self.desk = FrontDesk(self.host, b"instance")
        self.now = 100.0

    def hear(self, name: bytes, message: FromFrontEnd) -> tuple[FromScheduler, ...]:
        return self.desk.hear(name, messages.encoder.encode(message), self.now)

    def hello(self, name: bytes, *ranks: int) -> tuple[FromScheduler, ...]:
        return self.hear(name, messages.Hello(1, [replica(rank) for rank in ranks]))

    def place(self, name: bytes, request_id: str, number: int = 1) -> FromScheduler:
        asked = messages.Place(7, request(HASHER, request_id, document(number)))
        (answer,) = self.hear(name, asked)
        return answer

    @property
    def in_flight(self) -> int:
        status = self.host.status()
        assert status is not None
        return status.in_flight

    @property
    def ranks(self) -> list[object]:
        return list(self.host.replicas())


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_hello_is_welcomed_with_what_hashing_needs(desk: Desk) -> None:
    assert desk.hello(b"a", 0, 1) == (messages.Welcome(1, b"instance", SEED, BLOCK_SIZE, 0),)


def test_a_placement_is_answered_under_its_serial(desk: Desk) -> None:
    desk.hello(b"a", 0, 1)
    answer = desk.place(b"a", "r1")
    assert isinstance(answer, messages.Placed)
    assert (answer.serial, answer.placement.request_id) == (7, "r1")


def test_front_ends_share_one_tree(desk: Desk) -> None:
    desk.hello(b"a", 0, 1)
    desk.hello(b"b", 0, 1)
    first, second = desk.place(b"a", "r1"), desk.place(b"b", "r2")
    assert isinstance(first, messages.Placed)
    assert isinstance(second, messages.Placed)
    assert second.placement.replica == first.placement.replica
    assert second.placement.cached_tokens == len(document(1))


def test_replicas_are_those_of_all_front_ends(desk: Desk) -> None:
    desk.hello(b"a", 0, 1)
    desk.hello(b"b", 1, 2)
    assert desk.ranks == [0, 1, 2]


def test_the_last_word_on_a_replica_counts(desk: Desk) -> None:
    desk.hello(b"a", 0)
    desk.hear(b"b", messages.Hello(1, [replica(0)]))
    desk.hear(b"a", messages.Replicas([replica(0), replica(5)]))
    assert desk.ranks == [0, 5]


def test_a_front_end_that_leaves_takes_its_own_replicas_along(desk: Desk) -> None:
    desk.hello(b"a", 0)
    desk.hello(b"b", 1)
    desk.hear(b"b", messages.Goodbye())
    assert desk.ranks == [0]


def test_replicas_outlive_the_last_front_end(desk: Desk) -> None:
    desk.hello(b"a", 0, 1)
    desk.hear(b"a", messages.Goodbye())
    assert desk.ranks == [0, 1]


def test_another_block_size_is_refused_and_changes_nothing(desk: Desk) -> None:
    desk.hello(b"a", 0)
    (answer,) = desk.hear(b"b", messages.Hello(3, [replica(1, block_size=32)]))
    assert isinstance(answer, messages.Refused)
    assert answer.greeting == 3
    assert "replica 1 has blocks of 32 tokens, the scheduler 16" in answer.reason
    assert desk.ranks == [0]
    assert desk.hear(b"b", messages.Beat()) == (messages.Stranger(),)


def test_a_later_conflict_leaves_what_was_stated_before(desk: Desk) -> None:
    desk.hello(b"a", 0, 1)
    (answer,) = desk.hear(b"a", messages.Replicas([replica(0, block_size=8)]))
    assert isinstance(answer, messages.Refused)
    assert isinstance(desk.place(b"a", "r1"), messages.Placed)
    assert desk.ranks == [0, 1]


def test_a_hello_without_replicas_is_refused(desk: Desk) -> None:
    (answer,) = desk.hello(b"a")
    assert isinstance(answer, messages.Refused)


def test_a_stranger_gets_no_placement_and_is_told_so(desk: Desk) -> None:
    asked = messages.Place(7, request(HASHER, "r1", document(1)))
    expected = (messages.NotPlaced(7, "scheduler_down"), messages.Stranger())
    assert desk.hear(b"x", asked) == expected


def test_finished_requests_leave_the_load(desk: Desk) -> None:
    desk.hello(b"a", 0, 1)
    answer = desk.place(b"a", "r1")
    assert isinstance(answer, messages.Placed)
    rank = answer.placement.replica
    desk.hear(b"a", messages.Observed(rank, [FirstToken("r1", 0)], desk.now))
    assert desk.in_flight == 1
    desk.hear(b"a", messages.Observed(rank, [Finished("r1", 4)], desk.now))
    assert desk.in_flight == 0


def test_a_withdrawn_placement_leaves_the_load(desk: Desk) -> None:
    desk.hello(b"a", 0)
    desk.place(b"a", "r1")
    desk.hear(b"a", messages.Withdrawn("r1"))
    desk.hear(b"a", messages.Withdrawn("never placed"))
    assert desk.in_flight == 0


def test_a_request_that_went_elsewhere_is_counted_once(desk: Desk) -> None:
    desk.hello(b"a", 0, 1)
    answer = desk.place(b"a", "r1")
    assert isinstance(answer, messages.Placed)
    other = 1 - int(answer.placement.replica)
    desk.hear(b"a", messages.Dispatched(request(HASHER, "r1", document(1)), other))
    status = desk.host.status()
    assert status is not None
    assert {one.replica: one.running for one in status.replicas}[other] == 1
    assert status.in_flight == 1


def test_the_end_of_an_attempt_that_moved_on_leaves_the_request_with_its_front_end(
    desk: Desk,
) -> None:
    desk.hello(b"a", 0, 1)
    answer = desk.place(b"a", "r1")
    assert isinstance(answer, messages.Placed)
    first = answer.placement.replica
    desk.hear(b"a", messages.Dispatched(request(HASHER, "r1", document(1)), 1 - int(first)))
    desk.hear(b"a", messages.Observed(first, [Finished("r1", 0, aborted=True)], desk.now))
    assert desk.in_flight == 1
    desk.hear(b"a", messages.Goodbye())
    assert desk.in_flight == 0


@pytest.mark.parametrize("leave", ["silence", "goodbye", "not reading", "hello"])
def test_the_requests_of_who_leaves_are_dropped_from_the_load(desk: Desk, leave: str) -> None:
    desk.hello(b"a", 0, 1)
    desk.hello(b"b", 0, 1)
    for number in range(4):
        desk.place(b"a", f"a{number}", number)
    desk.place(b"b", "b0")
    match leave:
        case "silence":
            for _ in range(12):
                desk.now += 1.0
                desk.hear(b"b", messages.Beat())
                desk.desk.sweep(desk.now)
        case "goodbye":
            desk.hear(b"a", messages.Goodbye())
        case "not reading":
            desk.desk.drop(b"a")
        case "hello":
            desk.hello(b"a", 0, 1)
    assert desk.in_flight == 1


def test_beats_keep_a_front_end(desk: Desk) -> None:
    desk.hello(b"a", 0)
    for _ in range(30):
        desk.now += 1.0
        assert desk.hear(b"a", messages.Beat()) == (messages.Beat(),)
        assert desk.desk.sweep(desk.now) == []


def test_a_scheduler_that_slept_blames_nobody(desk: Desk) -> None:
    desk.hello(b"a", 0)
    desk.desk.sweep(desk.now)
    desk.now += 60.0
    assert desk.desk.sweep(desk.now) == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"garbage",
        b"\x93\x03\x01",
        b"\x91\x63",
        b"\x93\x03\xa1x\x90",
        b"\x91" * 5_000 + b"\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\x92\x04\xa2\xff\xff",
    ],
)
def test_garbage_is_counted_and_dropped(desk: Desk, payload: bytes) -> None:
    desk.hello(b"a", 0)
    assert desk.desk.hear(b"a", payload, desk.now) == ()
    assert desk.desk.bad_messages == 1
    assert isinstance(desk.place(b"a", "r1"), messages.Placed)


def test_keys_that_are_no_keys_harm_nobody(desk: Desk) -> None:
    desk.hello(b"a", 0)
    asked = messages.encoder.encode(messages.Place(7, Request("odd", b"k" * 8, 10)))
    cut = asked.replace(b"\xc4\x08" + b"k" * 8, b"\xc4\x05" + b"k" * 5)
    assert len(cut) == len(asked) - 3
    assert desk.desk.hear(b"a", cut, desk.now) == ()
    assert desk.desk.bad_messages == 1
    assert isinstance(desk.place(b"a", "r1"), messages.Placed)
