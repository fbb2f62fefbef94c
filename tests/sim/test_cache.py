from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.events import Remove, Store
from preble_plugin.sim.cache import BlockCache, SharedCache, SharedPool

TOKENS = list(range(1000))


def filled(cache: BlockCache, names: list[int]) -> None:
    """A request comes with these blocks, computes what is not there, and goes."""
    hit = cache.find(names, len(names))
    cache.hold(names[:hit])
    assert cache.reserve(len(names) - hit)
    cache.name(names, hit, len(names), TOKENS)
    cache.release(names, 0)


def test_the_end_of_a_prompt_is_evicted_before_its_beginning() -> None:
    cache = BlockCache(4, 2)
    filled(cache, [1, 2, 3])
    filled(cache, [7, 8])
    assert cache.find([1, 2, 3], 3) == 2
    assert cache.events == [
        Store([1, 2, 3], None, TOKENS[:6], 2),
        Remove([3]),
        Store([7, 8], None, TOKENS[:4], 2),
    ]


def test_what_was_used_last_is_evicted_last() -> None:
    cache = BlockCache(4, 2)
    filled(cache, [1, 2])
    filled(cache, [3, 4])
    filled(cache, [1, 2])
    filled(cache, [5, 6])
    assert (cache.find([1, 2], 2), cache.find([3, 4], 2)) == (2, 0)


def test_what_a_request_holds_is_not_evicted() -> None:
    cache = BlockCache(4, 2)
    filled(cache, [1, 2])
    cache.hold([1, 2])
    assert not cache.reserve(3)
    assert cache.reserve(2)
    assert cache.free == 0
    cache.release([1, 2], 2)
    assert (cache.free, cache.find([1, 2], 2)) == (4, 2)


def test_a_block_that_two_fill_at_once_is_kept_once() -> None:
    cache = BlockCache(8, 2)
    assert cache.reserve(6)
    cache.name([1, 2, 3], 0, 3, TOKENS)
    cache.name([1, 2, 4], 0, 3, TOKENS)
    assert cache.free == 4
    stored = [event for event in cache.events if isinstance(event, Store)]
    assert [(event.hashes, event.parent) for event in stored] == [([1, 2, 3], None), ([4], 2)]
    assert stored[1].tokens == TOKENS[4:6]
    cache.release([1, 2, 3], 0)
    assert cache.free == 5
    cache.release([1, 2, 4], 0)
    assert cache.free == 8


def chain(parts: list[int]) -> list[int]:
    """Names of blocks, each by all before it."""
    names, parent = [], 0
    for part in parts:
        parent = hash((parent, part))
        names.append(parent)
    return names


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), max_size=40))
def test_events_say_what_is_there(prompts: list[list[int]]) -> None:
    cache, told = BlockCache(8, 2), set()
    everything = set()
    for prompt in prompts:
        names = chain(prompt)
        everything.update(names)
        filled(cache, names)
        for event in cache.events:
            if isinstance(event, Store):
                assert told.isdisjoint(event.hashes)
                told.update(event.hashes)
            elif isinstance(event, Remove):
                assert told.issuperset(event.hashes)
                told.difference_update(event.hashes)
        cache.events.clear()
        assert {name for name in everything if cache.find([name], 1)} == told
        assert cache.free == 8
        assert len(told) <= 8


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=60))
def test_where_a_block_is_those_before_it_are_too(steps: list[tuple[int, int, bool]]) -> None:
    """Requests that overlap in time: each holds the beginning of a prompt, and the
    prompts share beginnings."""
    cache = BlockCache(12, 2)
    chains = {one: chain([one // 4, one // 2, one, one, one]) for one in range(6)}
    running: dict[int, tuple[list[int], int]] = {}
    for one, more, ends in steps:
        names = chains[one]
        if one in running and ends:
            names, named = running.pop(one)
            cache.release(names[:named], 0)
            continue
        if one not in running:
            hit = cache.find(names, len(names))
            cache.hold(names[:hit])
            running[one] = names, hit
        _, named = running[one]
        last = min(named + more, len(names))
        if cache.reserve(last - named):
            cache.name(names, named, last, TOKENS)
            running[one] = names, last
        for prompt in chains.values():
            here = [cache.find([name], 1) == 1 for name in prompt]
            assert here == sorted(here, reverse=True)
            assert cache.find(prompt, len(prompt)) == sum(here)


def test_on_shared_caches_all_have_what_one_computed() -> None:
    pool = SharedPool(None)
    one, other = SharedCache(4, 2, pool), SharedCache(4, 2, pool)
    for first in (10, 20, 30):
        filled(one, [first, first + 1, first + 2])
    assert [other.find([first, first + 1], 2) for first in (10, 20, 30)] == [2, 2, 2]
    assert (one.free, other.free, one.events) == (4, 4, [])
    other.hold([10, 11, 12])
    assert not other.reserve(2)
    assert other.reserve(1)
    other.release([10, 11, 12], 1)
    assert other.free == 4


def test_a_pool_keeps_what_was_used_last_and_of_a_prompt_the_beginning() -> None:
    pool = SharedPool(6)
    one, other = SharedCache(4, 2, pool), SharedCache(4, 2, pool)
    filled(one, [10, 11, 12])
    filled(other, [20, 21, 22])
    assert one.find([10, 11, 12], 3) == 3
    other.hold([10, 11, 12])
    other.release([10, 11, 12], 0)
    filled(one, [30])
    filled(other, [40])
    assert one.find([10, 11, 12], 3) == 3
    assert one.find([20, 21, 22], 3) == 1
    assert (one.find([30], 1), one.find([40], 1)) == (1, 1)
