"""A server with an engine's manners over HTTP, on a real socket of loopback.

It answers as vLLM 0.32 and SGLang 0.5.23 do on the paths the router uses. What it is to do
with requests is set by `behave`: answer, hold the answer back, break off, be busy. What came
is kept in `came`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiohttp import web

from preble_plugin.serve.kinds import KINDS
from preble_plugin.service.interface import EventSource


class Came(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: Any
    body: Any


class RecordedEngine:
    """One server. `words` is what it generates, a token each."""

    def __init__(
        self,
        *,
        model: str = "tiny",
        engine: str = "vllm",
        tokenizer: str | None = None,
        block_size: int = 16,
        blocks: int = 1000,
        ranks: int = 1,
        events: Sequence[EventSource] = (),
        tokenize: Any = None,
        refuses: Callable[[str, Any], bool] = lambda path, body: False,
        key: str | None = None,
        version: str = "0.32.0",
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.came: list[Came] = []
        self.words = ["one ", "two ", "three"]
        self.cached_tokens: int | None = None
        self.behave = "answer"
        self.well = True
        self.tells = asyncio.Event()
        """While it is not set, /health is not answered."""
        self.tells.set()
        self.held = asyncio.Event()
        """Set once a request is being held back."""
        self.go = asyncio.Event()
        """Lets held requests go on."""
        self.left = asyncio.Event()
        """Set once a client has left a request."""
        self.port = port
        self._news = asyncio.Event()
        self._facts = (model, engine, tokenizer, block_size, blocks, ranks, events)
        self._tokenize = tokenize
        self._refuses = refuses
        self._key = key
        self._version = version
        self._host, self._tls = host, tls
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    @property
    def asked(self) -> list[Came]:
        """The requests for tokens that came."""
        return [one for one in self.came if one.method == "POST" and one.path != "/tokenize"]

    async def until_came(self, requests: int) -> None:
        """Until so many requests for tokens have come."""
        while len(self.asked) < requests:
            self._news.clear()
            await self._news.wait()

    async def start(self) -> RecordedEngine:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port, ssl_context=self._tls)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Go, with all connections; `start` comes back at the same port."""
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()
            for connection in list(self._runner.server.connections):
                connection.force_close()
                if connection.transport is not None:
                    connection.transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        path = request.path
        wanted = None if self._key is None else f"Bearer {self._key}"
        if wanted and path.startswith("/v1/") and request.headers.get("Authorization") != wanted:
            return web.json_response({"error": "Unauthorized"}, status=401)
        if path == "/health":
            await self.tells.wait()
        plain = self._plain(path)
        if plain is not None and request.method == "GET":
            return plain
        body = raw
        with contextlib.suppress(ValueError):
            body = json.loads(raw)
        self.came.append(Came(request.method, path, request.headers, body))
        self._news.set()
        if path == "/tokenize" and self._tokenize is not None:
            return web.json_response({"tokens": self._tokenize(body)})
        if path not in KINDS:
            if self.behave == "break off":
                assert request.transport is not None
                request.transport.abort()
            return web.json_response(
                {"path": request.rel_url.raw_path_qs, "method": request.method}
            )
        return await self._generate(request, body)

    def _plain(self, path: str) -> web.Response | None:
        model, engine, tokenizer, block_size, blocks, ranks, events = self._facts
        match path:
            case "/health":
                return web.Response(status=200 if self.well else 503)
            case "/v1/models":
                card = {"id": model, "object": "model", "owned_by": engine, "root": tokenizer}
                return web.json_response({"object": "list", "data": [card]})
            case "/version" if engine == "vllm":
                return web.json_response({"version": self._version})
            case "/metrics" if engine == "vllm":
                lines = [
                    f'vllm:cache_config_info{{block_size="{block_size}",engine="{rank}",'
                    f'enable_prefix_caching="True",num_gpu_blocks="{blocks * ranks}"}} 1.0'
                    for rank in range(ranks)
                ]
                return web.Response(text="\n".join([*lines, ""]))
            case "/kv_event_sources" if engine == "vllm":
                return web.json_response(
                    {
                        str(rank): {
                            "enable_kv_cache_events": True,
                            "publisher": "zmq",
                            "endpoint": one.endpoint,
                            "replay_endpoint": one.replay_endpoint,
                            "topic": one.topic,
                        }
                        for rank, one in enumerate(events)
                    }
                )
            case "/server_info" if engine == "sglang":
                return web.json_response(
                    {
                        "tokenizer_path": tokenizer,
                        "page_size": block_size,
                        "dp_size": ranks,
                        "max_total_num_tokens": block_size * blocks,
                        "kv_events": None,
                    }
                )
        return None

    async def _generate(self, request: web.Request, body: Any) -> web.StreamResponse:
        match self.behave:
            case "busy":
                return web.json_response(
                    {"error": {"message": "too busy", "code": 503}},
                    status=503,
                    headers={"Retry-After": "7"},
                )
            case "refuse":
                return _wrong()
            case "break off":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "hold":
                await self._hold()
        if self._refuses(request.path, body):
            return _wrong()
        if isinstance(body, dict) and body.get("stream"):
            return await self._stream(request, body)
        return web.json_response(self._whole(request, body))

    async def _hold(self) -> None:
        self.held.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def _stream(self, request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        try:
            for number, word in enumerate(self.words):
                if number == 1 and self.behave == "break off in the middle":
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                if number == 1 and self.behave == "hold in the middle":
                    await self._hold()
                await self._event(response, self._piece(request, body, word))
            if (body.get("stream_options") or {}).get("include_usage"):
                last = {**self._named(request), "choices": [], "usage": self._usage()}
                await self._event(response, last)
            await response.write(b"data: [DONE]\n\n")
        except ConnectionError:
            self.left.set()
        return response

    async def _event(self, response: web.StreamResponse, event: Any) -> None:
        data = json.dumps(event, separators=(",", ":"))
        await response.write(b"data: " + data.encode() + b"\n\n")

    def _named(self, request: web.Request) -> dict[str, Any]:
        chat = request.path == "/v1/chat/completions"
        prefix = {"/v1/chat/completions": "chatcmpl-", "/v1/responses": "resp_"}
        name = request.headers.get("X-Request-Id", "made-up")
        return {
            "id": prefix.get(request.path, "cmpl-") + name,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1,
            "model": self._facts[0],
        }

    def _piece(self, request: web.Request, body: Any, word: str) -> dict[str, Any]:
        if request.path == "/v1/chat/completions":
            delta: dict[str, Any] = {"content": word}
            if body.get("tools"):
                function = {"name": "weather", "arguments": json.dumps({"city": word})}
                call = {"index": 0, "id": "call", "type": "function", "function": function}
                delta = {"tool_calls": [call]}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
        else:
            choice = {"index": 0, "text": word, "finish_reason": None}
        return {**self._named(request), "choices": [choice]}

    def _whole(self, request: web.Request, body: Any) -> dict[str, Any]:
        text = "".join(self.words)
        if request.path == "/generate":
            told = {"completion_tokens": len(self.words), "cached_tokens": self.cached_tokens}
            return {"text": text, "meta_info": told}
        if request.path == "/v1/responses":
            content = [{"type": "output_text", "text": text}]
            output = [{"type": "message", "role": "assistant", "content": content}]
            told = {"input_tokens": 5, "output_tokens": len(self.words)}
            named = {**self._named(request), "object": "response"}
            return {**named, "output": output, "usage": told}
        if request.path == "/v1/embeddings":
            vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
            return {"object": "list", "data": [vector], "model": self._facts[0]}
        if request.path == "/v1/chat/completions":
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
        else:
            choice = {"index": 0, "text": text, "finish_reason": "stop"}
        named = self._named(request)
        named["object"] = named["object"].removesuffix(".chunk")
        return {**named, "choices": [choice], "usage": self._usage()}

    def _usage(self) -> dict[str, Any]:
        cached = self.cached_tokens
        return {
            "prompt_tokens": 5,
            "completion_tokens": len(self.words),
            "total_tokens": 5 + len(self.words),
            "prompt_tokens_details": None if cached is None else {"cached_tokens": cached},
        }


def _wrong() -> web.Response:
    error = {"message": "wrong", "type": "BadRequestError", "code": 400}
    return web.json_response({"error": error}, status=400)
