from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given

from preble_plugin.core.status import Trust
from preble_plugin.feed.actions import Action, Apply, AskReplay, Patience, Reset, TrustChanged
from preble_plugin.feed.life import digest
from preble_plugin.feed.stream import Stream
from tests.feed.feed_builders import (
    CLEARED,
    asked,
    batch,
    hashes_applied,
    mark,
    payload,
    resets,
    stored_map,
    trusts,
)
from tests.strategies import event_networks

GARBLED = b"\xc1"
PATIENCE = Patience()


class Driven:
    """A stream that is driven as the subscriber does, and all it asked for."""

    def __init__(self, stream: Stream | None = None) -> None:
        self.stream = stream or Stream()
        self.now = 0.0
        self.done: list[Action] = []

    def start(self) -> Driven:
        self._take(self.stream.start(self.now))
        return self

    def live(self, *seqs: int, life: int = 1) -> Driven:
        for seq in seqs:
            self.heard(seq, batch(life, seq))
        return self

    def heard(self, seq: int, payload: bytes) -> Driven:
        return self._take(self.stream.live(seq, payload, self.now, wall=0.0))

    def replay(self, *seqs: int, life: int = 1, ends: bool = True) -> Driven:
        for seq in seqs:
            self._take(self.stream.replayed(seq, batch(life, seq), self.now))
        return self.end() if ends else self

    def end(self) -> Driven:
        return self._take(self.stream.replay_end(self.now))

    def after(self, seconds: float) -> Driven:
        self.now += seconds
        return self._take(self.stream.tick(self.now))

    def unanswered(self) -> Driven:
        return self.after(PATIENCE.replay_seconds)

    def new(self) -> list[Action]:
        """What it asked for since the last call."""
        done, self.done = self.done, []
        return done

    def _take(self, actions: Sequence[Action]) -> Driven:
        self.done += actions
        while self.stream.ready:
            self.done += self.stream.drain(self.now)
        return self


def following(*, seen: int = 3) -> Driven:
    """A stream that is exact, with batches 0 to `seen` - 1 applied."""
    driven = Driven().start()
    driven.end().live(*range(seen))
    assert driven.stream.trust is Trust.EXACT
    driven.new()
    return driven


def marks(*seqs: int, life: int = 1) -> list[int]:
    return [mark(life, seq) for seq in seqs]


# -- start ------------------------------------------------------------------------------


def test_it_asks_for_all_there_is_at_once_and_is_silent() -> None:
    driven = Driven().start()
    assert driven.done == [AskReplay(0)]
    assert driven.stream.trust is Trust.SILENT


def test_a_publisher_that_has_nothing_yet_is_exact() -> None:
    assert Driven().start().end().live(0).stream.trust is Trust.EXACT


def test_a_late_subscriber_catches_up_and_asks_whether_that_was_all() -> None:
    driven = Driven().start().replay(0, 1, 2)
    assert hashes_applied(driven.done) == marks(0, 1, 2)
    assert asked(driven.new()) == [0, 2]
    assert driven.stream.trust is Trust.GAPPED
    assert driven.replay(2).stream.trust is Trust.EXACT


def test_a_live_batch_vouches_for_the_end_of_a_replay() -> None:
    driven = Driven().start().live(3).replay(0, 1, 2, 3)
    assert asked(driven.done) == [0]
    assert driven.stream.trust is Trust.EXACT


def test_batches_from_0_on_need_no_replay_to_be_exact() -> None:
    assert Driven().start().live(0, 1).stream.trust is Trust.EXACT


def test_a_buffer_that_begins_later_means_rebuilding() -> None:
    driven = Driven().start().replay(5, 6).replay(6)
    assert driven.stream.trust is Trust.REBUILDING
    assert hashes_applied(driven.done) == marks(5, 6)


def test_without_a_replay_endpoint_a_late_start_means_rebuilding() -> None:
    driven = Driven(Stream(replayable=False)).start().live(4, 5)
    assert trusts(driven.done)[-1] is Trust.REBUILDING
    assert Trust.EXACT not in trusts(driven.done)
    assert hashes_applied(driven.done) == marks(4, 5)


def test_without_a_replay_endpoint_a_start_at_0_is_exact() -> None:
    driven = Driven(Stream(replayable=False)).start().live(0, 1)
    assert trusts(driven.done) == [Trust.EXACT]
    assert resets(driven.done) == 0


