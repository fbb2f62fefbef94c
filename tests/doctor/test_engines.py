from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.doctor.engines import Engine, engine_of, rust_answers


def named(package: str) -> Engine:
    found = engine_of(package)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("given", "vllm", "sglang"),
    [
        (None, True, True),
        ("preble", True, True),
        ("other,preble", True, True),
        ("other, preble", False, True),
        ("other", False, False),
        ("", False, True),
    ],
)
def test_a_filter_lets_us_in_as_the_engine_reads_it(
    given: str | None, vllm: bool, sglang: bool
) -> None:
    for package, expected in (("vllm", vllm), ("sglang", sglang)):
        engine = named(package)
        environment = {} if given is None else {engine.filter: given}
        assert engine.lets_in(environment) is expected


@pytest.mark.parametrize(("given", "expected"), [(None, False), ("0", False), ("1", True)])
def test_a_switch_starts_the_rust_front_door(given: str | None, expected: bool) -> None:
    for engine in (named("vllm").known, named("sglang").known):
        assert engine.rust({} if given is None else {engine.rust_switch: given}) is expected


@pytest.mark.parametrize(
    ("told", "server", "expected"),
    [
        ({"version": "0.32.0", "rust_frontend_version": "0.32.0"}, "", True),
        ({"frontend": "rust"}, "", True),
        ({"frontend": "python"}, "", False),
        ({"version": "0.32.0"}, "uvicorn", False),
        ({}, "granian", False),
        ({"version": "0.32.0"}, "", None),
        ({}, "nginx", None),
    ],
)
def test_a_front_door_is_told_by_its_answer_or_its_header(
    told: dict[str, Any], server: str, expected: bool | None
) -> None:
    assert rust_answers(told, server) is expected
