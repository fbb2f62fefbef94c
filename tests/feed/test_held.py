from __future__ import annotations

from preble_plugin.feed.held import HeldBatches


def test_it_gives_back_what_it_holds_once() -> None:
    held = HeldBatches(10, 100)
    held.hold(3, b"three")
    assert 3 in held
    assert held.take(3) == b"three"
    assert held.take(3) is None


def test_it_drops_what_is_one_too_many() -> None:
    held = HeldBatches(2, 100)
    for seq in (5, 4, 3):
        held.hold(seq, b"x")
    assert (len(held), held.lowest()) == (2, 4)


def test_it_drops_what_is_too_large_together() -> None:
    held = HeldBatches(10, 5)
    held.hold(1, b"xxx")
    held.hold(2, b"xxx")
    assert 2 not in held


def test_room_comes_back() -> None:
    held = HeldBatches(1, 5)
    held.hold(1, b"xxxxx")
    held.drop_below(2)
    held.hold(2, b"xxxxx")
    held.clear()
    held.hold(3, b"xxxxx")
    assert 3 in held


def test_the_same_number_is_held_once() -> None:
    held = HeldBatches(10, 5)
    held.hold(1, b"xxx")
    held.hold(1, b"yyyyy")
    assert (len(held), held.take(1)) == (1, b"yyyyy")


def test_nothing_held_has_no_lowest() -> None:
    assert HeldBatches(1, 1).lowest() is None
