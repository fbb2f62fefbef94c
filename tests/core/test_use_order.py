from __future__ import annotations

from collections.abc import Callable

import pytest
from counted import calls
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.node import Node
from preble_plugin.core.use_order import UseOrder

NODES = [Node(None, b"", 1, depth) for depth in range(5)]


def ordered(*numbers: int) -> UseOrder:
    order = UseOrder()
    for number in numbers:
        order.use(NODES[number])
    return order


def numbers(order: UseOrder) -> list[int]:
    return [node.depth for node in order]


def backwards(order: UseOrder) -> list[int]:
    """By the links that lead to what was used before."""
    end = next(iter(order._before))
    node, found = order._before[end], []
    while node is not end:
        found.append(node.depth)
        node = order._before[node]
    return found


class NaiveOrder:
    """The same in a list."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def use(self, one: int) -> None:
        self.discard(one)
        self.numbers.append(one)

    def add_after(self, one: int, added: int) -> None:
        self.numbers.insert(self.numbers.index(one) + 1, added)

    def replace(self, one: int, other: int) -> None:
        self.discard(other)
        self.numbers[self.numbers.index(one)] = other

    def discard(self, one: int) -> None:
        if one in self.numbers:
            self.numbers.remove(one)

    def clear(self) -> None:
        self.numbers = []


number = st.integers(0, len(NODES) - 1)
steps = st.lists(
    st.tuples(st.sampled_from(["use", "use", "add_after", "replace", "discard"]), number, number)
    | st.just(("clear", 0, 0)),
    max_size=40,
)


@given(steps)
def test_every_step_does_what_it_does_to_a_list(steps):
    order, naive = UseOrder(), NaiveOrder()
    for action, one, other in steps:
        missing = one not in naive.numbers
        if action == "add_after" and (missing or other in naive.numbers):
            continue
        if action == "replace" and (missing or one == other):
            continue
        arguments = {"use": [one], "discard": [one], "clear": []}.get(action, [one, other])
        getattr(order, action)(*(NODES[number] for number in arguments))
        getattr(naive, action)(*arguments)
        assert numbers(order) == naive.numbers
        assert backwards(order) == naive.numbers[::-1]
        assert len(order) == len(naive.numbers)
        assert [node in order for node in NODES] == [one in naive.numbers for one in range(5)]


def test_what_is_used_goes_to_the_end():
    order = ordered(0, 1, 2)
    order.use(NODES[0])
    assert numbers(order) == [1, 2, 0]


def test_what_was_used_last_stays_there():
    order = ordered(0, 1)
    order.use(NODES[1])
    assert numbers(order) == [0, 1]


def test_a_node_takes_the_place_of_another_and_leaves_its_own():
    order = ordered(0, 1, 2, 3)
    order.replace(NODES[1], NODES[3])
    assert numbers(order) == [0, 3, 2]


def test_a_node_that_is_not_there_is_discarded_in_silence():
    order = ordered(0)
    order.discard(NODES[1])
    assert numbers(order) == [0]


@pytest.mark.parametrize(
    "step",
    [
        lambda order, node: order.use(node),
        lambda order, node: order.add_after(node, NODES[0]),
        lambda order, node: order.replace(node, NODES[0]),
        lambda order, node: order.discard(node),
    ],
)
def test_no_step_looks_at_more_for_more_nodes(step: Callable[[UseOrder, Node], None]):
    def cost(size: int) -> int:
        nodes = [Node(None, b"", 1, 0) for _ in range(size)]
        order = UseOrder()
        for node in nodes:
            order.use(node)
        return calls(lambda: step(order, nodes[size // 2])).total()

    assert cost(1000) == cost(10)