def test_a_publisher_that_never_answers_is_asked_less_and_less_often() -> None:
    driven = Driven().start()
    for _ in range(600):
        driven.after(0.5)
    assert driven.stream.trust is Trust.SILENT
    assert 25 <= len(asked(driven.done)) <= 35


# -- order, duplicates, gaps ---------------------------------------------------------------


def test_what_comes_again_is_dropped() -> None:
    driven = following(seen=3).live(1, 2, 0)
    assert driven.new() == []
    assert driven.stream.status().duplicates == 3


def test_a_gap_is_healed_by_a_replay() -> None:
    driven = following(seen=3).live(5, 6)
    assert driven.new() == [AskReplay(2), TrustChanged(Trust.GAPPED)]
    driven.replay(2, 3, 4, 5, 6)
    assert hashes_applied(driven.done) == marks(3, 4, 5, 6)
    assert driven.new()[-1] == TrustChanged(Trust.EXACT)
    assert driven.stream.status().gaps == 1


def test_live_batches_wait_for_those_before_them() -> None:
    driven = following(seen=1).live(2).replay(0, ends=False).live(3, 4)
    assert hashes_applied(driven.new()) == []
    driven.replay(1)
    assert hashes_applied(driven.new()) == marks(1, 2, 3, 4)


def test_a_replay_with_a_hole_is_asked_for_again_from_there() -> None:
    driven = following(seen=1).live(9)
    driven.new()
    driven.replay(0, 1, 2, 5, 6)
    assert hashes_applied(driven.done) == marks(1, 2)
    assert asked(driven.new()) == [2]
    driven.replay(2, 3, 4, 5, 6, 7, 8)
    assert hashes_applied(driven.new()) == marks(3, 4, 5, 6, 7, 8, 9)
    assert driven.stream.trust is Trust.EXACT


def test_a_replay_that_lost_its_tail_is_noticed() -> None:
    driven = Driven().start().replay(0, 1, 2)
    driven.replay(2, 3, 4).replay(4)
    assert hashes_applied(driven.done) == marks(0, 1, 2, 3, 4)
    assert driven.stream.trust is Trust.EXACT


def test_replays_that_bring_nothing_make_it_lost() -> None:
    driven = following(seen=1).live(3)
    for _ in range(PATIENCE.tries):
        driven.replay(0, 3)
    assert resets(driven.done) == 1
    assert hashes_applied(driven.done) == marks(3)
    assert driven.stream.trust is Trust.REBUILDING


def test_a_batch_that_the_publisher_does_not_know_of_is_not_waited_for() -> None:
    driven = following(seen=1).live(9)
    for _ in range(PATIENCE.tries):
        driven.replay(0)
    assert resets(driven.done) == 0
    assert driven.stream.trust is Trust.EXACT
    assert hashes_applied(driven.live(1).done) == marks(1)


def test_replays_that_never_end_make_it_lost() -> None:
    driven = following(seen=1).live(3)
    for _ in range(PATIENCE.tries):
        driven.unanswered()
    assert asked(driven.done) == [0] * PATIENCE.tries
    assert driven.stream.trust is Trust.REBUILDING


def test_what_was_lost_to_silence_is_asked_for_once_the_publisher_speaks_again() -> None:
    driven = following(seen=1).live(3)
    for _ in range(PATIENCE.tries):
        driven.unanswered()
    driven.new()
    driven.after(PATIENCE.longest_probe_seconds).replay(3)
    assert driven.done == [AskReplay(3), Reset(), AskReplay(0), TrustChanged(Trust.GAPPED)]
    driven.replay(0, 1, 2, 3).replay(3)
    assert hashes_applied(driven.done) == marks(0, 1, 2, 3)
    assert driven.stream.trust is Trust.EXACT


def test_progress_gives_new_patience() -> None:
    driven = following(seen=1).live(30)
    for seq in range(1, 30):
        driven.replay(seq - 1, seq)
    assert driven.stream.trust is Trust.EXACT
    assert hashes_applied(driven.done) == marks(*range(1, 31))


def test_a_slow_replay_is_not_given_up_while_it_brings_anything() -> None:
    driven = following(seen=1).live(9)
    driven.new()
    for seq in range(9):
        driven.replay(seq, ends=False).after(PATIENCE.pause_seconds * 0.9)
    assert asked(driven.new()) == []


def test_a_replay_whose_end_was_dropped_is_asked_for_again_from_where_it_came_to() -> None:
    driven = Driven().start()
    for seq in range(1, 20, 2):
        driven.replay(max(seq - 2, 0), seq - 1, seq, ends=False).after(PATIENCE.pause_seconds)
        assert asked(driven.new())[-1] == seq
    assert hashes_applied(driven.replay(19).done) == []
    assert driven.stream.trust is Trust.EXACT
    assert driven.stream.status().losses == 0


