"""A replica played by the book: every step takes what its law says, and its outputs
and reports come as an engine's do."""

from __future__ import annotations

import random
from collections import deque

import msgspec

from preble_plugin.core.load import ReplicaLoad
from preble_plugin.core.report import LoadReport, Stillness
from preble_plugin.core.request import FirstToken
from preble_plugin.core.time_model import TimeModel

PREFILL = (2e-2, 5e-5, 4e-6, 6e-9)
"""Seconds per request, new token, context token and their product."""
DECODE = (8e-3, 4e-4, 4e-7)
"""Seconds per step, request in it, and context token in it."""
OUTPUT_TOKENS = 40


def prefill_seconds(new: int, prompt: int) -> float:
    fixed, linear, context, attention = PREFILL
    return fixed + linear * new + context * prompt + attention * new * prompt


def decode_step_seconds(requests: int, context: float) -> float:
    fixed, each, per_token = DECODE
    return fixed + each * requests + per_token * context


class _Request:
    def __init__(self, name: str, new: int, prompt: int) -> None:
        self.name = name
        self.new = new
        self.prompt = prompt
        self.left = new
        self.produced = 0


class PlayedReplica:
    """Serves a stream of requests in chunks of `chunk` tokens, prefill first, then a
    step of decode for all that run, and tells `load` of it.

    Outcomes come `delay` seconds late. Each step publishes what was so before it: the
    sums lack the step, and a request in it is neither running nor waiting (as in SGLang
    0.5.23, managers/scheduler.py, `process_batch_result`); what was published last is
    reported each 0.1 s. `slowness` multiplies the law.
    """

    def __init__(self, load: ReplicaLoad, *, chunk: int = 2048, delay: float = 0.004) -> None:
        self.load = load
        self.now = 100.0
        self.reports = 0
        self.wrongly_still = 0
        """Reports that seemed to prove that nothing was in hand while something was."""
        self.slowness = 1.0
        self._stillness = Stillness()
        self._chunk = chunk
        self._delay = delay
        self._draw = random.Random(7)
        self._queue: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._sums = LoadReport(self.now, 0, 0)
        self._published = self._sums
        self._mail: deque[tuple[float, _Request, bool]] = deque()
        self._next_report = self.now
        self._names = 0

    def restart(self) -> None:
        """Begin anew, with sums of nothing; what it had in hand is dropped."""
        for request in (*self._queue, *self._running):
            self.load.drop(request.name, self.now)
        self._queue.clear()
        self._running.clear()
        self._sums = self._published = LoadReport(self.now, 0, 0)

    def serve(self, requests: int, per_second: float, *, report: bool = True) -> None:
        """Serve so many requests to the end, that come at random."""
        arrivals = deque[float]()
        at = self.now
        for _ in range(requests):
            at += self._draw.expovariate(per_second)
            arrivals.append(at)
        while arrivals or self._queue or self._running or self._mail:
            while arrivals and arrivals[0] <= self.now:
                self._arrive(arrivals.popleft())
            self._publish()
            if self._queue:
                self._prefill()
            elif not self._running:
                self.now = min([*list(arrivals)[:1], *[one[0] for one in self._mail]])
            if self._running:
                self._decode()
            self._tell(report)

    def _arrive(self, at: float) -> None:
        prompt = int(2 ** self._draw.uniform(8, 14))
        new = max(int(prompt * self._draw.choice([0.05, 0.3, 1.0])), 1)
        self._names += 1
        request = _Request(f"request {self._names}", new, prompt)
        self._queue.append(request)
        self.load.placed(request.name, new, prompt, OUTPUT_TOKENS, at)

    def _prefill(self) -> None:
        room, seconds, tokens = self._chunk, 0.0, 0
        begun: list[_Request] = []
        while room and self._queue:
            request = self._queue[0]
            now = min(room, request.left)
            request.left -= now
            room -= now
            tokens += now
            whole = prefill_seconds(request.new, request.prompt)
            seconds += self.slowness * whole * now / request.new
            if not request.left:
                begun.append(self._queue.popleft())
        self.now += seconds
        self._publish()
        self._sums = msgspec.structs.replace(
            self._sums,
            prefill_tokens=self._sums.prefill_tokens + tokens,
            prefill_seconds=self._sums.prefill_seconds + seconds,
        )
        for request in begun:
            self._mail.append((self.now + self._delay, request, False))
        self._running += begun

    def _decode(self) -> None:
        batch = len(self._running)
        context = sum(one.prompt + one.produced for one in self._running)
        seconds = self.slowness * decode_step_seconds(batch, context)
        self.now += seconds
        self._publish()
        self._sums = msgspec.structs.replace(
            self._sums,
            decode_steps=self._sums.decode_steps + 1,
            decode_requests=self._sums.decode_requests + batch,
            decode_seconds=self._sums.decode_seconds + seconds,
        )
        for request in self._running:
            request.produced += 1
            if request.produced >= OUTPUT_TOKENS:
                self._mail.append((self.now + self._delay, request, True))
        self._running = [one for one in self._running if one.produced < OUTPUT_TOKENS]

    def _publish(self) -> None:
        self._published = msgspec.structs.replace(
            self._sums,
            as_of=self.now,
            running=len(self._running),
            waiting=max(len(self._queue) - 1, 0),  # the first may be in the step
        )

    def _tell(self, report: bool) -> None:
        while self._mail and self._mail[0][0] <= self.now:
            at, request, ended = self._mail.popleft()
            if ended:
                self.load.finished(request.name, request.produced, at)
            else:
                first = FirstToken(request.name, request.prompt - request.new)
                self.load.first_token([first], at)
        if report and self.now >= self._next_report:
            self._next_report = self.now + 0.1
            self.reports += 1
            self.load.reported(self._published, self.now)
            still = self._stillness.proves(self._published, self.load.latest_placement)
            self.wrongly_still += still and bool(self._queue or self._running)


def worst_prefill_error(model: TimeModel, slowness: float = 1.0) -> float:
    """Of the model's prices for requests such as the replica serves, as a share."""
    draw = random.Random(99)
    worst = 0.0
    for _ in range(300):
        prompt = int(2 ** draw.uniform(8, 14))
        new = max(int(prompt * draw.choice([0.05, 0.3, 1.0])), 1)
        law = slowness * prefill_seconds(new, prompt)
        worst = max(worst, abs(model.prefill_seconds(new, prompt) / law - 1))
    return worst


def worst_decode_error(model: TimeModel, slowness: float = 1.0) -> float:
    """Of the model's prices for steps of 2 to 16 requests, as a share."""
    worst = 0.0
    for running in (2, 4, 8, 16):
        for context in (1000, 4000):
            law = slowness * decode_step_seconds(running, running * context) / running
            worst = max(worst, abs(model.batch_seconds(1, context, running) / law - 1))
    return worst
