from __future__ import annotations

import msgspec
import pytest

from preble_plugin.core import Finished, Request


@pytest.mark.parametrize("length", [1, 7, 9, 8 * 40 + 4])
def test_keys_that_are_no_whole_blocks_are_refused(length):
    with pytest.raises(ValueError, match=f"keys takes 8 bytes for each block, got {length} bytes"):
        Request("a", b"k" * length, 40)


@pytest.mark.parametrize("decoder", [msgspec.msgpack, msgspec.json])
def test_keys_that_are_no_whole_blocks_do_not_come_off_the_wire(decoder):
    sent = decoder.encode(["a", b"k" * 7, 40])
    with pytest.raises(msgspec.ValidationError, match="got 7 bytes"):
        decoder.decode(sent, type=Request)


@pytest.mark.parametrize("blocks", [0, 1, 40])
def test_keys_of_whole_blocks_are_taken(blocks):
    assert len(Request("a", b"k" * 8 * blocks, 40).keys) == 8 * blocks


def test_an_end_that_says_nothing_of_events_is_told_by_them():
    assert msgspec.msgpack.decode(msgspec.msgpack.encode([2, "a", 7]), type=Finished).events_tell
