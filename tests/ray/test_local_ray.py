"""Deployments on a real Ray: where calls land, and what has to be computed for them.

The replicas stand for engines: each counts the blocks of a prompt that it has not seen behind
the same start, as a prefix cache would.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from preble_plugin.ray_ext.router import PrebleRouter
from tests.engines.preble import until
from tests.ray.calls import text

PREBLE = RequestRouterConfig(
    request_router_class="preble_plugin.ray_ext.router:PrebleRouter",
    request_router_kwargs={"capacity_tokens": 1_000_000},
)
RAYS_OWN = RequestRouterConfig()
DOCUMENTS = "abcdefg"
"""Not a multiple of the replicas, or taking turns would find each document's home."""
BLOCKS = 50
"""Of a document."""


def engines(name: str, router: RequestRouterConfig) -> DeploymentHandle:
    """Three replicas behind this router."""

    @serve.deployment(
        name=name,
        num_replicas=3,
        max_ongoing_requests=100,
        ray_actor_options={"num_cpus": 0},
        request_router_config=router,
        graceful_shutdown_timeout_s=1,
    )
    class Engine:
        def __init__(self) -> None:
            self.name = serve.get_replica_context().replica_id.unique_id
            self.seen: set[str] = set()
            self.go = asyncio.Event()

        async def completions(self, body: Any) -> tuple[str, int]:
            """Which replica this is, and the blocks that it had to compute."""
            starts = {body.prompt[:end] for end in range(64, len(body.prompt) + 1, 64)}
            computed = len(starts - self.seen)
            self.seen |= starts
            if body.hold is not None:
                await body.hold.come.remote()
                await body.hold.gone.remote()
            if body.dies:
                os._exit(1)
            return self.name, computed

    return serve.run(Engine.bind(), name=name, route_prefix=None)


@ray.remote(num_cpus=0)
class Gate:
    """Holds calls until it is opened, and knows how many have come."""

    def __init__(self) -> None:
        self.arrivals = asyncio.Condition()
        self.shut()

    def shut(self) -> None:
        self.came = 0
        self.opened = asyncio.Event()

    async def come(self) -> None:
        async with self.arrivals:
            self.came += 1
            self.arrivals.notify_all()

    async def gone(self) -> None:
        await self.opened.wait()

    async def until(self, came: int) -> None:
        async with self.arrivals:
            await self.arrivals.wait_for(lambda: self.came >= came)

    def open(self) -> None:
        self.opened.set()


@pytest.fixture(scope="module")
def preble(local_ray: None) -> DeploymentHandle:
    return engines("preble", PREBLE)


@pytest.fixture(scope="module")
def one_gate(local_ray: None) -> Any:
    return Gate.remote()


@pytest.fixture
def gate(one_gate: Any) -> Any:
    ray.get(one_gate.shut.remote())
    return one_gate


def ask(handle: DeploymentHandle, prompt: str, hold: Any = None, dies: bool = False) -> Any:
    body = SimpleNamespace(prompt=prompt, max_tokens=16, hold=hold, dies=dies)
    return handle.completions.remote(body)


def questions(handle: DeploymentHandle, documents: str) -> list[tuple[str, str, int]]:
    """Five questions about each document, in turns: the document, the replica, and the
    blocks computed."""
    found = []
    for number in range(5):
        for subject in documents:
            prompt = text(subject, BLOCKS) + text(str(number), 1)
            found.append((subject, *ask(handle, prompt).result(timeout_s=60)))
    return found


def held(handle: DeploymentHandle, gate: Any, prompts: list[str]) -> Counter[str]:
    """Ask one after the other while none ends: how many each replica has."""
    answers = []
    for number, prompt in enumerate(prompts, 1):
        answers.append(ask(handle, prompt, hold=gate))
        ray.get(gate.until.remote(number), timeout=60)
    ray.get(gate.open.remote())
    return Counter(answer.result(timeout_s=60)[0] for answer in answers)


def router_of(handle: DeploymentHandle) -> PrebleRouter:
    """The router in this process."""
    return handle._router._asyncio_router.request_router


