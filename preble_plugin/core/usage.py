"""How often each run of blocks was used on a replica in the window H.

N_j of the paper's section 3.2: the requests that shared node j in H.

1. Time is cut into epochs of one window each. A counter keeps the uses of its last
   epoch and of the one before; the sliding count weighs the earlier ones by the share
   of that epoch that H still covers.
2. A counter is one integer per node and column: the epoch modulo 2^22, the uses in that
   epoch (20 bits), and those in the one before (20 bits). It fits 62 bits whatever the
   clock says, so the compiled loops read it as an int64.
3. Only differences between epochs matter, modulo 2^22. A counter that was not written
   for exactly a multiple of 2^22 windows looks recent for one of them: every 48 days with
   windows of 1 s, every 24 years with 180 s.
"""

from __future__ import annotations

from typing import Final, Protocol

_COUNT_BITS: Final = 20
_ONE: Final = 1 << _COUNT_BITS
_EPOCH_BITS: Final = 2 * _COUNT_BITS
_MOST: Final = _ONE - 1
_EPOCHS: Final = 1 << 22
_COUNTER_BITS: Final = 62
_ALL: Final = 0


class Used(Protocol):
    """What keeps its uses: a node of the tree, or `Placements`."""

    uses: dict[int, int] | None


class Placements:
    """Placements on all replicas in the window, kept in the same way."""

    __slots__ = ("_window_seconds", "uses")

    def __init__(self, window_seconds: float) -> None:
        self.uses: dict[int, int] | None = None
        self._window_seconds = window_seconds

    def share(self, node: Used, now: float) -> float:
        """The share of those that used `node`, 0 to 1; 0 of one alone, which says
        nothing. O(columns that used it)."""
        window = self._window_seconds
        used = sum(uses_in_window(node, column, now, window) for column in node.uses or ())
        if used <= 1.0:
            return 0.0
        return min(used / max(uses_in_window(self, _ALL, now, window), used), 1.0)

    def count(self, first: int) -> None:
        """One more; `first` as in `count_use`. O(1)."""
        count_use(self, _ALL, first)


def first_use(now: float, window_seconds: float) -> int:
    """The counter after a single use at `now` (seconds): below 2^62."""
    return int(now // window_seconds) % _EPOCHS << _EPOCH_BITS | _ONE


def count_use(node: Used, column: int, first: int) -> None:
    """A request placed on `column` shares `node`; `first` is the counter of its first
    use (`first_use`). A use in another epoch than the counter's or the next starts it
    anew. O(1)."""
    uses = node.uses
    if uses is None:
        node.uses = {column: first}
        return
    use = uses.get(column)
    if use is None:
        uses[column] = first
        return
    age = ((first >> _EPOCH_BITS) - (use >> _EPOCH_BITS)) % _EPOCHS
    if age > 1:
        uses[column] = first
    elif age == 1:
        uses[column] = first | use >> _COUNT_BITS & _MOST
    elif use >> _COUNT_BITS & _MOST < _MOST:
        uses[column] = use + _ONE


def later_use(use: int, other: int) -> int:
    """The later of two counters; of the same epoch, that with more uses. Right where they
    are less than 2^21 windows apart. O(1)."""
    return use if (use - other) % (1 << _COUNTER_BITS) < 1 << _COUNTER_BITS - 1 else other


def uses_in_window(node: Used, column: int, now: float, window_seconds: float) -> float:
    """Requests on `column` that shared `node` in the window before `now`. O(1)."""
    use = node.uses.get(column) if node.uses else None
    if use is None:
        return 0.0
    epoch, into = divmod(now, window_seconds)
    covered = 1.0 - into / window_seconds
    counted = use >> _COUNT_BITS & _MOST
    age = (int(epoch) - (use >> _EPOCH_BITS)) % _EPOCHS
    if age == 0:
        return counted + (use & _MOST) * covered
    return counted * covered if age == 1 else 0.0
