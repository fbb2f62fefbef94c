from __future__ import annotations

from preble_plugin.core import Attention
from preble_plugin.core.layer import Copies, Layer


def copies(*names: str) -> Copies[str]:
    made: Copies[str] = Copies()
    for name in names:
        made.add(name)
    return made


def test_copies_are_counted_by_name_and_together():
    counted = copies("a", "b", "a")
    assert (counted.items(), counted.total, len(counted)) == ([("a", 2), ("b", 1)], 3, 2)


def test_copies_are_added_by_number():
    counted = copies("a")
    counted.add("a", 4)
    assert (counted.items(), counted.total) == ([("a", 5)], 5)


def test_a_name_is_there_until_its_last_copy_is_dropped():
    counted = copies("a", "a")
    assert [counted.drop("a"), "a" in counted] == [True, True]
    assert [counted.drop("a"), "a" in counted] == [True, False]
    assert [counted.drop("a"), counted.total] == [False, 0]


def test_all_copies_of_a_name_are_dropped_at_once():
    counted = copies("a", "b", "a")
    assert counted.pop("a") == 2
    assert (counted.items(), counted.total) == ([("b", 1)], 1)


def test_a_name_that_comes_again_keeps_its_place():
    counted = copies("a", "b", "a")
    assert counted.first() == "a"
    counted.pop("a")
    assert counted.first() == "b"


def test_nothing_is_left_when_all_is_dropped():
    counted = copies("a", "b")
    counted.clear()
    assert (len(counted), counted.total, counted.items()) == (0, 0, [])


def test_a_layer_counts_blocks_by_hash_and_copy_but_not_those_without_a_place():
    layer = Layer(0, 0, Attention.FULL, 0, "GPU")
    layer.index.add([1, 2], None, 0, None)  # type: ignore[arg-type]
    layer.copies.add(1, 3)
    layer.unplaced.add(9)
    assert layer.blocks == 5
    layer.clear()
    assert (layer.blocks, len(layer.unplaced)) == (0, 0)
