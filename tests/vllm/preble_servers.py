"""The servers of these tests, and how their scheduler and their clients look.

    @serving(TWO, ONE)
    def test_x(server: VllmServer) -> None:
        before = Scheduler(server).settled()

A cache of 300 blocks is so small that eviction is constant.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx

from preble_plugin.bench.vllm_server import VllmServer
from preble_plugin.core.receipts import Receipt
from preble_plugin.core.status import ReplicaStatus, SchedulerStatus
from preble_plugin.service.admin import (
    AdminSocketError,
    ExplainQuestion,
    Explanation,
    ServiceStatus,
    StatusQuestion,
    ask,
)
from preble_plugin.service.run_dir import ADMIN_SOCKET, living_servers
from tests.engines import Serving


def _run_dir() -> Path:
    if shared := os.environ.get("PREBLE_TEST_RUN_DIR"):
        return Path(shared)
    made = Path(tempfile.mkdtemp(prefix="preble-t"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


RUN_DIR = _run_dir()
"""A run directory of these tests alone; programs they start share it."""
SMALL_CACHE = ("--num-gpu-blocks-override", "300")
VOCABULARY = 4096
BLOCK = 32
_ENVIRONMENT = (("PREBLE_RUN_DIR", str(RUN_DIR)), ("VLLM_SERVER_DEV_MODE", "1"))
_Result = TypeVar("_Result")


def _yaml() -> str:
    """The way in by `--config`, with one API server."""
    path = RUN_DIR / "serve.yaml"
    path.write_text(
        "dp-scheduler: preble\ndp-scheduler-config:\n  receipts: 5000\napi-server-count: 1\n"
    )
    return str(path)


TWO = Serving(flags=("--dp-scheduler", "preble", *SMALL_CACHE), environment=_ENVIRONMENT)
"""vLLM's default: as many API servers as ranks, and so a scheduler process."""
ONE = Serving(flags=("--config", _yaml(), *SMALL_CACHE), environment=_ENVIRONMENT)
"""One API server with the scheduler in it, chosen in a YAML file."""
LORA = Serving(
    flags=(
        *("--dp-scheduler", "auto", "--api-server-count", "1", "--enable-lora"),
        *("--lora-modules", f"french={RUN_DIR / 'french'}"),
    ),
    environment=(*_ENVIRONMENT, ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")),
)
"""Adapters that may come and go, which vLLM allows with one API server only. Not
among the others: with LoRA on a CPU, `prompt_logprobs` in a batch ends vLLM 0.32."""
OWN = Serving(
    flags=("--dp-scheduler", "default", *SMALL_CACHE),
    environment=(*_ENVIRONMENT, ("PREBLE_DP_SCHEDULER", "preble")),
)
"""vLLM's own dispatch: the flag says so against the environment."""


class Scheduler:
    """The scheduler of the one server that runs, through its admin socket."""

    @property
    def socket(self) -> Path:
        found = [path / ADMIN_SOCKET for path in living_servers(RUN_DIR)]
        sockets = [path for path in found if path.exists()]
        assert len(sockets) == 1, sockets
        return sockets[0]

    def service(self) -> ServiceStatus:
        answer = ask(self.socket, StatusQuestion())
        assert isinstance(answer, ServiceStatus)
        return answer

    def status(self) -> SchedulerStatus:
        status = self.service().scheduler
        assert status is not None
        return status

    def settled(self) -> SchedulerStatus:
        """The status once no request is in flight."""
        return until(self.status, lambda status: status.in_flight == 0)

    def replica(self, rank: int) -> ReplicaStatus:
        return next(one for one in self.settled().replicas if one.replica == rank)

    def receipts(self, request_id: str) -> list[Receipt]:
        answer = ask(self.socket, ExplainQuestion(request_id))
        assert isinstance(answer, Explanation)
        return answer.receipts

    def receipt(self, request_id: str) -> Receipt:
        """The decision for a request, once its end is known."""

        def ended() -> Receipt:
            (receipt,) = self.receipts(request_id)
            return receipt

        return until(ended, lambda receipt: receipt.finish is not None)


class Audit:
    """What was predicted and what the engines said, between two statuses."""

    def __init__(self, before: SchedulerStatus, after: SchedulerStatus) -> None:
        def grown(field: str) -> int:
            sums = [sum(getattr(one, field) for one in it.replicas) for it in (before, after)]
            return sums[1] - sums[0]

        self.requests = grown("audited_requests")
        self.exact = grown("exact_audits")
        self.predicted = grown("predicted_cached_tokens")
        self.actual = grown("actual_cached_tokens")

    def __repr__(self) -> str:
        return (
            f"{self.exact} of {self.requests} exact, "
            f"{self.predicted} tokens predicted, {self.actual} actual"
        )


def until(
    read: Callable[[], _Result], wanted: Callable[[_Result], bool], seconds: float = 10.0
) -> _Result:
    """What `read` says once it is as wanted; it is asked again for `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = read()
            if wanted(found):
                return found
            last: object = found
        except (AdminSocketError, AssertionError) as error:
            last = error
        assert time.monotonic() < end, f"still not as wanted: {last}"
        time.sleep(0.02)


class Client:
    """A client of one server."""

    def __init__(self, server: VllmServer) -> None:
        self._http = httpx.Client(base_url=server.base_url, timeout=120.0, trust_env=False)
        self._model = server.served_name

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return self._http.post(path, json={"model": self._model, **body}, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

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
        body = {"model": self._model, "prompt": list(prompt), "stream": True, **more}
        with self._http.stream("POST", "/v1/completions", json=body) as answer:
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


def mixed_requests(seed: int, count: int) -> list[dict[str, Any]]:
    """Requests of all sorts: parts of a dozen documents with a question, repeats,
    prompts below a block, tenants, several samples, some that skip the cache."""
    rng = random.Random(seed)
    documents = [tokens(seed * 100 + i, rng.randrange(200, 1500)) for i in range(12)]
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
        if rng.random() < 0.03:
            body["prompt_logprobs"] = 0
        made.append(body)
    return made
