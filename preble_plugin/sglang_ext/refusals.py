"""What cannot work on SGLang, in one sentence each, with the remedy."""

from __future__ import annotations

from preble_plugin.adapter.event_endpoints import EventsConfig, unreadable
from preble_plugin.adapter.local_queue import local_queue_wanted
from preble_plugin.adapter.refusals import INSTEAD, CannotWork
from preble_plugin.settings import Settings
from preble_plugin.sglang_ext.facts import FCFS, LaunchFacts

METHODS_OF_NO_CHOICE = ("auto", "round_robin")
"""Values of `--load-balance-method` beside which `--dp-scheduler` decides."""

ENCODER = (
    "--dp-scheduler preble places requests among data-parallel ranks and with --encoder-only there "
    f"are none: give it to the servers behind the encoder, {INSTEAD}."
)


def check_method(method: str) -> None:
    """Raise `CannotWork` where `--load-balance-method` asks for another dispatch."""
    if method == "follow_bootstrap_room":
        raise CannotWork(
            "--dp-scheduler preble chooses each request's rank and --load-balance-method "
            "follow_bootstrap_room lets its bootstrap room do so: leave that out, "
            f"{INSTEAD}."
        )
    if method not in METHODS_OF_NO_CHOICE:
        raise CannotWork(
            f"--dp-scheduler preble and --load-balance-method {method} are two choices for one "
            f"thing: leave one of them out, {INSTEAD}."
        )


def check_queue(facts: LaunchFacts, settings: Settings) -> bool:
    """Whether the schedulers of this server put in order what waits: where they are
    asked to and can. Raises `CannotWork` where `local_queue` is `on` and they cannot."""
    if not local_queue_wanted(settings, prefix_caching=facts.radix_cache):
        return False
    reason = _no_queue(facts)
    if reason is not None and settings.local_queue == "on":
        raise CannotWork(f"local_queue on {reason}, or set local_queue to auto.")
    return reason is None


def _no_queue(facts: LaunchFacts) -> str | None:
    if facts.schedule_policy != FCFS:
        return (
            f"and --schedule-policy {facts.schedule_policy} are two orders for what waits: leave "
            "one of them out"
        )
    if not facts.radix_cache:
        return (
            "takes up first what is cached and the radix cache is off for this server: leave out "
            "--disable-radix-cache and what implies it"
        )
    if facts.disaggregation == "decode":
        return (
            "orders what waits for its prefill, which a decode server does not do: give it to the "
            "prefill servers"
        )
    if facts.diffusion:
        return "is not made for the walk of diffusion models: leave out --dllm-algorithm"
    if facts.rust_server:
        return "is not tested with the Rust server: unset SGLANG_RUST_SERVER"
    if facts.ray:
        return "does not reach schedulers that Ray starts: leave out --use-ray"
    if facts.nodes > 1:
        return (
            "has to be the same in all ranks and this server spans "
            f"{facts.nodes} nodes: run one server on each node"
        )
    return None


def check_launch(facts: LaunchFacts) -> None:
    """Raise `CannotWork` where this server leaves nothing to place (and no local queue
    is on, see `check_queue`), or where what has to be seen cannot be seen."""
    if not facts.radix_cache:
        remedy = "leave out --disable-radix-cache and what implies it"
        if facts.disaggregation == "decode":
            remedy = "set --disaggregation-decode-enable-radix-cache"
        raise CannotWork(
            "--dp-scheduler preble needs the radix cache and it is off for this server: "
            f"{remedy}, {INSTEAD}."
        )
    if facts.ranks < 2:
        raise CannotWork(
            "--dp-scheduler preble places requests among data-parallel ranks and there is one "
            "rank, whose local queue is off: set --dp-size to 2 or more, or local_queue to on, "
            f"{INSTEAD}."
        )
    if facts.rust_server:
        raise CannotWork(
            "--dp-scheduler preble works in SGLang's data-parallel controller and the Rust "
            f"server passes it by: unset SGLANG_RUST_SERVER, {INSTEAD}."
        )
    if facts.ray:
        raise CannotWork(
            "--dp-scheduler preble needs the data-parallel controller in a process of its own "
            f"and Ray runs it in a thread: leave out --use-ray, {INSTEAD}."
        )
    if facts.attention_ranks not in (1, facts.ranks):
        raise CannotWork(
            "--dp-scheduler preble cannot tell the KV events of several replicas with DP "
            "attention apart, which SGLang publishes under the same numbers: use --dp-size or "
            f"--attn-dp-size alone, {INSTEAD}."
        )
    if facts.nodes > 1:
        raise CannotWork(
            "--dp-scheduler preble sees the ranks of one node and this server spans "
            f"{facts.nodes}: run one server on each node, {INSTEAD}."
        )
    if facts.elastic:
        raise CannotWork(
            "--dp-scheduler preble places requests among the ranks that a server starts with and "
            f"with elastic EP others may join: leave out --max-ep-size, {INSTEAD}."
        )
    if facts.events is not None:
        check_events(facts.events)


def check_events(given: EventsConfig) -> None:
    """Raise `CannotWork` for an events configuration of the user's that cannot be read."""
    reason = unreadable(given)
    if given.endpoint.endswith(":0"):
        reason = reason or "leaves the port open, which SGLang does not tell"
    if reason:
        raise CannotWork(
            f"--dp-scheduler preble reads the ranks' KV events and --kv-events-config {reason}: "
            "leave it out, or set publisher to zmq and endpoint to an address to bind, such as "
            "tcp://*:5557."
        )
