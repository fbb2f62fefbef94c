"""The simulator's workloads, cut down to what a small model on one core can bear.

Prompts, outputs and sessions are shortened by a factor each; who shares what with whom,
when requests come and what comes after what stay as they are.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.workloads import make


class Scale(NamedTuple):
    """By how much a workload is cut."""

    prompts: float = 1.0
    """Tokens of each part of a prompt are divided by it."""
    outputs: float = 1.0
    """Tokens of each answer too."""
    turns: int | None = None
    """Turns of a session that are kept."""
    drawn: float = 1.0
    """Requests drawn for each that is kept: so much longer sessions were before the cut."""


SCALES: Final = {
    "document": Scale(prompts=20),
    "agent": Scale(prompts=2, turns=12, drawn=4),
    "hot": Scale(prompts=3, outputs=4),
    "unique": Scale(prompts=3, outputs=8),
    "tool": Scale(prompts=3, outputs=3),
}


class Cell(NamedTuple):
    """A workload at a rate, cut by `SCALES`."""

    name: str
    rate: float
    """Requests/s, about."""
    requests: int
    """About so many are kept."""
    seed: int

    def workload(self) -> list[Asked]:
        """Its requests. Raises ValueError for a workload that has no scale."""
        if self.name not in SCALES:
            raise ValueError(f"no scale for workload {self.name!r}; there are: {', '.join(SCALES)}")
        scale = SCALES[self.name]
        drawn = make(
            self.name,
            requests=round(self.requests * scale.drawn),
            rate=self.rate * scale.drawn,
            seed=self.seed,
        )
        return scaled(drawn, scale)


def scaled(workload: list[Asked], scale: Scale) -> list[Asked]:
    """The same requests, shorter; whatever comes after one that is cut goes too."""
    turn: dict[str, int] = {}
    lengths = {
        one.answer: max(1, round(one.output_tokens / scale.outputs))
        for one in workload
        if one.answer is not None
    }
    kept: list[Asked] = []
    for one in workload:
        turn[one.request_id] = 1 if one.after is None else turn[one.after] + 1
        if scale.turns is not None and turn[one.request_id] > scale.turns:
            continue
        kept.append(
            msgspec.structs.replace(
                one,
                prompt=tuple(
                    Part(
                        part.stream,
                        lengths.get(part.stream, max(1, round(part.tokens / scale.prompts))),
                    )
                    for part in one.prompt
                ),
                output_tokens=max(1, round(one.output_tokens / scale.outputs)),
                max_output_tokens=one.max_output_tokens
                and max(1, round(one.max_output_tokens / scale.outputs)),
            )
        )
    return kept
