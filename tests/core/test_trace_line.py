from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from preble_plugin.core import Request
from preble_plugin.core.trace_line import MEANING, Served, record

KEYS = bytes(range(16))
ASKED = Request("cmpl-7", KEYS, 40, session_id="s", max_output_tokens=64)


def line(served: Served) -> dict[str, Any]:
    text = record(served)
    assert text.endswith(b"}\n")
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_line_says_what_became_of_a_request() -> None:
    found = line(Served(ASKED, 16, 100.0, 9, 1, 16, 100.25, 101.5))
    assert b64decode(found.pop("keys")) == KEYS
    assert found == {
        "timestamp": 100_000.0,
        "input_length": 40,
        "output_length": 9,
        "block_size": 16,
        "request_id": "cmpl-7@100000.000",
        "session_id": "s",
        "max_output_tokens": 64,
        "replica": 1,
        "cached_tokens": 16,
        "first_token_ms": 250.0,
        "ended_ms": 1500.0,
    }


def test_what_is_not_known_is_left_out() -> None:
    found = line(Served(Request("r", b"", 3, max_output_tokens=0), 16, 1.0, None))
    assert set(found) == {"timestamp", "input_length", "block_size", "keys", "request_id"}


def test_an_abort_is_said() -> None:
    assert line(Served(ASKED, 16, 1.0, 3, aborted=True))["aborted"] is True


def test_an_id_that_comes_again_later_is_another() -> None:
    first, second = (line(Served(ASKED, 16, at, 1))["request_id"] for at in (1.0, 2.0))
    assert first != second


def test_every_field_has_a_meaning() -> None:
    assert set(line(Served(ASKED, 16, 1.0, 9, 1, 16, 2.0, 3.0, True))) <= set(MEANING)


def test_an_id_that_is_no_text_is_an_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        record(Served(Request("\ud800", KEYS, 40), 16, 1.0, 1))
