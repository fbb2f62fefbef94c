from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.request import Request
from preble_plugin.core.trace_line import Served, record
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.sharing import table_row
from preble_plugin.sim.trace import read_trace, write_trace
from preble_plugin.sim.workloads import make, workload_names
from tests.sim.shared import shared

# -- writing ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", workload_names())
def test_a_workload_comes_back_with_the_same_sharing(tmp_path: Path, name: str) -> None:
    written = make(name, requests=300, rate=5.0, seed=1)
    file = tmp_path / "written.jsonl.gz"

    write_trace(file, written)
    found = read_trace(file)

    assert table_row(found) == table_row(written)
    first = written[0].at
    for back, sent in zip(found, written, strict=True):
        moved = 0.0 if sent.after else first
        assert back.at == pytest.approx(sent.at - moved, abs=2e-6)
        assert msgspec.structs.replace(back, at=0.0, prompt=(), answer=None) == (
            msgspec.structs.replace(sent, at=0.0, prompt=(), answer=None)
        )


def test_a_prompt_still_goes_on_from_an_answer(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    write_trace(file, make("chat", requests=50, rate=5.0, seed=1))

    found = {each.request_id: each for each in read_trace(file)}

    later = [each for each in found.values() if each.after is not None]
    assert later
    for each in later:
        before = found[str(each.after)]
        assert before.answer is not None
        assert each.prompt[len(before.prompt)] == Part(before.answer, before.output_tokens)


def test_equal_requests_write_equal_bytes(tmp_path: Path) -> None:
    file = tmp_path / "tools.jsonl.gz"
    found = set()
    for _ in range(2):
        write_trace(file, make("tool", requests=20, rate=5.0, seed=1))
        found.add(file.read_bytes())

    assert len(found) == 1


_parts = st.lists(st.builds(Part, st.integers(0, 3), st.integers(0, 40)), max_size=4)


@given(st.lists(_parts.filter(lambda parts: any(part.tokens for part in parts)), min_size=1))
def test_any_parts_come_back_with_the_same_sharing(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[list[Part]]
) -> None:
    written = [Asked(f"r{i}", i, tuple(parts), 1) for i, parts in enumerate(prompts)]
    file = tmp_path_factory.getbasetemp() / "any.jsonl"

    write_trace(file, written)

    assert table_row(read_trace(file)) == table_row(written)


# -- recording -------------------------------------------------------------------------


def recorded(tmp_path: Path, *prompts: list[int], output_tokens: int | None = 3) -> list[Asked]:
    """What prompts of token ids come back as, from a recording with blocks of 4."""
    hasher = BlockHasher(4, b"a seed of 16 byte")
    file = tmp_path / "recording.jsonl"
    with file.open("wb") as out:
        for number, tokens in enumerate(prompts):
            request = Request(
                f"r{number}", hasher.prompt_keys(tokens), len(tokens), session_id="s",
                max_output_tokens=8, priority=1,
            )  # fmt: skip
            out.write(record(Served(request, 4, 100.5 + number, output_tokens)))
    return read_trace(file)


def test_a_recorded_request_comes_back(tmp_path: Path) -> None:
    _, asked = recorded(tmp_path, [1] * 4, list(range(10)))

    assert [part.tokens for part in asked.prompt] == [4, 4, 2]
    assert (asked.request_id, asked.at, asked.output_tokens) == ("r1@101500.000", 1.0, 3)
    assert (asked.session_id, asked.max_output_tokens, asked.priority) == ("s", 8, 1)


def test_recorded_prompts_share_the_full_blocks_they_shared(tmp_path: Path) -> None:
    one, other = recorded(tmp_path, list(range(15)), [*range(11), 99, 98, 97, 96])

    assert shared(one, other) == pytest.approx(8)


def test_blocks_that_are_equal_behind_others_share_nothing(tmp_path: Path) -> None:
    one, other = recorded(tmp_path, [1, 1, 1, 1, 2, 2, 2, 2], [3, 3, 3, 3, 2, 2, 2, 2])

    assert shared(one, other) == 0


def test_a_prompt_below_a_block_is_its_own(tmp_path: Path) -> None:
    one, other = recorded(tmp_path, [1, 2], [1, 2])

    assert shared(one, other) == 0


def test_a_recorded_request_that_never_ended_is_left_out(tmp_path: Path) -> None:
    assert recorded(tmp_path, [1] * 8, output_tokens=None) == []
