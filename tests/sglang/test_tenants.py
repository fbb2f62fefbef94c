"""Tenants share no cache, and none is credited with another's blocks."""

from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from tests.engines import serving
from tests.engines.client import tokens
from tests.engines.preble import Audit, Scheduler
from tests.sglang.mode_servers import DEFAULT_FORMAT, TOKENIZERS
from tests.sglang.preble_servers import TWO, SglangClient

pytestmark = pytest.mark.sglang
TENANTS: list[dict[str, Any]] = [
    {},
    {"extra_key": "a"},
    {"extra_key": "b"},
    {"cache_salt": "a"},
    {"extra_key": "a", "cache_salt": "a"},
]
ALL = serving(TWO, DEFAULT_FORMAT)
"""With hashes that tell tenants apart, and with hashes that do not."""


def ask(client: SglangClient, name: str, prompt: list[int], **more: Any) -> int:
    """What SGLang found cached of a prompt, once that is settled."""
    answer = client.generate(prompt, rid=name, **more)
    Scheduler().settled()
    found: int = answer["meta_info"]["cached_tokens"]
    return found


def whole_pages(prompt: list[int]) -> int:
    """What can be found cached of a prompt: at least a token is computed."""
    page = Scheduler().status().block_size
    return (len(prompt) - 1) // page * page


@ALL
def test_tenants_with_the_same_prompt_on_one_rank_are_told_apart(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    client.flush_cache()
    prompt = tokens(900, 320)
    for number, tenant in enumerate(TENANTS):
        assert ask(client, f"new-{number}", prompt, routed_dp_rank=1, **tenant) == 0
        receipt = scheduler.receipt(f"new-{number}")
        assert (receipt.predicted_cached_tokens, receipt.branch) == (0, "fixed")
    for number, tenant in enumerate(TENANTS):
        assert ask(client, f"again-{number}", prompt, **tenant) == whole_pages(prompt)
        receipt = scheduler.receipt(f"again-{number}")
        assert (receipt.predicted_cached_tokens, receipt.replica) == (whole_pages(prompt), 1)


@ALL
def test_a_tenant_is_placed_where_its_own_blocks_are(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    client.flush_cache()
    prompt = tokens(901, 320)
    for rank, tenant in enumerate(TENANTS[1:3]):
        ask(client, f"of-{rank}", prompt, routed_dp_rank=rank, **tenant)
    for rank, tenant in enumerate(TENANTS[1:3]):
        assert ask(client, f"own-{rank}", prompt, **tenant) == whole_pages(prompt)
        receipt = scheduler.receipt(f"own-{rank}")
        assert (receipt.predicted_cached_tokens, receipt.replica) == (whole_pages(prompt), rank)


def talk(client: SglangClient, seed: int, answers: bool) -> Audit:
    """All tenants ask the same of the same document, in turns; with `answers` what
    they were told is part of what they ask next."""
    document = tokens(seed, 160)
    said = dict.fromkeys(range(len(TENANTS)), document)
    before = Scheduler().settled()
    for turn in range(3):
        for number, tenant in enumerate(TENANTS):
            asked = said[number] + tokens(seed + 1 + turn, 20)
            answer = client.generate(asked, max_new_tokens=18, **tenant)
            said[number] = asked + (answer["output_ids"] if answers else [])
            Scheduler().settled()
    return Audit(before, Scheduler().settled())


@ALL
def test_what_tenants_ask_in_turns_is_predicted(server: SglangServer) -> None:
    client = SglangClient(server)
    client.flush_cache()
    audit = talk(client, seed=910, answers=False)
    assert (audit.exact, audit.requests) == (15, 15), audit
    assert audit.actual > 0


@serving(TWO)
def test_so_is_what_they_were_told_where_hashes_tell_them_apart(server: SglangServer) -> None:
    client = SglangClient(server)
    client.flush_cache()
    audit = talk(client, seed=920, answers=True)
    assert (audit.exact, audit.requests) == (15, 15), audit


@serving(DEFAULT_FORMAT)
def test_elsewhere_no_tenant_is_credited_with_more_than_its_own(server: SglangServer) -> None:
    """The controller does not see what they were told."""
    client = SglangClient(server)
    client.flush_cache()
    audit = talk(client, seed=930, answers=True)
    assert 0 < audit.predicted <= audit.actual, audit


@ALL
def test_after_a_flush_nothing_is_credited_to_anyone(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    prompt = tokens(904, 320)
    for number, tenant in enumerate(TENANTS):
        ask(client, f"before-{number}", prompt, routed_dp_rank=0, **tenant)
    client.flush_cache()
    for number, tenant in enumerate(TENANTS):
        assert ask(client, f"after-{number}", prompt, routed_dp_rank=0, **tenant) == 0
        assert scheduler.receipt(f"after-{number}").predicted_cached_tokens == 0


@serving(TOKENIZERS, DEFAULT_FORMAT)
def test_an_adapter_does_not_share_the_models_cache(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    client.flush_cache()
    prompt = tokens(905, 320)
    asked: list[tuple[str, dict[str, Any]]] = [("plain", {}), ("french", {"lora_path": "french"})]
    answers = [client.generate(prompt, rid=f"{n}-new", routed_dp_rank=0, **m) for n, m in asked]
    scheduler.settled()
    assert answers[0]["output_ids"] != answers[1]["output_ids"]
    assert [one["meta_info"]["cached_tokens"] for one in answers] == [0, 0]
    for name, more in asked:
        assert ask(client, f"{name}-again", prompt, **more) == 304
        receipt = scheduler.receipt(f"{name}-again")
        assert (receipt.predicted_cached_tokens, receipt.replica) == (304, 0)
