"""Random lives of a scheduler, by its public API, compiled and in Python side by side.

    python tests/core/fuzz.py [--seconds 60] [--first SEED]

A life is a few hundred calls with events as engines send them (hashes chained by content,
groups of a fixed kind, media, several hashes for equal tokens) and some that none should
send. After each few calls the answers must be equal, tree and residency sound, and at
the end everything given back. Prints the seeds of lives that were not, and then exits
with 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from compiled import IMPLEMENTATIONS

from preble_plugin.core import (
    Attention,
    CacheEvent,
    Clear,
    Finished,
    FirstToken,
    LoadReport,
    NoReplicaError,
    Outcome,
    Remove,
    Request,
    Scheduler,
    Store,
    Trust,
)
from preble_plugin.core.policies.registry import BUILT_IN
from preble_plugin.core.tree_check import check_layers, check_merged, check_residency, check_tree

STEPS: Final = 300
REPLICAS: Final = (0, 1, "x", "y/1")
GROUPS: Final = (Attention.FULL, Attention.SLIDING_WINDOW, Attention.MAMBA, Attention.FULL)
NAMESPACES: Final = ((), (), (), ("salt", "a"))
HANG_SECONDS: Final = 60


class Life:
    """One life, which is the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.choose = choose = random.Random(seed)
        self.block = choose.choice([1, 1, 2, 4])
        self.now = choose.choice([0.0, 1000.0, 3e8, 1.7e9])
        settings: dict[str, Any] = {
            "policy": choose.choice([*BUILT_IN, *["e2"] * 8]),
            "window_seconds": choose.choice([1.0, 5.0, 180.0]),
            "receipts": choose.choice([0, 5]),
            "max_tree_blocks": choose.choice([8_000_000, 8_000_000, 40, 100]),
        }
        self.capacity = choose.choice([None, None, 20, 60])
        self.schedulers = [
            Scheduler(self.block, seed=b"s" * 16, **settings) for _ in IMPLEMENTATIONS
        ]
        self.bases = [self.tokens(choose.randrange(30)) for _ in range(4)]
        self.requests: list[str] = []
        self.hashes: list[int] = []
        self.steps: list[Callable[[], None]] = [
            step
            for step, weight in (
                (self.add, 5),
                (self.remove_replica, 1),
                (self.trust, 4),
                (self.place, 25),
                (self.dispatched, 6),
                (self.observe, 20),
                (self.apply, 33),
                (self.clear_residency, 1),
                (self.restart, 2),
                (self.report, 3),
            )
            for _ in range(weight)
        ]

    def run(self) -> None:
        """Live it. Raises AssertionError where the two differ or one is not sound."""
        for number in range(STEPS):
            if self.choose.random() < 0.02:
                self.now += 6.0
            self.now += self.choose.choice([0.0, 0.01, 0.3, 1.5, -0.5])
            self.choose.choice(self.steps)()
            if number % 5 == 0:
                self.check()
        self.end()

    def both(self, call: Callable[[Scheduler], Any]) -> Any:
        """What a call gives, or how it is refused, which must be the same by each."""
        found: list[tuple[str, Any]] = []
        for implementation, scheduler in zip(
            IMPLEMENTATIONS.values(), self.schedulers, strict=True
        ):
            implementation.use()
            try:
                found.append(("gives", call(scheduler)))
            except (NoReplicaError, ValueError) as error:
                found.append((type(error).__name__, str(error)))
        assert found.count(found[0]) == len(found), f"implementations differ: {found}"
        return found[0][1]

    def check(self) -> None:
        self.both(lambda scheduler: scheduler.status(self.now))
        for scheduler in self.schedulers:
            check_tree(scheduler._tree)
            check_layers(scheduler._tree, scheduler._pool.layers.values())
            for replica in scheduler._replicas.values():
                check_residency(scheduler._tree, replica.residency)

    def end(self) -> None:
        """All requests end, then all replicas leave: nothing may be left."""
        self.now += 100.0
        ends = [Finished(name, 0, aborted=True) for name in self.requests]
        for replica in REPLICAS:
            self.both(partial(Scheduler.observe, replica=replica, outcomes=ends, now=self.now))
            # What was kept for want of events ends where they can be trusted.
            self.both(partial(Scheduler.clear_residency, replica=replica))
            self.both(partial(Scheduler.apply, replica=replica, events=[Clear()], now=self.now))
        self.check()
        for scheduler in self.schedulers:
            check_merged(scheduler._tree)
        for replica in REPLICAS:
            self.both(partial(Scheduler.remove_replica, replica=replica))
        for scheduler in self.schedulers:
            status = scheduler.status(self.now)
            left = status.tree_nodes, status.tree_blocks, status.in_flight
            assert left == (0, 0, 0), f"left behind: {left}"
            assert not scheduler._awaited.by_request, "expectations left behind"

    # -- one call each ---------------------------------------------------------------

    def tokens(self, count: int) -> list[int]:
        return [self.choose.randrange(2) for _ in range(count)]

    def prompt(self) -> list[int]:
        base = self.choose.choice(self.bases)
        return base[: self.choose.randrange(len(base) + 1)] + self.tokens(self.choose.randrange(6))

    def name(self, again: float) -> str:
        if self.requests and self.choose.random() < again:
            return self.choose.choice(self.requests)
        self.requests.append(f"r{len(self.requests)}")
        return self.requests[-1]

    def add(self) -> None:
        replica, choose = self.choose.choice(REPLICAS), self.choose
        facts = {
            "capacity_blocks": choose.choice([self.capacity, None, 0, 5]),
            "drop_blocks": choose.choice([0, 0, 0, 1]),
            "max_running": choose.choice([None, 1, 4]),
        }
        self.both(lambda scheduler: scheduler.add_replica(replica, **facts))

    def remove_replica(self) -> None:
        replica = self.choose.choice(REPLICAS)
        self.both(lambda scheduler: scheduler.remove_replica(replica))

    def trust(self) -> None:
        replica, trust = self.choose.choice(REPLICAS), self.choose.choice(list(Trust))
        self.both(lambda scheduler: scheduler.set_trust(replica, trust))

    def place(self) -> None:
        tokens, choose, name = self.prompt(), self.choose, self.name(0.1)
        namespace = choose.choice(NAMESPACES)
        facts: dict[str, Any] = {
            "fixed_replica": choose.choice([None] * 6 + list(REPLICAS)),
            "reads_cache": choose.random() < 0.95,
            "max_output_tokens": choose.choice([None, 3]),
        }
        now = self.now if choose.random() < 0.99 else choose.choice([math.nan, math.inf])
        self.both(
            lambda scheduler: scheduler.place(
                Request(
                    name, scheduler.hasher.prompt_keys(tokens, namespace), len(tokens), **facts
                ),
                now,
            )
        )

    def dispatched(self) -> None:
        tokens, choose, name = self.prompt(), self.choose, self.name(0.4)
        replica = choose.choice(REPLICAS)
        started, shadow = choose.random() < 0.3, choose.random() < 0.3
        self.both(
            lambda scheduler: scheduler.dispatched(
                Request(name, scheduler.hasher.prompt_keys(tokens), len(tokens)),
                replica,
                self.now,
                started,
                shadow,
            )
        )

    def observe(self) -> None:
        choose = self.choose
        outcomes: list[Outcome] = []
        for _ in range(choose.randrange(1, 4) if self.requests else 0):
            name = choose.choice(self.requests[-12:])
            if choose.random() < 0.5:
                cached = choose.choice([None, 0, 3, 99])
                outcomes.append(FirstToken(name, cached, choose.random() < 0.8))
            else:
                aborted, told = choose.random() < 0.3, choose.random() < 0.8
                outcomes.append(Finished(name, choose.choice([0, 1, 5]), aborted, told))
        replica = choose.choice(REPLICAS)
        self.both(lambda scheduler: scheduler.observe(replica, outcomes, self.now))

    def apply(self) -> None:
        replica = self.choose.choice(REPLICAS)
        events = [self.event() for _ in range(self.choose.randrange(1, 4))]
        self.both(lambda scheduler: scheduler.apply(replica, events, self.now))

    def event(self) -> CacheEvent:
        choose, kind = self.choose, self.choose.random()
        group = choose.choice([0] * 8 + [1, 2, 3])
        medium = choose.choice(["GPU"] * 6 + ["CPU", "DISK", "EXTERNAL"])
        if kind < 0.6 or not self.hashes:
            return self.store(group, medium)
        if kind < 0.97:
            first = choose.randrange(len(self.hashes))
            gone = self.hashes[first : first + choose.randrange(1, 6)]
            return Remove(gone[::-1] if choose.random() < 0.5 else gone, group, medium)
        if kind < 0.985:
            # Its parent is among its own blocks, or it repeats itself.
            names = [choose.randrange(50, 53) for _ in range(2)]
            return Store(names, names[0], self.tokens(2 * self.block), self.block)
        return Clear()

    def store(self, group: int, medium: str) -> Store:
        choose, size = self.choose, self.block
        tokens, namespace, salt = self.prompt(), choose.choice(NAMESPACES), choose.randrange(6)
        blocks = len(tokens) // size
        salt = salt if choose.random() < 0.6 else 0
        names = [
            hash((tuple(tokens[: (number + 1) * size]), salt, namespace))
            for number in range(blocks)
        ]
        first = choose.randrange(blocks) if blocks and choose.random() < 0.7 else 0
        own = names[first:]
        if GROUPS[group] is not Attention.FULL:
            own = [one for one in own if choose.random() < 0.6]
        self.hashes += own
        if medium != "GPU" and choose.random() < 0.3:
            return Store(own, None, (), 0, group=group, medium=medium, attention=GROUPS[group])
        return Store(
            own,
            names[first - 1] if first else None,
            tokens[first * size : blocks * size],
            size if choose.random() < 0.97 else size + 1,
            namespace=namespace,
            group=group,
            medium=medium,
            attention=GROUPS[group],
            window_tokens=2 * size + 1 if GROUPS[group] is Attention.SLIDING_WINDOW else None,
        )

    def clear_residency(self) -> None:
        replica = self.choose.choice(REPLICAS)
        self.both(lambda scheduler: scheduler.clear_residency(replica))

    def restart(self) -> None:
        """One replica's residency through a snapshot, into itself or another."""
        source, target = self.choose.choice(REPLICAS), self.choose.choice(REPLICAS)

        def through(scheduler: Scheduler) -> bool:
            captured = scheduler.snapshot(source, 10**6)
            if captured is not None:
                scheduler.restore(target, captured.encode())
            return captured is None

        self.both(through)

    def report(self) -> None:
        choose, replica = self.choose, self.choose.choice(REPLICAS)
        report = LoadReport(
            self.now + choose.choice([0.0, -1.0, 0.5]),
            choose.choice([0, 0, 1]),
            0,
            choose.choice([0, 100]),
            choose.choice([0.0, 1.0]),
            5,
            5,
            0.1,
        )
        self.both(lambda scheduler: scheduler.report(replica, report, self.now))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    asked = parser.parse_args()
    until = time.monotonic() + asked.seconds
    lives, faults, seeds = 0, Counter[str](), dict[str, int]()
    while time.monotonic() < until:
        seed = asked.first + lives
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            Life(seed).run()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:80]}"
            faults[what] += 1
            seeds.setdefault(what, seed)
        faulthandler.cancel_dump_traceback_later()
        lives += 1
    builds = " and ".join(IMPLEMENTATIONS)
    print(f"{lives} lives by {builds}, {faults.total()} with a fault")
    for what, count in faults.most_common():
        print(f"  {count} x {what} (first: --first {seeds[what]})")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
