"""Requests, replicas and waiting, in one line each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from preble_plugin.core import BlockHasher, Placement, ReplicaId, Request
from preble_plugin.service.interface import EventSource, Frontend, ReplicaSpec, Unplaced
from preble_plugin.settings import Settings

BLOCK_SIZE = 16
PATIENT = Settings(placement_deadline_seconds=5.0)
"""The deadline is what one test is about; on a busy machine it would disturb others."""
MakeTwin = Callable[[Settings], Awaitable[Frontend]]


def document(number: int, blocks: int = 8) -> list[int]:
    """Tokens of a prompt that shares nothing with those of other numbers."""
    return [number * 10_000 + token for token in range(blocks * BLOCK_SIZE)]


def replica(
    name: ReplicaId, events: EventSource | None = None, block_size: int = BLOCK_SIZE
) -> ReplicaSpec:
    return ReplicaSpec(name, block_size, capacity_blocks=10_000, events=events, max_running=64)


def request(
    hasher: BlockHasher,
    request_id: str,
    tokens: Sequence[int],
    fixed_replica: ReplicaId | None = None,
) -> Request:
    return Request(
        request_id,
        hasher.prompt_keys(tokens),
        len(tokens) + 1,
        external_id=f"client-{request_id}",
        max_output_tokens=8,
        fixed_replica=fixed_replica,
    )


def hasher_of(frontend: Frontend) -> BlockHasher:
    assert frontend.hasher is not None
    return frontend.hasher


async def placed(frontend: Frontend, name: str, tokens: Sequence[int]) -> Placement:
    answer = await frontend.place(request(hasher_of(frontend), name, tokens))
    assert isinstance(answer, Placement), answer
    return answer


async def placed_within(
    seconds: float, frontend: Frontend, name: str, tokens: Sequence[int]
) -> Placement:
    """The first placement among attempts that may fail."""
    for attempt in range(int(seconds / 0.02)):
        if frontend.hasher is not None:
            answer = await frontend.place(request(frontend.hasher, f"{name}-{attempt}", tokens))
            if not isinstance(answer, Unplaced):
                return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"no placement within {seconds} s")


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for another process's doing to show."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        await asyncio.sleep(0.01)


def until_sync(condition: Callable[[], object], seconds: float = 15.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.01)
