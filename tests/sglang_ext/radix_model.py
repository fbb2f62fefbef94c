"""One rank of SGLang as its events show it: a prefix cache for each tenant."""

from __future__ import annotations

from collections.abc import Sequence

from preble_plugin.core.events import CacheEvent, Clear, Remove, Store
from preble_plugin.sglang_ext.page_hash import (
    HashForm,
    digest,
    namespace_seed,
    page_hash,
    salt_seed,
    words,
)
from preble_plugin.sglang_ext.tenants import Tenant

PAGE = 4


def prompt(*pages: int, rest: int = 0) -> list[int]:
    """A page of its own for each number, and `rest` tokens more."""
    return [page * 10 + offset for page in pages for offset in range(PAGE)] + [9] * rest


def hashes(
    form: HashForm,
    tenant: Tenant,
    tokens: Sequence[int],
    page_size: int = PAGE,
    bigram: bool = False,
) -> list[int]:
    """What events call the full pages of a prompt."""
    seed = namespace_seed(form, tenant.extra_key, tenant.salt, tenant.lora_named)
    above, found = salt_seed(tenant.salt), []
    for end in range(page_size, len(tokens) + 1 - bigram, page_size):
        above = digest(above, words(tokens[end - page_size : end + bigram], bigram))
        found.append(page_hash(above, seed))
    return found


def store(
    form: HashForm, tenant: Tenant, tokens: Sequence[int], first: int = 0, medium: str = "GPU"
) -> Store:
    """The event of storing a prompt's pages from page `first` on."""
    names = hashes(form, tenant, tokens)
    return Store(
        names[first:],
        names[first - 1] if first else None,
        list(tokens[first * PAGE : len(names) * PAGE]),
        PAGE,
        medium=medium,
    )


class RadixModel:
    """Which pages each tenant has cached, and the events that said so, in order."""

    def __init__(self, form: HashForm) -> None:
        self._form = form
        self.held: dict[Tenant, set[tuple[int, ...]]] = {}
        """For each tenant the prompts, to full pages, that are cached to their end."""
        self.events: list[CacheEvent] = []

    def serve(self, tenant: Tenant, tokens: Sequence[int]) -> None:
        """Cache a prompt (with its answer): what is missing of it is stored."""
        held = self.held.setdefault(tenant, set())
        pages = len(tokens) // PAGE
        cached = self.hit(tenant, tokens) // PAGE
        if cached < pages:
            self.events.append(store(self._form, tenant, tokens, cached))
        held |= {tuple(tokens[: page * PAGE]) for page in range(1, pages + 1)}

    def evict(self, pick: int) -> None:
        """Drop one of the last pages there are."""
        leaves = sorted(
            (tenant.namespace, path, tenant)
            for tenant, held in self.held.items()
            for path in held
            if not any(len(other) > len(path) and other[: len(path)] == path for other in held)
        )
        if leaves:
            _, path, tenant = leaves[pick % len(leaves)]
            self.held[tenant].remove(path)
            self.events.append(Remove([hashes(self._form, tenant, path)[-1]]))

    def clear(self) -> None:
        """Drop everything (AllBlocksCleared)."""
        self.held.clear()
        self.events.append(Clear())

    def hit(self, tenant: Tenant, tokens: Sequence[int]) -> int:
        """Tokens of a prompt that a tenant has cached."""
        held = self.held.get(tenant, set())
        pages = 0
        while tuple(tokens[: (pages + 1) * PAGE]) in held and (pages + 1) * PAGE <= len(tokens):
            pages += 1
        return pages * PAGE
