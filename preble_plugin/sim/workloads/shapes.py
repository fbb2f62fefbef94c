"""Shapes of traffic that try a policy: one hot prefix, nothing shared, bursts of equal
prompts, a prefix that no cache holds."""

from __future__ import annotations

import numpy as np

from preble_plugin.sim.arrivals import poisson
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.streams import stream_number
from preble_plugin.sim.workloads.draws import Draws, between, lognormal, whole
from preble_plugin.sim.workloads.subjects import questions


def hot(
    *,
    requests: int,
    rate: float,
    seed: int,
    share: float = 0.9,
    others: int = 100,
    prefix_tokens: int = 3000,
) -> list[Asked]:
    """`share` of the requests open with one prefix, the rest with one of `others`.

    Prefixes of `prefix_tokens`, 100 to 300 of a request's own, outputs of 64 on average.
    """
    if not 0 <= share <= 1 or others < 1:
        raise ValueError(f"share must be in [0, 1], others at least 1, got {share} and {others}")
    draws = Draws(seed, "hot")
    chosen = draws.even(requests)
    rest = np.minimum((chosen - share) / max(1 - share, 1e-9) * others, others - 1)
    return questions(
        "hot",
        seed,
        poisson(requests, rate, seed, "hot"),
        common=0,
        subjects=np.where(chosen < share, 0, 1 + rest.astype(np.int64)),
        subject_tokens=np.full(others + 1, prefix_tokens),
        own_tokens=whole(between(draws.even(requests), 100, 300)),
        output_tokens=whole(lognormal(draws.even(requests), 4.0, 0.56)),
    )


def unique(
    *, requests: int, rate: float, seed: int, mu: float = 7.5, sigma: float = 0.6
) -> list[Asked]:
    """Prompts that share nothing: LogN(mu, sigma) tokens, 2,165 on average; outputs
    LogN(4.5, .8), 124 on average."""
    draws = Draws(seed, "unique")
    times = poisson(requests, rate, seed, "unique").tolist()
    prompts = whole(lognormal(draws.even(requests), mu, sigma)).tolist()
    outputs = whole(lognormal(draws.even(requests), 4.5, 0.8)).tolist()
    return [
        Asked(f"unique-{i}", at, (Part(stream_number(seed, "unique/own", i), prompt),), output)
        for i, (at, prompt, output) in enumerate(zip(times, prompts, outputs, strict=True))
    ]


def bursts(
    *, requests: int, rate: float, seed: int, group: int = 16, longest_answer: int = 2048
) -> list[Asked]:
    """Groups of `group` equal prompts at once, as reinforcement learning samples them:
    200 tokens for all, LogN(6.0, .6) of the problem; answers LogN(5.5, .7). Groups are
    Poisson at rate / group."""
    if group < 1:
        raise ValueError(f"group must be at least 1 request, got {group}")
    draws = Draws(seed, "bursts")
    groups = -(-requests // group)
    times = poisson(groups, rate / group, seed, "bursts").tolist()
    problems = whole(lognormal(draws.even(groups), 6.0, 0.6), 16, 16384).tolist()
    outputs = whole(lognormal(draws.even(requests), 5.5, 0.7), most=longest_answer).tolist()
    opening = Part(stream_number(seed, "bursts/common"), 200)
    prompts = [
        (opening, Part(stream_number(seed, "bursts/problem", number), problem))
        for number, problem in enumerate(problems)
    ]
    return [
        Asked(
            request_id=f"bursts-{number}",
            at=times[number // group],
            prompt=prompts[number // group],
            output_tokens=output,
            max_output_tokens=longest_answer,
        )
        for number, output in enumerate(outputs)
    ]


def large(
    *,
    requests: int,
    rate: float,
    seed: int,
    cache_tokens: int = 198_000,
    times_cache: float = 1.3,
    prefixes: int = 2,
) -> list[Asked]:
    """Every prompt opens with one of `prefixes` prefixes, of `times_cache` x
    `cache_tokens` tokens together.

    `cache_tokens` is what a replica's cache holds (198,000: Mistral-7B on an A6000). The
    prefixes fit there one by one but not together; with one alone no request fits, which
    an engine refuses. 100 to 300 tokens of a request's own, outputs of 64 on average.
    """
    if prefixes < 1 or times_cache * cache_tokens < prefixes:
        raise ValueError(
            f"prefixes must be in 1 .. times_cache x cache_tokens, got {prefixes} prefixes, "
            f"{times_cache} x {cache_tokens} tokens"
        )
    draws = Draws(seed, "large")
    return questions(
        "large",
        seed,
        poisson(requests, rate, seed, "large"),
        common=0,
        subjects=draws.shuffled(requests) % prefixes,
        subject_tokens=np.full(prefixes, round(times_cache * cache_tokens / prefixes)),
        own_tokens=whole(between(draws.even(requests), 100, 300)),
        output_tokens=whole(lognormal(draws.even(requests), 4.0, 0.56)),
    )
