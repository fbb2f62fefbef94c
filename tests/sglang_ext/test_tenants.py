from __future__ import annotations

import pytest

from preble_plugin.core.events import CacheEvent, Clear, Namespace, Remove, Store
from preble_plugin.sglang_ext.page_hash import HashForm, digest, page_hash, words
from preble_plugin.sglang_ext.tenants import NOBODY, PLAIN, Tenant, Tenants
from tests.sglang_ext.radix_model import PAGE, prompt, store

A, B = Tenant("a"), Tenant("b")
SALTED = Tenant(None, "salt")
DEFAULT, DYNAMO, NAMED_LORA = HashForm.DEFAULT, HashForm.DYNAMO, HashForm.NAMED_LORA
FORMS = pytest.mark.parametrize("form", HashForm, ids=lambda form: form.name)


def tenants(form: HashForm, *, bigram: bool = False, first_pages: int = 100) -> Tenants:
    return Tenants(PAGE, form, bigram=bigram, first_pages=first_pages)


def namespaces(made: Tenants, rank: int, *events: CacheEvent) -> list[Namespace]:
    """Whom the stores among these events are attributed to."""
    return [event.namespace for event in made.translate(rank, events) if isinstance(event, Store)]


# -- tenants -----------------------------------------------------------------------


def test_only_the_plain_tenant_has_no_namespace() -> None:
    others = [A, SALTED, Tenant("a", "salt"), Tenant(""), Tenant("salt", "a")]
    assert PLAIN.namespace == ()
    assert len({tenant.namespace for tenant in [PLAIN, *others]}) == 1 + len(others)


# -- stores ------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("tenant", [PLAIN, A, SALTED, Tenant("a", "salt"), Tenant("l", None, True)])
def test_a_store_is_of_the_tenant_whose_prompt_went_there(form: HashForm, tenant: Tenant) -> None:
    made = tenants(form)
    assert made.placed(0, prompt(1, 2), tenant)
    assert namespaces(made, 0, store(form, tenant, prompt(1, 2))) == [tenant.namespace]


def test_what_a_wire_form_took_for_the_namespace_is_replaced() -> None:
    made = tenants(DYNAMO)
    made.placed(0, prompt(1), A)
    named = Store([*store(DYNAMO, A, prompt(1)).hashes], None, prompt(1), PAGE, ("lora", "n", "0"))
    assert namespaces(made, 0, named) == [A.namespace]


def test_a_store_in_another_medium_is_its_owners_as_well() -> None:
    made = tenants(DYNAMO)
    made.placed(0, prompt(1), A)
    again = store(DYNAMO, A, prompt(1), medium="CPU_PINNED")
    assert namespaces(made, 0, store(DYNAMO, A, prompt(1)), again) == [A.namespace] * 2


@FORMS
def test_events_that_need_no_namespace_pass_as_they_are(form: HashForm) -> None:
    made = tenants(form)
    made.placed(0, prompt(1), SALTED)
    events: list[CacheEvent] = [
        store(form, SALTED, prompt(1, 2), first=1),
        store(form, PLAIN, prompt(3)),
        Remove([5]),
        Clear(),
    ]
    assert made.translate(0, events) is events


def test_other_events_keep_their_place_beside_a_store_that_changes() -> None:
    made = tenants(DYNAMO)
    made.placed(0, prompt(1), A)
    first, last = Clear(), Remove([5])
    _, stored, _ = translated = made.translate(0, [first, store(DYNAMO, A, prompt(1)), last])
    assert isinstance(stored, Store)
    assert (translated[0], stored.namespace, translated[2]) == (first, A.namespace, last)


def test_what_is_owned_outlives_a_clear_of_the_cache() -> None:
    made = tenants(DYNAMO)
    made.placed(0, prompt(1), A)
    assert namespaces(made, 0, Clear(), store(DYNAMO, A, prompt(1))) == [A.namespace]


# -- tenants that share a hash -----------------------------------------------------


@pytest.mark.parametrize(("first", "later"), [(A, B), (PLAIN, A), (A, PLAIN)])
@pytest.mark.parametrize("form", [DEFAULT, NAMED_LORA], ids=lambda form: form.name)
def test_the_first_tenant_of_a_hash_is_told_and_the_later_is_not(
    form: HashForm, first: Tenant, later: Tenant
) -> None:
    made = tenants(form)
    took_turns = [first, later, first, later]
    assert [made.placed(0, prompt(1), one) for one in took_turns] == [True, False, True, False]
    stores = [store(form, one, prompt(1)) for one in took_turns]
    assert namespaces(made, 0, *stores) == [first.namespace] * 4


def test_tenants_with_other_first_pages_do_not_share() -> None:
    made = tenants(DEFAULT)
    assert made.placed(0, prompt(1), A)
    assert made.placed(0, prompt(2), B)


