"""What the load generator sends, and when: seeded, so that both sides get the same.

- `documents`: long-document question answering. Each document is asked several
  questions, the questions of all documents come in random order, and a prompt
  is the document first and then the question, so that prompts about one
  document share a long prefix. (PREBLE: LooGLE; scaled to a small machine.)
- `unique`: prompts of the same length that share nothing but the chat
  template's first tokens: nothing can be reused and placement can only cost.

Arrivals are Poisson, given their number: n times drawn evenly over n / rate
seconds, so that the rate is met exactly. They are drawn here, once, and do not
depend on how fast anything is answered.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from preble_plugin.bench.tiny_model import Language

_LANGUAGE = Language()

WORDS_PER_TOKEN = 0.77
"""Of the pseudo-language in the tiny model's tokenizer, measured."""


@dataclass(frozen=True)
class Call:
    """One chat request of the workload."""

    at_seconds: float
    """When it is sent, from the start of the load."""
    content: str
    output_tokens: int
    """Exactly as many are generated (`ignore_eos`)."""
    document: int
    """Calls with the same number share a document."""


@dataclass(frozen=True)
class Workload:
    """A named sequence of calls in order of arrival."""

    name: str
    calls: Sequence[Call]

    @property
    def seconds(self) -> float:
        """From the start to the last arrival."""
        return self.calls[-1].at_seconds


def documents(
    requests: int, rate: float, subjects: int = 24, tokens: int = 3000, seed: int = 1
) -> Workload:
    """`requests` questions, spread evenly over `subjects` documents of about `tokens` tokens.

    `rate` is in requests per second. Raises `ValueError` for fewer requests
    than documents.
    """
    if not 1 <= subjects <= requests:
        raise ValueError(f"{requests} requests cannot ask about {subjects} documents, each once")
    rng = random.Random(seed)
    texts = [_text(rng, tokens) for _ in range(subjects)]
    order = [number % subjects for number in range(requests)]
    rng.shuffle(order)
    return _arriving("documents", rng, rate, [(texts[subject], subject) for subject in order])


def unique(requests: int, rate: float, tokens: int = 3000, seed: int = 1) -> Workload:
    """`requests` prompts of about `tokens` tokens, no two alike; `rate` in requests/s."""
    if requests < 1:
        raise ValueError(f"at least 1 request is needed, got {requests}")
    rng = random.Random(seed)
    return _arriving(
        "unique", rng, rate, [(_text(rng, tokens), number) for number in range(requests)]
    )


def _arriving(
    name: str, rng: random.Random, rate: float, subjects: Sequence[tuple[str, int]]
) -> Workload:
    if rate <= 0:
        raise ValueError(f"the rate must be above 0 requests/s, got {rate}")
    calls: list[Call] = []
    times = sorted(rng.uniform(0.0, len(subjects) / rate) for _ in subjects)
    for at_seconds, (text, document) in zip(times, subjects, strict=True):
        question = " ".join(_LANGUAGE.sentence(rng) for _ in range(2))
        content = f"{text}\n\nQuestion: {question}\nAnswer:"
        calls.append(Call(at_seconds, content, rng.randint(8, 24), document))
    return Workload(name, calls)


def _text(rng: random.Random, tokens: int) -> str:
    return _LANGUAGE.text(rng, round(tokens * WORDS_PER_TOKEN))
