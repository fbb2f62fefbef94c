"""An engine's server: each finding where all is well, and where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.doctor.told import Start, bad, cache, look, preble, sglang, the


@pytest.mark.parametrize("version", ["0.27.0", "0.34.1"])
async def test_a_version_that_is_not_tested(start: Start, version: str) -> None:
    findings = await look(await start(answers={"/version": {"version": version}}))
    assert bad(findings) == {"version": "warn"}
    assert version in the(findings, "version").words


async def test_a_version_that_is_not_told(start: Start) -> None:
    assert bad(await look(await start(answers={"/version": {}}))) == {"version": "warn"}


@pytest.mark.parametrize(
    "options",
    [
        {"answers": {"/version": {"version": "0.32.0", "rust_frontend_version": "0.32.0"}}},
        {"engine": "sglang", "answers": sglang(frontend="rust"), "events": []},
    ],
)
async def test_a_rust_front_door(start: Start, options: dict[str, Any]) -> None:
    found = the(await look(await start(**options)), "front door")
    assert (found.state, "Rust" in found.words) == ("warn", True)


async def test_a_front_door_that_cannot_be_told(start: Start) -> None:
    found = the(await look(await start(server="nginx")), "front door")
    assert (found.state, "cannot be told" in found.words) == ("warn", True)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"answers": {"/metrics": cache(False)}}, "--no-enable-prefix-caching"),
        (
            {"engine": "sglang", "answers": sglang(disable_radix_cache=True)},
            "--disable-radix-cache",
        ),
    ],
)
async def test_prefix_caching_that_is_off(start: Start, options: dict[str, Any], flag: str) -> None:
    found = the(await look(await start(**options)), "prefix caching")
    assert found.state == "fail"
    assert found.remedy is not None
    assert flag in found.remedy


async def test_a_rust_front_door_tells_its_blocks_over_grpc_alone(start: Start) -> None:
    card = {"id": "tiny", "owned_by": "vllm-frontend-rs", "root": None, "parent": None}
    answers = {"/metrics": "", "/v1/models": {"data": [card]}}
    found = the(await look(await start(answers=answers)), "blocks")
    assert found.remedy is not None
    assert "--grpc-port" in found.remedy


async def test_a_cache_that_is_not_told_of(start: Start) -> None:
    findings = await look(await start(answers={"/metrics": ""}))
    assert bad(findings) == {"prefix caching": "warn", "blocks": "warn"}


async def test_placement_that_is_on(start: Start) -> None:
    page = cache(ranks=2) + preble()
    findings = await look(await start(ranks=2, answers={"/metrics": page}))
    assert bad(findings) == {}
    assert the(findings, "preble").words == "is on: 100 requests placed"


async def test_placement_that_is_not_on(start: Start) -> None:
    findings = await look(await start(ranks=2))
    assert bad(findings) == {"preble": "warn"}
    assert "own dispatch" in the(findings, "preble").words


async def test_placement_that_cannot_be_told(start: Start) -> None:
    answers = {**sglang(), "/metrics": None}
    found = the(await look(await start(engine="sglang", answers=answers)), "preble")
    assert (found.state, found.remedy) == ("warn", "start it with --enable-metrics there")


@pytest.mark.parametrize(
    ("metrics", "check"),
    [
        ({"shadow": 1}, "preble"),
        ({"fallbacks": 50}, "fallbacks"),
        ({"trust": "silent"}, "events"),
        ({"found": 3200}, "hits"),
        ({"lag": 60.0}, "clock"),
    ],
)
async def test_what_metrics_say_is_wrong(start: Start, metrics: dict[str, Any], check: str) -> None:
    page = cache(ranks=2) + preble(**metrics)
    findings = await look(await start(ranks=2, answers={"/metrics": page}))
    assert bad(findings) == {check: "warn"}
