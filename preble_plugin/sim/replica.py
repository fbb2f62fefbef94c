"""One replica of an engine: continuous batching over a prefix cache, step by step.

1. A step takes a budget of tokens. Requests that run come first, one token each
   while they decode, the next chunk of their prompt before; then those that wait, in
   the order of their queue (first come, first served, or core's local queue), as long
   as budget, places and blocks last. A request that is taken up finds what the cache
   holds of its prompt, but for its last token.
2. Where a running request needs a block and there is none, the one taken up last
   gives its blocks back, and waits, first of all, to be computed anew.
3. Steps in which the same requests decode are taken together, until one of them
   ends or a request comes (`arrive` cuts them at the end of the step under way).
4. Each step leaves what the engine tells: cache events, first tokens, ends.

The order follows vLLM's scheduler (`vllm/v1/core/sched/scheduler.py`); SGLang's does
not differ in what counts here.
"""

from __future__ import annotations

from typing import NamedTuple

from preble_plugin.core.events import CacheEvent
from preble_plugin.core.local_queue import LocalQueue
from preble_plugin.core.request import Finished, FirstToken, Outcome
from preble_plugin.sim.cache import BlockCache
from preble_plugin.sim.first_come import FirstCome
from preble_plugin.sim.hardware import Hardware
from preble_plugin.sim.job import Job


class Told(NamedTuple):
    """What an engine tells after a step."""

    events: list[CacheEvent]
    outcomes: list[Outcome]
    ended: list[Job]


