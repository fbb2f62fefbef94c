"""What a call to a deployment asks for, as far as its placement goes.

1. Ray Serve LLM hands over the OpenAI request as an object; a deployment that takes such an
   object, or a dict with the same fields, is read alike. What has neither `messages` nor
   `prompt` is placed by load.
2. There is no tokenizer here: text is compared as text, and given token ids as they are.
3. A conversation is read up to the first message that is more than text; of several prompts
   in one call the first decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

import msgspec

from preble_plugin.adapter.prompts import text_as_tokens
from preble_plugin.core import namespace
from preble_plugin.core.block_keys import Tokens
from preble_plugin.core.events import Namespace

_PROMPTS: Final = ("messages", "prompt")
_LIMITS: Final = ("max_completion_tokens", "max_tokens")
_NO_PREFILL: Final = "tokenize"
"""The method of Ray Serve LLM that takes a prompt and computes nothing."""


class Asked(msgspec.Struct, frozen=True):
    """A call, understood."""

    tokens: Tokens | None = None
    namespace: Namespace = ()
    max_output_tokens: int | None = None


def asked(args: Sequence[Any], method: str, model: str) -> Asked:
    """What the call of `method` with `args` asks of the adapter `model` ("" for the base
    model). O(prompt). Raises what an argument raises that cannot be read."""
    body = next((one for one in args if any(_field(one, name) for name in _PROMPTS)), None)
    if body is None or method == _NO_PREFILL:
        return Asked()
    limits = [_field(body, name) for name in _LIMITS]
    salt = _field(body, "cache_salt")
    return Asked(
        _tokens(body),
        namespace(lora_name=model or None, salt=salt if isinstance(salt, str) else None),
        next((limit for limit in limits if type(limit) is int and limit > 0), None),
    )


def _field(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, Mapping) else getattr(body, name, None)


def _tokens(body: Any) -> Tokens | None:
    messages = _field(body, "messages")
    if isinstance(messages, list):
        said = [*(_field(body, "tools") or ()), *takewhile(_is_text, messages)]
        return text_as_tokens(b"".join(msgspec.json.encode(one, enc_hook=_plain) for one in said))
    prompt = _field(body, "prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return text_as_tokens(prompt.encode("utf-8", "surrogatepass"))
    return prompt if isinstance(prompt, list) else None


def _is_text(message: Any) -> bool:
    content = _field(message, "content")
    if isinstance(content, list):
        return all(isinstance(_field(part, "text"), str) for part in content)
    return content is None or isinstance(content, str)


def _plain(model: Any) -> Any:
    """A pydantic model as msgspec can write it."""
    return model.model_dump()
