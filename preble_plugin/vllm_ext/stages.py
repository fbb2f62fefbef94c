"""What is kept of a request at each stage of its way: placing, asked, in flight."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from preble_plugin.core.request import Finished, Request
from preble_plugin.vllm_ext.facts import RequestFacts


class Placing:
    """A request whose placement is awaited."""

    __slots__ = ("aborted", "done")

    def __init__(self) -> None:
        self.aborted = False
        self.done = asyncio.Event()


class Asked(NamedTuple):
    """A request of which vLLM has not said yet where it goes."""

    request: Request
    facts: RequestFacts
    placed: int | None = None
    """The rank it was placed on."""
    shadow: bool = False
    """vLLM chooses, and what would have been chosen is to be kept."""


class InFlight:
    """A request that a rank has."""

    __slots__ = ("computes", "ends_silently", "output_tokens", "rank", "resumable")

    def __init__(self, rank: int, facts: RequestFacts) -> None:
        self.rank = rank
        self.computes = facts.computes
        self.resumable = facts.resumable
        self.ends_silently = facts.resumable or facts.stops_on_text
        self.output_tokens = 0

    def end(self, request_id: str) -> Finished:
        """Its end where no last output tells it: an abort, unless it is one of
        those that always end so."""
        aborted = not (self.ends_silently and self.output_tokens)
        return Finished(request_id, self.output_tokens, aborted)