class Replica:
    """One engine. `ends_at` is when the step under way is over, None where it is idle."""

    def __init__(self, hardware: Hardware, cache: BlockCache, *, local_queue: bool = False) -> None:
        self.hardware = hardware
        self.cache = cache
        self.ends_at: float | None = None
        self.waiting: FirstCome[Job] | LocalQueue[Job] = FirstCome()
        if local_queue:
            self.waiting = LocalQueue(self._cached_tokens)
        self.running: list[Job] = []
        self.busy_seconds = 0.0
        self.preemptions = 0
        self.steps = 0
        self._began = 0.0
        self._many = 0
        """Steps under way, of requests that all decode; 0 for one of another kind."""
        self._context = 0
        self._chunks: list[tuple[Job, int]] = []

    # -- from outside --------------------------------------------------------------

    def arrive(self, job: Job, now: float) -> None:
        """A request comes. O(log steps)."""
        self.waiting.add(job, job.prompt_tokens)
        if self.ends_at is None:
            self._start(now)
        elif self._many > 1:
            self._cut(now)

    def step(self) -> Told:
        """The step under way is over, at `ends_at`, and the next one begins.
        O(requests in the batch + blocks filled)."""
        now = self.ends_at
        assert now is not None
        self.busy_seconds += now - self._began
        self.steps += max(self._many, 1)
        outcomes: list[Outcome] = []
        for job, tokens in self._chunks:
            job.computed += tokens
        for job in self.running:
            if self._many:
                job.computed += self._many
                job.generated += self._many
            elif job.computed == job.total:
                job.generated += 1
            else:
                continue
            if job.first_token_at is None:
                job.first_token_at = now
                outcomes.append(FirstToken(job.asked.request_id, job.cached_tokens))
        ended = [job for job in self.running if job.generated >= job.output_tokens]
        for job in self.running:
            self._name(job, job.computed)
        for job in ended:
            self.cache.release(job.names[: job.named], job.private)
            outcomes.append(Finished(job.asked.request_id, job.output_tokens))
        if ended:
            self.running = [job for job in self.running if job.generated < job.output_tokens]
        events, self.cache.events = self.cache.events, []
        self._start(now)
        return Told(events, outcomes, ended)

    # -- steps ---------------------------------------------------------------------

    def _start(self, now: float) -> None:
        self._began = now
        self._many = 0
        self._chunks = []
        if not self.running and not self.waiting:
            self.ends_at = None
            return
        preempted = self.preemptions
        budget = self._run_on(self.hardware.batch_tokens)
        prefills: list[tuple[int, int]] = []
        decoding = context = 0
        for job, tokens in self._chunks:
            if tokens > 1 or job.computed < job.prompt_tokens:
                prefills.append((tokens, job.computed + tokens))
            else:
                decoding += 1
                context += job.total
        if self.preemptions == preempted:
            prefills += self._take_up(budget)
        if prefills or not decoding:
            self.ends_at = now + self.hardware.step_seconds(prefills, decoding, context)
            return
        steps = self._steps_alike()
        for job, _ in self._chunks:
            self._room(job, job.computed + steps)
        self._chunks = []
        self._many, self._context = steps, context
        self.ends_at = now + self.hardware.decode_steps_seconds(decoding, context, steps)

    def _run_on(self, budget: int) -> int:
        """Give those that run their tokens of the step; what is left of the budget."""
        place = 0
        while place < len(self.running) and budget > 0:
            job = self.running[place]
            tokens = min(job.total - job.computed, budget)
            while not self._room(job, job.computed + tokens):
                last = self.running.pop()
                self._preempt(last)
                if last is job:
                    return budget
            self._chunks.append((job, tokens))
            if job.computed + tokens <= job.prompt_tokens:
                self._name(job, job.computed + tokens)
            budget -= tokens
            place += 1
        return budget

    def _take_up(self, budget: int) -> list[tuple[int, int]]:
        """Take up those that wait; what is computed of each: tokens, and context."""
        taken: list[tuple[int, int]] = []
        cache, size = self.cache, self.cache.block_size
        self.waiting.begin_step()
        while self.waiting and budget > 0 and len(self.running) < self.hardware.max_running:
            job = self.waiting.peek()
            hit = cache.find(job.names, (job.total - 1) // size)
            cache.hold(job.names[:hit])
            job.named, job.computed = hit, hit * size
            tokens = min(job.total - job.computed, budget)
            if not self._room(job, job.computed + tokens):
                cache.release(job.names[:hit], 0)
                job.named = job.computed = 0
                break
            self.waiting.pop()
            if job.cached_tokens is None:
                job.cached_tokens = job.computed
            self.running.append(job)
            self._chunks.append((job, tokens))
            self._name(job, job.computed + tokens)
            taken.append((tokens, job.computed + tokens))
            budget -= tokens
        return taken

    def _steps_alike(self) -> int:
        """Steps until one of the requests that all decode ends, or blocks run short."""
        steps = min(job.output_tokens - job.generated for job in self.running)
        most = (self.cache.free // len(self.running) - 1) * self.cache.block_size
        return max(min(steps, most), 1)

    def _cut(self, now: float) -> None:
        """Let the steps under way end with the one at `now`."""
        law, decoding, context = self.hardware, len(self.running), self._context
        low, high = 1, self._many
        while low < high:
            middle = (low + high) // 2
            if self._began + law.decode_steps_seconds(decoding, context, middle) < now:
                low = middle + 1
            else:
                high = middle
        self._many = low
        self.ends_at = self._began + law.decode_steps_seconds(decoding, context, low)

    # -- blocks --------------------------------------------------------------------

    def _cached_tokens(self, job: Job) -> int:
        """What would be found of a request's prompt, were it taken up now."""
        size = self.cache.block_size
        return self.cache.find(job.names, (job.prompt_tokens - 1) // size) * size

    def _room(self, job: Job, tokens: int) -> bool:
        """Have blocks for the first `tokens` tokens of a request."""
        needed = -(-tokens // self.cache.block_size) - job.named - job.private
        if needed > 0:
            if not self.cache.reserve(needed):
                return False
            job.private += needed
        return True

    def _name(self, job: Job, tokens: int) -> None:
        """The first `tokens` tokens of a request are computed, or about to be."""
        full = min(tokens // self.cache.block_size, len(job.names))
        if full > job.named:
            self.cache.name(job.names, job.named, full, job.tokens)
            job.private -= full - job.named
            job.named = full

    def _preempt(self, job: Job) -> None:
        self.preemptions += 1
        self.cache.release(job.names[: job.named], job.private)
        job.named = job.private = job.computed = 0
        self.waiting.put_back(job)
