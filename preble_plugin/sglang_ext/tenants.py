"""Whose blocks an event speaks of.

1. SGLang keeps requests of different *tenants* apart in its cache: by extra key,
   which ends with the LoRA's id, and by cache salt. Its events say neither. They
   name pages by hashes, and a store at the start of a prompt is told by the hash
   of its first page; what comes after it hangs on it by parent hashes.
2. Each prompt's first page is noted by its hash for the rank it goes to. The
   first tenant with a hash there owns it, and the stores under it are its own.
3. Where the form of the hashes leaves a tenant's extra key out, tenants with the
   same first page share its hash. Events cannot tell the later ones' blocks from
   the owner's: what is cached of theirs is to be judged by placements, and the
   owner is taken to hold what any of them holds, never less than it does.
4. A hash that was not noted (the answer to a short prompt filled the first page,
   or it was forgotten) is held against that of the plain tenant and of those
   whose short prompts went to the rank. If it is none of these, its blocks are
   nobody's: they are in a namespace that no request has.

What is owned stays so when the cache is cleared or blocks are removed: a hash
then says the same as before, and so it does when events are replayed. Of a rank
the `FIRST_PAGES` hashes last used are kept. If one is forgotten while its blocks
are cached, they stay the former owner's; a new owner's are then found too few.

Follows SGLang 0.5.22 and 0.5.23: managers/schedule_batch.py `Req.__init__` (what
the extra key is), mem_cache/radix_cache.py `RadixKey`, mem_cache/events.py.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import msgspec

from preble_plugin.core.events import CacheEvent, EngineHash, Namespace, Store
from preble_plugin.core.request import ReplicaId
from preble_plugin.sglang_ext.page_hash import (
    HashForm,
    digest,
    namespace_seed,
    page_hash,
    salt_seed,
    words,
)

FIRST_PAGES: Final = 32_768
"""Hashes of first pages kept for each rank, at about 270 bytes."""
SHORT_PROMPT_TENANTS: Final = 256
"""Tenants with prompts shorter than a page kept for each rank: as many as are
served there at a time."""
SEEDS: Final = 4096
"""Tenants whose seeds are remembered rather than made anew."""

_Seeds: TypeAlias = tuple[bytes, bytes]
"""What stands before a tenant's first page, and what its hashes are hashed with."""

NOBODY: Final[Namespace] = ("nobody",)
"""The namespace of blocks whose tenant is not known."""


class Tenant(msgspec.Struct, frozen=True, gc=False):
    """What keeps a request's cache apart from that of others with equal tokens."""

    extra_key: str | None = None
    """With the LoRA's id at its end. An empty one is not the same as none."""
    salt: str | None = None
    """Never empty."""
    lora_named: bool = False
    """The request is for a LoRA whose name SGLang knows: any it can serve."""

    @property
    def namespace(self) -> Namespace:
        """The same for core: empty for the plain tenant."""
        parts: Namespace = ()
        if self.extra_key is not None:
            parts += ("extra_key", self.extra_key)
        if self.salt is not None:
            parts += ("salt", self.salt)
        return parts


PLAIN: Final = Tenant()


