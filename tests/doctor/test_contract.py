"""Contracts line by line, as a process of its own finds them."""

from __future__ import annotations

import pytest

from preble_plugin.adapter.known import Known
from preble_plugin.doctor.contract import look_at_contracts
from preble_plugin.doctor.finding import State
from preble_plugin.vllm_ext.contract import CONTRACT

pytestmark = pytest.mark.vllm


def test_a_line_for_each_touch() -> None:
    findings = look_at_contracts()
    of_vllm = [one for one in findings if one.about == "contract with vLLM"]
    assert [one.words for one in of_vllm] == [str(touch) for touch in CONTRACT]
    assert {one.state for one in of_vllm} == {State.OK}


def test_what_does_not_hold_fails_with_a_remedy() -> None:
    def report(known: Known) -> list[tuple[str, str | None]]:
        return [("module:Kind.method", "is not there"), ("module:Kind", None)]

    broken, holds, *_ = look_at_contracts(report)
    assert (broken.state, broken.words) == (State.FAIL, "module:Kind.method is not there")
    assert broken.remedy == "use vLLM 0.31 to 0.33, or upgrade preble-plugin"
    assert holds.state is State.OK


def test_an_engine_that_cannot_be_imported_is_one_warning() -> None:
    def report(known: Known) -> list[tuple[str, str | None]]:
        raise RuntimeError("ImportError: no CUDA")

    findings = look_at_contracts(report)
    assert {one.about for one in findings} == {"contract with vLLM", "contract with SGLang"}
    assert [one.state for one in findings] == [State.WARN, State.WARN]
    assert "no CUDA" in findings[0].words
