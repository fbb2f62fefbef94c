"""Schedulers, stores and requests in one line each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from preble_plugin.core import (
    Finished,
    FirstToken,
    LoadReport,
    Placement,
    ReplicaId,
    Request,
    Scheduler,
    Store,
    Trust,
    namespace,
)
from preble_plugin.core.policies.protocol import Choice, Policy, View
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.view import PlacementView

BLOCK = 16


def scheduler(replicas: int = 2, *, capacity: int | None = None, **settings: object) -> Scheduler:
    """Replicas 0, 1, ... with exact streams and empty caches."""
    made = Scheduler(BLOCK, seed=b"seed" * 4, **settings)  # type: ignore[arg-type]
    for replica in range(replicas):
        made.add_replica(replica, capacity_blocks=capacity)
        made.set_trust(replica, Trust.EXACT)
    return made


def prompt(name: int, blocks: int, extra: int = 0) -> list[int]:
    """A prompt of its own for each name: `blocks` full blocks and `extra` tokens."""
    return [(name * 7919 + i * 104729) % 120_000 for i in range(blocks * BLOCK + extra)]


def hashes(tokens: Sequence[int], salt: str = "") -> list[int]:
    """Engine hashes of a prompt's full blocks, chained as engines chain them."""
    found: list[int] = []
    above = hash(salt)
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        above = hash((above, tuple(tokens[end - BLOCK : end])))
        found.append(above)
    return found


def store(tokens: Sequence[int], first: int = 0, salt: str = "", **fields: object) -> Store:
    """The event of storing a prompt's blocks from block `first` on."""
    names = hashes(tokens, salt)
    whole = len(names) * BLOCK
    settings: dict[str, object] = {"namespace": namespace(salt=salt or None)} | fields
    return Store(
        names[first:],
        names[first - 1] if first else None,
        list(tokens[first * BLOCK : whole]),
        BLOCK,
        **settings,  # type: ignore[arg-type]
    )


def request(
    made: Scheduler, request_id: str, tokens: Sequence[int], salt: str = "", **fields: object
) -> Request:
    keys = made.hasher.prompt_keys(tokens, namespace(salt=salt or None))
    return Request(request_id, keys, len(tokens), **fields)  # type: ignore[arg-type]


def place(
    made: Scheduler, request_id: str, tokens: Sequence[int], now: float = 0.0, **fields: object
) -> Placement:
    return made.place(request(made, request_id, tokens, **fields), now)  # type: ignore[arg-type]


def serve(
    made: Scheduler, request_id: str, tokens: Sequence[int], now: float, seconds: float = 0.1
) -> Placement:
    """Place a request, let its replica store it, and finish it."""
    placed = place(made, request_id, tokens, now)
    blocks = placed.cached_tokens // BLOCK
    if len(tokens) // BLOCK > blocks:
        made.apply(placed.replica, [store(tokens, blocks)], now)
    made.observe(placed.replica, [FirstToken(request_id, placed.cached_tokens)], now + seconds / 2)
    made.observe(placed.replica, [Finished(request_id, 4)], now + seconds)
    return placed


# -- replicas in a wanted state ----------------------------------------------------------

_number = count()


def hold(made: Scheduler, replica: ReplicaId, tokens: Sequence[int], now: float = 0.0) -> None:
    """The replica's cache holds a prompt."""
    made.apply(replica, [store(tokens)], now)


def wait(made: Scheduler, replica: ReplicaId, tokens: int = 16, now: float = 0.0) -> str:
    """A request of `tokens` that nothing is cached of waits on the replica; its id."""
    number = next(_number)
    name = f"waits {number}"
    place(made, name, prompt(30_000 + number, 0, tokens), now, fixed_replica=replica)
    made.settle()
    return name


def wait_seconds(made: Scheduler, replica: ReplicaId, seconds: float, now: float = 0.0) -> str:
    """A request waits there whose prefill takes so long, as a new fleet predicts it."""
    prefill = TimeModel().prefill_seconds
    return wait(made, replica, bisect_left(range(1 << 18), seconds, key=lambda n: prefill(n, n)))


def decode(
    made: Scheduler, replica: ReplicaId, requests: int = 1, tokens: int = 16, now: float = 0.0
) -> list[str]:
    """Requests of `tokens` each decode on the replica, and have taught no speed; their ids."""
    names = [wait(made, replica, tokens, now) for _ in range(requests)]
    made.observe(replica, [FirstToken(name, None, timed=False) for name in names], now)
    return names


def use(made: Scheduler, replica: ReplicaId, tokens: Sequence[int], now: float = 0.0) -> None:
    """A request with this prompt ran on the replica, taught no speed, and left no expectation."""
    name = f"used {next(_number)}"
    place(made, name, tokens, now, fixed_replica=replica)
    made.observe(replica, [Finished(name, 0, aborted=True)], now)


def slow(made: Scheduler, replica: ReplicaId, factor: float) -> None:
    """Reports teach that the replica prefills `factor` times as long as a new fleet
    predicts."""
    prefill = TimeModel().prefill_seconds
    tokens, seconds = 0, 0.0
    made.report(replica, LoadReport(1e-6, 0, 1), 0.0)
    for number in range(64):
        new = 256 << number % 5
        name = wait(made, replica, new)
        made.observe(replica, [FirstToken(name, 0), Finished(name, 0, aborted=True)], 0.0)
        tokens, seconds = tokens + new, seconds + factor * prefill(new, new)
        made.report(replica, LoadReport(1e-6 * (number + 2), 0, 1, tokens, seconds), 0.0)


class Watched:
    """Asks a policy, and keeps what the view showed it of each replica."""

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self._policy = policy

    def choose(self, view: View) -> Choice:
        self.seen = [
            Seen(
                one.replica,
                one.hit_tokens,
                one.miss_tokens,
                one.load_seconds,
                one.prefill_seconds,
                one.eviction_seconds,
                one.evicted_blocks,
                one.waiting + one.running,
            )
            for one in view.candidates
        ]
        self.share = view.hit_share
        return self._policy.choose(view)


class Seen(NamedTuple):
    """One replica for one request, in numbers."""

    replica: ReplicaId
    hit: int
    miss: int
    load: float
    prefill: float
    eviction: float
    evicted: int
    in_flight: int


def chosen(
    made: Scheduler, tokens: Sequence[int], now: float = 0.0, **fields: object
) -> tuple[ReplicaId, str]:
    """Where a request with this prompt is placed, and by which rule; it is not run."""
    name = f"asked {next(_number)}"
    placed = place(made, name, tokens, now, **fields)
    made.observe(placed.replica, [Finished(name, 0, aborted=True)], now)
    return placed.replica, placed.branch


def view(
    made: Scheduler, tokens: Sequence[int], now: float = 0.0, **fields: object
) -> PlacementView:
    """What a policy is shown of a request with this prompt, which is not placed."""
    asked = request(made, f"shown {next(_number)}", tokens, **fields)  # type: ignore[arg-type]
    return made._view(asked, now)
