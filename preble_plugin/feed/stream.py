"""One publisher's stream of batches, without a socket: messages in, actions out.

1. Batches are numbered from 0 in each life of a publisher. They are applied in
   order, each once; what comes again is dropped.
2. A number that jumps shows a gap. The publisher is asked to replay, and later
   batches are held until their turn; where there is no room they are dropped
   and asked for again.
3. A replay may have holes, as the publisher drops silently what does not fit
   its send queue. So it is asked for again from the first hole, as long as that
   brings anything, and once more where no live batch vouches for its end.
4. What no replay brings is lost: residency is forgotten, and the picture is
   incomplete until the cache is known to be empty or has turned over.
5. Every replay begins at the last batch applied, whose digest must agree. If it
   does not, the publisher began anew with an empty cache, and so does the
   stream. A number or a time that runs backwards raises the doubt.
6. A quiet stream is probed now and then: the last batch may be what was lost.

        spoke | in doubt | complete | trust
        no    |          |          | SILENT
        yes   | yes      |          | GAPPED
        yes   | no       | yes      | EXACT
        yes   | no       | no       | REBUILDING

`now` is in seconds on one monotonic clock. Each call costs at most the decoding
of one batch, and looks at all batches held only where something was lost.
Follows vLLM 0.31 to 0.33, distributed/kv_events.py (`ZmqEventPublisher`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from preble_plugin.core.status import Trust
from preble_plugin.feed.actions import (
    Action,
    Apply,
    Patience,
    Position,
    Reset,
    StreamStatus,
    TrustChanged,
)
from preble_plugin.feed.asking import Ask, Asking
from preble_plugin.feed.life import Life, digest
from preble_plugin.feed.tally import Tally
from preble_plugin.feed.wire import decode
from preble_plugin.feed.wire_form import Garbled, timestamp

_TRUST: Final = {
    # (in doubt, complete), once the publisher spoke
    (True, True): Trust.GAPPED,
    (True, False): Trust.GAPPED,
    (False, True): Trust.EXACT,
    (False, False): Trust.REBUILDING,
}


class Stream:
    """The stream of one replica. Call `start` or `resume` first, then tell it
    whatever happens; do the actions that each call returns, in order.

    `replayable` says whether there is a replay endpoint; `capacity_blocks` is
    the size of the replica's cache, where known.
    """

    def __init__(
        self,
        *,
        replayable: bool = True,
        capacity_blocks: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.trust = Trust.SILENT
        self._patience = patience or Patience()
        self._replayable = replayable
        self._capacity_blocks = capacity_blocks
        self._actions: list[Action] = []
        self._tally = Tally()
        self._asking = Asking(self._patience)
        self._spoke = False
        self._begin()

    def _begin(self) -> None:
        self._life = Life(self._patience, self._capacity_blocks)
        self._asking.anew()
        self._unsure = self._replayable
        """Neither has a replay ended yet nor was batch 0 seen live."""
        self._doubted = False
        """It has to be verified that the publisher is still the same."""

    # -- what happens --------------------------------------------------------------

    def start(self, now: float) -> Sequence[Action]:
        """Begin with nothing known: all that was published is asked for at once."""
        return self._done(now)

    def resume(self, position: Position, now: float) -> Sequence[Action]:
        """Begin where a snapshot was taken, its residency restored already. If the
        stream does not connect to it, `Reset` follows."""
        if self._replayable:
            self._life.resume(position)
            self._unsure, self._doubted = False, True
        else:
            self._actions.append(Reset())
        return self._done(now)

    def live(self, seq: int, payload: bytes, now: float, wall: float) -> Sequence[Action]:
        """A published batch arrived; `wall` is the time since the epoch, for the lag."""
        if self._life.succeeds_held(seq, payload):
            self._restart()
        life = self._life
        self._spoke = True
        self._tally.lag_seconds = max(0.0, wall - (timestamp(payload) or wall))
        backwards = life.runs_backwards(seq, payload)
        if self._asking.reached() and self._asking.ever_ended:
            # It answered once, then no more: is it still the same?
            self._doubted = True
        self._asking.probe_later(now)
        if self._replayable and (backwards or self._doubted):
            self._doubt()
            if seq > life.last and not backwards:
                life.hold_live(seq, payload)
        elif seq > life.last:
            self._take_live(seq, payload)
        elif backwards:
            self._restart()
            self._take_live(seq, payload)
        else:
            self._tally.duplicates += 1
        return self._done(now)

    def replayed(self, seq: int, payload: bytes, now: float) -> Sequence[Action]:
        """A batch of the replay under way arrived."""
        ask, life = self._asking.ask, self._life
        if ask is None:
            return ()
        self._spoke = True
        first = self._asking.answered(now)
        if (known := ask.known(seq, life)) is not None:
            self._verify(ask, payload, known)
        elif seq > life.last:
            ask.highest = max(ask.highest, seq)
            life.note(seq)
            if seq == ask.from_seq and not self._doubted:
                ask.verified = True
            elif first:
                # The publisher's buffer begins only here.
                self._lose(seq)
                ask.verified = True
            if ask.verified:
                self._take_replayed(seq, payload)
        return self._done(now)

    def replay_end(self, now: float) -> Sequence[Action]:
        """The publisher says that its replay is over."""
        ask = self._asking.end(now)
        if ask is None:
            return ()
        self._spoke, self._unsure = True, False
        if self._doubted or (ask.anchor is not None and not ask.answered):
            # It does not know the batch that was our last.
            self._restart()
        elif self._asking.lost_to_silence and not self._life.complete:
            self._begin()
            self._actions.append(Reset())
        else:
            self._asking.weigh(ask, self._life)
        return self._done(now)

    def replay_failed(self, now: float) -> Sequence[Action]:
        """The replay under way will bring no more, and did not end."""
        if self._asking.ask is None:
            return ()
        self._asking.fail(self._life, now)
        return self._done(now)

    def tick(self, now: float) -> Sequence[Action]:
        """Time went by."""
        ask = self._asking.ask
        if ask is not None:
            return self.replay_failed(now) if now >= ask.deadline else ()
        if self._replayable and self._asking.due(now) and not self.ready:
            self._ask(now, urgent=self._unsure or self._doubted)
        return self._done(now)

    @property
    def ready(self) -> bool:
        """Whether a held batch's turn has come: call `drain` before anything else."""
        return self._life.ready and not self._doubted

    def drain(self, now: float) -> Sequence[Action]:
        """Apply the next held batch."""
        life = self._life
        seq = life.last + 1
        payload = life.held.take(seq) if self.ready else None
        # A late batch of an earlier life is left out; what is missing then is asked for.
        if payload is not None and not (self._replayable and life.runs_backwards(seq, payload)):
            self._apply(seq, payload)
        return self._done(now)

    def forget(self, now: float) -> Sequence[Action]:
        """What was applied did not reach residency: it has to be rebuilt."""
        self._lose(self._life.last + 1)
        return self._done(now)

    # -- what is to be seen ----------------------------------------------------------

    @property
    def asking(self) -> bool:
        """Whether a replay is under way."""
        return self._asking.ask is not None

    def position(self) -> Position | None:
        """Where residency stands now, to keep with a snapshot; None before the first
        batch and where it may be of an earlier life. O(bytes of the last payload)."""
        return None if self._doubted else self._life.position()

    def note_error(self, cause: str) -> None:
        """Count a message that could not be read at all."""
        self._tally.skip({cause: 1})

    def status(self) -> StreamStatus:
        """The numbers."""
        return self._tally.status(self.trust, self._life.last)

    # -- steps -------------------------------------------------------------------------

    def _take_live(self, seq: int, payload: bytes) -> None:
        """A live batch that is new: apply it if it is its turn, else hold it."""
        life = self._life
        life.highest_live = max(life.highest_live, seq)
        if life.last == -1 and seq == 0:
            self._unsure = False
            if self._asking.ask is not None:
                self._asking.ask.urgent = False
        if seq == life.last + 1 and self._apply(seq, payload):
            return
        # A garbled one is not held: it has to come again.
        fresh = life.hold_live(seq, payload) if seq > life.last + 1 else life.note(seq)
        if fresh and not self._unsure:
            self._tally.gaps += 1
            self._asking.tries = 0

    def _take_replayed(self, seq: int, payload: bytes) -> None:
        """A replayed batch that is new: apply it if it is its turn, else hold it."""
        life = self._life
        if seq > life.last + 1:
            life.held.hold(seq, payload)
        elif not self._apply(seq, payload):
            # Garbled at its source: it cannot be had.
            self._lose(seq)
            life.advance(seq, payload)

    def _apply(self, seq: int, payload: bytes) -> bool:
        """Apply the next batch; False where it is garbled, and `last` stays."""
        batch = decode(payload)
        if isinstance(batch, Garbled):
            self.note_error(batch.cause)
            return False
        self._tally.skip(batch.skipped)
        self._tally.batches += 1
        self._life.advance(seq, payload)
        self._life.grow(batch.events)
        if batch.events:
            self._actions.append(Apply(batch.events))
        return True

    def _verify(self, ask: Ask, payload: bytes, known: bytes) -> None:
        """The replay has a batch that was applied: is it the same?"""
        if digest(payload) != known:
            self._restart()
            return
        ask.verified = True
        if self._doubted:
            self._doubted = False
            self._life.confirmed(payload)

    def _lose(self, until: int) -> None:
        self._tally.losses += 1
        self._asking.tries = 0
        self._asking.unreachable = self._unsure = self._doubted = False
        self._life.lose(until)
        self._actions.append(Reset())

    def _restart(self) -> None:
        self._tally.restarts += 1
        self._begin()
        self._actions.append(Reset())

    def _doubt(self) -> None:
        if not self._doubted:
            self._doubted, self._asking.ask, self._asking.tries = True, None, 0

    def _ask(self, now: float, urgent: bool) -> None:
        self._tally.replays += 1
        self._actions.append(self._asking.begin(self._life, now, urgent))

    def _decide(self, now: float) -> None:
        """What to do where no replay is under way and no held batch has its turn."""
        life, asking = self._life, self._asking
        if self._doubted and not asking.patient and self._spoke:
            self._restart()
            life = self._life
        if life.missing and not self._doubted and not (asking.patient and self._replayable):
            lowest = life.held.lowest()
            self._lose(life.highest + 1 if lowest is None else lowest)
        elif asking.patient and (self._doubted or self._unsure or life.missing):
            self._ask(now, urgent=True)
        elif asking.patient and asking.confirm is not None:
            self._ask(now, urgent=asking.confirm)

    def _done(self, now: float) -> Sequence[Action]:
        ask = self._asking.ask
        if ask is None and not self.ready:
            self._decide(now)
            ask = self._asking.ask
        asks = self._asking.unreachable or (ask is not None and ask.urgent)
        doubt = asks or self._doubted or self._unsure or self._life.missing
        trust = _TRUST[doubt, self._life.complete] if self._spoke else Trust.SILENT
        if trust is not self.trust:
            self.trust = trust
            self._actions.append(TrustChanged(trust))
        actions, self._actions = self._actions, []
        return actions
