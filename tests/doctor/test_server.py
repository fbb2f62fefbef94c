"""Servers that answer, and that do not."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from kv_publisher import KvPublisher

from tests.doctor.told import Start, bad, look, sglang, the


async def test_a_vllm_that_is_well(start: Start) -> None:
    engine = await start()
    findings = await look(engine)
    assert bad(findings) == {}
    assert {one.about for one in findings} == {engine.url}
    assert the(findings, "answers").words == "vLLM with model tiny, 1 rank"
    assert the(findings, "blocks").words == "of 16 tokens, 1000 in the cache of each rank"


async def test_a_sglang_that_is_well(start: Start, publisher: KvPublisher) -> None:
    source = publisher.source
    ports = [int(str(one).rpartition(":")[2]) for one in (source.endpoint, source.replay_endpoint)]
    events = {
        "publisher": "zmq",
        "endpoint_host": "*",
        "endpoint_port_base": ports[0],
        "replay_endpoint_port_base": ports[1],
        "block_size": 16,
        "dp_size": 1,
    }
    findings = await look(await start(engine="sglang", answers=sglang(kv_events=events)))
    assert bad(findings) == {}
    assert the(findings, "replay").words == "all 1 answer"
    assert "5ec4e7" not in str(findings)


async def test_nothing_that_is_asked_is_computed(start: Start) -> None:
    engine = await start()
    await look(engine)
    assert engine.asked == []


async def test_nobody_is_there(start: Start) -> None:
    engine = await start()
    await engine.stop()
    assert bad(await look(engine)) == {"answers": "fail"}


@pytest.mark.parametrize("key", [None, "another"])
async def test_a_key_that_is_wanted_and_not_given(start: Start, key: str | None) -> None:
    found = the(await look(await start(key="5ec4e7"), key=key), "answers")
    assert found.state == "fail"
    assert found.remedy is not None
    assert "--api-key-file" in found.remedy


async def test_a_key_is_sent_and_not_said(start: Start) -> None:
    findings = await look(await start(key="5ec4e7"), key="5ec4e7", probe=True)
    assert "fail" not in bad(findings).values()
    assert "5ec4e7" not in str(findings)


async def test_a_server_of_another_kind(start: Start) -> None:
    findings = await look(await start(answers={"/v1/models": "<html>"}))
    assert bad(findings) == {"answers": "fail"}


async def test_an_engine_that_is_not_known(start: Start) -> None:
    findings = await look(await start(engine="llamacpp"))
    assert bad(findings) == {
        "engine": "warn",
        "prefix caching": "warn",
        "blocks": "warn",
        "event sources": "warn",
    }


@pytest.mark.parametrize(("ahead", "expected"), [(0, "ok"), (-60, "warn"), (60, "warn")])
async def test_clocks_agree_or_not(start: Start, ahead: int, expected: str) -> None:
    date = formatdate(time.time() + ahead, usegmt=True)
    found = the(await look(await start(headers={"Date": date})), "clock")
    assert found.state == expected
    if ahead:
        assert ("ahead of" if ahead > 0 else "behind") in found.words


async def test_answers_without_a_date(start: Start) -> None:
    found = the(await look(await start(headers={"Date": "soon"})), "clock")
    assert (found.state, "cannot be told" in found.words) == ("warn", True)