def test_what_the_buffer_no_longer_has_is_lost() -> None:
    driven = following(seen=3).live(9)
    driven.new()
    driven.replay(7, 8, 9)
    assert resets(driven.done) == 1
    assert hashes_applied(driven.done) == marks(7, 8, 9)
    assert driven.stream.trust is Trust.REBUILDING


def test_a_gap_without_a_replay_endpoint_is_lost_at_once() -> None:
    driven = Driven(Stream(replayable=False)).start().live(0, 1, 3)
    assert asked(driven.done) == []
    assert trusts(driven.done)[-1] is Trust.REBUILDING
    assert resets(driven.done) == 1


@pytest.mark.parametrize(
    "patience", [Patience(held_batches=2), Patience(held_bytes=3 * len(batch(1, 1)) - 1)]
)
def test_what_finds_no_room_is_dropped_and_asked_for_again(patience: Patience) -> None:
    driven = Driven(Stream(patience=patience)).start().live(0, 2, 3, 4, 5, 6)
    driven.new()
    driven.end()
    driven.replay(0, 1)
    assert hashes_applied(driven.done) == marks(1, 2, 3)
    assert asked(driven.new())[-1] == 3
    driven.replay(3, 4, 5, 6)
    assert hashes_applied(driven.new()) == marks(4, 5, 6)
    assert driven.stream.trust is Trust.EXACT


def test_answers_that_nobody_asked_for_are_passed_over() -> None:
    driven = following(seen=3)
    assert driven.replay(3, 4).new() == []


# -- garbled -------------------------------------------------------------------------------


def test_a_garbled_batch_is_had_from_a_replay() -> None:
    driven = following(seen=2).heard(2, GARBLED)
    assert driven.new() == [AskReplay(1), TrustChanged(Trust.GAPPED)]
    driven.live(3).replay(1, 2)
    assert hashes_applied(driven.new()) == marks(2, 3)
    assert driven.stream.trust is Trust.EXACT
    assert driven.stream.status().skipped == {"envelope": 1}


def test_a_batch_that_is_garbled_at_its_source_is_lost() -> None:
    driven = following(seen=2).heard(2, GARBLED).live(3)
    driven.replay(1, ends=False)
    driven.done += driven.stream.replayed(2, GARBLED, driven.now)
    driven.replay(3)
    assert driven.stream.trust is Trust.REBUILDING
    assert hashes_applied(driven.done) == marks(3)


def test_a_garbled_batch_without_a_replay_endpoint_is_lost() -> None:
    driven = Driven(Stream(replayable=False)).start().live(0).heard(1, GARBLED).live(2)
    assert driven.stream.trust is Trust.REBUILDING
    assert driven.stream.status().last_seq == 2


def test_a_bad_event_is_counted_and_changes_no_trust() -> None:
    driven = following(seen=1).heard(1, payload({"type": "New"}, stored_map([7]), timestamp=2000.0))
    assert hashes_applied(driven.new()) == [7]
    assert driven.stream.trust is Trust.EXACT
    assert driven.stream.status().skipped == {"unknown_type": 1}


# -- a publisher that begins anew --------------------------------------------------------------


def test_a_new_publisher_is_known_by_its_numbers() -> None:
    driven = following(seen=5).live(0, life=2)
    assert driven.new() == [AskReplay(4), TrustChanged(Trust.GAPPED)]
    driven.end()
    assert driven.done == [Reset(), AskReplay(0)]
    driven.replay(0, life=2).replay(0, life=2)
    assert hashes_applied(driven.done) == marks(0, life=2)
    assert driven.stream.trust is Trust.EXACT
    assert driven.stream.status().restarts == 1


def test_a_new_publisher_that_is_already_ahead_is_known_by_its_digest() -> None:
    driven = following(seen=5).live(9, life=2).replay(4, life=2, ends=False)
    assert resets(driven.done) == 1
    assert asked(driven.new())[-1] == 0
    driven.live(10, life=2).replay(*range(11), life=2)
    assert hashes_applied(driven.new()) == marks(*range(11), life=2)
    assert driven.stream.trust is Trust.EXACT


def test_a_new_publisher_with_the_same_number_is_known_by_its_content() -> None:
    driven = following(seen=1).live(0, life=2).replay(0, life=2, ends=False)
    assert driven.stream.status().restarts == 1


