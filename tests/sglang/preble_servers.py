"""The servers of these tests, and a client of SGLang's own API.

    @serving(TWO, PAGES_OF_1)
    def test_x(server: SglangServer) -> None:
        before = Scheduler().settled()

A cache of 4,096 tokens is so small that eviction is constant.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from preble_plugin.core.receipts import Receipt
from tests.engines import SglangServing
from tests.engines.client import Client, mixed_requests, tokens
from tests.engines.preble import RUN_ENVIRONMENT, Scheduler
from tests.sglang.event_tap import Tapped

SMALL_CACHE = ("--max-total-tokens", "4096")
PAGE = 16


def preble(*more: str, page_size: int = PAGE) -> SglangServing:
    """Two ranks of a small cache each, whose requests are placed."""
    return SglangServing(
        flags=(
            *("--dp-scheduler", "preble", "--dp-scheduler-config", '{"receipts": 5000}'),
            *(*SMALL_CACHE, "--page-size", str(page_size), *more),
        ),
        environment=RUN_ENVIRONMENT,
    )


TWO = preble()
"""Two ranks, pages of 16 tokens."""
PAGES_OF_1 = preble(page_size=1)
"""The same with a token to a page."""
PAGES_OF_64 = Tapped(preble(page_size=64).flags, RUN_ENVIRONMENT)
"""The same with pages of 64, and with events on sockets that the user named."""
OWN = SglangServing(
    flags=("--dp-scheduler", "default", *SMALL_CACHE),
    environment=(*RUN_ENVIRONMENT, ("PREBLE_DP_SCHEDULER", "preble")),
)
"""SGLang's own dispatch: the flag says so against the environment."""
ROUND_ROBIN = SglangServing(
    flags=("--load-balance-method", "round_robin", *SMALL_CACHE), environment=RUN_ENVIRONMENT
)
"""The same, without a word of us."""


class SglangClient(Client):
    """Beside the OpenAI API SGLang's own: `/generate`, aborts, flushes."""

    def generate(
        self, prompt: str | Sequence[Any], headers: dict[str, str] | None = None, **more: Any
    ) -> Any:
        """An answer of `/generate`, which has to succeed: one, or for several prompts
        (a list of lists, or of texts) a list. Greedy, 3 tokens if nothing else is said.
        """
        answer = self.ask(prompt, headers, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(
        self, prompt: str | Sequence[Any], headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """The same, whatever comes of it."""
        return self.http.post("/generate", json=_body(prompt, more), headers=headers)

    def generated(self, prompt: Sequence[int], **more: Any) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer; closing the iterator hangs up."""
        yield from self.chunks("/generate", {**_body(prompt, more), "stream": True})

    def abort(self, rid: str = "", everything: bool = False) -> None:
        """`/abort_request`: a request and those whose id begins with its, or all."""
        body = {"rid": rid, "abort_all": everything}
        assert self.http.post("/abort_request", json=body).status_code == 200

    def waiting(self) -> int:
        """Requests in the queues of the ranks, by SGLang's own word."""
        loads = self.get("/v1/loads").json()["loads"]
        return sum(one["num_waiting_reqs"] for one in loads)

    def flush_cache(self) -> None:
        """`/flush_cache`, with nothing in flight."""
        answer = self.http.post("/flush_cache", params={"timeout": 10})
        assert answer.status_code == 200, answer.text


def _body(prompt: str | Sequence[Any], more: dict[str, Any]) -> dict[str, Any]:
    """Sampling parameters are those that are no key of `/generate` itself."""
    own = {key: more.pop(key) for key in list(more) if key in _OWN_KEYS}
    sampling = {"max_new_tokens": 3, "ignore_eos": True, "temperature": 0.0, **more}
    text = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], str))
    given = {"text": prompt} if text else {"input_ids": prompt}
    return {**given, "sampling_params": sampling, **own}


_OWN_KEYS = (
    *("rid", "extra_key", "cache_salt", "lora_path", "session_params", "priority"),
    *("return_logprob", "logprob_start_len", "top_logprobs_num", "routed_dp_rank"),
)


def sglang_requests(seed: int, count: int, longest: int = 1500) -> list[dict[str, Any]]:
    """Requests of all sorts for `generate`; some ask for log probabilities of their
    prompt, some for so many tokens that the answer fills pages."""
    rare: list[tuple[float, dict[str, Any]]] = [
        (0.05, {"return_logprob": True}),
        (0.15, {"max_tokens": 70}),
    ]
    names = {"max_tokens": "max_new_tokens", "seed": "sampling_seed"}
    made = []
    for body in mixed_requests(seed, count, rare, longest):
        if body.get("return_logprob"):
            body = {**body, "logprob_start_len": len(body["prompt"]) // 2}
        made.append({names.get(key, key): value for key, value in body.items()})
    return made


def one_by_one(
    client: SglangClient, scheduler: Scheduler, requests: Sequence[dict[str, Any]]
) -> int:
    """Send each request once the one before has settled; every fifth goes on from an
    answer. What SGLang found cached, in tokens."""
    rng = random.Random(len(requests))
    said: list[list[int]] = []
    cached = 0
    for number, request in enumerate(requests):
        prompt = request["prompt"]
        if number % 5 == 4:
            prompt = rng.choice(said[-8:]) + tokens(number, rng.randrange(30))
        asked = {**request, "prompt": prompt}
        if "logprob_start_len" in asked:
            asked["logprob_start_len"] = len(prompt) // 2
        answers = client.generate(**asked)
        for answer in answers if isinstance(answers, list) else [answers]:
            said.append(prompt + answer["output_ids"])
            cached += answer["meta_info"]["cached_tokens"]
        scheduler.settled()
    return cached


def told(receipt: Receipt) -> tuple[int, int | None]:
    """What was predicted, and what was found cached."""
    return receipt.predicted_cached_tokens, receipt.actual_cached_tokens
