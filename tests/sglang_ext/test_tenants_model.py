"""Tenants, placements and a played cache: what core believes against what is so.

In any form of the hashes, of every tenant, rank and prompt:
1. Core never takes a tenant to hold more than is held there by it and those whose
   first page has the same hash.
2. A tenant that was told holds no less than it does.
3. One that was not told is credited with nothing by events.
4. Events played a second time, from the first, leave the same.
In the dynamo form no hash is shared: core believes exactly what is so.
"""

from __future__ import annotations

from itertools import count, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core import Finished, Request, Scheduler, Trust
from preble_plugin.sglang_ext.page_hash import HashForm
from preble_plugin.sglang_ext.tenants import PLAIN, Tenant, Tenants
from tests.sglang_ext.radix_model import PAGE, RadixModel, hashes, prompt

FORMS = pytest.mark.parametrize("form", HashForm, ids=lambda form: form.name)
RANKS = (0, 1)
TENANTS = [
    PLAIN,
    Tenant("a"),
    Tenant("b"),
    Tenant(None, "s"),
    Tenant("a", "s"),
    Tenant("l", None, lora_named=True),
    Tenant(""),
]
PROMPTS = [pages for length in (1, 2, 3) for pages in product((1, 2), repeat=length)]


def actions() -> st.SearchStrategy[list[tuple[str, int, int, int, int]]]:
    """What befalls two ranks: (kind, rank, tenant, prompt, number)."""
    kinds = ["serve"] * 6 + ["evict", "evict", "deliver", "deliver", "clear"]
    return st.lists(
        st.tuples(
            st.sampled_from(kinds),
            st.sampled_from(RANKS),
            st.integers(0, len(TENANTS) - 1),
            st.integers(0, len(PROMPTS) - 1),
            st.integers(0, 11),
        ),
        max_size=40,
    )


class Play:
    """Two played ranks, and a scheduler that hears of them through `Tenants`."""

    def __init__(self, form: HashForm, first_pages: int = 1000) -> None:
        self.form = form
        self.tenants = Tenants(PAGE, form, first_pages=first_pages)
        self.scheduler = Scheduler(PAGE, seed=b"seed" * 4)
        self.caches = {rank: RadixModel(form) for rank in RANKS}
        self.told: dict[tuple[int, Tenant, int], bool] = {}
        """By rank, tenant and first page: what was last said of it."""
        self._heard = dict.fromkeys(RANKS, 0)
        self._ids = count()
        for rank in RANKS:
            self.scheduler.add_replica(rank)
            self.scheduler.set_trust(rank, Trust.EXACT)

    def run(self, steps: list[tuple[str, int, int, int, int]]) -> Play:
        for kind, rank, which, pages, number in steps:
            cache = self.caches[rank]
            if kind == "serve":
                self.serve(rank, TENANTS[which], PROMPTS[pages], number)
            elif kind == "evict":
                cache.evict(number)
            elif kind == "clear":
                cache.clear()
            else:
                self.hear(rank, self._heard[rank] + number)
        for rank in RANKS:
            self.hear(rank, len(self.caches[rank].events))
        return self

    def serve(self, rank: int, tenant: Tenant, pages: tuple[int, ...], prompt_tokens: int) -> None:
        """A request of which the first tokens are the prompt, the rest its answer."""
        tokens = prompt(*pages)
        asked = tokens[: prompt_tokens + 1]
        told = self.tenants.placed(rank, asked, tenant)
        if len(asked) >= PAGE:
            self.told[rank, tenant, pages[0]] = told
        self.caches[rank].serve(tenant, tokens)

    def hear(self, rank: int, until: int) -> None:
        """Deliver the events of a rank up to this one."""
        events = self.caches[rank].events[self._heard[rank] : until]
        self.scheduler.apply(rank, self.tenants.translate(rank, events), 0.0)
        self._heard[rank] = min(until, len(self.caches[rank].events))

    def replay(self) -> None:
        """Forget and hear everything again."""
        for rank in RANKS:
            self.scheduler.clear_residency(rank)
            self._heard[rank] = 0
            self.hear(rank, len(self.caches[rank].events))

    def believed(self, rank: int, tenant: Tenant, pages: tuple[int, ...]) -> int:
        """Tokens of a prompt that core takes a tenant to have cached."""
        tokens = prompt(*pages, rest=1)
        keys = self.scheduler.hasher.prompt_keys(tokens, tenant.namespace)
        probe = f"probe {next(self._ids)}"
        placed = self.scheduler.place(Request(probe, keys, len(tokens), fixed_replica=rank), 0.0)
        self.scheduler.observe(rank, [Finished(probe, 0, aborted=True)], 0.0)
        return placed.cached_tokens

    def beliefs(self) -> dict[tuple[int, Tenant, tuple[int, ...]], int]:
        return {asked: self.believed(*asked) for asked in product(RANKS, TENANTS, PROMPTS)}

    def held(self, rank: int, tenant: Tenant, pages: tuple[int, ...]) -> int:
        return self.caches[rank].hit(tenant, prompt(*pages))

    def held_by_any(self, rank: int, tenant: Tenant, pages: tuple[int, ...]) -> int:
        """Tokens of a prompt that are held, each page by any who share its hash."""
        mine = hashes(self.form, tenant, prompt(*pages))
        sharing = [one for one in TENANTS if hashes(self.form, one, prompt(*pages)) == mine]
        for length in range(len(pages), 0, -1):
            if all(
                any(self.held(rank, one, pages[:end]) == end * PAGE for one in sharing)
                for end in range(1, length + 1)
            ):
                return length * PAGE
        return 0


@FORMS
@given(steps=actions())
def test_beliefs_stay_within_what_events_can_tell(
    form: HashForm, steps: list[tuple[str, int, int, int, int]]
) -> None:
    play = Play(form).run(steps)
    for (rank, tenant, pages), believed in play.beliefs().items():
        told = play.told.get((rank, tenant, pages[0]))
        least = play.held(rank, tenant, pages) if told else 0
        most = 0 if told is False else play.held_by_any(rank, tenant, pages)
        assert least <= believed <= most, (rank, tenant, pages)


@given(steps=actions())
def test_in_the_dynamo_form_what_is_believed_is_so(
    steps: list[tuple[str, int, int, int, int]],
) -> None:
    play = Play(HashForm.DYNAMO).run(steps)
    assert all(play.told.values())
    assert play.beliefs() == {
        asked: play.held(*asked) for asked in product(RANKS, TENANTS, PROMPTS)
    }


@FORMS
@given(steps=actions())
def test_a_replay_leaves_the_same(
    form: HashForm, steps: list[tuple[str, int, int, int, int]]
) -> None:
    play = Play(form).run(steps)
    before = play.beliefs()
    play.replay()
    assert play.beliefs() == before


@FORMS
@given(steps=actions())
def test_what_is_forgotten_never_promises_more(
    form: HashForm, steps: list[tuple[str, int, int, int, int]]
) -> None:
    play = Play(form, first_pages=1).run(steps)
    for (rank, tenant, pages), believed in play.beliefs().items():
        assert believed <= play.held_by_any(rank, tenant, pages), (rank, tenant, pages)
