"""What a replica's outputs teach its time model, and its reports.

1. First tokens that come together are one observation of prefill: their new
   tokens, in the time since the previous first tokens or since the earliest of
   them was placed, whichever is later. Messages to different front ends that
   come within one step's time are put together, so the last group is learned
   when the next event shows that it is complete.
2. A finish is an observation of decode: its steps, in the time since its first
   token less the prefill that the replica did meanwhile, over the mean batch of
   that time. Prefill counts there as predicted, at most as long as it took.
3. Where the replica reports what it computes, its reports teach instead (`witness`).
4. First tokens of requests that loaded a part of their prompt from a slower medium teach
   what that load costs: the time beyond what the rest takes to compute. Where loads from
   several media came together they teach nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from preble_plugin.core.report import LoadReport
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.witness import Witness

_SAME_STEP_SECONDS: Final = 0.002
_LEAST_STEPS: Final = 2
_LEAST_DECODE_PART: Final = 0.1
"""Of a request's decode time, what must remain without prefill to learn from."""


class Mark(NamedTuple):
    """A moment of a replica's life: sums since its start, in seconds,
    request seconds, and token seconds."""

    at: float
    prefill: float
    running: float
    context: float


class Calibration:
    """Feeds one replica's `model`. Every method is O(1), about 1 us, and 6 us
    more where an observation is complete."""

    __slots__ = ("_group", "_group_at", "_loaded", "_mark", "_model", "_previous", "_witness")

    def __init__(self, model: TimeModel) -> None:
        self._model = model
        self._witness = Witness(model)
        self._mark = Mark(float("-inf"), 0.0, 0.0, 0.0)
        self._previous = float("-inf")
        self._group = (0, 0, 0, 0, 0.0)
        self._group_at = float("-inf")
        self._loaded: dict[str, int] = {}
        """Tokens that the group loaded, by medium."""

    def passed(self, now: float, running: int, context_tokens: int) -> Mark:
        """Until `now`, `running` requests with `context_tokens` between them were
        in the batch. To be called before either changes."""
        at, prefill, running_area, context_area = self._mark
        if at < now:
            elapsed = now - at if running else 0.0
            self._mark = Mark(
                now,
                prefill,
                running_area + elapsed * running,
                context_area + elapsed * context_tokens,
            )
        return self._mark

    def prefilled(
        self,
        requests: int,
        new_tokens: int,
        context_tokens: int,
        new_times_context: int,
        earliest: float,
        now: float,
        loads: Sequence[tuple[str, int]] = (),
    ) -> Mark:
        """First tokens came for `requests`, the earliest of them placed at
        `earliest`; the figures are sums over them. `loads` lists what they loaded:
        media, and tokens."""
        self.settle(now)
        self._witness.started(requests, new_tokens, context_tokens, new_times_context)
        seconds = max(now - max(earliest, self._previous), 0.0)
        self._previous = max(self._previous, now)
        expected = self._model.queue_seconds(
            requests, new_tokens, context_tokens, new_times_context
        )
        group = self._group
        self._group = (
            group[0] + requests,
            group[1] + new_tokens,
            group[2] + context_tokens,
            group[3] + new_times_context,
            group[4] + seconds,
        )
        self._group_at = now
        for medium, tokens in loads:
            self._loaded[medium] = self._loaded.get(medium, 0) + tokens
        mark = self._mark
        self._mark = mark._replace(prefill=mark.prefill + min(seconds, expected))
        return self._mark

    def decoded(self, since: Mark, output_tokens: int) -> None:
        """A request that had its first token at `since` ended with
        `output_tokens`, at the time last `passed`."""
        now = self._mark
        if self._witness.knows_decode(now.at):
            return
        elapsed = now.at - since.at
        seconds = elapsed - (now.prefill - since.prefill)
        if output_tokens > _LEAST_STEPS and seconds > _LEAST_DECODE_PART * elapsed:
            self._model.observe_decode(
                output_tokens - 1,
                (now.context - since.context) / elapsed,
                (now.running - since.running) / elapsed,
                seconds,
            )

    def reported(self, report: LoadReport, now: float) -> None:
        """The replica said this of itself, after all that it said before. To be called
        once `passed` until `now`."""
        self._witness.heard(report, self._mark.running, self._mark.context, now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Learn from the last first tokens if no more of their step can come."""
        if self._group[0] and now - self._group_at > _SAME_STEP_SECONDS:
            if self._loaded:
                if len(self._loaded) == 1:
                    ((medium, tokens),) = self._loaded.items()
                    *computed, seconds = self._group
                    self._model.observe_load(
                        medium, tokens, seconds - self._model.queue_seconds(*computed)
                    )
                self._loaded = {}
            elif not self._witness.knows_prefill(now):
                self._model.observe_prefill(*self._group)
            self._group = (0, 0, 0, 0, 0.0)
