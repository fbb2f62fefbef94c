"""What the in-process front end alone can do: place at once, hear reports, translate."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from kv_publisher import KvPublisher
from service_builders import BLOCK_SIZE, document, hasher_of, placed, replica, request, until

from preble_plugin.core import (
    CacheEvent,
    LoadReport,
    Placement,
    ReplicaId,
    ReplicaStatus,
    Store,
    Trust,
)
from preble_plugin.service.interface import Unplaced
from preble_plugin.service.local import LocalFrontend
from preble_plugin.settings import Settings


class Translator:
    """Gives each store the namespace `of`, and fails on the documents it is told to."""

    def __init__(self) -> None:
        self.of: tuple[str, ...] = ()
        self.fails_on: set[int] = set()
        self.heard: list[ReplicaId] = []

    def __call__(self, replica: ReplicaId, events: Sequence[CacheEvent]) -> list[CacheEvent]:
        self.heard.append(replica)
        translated: list[CacheEvent] = []
        for event in events:
            if isinstance(event, Store):
                if event.tokens[0] in self.fails_on:
                    raise LookupError("whose block is this?")
                event = msgspec.structs.replace(event, namespace=self.of)
            translated.append(event)
        return translated


@pytest.fixture
def translator() -> Translator:
    return Translator()


@pytest.fixture
async def frontend(
    run_dir: Path, translator: Translator, publishers: list[KvPublisher]
) -> AsyncIterator[LocalFrontend]:
    """A front end with one replica, whose events are translated."""
    frontend = LocalFrontend(Settings(), translator)
    frontend.set_replicas([replica(0, publishers[0].source)])
    await frontend.start()
    yield frontend
    await frontend.close()


def status(frontend: LocalFrontend) -> ReplicaStatus:
    found = frontend.status()
    assert found is not None
    return found.replicas[0]


def hit(frontend: LocalFrontend, number: int) -> int:
    """Blocks predicted for a document, on replica 0."""
    asked = request(hasher_of(frontend), f"probe {number}", document(number))
    answer = frontend.place_now(asked)
    assert isinstance(answer, Placement)
    return answer.cached_tokens // BLOCK_SIZE


async def test_placing_now_is_placing(local: LocalFrontend) -> None:
    first = local.place_now(request(hasher_of(local), "a", document(1)))
    assert isinstance(first, Placement)
    second = await placed(local, "b", document(1))
    assert (second.replica, second.cached_tokens) == (first.replica, len(document(1)))


def test_before_there_are_replicas_nothing_is_placed(local: LocalFrontend) -> None:
    asked = request(hasher_of(local), "a", document(1))
    assert LocalFrontend(Settings()).place_now(asked) == Unplaced("not_ready")


async def test_a_replica_that_says_it_is_still_has_lost_what_was_placed_there(
    local: LocalFrontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    await placed(local, "a", document(1))
    for tenth in range(60):
        at = began + tenth / 10
        monkeypatch.setattr(local.host, "clock", lambda at=at: at)
        for rank in (0, 1):
            local.report(rank, LoadReport(at, 0, 0))
    after = local.status()
    assert after is not None
    assert (after.in_flight, sum(one.lost_requests for one in after.replicas)) == (0, 1)


def test_a_report_before_there_are_replicas_is_ignored() -> None:
    early = LocalFrontend(Settings())
    early.report(0, LoadReport(1.0, 0, 0))
    assert (early.status(), early.dropped) == (None, 0)


async def test_events_mean_what_the_adapter_says(
    frontend: LocalFrontend, translator: Translator, publishers: list[KvPublisher]
) -> None:
    publishers[0].store(document(1), BLOCK_SIZE)
    await until(lambda: status(frontend).resident_blocks == 8)
    translator.of = ("salt", "tenant")
    publishers[0].store(document(2), BLOCK_SIZE)
    await until(lambda: status(frontend).resident_blocks == 16)
    assert (hit(frontend, 1), hit(frontend, 2)) == (8, 0)
    assert translator.heard == [0, 0]


async def test_what_cannot_be_translated_counts_as_lost_and_residency_is_rebuilt(
    frontend: LocalFrontend,
    translator: Translator,
    publishers: list[KvPublisher],
    caplog: pytest.LogCaptureFixture,
) -> None:
    publishers[0].store(document(1), BLOCK_SIZE)
    await until(lambda: status(frontend).resident_blocks == 8)
    await until(lambda: status(frontend).trust is Trust.EXACT)
    translator.fails_on = {document(2)[0], document(3)[0]}
    with caplog.at_level(logging.ERROR):
        publishers[0].store(document(2), BLOCK_SIZE)
        publishers[0].store(document(3), BLOCK_SIZE)
        await until(lambda: status(frontend).event_errors == 2)
    one = status(frontend)
    assert (one.trust, one.resident_blocks) == (Trust.REBUILDING, 0)
    assert ["whose block" in record.getMessage() for record in caplog.records] == [True]
    publishers[0].store(document(4), BLOCK_SIZE)
    await until(lambda: status(frontend).resident_blocks == 8)
    assert (hit(frontend, 4), hit(frontend, 1)) == (8, 0)


async def test_a_cleared_cache_after_a_loss_can_be_trusted_again(
    frontend: LocalFrontend, translator: Translator, publishers: list[KvPublisher]
) -> None:
    translator.fails_on = {document(2)[0]}
    publishers[0].store(document(2), BLOCK_SIZE)
    await until(lambda: status(frontend).trust is Trust.REBUILDING)
    publishers[0].publish([{"type": "AllBlocksCleared"}])
    publishers[0].store(document(4), BLOCK_SIZE)
    await until(lambda: status(frontend).trust is Trust.EXACT)
    await until(lambda: status(frontend).resident_blocks == 8)