def test_a_new_publisher_is_known_by_a_number_that_is_held_already() -> None:
    driven = following(seen=1).live(5, 6).live(5, life=2)
    assert driven.stream.status().restarts == 1
    driven.replay(*range(6), life=2)
    assert hashes_applied(driven.done) == marks(*range(6), life=2)


def test_a_quiet_new_publisher_is_found_by_a_probe() -> None:
    driven = following(seen=5).after(PATIENCE.probe_seconds)
    assert asked(driven.new()) == [4]
    driven.end().replay(0, 1, life=2).replay(1, life=2)
    assert hashes_applied(driven.new()) == marks(0, 1, life=2)
    assert driven.stream.trust is Trust.EXACT


def test_a_replay_is_not_believed_before_it_shows_a_batch_that_was_applied() -> None:
    driven = Driven().start().live(0, 1).replay(0, 2, life=2, ends=False)
    assert hashes_applied(driven.done) == marks(0, 1)
    driven.end().replay(1, life=2, ends=False)
    assert driven.stream.status().restarts == 1


def test_a_new_publisher_without_a_replay_endpoint_is_followed_from_0() -> None:
    driven = Driven(Stream(replayable=False)).start().live(0, 1, 2).live(0, 1, life=2)
    assert resets(driven.done) == 1
    assert hashes_applied(driven.done)[3:] == marks(0, 1, life=2)
    assert driven.stream.trust is Trust.EXACT


def test_a_late_batch_of_the_publisher_before_is_not_taken_for_the_next() -> None:
    driven = following(seen=3).live(0, life=2).end().replay(0, life=2).replay(0, life=2)
    driven.new()
    driven.live(1, life=1)
    assert hashes_applied(driven.done) == []
    driven.replay(0, life=2)
    assert driven.stream.trust is Trust.EXACT


def test_a_clock_set_back_costs_a_replay_and_loses_nothing() -> None:
    driven = following(seen=3)
    early = payload(stored_map([77]), timestamp=1.0)
    driven.heard(3, early).replay(2, ends=False)
    driven.done += driven.stream.replayed(3, early, driven.now)
    driven.end()
    assert hashes_applied(driven.new()) == [77]
    assert driven.live(4).stream.status().restarts == 0


# -- quiet ----------------------------------------------------------------------------------


def test_a_last_batch_that_was_lost_is_found_by_a_probe() -> None:
    driven = following(seen=3).after(PATIENCE.probe_seconds).replay(2, 3).replay(3)
    assert hashes_applied(driven.done) == marks(3)
    assert trusts(driven.done) == []


def test_probes_grow_rare_while_nothing_happens() -> None:
    driven = following(seen=3)
    for _ in range(600):
        driven.after(0.1)
        if driven.stream.asking:
            driven.replay(2)
    assert 8 <= len(asked(driven.done)) <= 12


def test_a_batch_makes_probes_frequent_again() -> None:
    driven = following(seen=3)
    for _ in range(8):
        driven.after(PATIENCE.longest_probe_seconds).replay(2)
    driven.new()
    driven.live(3).after(PATIENCE.probe_seconds)
    assert asked(driven.new()) == [3]


def test_a_publisher_that_stops_answering_is_not_believed() -> None:
    driven = following(seen=3)
    for _ in range(PATIENCE.tries):
        driven.after(PATIENCE.probe_seconds).unanswered()
    assert driven.stream.trust is Trust.GAPPED
    assert resets(driven.done) == 0
    assert hashes_applied(driven.live(3).new()) == []
    assert driven.replay(2, 3).stream.trust is Trust.EXACT


def test_a_publisher_that_was_away_and_goes_on_with_the_next_number_is_verified() -> None:
    driven = following(seen=3)
    for _ in range(PATIENCE.tries):
        driven.after(PATIENCE.probe_seconds).unanswered()
    driven.live(3, life=2).replay(2, life=2, ends=False)
    assert driven.stream.status().restarts == 1
    assert hashes_applied(driven.done) == []


def test_a_replay_endpoint_that_never_answers_spoils_no_trust_in_live_batches() -> None:
    driven = Driven().start().live(0, 1)
    for seq in range(2, 40):
        driven.after(5.0)
        driven.live(seq)
    assert resets(driven.done) == 0
    assert driven.stream.trust is Trust.EXACT


# -- from rebuilding to exact -----------------------------------------------------------------


def rebuilding(capacity_blocks: int | None = None) -> Driven:
    stream = Stream(capacity_blocks=capacity_blocks)
    return Driven(stream).start().replay(5).replay(5)


