"""One child of the supervisor, with all that it starts.

1. A child and its descendants are one process group. Its leader is a *leash*: a shell that
   does nothing but read a pipe of which only this process holds the other end.
2. When this process is gone, however it went, the pipe ends: the leash asks the group to
   end, and five seconds later kills it, itself included. The leash is there before the
   child, so there is no moment without it.
3. When the child itself has ended, what it left in its group is killed: a worker that
   outlives its engine would keep the device's memory.
4. What it writes goes on line by line, with its name in front.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import Final

from preble_plugin.run.log_lines import Lines

_LEASH: Final = "trap '' HUP INT TERM; read line; kill -TERM 0; sleep 5; kill -KILL 0"
_OUT: Final = FileIO(1, "w", closefd=False)
_ERR: Final = FileIO(2, "w", closefd=False)
_LAST_WORDS_SECONDS: Final = 5.0


class Child:
    """A running command. `start` makes one."""

    def __init__(self, leash: Process, process: Process, lines: tuple[Lines, Lines]) -> None:
        self._leash = leash
        self._process = process
        self._lines = lines
        self._killed = False

    @classmethod
    async def start(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> Child:
        """Start `command` with exactly this environment. Raises `OSError`; nothing is left
        running then."""
        leash = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", _LEASH),
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=DEVNULL,
            process_group=0,
        )
        lines = Lines(name, _OUT), Lines(name, _ERR)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=lines[0].end,
                stderr=lines[1].end,
                env=environment,
                process_group=leash.pid,
            )
        except BaseException:
            leash.kill()
            await leash.wait()
            raise
        finally:
            for one in lines:
                one.begin()
        return cls(leash, process, lines)

    def terminate(self) -> None:
        """Ask the command to end; its own children are its own business."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the whole group at once; idempotent."""
        if not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._leash.pid, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait until the command has ended, and nothing of it is left: its exit code, as a
        shell gives it (128 and the signal's number where one ended it)."""
        code = await self._process.wait()
        self.kill()
        await self._leash.wait()
        for one in self._lines:
            await asyncio.to_thread(one.wait, _LAST_WORDS_SECONDS)
        return code if code >= 0 else 128 - code
