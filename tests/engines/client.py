"""Clients of a server's OpenAI API, and what they ask.

Prompts are token ids of the tiny model, each made from a seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from preble_plugin.bench.server import Server

VOCABULARY = 4096
_Result = TypeVar("_Result")


class Client:
    """A client of one server."""

    def __init__(self, server: Server) -> None:
        self.http = httpx.Client(base_url=server.base_url, timeout=120.0, trust_env=False)
        self.model = server.served_name

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post(path, json={"model": self.model, **body}, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def complete(
        self, prompt: str | Sequence[int], headers: dict[str, str] | None = None, **more: Any
    ) -> dict[str, Any]:
        """A completion that has to succeed; greedy, 3 tokens if nothing else is said."""
        defaults = {"max_tokens": 3, "ignore_eos": True, "temperature": 0.0}
        answer = self.post(
            "/v1/completions", {"prompt": prompt, **defaults, **more}, **(headers or {})
        )
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def stream(self, prompt: Sequence[int], **more: Any) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed completion; closing the iterator hangs up."""
        body = {"model": self.model, "prompt": list(prompt), "stream": True, **more}
        yield from self.chunks("/v1/completions", body)

    def chunks(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What a streamed answer says, chunk by chunk."""
        with self.http.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    yield json.loads(line.removeprefix("data: "))


def in_parallel(count: int, work: Callable[[int], _Result]) -> list[_Result]:
    """`work(0)` to `work(count - 1)`, all at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def tokens(seed: int, length: int) -> list[int]:
    """A prompt of its own."""
    rng = random.Random(f"{seed}/{length}")
    return [rng.randrange(10, VOCABULARY) for _ in range(length)]


def cached_tokens(answer: dict[str, Any]) -> int:
    """The engine's own number."""
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def mixed_requests(
    seed: int,
    count: int,
    rare: Sequence[tuple[float, dict[str, Any]]] = (),
    longest: int = 1500,
) -> list[dict[str, Any]]:
    """Requests of all sorts: parts of a dozen documents of up to `longest` tokens with
    a question, repeats, prompts below a block, tenants, several samples. `rare` are
    more that are asked for, each in this share of them."""
    rng = random.Random(seed)
    documents = [tokens(seed * 100 + i, rng.randrange(200, longest)) for i in range(12)]
    made: list[dict[str, Any]] = []
    for _ in range(count):
        document = rng.choice(documents)
        kind = rng.random()
        if kind < 0.1 and made:
            made.append(rng.choice(made))
            continue
        if kind < 0.2:
            prompt = tokens(rng.randrange(1 << 30), rng.randrange(1, 80))
        else:
            question = tokens(rng.randrange(1 << 30), rng.randrange(1, 60))
            prompt = document[: rng.randrange(100, len(document))] + question
        body: dict[str, Any] = {"prompt": prompt, "max_tokens": rng.randrange(1, 6)}
        if rng.random() < 0.15:
            body["cache_salt"] = rng.choice(["tenant-a", "tenant-b"])
        if rng.random() < 0.05:
            body |= {"n": 2, "temperature": 1.0, "seed": 1}
        for share, asked in rare:
            if rng.random() < share:
                body |= asked
        made.append(body)
    return made
