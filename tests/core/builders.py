"""Schedulers, stores and requests in one line each."""

from __future__ import annotations

from collections.abc import Sequence

from preble_plugin.core import (
    Finished,
    FirstToken,
    Placement,
    Request,
    Scheduler,
    Store,
    Trust,
    namespace,
)

BLOCK = 16


def scheduler(replicas: int = 2, *, capacity: int | None = None, **settings: object) -> Scheduler:
    """Replicas 0, 1, ... with exact streams and empty caches."""
    made = Scheduler(BLOCK, seed=b"seed" * 4, **settings)  # type: ignore[arg-type]
    for replica in range(replicas):
        made.add_replica(replica, capacity_blocks=capacity)
        made.set_trust(replica, Trust.EXACT)
    return made


def prompt(name: int, blocks: int, extra: int = 0) -> list[int]:
    """A prompt of its own for each name: `blocks` full blocks and `extra` tokens."""
    return [(name * 7919 + i * 104729) % 120_000 for i in range(blocks * BLOCK + extra)]


def hashes(tokens: Sequence[int], salt: str = "") -> list[int]:
    """Engine hashes of a prompt's full blocks, chained as engines chain them."""
    found: list[int] = []
    above = hash(salt)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        above = hash((above, tuple(tokens[end - BLOCK : end])))
        found.append(above)
    return found


def store(tokens: Sequence[int], first: int = 0, salt: str = "", **fields: object) -> Store:
    """The event of storing a prompt's blocks from block `first` on."""
    names = hashes(tokens, salt)
    whole = len(names) * BLOCK
    settings: dict[str, object] = {"namespace": namespace(salt=salt or None)} | fields
    return Store(
        names[first:],
        names[first - 1] if first else None,
        list(tokens[first * BLOCK : whole]),
        BLOCK,
        **settings,  # type: ignore[arg-type]
    )


def request(
    made: Scheduler, request_id: str, tokens: Sequence[int], salt: str = "", **fields: object
) -> Request:
    keys = made.hasher.prompt_keys(tokens, namespace(salt=salt or None))
    return Request(request_id, keys, len(tokens), **fields)  # type: ignore[arg-type]


def place(
    made: Scheduler, request_id: str, tokens: Sequence[int], now: float = 0.0, **fields: object
) -> Placement:
    return made.place(request(made, request_id, tokens, **fields), now)  # type: ignore[arg-type]


def serve(
    made: Scheduler, request_id: str, tokens: Sequence[int], now: float, seconds: float = 0.1
) -> Placement:
    """Place a request, let its replica store it, and finish it."""
    placed = place(made, request_id, tokens, now)
    blocks = placed.cached_tokens // BLOCK
    if len(tokens) // BLOCK > blocks:
        made.apply(placed.replica, [store(tokens, blocks)], now)
    made.observe(placed.replica, [FirstToken(request_id, placed.cached_tokens)], now + seconds / 2)
    made.observe(placed.replica, [Finished(request_id, 4)], now + seconds)
    return placed
