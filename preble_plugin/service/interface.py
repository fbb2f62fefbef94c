"""What an adapter asks of placement, whoever does the work.

Two classes keep this interface: `LocalFrontend`, with the scheduler in the
caller's own event loop, and `RemoteFrontend`, with one scheduler process for
several front ends. Adapters hold a `Frontend` and cannot tell which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.request import Outcome, Placement, ReplicaId, Request
from preble_plugin.core.status import SchedulerStatus


class EventSource(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a replica publishes its cache events."""

    endpoint: str
    """ZMQ PUB address to connect to."""
    replay_endpoint: str | None = None
    """ZMQ ROUTER address that replays past batches, if there is one."""
    topic: str = ""


class ReplicaSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A replica as its front end knows it after the engine's handshake."""

    replica: ReplicaId
    block_size: int
    capacity_blocks: int | None = None
    """Blocks its cache holds, or None where the engine does not say."""
    events: EventSource | None = None
    drop_blocks: int = 0
    """Blocks at the end of a hit that the engine computes again (EAGLE, MTP: 1)."""
    max_running: int | None = None
    """Requests it runs at once (vLLM: `max_num_seqs`)."""
    lookahead_tokens: int = 0
    """Tokens after each block that its hashes cover."""


class Unplaced(msgspec.Struct, frozen=True):
    """No placement: the engine's own dispatch goes on, and `cause` is counted."""

    cause: str
    """`not_ready`, `deadline`, `error`, `no_replica` or `scheduler_down`."""


class Frontend(Protocol):
    """Placement for one front-end process. Used from one event loop.

    No method raises for a fault of the scheduler: `place` answers `Unplaced`,
    the others drop what they cannot deliver, counted in `dropped`.
    """

    @property
    def hasher(self) -> BlockHasher | None:
        """Hashes prompts for `Request.keys`; None until replicas are known."""

    def set_replicas(self, replicas: Sequence[ReplicaSpec]) -> None:
        """State the replicas there are now; may be called again when they change."""

    async def place(self, request: Request) -> Placement | Unplaced:
        """Place a request within the settings' deadline."""

    def dispatched(self, request: Request, replica: ReplicaId, shadow: bool = False) -> None:
        """Account for a request that the engine's own dispatch sent to `replica`; with
        `shadow` what would have been chosen is kept, too."""

    def observe(self, replica: ReplicaId, outcomes: Sequence[Outcome], now: float) -> None:
        """Pass on what one engine output message said, with its time
        (seconds, monotonic)."""

    def status(self) -> SchedulerStatus | None:
        """The scheduler's state, at most a second old, for metrics."""

    async def start(self) -> None:
        """Connect and begin to work; idempotent."""

    async def close(self) -> None:
        """Stop and release sockets and tasks; idempotent."""
