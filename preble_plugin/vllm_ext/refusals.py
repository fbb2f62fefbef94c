"""What cannot work on vLLM, in one sentence each, with the remedy."""

from __future__ import annotations

from typing import Final

from preble_plugin.adapter.event_endpoints import EventsConfig, unreadable
from preble_plugin.adapter.refusals import INSTEAD, CannotWork
from preble_plugin.vllm_ext.facts import Topology

RUST_DISPATCHES: Final = (
    "vLLM's Rust front end dispatches requests among the ranks, by load, and preble orders those "
    "that wait in each rank: put `preble serve` in front to have them placed too."
)


def check_engine(topology: Topology, rust_frontend: bool, local_queue: bool) -> None:
    """Raise `CannotWork` where this engine leaves nothing to place, and no
    `local_queue` is wanted on its only rank."""
    if topology.ranks < 2 and local_queue:
        return
    if rust_frontend:
        raise CannotWork(
            "--dp-scheduler preble places requests in vLLM's Python API servers and the Rust front "
            "end takes their place: put `preble serve` in front, and set local_queue to on for the "
            f"order in each rank; or unset VLLM_USE_RUST_FRONTEND, {INSTEAD}."
        )
    if topology.external:
        raise CannotWork(
            "--dp-scheduler preble needs vLLM's internal load balancing and here each rank has "
            "its own API server: leave out --data-parallel-external-lb, --data-parallel-rank and "
            f"--data-parallel-multi-port-external-lb, {INSTEAD}."
        )
    if not topology.prefix_caching:
        raise CannotWork(
            "--dp-scheduler preble needs prefix caching and it is off: set "
            "--enable-prefix-caching (and leave out --no-enable-prefix-caching), "
            f"{INSTEAD}."
        )
    if topology.ranks < 2:
        raise CannotWork(
            "--dp-scheduler preble places requests among data-parallel ranks and there is one "
            "rank, whose local queue is off: set --data-parallel-size to 2 or more, or "
            f"local_queue to on, {INSTEAD}."
        )


def check_events(given: EventsConfig | None) -> None:
    """Raise `CannotWork` for an events configuration that cannot be read."""
    reason = unreadable(given) if given is not None else None
    if reason:
        raise CannotWork(
            f"--dp-scheduler preble reads the ranks' KV events and --kv-events-config {reason}: "
            "leave it out, or set enable_kv_cache_events to true, publisher to zmq and endpoint "
            "to an address to bind, such as tcp://*:5557."
        )
