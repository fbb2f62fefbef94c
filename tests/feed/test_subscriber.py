from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from preble_plugin.core.events import CacheEvent
from preble_plugin.core.request import ReplicaId
from preble_plugin.core.status import Trust
from preble_plugin.feed.actions import Patience
from preble_plugin.feed.endpoint import EndpointError
from preble_plugin.feed.subscriber import Subscriber
from tests.feed.feed_builders import RecordingSink, mark
from tests.feed.ordered_publisher import OrderedPublisher

BRISK = Patience(replay_seconds=0.3, probe_seconds=0.1, longest_probe_seconds=0.5)


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not tmp_path: the path of a local socket is short.
    with tempfile.TemporaryDirectory(prefix="feed") as name:
        yield Path(name)


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
async def publisher(directory: Path) -> AsyncIterator[OrderedPublisher]:
    publisher = OrderedPublisher(directory)
    yield publisher
    await publisher.close()


def follow(subscriber: Subscriber, publisher: OrderedPublisher, replica: ReplicaId = 0) -> None:
    subscriber.follow(replica, publisher.endpoint, publisher.replay_endpoint)


def marks(seqs: Sequence[int], life: int = 1) -> list[int]:
    return [mark(life, seq) for seq in seqs]


async def test_live_batches_arrive(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    follow(subscriber, publisher)
    await publisher.subscribed.wait()
    await publisher.publish(3)
    await sink.until_holds(0, marks(range(3)))
    await sink.until_trusted(0, Trust.EXACT)


async def test_what_was_followed_before_the_start_is_followed_from_then_on(
    publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    subscriber = Subscriber(sink, patience=BRISK)
    follow(subscriber, publisher)
    await publisher.publish(2)
    await subscriber.start()
    await sink.until_holds(0, marks(range(2)))
    await subscriber.close()


async def test_a_late_subscriber_catches_up(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    await publisher.publish(20)
    follow(subscriber, publisher)
    await sink.until_holds(0, marks(range(20)))
    await sink.until_trusted(0, Trust.EXACT)


async def test_holes_in_a_replay_are_asked_for_again_until_it_is_whole(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    await publisher.publish(5_000)
    publisher.holes = {*range(1_000, 1_100), 3_000, *range(4_990, 5_000)}
    follow(subscriber, publisher)
    await sink.until_holds(0, marks(range(5_000)))
    await sink.until_trusted(0, Trust.EXACT)
    assert sink.resets == {}
    assert publisher.replays[:2] == [0, 999]


async def test_a_lost_batch_is_had_from_a_replay(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    follow(subscriber, publisher)
    await publisher.subscribed.wait()
    await publisher.publish(2)
    await publisher.publish(1, sent=False)
    await publisher.publish(2)
    await sink.until_holds(0, marks(range(5)))
    await sink.until_trusted(0, Trust.EXACT)


async def test_a_lost_last_batch_is_had_from_a_probe(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    follow(subscriber, publisher)
    await publisher.subscribed.wait()
    await publisher.publish(2)
    await publisher.publish(1, sent=False)
    await sink.until_holds(0, marks(range(3)))


async def test_messages_that_are_none_are_counted_and_the_rest_goes_on(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    follow(subscriber, publisher)
    await publisher.subscribed.wait()
    await publisher.send_frames(b"")
    await publisher.send_frames(b"", b"short", b"payload")
    await publisher.send_frames(b"", b"\xff" * 8, b"payload")
    await publisher.send_frames(b"", bytes(8), b"payload", b"more")
    await publisher.publish(1)
    await sink.until_holds(0, marks([0]))
    status = subscriber.status(0)
    assert status is not None
    assert status.skipped == {"live_frames": 4}


async def test_a_publisher_that_began_anew_on_the_same_endpoint_is_followed(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink, directory: Path
) -> None:
    await publisher.publish(5)
    follow(subscriber, publisher)
    await sink.until_trusted(0, Trust.EXACT)
    await publisher.close()
    again = OrderedPublisher(directory, life=2)
    await again.publish(2)
    await sink.until_holds(0, marks(range(2), life=2))
    await sink.until_trusted(0, Trust.EXACT)
    await again.close()


async def test_a_publisher_that_is_gone_is_no_longer_believed(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    await publisher.publish(5)
    follow(subscriber, publisher)
    await sink.until_trusted(0, Trust.EXACT)
    await publisher.close()
    await sink.until_trusted(0, Trust.GAPPED)
    assert sink.held[0] == marks(range(5))


async def test_a_snapshot_is_taken_up_where_it_was_taken(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    await publisher.publish(5)
    follow(subscriber, publisher)
    await sink.until_holds(0, marks(range(5)))
    position = subscriber.position(0)
    subscriber.unfollow(0)
    await publisher.publish(2)
    subscriber.follow(0, publisher.endpoint, publisher.replay_endpoint, resume=position)
    await sink.until_holds(0, marks(range(7)))
    assert sink.resets == {}


async def test_each_replica_has_its_own_stream(
    subscriber: Subscriber, sink: RecordingSink, directory: Path
) -> None:
    publishers = []
    for replica in range(4):
        (directory / str(replica)).mkdir()
        publishers.append(OrderedPublisher(directory / str(replica), life=replica))
        await publishers[-1].publish(3 + replica)
        follow(subscriber, publishers[-1], replica)
    for replica, publisher in enumerate(publishers):
        await sink.until_holds(replica, marks(range(3 + replica), life=replica))
        await publisher.close()


async def test_a_replica_that_is_left_says_no_more(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    follow(subscriber, publisher, "left")
    follow(subscriber, publisher, "kept")
    await publisher.publish(1)
    await sink.until_holds("left", marks([0]))
    subscriber.unfollow("left")
    await publisher.publish(1)
    await sink.until_holds("kept", marks([0, 1]))
    assert sink.held["left"] == marks([0])
    assert subscriber.status("left") is None
    assert subscriber.position("left") is None


async def test_a_replica_followed_anew_starts_with_nothing_believed(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink, directory: Path
) -> None:
    follow(subscriber, publisher)
    await publisher.publish(2)
    await sink.until_trusted(0, Trust.EXACT)
    (directory / "other").mkdir()
    other = OrderedPublisher(directory / "other", life=3)
    follow(subscriber, other)
    assert (sink.held[0], sink.trusts[0][-1]) == ([], Trust.SILENT)
    await other.publish(1)
    await sink.until_holds(0, marks([0], life=3))
    await other.close()


async def test_an_endpoint_that_cannot_be_is_refused_and_changes_nothing(
    subscriber: Subscriber, publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    follow(subscriber, publisher)
    with pytest.raises(EndpointError):
        subscriber.follow(0, "carrier-pigeon://loft")
    with pytest.raises(EndpointError):
        subscriber.follow(0, publisher.endpoint, "tcp://nowhere")
    await publisher.publish(1)
    await sink.until_holds(0, marks([0]))


async def test_closing_twice_and_asking_afterwards_is_fine(
    subscriber: Subscriber, publisher: OrderedPublisher
) -> None:
    follow(subscriber, publisher)
    await subscriber.close()
    await subscriber.close()
    assert subscriber.status(0) is None


class FailingSink(RecordingSink):
    """Fails on the events of one life."""

    def apply(self, replica: ReplicaId, events: Sequence[CacheEvent], now: float) -> None:
        if replica == "failing":
            raise RuntimeError("no room")
        super().apply(replica, events, now)


async def test_a_sink_that_fails_loses_the_batch_and_stops_nothing(
    publisher: OrderedPublisher, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FailingSink()
    subscriber = Subscriber(sink, patience=BRISK)
    await subscriber.start()
    follow(subscriber, publisher, "failing")
    follow(subscriber, publisher, "fine")
    with caplog.at_level(logging.ERROR):
        await publisher.publish(3)
        await sink.until_holds("fine", marks(range(3)))
        await sink.until_trusted("failing", Trust.REBUILDING)
    await subscriber.close()
    assert len(caplog.records) == 1


async def test_a_turn_ends_in_time_and_replicas_take_turns(
    publisher: OrderedPublisher, sink: RecordingSink
) -> None:
    ticks = count()
    subscriber: Subscriber = Subscriber(
        sink, patience=Patience(), turn_seconds=0.001, clock=lambda: next(ticks) * 0.0004
    )
    await publisher.publish(300)
    follow(subscriber, publisher, "a")
    follow(subscriber, publisher, "b")
    await subscriber.start()
    most = 0
    progress = {"a": 0, "b": 0}
    async with asyncio.timeout(20):
        while min(progress.values()) < 300:
            await asyncio.sleep(0)
            now = {name: len(sink.held.get(name, ())) for name in progress}
            most = max(most, sum(now.values()) - sum(progress.values()))
            progress = now
    await subscriber.close()
    assert 1 <= most <= 3