def test_a_clear_makes_the_picture_complete() -> None:
    driven = rebuilding().heard(6, payload(CLEARED, timestamp=2000.0))
    assert driven.stream.trust is Trust.EXACT


def test_a_cache_that_has_turned_over_makes_the_picture_complete() -> None:
    driven = rebuilding(capacity_blocks=4).live(6, 7)
    assert driven.stream.trust is Trust.REBUILDING
    assert driven.live(8).stream.trust is Trust.EXACT


def test_another_gap_while_rebuilding_leads_back_to_rebuilding() -> None:
    driven = rebuilding()
    assert driven.live(7).stream.trust is Trust.GAPPED
    assert driven.replay(5, 6, 7).stream.trust is Trust.REBUILDING


def test_what_did_not_reach_residency_has_to_be_rebuilt() -> None:
    driven = following(seen=3)
    expected = [Reset(), TrustChanged(Trust.REBUILDING)]
    assert driven.stream.forget(driven.now) == expected
    assert driven.live(3).stream.trust is Trust.REBUILDING


# -- snapshots ----------------------------------------------------------------------------------


def resumed(*, seen: int = 3) -> Driven:
    position = following(seen=seen).stream.position()
    assert position is not None
    driven = Driven()
    driven.done += driven.stream.resume(position, 0.0)
    return driven


def test_a_snapshot_is_taken_up_where_it_was_taken() -> None:
    driven = resumed(seen=3)
    assert driven.done == [AskReplay(2)]
    driven.live(5).replay(2, 3, 4, 5)
    assert hashes_applied(driven.done) == marks(3, 4, 5)
    assert resets(driven.done) == 0
    assert driven.stream.trust is Trust.EXACT


def test_nothing_is_applied_to_a_snapshot_before_it_is_verified() -> None:
    assert hashes_applied(resumed(seen=3).live(3, 4).done) == []


def test_a_snapshot_of_another_life_is_forgotten() -> None:
    driven = resumed(seen=3).replay(2, life=2, ends=False)
    driven.replay(0, 1, 2, 3, life=2).replay(3, life=2)
    assert resets(driven.done) == 1
    assert hashes_applied(driven.done) == marks(0, 1, 2, 3, life=2)


def test_a_snapshot_before_the_buffer_is_forgotten() -> None:
    driven = resumed(seen=3).replay(8, 9).replay(9)
    assert resets(driven.done) == 1
    assert driven.stream.trust is Trust.REBUILDING


def test_a_snapshot_waits_for_a_publisher_that_is_away() -> None:
    driven = resumed(seen=3)
    for _ in range(100):
        driven.after(1.0)
    driven.replay(2)
    assert resets(driven.done) == 0
    assert driven.stream.trust is Trust.EXACT


def test_a_snapshot_that_cannot_be_verified_is_forgotten() -> None:
    position = following().stream.position()
    assert position is not None
    assert Stream(replayable=False).resume(position, 0.0) == [Reset()]


def test_a_position_names_the_last_batch() -> None:
    position = following(seen=3).stream.position()
    assert position is not None
    assert (position.last_seq, position.digest, position.complete) == (2, digest(batch(1, 2)), True)


def test_there_is_no_position_before_the_first_batch_and_in_doubt() -> None:
    assert Driven().start().stream.position() is None
    assert following(seen=3).live(0, life=2).stream.position() is None


# -- numbers --------------------------------------------------------------------------------------


def test_lag_is_how_old_a_live_batch_is_on_arrival() -> None:
    stream = Stream(replayable=False)
    stream.live(0, payload(timestamp=100.0), 0.0, wall=100.5)
    assert stream.status().lag_seconds == 0.5


def test_a_number_near_the_end_of_all_numbers_is_survived() -> None:
    driven = following(seen=1).heard((1 << 63) - 1, payload(timestamp=1500.0))
    for _ in range(PATIENCE.tries):
        driven.replay(0)
    driven.heard(1, batch(2, 1)).end().replay(0, 1, life=2).replay(1, life=2)
    assert driven.stream.trust is Trust.EXACT


# -- whatever happens ------------------------------------------------------------------------


