"""What a request says, as far as its placement goes.

1. The body is read once. What is not as the API has it is left to the backend to refuse:
   such a request is placed by load, and its answer is the engine's own.
2. A prompt is token ids, text, or a conversation. Of several prompts in one request the
   first decides, for all of them go to one backend.
3. Messages are read up to the first part that is not text; what follows it counts as not
   cached.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from preble_plugin.serve.kinds import Kind

TEXT_PARTS: Final = ("text", "input_text", "output_text")
_TOP: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")


class Given(msgspec.Struct, frozen=True):
    """Token ids."""

    tokens: list[int]


class Text(msgspec.Struct, frozen=True):
    """Text to be tokenized as it is."""

    text: str
    add_special_tokens: bool = True


class Chat(msgspec.Struct, frozen=True):
    """A conversation for the chat template."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    template: dict[str, Any] = {}
    """Variables for the template."""
    add_special_tokens: bool = False
    whole: bool = True
    """False where messages follow that cannot be rendered here."""


Prompt: TypeAlias = Given | Text | Chat | None


class Asked(msgspec.Struct, frozen=True):
    """A request body, understood."""

    model: str | None
    prompt: Prompt
    stream: bool
    max_output_tokens: int | None
    salt: str | None
    extra_key: str | None
    rank: int | None
    """The rank that the user fixed in the body."""
    previous: str | None
    """The response that this one goes on from."""
    prompts: int
    """How many there are in it."""
    body: dict[str, Any]


class _Named(msgspec.Struct):
    model: str | None = None


def named_model(raw: bytes) -> str | None:
    """The model that a body names, if it is a JSON object that names one."""
    try:
        return msgspec.json.decode(raw, type=_Named).model
    except (msgspec.MsgspecError, RecursionError):
        return None


def understand(kind: Kind, raw: bytes) -> Asked | None:
    """The request in `raw`, or None where it is no JSON object. O(body)."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    prompt, prompts = _PROMPTS[kind](body)
    model, salt, extra = body.get("model"), body.get("cache_salt"), body.get("extra_key")
    previous = body.get("previous_response_id")
    limits: list[Any] = [body.get(name) for name in _TOP]
    if kind is Kind.GENERATE:
        sampling = body.get("sampling_params")
        limits = [sampling.get("max_new_tokens") if isinstance(sampling, dict) else None]
    return Asked(
        model if isinstance(model, str) else None,
        prompt,
        body.get("stream") is True,
        next((limit for limit in limits if type(limit) is int and limit > 0), None),
        salt if isinstance(salt, str) and salt else None,
        extra if isinstance(extra, str) and extra else None,
        _rank(body),
        previous if isinstance(previous, str) else None,
        prompts,
        body,
    )


def _rank(body: dict[str, Any]) -> int | None:
    rank = body.get("routed_dp_rank", body.get("data_parallel_rank"))
    return rank if type(rank) is int and rank >= 0 else None


def _of_prompt(body: dict[str, Any], value: Any) -> tuple[Prompt, int]:
    special = body.get("add_special_tokens", True) is not False
    if isinstance(value, str):
        return Text(value, special), 1
    if not isinstance(value, list) or not value:
        return None, 1
    first = value[0]
    if type(first) is int:
        return Given(value), 1
    if isinstance(first, str):
        return Text(first, special), len(value)
    if isinstance(first, list) and first and type(first[0]) is int:
        return Given(first), len(value)
    return None, len(value)


def _completion(body: dict[str, Any]) -> tuple[Prompt, int]:
    return _of_prompt(body, body.get("prompt"))


def _embedding(body: dict[str, Any]) -> tuple[Prompt, int]:
    return _of_prompt(body, body.get("input"))


def _generate(body: dict[str, Any]) -> tuple[Prompt, int]:
    ids = body.get("input_ids")
    return _of_prompt({}, body.get("text") if ids is None else ids)


def _chat(body: dict[str, Any]) -> tuple[Prompt, int]:
    if isinstance(ids := body.get("input_ids"), list):
        return _of_prompt({}, ids)
    messages, tools = body.get("messages"), body.get("tools")
    if not isinstance(messages, list) or body.get("chat_template") is not None:
        return None, 1  # a template from outside is rendered by who trusts it
    read, whole = readable(messages)
    return (
        Chat(
            read,
            tools if isinstance(tools, list) and tools else None,
            _template(body),
            body.get("add_special_tokens") is True,
            whole,
        )
        if read
        else None
    ), 1


def _responses(body: dict[str, Any]) -> tuple[Prompt, int]:
    if body.get("previous_response_id") is not None or body.get("prompt") is not None:
        return None, 1
    given, instructions = body.get("input"), body.get("instructions")
    messages: list[Any] = []
    if isinstance(instructions, str):
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
    elif isinstance(given, list):
        messages += given
    read, whole = readable(messages)
    tools = body.get("tools")
    functions = [_function(tool) for tool in tools] if isinstance(tools, list) and tools else None
    variables = {"add_generation_prompt": True}
    return (Chat(read, functions, variables, False, whole) if read else None), 1


def readable(messages: list[Any]) -> tuple[list[dict[str, Any]], bool]:
    """The messages up to the first that is more than text, and whether that is all."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return found, False
        content = message.get("content")
        if isinstance(content, list) and not all(
            isinstance(part, dict)
            and part.get("type") in TEXT_PARTS
            and isinstance(part.get("text"), str)
            for part in content
        ):
            return found, False
        if not isinstance(content, list | str | None):
            return found, False
        found.append(message)
    return found, True


def _template(body: dict[str, Any]) -> dict[str, Any]:
    """The variables that both engines hand to a chat template (vLLM: `build_chat_params`;
    SGLang: `_apply_jinja_template`)."""
    given = body.get("chat_template_kwargs")
    variables = dict(given) if isinstance(given, dict) else {}
    effort = body.get("reasoning_effort")
    if effort is not None:
        variables.setdefault("reasoning_effort", effort)
        variables.setdefault("enable_thinking", effort != "none")
    if body.get("documents") is not None:
        variables["documents"] = body["documents"]
    for name, default in (("add_generation_prompt", True), ("continue_final_message", False)):
        value = body.get(name)
        variables[name] = value if isinstance(value, bool) else default
    return variables


def _function(tool: Any) -> Any:
    """A tool of the responses API, in the chat API's shape."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


_PROMPTS: Final = {
    Kind.COMPLETION: _completion,
    Kind.CHAT: _chat,
    Kind.RESPONSES: _responses,
    Kind.EMBEDDING: _embedding,
    Kind.GENERATE: _generate,
}
