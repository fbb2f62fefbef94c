"""The comparison of routers: its texts, and its table."""

from __future__ import annotations

import pytest

from benchmarks.routers.__main__ import Run, table
from benchmarks.routers.started import SIDES
from benchmarks.routers.words import Words
from benchmarks.validate.asking import Heard
from preble_plugin.bench.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return Words(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def token_ids(words: Words, text: str) -> list[int]:
    found: list[int] = words._tokenizer.encode(text).ids
    return found


def test_a_text_has_as_many_tokens_as_the_workload_says(words: Words) -> None:
    text = words.prompt([words.part(1, 300), words.part(2, 50)])
    assert len(token_ids(words, text)) == 350


def test_texts_share_tokens_as_their_streams_do(words: Words) -> None:
    one, other = (token_ids(words, words.part(1, 300) + words.part(own, 50)) for own in (2, 3))
    assert one[:300] == other[:300]
    assert one[300] != other[300]


def test_an_answer_is_read_as_what_it_says(words: Words) -> None:
    assert words.answer(token_ids(words, words.part(4, 9))) == words.part(4, 9)


def test_ratios_are_medians_of_the_ratios_within_a_round() -> None:
    runs = [
        Run("hot", side, number, 0.0, [Heard("a", 0.0, 0.0, ttft * slow, 1.0, 100, 50, 5)])
        for number, slow in enumerate((1.0, 10.0, 2.0))
        for side, ttft in zip(SIDES, (0.4, 0.3, 0.2, 0.1), strict=True)
    ]
    (mean,) = [line for line in table(runs, "hot").splitlines() if "mean TTFT" in line]
    assert mean == "| mean TTFT (s) | 0.8 | 0.6 | 0.4 | 0.2 | 4.00 | 3.00 | 2.00 |"
