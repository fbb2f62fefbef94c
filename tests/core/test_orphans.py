from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from counted import calls

from preble_plugin.core import Attention, BlockHasher, Clear, Remove, Store
from preble_plugin.core.layer import Layer
from preble_plugin.core.orphans import ORPHAN_STORES, OrphanStores
from preble_plugin.core.pool import Pool
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import EventOutcome, Residency
from preble_plugin.core.tree_check import check_residency, check_tree

MAIN = Layer(0, 0, Attention.FULL, 0, "GPU")
OTHER = Layer(1, 0, Attention.FULL, 0, "CPU")


def store(*hashes: int, parent: int | None = None) -> Store:
    """Blocks of one token each, which is their hash."""
    return Store(list(hashes), parent, list(hashes), 1)


def waiting(*stores: Store, layer: Layer = MAIN) -> OrphanStores:
    made = OrphanStores()
    for one in stores:
        assert one.parent is not None
        made.add(one, layer)
    return made


def taken(orphans: OrphanStores, parent: int) -> list[list[int]]:
    """The hashes that are left of each store that waited for `parent`."""
    return [sorted(one.left.elements()) for one in orphans.take(parent)]


class Cache:
    """A residency of blocks of one token."""

    def __init__(self, *events: object) -> None:
        self.tree = PrefixTree()
        self.residency = Residency(self.tree, BlockHasher(1, b"seed"), Pool(self.tree, 1000))
        self.apply(*events)

    def apply(self, *events: object) -> list[EventOutcome]:
        found = [self.residency.apply(event) for event in events]  # type: ignore[arg-type]
        check_tree(self.tree)
        check_residency(self.tree, self.residency)
        return found

    @property
    def held(self) -> int:
        return self.residency.copies


# -- what waits --------------------------------------------------------------------------


def test_stores_are_taken_in_the_order_they_came():
    orphans = waiting(store(2, parent=1), store(4, parent=3), store(5, 6, parent=1))
    assert taken(orphans, 1) == [[2], [5, 6]]
    assert (orphans.count, taken(orphans, 1)) == (1, [])


def test_what_is_removed_of_a_store_that_waits_is_left_out():
    orphans = waiting(store(2, 3, parent=1))
    assert orphans.remove(MAIN, 3)
    assert not orphans.remove(MAIN, 3)
    (orphan,) = orphans.take(1)
    assert (list(orphan.left), orphan.removed) == ([2], [3])


def test_a_removal_is_of_the_latest_store_of_the_hash():
    orphans = waiting(store(2, parent=1), store(2, 3, parent=1))
    assert orphans.remove(MAIN, 2)
    assert taken(orphans, 1) == [[2], [3]]


def test_a_second_removal_is_of_the_store_before_the_latest():
    orphans = waiting(store(2, parent=1), store(2, 3, parent=1))
    assert [orphans.remove(MAIN, 2) for _ in range(3)] == [True, True, False]
    assert taken(orphans, 1) == [[3]]


def test_a_store_whose_blocks_are_all_removed_waits_no_more():
    orphans = waiting(store(2, 3, parent=1))
    assert orphans.remove(MAIN, 3)
    assert orphans.count == 1
    assert orphans.remove(MAIN, 2)
    assert (orphans.count, taken(orphans, 1)) == (0, [])


def test_a_hash_that_comes_twice_in_a_store_is_removed_twice():
    orphans = waiting(store(2, 2, parent=1))
    assert [orphans.remove(MAIN, 2) for _ in range(3)] == [True, True, False]


def test_a_removal_from_one_layer_leaves_what_waits_in_another():
    orphans = waiting(store(2, parent=1))
    assert not orphans.remove(OTHER, 2)
    assert taken(orphans, 1) == [[2]]


def test_what_was_taken_is_not_there_to_be_removed():
    orphans = waiting(store(2, parent=1))
    orphans.take(1)
    assert not orphans.remove(MAIN, 2)


def test_the_oldest_store_under_the_oldest_parent_gives_way():
    orphans = waiting(*(store(one, parent=1) for one in range(10, 10 + ORPHAN_STORES)))
    assert [list(one.left) for one in (orphans.add(store(3, parent=2), MAIN),) if one] == [[10]]
    assert orphans.count == ORPHAN_STORES
    assert not orphans.remove(MAIN, 10)
    assert taken(orphans, 1)[0] == [11]


