"""L: the work that one replica has been given and has not done, in seconds.

1. A request waits from its placement to its first token, then runs until it
   finishes or is dropped. Whatever is said of an unknown request is ignored.
2. Work left is kept as sums of tokens, integers that come back to exactly zero,
   and priced by the replica's time model whenever they change. Of the request
   at the head of the queue, what it was served already is taken off. A running
   request is expected to produce its whole output still (`output_lengths` says
   why), so no count per token is needed.
3. What a newcomer waits for is the prefill before it. Decode goes on beside it, and
   is told apart: requests in flight, and seconds of decode at a full batch.
4. First tokens and finishes, or the replica's own reports, calibrate the time
   model (`calibration`), and the window H counts what was assigned (`work_window`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from preble_plugin.core.calibration import Calibration, Mark
from preble_plugin.core.hits import Loads
from preble_plugin.core.report import LoadReport
from preble_plugin.core.request import FirstToken
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.work_window import WorkWindow

FULL_BATCH: Final = 32
"""Requests in a full batch, where the replica does not run fewer at most."""


class _Request:
    """A request in flight."""

    __slots__ = ("began", "expected", "hit", "loads", "new", "placed_at", "prompt")

    def __init__(
        self, new: int, prompt: int, expected: int, placed_at: float, hit: int, loads: Loads
    ) -> None:
        self.hit = hit
        self.loads = loads
        self.new = new
        self.prompt = prompt
        self.expected = expected
        self.placed_at = placed_at
        self.began: Mark | None = None

    @property
    def context(self) -> int:
        """Tokens it holds on average while it decodes."""
        return self.prompt + self.expected // 2

    def loaded(self) -> list[tuple[str, int]]:
        """The tokens of what it found cached that it loaded, by medium: those behind
        what the GPU was to have of the hit, as many as it found."""
        left = self.prompt - self.new - self.hit + sum(tokens for _, tokens in self.loads)
        found: list[tuple[str, int]] = []
        for medium, tokens in self.loads:
            if left > 0:
                found.append((medium, min(tokens, left)))
            left -= tokens
        return found


class ReplicaLoad:
    """Live work of one replica, and its window H.

    Times are seconds on one monotonic clock; a time before the last one is
    taken as no time passed. Memory O(requests in flight). Every method is O(1)
    amortised, `first_token` per request.
    """

    __slots__ = (
        "_calibration",
        "_context",
        "_decode_seconds",
        "_full_batch",
        "_head",
        "_head_seconds",
        "_head_since",
        "_max_running",
        "_new",
        "_new_times_context",
        "_output",
        "_output_times_context",
        "_prefill_seconds",
        "_running",
        "_running_context",
        "_waiting",
        "in_flight",
        "model",
        "window",
    )

    def __init__(
        self, model: TimeModel, window_seconds: float = 180.0, max_running: int | None = None
    ) -> None:
        self.model = model
        self._full_batch = FULL_BATCH
        self.window = WorkWindow(window_seconds)
        self._calibration = Calibration(model)
        self._waiting: OrderedDict[str, _Request] = OrderedDict()
        self._running: dict[str, _Request] = {}
        # Sums over those waiting, over those running, and over both.
        self._new = self._context = self._new_times_context = 0
        self._running_context = 0
        self._output = self._output_times_context = 0
        # The same, priced.
        self._prefill_seconds = self._head_seconds = self._decode_seconds = 0.0
        self._head: _Request | None = None
        self._head_since = float("-inf")
        self.in_flight = 0
        """Requests placed here that have not left."""
        self.max_running = max_running

    @property
    def max_running(self) -> int | None:
        """Requests it runs at once, or None where the engine does not say."""
        return self._max_running

    @max_running.setter
    def max_running(self, requests: int | None) -> None:
        self._max_running = requests
        self._full_batch = FULL_BATCH if requests is None else min(FULL_BATCH, requests)
        self._price()

    @property
    def waiting(self) -> int:
        """Requests placed here that have not produced a token."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests placed here that have produced a token and go on."""
        return len(self._running)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that those waiting have to be computed, as predicted: the one
        in service counts whole until its first token. O(1)."""
        return self._new

    def placed(
        self,
        request_id: str,
        new_tokens: int,
        prompt_tokens: int,
        expected_output_tokens: int,
        now: float,
        hit_tokens: int = 0,
        loads: Loads = (),
    ) -> None:
        """A request was placed here that misses `new_tokens` of its prompt, with what
        `loads` lists of the hit counted in as the computing that they cost. An id
        that is in flight already is taken as placed anew. About 4 us."""
        if request_id in self._waiting or request_id in self._running:
            self.drop(request_id, now)
        prompt = prompt_tokens if prompt_tokens > 0 else 0
        new = 0 if new_tokens < 0 else new_tokens if new_tokens < prompt else prompt
        expected = expected_output_tokens if expected_output_tokens > 0 else 0
        request = _Request(new, prompt, expected, now, hit_tokens, loads)
        if not self._waiting:
            self._head_since = now
        self._waiting[request_id] = request
        self._new += new
        self._context += prompt
        self._new_times_context += new * prompt
        self._output += expected
        self._output_times_context += expected * (prompt + expected // 2)
        self.window.assigned(new, prompt, expected, now)
        self._price()

    def resumed(
        self, request_id: str, prompt_tokens: int, expected_output_tokens: int, now: float
    ) -> None:
        """A request runs here of which no prefill is to be waited for: it had its first
        token before this load was kept, or another server computes its prompt. Of one
        whose first token comes yet, the decode teaches. O(1)."""
        self.placed(request_id, 0, prompt_tokens, expected_output_tokens, now)
        self._calibration.passed(now, len(self._running), self._running_context)
        request = self._waiting.pop(request_id)
        self._count_waiting(request, -1)
        self._running[request_id] = request
        self._running_context += request.context
        self._price()

    def first_token(self, outcomes: Sequence[FirstToken], now: float) -> None:
        """The first tokens of one engine output message. Where the engine says
        what it found cached, the time model learns from that; from one whose time is
        not its own it learns nothing."""
        mark = self._calibration.passed(now, len(self._running), self._running_context)
        started: list[_Request] = []
        for outcome in outcomes:
            request = self._waiting.pop(outcome.request_id, None)
            if request is None:
                if outcome.timed and (request := self._running.get(outcome.request_id)):
                    request.began = request.began or mark
                continue
            self._count_waiting(request, -1)
            cached = request.hit if request.loads else None
            if outcome.cached_tokens is not None:
                cached = outcome.cached_tokens
            if cached is not None:
                request.new = min(max(request.prompt - cached, 0), request.prompt)
            self._running[outcome.request_id] = request
            self._running_context += request.context
            if outcome.timed:
                started.append(request)
            elif request is self._head:
                self._head_since = now
        if not started:
            self._price()
            return
        mark = self._calibration.prefilled(
            len(started),
            sum(request.new for request in started),
            sum(request.prompt for request in started),
            sum(request.new * request.prompt for request in started),
            min(request.placed_at for request in started),
            now,
            [one for request in started if request.loads for one in request.loaded()],
        )
        for request in started:
            request.began = mark
        self._head_since = now
        self._price()

    def finished(self, request_id: str, output_tokens: int, now: float) -> None:
        """A request ended by itself after `output_tokens`. One that has output and was
        waiting still (both came in one message) has had its first token now."""
        if output_tokens > 0 and request_id in self._waiting:
            self.first_token([FirstToken(request_id, None)], now)
        self._calibration.passed(now, len(self._running), self._running_context)
        self._calibration.settle(now)
        request = self._running.get(request_id)
        if request is not None and request.began is not None:
            self._calibration.decoded(request.began, output_tokens)
        if self.drop(request_id, now):
            self.window.finished(max(output_tokens, 0), now)

    def drop(self, request_id: str, now: float) -> bool:
        """A request was aborted or failed: its work is no more; in the window it
        stays. Returns whether it was in flight."""
        self._calibration.passed(now, len(self._running), self._running_context)
        request = self._waiting.pop(request_id, None)
        if request is not None:
            self._count_waiting(request, -1)
            if request is self._head:
                self._head_since = now
        else:
            request = self._running.pop(request_id, None)
            if request is None:
                return False
            self._running_context -= request.context
        self._output -= request.expected
        self._output_times_context -= request.expected * request.context
        self._price()
        return True

    def reported(self, report: LoadReport, now: float) -> None:
        """The replica said this of itself, after all that it said before. About 30 us
        where the time model learns from it."""
        self._calibration.passed(now, len(self._running), self._running_context)
        self._calibration.reported(report, now)
        self._price()

    def latest_placement(self) -> float:
        """When the last of the requests in flight was placed; -inf if there is none.
        O(requests in flight)."""
        in_flight = (*self._waiting.values(), *self._running.values())
        return max((one.placed_at for one in in_flight), default=float("-inf"))

    def decode_seconds_left(self) -> float:
        """Decode expected of all in flight, as GPU seconds in a full batch."""
        return self._decode_seconds

    def load_seconds(self, now: float) -> float:
        """L, live: prefill of those waiting, less what the first of them was served.
        About 0.15 us."""
        left, served = self._prefill_seconds, now - self._head_since
        if served > 0.0:
            head = self._head_seconds
            left -= served if served < head else head
            if left < 0.0:
                left = 0.0
        return left

    def window_load_seconds(self, now: float) -> float:
        """L as in PREBLE 3.2: the work of all requests assigned within H."""
        return self.window.prefill_seconds(self.model, now) + self.window.decode_seconds(
            self.model, self._full_batch, now
        )

    def decode_share(self, now: float) -> float:
        """Share of decode in the window's work, 0 to 1 (IMBALR); 0 if it is empty."""
        decode = self.window.decode_seconds(self.model, self._full_batch, now)
        work = decode + self.window.prefill_seconds(self.model, now)
        return decode / work if work > 0.0 else 0.0

    def requests_in_window(self, now: float) -> int:
        """Requests assigned within H."""
        return self.window.requests(now)

    def _count_waiting(self, request: _Request, times: int) -> None:
        self._new += times * request.new
        self._context += times * request.prompt
        self._new_times_context += times * request.new * request.prompt

    def _price(self) -> None:
        model, waiting = self.model, self._waiting
        if waiting:
            self._head = head = next(iter(waiting.values()))
            requests = len(waiting)
            self._prefill_seconds = self._head_seconds = model.queue_seconds(
                requests, self._new, self._context, self._new_times_context
            )
            if requests > 1:
                self._head_seconds = model.queue_seconds(
                    1, head.new, head.prompt, head.new * head.prompt
                )
        else:
            self._head = None
            self._prefill_seconds = self._head_seconds = 0.0
        self._decode_seconds = model.batch_seconds(
            self._output, self._output_times_context, self._full_batch
        )
        self.in_flight = len(waiting) + len(self._running)
