"""The lines of a trace as requests, and what is wrong with one.

A block is the stream of its hash id or key, so that equal prefixes come out equal. What
the blocks do not cover of a prompt is the request's own.
"""

from __future__ import annotations

import gzip
import re
import zlib
from base64 import b64decode
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import iter_unpack
from typing import IO, Final, cast

import msgspec

from preble_plugin.core.trace_line import MEANING, MOONCAKE_BLOCK, Record
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.streams import stream_number

_FIELD: Final = re.compile(r"field `(\w+)`|at `\$\.(\w+)")
_decoder: Final = msgspec.json.Decoder(Record)


class TraceError(ValueError):
    """A trace that cannot be read; the message names file, line, field and remedy."""


def opened(path: Path, mode: str) -> IO[bytes]:
    """The file, packed where its name ends in `.gz`, without the time."""
    if path.suffix != ".gz":
        return cast(IO[bytes], path.open(mode))
    return cast(IO[bytes], gzip.GzipFile(path, mode, mtime=0))


class _Streams(dict[int, int]):
    """The stream of each number of a kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __missing__(self, number: int) -> int:
        self[number] = stream = stream_number(0, self._kind, number)
        return stream


class Lines:
    """One file as it is read."""

    def __init__(self, path: Path) -> None:
        self.lines_read = 0
        self._path = path
        self._line = 0
        self._seen: dict[str, int] = {}
        self._after: dict[str, tuple[str, int]] = {}
        self._ids = _Streams("trace/id")
        self._keys = _Streams("trace/key")

    def records(self) -> Iterator[Record]:
        """The lines as records; empty lines are passed over."""
        with opened(self._path, "rb") as file:
            try:
                for self._line, text in enumerate(file, 1):
                    if not text.isspace():
                        self.lines_read += 1
                        record = self._record(text)
                        if record is not None:
                            yield record
            except (EOFError, zlib.error) as error:
                raise TraceError(
                    f"{self._path}:{self._line + 1}: the compressed file is damaged or cut "
                    f"off ({error}). Copy it again, or unpack what there is with `zcat`"
                ) from None

    def _record(self, text: bytes) -> Record | None:
        try:
            return _decoder.decode(text)
        except msgspec.ValidationError as error:
            field = _FIELD.search(str(error))
            name = (field[1] or field[2]) if field else "line"
            raise self._error(name, str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if not text.endswith(b"\n"):
                return None
            raise self._error("line", f"not JSON ({error})") from None

    def asked(self, line: Record) -> Asked | None:
        """The request of the current line; None where it never ended."""
        name = line.request_id if line.request_id is not None else f"line-{self._line}"
        if name in self._seen:
            raise self._error("request_id", f"{name!r} is that of line {self._seen[name]} too")
        self._seen[name] = self._line
        if line.after is not None:
            self._after[name] = (line.after, self._line)
            if line.timestamp < 0:
                raise self._error("timestamp", f"{line.timestamp} is before the end of `after`")
        prompt = tuple(self._blocks(line))
        own = line.input_length - sum(part.tokens for part in prompt)
        if own:
            prompt = (*prompt, Part(stream_number(0, "trace/own", name), own))
        if not line.output_length:
            return None
        return Asked(
            request_id=name,
            at=line.timestamp / 1000,
            prompt=prompt,
            output_tokens=line.output_length,
            after=line.after,
            answer=None if line.answer is None else self._ids[line.answer],
            session_id=None if line.session_id is None else str(line.session_id),
            max_output_tokens=line.max_output_tokens,
            priority=line.priority,
        )

    def _blocks(self, line: Record) -> Iterable[Part]:
        """The parts that the line's hash ids or keys stand for."""
        size = line.block_size or MOONCAKE_BLOCK
        if line.keys is not None:
            if line.hash_ids is not None:
                raise self._error("keys", "given beside hash_ids; one of the two")
            if line.block_size is None:
                raise self._error("block_size", "missing beside keys")
            try:
                keys = [key for (key,) in iter_unpack("<Q", b64decode(line.keys, validate=True))]
            except Exception as error:
                raise self._error("keys", str(error)) from None
            if len(keys) * size > line.input_length:
                raise self._too_many("keys", len(keys), size, line.input_length)
            return [Part(self._keys[key], size) for key in keys]
        ids = line.hash_ids or []
        if line.block_lengths is None:
            over = len(ids) * size - line.input_length
            if over >= size:
                raise self._too_many("hash_ids", len(ids), size, line.input_length)
            lengths = [size] * len(ids)
            if over > 0:
                lengths[-1] -= over
        else:
            lengths = line.block_lengths
            self._check_lengths(line, lengths, len(ids))
        return map(Part, [self._ids[number] for number in ids], lengths)

    def _check_lengths(self, line: Record, lengths: list[int], blocks: int) -> None:
        if line.block_size is not None:
            raise self._error("block_lengths", "given beside block_size; one of the two")
        if len(lengths) != blocks:
            raise self._error("block_lengths", f"{len(lengths)} lengths for {blocks} hash_ids")
        if sum(lengths) > line.input_length:
            raise self._error(
                "block_lengths", f"{sum(lengths)} tokens, input_length is {line.input_length}"
            )

    def check_after(self) -> None:
        """Raises for a request that waits for one that is not there, or in a circle."""
        free: set[str] = set()
        for name, (before, line) in self._after.items():
            self._line = line
            if before not in self._seen:
                raise self._error("after", f"no line has the request_id {before!r}")
            chain = {name}
            while before in self._after and before not in free:
                if before in chain:
                    raise self._error("after", f"{name!r} waits, over others, for itself")
                chain.add(before)
                before = self._after[before][0]
            free |= chain

    def _too_many(self, field: str, blocks: int, size: int, tokens: int) -> TraceError:
        return self._error(
            field,
            f"{blocks} blocks of {size} tokens do not fit in input_length {tokens}; "
            "is block_size right?",
        )

    def _error(self, field: str, what: str) -> TraceError:
        remedy = MEANING.get(field, "every line is one JSON object, see docs/workloads.md")
        return TraceError(f"{self._path}:{self._line}: {field}: {what}. Expected: {remedy}")