class Publisher:
    """A publisher, its buffer, and a network that may lose what it sends."""

    def __init__(self, buffer_steps: int) -> None:
        self.life = 1
        self.next_seq = 0
        self.buffer_steps = buffer_steps
        self.wire: list[tuple[int, int]] = []

    def publish(self, lost: bool) -> None:
        if not lost:
            self.wire.append((self.life, self.next_seq))
        self.next_seq += 1

    def restart(self) -> None:
        self.life += 1
        self.next_seq = 0

    def replay(self, from_seq: int, holes: Callable[[int], bool]) -> list[tuple[int, bytes]]:
        oldest = max(from_seq, self.next_seq - self.buffer_steps, 0)
        whole = range(oldest, self.next_seq)
        # A fresh connection has room for the first: the last batch applied and the next.
        kept = [seq for seq in whole if seq < oldest + 2 or not holes(seq)]
        return [(seq, batch(self.life, seq)) for seq in kept]


class World:
    """A publisher and a stream; the residency that results, and what was ever in it."""

    def __init__(self, buffer_steps: int) -> None:
        self.publisher = Publisher(buffer_steps)
        self.stream = Stream(patience=Patience(held_batches=3))
        self.now = 0.0
        self.resident: list[int | bytes] = []
        self.answers: list[tuple[int, bytes] | None] = []
        self.followed, self.highest_heard = 1, -1
        self.take(self.stream.start(0.0))

    def take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Apply):
                self.resident += hashes_applied([action])
                self.check_contiguous()
            elif isinstance(action, Reset):
                self.resident = []
            elif isinstance(action, AskReplay):
                self.answers, self.asked_from = [], action.from_seq
                self.unserved = True
        while self.stream.ready:
            self.take(self.stream.drain(self.now))

    def check_contiguous(self) -> None:
        first = self.resident[0]
        assert isinstance(first, int)
        assert self.resident == list(range(first, first + len(self.resident)))

    def hear_live(self) -> None:
        if self.publisher.wire:
            life, seq = self.publisher.wire.pop(0)
            coincidences = (self.stream.status().last_seq + 1, self.highest_heard + 1)
            if life != self.followed and seq in coincidences:
                # Nothing can tell a new publisher that lost just as many batches as
                # were applied of the old one, until its next replay: let it lose another.
                return
            self.highest_heard = max(seq, self.highest_heard if life == self.followed else -1)
            self.followed, payload = life, batch(life, seq)
            self.take(self.stream.live(seq, payload, self.now, 0.0))

    def serve(self, holes: Callable[[int], bool]) -> None:
        if self.stream.asking and self.unserved:
            self.unserved = False
            self.answers = [*self.publisher.replay(self.asked_from, holes), None]

    def hear_replay(self) -> None:
        if self.answers:
            answer = self.answers.pop(0)
            if answer is None:
                self.take(self.stream.replay_end(self.now))
            else:
                self.take(self.stream.replayed(*answer, self.now))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.stream.tick(self.now))

    def settle(self) -> None:
        """A quiet time in which replays work."""
        for _ in range(4 * self.publisher.next_seq + 400):
            self.hear_live()
            self.serve(lambda seq: False)
            self.hear_replay()
            self.pass_time(0.1)


@given(event_networks())
def test_whatever_is_lost_batches_are_applied_in_order_and_none_is_missing_in_the_end(
    steps: list[tuple[str, int]],
) -> None:
    world = World(buffer_steps=10_000)
    run(world, steps)
    assert world.resident == marks(*range(world.publisher.next_seq), life=world.publisher.life)
    assert world.stream.trust is Trust.EXACT


@given(event_networks())
def test_with_a_short_buffer_the_end_is_a_whole_tail_and_trust_says_so(
    steps: list[tuple[str, int]],
) -> None:
    world = World(buffer_steps=3)
    run(world, steps)
    life, count = world.publisher.life, world.publisher.next_seq
    everything = marks(*range(count), life=life)
    assert world.resident == everything[len(everything) - len(world.resident) :]
    assert len(world.resident) >= min(3, count)
    if world.stream.trust is Trust.EXACT:
        assert world.resident == everything
    else:
        assert world.stream.trust is Trust.REBUILDING


def run(world: World, steps: list[tuple[str, int]]) -> None:
    for step, number in steps:
        match step:
            case "publish":
                world.publisher.publish(lost=False)
            case "lose":
                world.publisher.publish(lost=True)
            case "live":
                world.hear_live()
            case "serve":
                world.serve(lambda seq, number=number: bool(number >> (seq % 8) & 1))
            case "replay":
                world.hear_replay()
            case "again":
                world.publisher.wire[:0] = world.publisher.wire[:1]
            case "time":
                world.pass_time(number / 64)
            case "restart":
                world.publisher.restart()
                world.answers = []
    world.settle()
