"""Tenants share no cache, and none is credited with another's blocks."""

from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from tests.engines import serving
from tests.engines.client import tokens
from tests.engines.preble import Audit, Scheduler
from tests.sglang.mode_servers import DEFAULT_FORMAT, OLDER
from tests.sglang.preble_servers import TWO, SglangClient

pytestmark = pytest.mark.sglang
TENANTS: list[dict[str, Any]] = [
    {},
    {"extra_key": "a"},
    {"extra_key": "b"},
    {"cache_salt": "a"},
    {"extra_key": "a", "cache_salt": "a"},
]
ALL = serving(TWO, DEFAULT_FORMAT, OLDER)
"""With hashes that tell tenants apart, and twice with hashes that do not."""


def ask(client: SglangClient, name: str, prompt: list[int], **more: Any) -> int:
    """What SGLang found cached of a prompt, once that is settled."""
    answer = client.generate(prompt, rid=name, **more)
    Scheduler().settled()
    found: int = answer["meta_info"]["cached_tokens"]
    return found


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
        assert ask(client, f"again-{number}", prompt, **tenant) == 304
        receipt = scheduler.receipt(f"again-{number}")
        assert (receipt.predicted_cached_tokens, receipt.replica) == (304, 1)


@ALL
def test_a_tenant_is_placed_where_its_own_blocks_are(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    client.flush_cache()
    prompt = tokens(901, 320)
    for rank, tenant in enumerate(TENANTS[1:3]):
        ask(client, f"of-{rank}", prompt, routed_dp_rank=rank, **tenant)
    for rank, tenant in enumerate(TENANTS[1:3]):
        assert ask(client, f"own-{rank}", prompt, **tenant) == 304
        receipt = scheduler.receipt(f"own-{rank}")
        assert (receipt.predicted_cached_tokens, receipt.replica) == (304, rank)


@ALL
def test_what_tenants_say_in_turns_is_predicted(server: SglangServer) -> None:
    """Conversations of all tenants on the same document, as long as all is cached."""
    client = SglangClient(server)
    client.flush_cache()
    document = tokens(902, 160)
    said = dict.fromkeys(range(len(TENANTS)), document)
    before = Scheduler().settled()
    for turn in range(3):
        for number, tenant in enumerate(TENANTS):
            question = tokens(903 + turn, 20)  # all ask the same
            answer = client.generate(said[number] + question, max_new_tokens=18, **tenant)
            said[number] = said[number] + question + answer["output_ids"]
            Scheduler().settled()
    audit = Audit(before, Scheduler().settled())
    assert (audit.exact, audit.requests) == (15, 15), audit
    assert audit.actual > 0


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