class Tenants:
    """Attributes the events of each rank to tenants.

    `page_size` is the engine's, in tokens; `bigram` says that its cache keys are
    pairs of tokens (EAGLE). `first_pages` bounds what is kept for a rank.
    """

    def __init__(
        self,
        page_size: int,
        form: HashForm,
        *,
        bigram: bool = False,
        first_pages: int = FIRST_PAGES,
    ) -> None:
        self._page_size = page_size
        self._form = form
        self._bigram = bigram
        self._first_pages = first_pages
        self._needed = page_size + bigram
        """Tokens that a first page's hash is made of."""
        self._notes_plain = form is not HashForm.DYNAMO
        """Another tenant may share a hash with the plain one."""
        self._seeds = lru_cache(SEEDS)(self._seeds_of)
        self._ranks: dict[ReplicaId, _FirstPages] = {}

    def placed(self, rank: ReplicaId, tokens: Sequence[int], tenant: Tenant) -> bool:
        """Note that a prompt of `tenant` goes to `rank`.

        True where events will tell its blocks from those of all other tenants
        placed there so far; also for a prompt shorter than a page, which has none.
        False where they cannot, or where the page cannot be hashed (a token id outside
        u32, a key without UTF-8).

        O(page size), 3 us for 64 tokens; O(1) for the plain tenant in the dynamo
        form, in which no other shares its hashes.
        """
        if not self._notes_plain and tenant == PLAIN:
            return True
        pages = self._pages_of(rank)
        try:
            seeds = self._seeds(tenant)
            if len(tokens) < self._needed:
                pages.had_short_prompt(tenant, seeds)
                return True
            found = _hash(words(tokens[: self._needed], self._bigram), seeds)
        except (struct.error, UnicodeEncodeError):
            return False
        namespace = tenant.namespace
        return pages.note(found, namespace) == namespace

    def translate(self, rank: ReplicaId, events: Sequence[CacheEvent]) -> Sequence[CacheEvent]:
        """The events of `rank`, with the namespace of its owner on each store at the
        start of a prompt. The same sequence where that changes none.

        O(events), and for a hash that was not noted O(page size + tenants with
        short prompts): at most 0.5 ms.
        """
        if not self._notes_plain and rank not in self._ranks:
            return events
        pages = self._pages_of(rank)
        changed: list[CacheEvent] | None = None
        for index, event in enumerate(events):
            if type(event) is Store and event.parent is None and event.hashes:
                owner = self._owner(pages, event)
                if owner != event.namespace:
                    changed = changed if changed is not None else list(events)
                    changed[index] = msgspec.structs.replace(event, namespace=owner)
        return events if changed is None else changed

    def _owner(self, pages: _FirstPages, event: Store) -> Namespace:
        found = event.hashes[0]
        owner = pages.owner(found)
        if owner is None:
            owner = self._recognised(pages, event)
            if owner or self._notes_plain:
                pages.note(found, owner)
        return owner

    def _recognised(self, pages: _FirstPages, event: Store) -> Namespace:
        tokens = list(event.tokens[: self._page_size])
        if self._bigram and event.lookahead:
            tokens += event.lookahead[0]
        if event.block_size != self._page_size or len(tokens) < self._needed:
            return ()
        try:
            page = words(tokens, self._bigram)
        except struct.error:
            return NOBODY
        if _hash(page, self._seeds(PLAIN)) == event.hashes[0]:
            return PLAIN.namespace
        for tenant, seeds in reversed(pages.short_prompts.items()):
            if _hash(page, seeds) == event.hashes[0]:
                return tenant.namespace
        return NOBODY

    def _seeds_of(self, tenant: Tenant) -> _Seeds:
        return salt_seed(tenant.salt), namespace_seed(
            self._form, tenant.extra_key, tenant.salt, tenant.lora_named
        )

    def _pages_of(self, rank: ReplicaId) -> _FirstPages:
        pages = self._ranks.get(rank)
        if pages is None:
            pages = self._ranks[rank] = _FirstPages(self._first_pages)
        return pages


def _hash(page: bytes, seeds: _Seeds) -> int:
    above, seed = seeds
    return page_hash(digest(above, page), seed)


class _FirstPages:
    """What is known of the first pages on one rank; all in order of last use."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._owners: OrderedDict[EngineHash, Namespace] = OrderedDict()
        self.short_prompts: OrderedDict[Tenant, _Seeds] = OrderedDict()

    def owner(self, found: EngineHash) -> Namespace | None:
        """Who owns a hash; None if nobody does yet. O(1)."""
        owner = self._owners.get(found)
        if owner is not None:
            self._owners.move_to_end(found)
        return owner

    def note(self, found: EngineHash, namespace: Namespace) -> Namespace:
        """Who owns a hash, after this namespace had it: itself if none did. O(1)."""
        owner = self._owners.setdefault(found, namespace)
        self._owners.move_to_end(found)
        if len(self._owners) > self._most:
            self._owners.popitem(last=False)
        return owner

    def had_short_prompt(self, tenant: Tenant, seeds: _Seeds) -> None:
        """A prompt of this tenant came whose first page its answer may fill. O(1)."""
        self.short_prompts[tenant] = seeds
        self.short_prompts.move_to_end(tenant)
        if len(self.short_prompts) > SHORT_PROMPT_TENANTS:
            self.short_prompts.popitem(last=False)
