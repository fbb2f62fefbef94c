"""`preble serve` as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator


class Running:
    """One that runs, and what it has said."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""

    async def says(self, pattern: str) -> re.Match[str]:
        """Read its log until it says this."""
        assert self.process.stderr is not None
        while True:
            if found := re.search(pattern, self.log):
                self.log = self.log[found.end() :]
                return found
            line = await self.process.stderr.readline()
            assert line, f"it ended before it said {pattern!r}: {self.log}"
            self.log += line.decode()

    async def read_on(self) -> None:
        """Read its log to the end, so that it never waits for a reader."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log += line.decode()


@contextlib.asynccontextmanager
async def serving(*arguments: str) -> AsyncIterator[Running]:
    """One with these arguments, at a free port; killed in the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "preble_plugin.cli.main", "serve", "--port", "0", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
