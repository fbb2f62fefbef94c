"""Policies that only the simulator has: those that know what no scheduler can, and E2
with a rule left out, which shows what the rule adds.

`e2-without-RULE` leaves out one of `core.policies.e2.RULES`. The clairvoyant ones look
into the fleet, so that it is the fleet that makes them (`sim/fleet.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from preble_plugin.core.policies.e2 import E2, RULES
from preble_plugin.core.policies.protocol import Policy

ORACLE: Final = "oracle"
POOLED: Final = "pooled"
BOUND: Final = "bound"
CLAIRVOYANT: Final[Mapping[str, str]] = {
    ORACLE: "knows output lengths, queues, caches and the true time model",
    POOLED: "the same, and the caches of all are one, as large as they are together",
    BOUND: "the same, and what any replica computed is cached on all for ever",
}
"""Names that stand beside core's policies, and what they are."""

_WITHOUT: Final = "e2-without-"
ABLATIONS: Final[Mapping[str, str]] = {
    f"{_WITHOUT}{rule}": f"e2, but {words}" for rule, words in RULES.items()
}
"""E2 without each of its rules, and what is so then."""


def ablation(name: str) -> Policy:
    """The policy of that name of `ABLATIONS`."""
    return E2(without=[name.removeprefix(_WITHOUT)])
