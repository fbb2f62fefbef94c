"""What cannot work, in one sentence each, with the remedy."""

from __future__ import annotations

import re
from typing import Final

from preble_plugin.core.policies.registry import load_policy
from preble_plugin.settings import Settings, SettingsError
from preble_plugin.vllm_ext.events import unreadable
from preble_plugin.vllm_ext.facts import EventsConfig, Topology
from preble_plugin.vllm_ext.hooks import NEWEST_TESTED, OLDEST_TESTED

_INSTEAD: Final = "or use --dp-scheduler default"


class CannotWork(ValueError):
    """Placement cannot work on this engine; the message says why and what to do."""


def check_version(version: str, settings: Settings, auto: bool) -> list[str]:
    """Raise `CannotWork` for a vLLM outside the tested minors.

    A newer one passes with `allow_untested` or `auto`; the answer is then a
    warning of it. Patch releases of a tested minor are taken as tested.
    """
    tested = f"{_dotted(OLDEST_TESTED)} to {_dotted(NEWEST_TESTED)}"
    found = re.match(r"(\d+)\.(\d+)", version)
    minor = (int(found[1]), int(found[2])) if found else None
    if minor is not None and OLDEST_TESTED <= minor <= NEWEST_TESTED:
        return []
    if minor is not None and minor < OLDEST_TESTED:
        raise CannotWork(
            f"--dp-scheduler preble is tested on vLLM {tested} and this is {version}: "
            f"upgrade vLLM, {_INSTEAD}."
        )
    if settings.allow_untested or auto:
        return [f"--dp-scheduler preble is tested on vLLM {tested} and runs untested on {version}."]
    raise CannotWork(
        f"--dp-scheduler preble is tested on vLLM {tested} and this is {version}: upgrade "
        "preble-plugin, accept the risk by "
        f"--dp-scheduler-config '{{\"allow_untested\": true}}', {_INSTEAD}."
    )


def check_engine(topology: Topology, rust_frontend: bool) -> None:
    """Raise `CannotWork` where this engine leaves nothing to place."""
    if rust_frontend:
        raise CannotWork(
            "--dp-scheduler preble works in vLLM's Python API servers and the Rust front end "
            f"takes their place: unset VLLM_USE_RUST_FRONTEND, {_INSTEAD}."
        )
    if topology.external:
        raise CannotWork(
            "--dp-scheduler preble needs vLLM's internal load balancing and here each rank has "
            "its own API server: leave out --data-parallel-external-lb, --data-parallel-rank and "
            f"--data-parallel-multi-port-external-lb, {_INSTEAD}."
        )
    if topology.ranks < 2:
        raise CannotWork(
            "--dp-scheduler preble places requests among data-parallel ranks and there is one "
            f"rank: set --data-parallel-size to 2 or more, {_INSTEAD}."
        )
    if not topology.prefix_caching:
        raise CannotWork(
            "--dp-scheduler preble needs prefix caching and it is off: set "
            "--enable-prefix-caching (and leave out --no-enable-prefix-caching), "
            f"{_INSTEAD}."
        )


def check_policy(settings: Settings) -> None:
    """Raise `SettingsError` for a policy that does not exist."""
    try:
        load_policy(settings.policy)
    except ValueError as error:
        raise SettingsError(f"preble setting 'policy': {error}") from None


def check_events(given: EventsConfig | None, chooses_ports: bool) -> None:
    """Raise `CannotWork` for an events configuration that cannot be read."""
    if given is not None and (reason := unreadable(given, chooses_ports)):
        raise CannotWork(
            f"--dp-scheduler preble reads the ranks' KV events and --kv-events-config {reason}: "
            "leave it out, or set enable_kv_cache_events to true, publisher to zmq and endpoint "
            "to an address to bind, such as tcp://*:5557."
        )


def _dotted(minor: tuple[int, int]) -> str:
    return f"{minor[0]}.{minor[1]}"
