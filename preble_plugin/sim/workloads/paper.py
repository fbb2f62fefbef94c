"""The paper's workloads that ask about subjects: tools, problems, videos, documents.

Lengths and sharing are those of Preble's Table 1 (ICLR 2025, section 3), which a test
recomputes from what is drawn here with an infinite prefix tree. Each function says what
its draws are, and where two published figures exclude each other which one it keeps.
"""

from __future__ import annotations

import numpy as np

from preble_plugin.sim.arrivals import Times, poisson
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.workloads.draws import Counts, Draws, between, lognormal, normal, whole
from preble_plugin.sim.workloads.subjects import counts_of, interleaved, questions


def tool(*, requests: int, rate: float, seed: int, live: int = 256) -> list[Asked]:
    """Tool use (ToolBench): 165 tokens for all, about 1,395 of a tool, 275 of its own."""
    return tool_calls(poisson(requests, rate, seed, "tool"), seed, live)


def tool_calls(times: Times, seed: int, live: int = 256) -> list[Asked]:
    """Tool use at given times: requests per tool LogN(3.01, 1.14), 39 on average."""
    draws = Draws(seed, "tool")
    counts = counts_of(
        len(times), 38.9, draws, lambda even: whole(lognormal(even, 3.01, 1.14), most=3000)
    )
    return _tool_calls("tool", seed, times, interleaved(counts, live, draws), len(counts), draws)


def tool_zipf(
    *, requests: int, rate: float, seed: int, tools: int = 500, exponent: float = 1.1
) -> list[Asked]:
    """Tool use where the k-th tool of `tools` is called in proportion to k^-exponent."""
    if tools < 1:
        raise ValueError(f"tools must be at least 1, got {tools}")
    draws = Draws(seed, "tool-zipf")
    mass = np.cumsum(np.arange(1, tools + 1, dtype=np.float64) ** -exponent)
    called = np.searchsorted(mass / mass[-1], draws.even(requests)).astype(np.int64)
    times = poisson(requests, rate, seed, "tool-zipf")
    return _tool_calls("tool-zipf", seed, times, called, tools, draws)


def _tool_calls(
    kind: str, seed: int, times: Times, called: Counts, tools: int, draws: Draws
) -> list[Asked]:
    """Prompts LogN(7.44, .39) of at most 4,096 tokens, outputs LogN(3.70, .36). A tool
    takes at least 440 tokens, so that it is longer than what is before and behind it."""
    weights = np.bincount(called, minlength=tools)
    prompts = whole(lognormal(draws.spread(weights), 7.44, 0.39), 165 + 440 + 275, 4096 - 135)
    return questions(
        kind,
        seed,
        times,
        common=165,
        subjects=called,
        subject_tokens=prompts - 165 - 275,
        own_tokens=whole(between(draws.even(len(times)), 140, 410)),
        output_tokens=whole(lognormal(draws.even(len(times)), 3.70, 0.36)),
    )


def programming(
    *, requests: int, rate: float, seed: int, live: int = 400, longest_answer: int = 8192
) -> list[Asked]:
    """Programming (APPS): 2,400 tokens for all, a problem, about 35 of its own.

    Prompts LogN(8.18, .41), answers LogN(4.52, 1.20). Requests per problem are
    heavy-tailed, LogN(2.55, 1.1) with a mean of 23.5. The paper's 126 +- 2157 requests
    that share the key portion come of themselves with some 45,000 requests: the key
    portion is the 2,400 tokens wherever a problem is shorter, one node shared by all,
    and else the problem.

    Answers of at most 512 tokens (`longest_answer=512`), as served in the paper's runs,
    exclude its own 190 +- 343: below 512 no distribution with a mean of 190 has a
    deviation above 247. The table is kept.
    """
    draws = Draws(seed, "programming")
    counts = counts_of(
        requests, 23.5, draws, lambda even: whole(lognormal(even, 2.55, 1.1), most=1000)
    )
    prompts = whole(lognormal(draws.spread(counts), 8.18, 0.41), 2400 + 60 + 35, 16384)
    return questions(
        "programming",
        seed,
        poisson(requests, rate, seed, "programming"),
        common=2400,
        subjects=interleaved(counts, live, draws),
        subject_tokens=prompts - 2400 - 35,
        own_tokens=whole(between(draws.even(requests), 20, 50)),
        output_tokens=whole(lognormal(draws.even(requests), 4.52, 1.20), most=longest_answer),
        max_output_tokens=longest_answer,
    )


def video(
    *, requests: int, rate: float, seed: int, live: int = 100, longest_video: int = 65536
) -> list[Asked]:
    """Video question answering (NExT-QA): 16 tokens, a video, about 90 of its own."""
    return video_questions(poisson(requests, rate, seed, "video"), seed, live, longest_video)


def video_questions(
    times: Times, seed: int, live: int = 100, longest_video: int = 65536
) -> list[Asked]:
    """Video questions at given times: videos LogN(9.04, .56), 8.6 +- 2 questions each,
    answers 4 +- 1.5.

    Videos of at most 8,176 tokens (`longest_video=8176`: 32 frames of 256), as served in
    the paper's runs, exclude its own mean prompt of 9,865. The table is kept.
    """
    draws = Draws(seed, "video")
    counts = counts_of(len(times), 8.6, draws, lambda even: whole(normal(even, 8.6, 2)))
    lengths = whole(lognormal(draws.spread(counts), 9.03, 0.56), 512, longest_video)
    return questions(
        "video",
        seed,
        times,
        common=16,
        subjects=interleaved(counts, live, draws),
        subject_tokens=lengths,
        own_tokens=whole(between(draws.even(len(times)), 60, 120)),
        output_tokens=whole(normal(draws.even(len(times)), 4, 1.5)),
    )


def document(*, requests: int, rate: float, seed: int, live: int = 50) -> list[Asked]:
    """Long documents (LooGLE): 13 tokens, a document, about 40 of its own.

    Documents N(23.4k, 6.3k) of at most 32.7k tokens, 18 +- 8.6 questions each, answers
    16 +- 10.
    """
    draws = Draws(seed, "document")
    counts = counts_of(requests, 18, draws, lambda even: whole(normal(even, 17.9, 8.7)))
    lengths = whole(normal(draws.spread(counts), 23_500, 6_400), 4_000, 32_700)
    return questions(
        "document",
        seed,
        poisson(requests, rate, seed, "document"),
        common=13,
        subjects=interleaved(counts, live, draws),
        subject_tokens=lengths,
        own_tokens=whole(between(draws.even(requests), 20, 60)),
        output_tokens=whole(normal(draws.even(requests), 15.6, 10.3)),
    )
