"""What an answer tells of its request as it goes by.

1. A stream is read in whole events. The first that carries output is the first token; the
   last with usage says what was cached and how long the answer is.
2. An answer that comes whole tells the same in its usage, once; one of `/v1/responses` also
   by which id it is stored.
3. Nothing here holds an answer up or changes it, and what cannot be read says nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from preble_plugin.serve.kinds import Kind

_LONGEST_EVENT: Final = 4 << 20
"""Bytes of an event kept to be completed; a longer one is not read."""
_EMPTY_EVENTS: Final = 2
"""Events of a stream that carry no token: the role or the finish, and `[DONE]`."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


class _Inner(msgspec.Struct):
    id: Any = None
    usage: _Usage | None = None


class _Answer(msgspec.Struct):
    id: Any = None
    usage: _Usage | None = None
    meta_info: _Usage | None = None
    response: _Inner | None = None

    def told(self) -> _Usage | None:
        return self.usage or self.meta_info or (self.response and self.response.usage) or None


_decoder: msgspec.json.Decoder[_Answer] = msgspec.json.Decoder(_Answer)
_list_decoder: msgspec.json.Decoder[list[_Answer]] = msgspec.json.Decoder(list[_Answer])


class Reading:
    """One answer, read along."""

    __slots__ = (
        *("_answer", "_events", "_marks", "_rest", "_usage", "_usage_event"),
        *("kind", "started"),
    )

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.started = False
        """Output has come."""
        self._rest = b""
        self._events = 0
        self._answer: _Answer | None = None
        self._usage: _Usage | None = None
        self._usage_event = b""
        self._marks = _MARKS[kind]

    def stream(self, piece: bytes) -> bool:
        """The next piece of a stream; True where the first output is in it. O(piece)."""
        data = self._rest + piece if self._rest else piece
        end = data.rfind(b"\n\n")
        if end < 0:
            self._rest = data if len(data) <= _LONGEST_EVENT else b""
            return False
        self._rest = data[end + 2 :]
        output, usage = self._marks
        self._events += data.count(output, 0, end)
        if usage in data:
            self._usage_event = data[:end]
        if self.started or not self._events:
            return False
        self.started = True
        return True

    def whole(self, body: bytes) -> None:
        """An answer that came whole. O(body)."""
        try:
            if body.startswith(b"["):
                listed = _list_decoder.decode(body)
                self._usage = listed[0].told() if listed else None
            else:
                self._answer = _decoder.decode(body)
                self._usage = self._answer.told()
        except (msgspec.MsgspecError, RecursionError):
            return

    def end(self) -> None:
        """Nothing more comes."""
        for line in reversed(self._usage_event.split(b"\n")):
            if line.startswith(b"data:") and self._marks[1] in line:
                self.whole(line[5:].strip())
                return

    @property
    def answer_id(self) -> str | None:
        """The id that the engine gave a complete answer, if it says."""
        answer = self._answer
        found = answer and ((answer.response and answer.response.id) or answer.id)
        return found if isinstance(found, str) else None

    @property
    def cached_tokens(self) -> int | None:
        """What the engine found in its cache, if it says."""
        usage: Any = self._usage
        if usage is None:
            return None
        details = usage.prompt_tokens_details or usage.input_tokens_details
        found: int | None = details.cached_tokens if details else usage.cached_tokens
        return found

    @property
    def has_usage(self) -> bool:
        """Whether it told what it used."""
        return self._usage is not None

    @property
    def output_tokens(self) -> int:
        """What the engine counted, or about as many as there were events."""
        usage = self._usage
        if usage is not None:
            told = usage.completion_tokens or usage.output_tokens
            if told:
                return told
        return max(self._events - _EMPTY_EVENTS, 1) if self._events else 0


_OPENAI: Final = (b"data:", b'"usage":{')
_MARKS: Final = {
    Kind.COMPLETION: _OPENAI,
    Kind.CHAT: _OPENAI,
    Kind.EMBEDDING: _OPENAI,
    Kind.RESPONSES: (b'.delta"', b'"usage":{'),
    Kind.GENERATE: (b"data:", b'"meta_info":{'),
}
"""Of each kind, what each event with output has in it, and what one with usage has."""
