"""An engine by name, and the versions of it that its adapter is tested on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

_OFF: Final = ("", "0", "false", "no", "n")


class Known(NamedTuple):
    """One engine."""

    package: str
    """Its Python package, its distribution, and what `/v1/models` names as the owner."""
    title: str
    oldest: tuple[int, ...]
    newest: tuple[int, ...]
    rust_switch: str
    """The environment variable that starts its Rust front door in the Python one's place."""
    contract: str
    """The module of its adapter that declares the contract."""

    @property
    def versions(self) -> str:
        """The tested versions, in words."""
        oldest, newest = (".".join(map(str, one)) for one in (self.oldest, self.newest))
        return f"{oldest} to {newest}"

    def tested(self, version: str) -> bool:
        """Whether `version` is a tested one. As many of its numbers count as the tested
        ones have: what follows them is a patch of a tested version."""
        numbers = re.match(r"\.".join([r"(\d+)"] * len(self.oldest)), version)
        return numbers is not None and (
            self.oldest <= tuple(map(int, numbers.groups())) <= self.newest
        )

    def rust(self, environment: Mapping[str, str]) -> bool:
        """Whether `rust_switch` is on."""
        return environment.get(self.rust_switch, "").lower() not in _OFF
