"""Closed loops: agents that act, people who chat.

1. A session starts at a Poisson time. Each further turn starts some time after the last
   one has ended, so that a slow fleet is asked less, not swamped.
2. A turn's prompt is the former prompt, the former answer (its stream, all of its
   tokens) and what is new: an observation, or what the user says.
3. Sessions start at rate / turns, so that a fleet that keeps up sees about `rate`.

Requests stand in the order in which their sessions start; a request stands behind the
one it comes after.
"""

from __future__ import annotations

import numpy as np

from preble_plugin.sim.arrivals import poisson
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.streams import stream_number
from preble_plugin.sim.workloads.draws import (
    Counts,
    Draws,
    Floats,
    between,
    exponential,
    lognormal,
    normal,
    whole,
)
from preble_plugin.sim.workloads.subjects import counts_of


def agent(
    *,
    requests: int,
    rate: float,
    seed: int,
    observe_seconds: float = 0.1,
) -> list[Asked]:
    """Embodied agents (ALFWorld): a head of about 1,740 tokens for each environment, 48
    +- 8 turns that each add an answer (16 tokens) and an observation (7).

    `observe_seconds`: mean of the time the environment takes for a turn. Answers are of
    at most 26 tokens and 16 +- 12 (the paper's 16 +- 13 exceeds what 1 to 26 allow:
    12.2): a thought that is cut at 26, or an act of 1 to 3.
    """
    draws = Draws(seed, "agent")
    turns = counts_of(requests, 48, draws, lambda even: whole(normal(even, 48, 8), 8))
    spoken = draws.even(requests)
    acts = 1 + np.minimum(spoken / 0.417 * 3, 2).astype(np.int64)
    return _sessions(
        "agent",
        seed,
        rate,
        turns,
        heads=whole(normal(draws.spread(turns), 1740, 325), 900),
        common=0,
        added=whole(between(draws.even(requests), 2.5, 11.5)),
        outputs=np.where(spoken < 0.417, acts, 26),
        pauses=exponential(draws.even(requests), observe_seconds),
        max_output_tokens=26,
    )


def chat(
    *,
    requests: int,
    rate: float,
    seed: int,
    turns: float = 6.0,
    think_seconds: float = 8.0,
    common: int = 400,
    longest_answer: int = 4096,
) -> list[Asked]:
    """Chat of several turns: `common` tokens for all, what the user says LogN(4.0, 1.0),
    67 on average, answers LogN(5.2, .8), 250 on average.

    `turns` is the mean of a geometric number of turns, `think_seconds` the mean time
    from an answer to what the user says next.
    """
    if turns < 1:
        raise ValueError(f"turns must be at least 1 on average, got {turns}")
    draws = Draws(seed, "chat")

    def geometric(even: Floats) -> Counts:
        if turns == 1:
            return np.ones(len(even), np.int64)
        return whole(0.5 + np.log1p(-even) / np.log1p(-1 / turns))

    counts = counts_of(requests, turns, draws, geometric)
    said = whole(lognormal(draws.even(requests), 4.0, 1.0), most=8192)
    return _sessions(
        "chat",
        seed,
        rate,
        counts,
        heads=said[np.cumsum(counts) - counts],
        common=common,
        added=said,
        outputs=whole(lognormal(draws.even(requests), 5.2, 0.8), most=longest_answer),
        pauses=exponential(draws.even(requests), think_seconds),
        max_output_tokens=longest_answer,
    )


def _sessions(
    kind: str,
    seed: int,
    rate: float,
    turns: Counts,
    *,
    heads: Counts,
    common: int,
    added: Counts,
    outputs: Counts,
    pauses: Floats,
    max_output_tokens: int,
) -> list[Asked]:
    """One session for each of `turns`. `heads`: what it opens with; `added`, `outputs`,
    `pauses`: of each request, in order. Lengths in tokens, pauses in seconds."""
    requests = int(turns.sum())
    starts = poisson(len(turns), rate * len(turns) / requests, seed, kind).tolist()
    opening = (Part(stream_number(seed, f"{kind}/common"), common),) if common else ()
    news, lengths, waits = added.tolist(), outputs.tolist(), pauses.tolist()
    asked: list[Asked] = []
    for session, (start, many) in enumerate(zip(starts, turns.tolist(), strict=True)):
        head = Part(stream_number(seed, f"{kind}/head", session), int(heads[session]))
        prompt: tuple[Part, ...] = (*opening, head)
        for turn in range(many):
            number = len(asked)
            if turn:
                last = asked[-1]
                assert last.answer is not None
                prompt = (
                    *prompt,
                    Part(last.answer, last.output_tokens),
                    Part(stream_number(seed, f"{kind}/added", number), news[number]),
                )
            asked.append(
                Asked(
                    request_id=f"{kind}-{session}-{turn}",
                    at=waits[number] if turn else start,
                    prompt=prompt,
                    output_tokens=lengths[number],
                    after=asked[-1].request_id if turn else None,
                    answer=stream_number(seed, f"{kind}/answer", number),
                    session_id=f"{kind}-{session}",
                    max_output_tokens=max_output_tokens,
                )
            )
    return asked
