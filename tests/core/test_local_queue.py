from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preble_plugin.core.local_queue import LOOKS, LocalQueue, group_by_share

PROMPT = 100
PLENTY = 10**6


class Cache:
    """Tokens cached of each request's prompt, and who was asked for."""

    def __init__(self, **cached: int) -> None:
        self.cached = cached
        self.looked_at: list[str] = []

    def __call__(self, item: str) -> int:
        self.looked_at.append(item)
        return self.cached.get(item, 0)


def queue(cache: Cache, *items: str, **given: int) -> LocalQueue[str]:
    """Requests that wait, all of them looked at."""
    made = LocalQueue(cache, **({"looks": PLENTY} | given))
    for item in items:
        made.add(item, PROMPT)
    made.begin_step()
    return made


def popped(made: LocalQueue[str]) -> list[str]:
    return [made.pop() for _ in range(len(made))]


def filled(waiting: int, looks: int = LOOKS) -> tuple[LocalQueue[str], Cache]:
    """Many requests of all groups, some of which had their turn."""
    cache = Cache(**{f"r{number}": number * 37 % 101 for number in range(2 * waiting)})
    made = LocalQueue(cache, looks=looks)
    for number in range(waiting):
        made.add(f"r{number}", PROMPT)
        made.look_again(f"r{number}")
    return made, cache


# -- order -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cached", "group"), [(0, 1), (14, 1), (15, 2), (63, 6), (94, 9), (95, 10), (100, 10)]
)
def test_a_group_is_the_cached_share_in_tenths(cached: int, group: int) -> None:
    assert group_by_share(100, cached) == group


def test_more_cached_than_the_prompt_is_all_of_it() -> None:
    assert group_by_share(100, 250) == 10


def test_what_is_cached_goes_first_and_equals_by_arrival() -> None:
    made = queue(Cache(b=90, d=90), "a", "b", "c", "d")
    assert popped(made) == ["b", "d", "a", "c"]


def test_the_lowest_priority_goes_first_whatever_is_cached() -> None:
    made = queue(Cache(a=100))
    for item, priority in (("a", 5), ("b", -1), ("c", 5), ("d", 0), ("e", -1)):
        made.add(item, PROMPT, priority)
    made.begin_step()
    assert popped(made) == ["b", "e", "d", "a", "c"]


def test_what_was_taken_and_comes_back_goes_first_of_its_priority() -> None:
    made = queue(Cache(b=100), "a", "b")
    made.add("urgent", PROMPT, priority=-1)
    for preempted in ("y", "x"):  # An engine preempts from the end of those that run.
        made.put_back(preempted)
    assert popped(made) == ["urgent", "x", "y", "b", "a"]


def test_one_that_is_put_off_is_offered_again_first() -> None:
    made = queue(Cache(b=100), "a", "b")
    made.put_back(made.pop())
    made.begin_step()
    assert made.peek() == "b"


def test_the_paper_s_batch_of_55() -> None:
    cache = Cache(**{f"{group} {one}": 10 * group for group in range(1, 11) for one in range(20)})
    made = queue(cache, *cache.cached)
    batch = [made.pop().split()[0] for _ in range(55)]
    assert Counter(batch) == {str(group): group for group in range(1, 11)}


# -- stable, and up to date ------------------------------------------------------------


def test_peek_shows_the_same_and_pop_takes_it() -> None:
    made = queue(Cache(b=50, c=90), "a", "b", "c")
    while made:
        shown = made.peek()
        assert made.peek() == shown
        assert made.pop() == shown


def test_an_eviction_is_seen_when_the_turn_comes() -> None:
    cache = Cache(a=100, b=80)
    made = queue(cache, "c", "a", "b", looks=8)
    cache.cached["a"] = 0
    made.begin_step()
    assert popped(made) == ["b", "c", "a"]


def test_a_step_sees_what_was_evicted_since_the_last_peek() -> None:
    cache = Cache(a=100, b=80)
    made = queue(cache, "a", "b")
    assert made.peek() == "a"
    made._looks = 1
    cache.cached["a"] = 0
    made.begin_step()
    assert made.peek() == "b"


