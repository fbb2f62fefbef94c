"""What a walk down the prefix tree found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from preble_plugin.core.block_keys import KEY_BYTES

if TYPE_CHECKING:
    from preble_plugin.core.node import Node


class Match:
    """The path that a prompt's keys took.

    `levels` lists (mask of columns, blocks): each of those columns holds or
    expects exactly that many blocks from the start of the prompt without a
    hole. Columns that hold none are not listed.
    """

    __slots__ = ("blocks", "in_last", "layered", "levels", "path")

    def __init__(
        self,
        path: list[Node],
        blocks: int,
        in_last: int,
        levels: list[tuple[int, int]],
        layered: bool,
    ) -> None:
        self.path = path
        self.blocks = blocks
        """Blocks matched, whoever holds them."""
        self.in_last = in_last
        """Blocks matched in the path's last node if it was left half-way, else 0."""
        self.levels = levels
        self.layered = layered
        """Whether there are columns beside those that were followed."""

    def touched(self) -> int:
        """Mask of the columns that hold or expect a block of the path. O(path)."""
        found = 0
        for node in self.path:
            found |= node.holders | node.expected
            if node.partial:
                for column in node.partial:
                    found |= 1 << column
        return found

    def bitmap(self, column: int, expected: bool) -> int:
        """Bitmap of the matched blocks that a column holds, or expects if asked
        for. O(path)."""
        found = 0
        for node in self.path:
            if expected and node.expected >> column & 1:
                held = (1 << node.size) - 1
            else:
                held = node.holds(column)
            found |= held << node.depth
        return found & ((1 << self.blocks) - 1)


def first_difference(left: bytes, right: bytes) -> int:
    """Bytes of whole equal keys at the start of both. O(keys), vectorised."""
    size = min(len(left), len(right))
    equal = np.frombuffer(left, np.uint64, size // KEY_BYTES) == np.frombuffer(
        right, np.uint64, size // KEY_BYTES
    )
    return int(equal.argmin()) * KEY_BYTES if not equal.all() else size
