"""How often each run of blocks was used on a replica in the window H.

N_j of the paper's section 3.2: the requests that shared node j in H. Kept on the
node, by column, as the counts of the current and the last window; the sliding
count weighs the last one by the share of it that H still covers. One number per
node and replica, whatever the traffic: the window's epoch, and below it the two
counts of 20 bits each.
"""

from __future__ import annotations

from typing import Final, Protocol

_COUNT_BITS: Final = 20
_ONE: Final = 1 << _COUNT_BITS
_EPOCH_BITS: Final = 2 * _COUNT_BITS
_MOST: Final = _ONE - 1
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
    """What the first use of a node is counted as."""
    return int(now / window_seconds) << _EPOCH_BITS | _ONE


def count_use(node: Used, column: int, first: int) -> None:
    """A request placed on `column` shares `node`; `first` is what it counts as if it is
    the first. O(1)."""
    uses = node.uses
    if uses is None:
        node.uses = {column: first}
        return
    use = uses.get(column)
    age = 2 if use is None else (first >> _EPOCH_BITS) - (use >> _EPOCH_BITS)
    if use is None or age > 1 or age < 0:
        uses[column] = first
    elif age == 1:
        uses[column] = first | use >> _COUNT_BITS & _MOST
    elif use >> _COUNT_BITS & _MOST < _MOST:
        uses[column] = use + _ONE


def uses_in_window(node: Used, column: int, now: float, window_seconds: float) -> float:
    """Requests on `column` that shared `node` in the window. O(1)."""
    use = node.uses.get(column) if node.uses else None
    if use is None:
        return 0.0
    epoch = int(now / window_seconds)
    covered = 1.0 - (now / window_seconds - epoch)
    counted = use >> _COUNT_BITS & _MOST
    if use >> _EPOCH_BITS == epoch:
        return counted + (use & _MOST) * covered
    if use >> _EPOCH_BITS == epoch - 1:
        return counted * covered
    return 0.0


def later_use(one: int, other: int) -> int:
    """The later of two nodes' uses by a column; of one window, the larger. O(1)."""
    return max(one, other)
