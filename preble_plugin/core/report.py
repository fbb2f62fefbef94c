"""What a replica says of itself: how much it has in hand, and what it has done.

1. A `LoadReport` is a photograph of an engine: requests it has, and sums since it
   started. Two of them tell what was computed in between, and how long that took
   (`witness` learns from it).
2. Sums that fall are those of an engine that began anew.
3. An engine that has nothing to do has none of the requests that we believe to be
   on it: their ends were lost (`Stillness`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from preble_plugin.core.request import check_seconds

MARGIN_SECONDS: Final = 1.0
"""What a request may take from its placement until its engine counts it, and how long
an engine must have been still."""


class LoadReport(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One replica at one moment. Sums run since its engine started; those that an
    engine does not keep stay 0, and nothing is learned from them. Raises ValueError
    for seconds that are NaN or infinite."""

    as_of: float
    """When it was taken: seconds, on the scheduler's monotonic clock."""
    running: int
    """Requests that decode."""
    waiting: int
    """All other requests in the engine, at whatever stage: one that is in neither
    number does not exist."""
    prefill_tokens: int = 0
    """New tokens computed; cached ones do not count."""
    prefill_seconds: float = 0.0
    """Time in which it computed them."""
    decode_steps: int = 0
    decode_requests: int = 0
    """Sum over the steps of the requests in the batch."""
    decode_seconds: float = 0.0
    """Time that the steps took."""
    decode_tokens: int = 0
    """Tokens that the steps produced, where that is more than one for each request
    and step (speculation); else 0."""

    def __post_init__(self) -> None:
        for name in ("as_of", "prefill_seconds", "decode_seconds"):
            check_seconds(name, getattr(self, name))

    @property
    def idle(self) -> bool:
        """Whether it says that it has nothing to do."""
        return self.running <= 0 and self.waiting <= 0

    def began_anew(self, earlier: LoadReport) -> bool:
        """Whether the engine started again since `earlier`. O(1)."""
        return (
            self.prefill_tokens < earlier.prefill_tokens
            or self.prefill_seconds < earlier.prefill_seconds
            or self.decode_steps < earlier.decode_steps
            or self.decode_requests < earlier.decode_requests
            or self.decode_seconds < earlier.decode_seconds
        )

    def computed_since(self, earlier: LoadReport) -> bool:
        """Whether anything was computed since `earlier`. O(1)."""
        return (
            self.prefill_tokens != earlier.prefill_tokens
            or self.decode_steps != earlier.decode_steps
        )


class Stillness:
    """Proves that an engine has none of the requests that we believe to be on it.

    One idle report does not: an engine may count a request nowhere while it is in
    the step under way, and publish between that step and its sums. So the engine has
    to be idle a margin after the last of them was placed, and another margin later
    still be so, with nothing computed meanwhile.
    """

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: LoadReport | None = None

    def proves(self, report: LoadReport, latest: Callable[[], float]) -> bool:
        """Whether all requests that we believe to be on the engine are gone from it,
        now that it sent `report`, taken after all before. `latest` says when the last
        of them was placed (seconds); it is asked where the report is idle."""
        if not report.idle:
            self._since = None
            return False
        settled = latest() + MARGIN_SECONDS
        since = self._since
        if since is None or since.as_of <= settled or report.computed_since(since):
            self._since = report if report.as_of > settled else None
            return False
        return report.as_of >= since.as_of + MARGIN_SECONDS
