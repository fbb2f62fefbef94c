"""A server whose KV events pass through our hands on their way to the controller.

1. The user's `--kv-events-config` names unix sockets. As soon as a rank has bound
   its own, that is moved aside, and a tap stands in its place, before the controller
   connects to it.
2. The tap passes each batch on as it is, but for those that it is told to drop or
   to garble. Replays do not pass it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.bench.tiny_model import make_tiny_model
from tests.engines import SGLANG_ENVIRONMENT, TINY_MODEL, SglangServing
from tests.engines.preble import RUN_DIR

_SOCKETS = ("inproc-e", "inproc-e_dp1")


class EventTap:
    """Stands between the ranks' events in `directory` and who reads them."""

    def __init__(self, directory: Path) -> None:
        self.passed: Counter[int] = Counter()
        """Batches that came, by rank."""
        self.subscribed: set[int] = set()
        """Ranks whose events somebody reads."""
        self._directory = directory
        self._to_drop: Counter[int] = Counter()
        self._to_garble: Counter[int] = Counter()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def drop(self, rank: int, batches: int) -> None:
        """Let the next `batches` of a rank be lost."""
        self._to_drop[rank] += batches

    def garble(self, rank: int, batches: int) -> None:
        """Let the next `batches` of a rank arrive as bytes that mean nothing."""
        self._to_garble[rank] += batches

    @property
    def spent(self) -> bool:
        """Whether all that was to be dropped or garbled has been."""
        return not (self._to_drop.total() or self._to_garble.total())

    def _run(self) -> None:
        with zmq.Context() as context:
            pairs: dict[int, tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = {}
            try:
                while not self._closed.wait(0.002):
                    for rank, name in enumerate(_SOCKETS):
                        if rank not in pairs and (self._directory / name).exists():
                            pairs[rank] = self._tap(context, self._directory / name)
                    for rank, (source, sink) in pairs.items():
                        self._pump(rank, source, sink)
            finally:
                for pair in pairs.values():
                    for socket in pair:
                        socket.close(linger=0)

    def _tap(
        self, context: zmq.Context[Any], path: Path
    ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        aside = path.rename(path.with_name(f"tapped-{path.name}"))
        sink: zmq.Socket[bytes] = context.socket(zmq.XPUB)
        sink.bind(f"ipc://{path}")
        source: zmq.Socket[bytes] = context.socket(zmq.SUB)
        source.subscribe(b"")
        source.connect(f"ipc://{aside}")
        return source, sink

    def _pump(self, rank: int, source: zmq.Socket[bytes], sink: zmq.Socket[bytes]) -> None:
        while sink.poll(0):
            if sink.recv().startswith(b"\1"):
                self.subscribed.add(rank)
        while source.poll(0):
            topic, number, payload = source.recv_multipart()
            self.passed[rank] += 1
            if self._to_drop[rank]:
                self._to_drop[rank] -= 1
                continue
            if self._to_garble[rank]:
                self._to_garble[rank] -= 1
                payload = b"\xc1" + payload[::-1]
            sink.send_multipart([topic, number, payload])


class TappedServer(SglangServer):
    """A server with a `tap` on its events."""

    def __init__(self, log: Path, kind: Tapped) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tap", dir=RUN_DIR))
        self.tap = EventTap(self._directory)
        events = {
            "publisher": "zmq",
            "endpoint": f"ipc://{self._directory}/inproc-e",
            "replay_endpoint": f"ipc://{self._directory}/inproc-r",
            "topic": "kv",
        }
        super().__init__(
            make_tiny_model(TINY_MODEL),
            log,
            (*kind.base, *kind.flags, "--kv-events-config", json.dumps(events)),
            {**SGLANG_ENVIRONMENT, **dict(kind.environment)},
        )

    def start(self, *arguments: Any, **more: Any) -> None:
        self.tap.start()
        super().start(*arguments, **more)

    def stop(self, grace_seconds: float = 15.0) -> None:
        super().stop(grace_seconds)
        self.tap.close()
        shutil.rmtree(self._directory, ignore_errors=True)


@dataclass(frozen=True)
class Tapped(SglangServing):
    """A server whose events are tapped."""

    def build(self, log: Path) -> TappedServer:
        return TappedServer(log, self)
