"""Workloads from public data (sim/data/README.md): real documents, videos, arrival
times and a real trace.

The data hold lengths, no text. Characters become tokens by `CHARACTERS_PER_TOKEN`, as
no tokenizer is at hand: English prose takes 4 to 4.5 characters a token in vocabularies
of 32,000 to 128,000.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from preble_plugin.sim.arrivals import Times, at_rate, azure, check_rate, poisson
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.trace import read_trace
from preble_plugin.sim.workloads.draws import Counts, Draws
from preble_plugin.sim.workloads.paper import tool_calls, video_questions
from preble_plugin.sim.workloads.subjects import interleaved, questions

CHARACTERS_PER_TOKEN: Final = 4.3
FRAMES_PER_SECOND: Final = 30
TOKENS_PER_PICTURE: Final = 256
"""One picture a second, as the paper's video model takes them: 10.3k tokens a video."""


class _Subject(NamedTuple):
    """A document or a video, with each of its questions as (own, answer). In tokens."""

    tokens: int
    questions: list[tuple[int, int]]


def document_real(*, requests: int, rate: float, seed: int, live: int = 50) -> list[Asked]:
    """LooGLE's short-dependency questions: 5 documents of 15k to 29k tokens, 11 to 25
    questions each. With more requests than its 80 questions further documents of the
    same lengths come, with the same questions."""
    subjects = [
        _Subject(
            _tokens(document["characters"]),
            [(25 + _tokens(asked), _tokens(answer)) for asked, answer in document["questions"]],
        )
        for document in _data("loogle.json.gz")
    ]
    return _asked_of("document-real", subjects, requests, rate, seed, live, common=13)


def video_real(*, requests: int, rate: float, seed: int, live: int = 100) -> list[Asked]:
    """NExT-QA's validation set: 570 videos of 10 to 180 seconds, 8.8 questions of five
    options each. Beyond its 4,996 questions further videos of the same lengths come."""
    subjects = [
        _Subject(
            TOKENS_PER_PICTURE * -(-video["frames"] // FRAMES_PER_SECOND),
            [(60 + _tokens(asked), 1 + _tokens(answer)) for asked, answer in video["questions"]],
        )
        for video in _data("nextqa.json.gz")
    ]
    return _asked_of("video-real", subjects, requests, rate, seed, live, common=16)


def mixed_azure(*, requests: int, rate: float, seed: int) -> list[Asked]:
    """The paper's mix: tool use at the times of Azure's code trace, video questions at
    those of its conversation trace, 31 % and 69 % over the hour.

    A run of `requests` successive arrivals, from where in the hour the seed says,
    stretched to `rate`. Raises ValueError for more than the 28,185 there are.
    """
    code, conversation = azure("code"), azure("conversation")
    times = np.concatenate([code, conversation])
    order = np.argsort(times, kind="stable")
    window = order[_window("mixed-azure", len(order), requests, seed)]
    at = _stretched(times[window], rate)
    coding = window < len(code)
    mixed = tool_calls(at[coding], seed) if coding.any() else []
    mixed += video_questions(at[~coding], seed) if not coding.all() else []
    return sorted(mixed, key=lambda request: request.at)


def mooncake(*, requests: int, rate: float, seed: int) -> list[Asked]:
    """Mooncake's conversations: 12k tokens a prompt, 37 % of the blocks reusable.

    A run of `requests` successive ones, from where in the hour the seed says, stretched
    to `rate`. Raises ValueError for more than the 12,031 there are.
    """
    hour = _mooncake_hour()
    run = hour[_window("mooncake", len(hour), requests, seed)]
    times = _stretched(np.array([request.at for request in run]), rate).tolist()
    return [msgspec.structs.replace(request, at=at) for request, at in zip(run, times, strict=True)]


@cache
def _mooncake_hour() -> tuple[Asked, ...]:
    """Read once: a sweep over rates draws it many times."""
    packed = resources.files("preble_plugin.sim").joinpath("data/mooncake.jsonl.gz")
    with resources.as_file(packed) as path:
        return tuple(read_trace(path))


def _stretched(times: Times, rate: float) -> Times:
    """From 0 on at `rate`; a run so short that all of it came at once stays so."""
    check_rate(rate)
    return at_rate(times, rate) if times[-1] > times[0] else np.zeros(len(times))


def _window(name: str, there: int, requests: int, seed: int) -> slice:
    if requests > there:
        raise ValueError(f"{name} has {there} requests, {requests} were asked for; ask for fewer")
    start = int(Draws(seed, name).even(1)[0] * (there - requests + 1))
    return slice(start, start + requests)


def _asked_of(
    kind: str,
    there: Sequence[_Subject],
    requests: int,
    rate: float,
    seed: int,
    live: int,
    common: int,
) -> list[Asked]:
    """The subjects in random order, over and over until there are `requests` questions."""
    draws = Draws(seed, kind)
    subjects: list[_Subject] = []
    left = requests
    while left > 0:
        for number in draws.shuffled(len(there)).tolist():
            if left > 0:
                cut = there[number].questions[:left]
                subjects.append(there[number]._replace(questions=cut))
                left -= len(cut)
    times: Times = poisson(requests, rate, seed, kind)
    order = interleaved(_whole(len(each.questions) for each in subjects), live, draws)
    turns = [iter(each.questions) for each in subjects]
    asked = [next(turns[subject]) for subject in order.tolist()]
    return questions(
        kind,
        seed,
        times,
        common=common,
        subjects=order,
        subject_tokens=_whole(each.tokens for each in subjects),
        own_tokens=_whole(own for own, _ in asked),
        output_tokens=_whole(answer for _, answer in asked),
    )


def _whole(numbers: Any) -> Counts:
    return np.fromiter(numbers, dtype=np.int64)


def _tokens(characters: int) -> int:
    return max(1, round(characters / CHARACTERS_PER_TOKEN))


def _data(name: str) -> Any:
    packed = resources.files("preble_plugin.sim").joinpath(f"data/{name}")
    return msgspec.json.decode(gzip.decompress(packed.read_bytes()))
