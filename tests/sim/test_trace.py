from __future__ import annotations

import gzip
import json
import logging
from base64 import b64encode
from pathlib import Path

import msgspec
import pytest

from preble_plugin.core.trace_line import MEANING, Record
from preble_plugin.sim.trace import TraceError, read_trace
from tests.sim.shared import shared

GOOD = {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [1, 2, 3]}


def line(**fields: object) -> str:
    """A good line with some fields changed; None leaves one out."""
    return json.dumps(
        {key: value for key, value in {**GOOD, **fields}.items() if value is not None}
    )


def trace(path: Path, *lines: str) -> Path:
    file = path / "trace.jsonl"
    file.write_text("".join(each + "\n" for each in lines))
    return file


def keys(*numbers: int) -> str:
    return b64encode(b"".join(number.to_bytes(8, "little") for number in numbers)).decode()


# -- reading ---------------------------------------------------------------------------


def test_a_line_of_mooncake_is_a_request(tmp_path: Path) -> None:
    (asked,) = read_trace(trace(tmp_path, line()))

    assert (asked.request_id, asked.at, asked.output_tokens) == ("line-1", 0.0, 5)
    assert [part.tokens for part in asked.prompt] == [512, 512, 76]
    assert len({part.stream for part in asked.prompt}) == 3


def test_equal_hash_ids_are_equal_prefixes(tmp_path: Path) -> None:
    one, other = read_trace(trace(tmp_path, line(), line(hash_ids=[1, 2, 4])))

    assert shared(one, other) == pytest.approx(1024)


def test_blocks_can_have_another_size(tmp_path: Path) -> None:
    (asked,) = read_trace(trace(tmp_path, line(block_size=400)))

    assert [part.tokens for part in asked.prompt] == [400, 400, 300]


def test_what_the_blocks_do_not_cover_is_the_requests_own(tmp_path: Path) -> None:
    one, other = read_trace(trace(tmp_path, line(hash_ids=[1]), line(hash_ids=[1])))

    assert [part.tokens for part in one.prompt] == [512, 588]
    assert shared(one, other) == pytest.approx(512)


def test_without_blocks_nothing_is_shared(tmp_path: Path) -> None:
    one, other = read_trace(trace(tmp_path, line(hash_ids=None), line(hash_ids=None)))

    assert one.prompt_tokens == 1100
    assert shared(one, other) == 0


def test_all_fields_arrive(tmp_path: Path) -> None:
    (asked,) = read_trace(
        trace(tmp_path, line(request_id="a", session_id=7, max_output_tokens=9, priority=-2))
    )

    assert (asked.request_id, asked.session_id, asked.max_output_tokens, asked.priority) == (
        "a",
        "7",
        9,
        -2,
    )


def test_further_fields_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    assert len(read_trace(trace(tmp_path, line(model="m"), "", "  ", line()))) == 2


def test_lines_are_put_in_order_of_time_from_the_first(tmp_path: Path) -> None:
    times = [5_000, 4_000, 9_000, 4_000]
    lines = [line(timestamp=at, request_id=f"r{i}") for i, at in enumerate(times)]

    asked = read_trace(trace(tmp_path, *lines))

    assert [(each.request_id, each.at) for each in asked] == [
        ("r1", 0), ("r3", 0), ("r0", 1), ("r2", 5)
    ]  # fmt: skip


def test_what_comes_after_a_request_stands_behind_it(tmp_path: Path) -> None:
    asked = read_trace(
        trace(
            tmp_path,
            line(request_id="third", after="second", timestamp=20),
            line(request_id="second", after="first", timestamp=10),
            line(request_id="other", timestamp=3000),
            line(request_id="first", timestamp=1000),
        )
    )

    assert [(each.request_id, each.at) for each in asked] == [
        ("first", 0), ("second", 0.01), ("third", 0.02), ("other", 2.0)
    ]  # fmt: skip


def test_a_rate_stretches_times_but_no_pauses(tmp_path: Path) -> None:
    lines = [line(timestamp=1000 * i, request_id=f"r{i}") for i in range(3)]
    lines += [line(timestamp=70, request_id=f"s{i}", after=f"r{i}") for i in range(3)]

    asked = read_trace(trace(tmp_path, *lines), rate=0.5)

    # 6 requests at half a request a second: sessions of two every 4 seconds.
    assert [each.at for each in asked] == [0, 0.07, 4, 0.07, 8, 0.07]


