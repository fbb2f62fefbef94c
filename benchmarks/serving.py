"""What `preble serve` adds to a request, against the same server asked directly.

    python -m benchmarks.serving [--quick] [--text TOKENIZER] [--out DIRECTORY]

1. The server behind it is trivial: it reads a request and answers at once, so that all
   there is to measure is the router. The router has one core to itself, the others are
   on another.
2. In each round the server is asked directly and through the router, one request at a
   time and many at once. The overhead is the difference of the medians of a round; what is
   told is the median round, and the rounds' extremes.
3. Prompts are 1,024 random token ids; with `--text` also text of about as many tokens,
   which the router has to tokenize: whole, and as conversations that grow.

By itself a process of it is the server (`server PORT`) or a client (`client PORT ...`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import uvloop

from benchmarks.measure import VOCABULARY, machine

TOKENS: Final = 1024
AT_ONCE: Final = 32
BLOCK: Final = 16
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Messages(asyncio.Protocol):
    """HTTP messages with a length, one after the other on a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (head := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self.buffer, 0, head)
            end = head + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < end:
                return
            message, self.buffer = self.buffer[:end], self.buffer[end:]
            self.message(message)

    def message(self, message: bytes) -> None:
        raise NotImplementedError


def answer(body: bytes, kind: bytes = b"application/json") -> bytes:
    fields = b"content-type: %s\r\ncontent-length: %d" % (kind, len(body))
    return b"HTTP/1.1 200 OK\r\n%s\r\n\r\n%s" % (fields, body)


def server_answers(tokenizer: str) -> dict[bytes, bytes]:
    """What the server says to each path, as vLLM does."""
    card = {"id": "m", "object": "model", "owned_by": "vllm", "root": tokenizer or None}
    cache = (
        f'vllm:cache_config_info{{block_size="{BLOCK}",engine="0",num_gpu_blocks="20000"}} 1.0\n'
    )
    usage = {"prompt_tokens": TOKENS, "completion_tokens": 1, "total_tokens": TOKENS + 1}
    choice = {"index": 0, "text": " x", "finish_reason": "length"}
    done = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    return {
        b"GET /health": answer(b""),
        b"GET /v1/models": answer(json.dumps({"data": [card]}).encode()),
        b"GET /metrics": answer(cache.encode(), b"text/plain"),
        b"GET /kv_event_sources": answer(b"{}"),
        b"POST /v1": answer(json.dumps({**done, "choices": [choice], "usage": usage}).encode()),
    }


class Server(Messages):
    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self.answers = answers

    def message(self, message: bytes) -> None:
        for start, said in self.answers.items():
            if message.startswith(start):
                self.transport.write(said)
                return
        self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")


class Client(Messages):
    """Sends the next of `requests` when the one before is answered."""

    def __init__(self, requests: Iterator[bytes], seconds: list[float]) -> None:
        self.requests = requests
        self.seconds = seconds
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send()

    def send(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
            self.done.set_result(None)
            return
        self.began = time.perf_counter()
        self.transport.write(request)

    def message(self, message: bytes) -> None:
        if not message.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(message[:200].decode()))
            return
        self.seconds.append(time.perf_counter() - self.began)
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("closed"))


