"""What a placement says of its replicas, judged.

It is told by an admin socket or by `preble:` metrics; either way it comes as `Replica`s.

1. *Events*: how far what is known of each cache can be believed (`core/status.Trust`).
2. *Hits*: the audit. Predicted and found are compared in tokens, replica by replica: where
   they differ by more than a tenth, what is known of that cache is not what it holds.
3. *Clock*: how old events are when they come, by the replica's clock and ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from preble_plugin.core.status import Trust
from preble_plugin.doctor.finding import Findings

_OFF_BY: Final = 0.1
"""The share of the larger number by which predicted and found may differ."""
_LATE_SECONDS: Final = 5.0
_FALLEN: Final = 0.01
"""The share of requests that may be left to the engine's own dispatch, as some are while it
starts."""

_TRUSTS: Final = {
    Trust.EXACT: "every event came",
    Trust.GAPPED: "events were lost, and a replay of them is under way",
    Trust.REBUILDING: "events were lost for good, or some could not be applied; what is known "
    "fills up as they come",
    Trust.SILENT: "no event ever came; it is taken to hold what was placed on it",
}
_REMEDIES: Final = {
    Trust.GAPPED: "look again in some seconds; if it stays, raise hwm and buffer_steps in the "
    "events configuration",
    Trust.REBUILDING: "give the events configuration a replay_endpoint and more buffer_steps, "
    "or raise max_tree_blocks where `preble status --json` has missing_blocks; this mends "
    "itself as the cache turns over",
    Trust.SILENT: "have it publish events that can be read here: `preble doctor --url` of that "
    "server says which are and how",
}


class Replica(msgspec.Struct, frozen=True):
    """One replica, as its placement tells of it."""

    name: str
    trust: Trust | None
    """None where that is not told."""
    predicted_tokens: int
    """Cached tokens that were predicted, as far as this is audited."""
    found_tokens: int
    """Cached tokens that the engine reported."""
    pending_tokens: int = 0
    """By how much predictions may be ahead: requests in flight are predicted and not
    reported yet."""
    lag_seconds: float = 0.0


class Placed(msgspec.Struct, frozen=True):
    """What a server's metrics say of its placement."""

    replicas: tuple[Replica, ...]
    placements: int
    fallbacks: dict[str, int]
    """Requests left to the engine's own dispatch, by cause."""
    shadow: bool


def judge_placed(findings: Findings, found: Placed) -> None:
    """Add what is to be said of a server whose metrics have `found`."""
    if found.shadow:
        shadow(findings)
    else:
        findings.ok("preble", f"is on: {found.placements} requests placed")
    fallen = sum(found.fallbacks.values())
    causes = ", ".join(f"{count} by {cause}" for cause, count in found.fallbacks.items())
    words = f"{fallen} requests left to the engine's own dispatch" + (f": {causes}" * bool(fallen))
    if fallen > _FALLEN * (found.placements + fallen):
        findings.warn(
            "fallbacks",
            words,
            "see the server's log for 'preble'; for `deadline`, give its machine a free core or "
            "raise placement_deadline_seconds",
        )
    else:
        findings.ok("fallbacks", words)
    judge(findings, found.replicas)


def shadow(findings: Findings) -> None:
    """Add that it is on and does not act."""
    findings.warn(
        "preble",
        "is on in shadow mode: it decides, and the engine's own dispatch acts",
        "take `shadow` out of the settings to let placement act",
    )


def judge(findings: Findings, replicas: Sequence[Replica]) -> None:
    """Add what is to be said of `replicas`."""
    for trust in Trust:
        of_it = [one for one in replicas if one.trust is trust]
        if not of_it:
            continue
        words = f"{_named(of_it)} {trust.value}: {_TRUSTS[trust]}"
        if trust is Trust.EXACT:
            findings.ok("events", words)
        else:
            findings.warn("events", words, _REMEDIES[trust])
    _hits(findings, replicas)
    late = [one for one in replicas if one.lag_seconds > _LATE_SECONDS]
    if late:
        most = max(one.lag_seconds for one in late)
        findings.warn(
            "clock",
            f"{_named(late)}: the last event was up to {most:.0f} s old when it came",
            "set the clocks of both machines by NTP; if they agree, the process that reads "
            "events has too little of a core",
        )
    elif any(one.trust is Trust.EXACT for one in replicas):
        findings.ok("clock", "events are not old when they come")


def _hits(findings: Findings, replicas: Sequence[Replica]) -> None:
    predicted = sum(one.predicted_tokens for one in replicas)
    found = sum(one.found_tokens for one in replicas)
    words = f"{predicted} tokens predicted in caches, {found} found there"
    wrong = [one for one in replicas if _differs(one)]
    if wrong:
        findings.warn(
            "hits",
            f"{words}; {_named(wrong)}: predicted and found differ by more than a tenth",
            "mend the events first, if they are not exact; then see `preble explain REQUEST-ID` "
            "of a request that missed. Predicted and not found: other clients reach the engine "
            "past this placement, or fill its cache. Found and not predicted: events are not "
            "read, or the tokenizers differ",
        )
    elif predicted or found:
        findings.ok("hits", words)
    else:
        findings.ok("hits", "no cached token was predicted or found yet")


def _differs(one: Replica) -> bool:
    larger = max(one.predicted_tokens, one.found_tokens)
    ahead = one.predicted_tokens - one.found_tokens
    if ahead > 0:
        ahead = max(ahead - one.pending_tokens, 0)
    return abs(ahead) > _OFF_BY * larger


def _named(replicas: Sequence[Replica]) -> str:
    names = ", ".join(one.name for one in replicas)
    return f"replica {names}" if len(replicas) == 1 else f"replicas {names}"
