"""A real engine's server as a child that is always ended.

1. It runs in a process group of its own, so that whatever it starts ends
   together with it, whatever ends the caller's block.
2. It is up when /health answers; a start that fails or takes too long raises
   with the last lines of the log.
3. What it measured is read from its own /metrics.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

SERVED_NAME: Final = "tiny"
HOST: Final = "127.0.0.1"
_PORTS: Final = (20_000, 32_000)
"""Below what Linux gives out by itself (`net.ipv4.ip_local_port_range`: from 32768)."""
_TRIES: Final = 100


class ServerError(RuntimeError):
    """A server that did not come up, with the last lines it wrote."""


class Metrics:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """Sum of the samples of `name` with these labels; 0 where there is none."""
        return sum(self.by("", name, **labels).values())

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """The same sums for each value of `label`, in its order."""
        sums: dict[str, float] = defaultdict(float)
        for sample in self.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                sums[sample.labels.get(label, "")] += sample.value
        return dict(sorted(sums.items()))


class Server(ABC):
    """A server of `model` on `port` of 127.0.0.1, a free one if none is given.

    A context manager: entering starts it and waits until it is healthy, leaving
    ends it. `environment` is laid over the caller's; None removes a variable.
    """

    engine: ClassVar[str]
    """The engine's name, for messages."""

    def __init__(
        self,
        model: Path,
        log: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str | None],
        port: int | None = None,
    ) -> None:
        self.model = model
        self.log = log
        self.port = port if port is not None else free_port()
        self.base_url = f"http://{HOST}:{self.port}"
        self.served_name = SERVED_NAME
        self.command: list[str] = [
            *self._program(),
            *("--host", HOST, "--port", str(self.port), "--served-model-name", SERVED_NAME),
            *arguments,
        ]
        overlaid = {**os.environ, **environment}
        self.environment = {key: value for key, value in overlaid.items() if value is not None}
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _program(self) -> Sequence[str]:
        """The command up to and with the model."""

    @abstractmethod
    def computed_tokens(self) -> dict[str, float]:
        """Prompt tokens that each replica has computed, found in no cache, since it
        started. Raises `httpx.HTTPError`."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The main process, which is also the process group."""
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether its main process runs."""
        return self._process is not None and self._process.poll() is None

    def start(
        self, timeout_seconds: float = 240.0, waiting: Callable[[float], None] | None = None
    ) -> None:
        """Start and wait until it is healthy.

        `waiting` is called about twice a second with the seconds since the
        start. Raises `ServerError`, or `FileNotFoundError` where its program is
        not there; nothing is left running then.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        try:
            self._wait_until_healthy(self._process, timeout_seconds, waiting)
        except BaseException:
            self.stop()
            raise

    def _wait_until_healthy(
        self,
        process: subprocess.Popen[bytes],
        timeout_seconds: float,
        waiting: Callable[[float], None] | None,
    ) -> None:
        began = time.monotonic()
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while (elapsed := time.monotonic() - began) < timeout_seconds:
                if waiting is not None:
                    waiting(elapsed)
                with contextlib.suppress(httpx.TransportError):
                    if client.get(f"{self.base_url}/health").status_code == 200:
                        return
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=0.5)  # it ended, or half a second passed
                    raise ServerError(
                        f"{self.engine} ended with exit code {code}\n{self.log_tail()}"
                    )
        raise ServerError(
            f"{self.engine} was not up after {timeout_seconds:.0f} s\n{self.log_tail()}"
        )

    def stop(self, grace_seconds: float = 15.0) -> None:
        """End it and everything it started; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=grace_seconds)
        finally:
            # The group outlives its leader while a worker is left.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            deadline = time.monotonic() + grace_seconds
            while members(process.pid) and time.monotonic() < deadline:
                time.sleep(0.02)  # they are no children of ours: nobody tells us

    def cpu_seconds(self) -> float:
        """Processor time that its processes, as they are now, have used."""
        used = 0.0
        for process in members(self.pid):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                used += times.user + times.system
        return used

    def metrics(self) -> Metrics:
        """What /metrics says now. Raises `httpx.HTTPError`."""
        answer = httpx.get(f"{self.base_url}/metrics", timeout=30.0, trust_env=False)
        answer.raise_for_status()
        return Metrics(answer.text)

    def log_text(self) -> str:
        """Everything it wrote so far, both streams of all its processes."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        """The last lines it wrote, with the log's path."""
        tail = self.log_text().splitlines()[-lines:]
        return "\n".join([f"--- last lines of {self.log}", *tail])


def members(group: int) -> list[psutil.Process]:
    """The living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1 now. Raises `ServerError` where none is found.

    Not one of those that the system gives out by itself: while an engine loads, seconds
    before it listens, it takes some of them for sockets of its own.
    """
    draw = random.SystemRandom()
    for _ in range(_TRIES):
        port = draw.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerError(f"no port from {_PORTS[0]} to {_PORTS[1] - 1} is free on {HOST}")
