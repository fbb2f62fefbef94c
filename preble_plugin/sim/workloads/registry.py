"""Workloads by name: what the command line lists and `make` draws."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, TypeAlias

from preble_plugin.sim.asked import Asked
from preble_plugin.sim.workloads import paper, real, sessions, shapes

Make: TypeAlias = Callable[..., list[Asked]]
"""Takes `requests`, `rate` (requests/s), `seed` and what else the workload is told, all
by keyword."""

_COMMON: Final = ("requests", "rate", "seed")


class Workload(NamedTuple):
    """A workload that can be drawn."""

    name: str
    summary: str
    """One line."""
    make: Make

    @property
    def parameters(self) -> dict[str, Any]:
        """What it can be told beyond requests, rate and seed, with the defaults."""
        signature = inspect.signature(self.make).parameters.values()
        return {each.name: each.default for each in signature if each.name not in _COMMON}


WORKLOADS: Final = {
    each.name: each
    for each in (
        Workload("tool", "tool use (ToolBench): 85 % of a prompt is shared", paper.tool),
        Workload("tool-zipf", "tool use, tools called by Zipf's law (1.1)", paper.tool_zipf),
        Workload("agent", "embodied agents (ALFWorld): 48 turns, closed loop", sessions.agent),
        Workload("programming", "programming (APPS): long answers", paper.programming),
        Workload("video", "video questions (NExT-QA): 10k tokens a video", paper.video),
        Workload("document", "questions on long documents (LooGLE): 23k tokens", paper.document),
        Workload("hot", "90 % of the requests share one prefix", shapes.hot),
        Workload("unique", "nothing is shared", shapes.unique),
        Workload("bursts", "groups of 16 equal prompts at once (RL)", shapes.bursts),
        Workload("chat", "chat of several turns, closed loop", sessions.chat),
        Workload("large", "prefixes that a replica's cache cannot hold together", shapes.large),
        Workload("document-real", "LooGLE: real documents and questions", real.document_real),
        Workload("video-real", "NExT-QA: real videos and questions", real.video_real),
        Workload("mixed-azure", "tools and videos at Azure's times", real.mixed_azure),
        Workload("mooncake", "an hour of real conversations (Mooncake)", real.mooncake),
    )
}


def workload_names() -> tuple[str, ...]:
    """All names, the paper's first."""
    return tuple(WORKLOADS)


def make(name: str, *, requests: int, rate: float, seed: int, **parameters: Any) -> list[Asked]:
    """`requests` requests of workload `name` at about `rate` requests/s.

    Those without `after` are in the order of time; one that comes after another stands
    behind it. Equal arguments give equal requests. 10,000 take a second at most.

    Raises ValueError for a name, parameter or number that cannot be.
    """
    workload = WORKLOADS.get(name)
    if workload is None:
        raise ValueError(f"no workload {name!r}{_near(name, WORKLOADS)}")
    for parameter in parameters:
        if parameter not in workload.parameters:
            raise ValueError(
                f"workload {name!r} takes no {parameter!r}{_near(parameter, workload.parameters)}"
            )
    if requests < 1:
        raise ValueError(f"requests must be at least 1, got {requests}")
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, got {seed}")
    return workload.make(requests=requests, rate=rate, seed=seed, **parameters)


def _near(wrong: str, known: dict[str, Any]) -> str:
    near = get_close_matches(wrong, known, 1, cutoff=0.5)
    meant = f", did you mean {near[0]!r}?" if near else "."
    return f"{meant} There are: {', '.join(known) or 'none'}"
