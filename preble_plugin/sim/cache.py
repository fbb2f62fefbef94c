"""One replica's prefix cache: blocks, LRU, and what is held by requests that run.

1. A block is *private* while it is being filled, and *named* once it is full: other
   requests find it by its name then. Requests hold blocks; what nobody holds stays
   until its place is needed.
2. Room is taken from the blocks that nobody holds, the least recently released
   first. A request releases its blocks from the last to the first, so that of a
   prompt the end goes before the beginning (as in vLLM's block pool).
3. What enters and leaves is kept as the engine's own events, in order.

A block that two requests fill at the same time is kept once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from preble_plugin.core.events import CacheEvent, Remove, Store


class BlockCache:
    """`capacity` blocks of `block_size` tokens. Methods are O(blocks given)."""

    def __init__(self, capacity: int, block_size: int) -> None:
        if capacity < 1:
            raise ValueError(f"a cache needs at least 1 block, got {capacity}")
        self.capacity = capacity
        self.block_size = block_size
        self.events: list[CacheEvent] = []
        """What entered and left, until somebody takes it."""
        self._held: dict[int, int] = {}
        """Named blocks: how many requests hold each."""
        self._idle: OrderedDict[int, None] = OrderedDict()
        """Those that nobody holds, the next to go first."""
        self._private = 0

    @property
    def free(self) -> int:
        """Blocks that nobody holds, or that are empty."""
        return self.capacity - self._private - len(self._held) + len(self._idle)

    def find(self, names: Sequence[int], limit: int) -> int:
        """How many of the first `limit` blocks of `names` are here, up to the first that
        is not. O(log limit): where a block is, those before it are, too (2)."""
        held = self._held
        least, most = 0, min(limit, len(names))
        while least < most:
            middle = (least + most) // 2
            if names[middle] in held:
                least = middle + 1
            else:
                most = middle
        return least

    def hold(self, names: Sequence[int]) -> None:
        """A request uses these, which are here."""
        held, idle = self._held, self._idle
        for name in names:
            count = held[name]
            if not count:
                del idle[name]
            held[name] = count + 1

    def reserve(self, blocks: int) -> bool:
        """Take room for `blocks` private ones; False, and nothing, where there is none."""
        if blocks > self.free:
            return False
        self._private += blocks
        over = self._private + len(self._held) - self.capacity
        if over > 0:
            gone = []
            for _ in range(over):
                name, _ = self._idle.popitem(last=False)
                del self._held[name]
                gone.append(name)
            self.events.append(Remove(gone))
        return True

    def name(self, names: Sequence[int], first: int, last: int, tokens: Sequence[int]) -> None:
        """The private blocks `first` to `last` (exclusive) of a prompt are full; the
        request holds them by name now. `names` and `tokens` are those of the prompt."""
        held, start = self._held, first
        self._private -= last - first
        for place in range(first, last):
            name = names[place]
            count = held.get(name)
            if count is None:
                held[name] = 1
                continue
            self._stored(names, start, place, tokens)
            start = place + 1
            if not count:
                del self._idle[name]
            held[name] = count + 1
        self._stored(names, start, last, tokens)

    def _stored(self, names: Sequence[int], first: int, last: int, tokens: Sequence[int]) -> None:
        if first < last:
            size = self.block_size
            parent = names[first - 1] if first else None
            text = tokens[first * size : last * size]
            self.events.append(Store(names[first:last], parent, text, size))

    def release(self, names: Sequence[int], private: int) -> None:
        """A request lets go of these, in the order of its prompt, and of private ones."""
        self._private -= private
        held, idle = self._held, self._idle
        for name in reversed(names):
            count = held[name] - 1
            held[name] = count
            if not count:
                idle[name] = None


class SharedPool:
    """What any replica computed, for all of them: the last `capacity` blocks that were
    used, or all for ever (None)."""

    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._known: OrderedDict[int, None] = OrderedDict()
        """The next to go first."""

    def find(self, names: Sequence[int], limit: int) -> int:
        """As for a cache of one's own."""
        known, found = self._known, 0
        for name in names[:limit]:
            if name not in known:
                break
            found += 1
        return found

    def use(self, names: Sequence[int]) -> None:
        """These are here, and were used: of a prompt, the end goes before the beginning."""
        known = self._known
        if self._capacity is None:
            known.update(dict.fromkeys(names))
            return
        for name in reversed(names):
            known[name] = None
            known.move_to_end(name)
        while len(known) > self._capacity:
            known.popitem(last=False)


class SharedCache(BlockCache):
    """What better placement could bring at most: what any replica computed is here, as
    long as `pool` keeps it, and only what requests hold takes room."""

    def __init__(self, capacity: int, block_size: int, pool: SharedPool) -> None:
        super().__init__(capacity, block_size)
        self._pool = pool
        self._in_use = 0

    @property
    def free(self) -> int:
        """Blocks that no request of this replica holds."""
        return self.capacity - self._in_use

    def find(self, names: Sequence[int], limit: int) -> int:
        """As for a cache of its own, among all."""
        return self._pool.find(names, limit)

    def hold(self, names: Sequence[int]) -> None:
        """Room is taken for each request apart."""
        self._pool.use(names)
        self._in_use += len(names)

    def reserve(self, blocks: int) -> bool:
        """Nothing is evicted."""
        if blocks > self.free:
            return False
        self._in_use += blocks
        return True

    def name(self, names: Sequence[int], first: int, last: int, tokens: Sequence[int]) -> None:
        """All replicas have them from now on."""
        self._pool.use(names[first:last])

    def release(self, names: Sequence[int], private: int) -> None:
        """Only room is given back."""
        self._pool.use(names)
        self._in_use -= len(names) + private
