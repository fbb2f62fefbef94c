"""The blocks that requests in flight fill, each once however many share it.

1. A request's prompt is in flight on one replica from its placement to its end.
2. The prompts stand in a prefix tree of their own, where replicas hold nothing
   and only expect: how many blocks a column expects is what is asked for.
3. Full blocks of prompts count; their rests and what was produced do not.

An engine's cache is filled so by the requests it runs; those that wait are
counted here too. Kept only for policies that ask (`Bookings.active_blocks`).
"""

from __future__ import annotations

from preble_plugin.core.prefix_tree import Expectation, PrefixTree
from preble_plugin.core.request import ReplicaId


class ActiveBlocks:
    """Blocks in flight, by replica. Memory O(blocks of prompts in flight)."""

    def __init__(self) -> None:
        self._tree = PrefixTree()
        self._columns: dict[ReplicaId, int] = {}
        self._mask = 0
        self._requests: dict[str, tuple[int, Expectation]] = {}

    def on(self, replica: ReplicaId) -> int:
        """Blocks in flight on a replica. O(1)."""
        column = self._columns.get(replica)
        return 0 if column is None else self._tree.expected_blocks[column]

    def shared(self, keys: bytes) -> dict[ReplicaId, int]:
        """By replica, the blocks from the start of a prompt that are in flight there;
        replicas without any are left out. O(nodes on the path + replicas)."""
        levels = self._tree.match(keys, self._mask).levels
        return {
            replica: blocks
            for replica, column in self._columns.items()
            for mask, blocks in levels
            if mask >> column & 1
        }

    def begin(self, request_id: str, replica: ReplicaId, keys: bytes) -> None:
        """A request with this prompt goes to a replica. Its id must not be in flight.
        O(nodes on the path + new blocks)."""
        column = self._columns.get(replica)
        if column is None:
            column = self._columns[replica] = self._tree.add_column()
            self._mask |= 1 << column
        if keys:
            match = self._tree.match(keys, self._mask)
            self._tree.grow(keys, match)
            self._requests[request_id] = column, self._tree.expect(match.path, column, 0)

    def end(self, request_id: str) -> None:
        """A request is in flight no more; unknown ones are ignored. O(path)."""
        found = self._requests.pop(request_id, None)
        if found is not None:
            column, expected = found
            self._tree.unexpect(expected, column)

    def forget(self, replica: ReplicaId) -> None:
        """A replica is gone, and what was in flight there. O(all in flight)."""
        column = self._columns.pop(replica, None)
        if column is None:
            return
        for request_id in [one for one, (on, _) in self._requests.items() if on == column]:
            self.end(request_id)
        self._mask &= ~(1 << column)
        self._tree.remove_column(column)
