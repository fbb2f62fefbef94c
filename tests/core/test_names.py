from __future__ import annotations

import pytest

from preble_plugin.core.names import LONGEST_RUN, Names
from preble_plugin.core.node import Node

NODE = Node(None, b"", 0, 0)


def named(*stored: list[int]) -> Names:
    """Runs below each other, each of which goes on where the one before it ends."""
    names, depth, after = Names(), 0, None
    for piece in stored:
        assert names.add(piece, NODE, depth, after)
        depth += len(piece)
        after = names.find(piece[-1])
    return names


def depth(names: Names, name: int) -> int:
    run = names.find(name)
    assert run is not None
    return run.depth_of(name)


def take(names: Names, asked: list[int], first: int = 0) -> tuple[int, int]:
    run = names.find(asked[first])
    assert run is not None
    return names.take(run, asked, first)


def test_names_stored_in_a_row_are_one_run():
    names = named([11, 12], [13], [14, 15])
    assert [depth(names, name) for name in (11, 12, 13, 14, 15)] == [0, 1, 2, 3, 4]
    assert len(names.runs()) == 1


def test_a_run_has_an_end():
    names = named(list(range(3 * LONGEST_RUN)), [9999])
    assert len(names.runs()) == 4
    assert depth(names, 2 * LONGEST_RUN + 5) == 2 * LONGEST_RUN + 5


@pytest.mark.parametrize("piece", [[12], [16, 12], [16, 16]])
def test_a_name_that_is_known_or_comes_twice_changes_nothing(piece):
    names = named([11, 12])
    assert not names.add(piece, NODE, 2, names.find(12))
    assert sorted(names) == [11, 12]


def test_a_store_in_the_middle_of_a_run_begins_another():
    names = named([11, 12, 13])
    assert names.add([21], NODE, 2, names.find(12))
    assert len(names.runs()) == 2
    assert depth(names, 21) == 2


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
def test_names_in_a_row_are_taken_together(asked, taken):
    names = named([11, 12, 13, 14, 15])
    assert take(names, asked) == taken
    gone = set(asked[: taken[1]])
    assert set(names) == {11, 12, 13, 14, 15} - gone
    for name in names:
        assert depth(names, name) == name - 11


def test_names_before_the_first_asked_for_stay():
    names = named([11, 12, 13, 14])
    assert take(names, [11, 12, 13], first=1) == (1, 2)
    assert sorted(names) == [11, 14]


def test_a_run_is_cut_at_its_end_and_keeps_its_holes():
    names = named([11, 12, 13, 14])
    take(names, [12])
    take(names, [14, 13])
    (run,) = names.runs()
    assert run.names == [11]
    assert names.add([22], NODE, 1, run)
    assert depth(names, 22) == 1
