"""Known answers of SGLang's own; tests/contracts/test_sglang_page_hash.py asks it."""

from __future__ import annotations

import struct

import pytest

from preble_plugin.sglang_ext.page_hash import HashForm, words
from preble_plugin.sglang_ext.tenants import Tenant
from tests.sglang_ext.radix_model import hashes

TOKENS = list(range(100, 112))
BOTH = Tenant("x", "s")


def test_a_hash_stands_for_the_page_and_all_before_it() -> None:
    assert hashes(HashForm.DEFAULT, Tenant(), TOKENS)[:2] == hashes(
        HashForm.DEFAULT, Tenant(), TOKENS[:8]
    )


def test_the_default_form_hashes_the_salt_and_not_the_extra_key() -> None:
    expected = [6818751359666998031, 1197912638732355059, 4604275794171058153]
    assert hashes(HashForm.DEFAULT, BOTH, TOKENS) == expected
    assert hashes(HashForm.DEFAULT, Tenant(None, "s"), TOKENS) == expected


def test_the_dynamo_form_hashes_both() -> None:
    expected = [-8510275622958647451, 1921049290776972124, 9147248967673302021]
    assert hashes(HashForm.DYNAMO, BOTH, TOKENS) == expected
    assert hashes(HashForm.DYNAMO, Tenant(None, "s"), TOKENS) != expected


def test_an_extra_key_and_a_salt_do_not_run_together() -> None:
    assert hashes(HashForm.DYNAMO, Tenant("a", "bc"), TOKENS) != hashes(
        HashForm.DYNAMO, Tenant("ab", "c"), TOKENS
    )


def test_the_form_of_a_named_lora_hashes_its_extra_key_alone() -> None:
    form = HashForm.NAMED_LORA
    plain = hashes(HashForm.DEFAULT, Tenant(), TOKENS)
    assert hashes(form, Tenant("x"), TOKENS) == plain
    assert hashes(form, Tenant("x", None, True), TOKENS) != plain


def test_pairs_overlap_by_a_token() -> None:
    assert words([1, 2, 3], bigram=True) == struct.pack("<4I", 1, 2, 2, 3)


def test_a_token_id_beyond_u32_is_an_error() -> None:
    with pytest.raises(struct.error):
        words([1 << 32])
