"""What is kept of a request that a rank has."""

from __future__ import annotations

from typing import Any

from preble_plugin.core.request import FirstToken


class InFlight:
    """A request that a rank has."""

    __slots__ = ("audited", "rank", "request", "started", "told")

    def __init__(self, request: Any, rank: int, told: bool, audited: bool) -> None:
        self.request = request
        """Until its first token, to send it again should its rank die."""
        self.rank = rank
        self.told = told
        self.audited = audited
        self.started = False

    def start(self, request_id: str, cached_tokens: int) -> FirstToken:
        """Its first token. What a session finds cached is not predicted, and so not
        held against a prediction."""
        self.started = True
        self.request = None
        return FirstToken(request_id, cached_tokens if self.audited else None)
