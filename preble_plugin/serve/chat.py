"""Conversations as chat templates take them.

Both engines do the same to messages before they render them, as far as it is text: no
fields that are null, tool calls' arguments as objects, tool results as strings, and
content as the template wants it, in parts or as one string (vLLM:
renderers/chat_utils.py; SGLang: parser/jinja_template_utils.py).
"""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from preble_plugin.serve.tokenizer import Tokenizer, TokenizerError

_MARK: Final = "a text that no template has"
_KEPT: Final = ("reasoning", "reasoning_content", "tool_call_id", "name", "tools")


def takes_parts(tokenizer: Tokenizer) -> bool:
    """Whether the template goes through the parts of a message's content."""
    try:
        shown = tokenizer.render(
            [{"role": "user", "content": [{"type": "text", "text": _MARK}]}], None, {}
        )
    except TokenizerError:
        return False
    return _MARK in shown and "'text'" not in shown and '"text"' not in shown


def conversation(
    messages: list[dict[str, Any]], parts: bool, wraps_text: bool
) -> list[dict[str, Any]]:
    """The messages for a template that takes parts or not; `wraps_text` makes plain text
    one part."""
    return [_message(message, parts, wraps_text) for message in messages]


def developers_as_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rendered messages without developers: theirs are the system's, and where there are
    several of those, or not at the start, they become one (vLLM: renderers/hf.py)."""
    if not any(message["role"] == "developer" for message in messages):
        return messages
    turned: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "developer":
            message = {key: value for key, value in message.items() if key != "tools"}
            message["role"] = "system"
        turned.append(message)
    system = [message for message in turned if message["role"] == "system"]
    if len(system) == 1 and turned[0] is system[0]:
        return turned
    texts = [_plain(message["content"]) for message in system]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in turned if message["role"] != "system")]


def _plain(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return str(content)


def _message(message: dict[str, Any], parts: bool, wraps_text: bool) -> dict[str, Any]:
    role = message["role"]
    shown: dict[str, Any] = {"role": role, "content": message.get("content")}
    content = shown["content"]
    if isinstance(content, list):
        texts = [part["text"] for part in content]
        shown["content"] = (
            [{"type": "text", "text": text} for text in texts] if parts else "\n".join(texts)
        )
    elif parts and wraps_text:
        shown["content"] = [{"type": "text", "text": content}] if content else []
    elif content is None:
        shown["content"] = ""
    if role == "tool" and isinstance(shown["content"], list):
        shown["content"] = "\n".join(part["text"] for part in shown["content"])
    for key in _KEPT:
        if message.get(key) is not None:
            shown[key] = message[key]
    calls = message.get("tool_calls")
    if role == "assistant" and isinstance(calls, list) and calls:
        shown["tool_calls"] = [_call(call) for call in calls]
    return shown


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments) if arguments else {}
    return {**call, "function": {**function, "arguments": {} if arguments is None else arguments}}
