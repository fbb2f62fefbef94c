"""Blocks in flight, held against sets of prefixes."""

from __future__ import annotations

from builders import BLOCK, place, prompt, request, scheduler, store
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core import Finished, Scheduler
from preble_plugin.core.active_blocks import ActiveBlocks
from preble_plugin.core.tree_check import check_tree


def keys(*blocks: int) -> bytes:
    return b"".join(block.to_bytes(8, "little") for block in blocks)


def active(made: Scheduler) -> list[int]:
    view = made._view(request(made, "asked", prompt(9, 1)), 0.0)
    return [one.active_blocks for one in view.candidates]


def test_a_block_that_prompts_share_counts_once():
    found = ActiveBlocks()
    found.begin("a", 0, keys(1, 2, 3))
    found.begin("b", 0, keys(1, 2, 4, 5))
    assert (found.on(0), found.on(1)) == (5, 0)


def test_equal_blocks_after_different_ones_are_two():
    found = ActiveBlocks()
    found.begin("a", 0, keys(1, 7))
    found.begin("b", 0, keys(2, 7))
    assert found.on(0) == 4


def test_a_shared_block_stays_until_the_last_of_its_prompts_ends():
    found = ActiveBlocks()
    found.begin("a", 0, keys(1, 2, 3))
    found.begin("b", 0, keys(1, 2))
    found.end("a")
    assert found.on(0) == 2
    found.end("b")
    found.end("b")
    assert found.on(0) == 0


def test_what_is_shared_is_told_for_each_replica():
    found = ActiveBlocks()
    found.begin("a", 0, keys(1, 2, 3))
    found.begin("b", "1", keys(1, 9))
    assert found.shared(keys(1, 2, 8)) == {0: 2, "1": 1}
    assert found.shared(keys(5)) == {}
    assert found.shared(b"") == {}


def test_a_replica_that_is_forgotten_has_nothing_and_may_come_back():
    found = ActiveBlocks()
    found.begin("a", 0, keys(1, 2))
    found.begin("b", 1, keys(1, 2))
    found.forget(0)
    found.forget(7)
    assert (found.on(0), found.on(1)) == (0, 2)
    found.begin("a", 0, keys(1))
    assert found.on(0) == 1


_prompts = st.lists(st.integers(1, 3), max_size=6).map(tuple)
_steps = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "forget"]), st.integers(0, 2), _prompts),
    max_size=40,
)


@given(_steps)
def test_it_agrees_with_sets_of_prefixes(steps):
    found, flying = ActiveBlocks(), {}

    def prefixes(replica):
        prompts = [one for on, one in flying.values() if on == replica]
        return {one[:end] for one in prompts for end in range(1, len(one) + 1)}

    for number, (what, replica, blocks) in enumerate(steps):
        if what == "begin":
            found.begin(str(number), replica, keys(*blocks))
            flying[str(number)] = replica, blocks
        elif what == "end" and flying:
            found.end(next(iter(flying)))
            del flying[next(iter(flying))]
        elif what == "forget":
            found.forget(replica)
            flying = {name: one for name, one in flying.items() if one[0] != replica}
        for one in range(3):
            held = prefixes(one)
            assert found.on(one) == len(held)
            shared = sum(blocks[:end] in held for end in range(1, len(blocks) + 1))
            assert found.shared(keys(*blocks)).get(one, 0) == shared
        check_tree(found._tree)
        assert found._mask == sum(1 << column for column in found._columns.values())


def test_counting_begins_with_what_is_in_flight_already():
    made = scheduler(2)
    place(made, "a", prompt(1, 20), fixed_replica=0)
    place(made, "b", prompt(1, 20, extra=4), fixed_replica=0)
    made.dispatched(request(made, "c", prompt(2, 7)), 1, 0.0, started=True)
    assert active(made) == [20, 7]


def test_it_follows_requests_however_they_come_and_go():
    made = scheduler(3)
    assert active(made) == [0, 0, 0]
    for replica in range(3):
        place(made, f"on {replica}", prompt(replica, 10), fixed_replica=replica)
    place(made, "on 0", prompt(0, 12), fixed_replica=0)  # the same id anew
    made.dispatched(request(made, "on 1", prompt(1, 10)), 2, 0.0)  # moved
    assert active(made) == [12, 0, 20]
    made.observe(2, [Finished("on 1", 0, aborted=True)], 1.0)
    assert active(made) == [12, 0, 10]
    made.remove_replica(2)
    made.add_replica(2)
    assert active(made) == [12, 0, 0]


def test_what_is_cached_and_what_is_not_count_alike():
    made = scheduler(1, capacity=100)
    made.apply(0, [store(prompt(1, 20))], 0.0)
    place(made, "a", prompt(1, 25))
    view = made._view(request(made, "b", prompt(1, 40)), 0.0)
    (one,) = view.candidates
    assert (one.active_blocks, one.cache_usage, view.new_active_blocks) == (25, 0.25, [15])
    assert one.hit_tokens == 25 * BLOCK
