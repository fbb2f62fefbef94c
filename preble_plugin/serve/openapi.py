"""The OpenAPI document of the paths that the router knows, served at `/openapi.json`.

1. Of a request it names what placement reads. Engines take more, and their own documents
   say what; nothing that is not named here is refused for that.
2. Of an answer it names what is common to the engines. What an engine refuses is answered
   in its own words: a JSON object, of which no more can be said.
3. The router's own errors have one shape (`errors`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from preble_plugin.serve.kinds import HEALTH, KINDS, METHODS, MODELS, OPENAPI, Kind

Schema = dict[str, Any]


def document() -> bytes:
    """The document as JSON, OpenAPI 3.1."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "preble serve", "version": "1", "description": _ABOUT},
            "paths": {**_OWN, **{path: _placed(path, kind) for path, kind in KINDS.items()}},
            "components": {
                "schemas": _SCHEMAS,
                "parameters": _PARAMETERS,
                "responses": _RESPONSES,
                "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
            },
        }
    )


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


def _any(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _schema(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _response(name: str) -> Schema:
    return {"$ref": f"#/components/responses/{name}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _get(operation: str, summary: str, good: str, schema: Schema, **more: Schema) -> Schema:
    answers = {"200": {"description": good, "content": _json(schema)}, **more}
    return {"get": {"operationId": operation, "summary": summary, "responses": answers}}


def _placed(path: str, kind: Kind) -> Schema:
    """A path whose requests are placed."""
    summary, request, answer, examples = _KINDS[kind]
    body = {"schema": _schema(request)}
    if examples:
        body["examples"] = {name: {"value": value} for name, value in examples.items()}
    content = _json(_schema(answer))
    if kind is not Kind.EMBEDDING:
        content["text/event-stream"] = {}
    answered = {
        "description": "The engine's answer; with `stream: true`, server-sent events",
        "headers": {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}},
        "content": content,
    }
    return {
        method.lower(): {
            "operationId": kind.value if method == "POST" else f"{kind.value}-{method.lower()}",
            "summary": summary,
            "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in _PARAMETERS],
            "requestBody": {"required": True, "content": {"application/json": body}},
            "responses": {
                "200": answered,
                **{status: _response("Refused") for status in _REFUSED},
                **{status: _response("Own") for status in ("408", "413")},
                **{status: _response("Again") for status in ("429", "502", "503")},
                "504": _response("Refused"),
            },
        }
        for method in METHODS[path]
    }


_ABOUT: Final = (
    "A router in front of vLLM and SGLang servers. These are the paths that it knows; all others "
    "are passed to a backend, unless `pass_through` is off. Requests may have all fields that the "
    "engines take: those named here are what placement reads. What an engine refuses is answered "
    "in its own words."
)
_REFUSED: Final = ("400", "401", "403", "404", "415", "422", "500", "501")
"""Statuses of the engines' own; 404 also where a model is not served."""

_MODEL: Final[Schema] = {"type": ["string", "null"]}
_PROMPT: Final[Schema] = {
    "type": ["string", "array"],
    "description": "Text, token ids, or a list of either. Of several prompts the first is placed",
}
_MESSAGES: Final[Schema] = {
    "type": "array",
    "items": _object(["role"], role={"type": "string"}),
    "description": "Each with `content`: text, or a list of parts, read up to one that is not text",
}
_INPUT: Final[Schema] = {"description": "Text, or messages"}

_OWN: Final[Schema] = {
    HEALTH: _get(
        "health",
        "Whether requests are taken: a backend is up, and the router does not drain",
        "They are taken",
        _schema("Health"),
        **{"503": {"description": "They are not", "content": _json(_schema("Health"))}},
    ),
    MODELS: _get(
        "models",
        "The models of all backends that are up",
        "Models, as their engines describe them",
        _schema("Models"),
    ),
    OPENAPI: _get("openapi", "This document", "OpenAPI 3.1", _object(["openapi", "info", "paths"])),
}

_KINDS: Final[dict[Kind, tuple[str, str, str, dict[str, Any]]]] = {
    Kind.COMPLETION: (
        "Text that goes on from a prompt",
        "CompletionRequest",
        "Choices",
        {
            "text": {"prompt": "Once upon a time", "max_tokens": 8},
            "ids": {"prompt": [11, 12, 13], "max_tokens": 8},
            "stream": {"prompt": "Once upon a time", "max_tokens": 8, "stream": True},
        },
    ),
    Kind.CHAT: (
        "The next message of a conversation",
        "ChatRequest",
        "Choices",
        {
            "whole": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8},
            "stream": {
                "messages": [{"role": "user", "content": "Hello"}],
                "max_tokens": 8,
                "stream": True,
            },
        },
    ),
    Kind.RESPONSES: (
        "The next answer of a conversation",
        "ResponsesRequest",
        "Response",
        {"whole": {"input": "Hello", "max_output_tokens": 8}},
    ),
    Kind.EMBEDDING: ("Vectors of texts", "EmbeddingsRequest", "Embeddings", {}),
    Kind.GENERATE: (
        "SGLang's own: text that goes on from a prompt",
        "GenerateRequest",
        "Generated",
        {"text": {"text": "Once upon a time", "sampling_params": {"max_new_tokens": 8}}},
    ),
}

_SCHEMAS: Final[Schema] = {
    "CompletionRequest": _object(["prompt"], model=_MODEL, prompt=_PROMPT),
    "ChatRequest": _object(["messages"], model=_MODEL, messages=_MESSAGES),
    "ResponsesRequest": _object(["input"], model=_MODEL, input=_INPUT),
    "EmbeddingsRequest": _object(["input"], model=_MODEL, input=_PROMPT),
    "GenerateRequest": {
        **_object([], text=_PROMPT, input_ids={**_PROMPT, "type": "array"}),
        "oneOf": [{"required": ["text"]}, {"required": ["input_ids"]}],
    },
    "Choices": _object(
        ["id", "object", "created", "model", "choices"],
        id={"type": "string"},
        choices={"type": "array", "items": _object(["index"], index={"type": "integer"})},
        usage={"type": ["object", "null"]},
    ),
    "Response": _object(["id", "output"], id={"type": "string"}, output={"type": "array"}),
    "Embeddings": _object(["data"], data={"type": "array", "items": {"type": "object"}}),
    "Generated": _any({"type": "object"}, {"type": "array", "items": {"type": "object"}}),
    "Models": _object(
        ["object", "data"],
        object={"const": "list"},
        data={"type": "array", "items": _object(["id"], id={"type": "string"})},
    ),
    "Health": _object(
        ["ready", "backends_up"],
        ready={"type": "boolean"},
        backends_up={"type": "integer", "minimum": 0},
    ),
    "Error": _object(
        ["error"],
        error=_object(
            ["message", "type", "param", "code"],
            message={"type": "string"},
            type={"type": "string"},
            param={"type": "null"},
            code={"type": "string"},
        ),
    ),
}

_PARAMETERS: Final[Schema] = {
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "The request's name in `preble explain`, and in the answer's header",
        "schema": {"type": "string"},
    },
    "Rank": {
        "name": "X-data-parallel-rank",
        "in": "header",
        "description": "The data-parallel rank to send it to; no number of a rank says nothing",
        "schema": {"type": "string"},
    },
}

_AGAIN: Final[Schema] = {"schema": {"type": "integer", "minimum": 0}}
_RESPONSES: Final[Schema] = {
    "Own": {"description": "The router's own word", "content": _json(_schema("Error"))},
    "Refused": {"description": "The engine's or the router's", "content": _json({})},
    "Again": {
        "description": "Too busy, or no backend answers: the engine's word or the router's",
        "headers": {"Retry-After": {**_AGAIN, "description": "Seconds"}},
        "content": _json({}),
    },
}
