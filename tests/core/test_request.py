from __future__ import annotations

import msgspec
import pytest

from preble_plugin.core import Finished, Outcome, Request


def test_a_request_travels_whole():
    request = Request("a", b"k" * 16, 40, priority=3, reads_cache=False)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request) == request


@pytest.mark.parametrize("events_tell", [True, False])
def test_an_end_travels_whole(events_tell):
    end = Finished("a", 7, events_tell=events_tell)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(end), type=Outcome) == end


def test_an_end_that_says_nothing_of_events_is_told_by_them():
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([2, "a", 7]), type=Finished).events_tell