def test_what_became_cached_is_seen_within_a_round() -> None:
    items = [f"r{number}" for number in range(100)]
    cache = Cache()
    made = queue(cache, *items, looks=PLENTY)
    made._looks = LOOKS
    cache.cached["r70"] = 100
    steps = 0
    while made.peek() != "r70":
        made.begin_step()
        steps += 1
    assert steps <= 100 / (LOOKS // 4)


def test_what_is_said_to_have_changed_is_asked_at_once() -> None:
    cache = Cache()
    made = queue(cache, "a", "b", looks=0)
    assert made.peek() == "a"
    cache.cached["b"] = 100
    made.look_again("b")
    assert made.peek() == "b"


def test_who_came_is_looked_at_in_the_next_step() -> None:
    cache = Cache(b=100)
    made = queue(cache, "a", looks=LOOKS)
    made.add("b", PROMPT)
    made.begin_step()
    assert made.peek() == "b"


def test_a_step_looks_at_no_more_than_it_may() -> None:
    made, cache = filled(2000)
    for number in range(50):
        cache.looked_at.clear()
        cache.cached = {item: number * share % 101 for item, share in cache.cached.items()}
        for one in range(40):
            made.add(f"n{number} {one}", PROMPT)
        made.begin_step()
        for _ in range(20):
            made.pop()
        made.order(20)
        assert len(cache.looked_at) <= LOOKS


def test_where_one_waits_alone_nobody_looks() -> None:
    cache = Cache()
    made = queue(cache, "a")
    assert made.pop() == "a"
    assert cache.looked_at == []


@pytest.mark.parametrize("call", [LocalQueue.begin_step, popped, lambda made: made.order(3)])
def test_what_look_raises_passes_through_and_nothing_is_lost(
    call: Callable[[LocalQueue[str]], object],
) -> None:
    class Breaking(Cache):
        def __call__(self, item: str) -> int:
            if len(self.looked_at) == 1:
                raise OSError("no cache")
            return super().__call__(item)

    cache = Breaking(b=100)
    made = LocalQueue(cache)
    for item in ("a", "b", "c"):
        made.add(item, PROMPT)
    with pytest.raises(OSError, match="no cache"):
        call(made)
    left = sorted(made)
    cache.looked_at.clear()
    made._looks_left = 1
    assert sorted(popped(made)) == left


# -- coming and going ------------------------------------------------------------------


def test_any_may_leave_at_any_time() -> None:
    made = queue(Cache(b=100), "a", "b", "c")
    made.put_back("d")
    assert [made.discard(item) for item in ("d", "b", "b", "z")] == [True, True, False, False]
    assert popped(made) == ["a", "c"]


def test_it_says_who_waits() -> None:
    made = queue(Cache(), "a", "b")
    made.put_back("c", priority=3)
    assert (len(made), bool(made), list(made)) == (3, True, ["a", "b", "c"])
    assert "b" in made
    assert "z" not in made


def test_an_empty_queue_has_nothing_to_show() -> None:
    made = queue(Cache())
    assert not made
    assert made.order(5) == []
    for call in (made.peek, made.pop):
        with pytest.raises(IndexError, match="nothing waits"):
            call()


def test_what_cannot_be_is_refused() -> None:
    made = queue(Cache(), "a")
    with pytest.raises(ValueError, match="'a' waits already"):
        made.add("a", PROMPT)
    with pytest.raises(ValueError, match="'a' waits already"):
        made.put_back("a")
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        made.add("b", 0)
    with pytest.raises(KeyError):
        made.take("b")


def test_when_all_are_gone_nothing_is_left() -> None:
    made, _ = filled(200)
    for number in range(100):
        made.add(f"x{number}", PROMPT, priority=number)
    made.begin_step()
    popped(made)
    with pytest.raises(IndexError):
        made.peek()
    assert not any((made._items, made._fresh, made._round, made._classes))
    assert len(made._priorities) < 40


def test_priorities_that_nobody_has_any_more_are_forgotten() -> None:
    made = queue(Cache(), "first")
    for number in range(2000):
        made.add("x", PROMPT, priority=number % 700 + 1)
        made.discard("x")
    assert len(made._classes) == 1
    assert len(made._priorities) < 40
    made.add("y", PROMPT, priority=3)
    made.add("z", PROMPT, priority=-3)
    assert popped(made) == ["z", "first", "y"]


def test_what_is_taken_out_of_turn_is_gone() -> None:
    made = queue(Cache(b=100), "a", "b", "c")
    made.put_back("d")
    for item in ("c", "d"):
        made.take(item)
    assert popped(made) == ["b", "a"]


# -- whatever comes --------------------------------------------------------------------


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "pop", "pop", "cache", "back", "discard", "step"]),
        st.integers(0, 200),
        st.integers(0, 100),
    ),
    max_size=150,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 6), st.integers(0, 12), STEPS)