def test_in_the_dynamo_form_none_share() -> None:
    made = tenants(DYNAMO)
    everyone = [PLAIN, A, B, SALTED, Tenant("a", "salt"), Tenant("")]
    assert all(made.placed(0, prompt(1), tenant) for tenant in everyone)


def test_a_named_lora_shares_with_none_in_its_form() -> None:
    made = tenants(NAMED_LORA)
    assert made.placed(0, prompt(1), PLAIN)
    assert made.placed(0, prompt(1), Tenant("1f", None, lora_named=True))
    assert not made.placed(0, prompt(1), A)


def test_each_rank_has_its_own_owner() -> None:
    made = tenants(DEFAULT)
    assert made.placed(0, prompt(1), A)
    assert made.placed(1, prompt(1), B)
    assert namespaces(made, 1, store(DEFAULT, B, prompt(1))) == [B.namespace]


@pytest.mark.parametrize(
    ("tokens", "tenant"),
    [([1 << 32] * PAGE, A), (prompt(1), Tenant("\ud800")), ([1], Tenant(None, "\ud800"))],
)
def test_what_cannot_be_hashed_is_not_told_and_does_no_harm(
    tokens: list[int], tenant: Tenant
) -> None:
    made = tenants(DYNAMO)
    assert not made.placed(0, tokens, tenant)
    assert namespaces(made, 0, store(DYNAMO, B, prompt(1))) == [NOBODY]


# -- hashes that were not noted ----------------------------------------------------


@pytest.mark.parametrize("tenant", [PLAIN, A, SALTED])
def test_a_first_page_that_an_answer_filled_is_its_tenants(tenant: Tenant) -> None:
    made = tenants(DYNAMO)
    for one in (A, SALTED, PLAIN):
        assert made.placed(0, prompt(1)[:2], one)
    assert namespaces(made, 0, store(DYNAMO, tenant, prompt(1))) == [tenant.namespace]
    assert made.placed(0, prompt(1, 2), tenant)


def test_such_a_page_is_the_plain_tenants_where_its_hash_says_no_more() -> None:
    made = tenants(DEFAULT)
    made.placed(0, prompt(1)[:2], A)
    assert namespaces(made, 0, store(DEFAULT, A, prompt(1))) == [()]
    assert not made.placed(0, prompt(1), A)


def test_a_tenant_of_whom_nothing_is_known_is_nobody_and_not_plain() -> None:
    made = tenants(DYNAMO)
    made.placed(0, prompt(1), A)
    assert namespaces(made, 0, store(DYNAMO, B, prompt(1))) == [NOBODY]


def test_who_comes_after_its_blocks_were_nobodys_is_not_told() -> None:
    made = tenants(DYNAMO)
    made.placed(0, prompt(1), A)
    made.translate(0, [store(DYNAMO, B, prompt(2))])
    assert not made.placed(0, prompt(2), B)


@pytest.mark.parametrize("form", [DEFAULT, NAMED_LORA], ids=lambda form: form.name)
def test_a_store_before_any_placement_is_plain_and_stays_so(form: HashForm) -> None:
    made = tenants(form)
    assert namespaces(made, 0, store(form, A, prompt(1))) == [()]
    assert not made.placed(0, prompt(1), A)


def test_the_hash_least_lately_used_is_forgotten() -> None:
    made = tenants(DEFAULT, first_pages=2)
    made.placed(0, prompt(1), A)
    made.placed(0, prompt(2), A)
    made.placed(0, prompt(1), A)
    made.placed(0, prompt(3), A)
    assert made.placed(0, prompt(2), B)  # which forgets page 1
    assert not made.placed(0, prompt(3), B)


# -- EAGLE -------------------------------------------------------------------------


def test_a_page_of_pairs_takes_one_token_more() -> None:
    made = tenants(DEFAULT, bigram=True)
    made.placed(0, prompt(1), A)
    assert made.placed(0, prompt(1, rest=1), B)
    assert not made.placed(0, prompt(1, rest=1), A)


def test_a_page_of_pairs_is_recognised_by_the_token_after_it() -> None:
    made = tenants(DYNAMO, bigram=True)
    made.placed(0, prompt(1), A)
    first = page_hash(digest(b"", words([*prompt(1), 9], bigram=True)), b"")
    assert namespaces(made, 0, Store([first], None, prompt(1), PAGE, lookahead=[[9]])) == [()]
    assert namespaces(made, 0, Store([1], None, prompt(1), PAGE, lookahead=[[9]])) == [NOBODY]


def test_a_page_of_pairs_without_the_token_after_it_is_plain() -> None:
    made = tenants(DYNAMO, bigram=True)
    made.placed(0, prompt(1), A)
    assert namespaces(made, 0, Store([1], None, prompt(1), PAGE)) == [()]