def test_nothing_waits_after_a_clear():
    orphans = waiting(store(2, parent=1))
    orphans.clear()
    assert (orphans.count, taken(orphans, 1), orphans.remove(MAIN, 2)) == (0, [], False)


# -- in a residency ----------------------------------------------------------------------


def test_a_store_that_waits_for_itself_waits_and_can_be_removed():
    cache = Cache()
    assert cache.apply(store(7, parent=7)) == [EventOutcome.WAITING]
    assert (cache.held, cache.residency.orphan_count) == (0, 1)
    assert cache.apply(Remove([7])) == [EventOutcome.APPLIED]


def test_stores_that_wait_in_a_circle_are_held_once_one_of_them_is():
    cache = Cache(store(1, parent=3), store(2, parent=1), store(3, parent=2))
    assert (cache.held, cache.residency.orphan_count) == (0, 3)
    cache.apply(store(2))
    # The 2 that waited for 1 is taken for a copy of the 2 that is there.
    assert (cache.held, cache.residency.orphan_count) == (4, 0)
    cache.apply(Remove([2]), Remove([1, 2, 3]))
    assert (cache.held, cache.tree.blocks) == (0, 0)


def test_stores_in_circles_are_bounded():
    cache = Cache()
    for one in range(0, 3 * ORPHAN_STORES, 2):
        cache.residency.apply(store(one, parent=one + 1))
        cache.residency.apply(store(one + 1, parent=one))
    assert cache.residency.orphan_count == ORPHAN_STORES
    assert cache.tree.blocks == 0


def test_the_store_that_gave_way_is_missing_but_for_what_was_removed_of_it():
    cache = Cache(store(1, 2, 3, parent=0), Remove([2]))
    for one in range(ORPHAN_STORES):
        cache.residency.apply(store(10 + one, parent=5))
    assert (cache.residency.missing_blocks, cache.residency.complete) == (2, False)
    assert cache.residency.skipped == {"unknown_parent": 1}
    cache.apply(Remove([1, 3]))
    assert cache.residency.complete


def test_a_hash_that_comes_twice_in_a_store_that_waits_is_held_and_removed_twice():
    cache = Cache(store(2, 2, parent=1), store(1))
    assert cache.held == 3
    cache.apply(Remove([2]))
    assert cache.held == 2
    cache.apply(Remove([2]), Remove([1]))
    assert cache.tree.blocks == 0


def test_a_removal_while_stores_wait_is_made_when_their_parent_comes():
    cache = Cache(store(2, 3, parent=1), store(4, parent=3), Remove([3]), store(1))
    assert (cache.held, len(cache.residency.main.index)) == (3, 3)
    assert 3 not in cache.residency.main.index


def test_nothing_waits_for_a_cache_that_was_cleared():
    cache = Cache(store(2, parent=1), Clear(), store(1))
    assert cache.held == 1


# -- work --------------------------------------------------------------------------------


def chain(count: int, order: str) -> Sequence[Store]:
    """Stores, each below the one before it, and none without a parent."""
    stores = [store(number + 1, parent=number) for number in range(1, count + 1)]
    if order == "child first":
        stores.reverse()
    elif order == "random":
        random.Random(1).shuffle(stores)
    return stores


def work(count: int, order: str) -> float:
    """Calls for each store of a chain that waits, and whose root comes in the end."""
    cache, stores = Cache(), chain(count, order)

    def live() -> None:
        for one in stores:
            cache.residency.apply(one)
        assert cache.held == 0
        cache.residency.apply(store(1))

    found = calls(live).total()
    assert (cache.held, cache.residency.orphan_count) == (count + 1, 0)
    return found / count


@pytest.mark.parametrize("order", ["parent first", "child first", "random"])
def test_a_store_that_waits_costs_the_same_among_many(order: str):
    assert work(2000, order) <= 1.05 * work(500, order)


@pytest.mark.parametrize("order", ["parent first", "child first", "random"])
def test_a_store_that_waits_costs_the_same_in_any_order(order: str):
    assert work(500, order) <= 1.05 * work(500, "parent first")


def test_a_removal_of_what_waits_costs_the_same_among_many():
    def cost(count: int) -> int:
        cache = Cache(*chain(10, "random"))
        for one in range(count):
            cache.residency.apply(store(100, 200 + one, parent=-one - 1))
        return calls(lambda: cache.residency.apply(Remove([100]))).total()

    assert cost(1000) == cost(10)
