"""What waits in one engine core, in the order of `core/local_queue`.

1. vLLM's scheduler has a queue of its own, `waiting`. `WaitingQueue` takes its place:
   cached work first, within a bound, and those that came back (preempted, put off)
   before all, as they do in vLLM. Requests that hold blocks wait in another queue of
   vLLM's; they are taken up first.
2. Beside the order it keeps what waits as first come, first served would have it. If
   ours fails, vLLM's own queue is filled with that and goes on; what a peek has shown
   is still what the next pop gives, for the scheduler has made room for it.
3. A look that fails counts as nothing cached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from preble_plugin.adapter.contract import verify
from preble_plugin.adapter.faults import Faults
from preble_plugin.core.local_queue import OVERTAKES, LocalQueue
from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.contract import QUEUE
from preble_plugin.vllm_ext.facts import QueueFacts
from preble_plugin.vllm_ext.known import VLLM

_TOLD_EVERY: Final = 1000
"""Requests taken up between two lines in the log, at level DEBUG."""


def waiting_queue(scheduler: Any) -> WaitingQueue | None:
    """The queue for a scheduler that has just been built; None, which is logged, where
    that is not to be had: its own then stays."""
    try:
        verify(VLLM, hooks.version(), QUEUE)
        queue = WaitingQueue(hooks.queue_facts(scheduler))
    except Exception:
        hooks.logger().exception("preble's local queue failed to start; vLLM's own is used")
        return None
    hooks.logger().info("what waits is taken up by preble's local queue: cached work first")
    return queue


class WaitingQueue:
    """A `RequestQueue` of vLLM (`v1/core/sched/request_queue.py`). It does not raise but
    for `peek_request` and `pop_request` of an empty one: IndexError, as there.

    `overtakes` is how many later requests of its priority may be taken up before one.
    """

    def __init__(self, facts: QueueFacts, *, overtakes: int = OVERTAKES) -> None:
        self._facts = facts
        self._own = facts.own_queue
        self._order: LocalQueue[Any] | None = LocalQueue(
            self._cached_tokens, overtakes=overtakes, looks=facts.looks
        )
        """None once it has failed."""
        self._faults = Faults(hooks.logger(), "vLLM", "order of what waits")
        self.faults = self._faults.counts
        """Faults of our own, by where they happened."""
        self._waiting: OrderedDict[Any, None] = OrderedDict()
        """All that wait, as first come, first served would take them up."""
        self._shown: Any = None
        """What `peek_request` showed, until something changes."""
        self._taken = self._early = 0

    def begin_step(self) -> None:
        """The engine begins to fill a batch."""
        self._shown = None
        self._change("begin_step", lambda order: order.begin_step(), lambda _: None)

    # -- what vLLM asks of a queue -------------------------------------------------

    def add_request(self, request: Any) -> None:
        """A request comes."""
        self._waiting[request] = None
        self._change(
            "add_request",
            lambda order: order.add(request, hooks.prompt_tokens(request), self._priority(request)),
            lambda own: own.add_request(request),
        )

    def prepend_request(self, request: Any) -> None:
        """A request that was taken comes back, before the others of its priority."""
        self._waiting[request] = None
        self._waiting.move_to_end(request, last=False)
        self._change(
            "prepend_request",
            lambda order: order.put_back(request, self._priority(request)),
            lambda own: own.prepend_request(request),
        )

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """Several come back: the last one named is then before the others."""
        for request in list(requests):
            self.prepend_request(request)

    def peek_request(self) -> Any:
        """The request that `pop_request` takes."""
        if not self._waiting:
            raise IndexError("peek from an empty queue")
        if self._shown is None and self._order is not None:
            try:
                self._shown = self._order.peek()
            except Exception:
                self._fall_back("peek_request")
        if self._shown is None:
            self._shown = self._own.peek_request()
        return self._shown

    def pop_request(self) -> Any:
        """Take what `peek_request` shows."""
        request = self.peek_request()
        self._tell(request)
        del self._waiting[request]
        self._change(
            "pop_request",
            lambda order: order.take(request),
            lambda own: own.remove_request(request),
        )
        return request

    def remove_request(self, request: Any) -> None:
        """A request leaves untaken, if it waits here."""
        if request in self._waiting:
            del self._waiting[request]
            self._change(
                "remove_request",
                lambda order: order.discard(request),
                lambda own: own.remove_request(request),
            )

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """These leave untaken, as far as they wait here."""
        for request in list(requests):
            self.remove_request(request)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Any]:
        """First come, first served, which is not the order they are taken up in."""
        return iter(list(self._waiting))

    # -- ours, or else vLLM's ------------------------------------------------------

    def _cached_tokens(self, request: Any) -> int:
        try:
            return self._facts.cached_tokens(request)
        except Exception:
            self._faults.note("a look of the local queue")
            return 0

    def _priority(self, request: Any) -> int:
        return hooks.priority(request) if self._facts.by_priority else 0

    def _change(
        self,
        where: str,
        ours: Callable[[LocalQueue[Any]], object],
        own: Callable[[Any], object],
    ) -> None:
        """`_waiting` has changed: let the order in force follow."""
        self._shown = None
        if self._order is None:
            own(self._own)
            return
        try:
            ours(self._order)
        except Exception:
            self._fall_back(where)

    def _fall_back(self, where: str) -> None:
        """From here on vLLM's own queue holds what waits."""
        self._faults.note(f"the local queue's {where}")
        self._order = None
        for request in self._waiting:
            self._own.add_request(request)

    def _tell(self, request: Any) -> None:
        self._taken += 1
        self._early += request is not next(iter(self._waiting))
        if self._taken % _TOLD_EVERY == 0:
            hooks.logger().debug(
                "preble's local queue: %d requests taken up, %d before an earlier one, %d wait",
                *(self._taken, self._early, len(self._waiting) - 1),
            )
