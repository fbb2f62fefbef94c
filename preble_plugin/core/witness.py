"""What a replica's own reports teach its time model.

1. Between two reports the engine computed dn tokens of prefill in dt seconds. The
   first tokens seen meanwhile say of what requests: their number, new tokens N,
   context, and product. A report and the first tokens do not cut time at the same
   place, so the sums are scaled by dn / N, and dt then stands for them.
2. Where dn and N are too far apart (a long prompt is computed in pieces, and its
   first token comes after the last), the interval goes on to the next report. After
   `PATIENCE_SECONDS` it is given up.
3. Decode is one observation an interval: its steps, at their mean batch, with the
   mean context of the requests that we know to run.
4. The engine's clock around its own steps is the better witness than the times at
   which outputs came to us. So once reports have taught a law (prefill, decode), and
   while they come, outputs do not teach it; `SILENCE_SECONDS` after the last report,
   or when an interval was given up or the engine began anew, they do again until a
   report teaches.
"""

from __future__ import annotations

from typing import Final

from preble_plugin.core.report import LoadReport
from preble_plugin.core.time_model import TimeModel

PATIENCE_SECONDS: Final = 30.0
SILENCE_SECONDS: Final = 10.0
_MOST_APART: Final = 1.25
"""How many times more, or less, an engine may have computed than its first tokens say."""

_NEVER: Final = LoadReport(0.0, 0, 0)
_NOTHING: Final = (0, 0, 0, 0)


class Witness:
    """Teaches one replica's `model` from its reports. Every method is O(1), about
    1 us, and 25 us more where a report teaches both laws."""

    __slots__ = (
        "_heard_at",
        "_last",
        "_model",
        "_prefill_since",
        "_request_seconds",
        "_started",
        "_teaches_decode",
        "_teaches_prefill",
        "_token_seconds",
    )

    def __init__(self, model: TimeModel) -> None:
        self._model = model
        self._last: LoadReport | None = None
        self._heard_at = float("-inf")
        self._request_seconds = self._token_seconds = 0.0
        """Our own sums at the last report."""
        self._prefill_since = _NEVER
        """Where the interval of prefill began."""
        self._started = _NOTHING
        """Of the first tokens since: requests, new tokens, context, and product."""
        self._teaches_prefill = self._teaches_decode = False

    def knows_prefill(self, now: float) -> bool:
        """Whether reports teach prefill, and nothing else should."""
        return self._teaches_prefill and now - self._heard_at <= SILENCE_SECONDS

    def knows_decode(self, now: float) -> bool:
        """Whether reports teach decode, and nothing else should."""
        return self._teaches_decode and now - self._heard_at <= SILENCE_SECONDS

    def started(
        self, requests: int, new_tokens: int, context_tokens: int, new_times_context: int
    ) -> None:
        """First tokens came; the figures are sums over their requests."""
        if self._last is not None:
            one, new, context, product = self._started
            self._started = (
                one + requests,
                new + new_tokens,
                context + context_tokens,
                product + new_times_context,
            )

    def heard(
        self, report: LoadReport, request_seconds: float, token_seconds: float, now: float
    ) -> None:
        """A report came that was taken after all before. The seconds are our own sums
        since the start: the time that requests ran, and that their context stood."""
        self._heard_at = now
        last, self._last = self._last, report
        ran, self._request_seconds = request_seconds - self._request_seconds, request_seconds
        stood, self._token_seconds = token_seconds - self._token_seconds, token_seconds
        if last is None or report.began_anew(last):
            self._teaches_prefill = self._teaches_decode = False
            self._begin_prefill(report)
        else:
            self._hear_prefill(report)
            self._hear_decode(report, last, ran, stood)

    def _begin_prefill(self, report: LoadReport) -> None:
        self._prefill_since, self._started = report, _NOTHING

    def _hear_prefill(self, report: LoadReport) -> None:
        since = self._prefill_since
        tokens = report.prefill_tokens - since.prefill_tokens
        requests, new, context, product = self._started
        if not tokens and not new:
            self._begin_prefill(report)
        elif new < _MOST_APART * tokens and tokens < _MOST_APART * new:
            scale = tokens / new
            self._teaches_prefill = self._model.observe_prefill(
                requests * scale,
                tokens,
                context * scale,
                product * scale,
                report.prefill_seconds - since.prefill_seconds,
            )
            self._begin_prefill(report)
        elif report.as_of - since.as_of > PATIENCE_SECONDS:
            self._teaches_prefill = False
            self._begin_prefill(report)

    def _hear_decode(self, report: LoadReport, last: LoadReport, ran: float, stood: float) -> None:
        steps = report.decode_steps - last.decode_steps
        requests = report.decode_requests - last.decode_requests
        if steps > 0 and requests > 0 and ran > 0.0:
            batch = requests / steps
            tokens = max(report.decode_tokens - last.decode_tokens, requests)
            self._teaches_decode = self._model.observe_decode(
                tokens / batch,
                batch * stood / ran,
                batch,
                report.decode_seconds - last.decode_seconds,
            )