def test_nobody_of_a_priority_is_overtaken_more_often(
    most: int, looks: int, steps: list[Step]
) -> None:
    cache = Cache()
    made = LocalQueue(cache, overtakes=most, looks=looks)
    came: dict[str, int] = {}  # In order: priorities of those never taken.
    back: dict[str, int] = {}  # Priorities of those that came back.
    out: dict[str, int] = {}
    overtaken: Counter[str] = Counter()
    for number, (kind, one, other) in enumerate(steps):
        here = [*came, *back]
        if kind == "add":
            came[f"r{number}"] = one % 3
            cache.cached[f"r{number}"] = other
            made.add(f"r{number}", PROMPT, one % 3)
        elif kind == "back" and out:
            item = list(out)[one % len(out)]
            back[item] = out.pop(item)
            made.put_back(item, back[item])
        elif kind == "step":
            made.begin_step()
        elif kind == "cache" and here:
            cache.cached[here[one % len(here)]] = other
        elif kind == "discard" and here:
            item = here[one % len(here)]
            assert made.discard(item)
            came.pop(item, None)
            back.pop(item, None)
        elif kind == "pop" and here:
            item = made.pop()
            priority = out[item] = back.pop(item, -1) if item in back else came[item]
            assert priority == min([*came.values(), *back.values(), priority])
            if item in came:
                assert priority not in back.values()
                elders = list(came)[: list(came).index(item)]
                overtaken.update(elder for elder in elders if came[elder] == priority)
                del came[item]
        assert all(overtaken[item] <= most for item in came)
        assert set(made) == {*came, *back}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(0, 4),
    st.integers(0, 50),
)
def test_the_order_is_that_of_the_pops_to_come(
    requests: list[tuple[int, int]], back: int, limit: int
) -> None:
    cache = Cache(**{f"r{number}": share for number, (share, _) in enumerate(requests)})
    made = LocalQueue(cache, overtakes=5, looks=PLENTY)
    for number, (_, priority) in enumerate(requests):
        made.add(f"r{number}", PROMPT, priority)
    for number in range(back):
        made.put_back(f"x{number}", number % 2)
    made.begin_step()
    order = made.order(limit)
    assert made.order(limit) == order
    assert order == popped(made)[:limit]


# -- work ------------------------------------------------------------------------------


def calls(work: Callable[[], object]) -> int:
    """Functions that `work` calls, of ours and built in."""
    found = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def a_step(made: LocalQueue[str], number: int) -> None:
    """Five come, one leaves, one is put off, and five are taken."""
    made.begin_step()
    for one in range(5):
        made.add(f"new {number} {one}", PROMPT)
    made.discard(f"r{number}")
    made.put_back(made.pop())
    for _ in range(5):
        made.pop()


def test_ten_thousand_that_wait_cost_no_more_than_a_thousand() -> None:
    spent = []
    for waiting in (1000, 10_000):
        made, _ = filled(waiting)
        spent.append(sum(calls(lambda made=made, n=n: a_step(made, n)) for n in range(50)))
    assert spent[1] <= 1.1 * spent[0]


def test_a_preview_costs_by_its_length() -> None:
    made, _ = filled(10_000)
    few, many = (calls(lambda limit=limit: made.order(limit)) for limit in (20, 200))
    assert many <= 11 * few


def test_waiting_long_leaves_no_stale_places_behind() -> None:
    made, cache = filled(300)
    for number in range(3000):
        cache.cached = {item: (share * 7 + number) % 101 for item, share in cache.cached.items()}
        made.begin_step()
        made.add(f"n{number}", PROMPT)
        made.discard(f"n{number - 1}")
        made.put_back(made.pop())
        made.pop()
    kept = sum(len(heap) for kind in made._classes.values() for heap in kind.turns._heaps)
    assert kept <= 2 * len(made) + 11 * 34
