"""What an answer tells, however it is cut into pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.serve.kinds import Kind
from preble_plugin.serve.reading import Reading

USAGE = {"completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 64}}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


CHAT = b"".join(
    [
        b": ping\n\n",
        event({"choices": [{"delta": {"role": "assistant"}}], "usage": None}),
        event({"choices": [{"delta": {"content": "a"}}], "usage": None}),
        event({"choices": [], "usage": USAGE}),
        b"data: [DONE]\n\n",
    ]
)
GENERATE = b"".join(
    event({"text": "a" * n, "meta_info": {"completion_tokens": n, "cached_tokens": 32}})
    for n in (1, 2, 3)
)
RESPONSES = b"".join(
    [
        b"event: response.created\n"
        + event({"type": "response.created", "response": {"usage": None}}),
        b"event: x\n" + event({"type": "response.output_text.delta", "delta": "a"}),
        event(
            {
                "type": "response.completed",
                "response": {
                    "id": "resp_1",
                    "usage": {"output_tokens": 4, "input_tokens_details": {"cached_tokens": 16}},
                },
            }
        ),
    ]
)


@pytest.mark.parametrize(
    ("kind", "stream", "first", "output", "cached"),
    [
        (Kind.CHAT, CHAT, b'"assistant"', 9, 64),
        (Kind.GENERATE, GENERATE, b'"text":"a"', 3, 32),
        (Kind.RESPONSES, RESPONSES, b".delta", 4, 16),
    ],
)
@given(data=st.data())
def test_a_stream_tells_its_first_token_and_its_usage(
    data: st.DataObject, kind: Kind, stream: bytes, first: bytes, output: int, cached: int
):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reading, began_in = Reading(kind), []
    for number, piece in enumerate(pieces):
        if reading.stream(piece):
            began_in.append(number)
    reading.end()

    assert (reading.output_tokens, reading.cached_tokens) == (output, cached)
    (began,) = began_in
    end_of_first = stream.index(b"\n\n", stream.index(first)) + 2
    before, after = len(b"".join(pieces[:began])), len(b"".join(pieces[: began + 1]))
    assert before < end_of_first <= after


def test_a_stream_tells_the_id_of_the_response():
    reading = Reading(Kind.RESPONSES)
    reading.stream(RESPONSES)
    assert reading.answer_id is None
    reading.end()
    assert reading.answer_id == "resp_1"


@pytest.mark.parametrize("told", [{"id": 5}, {}, []])
def test_an_id_that_is_none_is_not_told(told: object):
    reading = Reading(Kind.RESPONSES)
    reading.whole(json.dumps(told).encode())
    assert reading.answer_id is None


def test_a_stream_without_usage_has_about_as_many_tokens_as_events():
    reading = Reading(Kind.COMPLETION)
    reading.stream(event({"text": "a"}) * 5 + b"data: [DONE]\n\n")
    reading.end()
    assert (reading.output_tokens, reading.cached_tokens) == (4, None)


@pytest.mark.parametrize(
    ("kind", "answer", "output", "cached"),
    [
        (Kind.COMPLETION, {"usage": USAGE}, 9, 64),
        (Kind.CHAT, {"usage": {"completion_tokens": 2, "prompt_tokens_details": None}}, 2, None),
        (Kind.RESPONSES, {"usage": {"output_tokens": 3}}, 3, None),
        (Kind.GENERATE, [{"meta_info": {"completion_tokens": 1, "cached_tokens": 5}}], 1, 5),
        (Kind.GENERATE, [], 0, None),
        (Kind.EMBEDDING, {"data": [], "usage": {"prompt_tokens": 5}}, 0, None),
        (Kind.CHAT, {"usage": "many"}, 0, None),
    ],
)
def test_an_answer_that_is_whole_tells_its_usage(
    kind: Kind, answer: object, output: int, cached: int | None
):
    reading = Reading(kind)
    reading.whole(json.dumps(answer).encode())
    assert (reading.output_tokens, reading.cached_tokens) == (output, cached)


def test_what_is_no_json_tells_nothing():
    reading = Reading(Kind.CHAT)
    reading.whole(b"<html>")
    assert reading.cached_tokens is None
