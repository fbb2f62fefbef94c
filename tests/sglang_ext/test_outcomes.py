"""From a scheduler process to the controller, over a real socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
import zmq

from preble_plugin.sglang_ext import outcomes
from preble_plugin.sglang_ext.facts import End
from preble_plugin.sglang_ext.outcomes import (
    OutcomeListener,
    Outcomes,
    OutcomeTeller,
    outcomes_address,
)

ENDED = End("a", 5, 16, False)
ABORTED = End("b", 0, None, True)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return outcomes_address(tmp_path)


@pytest.fixture
def tells(address: str) -> OutcomeTeller:
    return OutcomeTeller(address)


class Heard:
    """What a listener heard; `all_of` waits for that many."""

    def __init__(self) -> None:
        self.messages: list[Outcomes] = []
        self._came = asyncio.Event()

    def __call__(self, message: Outcomes) -> None:
        self.messages.append(message)
        self._came.set()

    async def all_of(self, count: int) -> list[Outcomes]:
        async with asyncio.timeout(30):
            while len(self.messages) < count:
                self._came.clear()
                await self._came.wait()
        return self.messages


async def test_first_tokens_and_ends_arrive_as_they_were_told(
    address: str, tells: OutcomeTeller
) -> None:
    heard = Heard()
    listener = OutcomeListener(address, heard)
    tells.started([("a", 16), ("b", 0)])
    tells.ended([ENDED, ABORTED])
    first, second = await heard.all_of(2)
    listener.close()
    assert (first.started, first.ended) == ([("a", 16), ("b", 0)], [])
    assert (second.started, second.ended) == ([], [ENDED, ABORTED])
    assert first.at <= second.at


async def test_several_processes_tell_one_listener(address: str) -> None:
    heard = Heard()
    listener = OutcomeListener(address, heard)
    ranks = [OutcomeTeller(address) for _ in range(3)]
    for rank in ranks:
        rank.ended([ENDED])
    found = await heard.all_of(3)
    listener.close()
    assert [message.ended for message in found] == [[ENDED]] * 3


async def test_what_is_told_before_anyone_listens_arrives(
    address: str, tells: OutcomeTeller
) -> None:
    tells.ended([ENDED])
    heard = Heard()
    listener = OutcomeListener(address, heard)
    (found,) = await heard.all_of(1)
    listener.close()
    assert (found.ended, tells.dropped) == ([ENDED], 0)


@pytest.mark.parametrize(
    "message", [b"", b"\xc1", b"\x90", b"\x91\xa1x", b"\x93\x00\x90\x91\x91\x01"]
)
async def test_a_message_that_is_none_of_ours_is_counted_and_passed_over(
    address: str, message: bytes
) -> None:
    heard = Heard()
    listener = OutcomeListener(address, heard)
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(address)
        stranger.send(message)
        stranger.send(msgspec.msgpack.encode(Outcomes(1.0, ended=[ENDED])))
        stranger.close(linger=10_000)
    (found,) = await heard.all_of(1)
    listener.close()
    assert (listener.unreadable, found) == (1, Outcomes(1.0, ended=[ENDED]))


def test_a_full_queue_drops_and_counts_and_never_waits(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outcomes, "_QUEUE", 10)
    tells = OutcomeTeller(address)
    for _ in range(100):
        tells.ended([ENDED])
    assert tells.dropped == 90
    assert len(caplog.records) == 1


def test_an_address_that_is_none_is_counted_too(caplog: pytest.LogCaptureFixture) -> None:
    tells = OutcomeTeller("no address")
    tells.started([("a", 0)])
    tells.ended([ENDED])
    assert (tells.dropped, len(caplog.records)) == (2, 1)


async def test_an_address_that_cannot_be_bound_raises(tmp_path: Path) -> None:
    with pytest.raises(zmq.ZMQError):
        OutcomeListener(f"ipc://{tmp_path}/no/such/directory", Heard())


async def test_a_listener_that_is_closed_hears_no_more(address: str, tells: OutcomeTeller) -> None:
    heard = Heard()
    listener = OutcomeListener(address, heard)
    listener.close()
    listener.close()
    again = OutcomeListener(address, heard)  # the address is free
    tells.ended([ENDED])
    await heard.all_of(1)
    again.close()
    assert len(heard.messages) == 1
