"""Builders for the feed's tests: wire payloads, a publisher's life, a sink that records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from preble_plugin.core.events import CacheEvent, Remove, Store
from preble_plugin.core.request import ReplicaId
from preble_plugin.core.status import Trust
from preble_plugin.feed.actions import Action, Apply, AskReplay, Reset, TrustChanged

BLOCK_SIZE = 4


def stored_map(hashes: Sequence[int | bytes] = (1,), **changes: Any) -> dict[str, Any]:
    """A store as a map; `changes` replace fields, or take them out where `...`."""
    event = {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": None,
        "token_ids": list(range(BLOCK_SIZE * len(hashes))),
        "block_size": BLOCK_SIZE,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
    } | changes
    return {name: value for name, value in event.items() if value is not ...}


def removed_map(hashes: Sequence[int | bytes] = (1,), **changes: Any) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": "GPU"} | changes


CLEARED = {"type": "AllBlocksCleared"}


def payload(*events: Any, timestamp: float = 1.0, rank: int | None = 0) -> bytes:
    return msgspec.msgpack.encode([timestamp, list(events), rank])


def batch(life: int, seq: int) -> bytes:
    """Batch `seq` of a publisher's life: one store, whose hash names both."""
    return payload(stored_map([mark(life, seq)]), timestamp=1000.0 * life + seq + 1)


def mark(life: int, seq: int) -> int:
    return life * 1_000_000 + seq


class RecordingSink:
    """Per replica the hashes believed to be held, in order, and all trust said."""

    def __init__(self) -> None:
        self.held: dict[ReplicaId, list[int | bytes]] = {}
        self.trusts: dict[ReplicaId, list[Trust]] = {}
        self.resets: dict[ReplicaId, int] = {}
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait for what the stream says to make `condition` true."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_holds(self, replica: ReplicaId, hashes: Sequence[int | bytes]) -> None:
        try:
            await self.until(lambda: self.held.get(replica) == list(hashes))
        except TimeoutError:
            assert self.held.get(replica) == list(hashes)

    async def until_trusted(self, replica: ReplicaId, trust: Trust) -> None:
        try:
            await self.until(lambda: self.trusts.get(replica, [None])[-1] is trust)
        except TimeoutError:
            assert self.trusts.get(replica) == [..., trust]

    def apply(self, replica: ReplicaId, events: Sequence[CacheEvent], now: float) -> None:
        self._changed.set()
        held = self.held.setdefault(replica, [])
        for event in events:
            if isinstance(event, Store):
                held += event.hashes
            elif isinstance(event, Remove):
                for gone in event.hashes:
                    held.remove(gone)
            else:
                held.clear()

    def reset(self, replica: ReplicaId) -> None:
        self._changed.set()
        self.held[replica] = []
        self.resets[replica] = self.resets.get(replica, 0) + 1

    def trust(self, replica: ReplicaId, trust: Trust) -> None:
        self._changed.set()
        self.trusts.setdefault(replica, []).append(trust)


def hashes_applied(actions: Sequence[Action]) -> list[int | bytes]:
    return [
        each
        for action in actions
        if isinstance(action, Apply)
        for event in action.events
        if isinstance(event, Store)
        for each in event.hashes
    ]


def asked(actions: Sequence[Action]) -> list[int]:
    return [action.from_seq for action in actions if isinstance(action, AskReplay)]


def trusts(actions: Sequence[Action]) -> list[Trust]:
    return [action.trust for action in actions if isinstance(action, TrustChanged)]


def resets(actions: Sequence[Action]) -> int:
    return sum(isinstance(action, Reset) for action in actions)