def bodies(what: str, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Path and body of each request, in order; others with another seed."""
    draw = random.Random(seed)
    words = ["one", "two", "three", "four", "red", "green", "blue", "over", "under", "fox"]
    if what == "ids":
        return [
            ("/v1/completions", {"prompt": draw.choices(range(VOCABULARY), k=TOKENS)})
            for _ in range(64)
        ]
    if what == "text":
        return [
            ("/v1/completions", {"prompt": " ".join(draw.choices(words, k=TOKENS)) + str(i)})
            for i in range(6_000)
        ]
    talk: list[dict[str, str]] = []  # conversations of 16 turns, one after the other
    found = []
    for turn in range(6_000):
        if turn % 16 == 0:
            talk = []
        talk = [
            *talk,
            {"role": "user", "content": f"{turn} " + " ".join(draw.choices(words, k=64))},
        ]
        found.append(("/v1/chat/completions", {"messages": talk}))
    return found


async def ask(port: int, what: str, seed: int, count: int, at_once: int) -> dict[str, float]:
    """Ask `count` times over `at_once` connections."""
    raw = []
    for path, body in bodies(what, seed):
        data = json.dumps({"model": "m", "max_tokens": 1, **body}).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        raw.append(head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data)
    requests = itertools.islice(itertools.cycle(raw), count)
    seconds: list[float] = []
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    clients = [
        (await loop.create_connection(lambda: Client(requests, seconds), "127.0.0.1", port))[1]
        for _ in range(at_once)
    ]
    await asyncio.gather(*(client.done for client in clients))
    took = time.perf_counter() - began
    return {"p50_ms": statistics.median(seconds) * 1e3, "per_s": count / took}


async def serve(port: int, tokenizer: str) -> None:
    answers = server_answers(tokenizer)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Server(answers), "127.0.0.1", port)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


# -- the measurement ---------------------------------------------------------------------


def own(core: int, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A process of this module, or another, on one core."""
    pin = [sys.executable, "-c", _PINNED, str(core), *arguments]
    return subprocess.Popen(pin, text=True, **options)


_PINNED: Final = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


def client(core: int, port: int, what: str, *numbers: int) -> dict[str, float]:
    """`numbers` are the seed of its prompts, how many, and how many at once."""
    arguments = ("-m", "benchmarks.serving", "client", *map(str, (port, what, *numbers)))
    process = own(core, *arguments, stdout=subprocess.PIPE)
    said = process.communicate()[0]
    if process.returncode:
        raise SystemExit("a client failed")
    found: dict[str, float] = json.loads(said)
    return found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rounds(
    what: str, direct: int, routed: int, router: int, cores: tuple[int, int], quick: bool
) -> dict[str, Any]:
    """Rounds of one workload, each with both ways."""
    alone, many = (300, 1_000) if quick else (1_000, 4_000)
    found: list[dict[str, float]] = []
    for each in range(3 if quick else 5):
        plain = client(cores[1], direct, what, each, alone, 1)
        through = client(cores[1], routed, what, each, alone, 1)
        began = cpu_seconds(router)
        busy = client(cores[1], routed, what, 100 + each, many, AT_ONCE)
        found.append(
            {
                "direct_p50_ms": plain["p50_ms"],
                "routed_p50_ms": through["p50_ms"],
                "overhead_p50_ms": through["p50_ms"] - plain["p50_ms"],
                "per_s": busy["per_s"],
                "cpu_us": (cpu_seconds(router) - began) / many * 1e6,
            }
        )
    row: dict[str, Any] = {"what": what}
    for name in found[0]:
        of_name = sorted(one[name] for one in found)
        row[name] = round(statistics.median(of_name), 3)
        row[name + "_least"], row[name + "_most"] = round(of_name[0], 3), round(of_name[-1], 3)
    return row


def measure(quick: bool, tokenizer: str) -> list[dict[str, Any]]:
    """All workloads, the router on one core and the rest on another."""
    found = sorted(os.sched_getaffinity(0))
    cores = found[0], found[1 % len(found)]
    with tempfile.TemporaryDirectory(prefix="pb-", dir="/tmp") as directory:
        arguments = ("-m", "benchmarks.serving", "server", "0", tokenizer)
        server = own(cores[1], *arguments, stdout=subprocess.PIPE)
        assert server.stdout is not None
        direct = int(server.stdout.readline())
        router = own(
            cores[0],
            *("-m", "preble_plugin.cli.main", "serve", "--port", "0"),
            *("--backend", f"http://127.0.0.1:{direct}"),
            stderr=subprocess.PIPE,
            env={**os.environ, "PREBLE_RUN_DIR": directory},
        )
        try:
            routed = 0
            assert router.stderr is not None
            for line in router.stderr:
                if at := re.search(r"serving at http://127.0.0.1:(\d+)", line):
                    routed = int(at[1])
                if "is up" in line:
                    break
            kinds = ["ids", *(["text", "talk"] if tokenizer else [])]
            client(cores[1], routed, "ids", 99, 300, 4)  # the first ones are not like the rest
            return [rounds(kind, direct, routed, router.pid, cores, quick) for kind in kinds]
        finally:
            for process in (router, server):
                process.terminate()
                process.wait()


def main() -> None:
    if sys.argv[1:2] == ["server"]:
        uvloop.run(serve(int(sys.argv[2]), sys.argv[3]))
        return
    if sys.argv[1:2] == ["client"]:
        port, what, *numbers = sys.argv[2:]
        print(json.dumps(uvloop.run(ask(int(port), what, *map(int, numbers)))))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and requests")
    parser.add_argument("--text", default="", metavar="TOKENIZER", help="its directory")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where to write")
    options = parser.parse_args()
    rows = measure(options.quick, options.text)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {**machine(), "load": os.getloadavg()[0], "rows": rows}
    (options.out / "serving.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
