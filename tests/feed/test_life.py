from __future__ import annotations

from preble_plugin.core.events import CacheEvent
from preble_plugin.feed.actions import Patience
from preble_plugin.feed.life import Life, digest
from preble_plugin.feed.wire import Batch, decode
from tests.feed.feed_builders import CLEARED, batch, payload, stored_map


def life_at(seq: int, *, capacity_blocks: int | None = None) -> Life:
    life = Life(Patience(), capacity_blocks)
    for each in range(seq + 1):
        life.advance(each, batch(1, each))
    return life


def events(*wire: object) -> list[CacheEvent]:
    decoded = decode(payload(*wire))
    assert isinstance(decoded, Batch)
    return decoded.events


def test_a_gap_is_new_only_once() -> None:
    life = life_at(2)
    assert [life.note(seq) for seq in (5, 6, 4)] == [True, False, False]
    assert life.missing


def test_a_later_batch_under_a_number_held_is_of_another_life() -> None:
    life = life_at(2)
    life.hold_live(5, batch(1, 5))
    assert not life.succeeds_held(5, batch(1, 5))
    assert not life.succeeds_held(5, batch(0, 5))
    assert not life.succeeds_held(5, b"garbled")
    assert not life.succeeds_held(6, batch(2, 6))
    assert life.succeeds_held(5, batch(2, 5))


def test_what_was_given_up_is_held_no_longer() -> None:
    life = life_at(2)
    for seq in (4, 5, 8):
        life.hold_live(seq, batch(1, seq))
    life.lose(8)
    assert (life.last, len(life.held), life.ready) == (7, 1, True)


def test_giving_up_nothing_keeps_the_place() -> None:
    life = life_at(2)
    life.lose(3)
    assert (life.last, life.anchor()) == (2, digest(batch(1, 2)))


def test_an_end_at_the_last_batch_leaves_nothing_missing() -> None:
    life = life_at(2)
    life.hold_live(9, batch(1, 9))
    life.end_at_last()
    assert not life.missing
    assert len(life.held) == 0


def test_numbers_and_times_that_run_backwards() -> None:
    life = life_at(2)
    assert not life.runs_backwards(2, batch(1, 2))
    assert not life.runs_backwards(1, batch(1, 1))
    assert not life.runs_backwards(3, batch(1, 3))
    assert life.runs_backwards(2, batch(2, 2))
    assert life.runs_backwards(1, batch(2, 1))
    assert life.runs_backwards(3, batch(0, 3))
    assert not life.runs_backwards(3, b"garbled")


def test_only_blocks_on_the_gpu_turn_the_cache_over() -> None:
    life = life_at(2, capacity_blocks=2)
    life.lose(9)
    life.grow(events(stored_map([1, 2], medium="CPU"), stored_map([1])))
    assert not life.complete
    life.grow(events(stored_map([2])))
    assert life.complete


def test_a_clear_completes_the_picture() -> None:
    life = life_at(2)
    life.lose(9)
    life.grow(events(CLEARED))
    assert life.complete


def test_a_second_loss_counts_anew() -> None:
    life = life_at(2, capacity_blocks=2)
    life.lose(9)
    life.grow(events(stored_map([1])))
    life.lose(19)
    life.grow(events(stored_map([2])))
    assert not life.complete
