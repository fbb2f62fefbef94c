"""Keeps the engines and their router running, until told to stop or until it cannot.

1. All start at once. The router answers from the start, with 503 until an engine is up.
2. A child that ends before it ever listened cannot run as it is told to: everything ends,
   with its exit code.
3. A child that ends later is started again, after a wait that doubles from 1 s to 60 s; the
   others go on, and the router leaves it out meanwhile. One that has then run for ten
   minutes counts as well again. After five such ends in a row everything ends, with the
   exit code of the last: what is around us (systemd, Kubernetes) knows better.
4. SIGTERM or SIGINT: the router takes no more and lets requests end; then the engines are
   asked to end. A second signal asks all at once, a third one kills them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from preble_plugin.run.process import Child

_LOOK_SECONDS: Final = 0.5
_STOP_SECONDS: Final = 30.0


class Task(NamedTuple):
    """Something to keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Over that of this process."""
    host: str
    port: int
    """Where it listens once it is up."""


class Patience(NamedTuple):
    """When to give up. All in seconds but `ends`."""

    ends: int = 5
    """Ends in a row after which everything ends."""
    first_wait: float = 1.0
    longest_wait: float = 60.0
    well_after: float = 600.0


PATIENCE: Final = Patience()


class Supervisor:
    """Runs `engines` and the `router` in front of them."""

    def __init__(
        self, engines: Sequence[Task], router: Task, patience: Patience = PATIENCE
    ) -> None:
        self._engines = engines
        self._router = router
        self._patience = patience
        self._children: dict[str, Child] = {}
        self._signals = 0
        self._signalled = asyncio.Event()
        self._hurried = asyncio.Event()
        self._verdict: asyncio.Future[int] | None = None

    async def run(self) -> int:
        """Until it ends: 0 where a signal asked for it, else the exit code to end with."""
        loop = asyncio.get_running_loop()
        self._verdict = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal)
        keeping = {
            one.name: asyncio.create_task(self._keep(one), name=one.name)
            for one in (*self._engines, self._router)
        }
        asked = asyncio.create_task(self._signalled.wait())
        either: set[asyncio.Future[Any]] = {asked, self._verdict}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        code = self._verdict.result() if self._verdict.done() else 0
        self._signalled.set()
        await self._stop(keeping)
        return code

    # -- one child ---------------------------------------------------------------------

    async def _keep(self, task: Task) -> None:
        """Run it again and again; a verdict where that has no end."""
        loop = asyncio.get_running_loop()
        ever_up, ends = False, 0
        while not self._signalled.is_set():
            began = loop.time()
            try:
                child = await Child.start(task.name, task.command, _over(task.environment))
            except OSError as error:
                self._give_up(1, f"{task.name} cannot be started: {error}")
                return
            self._children[task.name] = child
            if self._signalled.is_set():
                child.terminate()  # nobody knew it while the others were asked to end
            looking = asyncio.create_task(_until_up(task.host, task.port))
            code = await child.ended()
            ever_up = ever_up or looking.done()
            looking.cancel()
            del self._children[task.name]
            if self._signalled.is_set():
                return
            words = f"{task.name} ended with exit code {code}"
            if not ever_up:
                self._give_up(code or 1, f"{words} before it was up")
                return
            ends = 1 if loop.time() - began >= self._patience.well_after else ends + 1
            if ends >= self._patience.ends:
                self._give_up(code or 1, f"{words}, {ends} times in a row")
                return
            wait = min(self._patience.first_wait * 2 ** (ends - 1), self._patience.longest_wait)
            _say(f"{words} and is started again in {wait:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._signalled.wait(), wait)

    def _give_up(self, code: int, words: str) -> None:
        _say(f"{words}: everything ends")
        assert self._verdict is not None
        if not self._verdict.done():
            self._verdict.set_result(code)

    # -- the end -----------------------------------------------------------------------

    async def _stop(self, keeping: Mapping[str, asyncio.Task[None]]) -> None:
        """The router first, then the engines; a second signal does not wait for it."""
        self._terminate(self._router.name)
        hurried = asyncio.create_task(self._hurried.wait())
        router = keeping[self._router.name]
        await asyncio.wait({router, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for one in self._engines:
            self._terminate(one.name)
        _, late = await asyncio.wait(keeping.values(), timeout=_STOP_SECONDS)
        if late:
            _say("what has not ended is killed")
            for child in list(self._children.values()):
                child.kill()
        await asyncio.gather(*keeping.values())

    def _signal(self) -> None:
        self._signals += 1
        self._signalled.set()
        if self._signals == 2:
            self._hurried.set()
            self._terminate(self._router.name)
        elif self._signals > 2:
            for child in self._children.values():
                child.kill()

    def _terminate(self, name: str) -> None:
        if (child := self._children.get(name)) is not None:
            child.terminate()


async def _until_up(host: str, port: int) -> None:
    """Until somebody listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            writer.close()
            return


def _over(environment: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", **environment}


def _say(words: str) -> None:
    print(f"preble run: {words}", file=sys.stderr, flush=True)
