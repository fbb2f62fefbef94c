"""What was looked at, how it stands, and what helps where it does not stand well.

Findings are data: who looks makes them, `cli/doctor` prints them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec


class State(enum.StrEnum):
    """How something stands."""

    OK = "ok"
    WARN = "warn"
    """It works with less than there could be, or cannot be told."""
    FAIL = "fail"
    """What depends on it does not work."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    about: str
    """The machine, the server or the URL that it is a finding of."""
    check: str
    """What was looked at, in a word or two."""
    state: State
    words: str
    """What was found, in a line. Names and addresses; never a secret or a prompt."""
    remedy: str | None = None
    """What to do, where `state` is not `ok`."""

    def __post_init__(self) -> None:
        if (self.remedy is None) != (self.state is State.OK):
            raise ValueError(f"{self.check}: what is not ok has a remedy, and nothing else")


class Findings:
    """Findings about one thing, in the order they were made."""

    def __init__(self, about: str) -> None:
        self.about = about
        self.all: list[Finding] = []

    def ok(self, check: str, words: str) -> None:
        """It stands well."""
        self.all.append(Finding(self.about, check, State.OK, words))

    def warn(self, check: str, words: str, remedy: str) -> None:
        """It could be better, or cannot be told."""
        self.all.append(Finding(self.about, check, State.WARN, words, remedy))

    def fail(self, check: str, words: str, remedy: str) -> None:
        """It does not work."""
        self.all.append(Finding(self.about, check, State.FAIL, words, remedy))


def failed(findings: Iterable[Finding]) -> bool:
    """Whether one of them is a failure."""
    return any(one.state is State.FAIL for one in findings)
