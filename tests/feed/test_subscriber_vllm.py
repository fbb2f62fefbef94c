"""The subscriber against vLLM's own publisher."""

from __future__ import annotations

import asyncio
import itertools
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from preble_plugin.core.status import Trust
from preble_plugin.feed.actions import Patience
from preble_plugin.feed.subscriber import Subscriber
from tests.feed.feed_builders import RecordingSink

kv_events = pytest.importorskip("vllm.distributed.kv_events")
pytestmark = pytest.mark.vllm

BRISK = Patience(replay_seconds=1.0, probe_seconds=0.1, longest_probe_seconds=0.5)


class VllmPublisher:
    """vLLM's publisher of one rank; batch n stores a block with the hash n."""

    def __init__(self, endpoint: str, replay_endpoint: str, rank: int = 0, **options: Any) -> None:
        self._publisher = kv_events.ZmqEventPublisher(rank, endpoint, replay_endpoint, **options)
        config = self._publisher.get_publisher_config()
        self.endpoint: str = config.endpoint
        self.replay_endpoint: str = config.replay_endpoint
        self._hashes = itertools.count()

    def publish(self, count: int, *, first: int | None = None) -> None:
        if first is not None:
            self._hashes = itertools.count(first)
        for block_hash in itertools.islice(self._hashes, count):
            stored = kv_events.BlockStored(
                block_hashes=[block_hash],
                parent_block_hash=None,
                token_ids=[1, 2, 3, 4],
                block_size=4,
                lora_id=None,
                medium="GPU",
                lora_name=None,
                extra_keys=[None],
                group_idx=0,
                kv_cache_spec_kind="full_attention",
            )
            self._publisher.publish(kv_events.KVEventBatch(ts=time.time(), events=[stored]))

    async def published(self) -> None:
        """Wait until all is sent and in the buffer."""
        await asyncio.to_thread(self._publisher._event_queue.join)

    def close(self) -> None:
        self._publisher.shutdown()


class Proxy:
    """Passes on what a publisher sends, but for what `tamper` makes of it: another
    payload, or None for nothing."""

    def __init__(self, upstream: str, directory: Path) -> None:
        context = zmq.asyncio.Context.instance()
        self.endpoint = f"ipc://{directory}/proxy"
        self.tamper: Callable[[int, bytes], bytes | None] = lambda seq, payload: payload
        self.passed = asyncio.Event()
        self._in = context.socket(zmq.SUB)
        self._in.subscribe(b"")
        self._in.connect(upstream)
        self._out = context.socket(zmq.XPUB)
        self._out.bind(self.endpoint)
        self._task = asyncio.create_task(self._forward())

    async def _forward(self) -> None:
        await self._out.recv()
        self.passed.set()
        while True:
            topic, seq, payload = await self._in.recv_multipart()
            passed = self.tamper(int.from_bytes(seq, "big"), payload)
            if passed is not None:
                await self._out.send_multipart([topic, seq, passed])

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._in.close(linger=0)
        self._out.close(linger=0)


@pytest.fixture
def directory() -> Iterator[Path]:
    # vLLM gives a rank above 0 its own local endpoint only if the path has "inproc" in it.
    with tempfile.TemporaryDirectory(prefix="inproc") as name:
        yield Path(name)


@pytest.fixture
def publish_on(directory: Path) -> Iterator[Callable[..., VllmPublisher]]:
    open_publishers: list[VllmPublisher] = []

    def publisher(**options: Any) -> VllmPublisher:
        made = VllmPublisher(f"ipc://{directory}/kv", f"ipc://{directory}/replay", **options)
        open_publishers.append(made)
        return made

    yield publisher
    for each in open_publishers:
        each.close()


@pytest.fixture
def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
async def subscriber(sink: RecordingSink) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber(sink, patience=BRISK)
    await subscriber.start()
    yield subscriber
    await subscriber.close()


@pytest.fixture
async def proxied(
    directory: Path, publish_on: Callable[..., VllmPublisher], subscriber: Subscriber
) -> AsyncIterator[tuple[VllmPublisher, Proxy]]:
    """A publisher that is followed through a proxy, and has published batch 0."""
    publisher = publish_on()
    proxy = Proxy(publisher.endpoint, directory)
    subscriber.follow(0, proxy.endpoint, publisher.replay_endpoint)
    await proxy.passed.wait()
    publisher.publish(1)
    yield publisher, proxy
    await proxy.close()


async def test_a_late_subscriber_catches_up_and_goes_on_live(
    publish_on: Callable[..., VllmPublisher], subscriber: Subscriber, sink: RecordingSink
) -> None:
    publisher = publish_on()
    publisher.publish(50)
    await publisher.published()
    subscriber.follow(0, publisher.endpoint, publisher.replay_endpoint)
    await sink.until_holds(0, range(50))
    await sink.until_trusted(0, Trust.EXACT)
    publisher.publish(50)
    await sink.until_holds(0, range(100))
    assert sink.resets == {}


