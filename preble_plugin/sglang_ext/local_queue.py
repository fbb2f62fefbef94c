"""The order in which a scheduler of SGLang takes up what waits: cached first.

1. What waits is a list. In each prefill pass SGLang's policy puts it in order, and the
   pass walks it from its head and takes up what fits. Where the policy is `fcfs` ours
   comes after it (`core/local_queue`).
2. *Before the walk* the list is met: who is in it and not in our queue came, or came
   back (retracted, or preempted by a higher priority); who is in the queue and not in the
   list was aborted. Whose turn is next go to the head of the list, about twice as many
   as the last pass took up; the others follow by priority and arrival.
3. *After the walk* those that left the list were taken up.
4. A request stores its prefix when its prefill is done. So of several that start alike,
   with little of that cached, the first goes and the others are put off to the end of
   the head, as `lpm` does. One that was passed by for that keeps its place from then on,
   and so this adds less than `MOST_AHEAD` to the bound of `core/local_queue`.

What fails here is counted and logged once; the list is then as SGLang has it, and the
queue starts anew with the next pass. Ranks of tensor parallelism walk their lists in
lockstep: the order depends on the list and on what is cached, and on nothing else.

A pass costs O(what waits) of set work, and the looks of `core/local_queue`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from preble_plugin.adapter.faults import Faults
from preble_plugin.core.local_queue import OVERTAKES, LocalQueue
from preble_plugin.sglang_ext import hooks

FEWEST_AHEAD: Final = 16
MOST_AHEAD: Final = 64
"""How many requests are put in order for one pass."""
BOUND: Final = OVERTAKES + MOST_AHEAD
"""How many later requests of its priority are taken up before a request, at most."""
_WHERE: Final = "the local queue"


class WaitingOrder:
    """The order of one scheduler's waiting list."""

    def __init__(self, policy: Any, faults: Faults) -> None:
        self._policy = policy
        self._faults = faults
        self._prioritised = hooks.has_priorities(policy)
        self._arrivals: dict[Any, int] = {}
        """Those that wait, numbered as they came."""
        self._numbers = 0
        self._once_taken: WeakSet[Any] = WeakSet()
        self._ahead = FEWEST_AHEAD
        self._start_anew()

    def _start_anew(self) -> None:
        self._queue: LocalQueue[Any] = LocalQueue(self._look)
        self._cached: dict[Any, int] = {}
        """Tokens found by the last look at each."""
        self._head: list[Any] | None = None
        """Put first in the pass that is under way."""
        self._put_off: set[Any] = set()
        """Those of them that start as another does."""
        self._passed_by: set[Any] = set()
        """Those that were put off in an earlier pass, which took others."""

    # -- a pass --------------------------------------------------------------------

    def before_walk(self, waiting: list[Any]) -> None:
        """Put the list in order, in place. Never raises."""
        try:
            self._meet(waiting)
            self._queue.begin_step()
            head = self._alike_last(self._queue.order(self._ahead))
            ordered = head + self._others(waiting, head)
            if len(ordered) != len(waiting):
                raise RuntimeError(f"of {len(waiting)} that wait {len(ordered)} have a place")
        except Exception:
            self._faults.note(_WHERE)
            self._start_anew()
            if not self._prioritised:  # else SGLang has just sorted it
                waiting.sort(key=lambda one: self._arrivals.get(one, self._numbers + 1))
            return
        waiting[:] = ordered
        self._head = head

    def after_walk(self, waiting: list[Any]) -> None:
        """See who was taken up. Never raises."""
        if self._head is None:
            return
        try:
            here, head = set(waiting), set(self._head)
            taken = [one for one in self._head if one not in here]
            self._ahead = min(max(FEWEST_AHEAD, self._ahead // 2, 2 * len(taken)), MOST_AHEAD)
            taken += [one for one in self._queue if one not in here and one not in head]
            for request in taken:
                self._queue.take(request)
                self._once_taken.add(request)
                self._forget(request)
            if taken:
                self._passed_by |= self._put_off
            self._head = None
        except Exception:
            self._faults.note(_WHERE)
            self._start_anew()

    # -- who waits -----------------------------------------------------------------

    def _meet(self, waiting: list[Any]) -> None:
        here = set(waiting)
        for request in [one for one in self._arrivals if one not in here]:
            self._queue.discard(request)
            self._forget(request)
        for request in waiting:
            if request not in self._arrivals:
                self._numbers += 1
                self._arrivals[request] = self._numbers
        if len(self._queue) == len(self._arrivals):
            return
        back = []
        for request in [one for one in self._arrivals if one not in self._queue]:
            if request in self._once_taken:
                back.append(request)
            else:
                tokens, priority = hooks.tokens_and_priority(self._policy, request)
                self._queue.add(request, max(tokens, 1), priority)
        for request in reversed(back):  # the one put back last goes first
            self._queue.put_back(request, hooks.tokens_and_priority(self._policy, request)[1])

    def _forget(self, request: Any) -> None:
        self._arrivals.pop(request, None)
        self._cached.pop(request, None)
        self._put_off.discard(request)
        self._passed_by.discard(request)

    def _look(self, request: Any) -> int:
        try:
            found = self._cached[request] = hooks.cached_tokens(self._policy, request)
        except Exception:
            self._faults.note("a look at the cache")
            return 0
        return found

    # -- their order ---------------------------------------------------------------

    def _alike_last(self, head: list[Any]) -> list[Any]:
        little, alike = hooks.alike_tokens()
        first: list[Any] = []
        put_off: list[Any] = []
        starts: set[Hashable] = set()
        for request in head:
            if self._cached.get(request, little + 1) <= little:
                start = hooks.start_of_prompt(request, alike)
                if start in starts and request not in self._passed_by:
                    put_off.append(request)
                    continue
                if start is not None:
                    starts.add(start)
            first.append(request)
        self._put_off = set(put_off)
        return first + put_off

    def _others(self, waiting: list[Any], head: list[Any]) -> list[Any]:
        ahead = set(head)
        # With priorities SGLang has just sorted the list by them, and by arrival.
        listed = waiting if self._prioritised else self._arrivals
        return [one for one in listed if one not in ahead]


class WaitingOrders:
    """What the hooks of a scheduler process call: the order of each policy's list."""

    def __init__(self) -> None:
        self.faults = Faults(hooks.logger(), "SGLang", "order of what waits")
        self._orders: WeakKeyDictionary[Any, WaitingOrder | None] = WeakKeyDictionary()

    def before_walk(self, policy: Any, waiting: list[Any]) -> None:
        """A pass is about to walk the list. Never raises."""
        try:
            if policy not in self._orders:
                self._orders[policy] = self._order(policy)
            order = self._orders[policy]
        except Exception:
            self.faults.note(_WHERE)
            return
        if order is not None:
            order.before_walk(waiting)

    def after_walk(self, policy: Any, waiting: list[Any]) -> None:
        """A pass is over. Never raises."""
        order = self._orders.get(policy)
        if order is not None:
            order.after_walk(waiting)

    def _order(self, policy: Any) -> WaitingOrder | None:
        if not hooks.takes_in_turn(policy):
            return None
        hooks.logger().info(
            "what waits is taken up by preble: cached first, nobody overtaken more than %d times",
            BOUND,
        )
        return WaitingOrder(policy, self.faults)
