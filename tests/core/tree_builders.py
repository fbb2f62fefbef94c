"""Prefix trees in one line each: a prompt is a text, each letter of it a block."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import Expectation, PrefixTree
from preble_plugin.core.tree_check import check_merged, check_tree


def keys(prompt: str) -> bytes:
    return b"".join(ord(letter).to_bytes(KEY_BYTES, "little") for letter in prompt)


def text(edge: bytes) -> str:
    starts = range(0, len(edge), KEY_BYTES)
    return "".join(chr(int.from_bytes(edge[one : one + KEY_BYTES], "little")) for one in starts)


def long_prompt(blocks: int, first: int = 0) -> str:
    """A prompt in which no block comes twice."""
    return "".join(chr(0x10000 + first + number) for number in range(blocks))


def tree(
    *caches: Iterable[str], columns: int | None = None, max_blocks: int = sys.maxsize
) -> PrefixTree:
    """A tree in which each cache is a column that holds these prompts, stored in order."""
    made = PrefixTree(max_blocks)
    for column, prompts in enumerate(caches):
        assert made.add_column() == column
        for one in prompts:
            hold(made, column, one)
    while columns is not None and len(made.held) < columns:
        made.add_column()
    return made


def mergeable(made: PrefixTree) -> PrefixTree:
    """The same tree, as if no prompt had parted in it: its nodes are merged once they can
    be one."""
    for node in made.walk():
        node.parted = False
    return made


def block(made: PrefixTree, prompt: str) -> Node:
    """The node of a prompt's last block, which is in the tree."""
    match = made.match(keys(prompt), 0)
    assert match.blocks == len(prompt), "a prompt that the tree does not have"
    return match.path[-1] if prompt else made.root


def hold(made: PrefixTree, column: int, prompt: str, first: int = 0) -> int:
    """Hold a prompt's blocks from number `first` on; how many are held."""
    above = block(made, prompt[:first])
    return made.hold(column, above, first, keys(prompt[first:]))[1]


def release(made: PrefixTree, column: int, prompt: str, count: int = 1) -> None:
    """Release the last `count` blocks of a prompt."""
    made.release(column, block(made, prompt), len(prompt) - count, count)


def holds(made: PrefixTree, column: int, prompt: str) -> list[int]:
    """How many times a column holds each block of a prompt that is in the tree."""
    leaf = block(made, prompt)
    return [made.holds(column, leaf, depth) for depth in range(len(prompt))]


def expect(made: PrefixTree, column: int, prompt: str, use: int = 1 << 20) -> Expectation:
    """A request with this prompt goes to a column."""
    match = made.match(keys(prompt), 1 << column)
    made.grow(keys(prompt), match)
    return made.expect(match.path, column, use)


def prompt_of(node: Node) -> str:
    """All blocks from the root to a node's last."""
    return (prompt_of(node.parent) if node.parent else "") + text(node.edge)


def runs(made: PrefixTree) -> list[str]:
    """The tree's runs of blocks, in order of their prompts."""
    found = sorted((prompt_of(node), text(node.edge)) for node in made.walk())
    return [run for _, run in found]


def evicted(made: PrefixTree, column: int) -> list[str]:
    """The blocks that a column holds, as the prompts they end, in the order in which LRU
    evicts them: run by run, a run from its end."""
    found = []
    for node in made.held[column]:
        whole, bitmap = prompt_of(node), node.holds(column)
        held = [number for number in range(node.size) if bitmap >> number & 1]
        found += [whole[: node.depth + number + 1] for number in reversed(held)]
    return found


def levels(made: PrefixTree, prompt: str) -> list[int]:
    """By column, the blocks of a prompt that it holds or expects without a hole."""
    columns = sorted(made.held)
    match = made.match(keys(prompt), sum(1 << column for column in columns))
    return [
        next((blocks for mask, blocks in match.levels if mask >> column & 1), 0)
        for column in columns
    ]


def check(made: PrefixTree) -> None:
    """All that is true of a tree in which nothing is expected."""
    check_tree(made)
    check_merged(made)


def random_prompt(choose: random.Random, most: int = 12) -> str:
    return "".join(choose.choices("ab", k=choose.randint(1, most)))
