"""Real children, kept running and ended; none is left behind, whatever ends the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from preble_plugin.bench.server import free_port
from tests.engines import ROOT

SERVES = """
import os, signal, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
def end(*_):
    print("asked to end", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
server.accept()  # so that the supervisor has seen it
print("up", os.getpid(), flush=True)
while True:
    signal.pause()
"""
STUBBORN = """
import os, signal, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
asked = []
signal.signal(signal.SIGTERM, lambda *_: (asked.append(1), print("asked", len(asked), flush=True)))
print("up", os.getpid(), flush=True)
while len(asked) < 2:
    signal.pause()
"""
HAS_A_WORKER = """
import os, signal, socket, sys
if (worker := os.fork()) == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
server.accept()
print("up", os.getpid(), "with", worker, flush=True)
while True:
    signal.pause()
"""
FAILS = "import sys; print('no such flag'); sys.exit(7)"

Kids = dict[str, str]


class Supervised:
    """A supervisor that runs, and what it writes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""
        self._seen = 0

    async def says(self, pattern: str) -> re.Match[str]:
        """Read on until a line says this."""
        assert self.process.stdout is not None
        while True:
            if found := re.compile(pattern, re.MULTILINE).search(self.log, self._seen):
                self._seen = found.end()
                return found
            line = await self.process.stdout.readline()
            assert line, f"it ended before it said {pattern!r}: {self.log}"
            self.log += line.decode()

    async def all_up(self, *names: str) -> dict[str, int]:
        """Their pids, once all listen; they may come in any order."""
        pids = {}
        for name in names:
            self._seen = 0
            pids[name] = int((await self.says(rf"^\[{name}\] up (\d+)"))[1])
        return pids

    async def ends(self) -> int:
        assert self.process.stdout is not None
        self.log += (await self.process.stdout.read()).decode()
        return await self.process.wait()


@contextlib.asynccontextmanager
async def supervised(children: Kids, **patience: float) -> AsyncIterator[Supervised]:
    """A supervisor of these programs; the last of them is the router."""
    told = {
        "children": [
            (name, [sys.executable, "-S", "-c", program, str(port)], port)
            for name, program in children.items()
            for port in (free_port(),)
        ],
        "patience": {"first_wait": 0.01, **patience},
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.run.supervised", json.dumps(told)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    try:
        yield Supervised(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def gone(pid: int) -> None:
    """Until the process has ended, whosever child it is."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def test_a_signal_ends_the_router_first_and_then_the_engines() -> None:
    async with supervised({"one": SERVES, "two": SERVES, "router": SERVES}) as it:
        pids = await it.all_up("one", "two", "router")
        it.process.send_signal(signal.SIGTERM)
        assert await it.ends() == 0
        order = re.findall(r"^\[(\w+)\] asked to end", it.log, re.MULTILINE)
        assert (order[0], sorted(order)) == ("router", ["one", "router", "two"])
        for pid in pids.values():
            await gone(pid)


async def test_a_second_signal_does_not_wait_for_the_router() -> None:
    async with supervised({"one": SERVES, "router": STUBBORN}) as it:
        await it.all_up("one", "router")
        it.process.send_signal(signal.SIGINT)
        await it.says(r"^\[router\] asked 1")
        it.process.send_signal(signal.SIGINT)
        assert await it.ends() == 0
        assert "[one] asked to end" in it.log


async def test_a_third_signal_kills_what_is_left() -> None:
    async with supervised({"one": STUBBORN, "router": SERVES}) as it:
        pids = await it.all_up("one", "router")
        it.process.send_signal(signal.SIGTERM)
        await it.says(r"^\[one\] asked 1")
        it.process.send_signal(signal.SIGTERM)
        it.process.send_signal(signal.SIGINT)
        assert await it.ends() == 0
        await gone(pids["one"])


async def test_one_that_cannot_start_ends_all_with_its_exit_code() -> None:
    async with supervised({"one": SERVES, "two": FAILS, "router": SERVES}) as it:
        assert await it.ends() == 7
        assert "[two] no such flag" in it.log
        assert "two ended with exit code 7 before it was up: everything ends" in it.log


async def test_one_that_dies_is_started_again_and_the_others_go_on() -> None:
    async with supervised({"one": SERVES, "two": SERVES, "router": SERVES}) as it:
        before = await it.all_up("one", "two", "router")
        os.kill(before["two"], signal.SIGKILL)
        await it.says("two ended with exit code 137 and is started again")
        again = int((await it.says(r"^\[two\] up (\d+)"))[1])
        assert again != before["two"]
        for name in ("one", "router"):
            os.kill(before[name], 0)  # lives
        it.process.send_signal(signal.SIGTERM)
        assert await it.ends() == 0


async def test_one_that_dies_again_and_again_ends_all() -> None:
    async with supervised({"one": SERVES, "router": SERVES}, ends=2) as it:
        os.kill((await it.all_up("one"))["one"], signal.SIGKILL)
        again = int((await it.says(r"^\[one\] up (\d+)"))[1])
        os.kill(again, signal.SIGKILL)
        assert await it.ends() == 137
        assert "one ended with exit code 137, 2 times in a row: everything ends" in it.log


async def test_what_a_dead_engine_leaves_is_ended_before_it_is_started_again() -> None:
    async with supervised({"one": HAS_A_WORKER, "router": SERVES}) as it:
        found = await it.says(r"^\[one\] up (\d+) with (\d+)")
        os.kill(int(found[1]), signal.SIGKILL)
        await gone(int(found[2]))
        await it.says(r"^\[one\] up (\d+) with (\d+)")
        it.process.send_signal(signal.SIGKILL)


async def test_nothing_is_left_of_a_supervisor_that_is_killed() -> None:
    async with supervised({"one": HAS_A_WORKER, "router": SERVES}) as it:
        found = await it.says(r"^\[one\] up (\d+) with (\d+)")
        router = (await it.all_up("router"))["router"]
        it.process.send_signal(signal.SIGKILL)
        await gone(router)
        await gone(int(found[1]))
        await gone(int(found[2]))  # it ignores SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_all_start_ends_all(number: signal.Signals) -> None:
    waits = "import signal; print('up', 0, flush=True); signal.pause()"
    async with supervised({"one": waits, "router": waits}) as it:
        await it.says(r"^\[(one|router)\] up")
        it.process.send_signal(number)
        assert await it.ends() == 0
