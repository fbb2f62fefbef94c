"""Round robin: every replica in turn, whatever it holds or does."""

from __future__ import annotations

from preble_plugin.core.policies.protocol import Choice, View


class RoundRobin:
    """Takes the slots in order and starts over; the baseline of PREBLE 1. O(replicas)."""

    name = "round-robin"

    def __init__(self) -> None:
        self._last = -1

    def choose(self, view: View) -> Choice:
        """The replica of the next slot that there is."""
        position = next(
            (
                position
                for position, candidate in enumerate(view.candidates)
                if candidate.index > self._last
            ),
            0,
        )
        self._last = view.candidates[position].index
        return Choice(position, self.name)