def test_requests_that_never_ended_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = trace(
        tmp_path,
        line(request_id="whole"),
        line(request_id="lost", output_length=None),
        line(request_id="none", output_length=0),
        line(request_id="waits", after="lost"),
    )
    with caplog.at_level(logging.WARNING):
        asked = read_trace(file)

    assert [each.request_id for each in asked] == ["whole"]
    assert "3 of 4 requests never ended" in caplog.text


def test_a_torn_last_line_counts_as_never_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "torn.jsonl"
    file.write_text(line() + "\n" + line()[:20])

    assert len(read_trace(file)) == 1
    assert "1 of 2 requests" in caplog.text


def test_an_empty_file_has_no_requests(tmp_path: Path) -> None:
    assert read_trace(trace(tmp_path)) == []


def test_a_packed_file_is_read_as_a_plain_one(tmp_path: Path) -> None:
    plain = trace(tmp_path, line(), line(timestamp=5))
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    assert read_trace(packed) == read_trace(plain)


# -- what is wrong with a line ---------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "field", "says"),
    [
        ("{", "line", "not JSON"),
        ("[1]", "line", "object"),
        (line(timestamp=None), "timestamp", "missing"),
        (line(timestamp="noon"), "timestamp", "`float`"),
        (line(input_length=None), "input_length", "missing"),
        (line(input_length=0), "input_length", ">= 1"),
        (line(input_length=1.5), "input_length", "int"),
        (line(output_length=-1), "output_length", ">= 0"),
        (line(hash_ids="1"), "hash_ids", "array"),
        (line(hash_ids=[1, "2"]), "hash_ids", "int"),
        (line(hash_ids=[1, 2, 3, 4]), "hash_ids", "4 blocks of 512 tokens do not fit"),
        (line(input_length=1024), "hash_ids", "3 blocks of 512 tokens do not fit"),
        (line(block_size=0), "block_size", ">= 1"),
        (line(block_lengths=[512, 500]), "block_lengths", "2 lengths for 3 hash_ids"),
        (line(block_lengths=[512, 500, 89]), "block_lengths", "1101 tokens"),
        (line(block_lengths=[1, 1, 0]), "block_lengths", ">= 1"),
        (line(block_lengths=[1, 1, 1], block_size=2), "block_lengths", "one of the two"),
        (line(keys=keys(1)), "keys", "one of the two"),
        (line(keys=keys(1), hash_ids=None), "block_size", "missing"),
        (line(keys="%", hash_ids=None, block_size=16), "keys", "base64"),
        (line(keys="AAAA", hash_ids=None, block_size=16), "keys", "multiple of 8"),
        (line(keys=keys(1, 2), hash_ids=None, block_size=551), "keys", "2 blocks of 551"),
        (line(request_id="first"), "request_id", "that of line 1"),
        (line(after="nobody"), "after", "'nobody'"),
        (line(request_id="me", after="me"), "after", "for itself"),
        (line(after="first", timestamp=-1), "timestamp", "before the end"),
        (line(max_output_tokens=0), "max_output_tokens", ">= 1"),
        (line(priority="high"), "priority", "int"),
        (line(session_id=[]), "session_id", "str"),
        (line(answer="x"), "answer", "int"),
    ],
)
def test_a_bad_line_names_file_line_field_and_remedy(
    tmp_path: Path, bad: str, field: str, says: str
) -> None:
    file = trace(tmp_path, line(request_id="first"), bad, line())

    with pytest.raises(TraceError) as caught:
        read_trace(file)

    message = str(caught.value)
    assert message.startswith(f"{file}:2: {field}: ")
    assert says in message
    assert message.endswith(
        MEANING.get(field, "every line is one JSON object, see docs/workloads.md")
    )


def test_a_circle_of_requests_is_refused(tmp_path: Path) -> None:
    circle = [line(request_id="a", after="b"), line(request_id="b", after="a")]

    with pytest.raises(TraceError, match="waits, over others, for itself"):
        read_trace(trace(tmp_path, *circle))


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_packed_file_that_is_cut_off_is_refused(tmp_path: Path, keep: float) -> None:
    packed = gzip.compress("".join(line(timestamp=i) + "\n" for i in range(500)).encode())
    file = tmp_path / "cut.jsonl.gz"
    file.write_bytes(packed[: int(len(packed) * keep)])

    with pytest.raises(TraceError, match="damaged or cut off"):
        read_trace(file)


def test_a_rate_for_requests_that_all_come_at_once_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave the rate out"):
        read_trace(trace(tmp_path, line(), line()), rate=1.0)


def test_every_field_has_its_meaning() -> None:
    assert set(MEANING) == {field.name for field in msgspec.structs.fields(Record)}
