"""What a router would need: events it can read, and the server's tokens."""

from __future__ import annotations

from typing import Any

import pytest
from kv_publisher import KvPublisher

from preble_plugin.serve.tokenizer import load_tokenizer
from preble_plugin.service.interface import EventSource
from tests.doctor.told import Start, bad, cache, look, preble, states, the

NOBODY = EventSource("tcp://127.0.0.1:9", "tcp://127.0.0.1:9")


async def test_events_that_are_not_published(start: Start) -> None:
    found = the(await look(await start(events=[])), "event sources")
    assert found.state == "warn"
    assert found.remedy is not None
    assert "--kv-events-config" in found.remedy


async def test_events_that_cannot_be_reached(start: Start) -> None:
    findings = await look(await start(events=[NOBODY]), seconds=1.0)
    assert bad(findings) == {"event sources": "fail", "replay": "fail"}
    assert "rank 0 at tcp://127.0.0.1:9" in the(findings, "event sources").words


async def test_events_that_the_server_reads_itself(start: Start) -> None:
    page = cache() + preble()
    findings = await look(await start(events=[NOBODY], answers={"/metrics": page}), seconds=1.0)
    assert bad(findings) == {"event sources": "warn", "replay": "warn"}
    findings = await look(await start(events=[], answers={"/metrics": page}))
    assert bad(findings) == {}


async def test_events_at_an_address_that_is_none(start: Start) -> None:
    findings = await look(await start(events=[EventSource("tcp://127.0.0.1:99999")]))
    assert bad(findings) == {"event sources": "fail"}


async def test_events_of_one_rank_alone(start: Start, publisher: KvPublisher) -> None:
    findings = await look(await start(ranks=2, events=[publisher.source]))
    assert states(findings, "event sources") == ["warn", "ok"]


async def test_events_without_replay(start: Start, publisher: KvPublisher) -> None:
    findings = await look(await start(events=[EventSource(publisher.source.endpoint)]))
    assert bad(findings) == {"replay": "warn"}


@pytest.mark.parametrize(("of_chats", "expected"), [(None, "ok"), ([0], "fail")])
async def test_a_tokenizer_that_agrees_or_does_not(
    start: Start, tokenizer_dir: str, of_chats: list[int] | None, expected: str
) -> None:
    loaded = load_tokenizer(tokenizer_dir, None, 1 << 20)

    def tokenize(body: dict[str, Any]) -> list[int] | None:
        text = body.get("prompt")
        return of_chats if text is None else [int(one) for one in loaded.encode(text, True)]

    findings = await look(await start(tokenize=tokenize), tokenizer=tokenizer_dir)
    found = the(findings, "tokenizer")
    assert found.state == expected
    assert (" of conversations and tools than" in found.words) == (expected == "fail")


async def test_a_tokenizer_that_differs_beside_placement_that_is_on(
    start: Start, tokenizer_dir: str
) -> None:
    engine = await start(
        tokenize=lambda body: [0], tokenizer=tokenizer_dir, answers={"/metrics": cache() + preble()}
    )
    assert the(await look(engine, tokenizer=None), "tokenizer").state == "warn"


async def test_a_tokenizer_that_is_not_here(start: Start) -> None:
    found = the(await look(await start(), tokenizer="/no/such/tokenizer"), "tokenizer")
    assert found.state == "warn"
    assert "'/no/such/tokenizer' cannot be loaded" in found.words


async def test_a_tokenizer_that_cannot_be_compared(start: Start, tokenizer_dir: str) -> None:
    found = the(await look(await start(tokenizer=tokenizer_dir), tokenizer=None), "tokenizer")
    assert (found.state, "no /tokenize" in found.words) == ("warn", True)
