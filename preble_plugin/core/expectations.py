"""What was dispatched and is not yet stored.

1. A placement expects its replica to hold the prompt's blocks, so that a burst
   with one new prefix stays together.
2. The expectation of a run of blocks ends with the event that stores it.
3. Else it ends one second after its request finished (what was to be stored has
   been announced by then), or at once when the request is aborted.
4. Where the replica's events cannot be trusted, there is nothing else to go by:
   expectations then outlive their requests, and the oldest end when together
   they exceed what the cache can hold. They end when events can be trusted again.
5. So they do for a request whose blocks events do not tell from another's, however
   good the events are; these end when what is believed of the cache is forgotten.
6. A cleared cache holds nothing of what finished requests left, of either kind.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import Expectation, PrefixTree

GRACE_SECONDS: Final = 1.0
UNKNOWN_CAPACITY_BLOCKS: Final = 16_384
"""Blocks expected of a replica whose capacity is not known, where they are kept."""

KEPT_REQUESTS: Final = 8_192
"""Finished requests whose expectations are kept on a replica."""


class Expectations:
    """The expectations of one replica, in its main column."""

    def __init__(self, tree: PrefixTree, column: int, awaited: Awaited) -> None:
        self._tree = tree
        self._column = column
        self._awaited = awaited
        self._expected: dict[str, Expectation] = {}
        self._kept: OrderedDict[str, bool] = OrderedDict()
        """Finished requests, oldest first, and whether events tell of their blocks."""

    def begin(self, request_id: str, path: list[Node], first_use: int = 0) -> None:
        """A request was dispatched whose prompt is `path`, of one node or more;
        `first_use` is as in `PrefixTree.expect`. O(path)."""
        self._expected[request_id] = self._tree.expect(path, self._column, first_use)
        self._awaited.by_request[request_id] = self

    def leaf(self, request_id: str) -> Node | None:
        """The last node of a request's prompt, where its blocks are now. O(1)."""
        found = self._expected.get(request_id)
        return None if found is None else self._tree.settle(found[0])

    def finish(self, request_id: str, now: float) -> None:
        """The request finished, and its replica's events can be trusted. O(1)."""
        if request_id in self._expected:
            due = (now + GRACE_SECONDS, self, request_id, self._expected[request_id])
            self._awaited.due.append(due)

    def keep(self, request_id: str, capacity_blocks: int | None, events_tell: bool) -> None:
        """The request finished, and its replica's events cannot be trusted, or do not
        tell of its blocks. O(1) amortised, plus the paths of those that give way."""
        if request_id in self._expected:
            self._kept[request_id] = events_tell
            bound = capacity_blocks or UNKNOWN_CAPACITY_BLOCKS
            expected = self._tree.expected_blocks
            while self._kept and (
                expected[self._column] > bound or len(self._kept) > KEPT_REQUESTS
            ):
                self.end(next(iter(self._kept)))

    def trust_again(self) -> None:
        """Events tell what is cached from now on: end what was kept for want of them.
        O(kept and their paths)."""
        self._end_kept(True)

    def forget(self) -> None:
        """What events told of the cache is forgotten: end what they did not tell of,
        and may be gone as well. O(kept and their paths)."""
        self._end_kept(False)

    def cleared(self) -> None:
        """The cache is empty: end all that was kept. O(kept and their paths)."""
        self._end_kept(True)
        self._end_kept(False)

    def _end_kept(self, told_by_events: bool) -> None:
        for request_id, events_tell in list(self._kept.items()):
            if events_tell is told_by_events:
                self.end(request_id)

    def end(self, request_id: str) -> None:
        """Nothing more is expected of a request. O(the part of its path that was
        expected)."""
        expected = self._expected.pop(request_id, None)
        if expected is not None:
            del self._awaited.by_request[request_id]
            self._kept.pop(request_id, None)
            self._tree.unexpect(expected, self._column)

    def expire(self, request_id: str, expected: Expectation) -> None:
        """`end`, unless the id stands for another prompt by now."""
        if self._expected.get(request_id) is expected:
            self.end(request_id)

    def close(self) -> None:
        """End everything."""
        for request_id in list(self._expected):
            self.end(request_id)


class Awaited:
    """The expectations of all replicas together. A request has them on one."""

    def __init__(self) -> None:
        self.by_request: dict[str, Expectations] = {}
        self.due: deque[tuple[float, Expectations, str, Expectation]] = deque()
        """What ends by itself, in order of time."""

    def expire(self, now: float) -> None:
        """End what is due. O(1) where nothing is."""
        due = self.due
        while due and due[0][0] <= now:
            _, expectations, request_id, expected = due.popleft()
            expectations.expire(request_id, expected)

    def end(self, request_id: str) -> None:
        """End what is expected of a request, on whichever replica. O(path)."""
        expectations = self.by_request.get(request_id)
        if expectations is not None:
            expectations.end(request_id)
