"""The local queue on a real engine: its own order of what waits against ours.

    python -m benchmarks.local_queue --engine vllm --out DIR [--rounds 3]
    python -m benchmarks.local_queue --engine sglang --standins DIR --out DIR

1. One rank with a small cache. A number of clients send one request after the other, so
   that all but the few that the rank runs at a time wait, until the list is at its end.
   With as many clients as requests they all come at once: a backlog that is worked off.
2. They take the requests off one list, the same for all sides: questions about documents,
   more of them than the cache holds, in random order, and prompts that share nothing.
3. Each side gets a fresh server, and each number of clients a list of its own; a round is
   all sides one right after the other, in turning order. Figures are medians over the
   rounds, a ratio is the median of the ratios within each round.

Rounds that an earlier call wrote into DIR are kept, and count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import msgspec
import numpy as np

from preble_plugin.bench.engines import Sglang, Vllm
from preble_plugin.bench.foreign import ForeignLoad
from preble_plugin.bench.open_loop import connected, streamed
from preble_plugin.bench.server import SERVED_NAME, Server, ServerError
from preble_plugin.bench.sglang_server import ONE_CPU, SglangServer
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import BLOCK_SIZE, TWO_REPLICAS, VllmServer

CACHE_TOKENS: Final = 9600
RUNNING: Final = 4
"""Requests that the rank runs at a time."""
CLIENTS: Final = (256, 48)
QUESTIONS: Final = 192
DOCUMENTS: Final = 16
UNIQUE: Final = 64
PROMPT_TOKENS: Final = 1200
QUESTION_TOKENS: Final = 40
PREBLE: Final = "preble"


class Ask(NamedTuple):
    """One request of the list."""

    document: int | None
    """Those with the same number share a document; None shares nothing."""
    prompt: list[int]
    output_tokens: int


class Answered(msgspec.Struct, frozen=True):
    """What one request got. Times in seconds from the start of the load."""

    document: int | None
    sent: float
    first: float
    ended: float
    prompt_tokens: int
    cached_tokens: int
    error: str | None


class Run(msgspec.Struct, frozen=True):
    """One side in one round."""

    side: str
    round: int
    clients: int
    answers: list[Answered]
    foreign_cores: float


def vllm(side: str, model: Path, log: Path, _: Path | None) -> Server:
    """`own`, or `preble`: `--dp-scheduler preble` with one rank."""
    arguments = [
        *TWO_REPLICAS,
        *("--data-parallel-size", "1"),
        *("--num-gpu-blocks-override", str(CACHE_TOKENS // BLOCK_SIZE)),
        *("--max-num-seqs", str(RUNNING)),
        *("--max-num-batched-tokens", "2048"),
        *([] if side == "own" else ["--dp-scheduler", side]),
    ]
    return VllmServer(model, log, arguments, Vllm().environment)


def sglang(side: str, model: Path, log: Path, standins: Path | None) -> Server:
    """A `--schedule-policy` of SGLang's, `fcfs` (its default) or `lpm`, or `preble`."""
    arguments = [
        *ONE_CPU,
        *("--max-total-tokens", str(CACHE_TOKENS)),
        *("--max-running-requests", str(RUNNING)),
        *("--chunked-prefill-size", "2048"),
        *(["--dp-scheduler", side] if side == PREBLE else ["--schedule-policy", side]),
    ]
    return SglangServer(model, log, arguments, Sglang(standins).environment)


Maker = Callable[[str, Path, Path, Path | None], Server]
"""Makes the server of a side, with a model and a log; and with stand-ins for what SGLang
imports where there is no wheel for it."""

ENGINES: Final[Mapping[str, tuple[Maker, Sequence[str]]]] = {
    "vllm": (vllm, ("own", PREBLE)),
    "sglang": (sglang, ("fcfs", "lpm", PREBLE)),
}
"""How a side's server is made, and the sides, the last of which is ours."""


def asks(seed: int) -> list[Ask]:
    """The list."""
    rng = random.Random(seed)

    def text(length: int) -> list[int]:
        return [rng.randrange(10, 4096) for _ in range(length)]

    texts = [text(PROMPT_TOKENS) for _ in range(DOCUMENTS)]
    found = [
        Ask(number % DOCUMENTS, texts[number % DOCUMENTS] + text(QUESTION_TOKENS), 0)
        for number in range(QUESTIONS)
    ]
    found += [Ask(None, text(PROMPT_TOKENS + QUESTION_TOKENS), 0) for _ in range(UNIQUE)]
    rng.shuffle(found)
    return [ask._replace(output_tokens=rng.randint(4, 12)) for ask in found]


