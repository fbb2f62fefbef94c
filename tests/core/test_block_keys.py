from __future__ import annotations

import contextlib
from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from compiled import IMPLEMENTATIONS
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core import BlockHasher, TokenIdError, block_keys, namespace

SEED = b"0123456789abcdef"
FACTORS = np.arange(3, 3 + 2 * 64, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def keys(implementation: str, tokens: object, size: int = 4) -> bytes:
    """The block keys by one of the two ways to make them."""
    factors = FACTORS[:size].tobytes()
    return IMPLEMENTATIONS[implementation].keys(tokens, factors, size)  # type: ignore[no-any-return]


def sums(tokens: list[int], size: int) -> list[int]:
    """What the keys must be, in Python's own integers."""
    factors = [int(one) for one in FACTORS[:size]]
    return [
        sum(factor * token for factor, token in zip(factors, tokens[i : i + size], strict=True))
        % 2**64
        for i in range(0, len(tokens) // size * size, size)
    ]


tokens = st.lists(st.integers(0, 2**31 - 1), max_size=70)


@given(tokens, st.sampled_from([1, 4, 16]))
def test_stored_blocks_have_the_keys_of_the_prompt_they_came_from(prompt, size):
    hasher = BlockHasher(size, SEED)
    space = namespace("adapter", 3, "tenant")
    whole = len(prompt) // size * size
    split = whole // size // 2
    keys = hasher.prompt_keys(prompt, space)
    stored = hasher.stored_keys(prompt[: split * size], True, space)
    stored += hasher.stored_keys(prompt[split * size : whole], split == 0, space)
    assert stored == keys


@given(tokens, tokens)
def test_keys_are_equal_exactly_where_blocks_are(left, right):
    hasher = BlockHasher(4, SEED)
    one, two = hasher.prompt_keys(left), hasher.prompt_keys(right)
    for block in range(min(len(one), len(two)) // 8):
        same = left[block * 4 : block * 4 + 4] == right[block * 4 : block * 4 + 4]
        assert (one[block * 8 : block * 8 + 8] == two[block * 8 : block * 8 + 8]) == same


def test_a_namespace_sets_the_first_block_apart_and_the_tree_does_the_rest():
    hasher, prompt = BlockHasher(4, SEED), list(range(12))
    plain = hasher.prompt_keys(prompt)
    salted = hasher.prompt_keys(prompt, namespace(salt="tenant"))
    assert plain[:8] != salted[:8]
    assert plain[8:] == salted[8:]


def test_namespaces_do_not_run_into_each_other():
    hasher = BlockHasher(2, SEED)
    spaces = [("a", "bc"), ("ab", "c"), ("abc",), ("", "abc"), ("a", "b", "c"), ()]
    assert len({hasher.prompt_keys([1, 2], space) for space in spaces}) == len(spaces)


def test_a_feature_touches_the_blocks_it_covers_at_its_own_offset():
    hasher, prompt = BlockHasher(4, SEED), [9] * 16
    image = hasher.prompt_keys(prompt, features=[("image", 3, 6)])
    other = hasher.prompt_keys(prompt, features=[("other", 3, 6)])
    moved = hasher.prompt_keys(prompt, features=[("image", 4, 6)])
    plain = hasher.prompt_keys(prompt)
    assert [image[i : i + 8] == plain[i : i + 8] for i in range(0, 32, 8)] == [
        False,
        False,
        False,
        True,
    ]
    assert image[:8] != other[:8]
    assert image[8:16] != moved[8:16]
    stored = hasher.stored_keys(
        prompt, True, (), [[("image", 3)], [("image", -1)], [("image", -5)], []]
    )
    assert stored == image


def test_the_seed_decides_the_keys():
    assert BlockHasher(4, b"one").prompt_keys([1] * 4) != BlockHasher(4, b"two").prompt_keys(
        [1] * 4
    )
    assert BlockHasher(4, b"one").prompt_keys([1] * 4) == BlockHasher(4, b"one").prompt_keys(
        [1] * 4
    )
    assert BlockHasher(4).prompt_keys([1] * 4) != BlockHasher(4).prompt_keys([1] * 4)


@pytest.mark.parametrize(
    "bad", [[-1, 0], [2**32, 0], [-(2**31) - 1, 0], [2**80, 0], ["a", 0], [1.5, 0]]
)
def test_a_token_id_that_no_vocabulary_has_is_named(bad):
    with pytest.raises(TokenIdError, match="token id"):
        BlockHasher(2, SEED).prompt_keys(bad)


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_prompt_shorter_than_a_block_has_no_keys(length):
    assert BlockHasher(16, SEED).prompt_keys([1] * length) == b""


def test_200k_tokens_are_hashed_whole():
    assert len(BlockHasher(16, SEED).prompt_keys(list(range(200_000)))) == 8 * 12_500


def test_a_block_size_below_one_is_refused():
    with pytest.raises(ValueError, match="block_size"):
        BlockHasher(0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=70), st.sampled_from([1, 3, 16, 64]))
def test_keys_are_sums_of_products_however_the_tokens_come(implementation, prompt, size):
    expected = sums(prompt, size)
    forms = [
        prompt,
        tuple(prompt),
        array("I", prompt),
        array("q", prompt),
        np.array(prompt, np.int64),
        np.array(prompt, np.uint32),
    ]
    for form in forms:
        assert np.frombuffer(keys(implementation, form, size), np.uint64).tolist() == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([-1] * 4, OverflowError),
        ([2**32] * 4, OverflowError),
        ([2**80] * 4, OverflowError),
        (array("q", [-1] * 4), OverflowError),
        (array("q", [2**32] * 4), OverflowError),
        (array("i", [-1] * 4), OverflowError),
        (np.array([-1] * 4), OverflowError),
        (["a"] * 4, TypeError),
        ([1.0] * 4, TypeError),
        ([None] * 4, TypeError),
        (array("d", [1.0] * 4), TypeError),
    ],
)
def test_what_is_no_token_id_is_refused_in_every_form(implementation, bad, error):
    with pytest.raises(error):
        keys(implementation, bad)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ints_of_other_types_are_token_ids(implementation):
    assert keys(implementation, [np.int64(7), True, np.uint32(9), 0]) == keys(
        implementation, [7, 1, 9, 0]
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_list_that_shrinks_while_it_is_read_is_an_error_or_keys_and_never_worse(implementation):
    class Shrinking:
        def __index__(self) -> int:
            prompt.clear()
            return 1

    prompt: list[object] = [1, Shrinking(), *range(1000)]
    with contextlib.suppress(RuntimeError, ValueError):
        assert len(keys(implementation, prompt)) % 8 == 0


def test_a_sequence_of_any_kind_has_the_keys_of_the_list():
    hasher = BlockHasher(16, b"seed" * 4)
    assert hasher.prompt_keys(range(40)) == hasher.prompt_keys(list(range(40)))
    assert hasher.prompt_keys(np.arange(40, dtype=np.int16)) == hasher.prompt_keys(list(range(40)))


@given(tokens, st.sampled_from([1, 4]), st.sampled_from([1, 3]))
def test_keys_that_look_ahead_are_equal_exactly_where_what_they_cover_is(prompt, size, ahead):
    """A key for each block that so many tokens follow."""
    hasher = BlockHasher(size, SEED, ahead)
    found = hasher.prompt_keys(prompt)
    assert len(found) // 8 == max(0, (len(prompt) - ahead) // size)
    for at in range(len(prompt)):
        other = hasher.prompt_keys([*prompt[:at], prompt[at] ^ 1, *prompt[at + 1 :]])
        changed = {i // 8 for i in range(0, len(found), 8) if found[i : i + 8] != other[i : i + 8]}
        covering = {i for i in range(len(found) // 8) if i * size <= at < (i + 1) * size + ahead}
        assert changed == covering


@given(tokens, st.sampled_from([1, 4]), st.sampled_from([1, 3]))
def test_stored_blocks_have_the_keys_of_a_prompt_that_looks_ahead(prompt, size, ahead):
    hasher = BlockHasher(size, SEED, ahead)
    features = [("image", 5, 6), ("other", 12, 1)]
    blocks = max(0, (len(prompt) - ahead) // size)
    stored = hasher.stored_keys(
        prompt[: blocks * size],
        True,
        (),
        [
            [
                (name, offset - block * size)
                for name, offset, length in features
                if offset < (block + 1) * size + ahead and offset + length > block * size
            ]
            for block in range(blocks)
        ],
        [prompt[(block + 1) * size :][:ahead] for block in range(blocks)],
    )
    assert stored == hasher.prompt_keys(prompt, (), features)


def test_a_feature_that_begins_behind_what_a_key_covers_is_none_of_its_block():
    """vLLM lists it where its own hash looks ahead, and where the tokens are not asked for."""
    hasher, prompt = BlockHasher(4, SEED), list(range(8))
    stored = hasher.stored_keys(prompt, True, (), [[("image", 4)], [("image", 0)]], [[4], [8]])
    assert stored == hasher.prompt_keys(prompt, (), [("image", 4, 2)])


def test_a_token_ahead_that_no_vocabulary_has_is_refused():
    hasher = BlockHasher(4, SEED, 1)
    with pytest.raises(TokenIdError):
        hasher.prompt_keys([1, 2, 3, 4, -1])
    with pytest.raises(ValueError, match="lookahead_tokens must be 0 or more, got -1"):
        BlockHasher(4, SEED, -1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("tokens", [np.arange(16)[::2], memoryview(array("q", range(16)))[::2]])
def test_tokens_that_are_not_contiguous_have_the_same_keys(
    implementation: str, tokens: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_keys, "fastest_keys", IMPLEMENTATIONS[implementation].keys)
    hasher = BlockHasher(2, b"seed")
    assert hasher.prompt_keys(tokens) == hasher.prompt_keys(list(tokens))
