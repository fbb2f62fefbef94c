"""Counters of uses in the window, held against lists of the times of these uses."""

from __future__ import annotations

from itertools import pairwise
from math import floor
from typing import Any

import pytest
from compiled import IMPLEMENTATIONS
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.usage import Placements, first_use, later_use, uses_in_window

COLUMN = 3
WINDOW = 64.0
WRAP = WINDOW * 2**22
"""Seconds after which epochs repeat."""
CLOCKS = [0.0, -10 * WINDOW, 1.7e9, WRAP - 2 * WINDOW, 5 * WRAP - WINDOW, 1e15 - 100 * WINDOW]
"""Where a clock may start: also before zero, at the wall clock's time, and where epochs
wrap."""

each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values())
times = st.lists(st.integers(0, 40 * 64), max_size=60).map(sorted)
"""Times in eighths of a second, over five windows."""


def held_node() -> Node:
    node = Node(None, b"\1" * 8, 1, 0)
    node.holders = 1 << COLUMN
    return node


def use(implementation: Any, node: Node, now: float, window: float = WINDOW) -> None:
    """One use of a node, counted as a placement counts it."""
    implementation.expect([node], COLUMN, first_use(now, window), 1 << 24 | 1, lambda node: None)


def used(implementation: Any, at: list[float], window: float = WINDOW) -> Node:
    node = held_node()
    for now in at:
        use(implementation, node, now, window)
    return node


def naive(at: list[float], now: float, window: float = WINDOW) -> float:
    """Uses of this epoch, and those of the last by the share of it still covered."""
    epoch = floor(now / window)
    covered = 1.0 - (now / window - epoch)
    uses = [floor(one / window) for one in at]
    return uses.count(epoch) + covered * uses.count(epoch - 1)


@each_implementation
@pytest.mark.parametrize("start", CLOCKS)
@given(eighths=times, later=st.integers(0, 3 * 8 * 64))
def test_uses_are_counted_as_in_a_list_of_their_times(implementation, start, eighths, later):
    at = [start + one / 8 for one in eighths]
    now = (at[-1] if at else start) + later / 8

    found = uses_in_window(used(implementation, at), COLUMN, now, WINDOW)

    assert found == pytest.approx(naive(at, now))


@each_implementation
@pytest.mark.parametrize("start", CLOCKS)
def test_steady_use_is_counted_as_often_as_it_happens(implementation, start):
    node = held_node()
    for second in range(1000):
        use(implementation, node, start + second)
        if second > 2 * WINDOW:
            counted = uses_in_window(node, COLUMN, start + second, WINDOW)
            assert counted == pytest.approx(WINDOW, abs=1.0)


@each_implementation
def test_a_time_of_the_wall_clock_counts_under_the_shortest_window(implementation):
    assert uses_in_window(used(implementation, [1.7e9] * 5, 1.0), COLUMN, 1.7e9, 1.0) == 5.0


@each_implementation
@pytest.mark.parametrize("start", CLOCKS)
def test_a_use_is_forgotten_after_two_windows(implementation, start):
    node = used(implementation, [start] * 9)
    assert uses_in_window(node, COLUMN, start + 2 * WINDOW, WINDOW) == 0.0


@each_implementation
def test_what_was_used_long_ago_starts_anew(implementation):
    node = used(implementation, [0.0] * 9 + [20 * WINDOW])
    assert uses_in_window(node, COLUMN, 20 * WINDOW, WINDOW) == 1.0


@each_implementation
@pytest.mark.parametrize("start", CLOCKS)
def test_a_counter_fits_62_bits(implementation, start):
    node = used(implementation, [start, start + WINDOW])
    assert node.uses is not None
    assert 0 < node.uses[COLUMN] < 1 << 62


@each_implementation
def test_a_full_counter_stays_full(implementation):
    node = held_node()
    most = (1 << 20) - 1
    node.uses = {COLUMN: first_use(5.0, WINDOW) * most}
    use(implementation, node, 6.0)
    assert uses_in_window(node, COLUMN, 6.0, WINDOW) == most


@pytest.mark.parametrize("start", CLOCKS)
def test_of_two_counters_that_meet_the_later_is_kept(start):
    python = IMPLEMENTATIONS["python"]
    counters = []
    for at in ([0.0], [0.0, 1.0], [0.0, WINDOW], [WINDOW], [7 * WINDOW], [7 * WINDOW] * 4):
        uses = used(python, [start + one for one in at]).uses
        assert uses is not None
        counters.append(uses[COLUMN])
    by_age = [counters[place] for place in (0, 1, 3, 2, 4, 5)]
    for older, later in pairwise(by_age):
        assert later_use(older, later) == later_use(later, older) == later


@pytest.mark.parametrize("start", CLOCKS)
def test_a_share_is_of_the_placements_in_the_window(start):
    placements, node = Placements(WINDOW), held_node()
    for second in range(8):
        placements.count(first_use(start + second, WINDOW))
        if second % 2:
            use(IMPLEMENTATIONS["python"], node, start + second)
    assert placements.share(node, start + 8) == 0.5


@pytest.mark.parametrize("start", CLOCKS)
def test_nodes_that_merge_keep_the_later_counter(start):
    tree, keys = PrefixTree(), bytes(range(80))
    column = tree.add_column()
    tree.hold(column, tree.root, 0, keys[:40])
    whole = tree.match(keys, 1 << column)
    tree.grow(keys, whole)
    begun = tree.expect(whole.path, column, first_use(start, WINDOW))
    for second in range(3):
        beginning = tree.match(keys[:40], 1 << column)
        tree.expect(beginning.path, column, first_use(start + WINDOW + second, WINDOW))
    tree.hold(column, whole.path[0], 5, keys[40:])
    tree.unexpect(begun, column)

    (node,) = tree.match(keys, 1 << column).path
    assert uses_in_window(node, column, start + 2 * WINDOW - 1, WINDOW) > 3.0