def in_flight(handle: DeploymentHandle) -> int:
    placing = router_of(handle).placing
    assert placing is not None
    return placing.in_flight


def placements(handle: DeploymentHandle) -> int:
    placing = router_of(handle).placing
    status = placing.frontend.status() if placing is not None else None
    return status.placements if status is not None else 0


def test_a_document_is_computed_once(preble: DeploymentHandle) -> None:
    answers = questions(preble, DOCUMENTS)
    homes = {subject: {home for one, home, _ in answers if one == subject} for subject in DOCUMENTS}
    assert [len(home) for home in homes.values()] == [1] * len(DOCUMENTS)
    assert sum(computed for *_, computed in answers) == len(DOCUMENTS) * BLOCKS + len(answers)
    assert not router_of(preble).faults.counts


def test_rays_own_choice_computes_it_on_several_replicas(local_ray: None) -> None:
    answers = questions(engines("own", RAYS_OWN), DOCUMENTS)
    serve.delete("own")
    assert sum(computed for *_, computed in answers) > 1.5 * len(DOCUMENTS) * BLOCKS


def test_new_documents_spread_by_load(preble: DeploymentHandle, gate: Any) -> None:
    has = held(preble, gate, [text(subject, BLOCKS) for subject in "ghijkl"])
    assert sorted(has.values()) == [2, 2, 2]


def test_a_document_that_all_ask_about_gets_more_homes(preble: DeploymentHandle, gate: Any) -> None:
    handle = serve.get_deployment_handle("preble", "preble")  # its router has seen nothing else
    has = held(handle, gate, [text("m", BLOCKS) + text(str(one), 1) for one in range(12)])
    assert len(has) == 3
    assert max(has.values()) <= 6


def test_what_has_ended_is_load_no_more(preble: DeploymentHandle, gate: Any) -> None:
    held(preble, gate, [text("n", BLOCKS)] * 3)
    until(lambda: in_flight(preble), lambda calls: calls == 0)


def test_a_cancelled_call_is_load_no_more(preble: DeploymentHandle, gate: Any) -> None:
    answer = ask(preble, text("o", BLOCKS), hold=gate)
    ray.get(gate.until.remote(1), timeout=60)
    assert in_flight(preble) == 1
    answer.cancel()
    until(lambda: in_flight(preble), lambda calls: calls == 0)


async def test_a_place_that_was_kept_and_used_is_remembered(preble: DeploymentHandle) -> None:
    body = SimpleNamespace(prompt=text("q", BLOCKS), hold=None, dies=False)
    async with preble.completions.choose_replica(body) as chosen:
        home, computed = await preble.completions.dispatch(chosen, body)
    assert computed == BLOCKS
    assert await ask(preble, text("q", BLOCKS)) == (home, 0)
    until(lambda: in_flight(preble), lambda calls: calls == 0)


async def test_where_calls_go_past_the_handle_ray_chooses(preble: DeploymentHandle) -> None:
    handle = serve.get_deployment_handle("preble", "preble")
    before = placements(handle)
    body = SimpleNamespace(prompt=text("r", BLOCKS), hold=None, dies=False)
    async with handle.completions.choose_replica(body, _reserve=False):
        assert in_flight(handle) == 1
    until(lambda: in_flight(handle), lambda calls: calls == 0)
    await ask(handle, text("r", BLOCKS))
    assert placements(handle) == before + 1


def test_a_dead_replica_leaves_routing(preble: DeploymentHandle) -> None:
    home, _ = ask(preble, text("p", BLOCKS)).result(timeout_s=60)
    with pytest.raises(ray.exceptions.RayError):
        ask(preble, text("p", BLOCKS), dies=True).result(timeout_s=60)
    other, computed = ask(preble, text("p", BLOCKS)).result(timeout_s=60)
    assert other != home
    assert computed == BLOCKS
    placing = router_of(preble).placing
    assert placing is not None
    assert home not in placing.frontend.host.replicas()
