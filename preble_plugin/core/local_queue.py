"""The order in which one replica takes up what waits: what is cached now goes first.

1. *Priorities* of the user come first, strictly: the lowest value, as in the engines.
2. Among equals those that were taken before and came back (preempted, or put off by
   the engine) go first of all, the last one put back before the others.
3. Then `local_queue_turns`: groups by what of the prompt is cached now, served in
   proportion, the earliest of a group first, and nobody overtaken more than `overtakes`
   times: of the requests of its priority that came later, no more than so many are
   taken for the first time before it. (An engine that passes over the request it is
   offered overtakes at its own will; it is offered that one again, first of all.)
4. What is cached changes while requests wait. The queue *looks* (asks how many tokens
   of a request are cached) at most `looks` times a step: up to half of them at those
   that came, a quarter round among the others, the rest at whose turn it is, lest it
   go for what was evicted since. A request not yet looked at stands in the lowest
   group; one that waits alone needs no look.

Pure: no clock, no engine; equal calls give an equal order, so that ranks that work in
lockstep agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import Final, Generic, TypeVar

from preble_plugin.core.local_queue_turns import GROUPS, Taken, Turns, Waiting

OVERTAKES: Final = 64
"""The bound. Less saves less work where the cache is small, and more puts the last ones
off further where it is not (docs/policies.md has both measured)."""
LOOKS: Final = 16
"""As good as looking at all that wait, in every load that was measured."""

_SLACK: Final = 32
"""Priorities that nobody has any more that are kept, beyond as many as there are."""

T = TypeVar("T", bound=Hashable)


def group_by_share(prompt_tokens: int, cached_tokens: int) -> int:
    """The paper's group: the share of the prompt that is cached, in tenths; 63 % is
    group 6, and below 15 % it is group 1, with what is not cached at all."""
    twice = 2 * GROUPS * min(cached_tokens, prompt_tokens)
    return max(1, (twice + prompt_tokens) // (2 * prompt_tokens))


class _Class(Generic[T]):
    """Requests of one priority."""

    __slots__ = ("back", "turns")

    def __init__(self, overtakes: int) -> None:
        self.back: OrderedDict[T, Waiting[T]] = OrderedDict()
        """Those that came back, the first to go first."""
        self.turns: Turns[T] = Turns(overtakes)

    def __len__(self) -> int:
        return len(self.back) + len(self.turns)


class LocalQueue(Generic[T]):
    """Requests that wait on one replica; any hashable thing stands for one.

    `look` says how many tokens of a request's prompt are cached now, from its start
    (0 up to all of it). It is called within `begin_step`, `peek`, `pop`, `order` and
    `look_again`, of requests that wait, and must not change the queue. What it raises
    passes through, and nothing is lost or out of order.
    Costs are amortised, over n that wait.
    """

    def __init__(
        self,
        look: Callable[[T], int],
        *,
        overtakes: int = OVERTAKES,
        looks: int = LOOKS,
    ) -> None:
        self._look = look
        self._overtakes = overtakes
        self._looks = self._looks_left = looks
        self._classes: dict[int, _Class[T]] = {}
        self._priorities: list[int] = []
        """A heap of the keys of `_classes`, and of some that are gone."""
        self._items: dict[T, Waiting[T]] = {}
        self._fresh: OrderedDict[T, None] = OrderedDict()
        """Those never looked at, the first to come first."""
        self._round: OrderedDict[T, None] = OrderedDict()
        """The others that have turns, the next to be looked at first."""
        self._numbers = 0
        self._step = 0
        self._due: Waiting[T] | None = None
        """What `peek` found, until something changes."""

    # -- what waits ----------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[T]:
        """All that wait, in the order in which they were added or put back."""
        return iter(self._items)

    def add(self, item: T, prompt_tokens: int, priority: int = 0) -> None:
        """A request comes. O(log n).

        Raises ValueError for one that waits already, and for a prompt of no tokens.
        """
        if prompt_tokens < 1:
            raise ValueError(f"a prompt has at least 1 token, got {prompt_tokens}")
        waiting = self._enter(item, prompt_tokens, priority)
        self._classes[priority].turns.add(waiting)
        self._fresh[item] = None

    def put_back(self, item: T, priority: int = 0) -> None:
        """A request that was taken comes back, before all of its priority. O(log n).

        Raises ValueError for one that waits already.
        """
        waiting = self._enter(item, 0, priority)
        back = self._classes[priority].back
        back[item] = waiting
        back.move_to_end(item, last=False)

    def discard(self, item: T) -> bool:
        """A request leaves without being taken (an abort); whether it waited.
        O(log n)."""
        waiting = self._items.get(item)
        if waiting is None:
            return False
        if waiting.prompt_tokens:
            self._classes[waiting.priority].turns.drop(waiting)
        self._leave(waiting)
        return True

    # -- who is next ---------------------------------------------------------------

    def begin_step(self) -> None:
        """The engine begins to fill a batch: `looks` requests may be looked at anew.
        O(looks log n)."""
        self._step += 1
        self._looks_left = self._looks
        self._due = None
        if len(self._items) < 2:
            return
        for some, most in ((self._fresh, self._looks // 2), (self._round, self._looks // 4)):
            for item in list(islice(some, most)):
                if self._items[item].looked_at != self._step:
                    self.look_again(item)

    def look_again(self, item: T) -> None:
        """What is cached of a request may have changed: ask. Nothing happens for one
        that came back or does not wait. O(log n)."""
        waiting = self._items.get(item)
        if waiting is None or not waiting.prompt_tokens:
            return
        self._looks_left -= 1
        waiting.looked_at = self._step
        self._fresh.pop(item, None)
        self._round[item] = None
        self._round.move_to_end(item)
        group = group_by_share(waiting.prompt_tokens, self._look(item))
        if group != waiting.group:
            self._due = None
            self._classes[waiting.priority].turns.move(waiting, group)

    def peek(self) -> T:
        """The request whose turn it is: the same until something changes, or a step
        begins. O(groups + looks log n). Raises IndexError where nothing waits."""
        if self._due is None:
            self._due = self._choose()
        return self._due.item

    def pop(self) -> T:
        """Take what `peek` shows. Raises IndexError where nothing waits."""
        item = self.peek()
        self.take(item)
        return item

    def take(self, item: T) -> None:
        """The engine takes a request up, in its turn or out of it. O(log n).
        Raises KeyError for one that does not wait."""
        waiting = self._items[item]
        if waiting.prompt_tokens:
            self._classes[waiting.priority].turns.take(waiting)
        self._leave(waiting)

    def order(self, limit: int) -> list[T]:
        """The first `limit` of what `pop` would give, one after the other, if nothing
        changed; nothing is taken. O(limit log n + looks log n)."""
        found: list[T] = []
        for priority in sorted(self._classes):
            kind = self._classes[priority]
            found += islice(kind.back, limit - len(found))
            done: list[Taken[T]] = []
            try:
                while kind.turns and len(found) < limit:
                    done.append(kind.turns.take(self._due_of(kind.turns)))
                    found.append(done[-1].waiting.item)
            finally:
                while done:
                    kind.turns.untake(done.pop())
        return found

    def _choose(self) -> Waiting[T]:
        if not self._items:
            raise IndexError("nothing waits")
        while self._priorities[0] not in self._classes:
            heappop(self._priorities)
        kind = self._classes[self._priorities[0]]
        return next(iter(kind.back.values())) if kind.back else self._due_of(kind.turns)

    def _due_of(self, turns: Turns[T]) -> Waiting[T]:
        """Whose turn it is by what is cached now, as far as looks last."""
        while True:
            due = turns.due()
            group = due.group
            known = due.looked_at == self._step or turns.forced or len(turns) == 1
            if known or self._looks_left <= 0:
                return due
            self.look_again(due.item)
            if due.group == group:
                return due

    # -- coming and going ----------------------------------------------------------

    def _enter(self, item: T, prompt_tokens: int, priority: int) -> Waiting[T]:
        if item in self._items:
            raise ValueError(f"{item!r} waits already")
        if priority not in self._classes:
            self._classes[priority] = _Class(self._overtakes)
            heappush(self._priorities, priority)
        self._numbers += 1
        waiting = self._items[item] = Waiting(item, prompt_tokens, priority, self._numbers)
        self._due = None
        return waiting

    def _leave(self, waiting: Waiting[T]) -> None:
        item = waiting.item
        del self._items[item]
        self._due = None
        if waiting.prompt_tokens:
            self._fresh.pop(item, None)
            self._round.pop(item, None)
        else:
            del self._classes[waiting.priority].back[item]
        if not self._classes[waiting.priority]:
            del self._classes[waiting.priority]
            if len(self._priorities) > 2 * len(self._classes) + _SLACK:
                self._priorities = sorted(self._classes)