async def drive(base_url: str, listed: Sequence[Ask], clients: int) -> list[Answered]:
    """Send what is listed, `clients` at a time, and wait for all of it."""
    answers: list[Answered] = []
    left: Iterator[Ask] = iter(listed)
    began = time.perf_counter()
    async with connected(base_url) as http, asyncio.TaskGroup() as group:

        async def client() -> None:
            for ask in left:
                body = {
                    "model": SERVED_NAME,
                    "prompt": ask.prompt,
                    "max_tokens": ask.output_tokens,
                    "ignore_eos": True,
                    "temperature": 0,
                    "stream": True,
                    "stream_options": {"include_usage": True},
                }
                sent = time.perf_counter()
                got = await streamed(http, "/v1/completions", json.dumps(body).encode(), sent)
                error = got.error
                if error is None and got.output_tokens != ask.output_tokens:
                    error = f"{got.output_tokens} of {ask.output_tokens} output tokens"
                since = sent - began
                answers.append(
                    Answered(
                        ask.document,
                        since,
                        since + got.ttft_seconds,
                        since + got.latency_seconds,
                        got.prompt_tokens,
                        got.cached_tokens,
                        error,
                    )
                )

        for _ in range(clients):
            group.create_task(client())
    return answers


def run(engine: str, side: str, number: int, model: Path, options: argparse.Namespace) -> list[Run]:
    """One side on a fresh server. Raises `ServerError`."""
    make, _ = ENGINES[engine]
    log = options.out / f"{engine}-{side}-{number}.log"
    runs = []
    with make(side, model, log, options.standins) as server:
        asyncio.run(drive(server.base_url, asks(seed=-1)[:8], 1))  # first-request costs
        for place, clients in enumerate(CLIENTS):
            foreign = ForeignLoad(server.cpu_seconds)
            listed = asks(seed=len(CLIENTS) * number + place)
            answers = asyncio.run(drive(server.base_url, listed, clients))
            runs.append(Run(side, number, clients, answers, foreign.cores()))
    return runs


def overtaken(answers: Sequence[Answered]) -> int:
    """How many requests that were sent later were answered before, at most. Where many
    come at once the server may take them in in another order than they were sent in."""
    in_order = sorted(answers, key=lambda one: one.sent)
    first = np.array([one.first for one in in_order])
    return max(int((first[place:] < first[place]).sum()) for place in range(len(first)))


def figures(answers: Sequence[Answered]) -> dict[str, float]:
    """One run in numbers; times in seconds."""
    good = [one for one in answers if one.error is None]
    ttft = np.array([one.first - one.sent for one in good])
    shared = np.array([one.document is not None for one in good])
    prompts = sum(one.prompt_tokens for one in good)
    return {
        "requests answered": len(good),
        "failed": len(answers) - len(good),
        "seconds for all": max(one.ended for one in good),
        "mean TTFT (s)": float(ttft.mean()),
        "median TTFT (s)": float(np.percentile(ttft, 50)),
        "p99 TTFT (s)": float(np.percentile(ttft, 99)),
        "longest TTFT (s)": float(ttft.max()),
        "p99 TTFT of questions (s)": float(np.percentile(ttft[shared], 99)),
        "mean TTFT of questions (s)": float(ttft[shared].mean()),
        "p99 TTFT of unique prompts (s)": float(np.percentile(ttft[~shared], 99)),
        "mean TTFT of unique prompts (s)": float(ttft[~shared].mean()),
        "cached share of prompt tokens": sum(one.cached_tokens for one in good) / max(prompts, 1),
        "overtaken at most (times)": overtaken(good),
    }


def table(runs: Sequence[Run], sides: Sequence[str]) -> str:
    """Medians over the rounds of each side, and of each other one over ours."""
    found = {side: [figures(one.answers) for one in runs if one.side == side] for side in sides}
    *others, ours = sides
    lines = [
        f"| | {' | '.join([*sides, *(f'{side} / {ours}' for side in others)])} |",
        "|---|" + "---|" * (len(sides) + len(others)),
    ]
    for name in found[sides[0]][0]:
        middles = [median(one[name] for one in found[side]) for side in sides]
        said = [f"{one:.3g}" for one in middles]
        for side in others:
            pairs = zip(found[side], found[ours], strict=True)
            ratios = [theirs[name] / mine[name] for theirs, mine in pairs if mine[name]]
            said.append(f"{median(ratios):.2f}" if ratios else "")
        lines.append(f"| {name} | {' | '.join(said)} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local_queue", description=__doc__)
    parser.add_argument("--engine", choices=sorted(ENGINES), required=True)
    parser.add_argument("--rounds", type=int, default=3, help="rounds in all")
    parser.add_argument(
        "--standins", type=Path, help="what SGLang imports and a CPU has no wheel of"
    )
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    options = parser.parse_args(arguments)
    # SIGTERM ends as Ctrl-C does: through the block that stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.out.mkdir(parents=True, exist_ok=True)
    model = make_tiny_model(options.out / "model")
    _, sides = ENGINES[options.engine]
    path = options.out / f"{options.engine}.json"
    runs = msgspec.json.decode(path.read_bytes(), type=list[Run]) if path.exists() else []
    done = {(one.side, one.round) for one in runs}
    try:
        for number in range(options.rounds):
            for turn in range(len(sides)):
                side = sides[(turn + number) % len(sides)]
                if (side, number) in done:
                    continue
                runs += run(options.engine, side, number, model, options)
                path.write_bytes(msgspec.json.encode(runs))
    except ServerError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    for clients in CLIENTS:
        print(f"{clients} clients\n\n{table([r for r in runs if r.clients == clients], sides)}")
    print(f"Other programs used up to {max(one.foreign_cores for one in runs):.2f} cores.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
