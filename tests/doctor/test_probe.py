"""A prompt sent twice: found cached, not found, not told."""

from __future__ import annotations

import pytest

from tests.doctor.told import Start, cache, look, preble, states, the


@pytest.mark.parametrize(("cached", "expected"), [(256, "ok"), (0, "fail"), (None, "warn")])
async def test_a_probe_is_found_cached_or_not(
    start: Start, cached: int | None, expected: str
) -> None:
    engine = await start()
    engine.cached_tokens = cached
    found = the(await look(engine, probe=True), "probe")
    assert found.state == expected
    if cached is None:
        assert found.remedy == "vLLM: start it with --enable-prompt-tokens-details"
    first, second = (one.body for one in engine.asked)
    assert first == second
    assert (len(first["prompt"]), first["max_tokens"]) == (257, 1)


async def test_no_two_probes_are_the_same(start: Start) -> None:
    engine = await start()
    await look(engine, probe=True)
    await look(engine, probe=True)
    assert engine.asked[0].body["prompt"] != engine.asked[2].body["prompt"]


@pytest.mark.parametrize(("page", "rank"), [("", "0"), (preble(), None)])
async def test_a_probe_keeps_to_a_rank_where_nothing_places_it(
    start: Start, page: str, rank: str | None
) -> None:
    engine = await start(ranks=2, answers={"/metrics": cache(ranks=2) + page})
    await look(engine, probe=True)
    assert [one.headers.get("X-data-parallel-rank") for one in engine.asked] == [rank, rank]


async def test_a_probe_that_is_refused(start: Start) -> None:
    engine = await start()
    engine.behave = "refuse"
    assert states(await look(engine, probe=True), "probe") == ["fail"]
