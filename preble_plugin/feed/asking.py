"""When to ask a publisher for a replay, and what comes of it.

1. A replay begins at the last batch applied, whose digest must agree: so it is
   known to be of the same life, and its first new batch to follow.
2. A replay that brings nothing of what is missing, or never ends, was a try in
   vain; after some of these in a row what is missing is given up.
3. Its end is believed where a live batch vouches for it, or where it brought
   nothing new; otherwise its tail may have been dropped: it is asked for again.
4. A quiet stream is probed, the longer it is quiet the less often. One that does
   not answer probes is unreachable.
"""

from __future__ import annotations

import math

from preble_plugin.feed.actions import AskReplay, Patience
from preble_plugin.feed.life import Life


class Ask:
    """A replay under way, from a batch that must have the digest `anchor`."""

    __slots__ = (
        "anchor",
        "answered",
        "deadline",
        "from_seq",
        "highest",
        "last_before",
        "urgent",
        "verified",
    )

    def __init__(self, life: Life, urgent: bool, deadline: float) -> None:
        self.anchor = life.anchor()
        self.from_seq = life.last + (self.anchor is None)
        self.last_before = self.highest = life.last
        self.urgent = urgent
        """Something is missing, or nothing is known yet; else it is a probe."""
        self.deadline = deadline
        self.answered = False
        self.verified = False
        """It is of the life that was followed so far."""

    def known(self, seq: int, life: Life) -> bytes | None:
        """The digest that a batch must have, if that is known."""
        if seq == self.from_seq and self.anchor is not None:
            return self.anchor
        return life.anchor() if seq == life.last else None

    @property
    def nothing_new(self) -> bool:
        """Whether it brought no batch that was not applied before it began."""
        return self.highest == self.last_before


class Asking:
    """The replays of one stream, one at a time. All O(1), but for the digest of the
    last payload."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.ask: Ask | None = None
        self.tries = 0
        """Replays in a row that were in vain."""
        self.confirm: bool | None = None
        """Nothing vouches for the last replay's end: ask again, urgently or not."""
        self.unreachable = False
        self.lost_to_silence = False
        """What was given up got no answer: the publisher may have it still."""
        self.ever_ended = False
        self._probe_at = math.inf
        self._probe_wait = patience.probe_seconds

    @property
    def patient(self) -> bool:
        """Whether to ask once more for what is missing."""
        return self.tries < self._patience.tries

    def anew(self) -> None:
        """The publisher, or what is known of it, begins anew."""
        self.ask, self.confirm, self.tries = None, None, 0
        self.unreachable = self.lost_to_silence = False

    def begin(self, life: Life, now: float, urgent: bool) -> AskReplay:
        """Ask for what follows `life.last`."""
        self.confirm = None
        self.ask = Ask(life, urgent, now + self._patience.replay_seconds)
        return AskReplay(self.ask.from_seq)

    def answered(self, now: float) -> bool:
        """The replay brought a batch; True if it was the first."""
        assert self.ask is not None
        self.reached()
        self.ask.deadline = now + self._patience.pause_seconds
        first, self.ask.answered = not self.ask.answered, True
        return first

    def reached(self) -> bool:
        """The publisher spoke; True if it had been unreachable."""
        was_unreachable, self.unreachable = self.unreachable, False
        if was_unreachable:
            self.tries = 0
        return was_unreachable

    def end(self, now: float) -> Ask | None:
        """The replay ended; None if there was none."""
        ask, self.ask = self.ask, None
        if ask is not None:
            self.reached()
            self.ever_ended = True
            self.probe_later(now, self._probe_wait * 2 if ask.nothing_new else 0.0)
        return ask

    def weigh(self, ask: Ask, life: Life) -> None:
        """What a replay's end means for `life`."""
        in_vain = life.missing and life.last == ask.last_before
        self.tries = self.tries + 1 if in_vain else 0
        if ask.nothing_new and ask.verified and not self.patient:
            # The publisher knows our last batch and none after it.
            life.end_at_last()
            self.tries = 0
        vouched = ask.nothing_new or life.highest_live >= ask.highest
        self.confirm = None if vouched else ask.urgent

    def fail(self, life: Life, now: float) -> None:
        """The replay did not end in time: its end may have been dropped, too."""
        ask, self.ask = self.ask, None
        if ask is not None and life.last > ask.last_before:
            self.tries, self.confirm = 0, ask.urgent
        else:
            self.tries += 1
        if not self.patient:
            self.unreachable = True
            self.lost_to_silence |= life.missing
        self.probe_later(now, self._probe_wait * 2 if self.unreachable else 0.0)

    def probe_later(self, now: float, wait: float = 0.0) -> None:
        """Ask after so many seconds of quiet, within the bounds of patience."""
        patience = self._patience
        self._probe_wait = min(max(wait, patience.probe_seconds), patience.longest_probe_seconds)
        self._probe_at = now + self._probe_wait

    def due(self, now: float) -> bool:
        """Whether it is time for a probe."""
        return self.ask is None and now >= self._probe_at
