"""Policies by name.

1. The names of this package's own policies are taken: they mean these classes.
2. Any other is looked up in the entry-point group `preble.policies`, where a
   package registers a class that follows `protocol.Policy`.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Final

from preble_plugin.core.policies.dualmap import DualMap
from preble_plugin.core.policies.dynamo import Dynamo
from preble_plugin.core.policies.e2 import E2
from preble_plugin.core.policies.e2_paper import E2Paper
from preble_plugin.core.policies.least_loaded import LeastLoaded
from preble_plugin.core.policies.lmetric import LMetric
from preble_plugin.core.policies.min_ttft import MinTTFT
from preble_plugin.core.policies.prefix_affinity import PrefixAffinity
from preble_plugin.core.policies.protocol import Policy
from preble_plugin.core.policies.round_robin import RoundRobin
from preble_plugin.core.policies.total_tokens import TotalTokens

ENTRY_POINT_GROUP: Final = "preble.policies"

BUILT_IN: Final[dict[str, Callable[[], Policy]]] = {
    "dualmap": DualMap,
    "dynamo": Dynamo,
    "e2": E2,
    "e2-paper": E2Paper,
    "least-loaded": LeastLoaded,
    "lmetric": LMetric,
    "min-ttft": MinTTFT,
    "prefix-affinity": PrefixAffinity,
    "round-robin": RoundRobin,
    "total-tokens": TotalTokens,
}


def policy_names() -> list[str]:
    """All names that `load_policy` knows, sorted."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))})


def load_policy(name: str) -> Policy:
    """A new policy of that name.

    Raises ValueError on a name that nobody registered, with those there are, and
    on an entry point that cannot be loaded or is no policy.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        raise ValueError(_unknown(name))
    entry = found[0]
    try:
        policy = entry.load()()
    except Exception as error:
        raise ValueError(
            f"policy {name!r} cannot be loaded from its entry point {entry.value!r}: "
            f"{type(error).__name__}: {error}; repair or uninstall the package that registers it"
        ) from error
    if not callable(getattr(policy, "choose", None)) or not isinstance(
        getattr(policy, "name", None), str
    ):
        raise ValueError(
            f"policy {name!r} is no policy: its entry point {entry.value!r} makes a "
            f"{type(policy).__name__} without `name` and `choose(view)`"
        )
    chosen: Policy = policy
    return chosen


def _unknown(name: str) -> str:
    known = policy_names()
    near = get_close_matches(name.lower().replace("_", "-"), known, n=2)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"unknown policy {name!r}{hint} (there are: {', '.join(known)})"
