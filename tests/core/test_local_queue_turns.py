from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preble_plugin.core.local_queue_turns import GROUPS, Turns, Waiting


def waiting(number: int, group: int) -> Waiting[int]:
    made = Waiting(number, 100, 0, number)
    made.group = group
    return made


def turns(*groups: int, most: int = 10**6) -> Turns[int]:
    """Requests 0, 1, ... in these groups."""
    made: Turns[int] = Turns(most)
    for number, group in enumerate(groups):
        made.add(waiting(number, group))
    return made


def taken(made: Turns[int], count: int) -> list[Waiting[int]]:
    found = []
    for _ in range(count):
        found.append(made.due())
        made.take(found[-1])
    return found


def test_of_55_turns_a_group_has_as_many_as_its_number() -> None:
    made = turns(*(group for _ in range(40) for group in range(1, GROUPS + 1)))
    for _ in range(3):
        drawn = Counter(one.group for one in taken(made, 55))
        assert drawn == {group: group for group in range(1, GROUPS + 1)}


def test_the_group_with_the_most_in_cache_begins() -> None:
    assert [one.group for one in taken(turns(1, 5, 10, 10), 4)] == [10, 10, 5, 1]


def test_in_a_group_the_earliest_goes_first() -> None:
    assert [one.item for one in taken(turns(*[7] * 20), 20)] == list(range(20))


def test_one_that_changes_its_group_stands_there_by_its_arrival() -> None:
    made = turns(10, 10, 10)
    changing = waiting(3, 1)
    made.add(changing)
    made.add(waiting(4, 10))
    made.move(changing, 10)
    assert [one.item for one in taken(made, 5)] == [0, 1, 2, 3, 4]


def test_a_group_that_was_empty_has_no_turns_saved_up() -> None:
    made = turns(*[10] * 100)
    taken(made, 100)
    for number in range(100, 200):
        made.add(waiting(number, 5 if number % 2 == 0 else 10))
    drawn = Counter(one.group for one in taken(made, 30))
    assert drawn == {10: 20, 5: 10}


def test_a_turn_goes_to_those_who_came_before_with_more_in_cache() -> None:
    made = turns(*[10] * 30, 1, *[10] * 30)
    assert [one.item for one in taken(made, 33)] == [*range(30), 30, 31, 32]


@pytest.mark.parametrize("most", [0, 1, 5])
def test_the_earliest_goes_once_it_was_overtaken_so_often(most: int) -> None:
    made = turns(1, *[10] * 30, most=most)
    assert [one.item for one in taken(made, most + 1)][-1] == 0


def test_who_follows_the_earliest_was_overtaken_by_the_same_ones() -> None:
    made = turns(1, 1, 1, *[10] * 30, most=5)
    assert [one.item for one in taken(made, 9)] == [3, 4, 5, 6, 7, 0, 1, 2, 8]


def test_a_forced_turn_is_not_its_groups_own() -> None:
    made = turns(5, 10, 10, 5, 10, 10, most=1)
    assert [one.item for one in taken(made, 4)] == [1, 0, 2, 3]


def test_one_that_leaves_overtook_nobody() -> None:
    made = turns(1, *[10] * 20, most=5)
    assert [one.item for one in taken(made, 3)] == [1, 2, 3]
    for number in range(4, 14):
        earlier = made._arrivals[number]
        assert earlier is not None
        made.drop(earlier)
    assert [one.item for one in taken(made, 3)] == [14, 15, 0]


def test_changing_groups_leaves_few_stale_places_behind() -> None:
    made = turns(*range(1, 11), *[1] * 90)
    waiting = [one for one in made._arrivals.values() if one is not None]
    for number in range(5000):
        made.move(waiting[10 + number % 90], (number + number // 90) % 10 + 1)
    assert sum(map(len, made._heaps)) <= 2 * 100 + 11 * 34


class Naive:
    """The same by lists, counts for each request, and sorting."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting: list[Waiting[int]] = []
        self.overtaken: Counter[int] = Counter()

    def take(self, one: Waiting[int]) -> None:
        self.waiting.remove(one)
        self.overtaken.update(other.number for other in self.waiting if other.number < one.number)

    def may_go(self, one: Waiting[int]) -> bool:
        """Whether a request may have this turn: those it overtakes have less in cache,
        unless some request must not be overtaken any more, and then the earliest of all."""
        if any(self.overtaken[other.number] >= self.most for other in self.waiting):
            return one is min(self.waiting, key=lambda other: other.number)
        return all(other.group < one.group for other in self.waiting if other.number < one.number)


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "take", "move", "drop", "preview"]),
        st.integers(0, 99),
        st.integers(1, GROUPS),
    ),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 9), STEPS)
def test_nobody_is_overtaken_more_often_whatever_comes(most: int, steps: list[Step]) -> None:
    made, naive = Turns[int](most), Naive(most)
    for number, (kind, one, other) in enumerate(steps):
        if kind == "take":
            for _ in range(min(other, len(naive.waiting))):
                due = made.due()
                assert naive.may_go(due)
                made.take(due)
                naive.take(due)
        else:
            change(made, naive, number, kind, one, other)
        assert all(naive.overtaken[each.number] <= most for each in naive.waiting)
        check(made, naive)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9), STEPS)
def test_what_is_kept_is_right_where_others_are_taken(most: int, steps: list[Step]) -> None:
    made, naive = Turns[int](most), Naive(most)
    for number, (kind, one, other) in enumerate(steps):
        if kind == "take" and naive.waiting:
            each = naive.waiting[one % len(naive.waiting)]
            made.take(each)
            naive.take(each)
        else:
            change(made, naive, number, kind, one, other)
        check(made, naive)


def change(made: Turns[int], naive: Naive, number: int, kind: str, one: int, other: int) -> None:
    """One comes, changes its group, leaves; or some are taken and it is undone."""
    if kind == "add":
        naive.waiting.append(waiting(number, other))
        made.add(naive.waiting[-1])
    elif not naive.waiting:
        return
    elif kind == "move":
        made.move(naive.waiting[one % len(naive.waiting)], other)
    elif kind == "drop":
        made.drop(naive.waiting.pop(one % len(naive.waiting)))
    elif kind == "preview":
        before = made._now, list(made._next_turn), list(made._arrivals)
        assert preview(made, other) == preview(made, other)
        assert (made._now, list(made._next_turn), list(made._arrivals)) == before


def preview(made: Turns[int], count: int) -> list[Waiting[int]]:
    """Take so many, and undo it."""
    done = []
    for _ in range(min(count, len(made))):
        done.append(made.take(made.due()))
    for one in reversed(done):
        made.untake(one)
    return [one.waiting for one in done]


def check(made: Turns[int], naive: Naive) -> None:
    """What is kept is what there is."""
    here = {one.number for one in naive.waiting}
    kept = {number for number, one in made._arrivals.items() if one is not None}
    assert kept == here
    if naive.waiting:
        earliest = min(here)
        assert next(iter(made._arrivals)) == earliest
        assert made._early == naive.overtaken[earliest]
    for group in range(1, GROUPS + 1):
        members = {one.number for one in naive.waiting if one.group == group}
        assert made._live[group] == len(members)
        assert members <= set(made._heaps[group])
        assert len(made._heaps[group]) <= 2 * len(members) + 34
