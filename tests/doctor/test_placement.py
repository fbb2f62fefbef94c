"""What a placement says of its replicas, judged: well, and not."""

from __future__ import annotations

import pytest

from preble_plugin.core.status import Trust
from preble_plugin.doctor.finding import Finding, Findings
from preble_plugin.doctor.placement import Placed, Replica, judge, judge_placed
from tests.doctor.told import bad, states, the


def judged(*replicas: Replica) -> list[Finding]:
    findings = Findings("a server")
    judge(findings, replicas)
    return findings.all


def replica(
    name: str = "0",
    trust: Trust | None = Trust.EXACT,
    predicted: int = 1000,
    found: int = 1000,
    pending: int = 0,
    lag: float = 0.1,
) -> Replica:
    return Replica(name, trust, predicted, found, pending, lag)


def test_all_is_well() -> None:
    findings = judged(replica("0"), replica("1"))
    assert bad(findings) == {}
    assert the(findings, "events").words == "replicas 0, 1 exact: every event came"
    assert the(findings, "hits").words == "2000 tokens predicted in caches, 2000 found there"


@pytest.mark.parametrize("trust", [Trust.GAPPED, Trust.REBUILDING, Trust.SILENT])
def test_a_replica_whose_events_are_not_whole(trust: Trust) -> None:
    findings = judged(replica("0"), replica("1", trust))
    assert states(findings, "events") == ["ok", "warn"]
    assert findings[1].words.startswith(f"replica 1 {trust.value}")


@pytest.mark.parametrize(
    ("predicted", "found", "pending", "expected"),
    [
        (1000, 1000, 0, "ok"),
        (1000, 901, 0, "ok"),
        (1000, 899, 0, "warn"),
        (899, 1000, 0, "warn"),
        (0, 1000, 0, "warn"),
        (1000, 0, 0, "warn"),
        (1000, 850, 50, "ok"),  # the rest may be under way
        (850, 1000, 50, "warn"),  # that explains no find
        (0, 0, 0, "ok"),
    ],
)
def test_hits_are_as_predicted_or_not(
    predicted: int, found: int, pending: int, expected: str
) -> None:
    one = replica(predicted=predicted, found=found, pending=pending)
    assert states(judged(one), "hits") == [expected]


def test_the_replica_with_other_hits_is_named() -> None:
    (words,) = [
        one.words
        for one in judged(replica("a"), replica("b", found=0), replica("c"))
        if one.check == "hits"
    ]
    assert "; replica b: " in words


@pytest.mark.parametrize(("lag", "expected"), [(4.9, "ok"), (61.0, "warn")])
def test_events_that_are_old_when_they_come(lag: float, expected: str) -> None:
    assert states(judged(replica(lag=lag)), "clock") == [expected]


@pytest.mark.parametrize(
    ("shadow", "fallbacks", "expected"),
    [
        (False, {}, {}),
        (True, {}, {"preble": "warn"}),
        (False, {"not_ready": 1}, {}),
        (False, {"not_ready": 1, "deadline": 1}, {"fallbacks": "warn"}),
    ],
)
def test_what_was_not_placed(
    shadow: bool, fallbacks: dict[str, int], expected: dict[str, str]
) -> None:
    findings = Findings("a server")
    judge_placed(findings, Placed((), 100, fallbacks, shadow))
    assert bad(findings.all) == expected
