"""Ray's own router with our choice in it. Replicas stand for Ray's; no cluster is needed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest

from preble_plugin.ray_ext.router import PrebleRouter
from tests.ray.calls import ENGINE, Replica, call, text, turns

MakeRouter = Callable[..., PrebleRouter]


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any) -> MakeRouter:
    """A router for these replicas, with these `request_router_kwargs`."""
    monkeypatch.setenv("PREBLE_RUN_DIR", str(tmp_path_factory.mktemp("r")))

    def make(*replicas: Replica, **settings: Any) -> PrebleRouter:
        made = PrebleRouter(
            deployment_id=ENGINE,
            handle_source=DeploymentHandleSource.REPLICA,
            use_replica_queue_len_cache=True,
            initial_backoff_s=0.001,
        )
        made.initialize_state(**settings)
        made.update_replicas(list(replicas))
        return made

    return make


async def sent(router: PrebleRouter, pending: PendingRequest) -> str:
    """The replica that Ray sends a call to; it is running there from now on."""
    chosen = await router._choose_replica_for_request(pending)
    router.on_send_request(chosen.replica_id)
    await turns()
    router.on_request_routed(pending, chosen.replica_id, None)
    return str(chosen.replica_id.unique_id)


def ended(router: PrebleRouter, replica: Replica, request_id: str) -> None:
    router.on_request_completed(replica.replica_id, request_id)
    router.decrement_queue_len_cache(replica.replica_id)


async def test_each_document_has_one_home(router: MakeRouter) -> None:
    replicas = {name: Replica(name) for name in "abc"}
    made = router(*replicas.values())
    homes: dict[str, set[str]] = {}
    for number in range(30):
        subject, request_id = "uvwxyz"[number % 6], str(number)
        replica = await sent(made, call(text(subject) + f"Question {number}", request_id))
        homes.setdefault(subject, set()).add(replica)
        ended(made, replicas[replica], request_id)
    assert [len(home) for home in homes.values()] == [1] * 6
    assert not made.faults.counts


async def test_a_full_replica_leaves_the_call_to_another(router: MakeRouter) -> None:
    one, two = Replica("a", most=1), Replica("b", most=1)
    made = router(one, two)
    first = await sent(made, call(text("x"), "1"))
    (one if first == "a" else two).ongoing = 1
    second = await sent(made, call(text("x"), "2"))
    assert {first, second} == {"a", "b"}
    assert made.placing is not None
    status = made.placing.frontend.status()
    assert status is not None
    assert [one.running for one in status.replicas] == [1, 1]


async def test_calls_of_one_client_request_are_all_sent(router: MakeRouter) -> None:
    made = router(Replica("a"), Replica("b"))
    calls = [call(text(subject), "shared") for subject in "uvwxyz"]
    replicas = await asyncio.wait_for(asyncio.gather(*(sent(made, one) for one in calls)), 20)
    assert len(replicas) == 6


async def test_an_adapter_goes_where_it_is_loaded(router: MakeRouter) -> None:
    made = router(Replica("a"), Replica("b", models=("french",)), Replica("c"))
    calls = [call(text(subject), subject, model="french") for subject in "uvwxyz"]
    assert {await sent(made, one) for one in calls} == {"b"}


async def test_a_dead_replica_leaves_routing_at_once(router: MakeRouter) -> None:
    replicas = {name: Replica(name) for name in "abc"}
    made = router(*replicas.values())
    home = await sent(made, call(text("x"), "1"))
    made.on_replica_actor_died(replicas[home].replica_id)
    assert made.placing is not None
    assert home not in made.placing.frontend.host.replicas()
    assert await sent(made, call(text("x"), "2")) != home


async def test_replicas_come_and_go(router: MakeRouter) -> None:
    made = router(Replica("a"))
    assert await sent(made, call(text("x"), "1")) == "a"
    made.update_replicas([Replica("b")])
    assert await sent(made, call(text("x"), "2")) == "b"


async def test_what_cannot_be_read_is_left_to_ray(
    router: MakeRouter, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @property
        def prompt(self) -> str:
            raise RuntimeError("no prompt here")

    made = router(Replica("a"), Replica("b"))
    for number in range(3):
        assert await sent(made, call("", str(number), arg=Broken())) in {"a", "b"}
    assert made.faults.counts["choose_replicas"] == 3
    assert caplog.text.count("preble failed in choose_replicas") == 1
    assert made.placing is not None
    assert made.placing.in_flight == 0


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"polcy": "e2"}, "there is no polcy here; there are: capacity_tokens, policy"),
        ({"policy": "e3"}, "e2-paper"),
        ({"capacity_tokens": "many"}, "takes a whole number from 1"),
        ({"local_queue": "on"}, "there is no local_queue here"),
    ],
)
async def test_settings_that_cannot_be_used_leave_all_to_ray(
    router: MakeRouter, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], remedy: str
) -> None:
    made = router(Replica("a"), Replica("b"), **settings)
    assert await sent(made, call(text("x"), "1")) in {"a", "b"}
    [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert remedy in record.getMessage()


def test_ray_carries_the_router_to_its_processes() -> None:
    config = RequestRouterConfig(
        request_router_class="preble_plugin.ray_ext.router:PrebleRouter",
        request_router_kwargs={"policy": "e2-paper", "capacity_tokens": 100_000},
    )
    assert config.get_request_router_class().__name__ == "PrebleRouter"
