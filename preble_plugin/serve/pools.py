"""The pools there are, one for each base model, and the tokenizer of each.

A pool is made when the first backend of its model is up, and stays: its tokenizer is
loaded once, in a thread, and what its scheduler learned is there when backends return.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from preble_plugin.serve.config import ServeConfig, ServeConfigError
from preble_plugin.serve.facts import Dialect, Facts
from preble_plugin.serve.pool import Pool
from preble_plugin.serve.prompts import Prompts
from preble_plugin.serve.tokenizer import Tokenizer, TokenizerError, load_tokenizer

_log = logging.getLogger(__name__)


class Pools:
    """Pools by their models. Raises `ServeConfigError` where the configuration names a
    chat template that cannot be read."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._template = _read_template(config)
        self._threads = ThreadPoolExecutor(config.tokenizer_threads, "tokenizer")
        self._making = asyncio.Lock()
        self._pools: dict[str, Pool] = {}

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def __len__(self) -> int:
        return len(self._pools)

    def of(self, model: str | None) -> Pool | None:
        """The pool that serves a model by this name. Where all backends serve one model
        it is theirs, whatever the name: they know best what to answer."""
        if len(self._pools) == 1:
            return next(iter(self))
        if model is None:
            return None
        known = self._pools.get(model)
        if known is not None:
            return known
        for pool in self:
            if any(model in one.facts.names for one in pool.backends if one.facts):
                return pool
        return None

    async def made(self, facts: Facts, dialect: Dialect) -> Pool:
        """The pool of a backend with these facts. The first time it takes seconds."""
        async with self._making:
            known = self._pools.get(facts.model)
            if known is not None:
                return known
            tokenizer = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._load, facts
            )
            prompts = Prompts(tokenizer, dialect, self._threads)
            pool = Pool(facts.model, self._config.placement, prompts)
            await pool.start()
            self._pools[facts.model] = pool
            return pool

    async def close(self) -> None:
        """Close all of them."""
        for pool in self:
            await pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _load(self, facts: Facts) -> Tokenizer | None:
        name = self._config.tokenizer or facts.tokenizer
        most_bytes = self._config.tokenizer_cache_megabytes << 20
        try:
            if name is None:
                raise TokenizerError("no tokenizer is named")
            return load_tokenizer(name, self._template, most_bytes)
        except TokenizerError as error:
            _log.warning(
                "model %s: %s; text is compared as text, and cache events are not used. Name "
                "its tokenizer in 'tokenizer'",
                facts.model,
                error,
            )
            return None


def _read_template(config: ServeConfig) -> str | None:
    if config.chat_template is None:
        return None
    try:
        with open(config.chat_template, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeConfigError(f"'chat_template' cannot be read: {error}") from None
