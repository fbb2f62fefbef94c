"""A router of ours (`preble serve`), at its public port and at that of its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from preble_plugin.doctor.engines import ENGINES
from preble_plugin.doctor.finding import Findings
from preble_plugin.doctor.metrics_page import placed
from preble_plugin.doctor.placement import judge_placed
from preble_plugin.serve.facts import Ask, AskError


def look_at_router(findings: Findings, ready: dict[str, Any]) -> None:
    """The public port, whose `/health` said `ready`."""
    up = ready.get("backends_up")
    if ready.get("ready"):
        findings.ok("answers", f"a router of preble's, with {up} backends up")
    else:
        findings.fail(
            "answers",
            f"a router of preble's that takes no requests ({up} backends up)",
            "see its log for why no backend is up; `preble doctor --url` of a backend says more; "
            "one that is draining ends soon",
        )
    findings.ok(
        "backends",
        "are seen at its port of metrics (--metrics-port): give that as --url, or run this "
        "without --url on its machine",
    )


async def look_at_metrics_port(
    findings: Findings, ask: Ask, backends: Sequence[dict[str, Any]]
) -> None:
    """The port of metrics, whose `/backends` are given."""
    findings.ok("answers", f"metrics of a router of preble's, with {len(backends)} backends")
    for one in backends:
        _backend(findings, one)
    _blocks(findings, backends)
    try:
        found = placed(await ask.text("/metrics"))
    except AskError as error:
        findings.fail("metrics", str(error), "see the router's log")
        return
    if found is not None:
        judge_placed(findings, found)


def _backend(findings: Findings, told: dict[str, Any]) -> None:
    name, state = told.get("backend"), told.get("state")
    if state != "up":
        findings.fail(
            "backend",
            f"{name} is {state}: {told.get('cause')}",
            "look at that server; it is taken in again by itself when it is well",
        )
        return
    words = (
        f"{name} is up: {told.get('engine')}, model {told.get('model')}, ranks: "
        f"{told.get('ranks')}, blocks of {told.get('block_size') or 'unknown'} tokens"
    )
    if told.get("events"):
        findings.ok("backend", f"{words}, cache events are read")
    else:
        findings.warn(
            "backend",
            f"{words}, and no cache events: it is taken to hold what was placed on it",
            "run `preble doctor --url` of that backend: it says whether events are published, "
            "reached, and matched by the tokenizer",
        )


def _blocks(findings: Findings, backends: Sequence[dict[str, Any]]) -> None:
    sizes: dict[str, set[int]] = {}
    for one in backends:
        if isinstance(one.get("block_size"), int):
            sizes.setdefault(str(one.get("model")), set()).add(one["block_size"])
    for model, found in sizes.items():
        if len(found) > 1:
            listed = " and ".join(map(str, sorted(found)))
            findings.warn(
                "blocks",
                f"the backends of {model} have blocks of {listed} tokens: those of the first "
                "count, and the events of the others are not used",
                "start them alike: "
                + ", ".join(f"{engine.title} by {engine.blocks}" for engine in ENGINES),
            )
        else:
            findings.ok("blocks", f"the backends of {model} agree: {found.pop()} tokens")
