"""The servers of this user that place requests now, as their admin sockets tell.

A server that does not answer, has faults of its own, or counts what it could not read, is
named; its replicas are judged as `placement` has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from preble_plugin.core.status import ReplicaStatus, SchedulerStatus
from preble_plugin.doctor.engines import ENGINES
from preble_plugin.doctor.finding import Finding, Findings
from preble_plugin.doctor.placement import Replica, judge, shadow
from preble_plugin.service.admin import AdminSocketError, ServiceStatus, StatusQuestion, ask
from preble_plugin.service.environment import RUN_DIR
from preble_plugin.service.run_dir import (
    ADMIN_SOCKET,
    RunDirError,
    base_directory,
    living_servers,
)

_TELL_US: Final = (
    "look for 'preble' in the server's log; what is not mended by that is ours to mend: report it"
)


def look_at_running() -> list[Finding]:
    """Findings about each server that lives. Asks each once; up to 5 s for one that does
    not answer."""
    base = base_directory()
    try:
        servers = living_servers(base)
    except RunDirError:
        return []  # said of the machine
    found: list[Finding] = []
    for path in servers:
        found += look_at(path / ADMIN_SOCKET)
    if not servers:
        nobody = Findings("running servers")
        nobody.warn(
            "running",
            f"no server of this user places requests (looked in {base})",
            "start one with --dp-scheduler preble, or `preble serve`; those of another user, "
            f"container or {RUN_DIR} are not seen from here",
        )
        found += nobody.all
    return found


def look_at(socket: Path) -> list[Finding]:
    """Findings about the server that answers at `socket`."""
    findings = Findings(f"server at {socket}")
    try:
        answer = ask(socket, StatusQuestion())
    except AdminSocketError as error:
        findings.fail("running", str(error), "look at that process and at its log")
        return findings.all
    if not isinstance(answer, ServiceStatus):
        findings.fail("running", "it does not understand the question", "run one version of both")
        return findings.all
    findings.about = f"server {answer.pid} ({answer.role})"
    scheduler = answer.scheduler
    if scheduler is None:
        findings.warn(
            "running",
            "no replicas yet: the engine has not finished starting",
            "look again when it answers requests",
        )
        return findings.all
    findings.ok(
        "running",
        f"{len(scheduler.replicas)} replicas by policy {scheduler.policy}, blocks of "
        f"{scheduler.block_size} tokens, {scheduler.placements} placed, "
        f"{scheduler.in_flight} in flight",
    )
    if scheduler.shadow is not None:
        shadow(findings)
    _troubles(findings, answer, scheduler)
    judge(findings, [_replica(one) for one in scheduler.replicas])
    _audited(findings, scheduler)
    return findings.all


def _troubles(findings: Findings, answer: ServiceStatus, scheduler: SchedulerStatus) -> None:
    counts = {
        "faults while scheduling": answer.errors,
        "messages that could not be read": answer.bad_messages,
        "events that could not be applied": scheduler.skipped_events,
        "requests whose end was not told": sum(one.lost_requests for one in scheduler.replicas),
    }
    troubles = [f"{count} {name}" for name, count in counts.items() if count]
    if troubles:
        findings.warn("troubles", ", ".join(troubles), _TELL_US)
    else:
        findings.ok("troubles", "none is counted")


def _audited(findings: Findings, scheduler: SchedulerStatus) -> None:
    """Whether the engine says at all what it found cached."""
    audited = sum(one.audited_requests for one in scheduler.replicas)
    ended = scheduler.placements - scheduler.in_flight
    if ended > 0 and not audited:
        findings.warn(
            "audit",
            f"{ended} requests have ended and of none was told what was found cached",
            "behind `preble serve`, engines say it when asked to: "
            + "; ".join(f"{engine.title}: {engine.reports}" for engine in ENGINES),
        )
    elif audited:
        exact = sum(one.exact_audits for one in scheduler.replicas)
        findings.ok("audit", f"{exact} of {audited} requests were predicted to the token")


def _replica(one: ReplicaStatus) -> Replica:
    return Replica(
        str(one.replica),
        one.trust,
        one.predicted_cached_tokens,
        one.actual_cached_tokens,
        lag_seconds=one.event_lag_seconds,
    )
