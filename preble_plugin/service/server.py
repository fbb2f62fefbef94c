"""The scheduler process: one scheduler for the front ends of one server.

`python -m preble_plugin.service.server`, started by `SchedulerProcess`, which
hands it settings, seed and directory through the environment.

1. One event loop reads the front ends' socket, the replicas' events and the
   admin socket. A placement is one message in, one out (`FrontDesk`).
2. Sending never waits. A front end whose queue is full does not read: it is
   dropped, and has to introduce itself again.
3. Each second: the silent are dropped, the state is sent to all.
4. It ends with its parent (end of the pipe on stdin, or another parent process)
   and on SIGTERM. A clean end deletes the snapshots: who is told to stop is not
   restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Final

import zmq

from preble_plugin.service import environment, messages
from preble_plugin.service.admin import AdminSocket, AdminSocketError, ServiceStatus
from preble_plugin.service.front_desk import FrontDesk
from preble_plugin.service.loop_socket import LoopSocket
from preble_plugin.service.messages import FromScheduler
from preble_plugin.service.run_dir import SCHEDULER_SOCKET, RunDirError
from preble_plugin.service.scheduler_host import SchedulerHost
from preble_plugin.service.snapshots import SnapshotShelf, cancelled, keep_snapshots
from preble_plugin.settings import Settings, SettingsError, load_settings

_log = logging.getLogger(__name__)
_QUEUE_MESSAGES: Final = 8_192
_COLLECT_AFTER: Final = (50_000, 20, 100)
"""Objects made before the collector looks at the youngest, and how often at the older:
what the scheduler keeps is freed by its counts of references, and is much to look at."""
_SWITCH_SECONDS: Final = 0.0005
"""How long the thread that encodes snapshots may keep the loop waiting."""


class SchedulerServer:
    """Serves front ends at `directory/scheduler.sock` until told to stop."""

    def __init__(self, settings: Settings, seed: bytes, directory: Path) -> None:
        self.shelf = SnapshotShelf(directory)
        self.host = SchedulerHost(settings, seed, recall=self.shelf.read)
        self.desk = FrontDesk(self.host, secrets.token_bytes(8))
        self._directory = directory
        self._admin = AdminSocket(
            directory, settings.admin_socket, self._service_status, self.host.explain
        )
        self._stop = asyncio.Event()
        self._socket: LoopSocket | None = None

    async def run(self) -> None:
        """Serve until `stop`. Raises `zmq.ZMQError` where the socket cannot be bound."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        await self.host.start()
        self._socket = self._listen(context)
        try:
            await self._admin.open()
        except (AdminSocketError, RunDirError, OSError) as error:
            _log.warning("`preble status` and `preble explain` will not work: %s", error)
        tasks = [asyncio.create_task(self._each_second())]
        if self.host.settings.snapshot_blocks:
            tasks.append(
                asyncio.create_task(
                    keep_snapshots(
                        self.shelf, self.host.replicas, self.host.position, self.host.take_snapshot
                    )
                )
            )
        try:
            await self._stop.wait()
        finally:
            for task in tasks:
                await cancelled(task)
            await self._admin.close()
            self._socket.close(linger_ms=100)
            await self.host.close()
            self.shelf.clear()
            context.term()

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    def _listen(self, context: zmq.Context[zmq.Socket[bytes]]) -> LoopSocket:
        socket = context.socket(zmq.ROUTER)
        socket.set_hwm(_QUEUE_MESSAGES)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, messages.LARGEST_MESSAGE)
        path = self._directory / SCHEDULER_SOCKET
        socket.bind(f"ipc://{path}")
        path.chmod(0o600)
        return LoopSocket(socket, self._hear)

    def _hear(self, frames: list[bytes]) -> None:
        if len(frames) != 2:
            self.desk.bad_messages += 1
            return
        name, payload = frames
        for answer in self.desk.hear(name, payload, time.monotonic()):
            self._send(name, answer)
        self.desk.settle()

    def _send(self, name: bytes, message: FromScheduler) -> None:
        assert self._socket is not None
        if not self._socket.send(name, messages.encoder.encode(message)):
            self.desk.drop(name)

    async def _each_second(self) -> None:
        parent = os.getppid()
        while True:
            await asyncio.sleep(messages.STATUS_SECONDS)
            if os.getppid() != parent:
                self.stop()
            for name in self.desk.sweep(time.monotonic()):
                _log.warning("front end %s fell silent; its requests are dropped", name.hex())
            try:
                if (status := self.host.status()) is not None:
                    for name in self.desk.names:
                        self._send(name, messages.State(status))
            except Exception:
                self.desk.errors += 1
                _log.exception("the state cannot be sent")

    def _service_status(self) -> ServiceStatus:
        return ServiceStatus(
            os.getpid(),
            "scheduler process",
            self.host.status(),
            len(self.desk.names),
            self.desk.bad_messages,
            self.desk.errors,
        )


async def _serve(settings: Settings, seed: bytes, directory: Path) -> None:
    server = SchedulerServer(settings, seed, directory)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the parent's end is what counts
    pipe = sys.stdin.fileno()
    os.set_blocking(pipe, False)

    def parent_spoke() -> None:
        with contextlib.suppress(BlockingIOError):
            if not os.read(pipe, 4096):
                loop.remove_reader(pipe)
                server.stop()

    loop.add_reader(pipe, parent_spoke)
    await server.run()


def _run(serving: Coroutine[None, None, None]) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


def main() -> None:
    """Run from what the parent put into the environment."""
    logging.basicConfig(
        level=logging.INFO,
        format=f"(preble scheduler pid={os.getpid()}) %(levelname)s %(message)s",
    )
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        settings = load_settings(os.environ.get(environment.SERVER_SETTINGS, "{}"))
        seed = bytes.fromhex(os.environ[environment.SEED])
        directory = Path(os.environ[environment.SERVER_DIR])
        _run(_serve(settings, seed, directory))
    except (KeyError, SettingsError) as error:
        sys.exit(f"preble scheduler: {error}; it is started by SchedulerProcess, not by hand")


if __name__ == "__main__":
    main()
