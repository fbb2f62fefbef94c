"""The routers and the servers that are compared, each as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Final

import httpx

from benchmarks.validate import stage
from preble_plugin.bench.engines import Vllm
from preble_plugin.bench.plan import Plan
from preble_plugin.bench.server import Server, ServerError, free_port, members
from preble_plugin.bench.vllm_server import BLOCK_SIZE, VllmServer

PATIENCE_SECONDS: Final = 60.0
DIRECT: Final = "direct"
"""No router: the clients take the servers in turn."""
PREBLE: Final = "preble"
SGLANG: Final = "sglang-router"
BALANCED: Final = "sglang-router, balanced"
SIDES: Final = (DIRECT, SGLANG, BALANCED, PREBLE)
_BALANCE: Final = ("--balance-abs-threshold", "4")
"""Its default balances when loads differ by more than 64 requests: two servers that run 32
at a time each never get there."""
_EVENTS: Final = (
    '{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:0", '
    '"replay_endpoint": "tcp://*:0"}'
)
_PINNED: Final = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class Router:
    """One that runs: where it is, and its process."""

    def __init__(self, base_url: str, process: subprocess.Popen[bytes]) -> None:
        self.base_url = base_url
        self.pid = process.pid

    def threads(self) -> set[int]:
        """All that run in it."""
        return {int(name) for name in os.listdir(f"/proc/{self.pid}/task")}


@contextmanager
def router(
    side: str,
    backends: Sequence[str],
    log: Path,
    program: Path,
    core: int | None = None,
    tokenizer: Path | None = None,
) -> Iterator[Router]:
    """The router of a side in front of `backends`, ready and to be ended; `program` is that
    of sglang-router. On one core, if one is named. Raises `ServerError`."""
    port, other = free_port(), free_port()
    base_url = f"http://127.0.0.1:{port}"
    if side == PREBLE:
        command = [sys.executable, "-m", "preble_plugin.cli.main", "serve", "--port", str(port)]
        command += ["--metrics-port", str(other)]
        command += [word for one in backends for word in ("--backend", one)]
        command += ["--tokenizer", str(tokenizer)] if tokenizer is not None else []
        ready = f"http://127.0.0.1:{other}/backends"
        said = '"state":"up"'
    else:
        command = [str(program), "launch", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--prometheus-port", str(other), "--log-level", "warn"]
        command += ["--worker-startup-check-interval", "1", "--policy", "cache_aware"]
        command += ["--worker-urls", *backends, *(_BALANCE if side == BALANCED else ())]
        ready = base_url + "/workers"
        said = '"is_healthy":true'
    if core is not None:
        command = [sys.executable, "-c", _PINNED, str(core), *command]
    with tempfile.TemporaryDirectory(prefix="pb-", dir="/tmp") as directory, log.open("wb") as sink:
        environment = {**os.environ, "PREBLE_RUN_DIR": directory}
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)
        try:
            _until(ready, lambda text: text.count(said) == len(backends), process, log)
            yield Router(base_url, process)
        finally:
            process.terminate()
            process.wait()


def _until(
    url: str, true: Callable[[str], bool], process: subprocess.Popen[bytes], log: Path
) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            if true(httpx.get(url, timeout=5.0, trust_env=False).text):
                return
        except httpx.HTTPError:
            pass  # it does not listen yet
        time.sleep(0.1)
    raise ServerError(f"{process.args!r} is not ready; it wrote {log}")


@contextmanager
def servers(model: Path, out: Path) -> Iterator[list[Server]]:
    """Two vLLM of one rank, up and to be ended. Each computes on a core of its own, and all
    that does not compute goes before (`stage.settle`). Raises `ServerError`."""
    arguments = [
        *Vllm().arguments("default", Plan(cache_tokens=stage.KV_TOKENS + BLOCK_SIZE, front_ends=1)),
        *stage.COMMON,
        *("--data-parallel-size", "1"),
        *("--max-model-len", "4096"),
        *("--max-num-batched-tokens", str(stage.BATCH_TOKENS)),
        *("--max-num-seqs", str(stage.MAX_RUNNING)),
        *("--distributed-executor-backend", "uni"),
        *("--kv-events-config", _EVENTS),
    ]
    environment = {
        **Vllm().environment,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_HOST_IP": "127.0.0.1",
    }
    made: list[Server] = [
        VllmServer(model, out / f"vllm-{number}.log", arguments, environment)
        for number in range(stage.RANKS)
    ]
    with ExitStack() as stack:
        for one in made:
            stack.callback(one.stop)
        starts = [Thread(target=one.start) for one in made]
        for start in starts:
            start.start()
        for start in starts:
            start.join()
        for core, one in enumerate(made):
            if not one.alive:
                raise ServerError(f"a server did not start\n{one.log_tail()}")
            _settle(one, core)
        yield made


def _settle(running: Server, core: int) -> None:
    computing = 0
    for process in members(running.pid):
        threads = {thread.id for thread in process.threads()}
        if "EngineCore" in " ".join(process.cmdline()):
            os.sched_setaffinity(process.pid, {core})
            threads.remove(process.pid)
            computing += 1
        stage.take_precedence(threads)
    if computing != 1:
        raise RuntimeError(f"one process that computes was to be pinned, found {computing}")