async def test_each_rank_has_its_own_endpoint_under_a_path_with_inproc(
    publish_on: Callable[..., VllmPublisher], subscriber: Subscriber, sink: RecordingSink
) -> None:
    for rank in range(2):
        publisher = publish_on(rank=rank)
        publisher.publish(3 + rank)
        subscriber.follow(rank, publisher.endpoint, publisher.replay_endpoint)
    for rank in range(2):
        await sink.until_holds(rank, range(3 + rank))


async def test_it_follows_over_tcp(subscriber: Subscriber, sink: RecordingSink) -> None:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    publisher = VllmPublisher(f"tcp://*:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}")
    try:
        publisher.publish(20)
        subscriber.follow(0, publisher.endpoint, publisher.replay_endpoint)
        await sink.until_holds(0, range(20))
        publisher.publish(20)
        await sink.until_holds(0, range(40))
        await sink.until_trusted(0, Trust.EXACT)
    finally:
        publisher.close()


async def test_a_topic_is_kept_in_live_batches_and_replays(
    publish_on: Callable[..., VllmPublisher], subscriber: Subscriber, sink: RecordingSink
) -> None:
    publisher = publish_on(topic="kv")
    publisher.publish(5)
    await publisher.published()
    subscriber.follow(0, publisher.endpoint, publisher.replay_endpoint, topic="kv")
    await sink.until_trusted(0, Trust.EXACT)
    publisher.publish(5)
    await sink.until_holds(0, range(10))


async def test_dropped_messages_are_healed_by_a_replay(
    proxied: tuple[VllmPublisher, Proxy], subscriber: Subscriber, sink: RecordingSink
) -> None:
    publisher, proxy = proxied
    await sink.until_trusted(0, Trust.EXACT)
    proxy.tamper = lambda seq, payload: None if seq % 3 else payload
    publisher.publish(100)
    await sink.until_holds(0, range(101))
    await sink.until_trusted(0, Trust.EXACT)
    assert sink.resets == {}
    status = subscriber.status(0)
    assert status is not None
    assert status.gaps >= 1


async def test_a_garbled_message_lowers_trust_until_a_replay_heals_it(
    proxied: tuple[VllmPublisher, Proxy], subscriber: Subscriber, sink: RecordingSink
) -> None:
    publisher, proxy = proxied
    await sink.until_trusted(0, Trust.EXACT)
    proxy.tamper = lambda seq, payload: payload[:-7] if seq == 4 else payload
    publisher.publish(9)
    await sink.until_holds(0, range(10))
    await sink.until_trusted(0, Trust.EXACT)
    assert Trust.GAPPED in sink.trusts[0][sink.trusts[0].index(Trust.EXACT) :]
    status = subscriber.status(0)
    assert status is not None
    assert status.skipped == {"envelope": 1}


async def test_a_publisher_restarted_on_the_same_endpoint_is_followed_from_its_start(
    publish_on: Callable[..., VllmPublisher], subscriber: Subscriber, sink: RecordingSink
) -> None:
    publisher = publish_on()
    publisher.publish(20)
    subscriber.follow(0, publisher.endpoint, publisher.replay_endpoint)
    await sink.until_holds(0, range(20))
    await sink.until_trusted(0, Trust.EXACT)
    await publisher.published()
    publisher.close()
    again = publish_on()
    again.publish(7, first=500)
    await sink.until_holds(0, range(500, 507))
    await sink.until_trusted(0, Trust.EXACT)
    again.publish(30)
    await sink.until_holds(0, range(500, 537))
    assert sink.resets == {0: 1}


async def test_a_buffer_smaller_than_what_was_lost_means_rebuilding(
    publish_on: Callable[..., VllmPublisher], subscriber: Subscriber, sink: RecordingSink
) -> None:
    publisher = publish_on(buffer_steps=5)
    publisher.publish(20)
    await publisher.published()
    subscriber.follow(0, publisher.endpoint, publisher.replay_endpoint)
    await sink.until_holds(0, range(15, 20))
    await sink.until_trusted(0, Trust.REBUILDING)
    publisher.publish(1)
    await sink.until_holds(0, range(15, 21))


async def test_ten_thousand_batches_are_replayed_whole_though_the_publisher_drops_silently(
    publish_on: Callable[..., VllmPublisher], subscriber: Subscriber, sink: RecordingSink
) -> None:
    publisher = publish_on()
    publisher.publish(10_000)
    await publisher.published()
    subscriber.follow(0, publisher.endpoint, publisher.replay_endpoint)
    await sink.until_holds(0, range(10_000))
    await sink.until_trusted(0, Trust.EXACT)
    assert sink.resets == {}
    status = subscriber.status(0)
    assert status is not None
    assert (status.batches, status.losses) == (10_000, 0)
