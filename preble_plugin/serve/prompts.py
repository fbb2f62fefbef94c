"""A pool's prompts: what was asked, as token ids.

1. Given ids are taken as they are, at once. Text goes through the tokenizer in a thread.
2. Where there is no tokenizer, text itself is compared: requests with a common start still
   meet, though nothing can be told from cache events.
3. A backend that tokenizes for others is asked at start: where it does it otherwise than
   we do, its events cannot be matched with what we place.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from preble_plugin.adapter.prompts import text_as_tokens
from preble_plugin.core.block_keys import Tokens
from preble_plugin.serve.asked import Chat, Given, Prompt, Text
from preble_plugin.serve.chat import conversation, developers_as_system, takes_parts
from preble_plugin.serve.facts import Ask, AskError, Dialect
from preble_plugin.serve.tokenizer import Tokenizer, TokenizerError

_log = logging.getLogger(__name__)

_SAID: Final = "The quick brown fox — 1,234 Füchse —\n\tjumps  over the lazy dog. 你好"
_TALK: Final[list[dict[str, Any]]] = [
    {"role": "user", "content": _SAID},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
]
_TOOLS: Final[list[Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather somewhere",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


class Prompts:
    """Tokenizes for one pool, whose engine is that of `dialect`."""

    def __init__(
        self, tokenizer: Tokenizer | None, dialect: Dialect, threads: ThreadPoolExecutor
    ) -> None:
        self._tokenizer = tokenizer
        self._dialect = dialect
        self._threads = threads
        self._parts = tokenizer is not None and takes_parts(tokenizer)
        self._developers = not dialect.turns_developers or (
            tokenizer is not None and tokenizer.template_names("developer")
        )
        self.failures = 0
        """Prompts that could not be tokenized; they were placed by load."""

    @property
    def exact(self) -> bool:
        """Whether ids are the engine's, so that its events can be matched."""
        return self._tokenizer is not None

    async def tokens(self, prompt: Prompt) -> Tokens | None:
        """The ids of a prompt, or None where it has none."""
        if prompt is None:
            return None
        if isinstance(prompt, Given):
            return prompt.tokens
        if self._tokenizer is None:
            return _as_text(prompt)
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._tokens, prompt)
        except Exception as error:  # whatever a prompt makes a template do
            self.failures += 1
            if self.failures == 1:
                _log.warning(
                    "a prompt could not be tokenized, and is placed by load; further ones are "
                    "counted: %s",
                    error if isinstance(error, TokenizerError) else type(error).__name__,
                )
            return None

    def _tokens(self, prompt: Text | Chat) -> Tokens:
        assert self._tokenizer is not None
        if isinstance(prompt, Text):
            return self._tokenizer.encode(prompt.text, prompt.add_special_tokens)
        variables = prompt.template
        if not prompt.whole:
            variables = {**variables, "add_generation_prompt": False}
            variables.pop("continue_final_message", None)
        messages = conversation(prompt.messages, self._parts, self._dialect.wraps_text)
        text = self._tokenizer.render(
            messages if self._developers else developers_as_system(messages),
            self._dialect.tools(prompt.tools) if prompt.tools else None,
            variables,
        )
        return self._tokenizer.encode(text, prompt.add_special_tokens)

    async def differences(self, ask: Ask, model: str) -> str | None:
        """In what a backend tokenizes otherwise than we do; None where it agrees, or
        cannot be asked."""
        if self._tokenizer is None:
            return None
        talk = {"add_generation_prompt": True, "continue_final_message": False}
        tried: list[tuple[str, Text | Chat, dict[str, Any]]] = [
            ("text", Text(_SAID), {"prompt": _SAID}),
            ("conversations", Chat(_TALK, None, talk), {"messages": _TALK}),
            ("tools", Chat(_TALK, _TOOLS, talk), {"messages": _TALK, "tools": _TOOLS}),
        ]
        wrong = []
        for name, prompt, body in tried:
            try:
                told = await ask.json("/tokenize", {"model": model, **body})
            except AskError:
                continue
            if not isinstance(told, dict) or not isinstance(told.get("tokens"), list):
                continue
            ours = await self.tokens(prompt)
            if ours is None or list(map(int, ours)) != told["tokens"]:
                wrong.append(name)
        return " and ".join(wrong) or None


def _as_text(prompt: Text | Chat) -> Tokens:
    if isinstance(prompt, Text):
        data = prompt.text.encode("utf-8", "surrogatepass")
    else:
        told = [*(prompt.tools or []), *prompt.messages]
        data = b"".join(msgspec.json.encode(one) for one in told)
    return text_as_tokens(data)
