"""The backends of one model, and the scheduler that places among them.

1. Each rank of each backend that is up is a replica of one scheduler, which runs here, in
   the router's loop (`LocalFrontend`).
2. The scheduler's blocks are those of the first backend. One with blocks of another size,
   or without events that can be matched, is taken to hold what was placed on it, up to
   the tokens its cache holds.
3. A backend that is ejected is no replica, and is stated anew when it returns: its event
   stream then fills in what it holds.
"""

from __future__ import annotations

import logging
from typing import Final

from preble_plugin.adapter.faults import Faults
from preble_plugin.adapter.gauges import Gauges
from preble_plugin.core import ReplicaId, TokenIdError
from preble_plugin.core.block_keys import Tokens
from preble_plugin.core.events import Namespace
from preble_plugin.serve.backend import Backend
from preble_plugin.serve.facts import Facts
from preble_plugin.serve.prompts import Prompts
from preble_plugin.service.interface import EventSource, ReplicaSpec, Unplaced
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.settings import Settings

_log = logging.getLogger(__name__)
_GUESSED_BLOCK: Final = 16
"""Tokens of a block where no backend says."""


class Pool:
    """One model's backends. Used from the router's loop."""

    def __init__(self, model: str, settings: Settings, prompts: Prompts) -> None:
        self.model = model
        self.prompts = prompts
        self.frontend = LocalFrontend(settings)
        self.metrics = PlacementMetrics()
        self.faults = Faults(_log, "the router", "choice by load")
        self.block_size = 0
        self.aliases: set[str] = {model}
        """Names of the base model; any other is an adapter's."""
        self._gauges = Gauges(self.frontend, self.metrics, self.faults)
        self._backends: dict[str, Backend] = {}
        self._replicas: dict[ReplicaId, tuple[Backend, int]] = {}

    @property
    def backends(self) -> list[Backend]:
        """Those that are up."""
        return list(self._backends.values())

    def where(self, replica: ReplicaId) -> tuple[Backend, int] | None:
        """The backend of a replica, and which of its ranks it is; None if it has left."""
        return self._replicas.get(replica)

    async def start(self) -> None:
        """Begin to follow events, and to be seen by `preble status`."""
        await self.frontend.start()
        self._gauges.start()

    async def close(self) -> None:
        """Stop."""
        self._gauges.stop()
        await self.frontend.close()

    def keys(self, tokens: Tokens | None, space: Namespace) -> bytes:
        """The keys of a prompt's full blocks; none where it has no ids that can be ids."""
        hasher = self.frontend.hasher
        if hasher is None or tokens is None or len(tokens) == 0:
            return b""
        try:
            return hasher.prompt_keys(tokens, space)
        except TokenIdError:
            self.metrics.fallback(Unplaced("token_ids"))
            return b""

    def add(self, backend: Backend) -> None:
        """A backend is up."""
        self._backends[backend.name] = backend
        self._restate()

    def remove(self, backend: Backend) -> None:
        """A backend is up no more."""
        if self._backends.pop(backend.name, None) is not None:
            self._restate()

    def _restate(self) -> None:
        specs: list[ReplicaSpec] = []
        self._replicas = {}
        for backend in self.backends:
            facts = backend.facts
            assert facts is not None
            self.aliases.update(set(facts.names) - facts.adapters)
            if not self.block_size:
                self.block_size = facts.block_size or _GUESSED_BLOCK
            for rank in range(facts.ranks):
                replica = backend.replica(rank)
                self._replicas[replica] = backend, rank
                specs.append(self._spec(replica, facts, self._events(backend, facts, rank)))
        self.frontend.set_replicas(specs)

    def _events(self, backend: Backend, facts: Facts, rank: int) -> EventSource | None:
        if not backend.exact or facts.block_size != self.block_size:
            return None
        return facts.events[rank]

    def _spec(self, replica: ReplicaId, facts: Facts, events: EventSource | None) -> ReplicaSpec:
        tokens = facts.capacity_tokens
        return ReplicaSpec(
            replica,
            self.block_size,
            max(tokens // self.block_size, 1) if tokens else None,
            events,
            max_running=facts.max_running,
        )
