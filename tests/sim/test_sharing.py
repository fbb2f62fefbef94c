"""The infinite tree over parts of streams is the tree over their tokens."""

from __future__ import annotations

from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preble_plugin.sim.asked import Asked, Part, stream_tokens
from preble_plugin.sim.sharing import table_row

Row = tuple[int, ...]


def asked(*parts: tuple[int, int], answer: int | None = None, output: int = 1) -> Asked:
    return Asked("", 0.0, tuple(Part(*part) for part in parts), output, answer=answer)


def row(parts: list[tuple[int, int]]) -> Row:
    return tuple(
        token for stream, tokens in parts for token in stream_tokens(stream, tokens).tolist()
    )


def agreed(one: Row, other: Row) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def naive(requests: list[Asked]) -> tuple[float, float, float, float]:
    """Shared share, key portion, and requests per key portion, from tokens, by definition."""
    prompts = [row(list(request.prompt)) for request in requests]
    cache: list[Row] = []
    shared = []
    for request, prompt in zip(requests, prompts, strict=True):
        shared.append(max((agreed(prompt, held) for held in cache), default=0))
        cache.append(prompt)
        if request.answer is not None:
            parts = [*request.prompt, (request.answer, request.output_tokens - 1)]
            cache.append(row(parts))
    keys: list[Row] = []
    portions = []
    for prompt in prompts:
        ends = sorted({agreed(prompt, held) for held in cache} - {0})
        nodes = list(zip([0, *ends], ends, strict=False))
        start, end = max(((s, e) for s, e in nodes if e - s > s), default=(0, 0))
        portions.append(end - start)
        keys += [prompt[:end]] if end else []
    counts = [sum(prompt[: len(key)] == key for prompt in prompts) for key in set(keys)]
    lengths = [max(len(prompt), 1) for prompt in prompts]
    return (
        fmean(held / length for held, length in zip(shared, lengths, strict=True)),
        fmean(portion / length for portion, length in zip(portions, lengths, strict=True)),
        fmean(counts) if counts else 0.0,
        pstdev(counts) if counts else 0.0,
    )


parts = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 3)), max_size=4)
requests = st.lists(
    st.builds(
        lambda parts, answer, output: asked(*parts, answer=answer, output=output),
        parts,
        st.none() | st.integers(1, 3),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300)
@given(requests)
def test_a_row_is_what_the_tokens_say(requests: list[Asked]) -> None:
    row = table_row(requests)

    found = (row.shared, row.key_portion, *row.key_requests)
    assert found == pytest.approx(naive(requests))


def test_a_shorter_part_of_a_stream_parts_from_a_longer_one() -> None:
    row = table_row([asked((1, 5), (2, 3)), asked((1, 3), (2, 3))])

    assert row.shared == pytest.approx((0 + 3 / 6) / 2)


def test_lengths_are_means_and_deviations() -> None:
    row = table_row([asked((1, 10), output=2), asked((2, 30), output=6)])

    assert (row.requests, row.prompt_tokens, row.output_tokens) == (2, (20, 10), (4, 2))


def test_the_first_to_come_shares_nothing() -> None:
    row = table_row([asked((1, 8), (2, 2)), asked((1, 8), (3, 2))])

    assert row.shared == pytest.approx((0 + 0.8) / 2)


def test_the_key_portion_is_the_deepest_node_longer_than_all_before_it() -> None:
    # 10 for all, 30 for each half, 5 own: 30 > 10, but 5 < 40.
    halves = [asked((1, 10), (2 + i % 2, 30), (10 + i, 5)) for i in range(6)]

    row = table_row(halves)

    assert row.key_portion == pytest.approx(30 / 45)
    assert row.key_requests == (3, 0)


def test_an_answer_counts_as_cached_but_for_its_last_token() -> None:
    first = asked((1, 10), answer=2, output=5)
    second = asked((1, 10), (2, 5), (3, 5))

    assert table_row([first, second]).shared == pytest.approx((0 + 14 / 20) / 2)


def test_no_requests_have_no_row() -> None:
    with pytest.raises(ValueError, match="nothing to measure"):
        table_row([])
