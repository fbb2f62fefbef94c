from __future__ import annotations

import pytest

from preble_plugin.core.hash_index import LONGEST_RUN, HashIndex
from preble_plugin.core.node import Node

NODE = Node(None, b"", 0, 0)


def indexed(*stored: list[int]) -> HashIndex:
    """Runs below each other, each of which continues where the one before it ends."""
    index, depth, parent = HashIndex(), 0, None
    for piece in stored:
        assert index.add(piece, NODE, depth, parent)
        depth += len(piece)
        parent = piece[-1]
    return index


def depth(index: HashIndex, engine_hash: int) -> int:
    place = index.find(engine_hash)
    assert place is not None
    return place[1]


def take(index: HashIndex, asked: list[int], first: int = 0) -> tuple[int, int]:
    taken = index.take(asked, first)
    assert taken is not None
    return taken[1:]


def test_hashes_stored_in_a_row_are_one_run():
    index = indexed([11, 12], [13], [14, 15])
    assert [depth(index, engine_hash) for engine_hash in (11, 12, 13, 14, 15)] == [0, 1, 2, 3, 4]
    assert len(index.runs()) == 1


def test_a_run_has_an_end():
    index = indexed(list(range(3 * LONGEST_RUN)), [9999])
    assert len(index.runs()) == 4
    assert depth(index, 2 * LONGEST_RUN + 5) == 2 * LONGEST_RUN + 5


@pytest.mark.parametrize("piece", [[12], [16, 12], [16, 16]])
def test_a_hash_that_is_known_or_comes_twice_changes_nothing(piece):
    index = indexed([11, 12])
    assert not index.add(piece, NODE, 2, 12)
    assert sorted(index) == [11, 12]


def test_a_store_in_the_middle_of_a_run_begins_another():
    index = indexed([11, 12, 13])
    assert index.add([21], NODE, 2, 12)
    assert len(index.runs()) == 2
    assert depth(index, 21) == 2


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ([11, 12, 13, 14, 15], (0, 5)),
        ([15, 14, 13, 12, 11], (0, 5)),
        ([13, 14, 15], (2, 3)),
        ([13, 12, 15], (1, 2)),
        ([12, 13, 11], (1, 2)),
        ([13], (2, 1)),
        ([13, 99], (2, 1)),
        ([11, 15], (0, 1)),
    ],
)
def test_hashes_in_a_row_are_taken_together(asked, taken):
    index = indexed([11, 12, 13, 14, 15])
    assert take(index, asked) == taken
    gone = set(asked[: taken[1]])
    assert set(index) == {11, 12, 13, 14, 15} - gone
    for engine_hash in index:
        assert depth(index, engine_hash) == engine_hash - 11


def test_hashes_before_the_first_asked_for_stay():
    index = indexed([11, 12, 13, 14])
    assert take(index, [11, 12, 13], first=1) == (1, 2)
    assert sorted(index) == [11, 14]


def test_a_run_is_cut_at_its_end_and_keeps_its_holes():
    index = indexed([11, 12, 13, 14])
    take(index, [12])
    take(index, [14, 13])
    (run,) = index.runs()
    assert run.hashes == [11]
    assert index.add([22], NODE, 1, 11)
    assert depth(index, 22) == 1
