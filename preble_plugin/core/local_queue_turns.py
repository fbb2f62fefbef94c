"""Whose turn it is among requests of one priority: groups in proportion, nobody left behind.

1. A request stands in one of P groups, 1 to P; in a group the earliest goes first.
   It may change its group at any time, and then stands there by its arrival.
2. Group g has weight g: while all have requests, each run of P (P + 1) / 2 turns has g
   of group g (paper, section 3.3: of 55 slots 10 from group 10, ... 1 from group 1).
   Each group has a *tag*, the virtual time of its next turn; the lowest tag has the
   turn, and rises by 1 / g. A group that was empty comes in one turn of its own from now.
3. A share that few requests have is more than they would get by arrival. So the turn
   goes to the earliest of that group *and of those above*: it may bring a request
   forward only against those with less in cache. (The paper does not say so. Where a
   large request that fits nowhere stops an engine, it is what makes the queue pay.)
4. A request is *overtaken* by each that came later and was taken sooner. While the
   earliest that waits has been overtaken `most` times, it goes, whatever its group.

Why 4 bounds all: who overtakes a request came later than it, so later than the earliest
that waits too, and overtakes that one as well. So nobody has been overtaken more often
than the earliest, and taking the earliest overtakes nobody.

A tag moves with its group's own turn alone, not where a request goes by 3 or 4.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from math import lcm
from operator import attrgetter
from typing import Final, Generic, NamedTuple, TypeVar

GROUPS: Final = 10
"""P of the paper."""

_ONE: Final = lcm(*range(1, GROUPS + 1))
"""Virtual time between two turns of a group of weight 1; whole for all weights."""

_SLACK: Final = 32
"""Stale places that a heap may have beyond as many as it has live ones."""

T = TypeVar("T")


class Waiting(Generic[T]):
    """One request that waits."""

    __slots__ = ("group", "item", "looked_at", "number", "priority", "prompt_tokens")

    def __init__(self, item: T, prompt_tokens: int, priority: int, number: int) -> None:
        self.item = item
        self.prompt_tokens = prompt_tokens
        self.priority = priority
        self.number = number
        """By arrival: of two, the later one's is higher."""
        self.group = 1
        self.looked_at = -1
        """The step in which its cached tokens were asked for last."""


class Taken(NamedTuple, Generic[T]):
    """One turn, as `Turns.untake` needs it."""

    waiting: Waiting[T]
    next_turn: int
    now: int
    early: int
    passed: list[int]


class Turns(Generic[T]):
    """Requests of one priority that never were taken. Bound: `most` overtakings."""

    __slots__ = ("_arrivals", "_early", "_heaps", "_live", "_most", "_next_turn", "_now")

    def __init__(self, most: int) -> None:
        self._most = most
        self._arrivals: OrderedDict[int, Waiting[T] | None] = OrderedDict()
        """By number, from the earliest that waits; None for one taken before its elders."""
        self._early = 0
        """How many of `_arrivals` are None: so often was the earliest overtaken."""
        self._heaps: list[list[int]] = [[] for _ in range(GROUPS + 1)]
        """Numbers by group; those of requests that are gone, or elsewhere, are stale."""
        self._live = [0] * (GROUPS + 1)
        self._now = 0
        self._next_turn = [0] * (GROUPS + 1)

    def __len__(self) -> int:
        return len(self._arrivals) - self._early

    def add(self, waiting: Waiting[T]) -> None:
        """A request comes, with a number above all before. O(log n)."""
        self._arrivals[waiting.number] = waiting
        self._enter(waiting)

    def move(self, waiting: Waiting[T], group: int) -> None:
        """A request changes its group. O(log n)."""
        if group != waiting.group:
            self._leave(waiting)
            waiting.group = group
            self._enter(waiting)

    def drop(self, waiting: Waiting[T]) -> None:
        """A request leaves untaken, and overtook nobody. O(1) amortised."""
        self._leave(waiting)
        del self._arrivals[waiting.number]
        self._pass()

    @property
    def forced(self) -> bool:
        """Whether the earliest has been overtaken as often as may be."""
        return self._early >= self._most

    def due(self) -> Waiting[T]:
        """Whose turn it is; somebody waits. O(groups), amortised."""
        if self.forced:
            earliest = next(iter(self._arrivals.values()))
            assert earliest is not None
            return earliest
        heads = [self._head(one) for one in range(self._lowest(), GROUPS + 1) if self._live[one]]
        return min(heads, key=attrgetter("number"))

    def take(self, waiting: Waiting[T]) -> Taken[T]:
        """A request is taken, in its turn or out of it. O(log n) amortised."""
        group, number = waiting.group, waiting.number
        taken = Taken(waiting, self._next_turn[group], self._now, self._early, [])
        if group == self._lowest():
            self._now = self._next_turn[group]
            self._next_turn[group] += _ONE // group
        self._leave(waiting)
        self._arrivals[number] = None
        self._early += 1
        taken.passed.extend(self._pass())
        return taken

    def untake(self, taken: Taken[T]) -> None:
        """The last turn not yet undone did not happen. O(log n + requests it passed)."""
        waiting = taken.waiting
        for number in reversed(taken.passed):
            self._arrivals[number] = None
            self._arrivals.move_to_end(number, last=False)
        self._arrivals[waiting.number] = waiting
        self._early = taken.early
        self._enter(waiting)
        self._now, self._next_turn[waiting.group] = taken.now, taken.next_turn

    # -- groups --------------------------------------------------------------------

    def _lowest(self) -> int:
        """The group with the lowest tag of those that have requests; of equals the one
        with the most in cache."""
        live, tags = self._live, self._next_turn
        return min((one for one in range(GROUPS, 0, -1) if live[one]), key=tags.__getitem__)

    def _enter(self, waiting: Waiting[T]) -> None:
        group = waiting.group
        if not self._live[group]:
            self._next_turn[group] = max(self._next_turn[group], self._now + _ONE // group)
        self._live[group] += 1
        heappush(self._heaps[group], waiting.number)

    def _leave(self, waiting: Waiting[T]) -> None:
        group = waiting.group
        heap = self._heaps[group]
        self._live[group] -= 1
        if heap[0] == waiting.number:
            heappop(heap)
        elif len(heap) > 2 * self._live[group] + _SLACK:
            heap[:] = {number for number in heap if self._is_in(number, group)}
            heapify(heap)

    def _is_in(self, number: int, group: int) -> bool:
        waiting = self._arrivals.get(number)
        return waiting is not None and waiting.group == group

    def _head(self, group: int) -> Waiting[T]:
        heap = self._heaps[group]
        while not self._is_in(heap[0], group):
            heappop(heap)
        waiting = self._arrivals[heap[0]]
        assert waiting is not None
        return waiting

    # -- arrivals ------------------------------------------------------------------

    def _pass(self) -> list[int]:
        """Forget those taken early whose elders are all gone; their numbers."""
        passed = []
        arrivals = self._arrivals
        while arrivals:
            number = next(iter(arrivals))
            if arrivals[number] is not None:
                break
            del arrivals[number]
            passed.append(number)
        self._early -= len(passed)
        return passed
