"""Keeps the scheduler process alive, from the process that launches the server.

1. `start` makes the server's directory, draws the seed, and starts
   `python -m preble_plugin.service.server`. It returns the address at once:
   front ends connect when the process is there.
2. A thread waits for the process. When it dies it is started again: at once,
   then after waits that double up to 2 s, until it has lived for 10 s.
3. The seed and the directory stay, so that keys and snapshots stay valid.
4. The process reads a pipe that only this process writes to: when this process
   ends, however it does, the pipe ends and the scheduler goes.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import site
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from preble_plugin.service import environment
from preble_plugin.service.checks import check_settings
from preble_plugin.service.run_dir import SCHEDULER_SOCKET, ServerDirectory
from preble_plugin.settings import Settings

_log = logging.getLogger(__name__)
_LONGEST_WAIT_SECONDS: Final = 2.0
_FIRST_WAIT_SECONDS: Final = 0.25
_SETTLED_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 3.0


class SchedulerProcess:
    """The scheduler process of one server."""

    def __init__(self) -> None:
        self.deaths = 0
        """How often it ended without being told to."""
        self.directory: ServerDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._environment: dict[str, str] = {}

    @property
    def pid(self) -> int | None:
        """The process now running, if one is."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self, settings: Settings, run_dir: Path | None = None) -> str:
        """Start it; its ZMQ address, to be handed to the front ends as
        `PREBLE_SCHEDULER_ADDRESS`. `run_dir` is by default the user's.

        Raises `RunDirError`, `SettingsError` for settings that cannot be used, or
        `RuntimeError` where it was started already.
        """
        if self._thread is not None:
            raise RuntimeError("the scheduler process was started already")
        check_settings(settings)
        self.directory = ServerDirectory(run_dir)
        self._environment = os.environ | {
            environment.SERVER_DIR: str(self.directory.path),
            environment.SERVER_SETTINGS: msgspec.json.encode(settings).decode(),
            environment.SEED: secrets.token_hex(16),
            "PYTHONPATH": _python_path(),
        }
        self._process = self._launch()
        self._thread = threading.Thread(target=self._supervise, name="preble-supervisor")
        self._thread.daemon = True
        self._thread.start()
        atexit.register(self.stop)
        return f"ipc://{self.directory.path / SCHEDULER_SOCKET}"

    def stop(self) -> None:
        """End it and remove its directory; idempotent. Takes at most some 6 s,
        mostly a few milliseconds."""
        if self._thread is None or self.directory is None:
            return
        self._stopping.set()
        if (process := self._process) is not None:
            _end(process)
        self._thread.join(2 * _STOP_SECONDS)
        if (process := self._process) is not None:
            _end(process)
        self.directory.remove()
        self._thread = None
        atexit.unregister(self.stop)

    def _launch(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "preble_plugin.service.server"],
            env=self._environment,
            stdin=subprocess.PIPE,
        )

    def _supervise(self) -> None:
        wait_seconds = 0.0
        while not self._stopping.is_set():
            process, started = self._process, time.monotonic()
            if process is None:
                return
            code = process.wait()
            if self._stopping.is_set():
                return
            self.deaths += 1
            if time.monotonic() - started > _SETTLED_SECONDS:
                wait_seconds = 0.0
            _log.warning(
                "the scheduler process ended (exit code %s, %s so far); it is started again, "
                "and requests take the engine's own dispatch meanwhile",
                code,
                self.deaths,
            )
            self._stopping.wait(wait_seconds)
            wait_seconds = min(max(2 * wait_seconds, _FIRST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)
            _close_pipe(process)
            self._process = self._relaunch()

    def _relaunch(self) -> subprocess.Popen[bytes] | None:
        while not self._stopping.is_set():
            try:
                return self._launch()
            except OSError as error:
                _log.warning("the scheduler process cannot be started: %s", error)
                self._stopping.wait(_LONGEST_WAIT_SECONDS)
        return None


def _python_path() -> str:
    """The child's: it must find this package where this process found it, and
    nothing that happens to lie in the working directory (hence `-P`)."""
    package_root = str(Path(__file__).resolve().parents[2])
    given = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    known = [*given, *site.getsitepackages(), site.getusersitepackages()]
    return os.pathsep.join(given if package_root in known else [*given, package_root])


def _end(process: subprocess.Popen[bytes]) -> None:
    _close_pipe(process)
    for signal_it in (process.terminate, process.kill):
        try:
            process.wait(_STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            signal_it()
    process.wait()


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
