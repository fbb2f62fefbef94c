"""vLLM's own CPU offload connectors beside its own scheduler: what they announce, and find.

The worker's half is a stand-in that says at once that everything is copied: nothing here
has a device. What is predicted of each prompt is held against what vLLM found.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from preble_plugin.core import Finished, FirstToken, Request, Scheduler, Trust, namespace
from preble_plugin.core.events import Remove, Store
from preble_plugin.feed.wire import Batch, decode

pytest.importorskip("vllm.v1.core.sched.scheduler")
pytestmark = pytest.mark.vllm

CPU_BLOCKS, GPU_BLOCKS = 60, 24


def offloading(asked: Any) -> tuple[set[str], Any]:
    """The worker's half of OffloadingConnector."""
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import (
        OffloadingWorkerMetadata,
    )

    jobs = {**asked.load_jobs, **asked.store_jobs}
    arrived = {job.req_id for job in asked.load_jobs.values()}
    return arrived, OffloadingWorkerMetadata(dict.fromkeys(jobs, 1)) if jobs else None


def simple(asked: Any) -> tuple[set[str], Any]:
    """The worker's half of SimpleCPUOffloadConnector."""
    from vllm.v1.simple_kv_offload.metadata import SimpleCPUOffloadWorkerMetadata

    arrived = {name for names in asked.load_event_to_reqs.values() for name in names}
    if asked.store_event < 0:
        return arrived, None
    return arrived, SimpleCPUOffloadWorkerMetadata({asked.store_event: 1})


WORKERS = {"OffloadingConnector": offloading, "SimpleCPUOffloadConnector": simple}


class Tiered:
    """One rank of vLLM with a CPU tier, and a scheduler of ours that hears its events."""

    def __init__(self, connector: str, attention: Sequence[int | None] = (None,)) -> None:
        from vllm.config import KVEventsConfig, KVTransferConfig
        from vllm.v1.core.sched.scheduler import Scheduler as Rank

        from tests.vllm.in_process import BLOCK, BLOCK_BYTES, Core

        self.core = Core(
            Rank,
            blocks=GPU_BLOCKS * len(attention),
            attention=attention,
            max_num_seqs=1,
            kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null"),
            kv_transfer_config=KVTransferConfig(
                kv_connector=connector,
                kv_role="kv_both",
                kv_connector_extra_config={
                    "cpu_bytes_to_use": CPU_BLOCKS * BLOCK_BYTES * len(attention)
                },
            ),
        )
        self.core.worker = WORKERS[connector]
        self.core.scheduler.kv_event_publisher = self
        self.block = BLOCK
        self.ours = Scheduler(BLOCK, seed=b"seed" * 4)
        self.ours.add_replica(0, capacity_blocks=GPU_BLOCKS)
        self.ours.set_trust(0, Trust.EXACT)
        self.heard: Counter[str] = Counter()
        self.now = 0.0

    def publish(self, events: Any) -> None:
        """vLLM's scheduler publishes a batch."""
        batch = decode(msgspec.msgpack.encode(events))
        assert isinstance(batch, Batch)
        assert not batch.skipped
        for event in batch.events:
            if isinstance(event, Store | Remove):
                told = isinstance(event, Store) and bool(event.tokens)
                self.heard[f"{type(event).__name__} {event.medium}{' told' if told else ''}"] += 1
        self.ours.apply(0, batch.events, self.now)

    def shutdown(self) -> None:
        """As a publisher is."""

    def ask(self, name: str, prompt: list[int], salt: str | None = None) -> tuple[int, int, int]:
        """Tokens predicted, those of them to be loaded, and those that vLLM found."""
        self.now += 1.0
        keys = self.ours.hasher.prompt_keys(prompt, namespace(salt=salt))
        placed = self.ours.place(Request(name, keys, len(prompt)), self.now)
        shown = self.ours._due
        assert shown is not None
        loaded = sum(tokens for _, tokens in shown[1].loads)
        self.core.add(name, prompt, cache_salt=salt)
        self.core.steps()
        self.core.step()  # what its end published
        found = self.core.hits[name]
        self.now += 1.0
        self.ours.observe(0, [FirstToken(name, found), Finished(name, 1)], self.now)
        return placed.cached_tokens, loaded, found


@pytest.fixture(params=sorted(WORKERS))
def connector(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def prompt(name: int, blocks: int) -> list[int]:
    return random.Random(name).choices(range(1000, 30_000), k=blocks * 32 + 5)


def test_what_was_evicted_is_loaded_from_the_cpu_and_predicted(connector: str) -> None:
    rank = Tiered(connector)
    for number in range(5):
        assert rank.ask(f"first {number}", prompt(number, 10)) == (0, 0, 0)
    assert rank.ask("evicted", prompt(1, 10)) == (320, 320, 320)
    assert rank.ask("loaded", prompt(1, 10)) == (320, 0, 320)
    told = connector.startswith("Simple")
    assert rank.heard["Store CPU told"] == (50 if told else 0)
    assert rank.heard["Store CPU"] == (0 if told else 50)


def test_salts_stay_apart_in_the_cpu_tier(connector: str) -> None:
    rank = Tiered(connector)
    rank.ask("salted", prompt(1, 10), salt="a")
    for number in range(2, 5):
        rank.ask(f"other {number}", prompt(number, 10))
    assert rank.ask("plain", prompt(1, 10)) == (0, 0, 0)
    assert rank.ask("salted again", prompt(1, 10), salt="a") == (320, 320, 320)


@pytest.mark.parametrize("attention", [(None,), (None, 96)], ids=["full", "and a window"])
def test_a_long_life_is_predicted_token_by_token(
    connector: str, attention: tuple[int | None, ...]
) -> None:
    rank, choose = Tiered(connector, attention), random.Random(4)
    documents = [prompt(100 + number, 12) for number in range(9)]
    sums = [0, 0, 0]
    for number in range(150):
        cut = choose.randrange(32, 12 * 32)
        tokens = [*choose.choice(documents)[:cut], *prompt(1000 + number, choose.randrange(5))]
        asked = rank.ask(str(number), tokens)
        assert asked[0] == asked[2], (number, asked)
        sums = [one + more for one, more in zip(sums, asked, strict=True)]
    status = rank.ours.status(rank.now).replicas[0]
    assert status.exact_audits == status.audited_requests == 150
    assert sums[1] > 0.2 * sums[2] > 0, "nothing was loaded"
