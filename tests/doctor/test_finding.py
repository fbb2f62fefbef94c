from __future__ import annotations

import pytest

from preble_plugin.doctor.finding import Finding, Findings, State, failed


@pytest.mark.parametrize(
    ("state", "remedy"), [(State.OK, "do this"), (State.WARN, None), (State.FAIL, None)]
)
def test_what_is_not_ok_has_a_remedy_and_nothing_else_has(state: State, remedy: str | None) -> None:
    with pytest.raises(ValueError, match="a remedy"):
        Finding("here", "it", state, "words", remedy)


def test_only_a_failure_fails() -> None:
    findings = Findings("here")
    findings.ok("one", "well")
    findings.warn("two", "less well", "do this")
    assert not failed(findings.all)
    findings.fail("three", "not at all", "do that")
    assert failed(findings.all)
