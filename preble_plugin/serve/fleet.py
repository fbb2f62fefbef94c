"""All backends: found, watched, taken in and out.

1. Each backend is looked at every so often. The first time it is well, and each time it
   is well again, it is asked what it is, and joins the pool of its model.
2. A backend is ejected after so many looks in a row that failed, or at once when a
   request could not connect to it.
3. The list can change while all runs: what is new joins, what is gone leaves. A name with
   `dns+` before it stands for all addresses it resolves to, looked up again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import aiohttp

from preble_plugin.serve.addresses import Addresses
from preble_plugin.serve.backend import Backend, State
from preble_plugin.serve.config import EVERY_ADDRESS, ServeConfig
from preble_plugin.serve.facts import AskError, Facts
from preble_plugin.serve.learning import learn
from preble_plugin.serve.pool import Pool
from preble_plugin.serve.pools import Pools

_log = logging.getLogger(__name__)


class Fleet:
    """The backends of `config`. `changed` is called when one comes up or goes."""

    def __init__(
        self,
        config: ServeConfig,
        session: aiohttp.ClientSession,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.pools = Pools(config)
        self._session = session
        self._changed = changed
        self._addresses = Addresses(config.backend_tls)
        self._backends: dict[str, Backend] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._pokes: dict[str, asyncio.Event] = {}
        self._names: asyncio.Task[None] | None = None
        self._applying = asyncio.Lock()

    # -- looking -------------------------------------------------------------------

    @property
    def backends(self) -> list[Backend]:
        """All there are, in whatever state but `leaving`."""
        return list(self._backends.values())

    @property
    def up(self) -> list[Backend]:
        """Those that take requests."""
        return [one for one in self._backends.values() if one.state is State.UP]

    def cards(self) -> list[dict[str, Any]]:
        """The models of all backends that are up, each once."""
        found: dict[str, dict[str, Any]] = {}
        for backend in self.up:
            for card in backend.facts.cards if backend.facts else ():
                found.setdefault(card["id"], card)
        return list(found.values())

    # -- life ----------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to watch what the configuration names."""
        await self.apply(self.config)
        self._names = asyncio.create_task(self._look_up(), name="backend addresses")

    async def close(self) -> None:
        """Watch no more."""
        tasks = [*self._watches.values(), *([self._names] if self._names else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pools.close()

    async def apply(self, config: ServeConfig) -> None:
        """These are the backends from now on."""
        async with self._applying:
            self.config = config
            self._replace(await self._addresses.backends(config.backends, self.backends))

    def _replace(self, wanted: dict[str, Backend]) -> None:
        for name, one in list(self._backends.items()):
            new = wanted.get(name)
            if new is None or new.config != one.config:
                self._leave(one)
        for name, backend in wanted.items():
            known = self._backends.get(name)
            if known is None:
                self._join(backend)
            else:
                known.authorization = backend.authorization

    def failed(self, backend: Backend, cause: str) -> None:
        """A request could not connect to it."""
        if backend.state is State.UP:
            self._eject(backend, cause)
        self.poke(backend)

    def poke(self, backend: Backend) -> None:
        """Look at it now."""
        if (event := self._pokes.get(backend.name)) is not None:
            event.set()

    async def _look_up(self) -> None:
        while True:
            await asyncio.sleep(self.config.health_interval_seconds)
            if any(one.url.startswith(EVERY_ADDRESS) for one in self.config.backends):
                await self.apply(self.config)

    # -- in and out ----------------------------------------------------------------

    def _join(self, backend: Backend) -> None:
        self._backends[backend.name] = backend
        self._pokes[backend.name] = asyncio.Event()
        self._watches[backend.name] = asyncio.create_task(
            self._watch(backend), name=f"watch {backend.name}"
        )

    def _leave(self, backend: Backend) -> None:
        _log.info("backend %s leaves; %d requests end there", backend.name, backend.in_flight)
        backend.state = State.LEAVING
        self._watches.pop(backend.name).cancel()
        self._pokes.pop(backend.name)
        del self._backends[backend.name]
        self._out(backend)

    def _eject(self, backend: Backend, cause: str) -> None:
        _log.warning("backend %s gets no requests until it is well again: %s", backend.name, cause)
        backend.state, backend.cause = State.EJECTED, cause
        self._out(backend)

    def _out(self, backend: Backend) -> None:
        for pool in self.pools:
            pool.remove(backend)
        self._changed()

    # -- one backend ---------------------------------------------------------------

    async def _watch(self, backend: Backend) -> None:
        poke = self._pokes[backend.name]
        told: str | None = None
        while True:
            poke.clear()
            try:
                await self._look(backend)
                told = None
            except AskError as error:
                if str(error) != told and backend.state is State.JOINING:
                    told = str(error)
                    _log.warning("backend %s is not up yet: %s", backend.name, told)
            except Exception:
                _log.exception("looking at backend %s failed", backend.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(poke.wait(), self.config.health_interval_seconds)

    async def _look(self, backend: Backend) -> None:
        """Look once: eject it, or take it in. Raises `AskError` where it is not well."""
        ask = backend.ask(self._session, self.config.health_timeout_seconds)
        seconds = max(self.config.health_timeout_seconds, backend.dialect.health_seconds)
        try:
            status = await backend.ask(self._session, seconds).status("/health")
            if status >= 500:
                raise AskError(f"/health is answered with {status}")
            backend.failures = 0
            if backend.state is not State.UP:
                facts = await learn(ask, backend.config, backend.host)
                await self._take_in(backend, facts)
        except AskError as error:
            backend.failures += 1
            if backend.state is State.UP:
                if backend.failures >= self.config.failures_to_eject:
                    self._eject(backend, str(error))
            else:
                backend.cause = str(error)
                raise

    async def _take_in(self, backend: Backend, facts: Facts) -> None:
        again = backend.state is State.EJECTED
        news = backend.facts is None or facts != backend.facts
        backend.facts = facts
        backend.tells_hits.clear()
        pool = await self.pools.made(facts, backend.dialect)
        ask = backend.ask(self._session, self.config.health_timeout_seconds)
        differs = await pool.prompts.differences(ask, facts.model)
        backend.exact = pool.prompts.exact and differs is None
        backend.state = State.UP
        pool.add(backend)
        self._changed()
        _log.info(
            "backend %s is up%s: %s, model %s, %d rank(s), blocks of %s tokens, %s",
            backend.name,
            " again" if again else "",
            facts.engine,
            facts.model,
            facts.ranks,
            facts.block_size or "unknown",
            "cache events" if any(facts.events) and backend.exact else "no cache events",
        )
        if news:
            self._remark(backend, facts, pool, differs)

    def _remark(self, backend: Backend, facts: Facts, pool: Pool, differs: str | None) -> None:
        remarks = list(facts.remarks)
        if differs:
            remarks.append(
                f"it tokenizes {differs} otherwise than the tokenizer here: name the right one "
                "in 'tokenizer', or its template in 'chat_template'"
            )
        if facts.block_size and facts.block_size != pool.block_size:
            remarks.append(
                f"its blocks have {facts.block_size} tokens, those of the others "
                f"{pool.block_size}: start them alike"
            )
        if not any(facts.events):
            remarks.append("it publishes no cache events that can be read here")
        for remark in remarks:
            _log.warning("backend %s: %s", backend.name, remark)
        if differs or not any(facts.events) or facts.block_size != pool.block_size:
            _log.warning("backend %s: it is taken to hold what was placed on it", backend.name)
