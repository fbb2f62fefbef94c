"""One client's requests against a real scheduler; the engines are played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from preble_plugin.core.request import Placement, Request
from preble_plugin.service.interface import ReplicaSpec, Unplaced
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.settings import Settings
from preble_plugin.vllm_ext.dispatch import Dispatch

BLOCK = 32


class HeldFrontend(LocalFrontend):
    """Places when told to, as a scheduler process that takes its time."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.open = asyncio.Event()
        self.open.set()
        self.unplaced: str | None = None
        self.asked: list[Request] = []
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()

    async def place(self, request: Request) -> Placement | Unplaced:
        self.asked.append(request)
        self.waiting.set()
        await self.open.wait()
        return Unplaced(self.unplaced) if self.unplaced else await super().place(request)

    async def close(self) -> None:
        await super().close()
        self.closed.set()


class Engine:
    """vLLM's client with its engines: what it was sent, and what they say."""

    def __init__(self, dispatch: Dispatch, ranks: Sequence[int] = (0, 1)) -> None:
        self.dispatch = dispatch
        self.core_engines = [rank.to_bytes(2, "little") for rank in ranks]
        self.reqs_in_flight: dict[str, int] = {}
        self.sent: list[tuple[str, int]] = []

    async def add(self, request: Any) -> bool:
        """As `PrebleClient.add_request_async` does it."""
        if not await self.dispatch.place(self, request):
            return False
        known = request.request_id in self.reqs_in_flight
        index = request.data_parallel_rank or 0
        rank = int.from_bytes(self.core_engines[index], "little")
        if not known:
            self.reqs_in_flight[request.request_id] = rank
            self.dispatch.chosen(request, rank)
        self.sent.append((request.request_id, self.reqs_in_flight[request.request_id]))
        return True

    def says(self, rank: int, *outputs: Any, finished: Sequence[str] = ()) -> None:
        for request_id in finished:
            self.reqs_in_flight.pop(request_id, None)
        self.dispatch.observe(
            SimpleNamespace(
                engine_index=rank, outputs=list(outputs), finished_requests=set(finished)
            )
        )


def sampling(**more: Any) -> Any:
    values: dict[str, Any] = {
        "max_tokens": 10,
        "skip_reading_prefix_cache": False,
        "stop": [],
        "extra_args": None,
    }
    return SimpleNamespace(**values | more)


def request(request_id: str = "a", tokens: Sequence[int] | None = range(100), **more: Any) -> Any:
    values: dict[str, Any] = {
        "request_id": request_id,
        "prompt_token_ids": None if tokens is None else list(tokens),
        "prompt_embeds": None,
        "mm_features": None,
        "sampling_params": sampling(),
        "pooling_params": None,
        "lora_request": None,
        "cache_salt": None,
        "external_req_id": None,
        "priority": 0,
        "session_id": None,
        "data_parallel_rank": None,
        "resumable": False,
    }
    return SimpleNamespace(**values | more)


def output(
    request_id: str, tokens: int = 1, cached: int | None = None, finish: int | None = None
) -> Any:
    stats = None if cached is None else SimpleNamespace(num_local_cached_tokens=cached)
    return SimpleNamespace(
        request_id=request_id,
        new_token_ids=[0] * tokens,
        prefill_stats=stats,
        finish_reason=finish,
    )


STOP, LENGTH, ABORT, ERROR = range(4)


@pytest.fixture
async def frontend(run_dir: Path) -> AsyncIterator[HeldFrontend]:
    built = HeldFrontend()
    built.set_replicas([ReplicaSpec(rank, BLOCK, 1000) for rank in (0, 1)])
    yield built
    await built.close()


@pytest.fixture
def engine(frontend: HeldFrontend) -> Engine:
    def restate(client: Engine) -> None:
        ranks = [int.from_bytes(one, "little") for one in client.core_engines]
        frontend.set_replicas([ReplicaSpec(rank, BLOCK, 1000) for rank in ranks])

    dispatch = Dispatch(
        frontend,
        PlacementMetrics(),
        (0, 1),
        restate,
        patience_seconds=1.0,
        on_close=lambda: None,
    )
    return Engine(dispatch)


def in_flight(frontend: HeldFrontend) -> int:
    status = frontend.status()
    assert status is not None
    return status.in_flight


def receipt(frontend: HeldFrontend, request_id: str) -> Any:
    assert frontend.host.scheduler is not None
    return frontend.host.scheduler.explain(request_id)[-1]


def fallbacks(cause: str) -> float:
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value("preble:fallbacks_total", {"cause": cause}) or 0.0


async def test_a_request_goes_where_it_was_placed(engine: Engine, frontend: HeldFrontend) -> None:
    await engine.add(request())
    assert engine.sent == [("a", receipt(frontend, "a").replica)]


async def test_outputs_are_told_and_the_end_releases(
    engine: Engine, frontend: HeldFrontend
) -> None:
    await engine.add(request())
    rank = engine.sent[0][1]
    engine.says(rank, output("a", cached=0))
    engine.says(rank, output("a", tokens=2))
    engine.says(rank, output("a", finish=LENGTH), finished=["a"])
    told = receipt(frontend, "a")
    assert (told.actual_cached_tokens, told.output_tokens, told.finish) == (0, 4, "finished")
    assert in_flight(frontend) == 0


@pytest.mark.parametrize("finish", [ABORT, ERROR])
async def test_an_engine_that_gives_up_releases(
    engine: Engine, frontend: HeldFrontend, finish: int
) -> None:
    await engine.add(request())
    engine.says(engine.sent[0][1], output("a", tokens=0, finish=finish))
    assert receipt(frontend, "a").finish == "aborted"


async def test_an_end_without_a_last_output_releases(
    engine: Engine, frontend: HeldFrontend
) -> None:
    await engine.add(request())
    engine.says(engine.sent[0][1], finished=["a"])
    assert (receipt(frontend, "a").finish, in_flight(frontend)) == ("aborted", 0)


async def test_what_is_said_of_strangers_is_ignored(engine: Engine, frontend: HeldFrontend) -> None:
    engine.says(0, output("stranger", cached=5, finish=STOP), finished=["stranger", "other"])
    assert (engine.dispatch.faults, in_flight(frontend)) == ({}, 0)


# --- aborts ---


async def test_a_request_aborted_while_it_is_placed_is_never_sent(
    engine: Engine, frontend: HeldFrontend
) -> None:
    frontend.open.clear()
    adding = asyncio.create_task(engine.add(request()))
    await frontend.waiting.wait()
    engine.dispatch.aborting(["a"])
    frontend.open.set()
    assert not await adding
    assert (engine.sent, in_flight(frontend)) == ([], 0)
    assert receipt(frontend, "a").finish == "aborted"


async def test_a_request_cancelled_while_it_is_placed_is_released(
    engine: Engine, frontend: HeldFrontend
) -> None:
    frontend.open.clear()
    adding = asyncio.create_task(engine.add(request()))
    await frontend.waiting.wait()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    frontend.open.set()
    assert (engine.sent, in_flight(frontend)) == ([], 0)
    assert await engine.add(request())


async def test_an_abort_of_a_request_in_flight_releases_at_once(
    engine: Engine, frontend: HeldFrontend
) -> None:
    await engine.add(request())
    engine.dispatch.aborting(["a", "stranger"])
    assert (receipt(frontend, "a").finish, in_flight(frontend)) == ("aborted", 0)


async def test_a_request_that_could_not_be_sent_is_released(
    engine: Engine, frontend: HeldFrontend
) -> None:
    await engine.add(request())
    engine.dispatch.failed("a")
    assert (receipt(frontend, "a").finish, in_flight(frontend)) == ("aborted", 0)


async def test_a_stop_string_ends_a_request_by_an_abort(
    engine: Engine, frontend: HeldFrontend
) -> None:
    stops = sampling(stop=["x"])
    await engine.add(request(sampling_params=stops))
    engine.says(engine.sent[0][1], output("a", tokens=3, cached=0))
    engine.dispatch.aborting(["a"])
    told = receipt(frontend, "a")
    assert (told.finish, told.output_tokens) == ("finished", 3)


# --- streaming input ---


async def test_further_input_goes_where_the_first_went(
    engine: Engine, frontend: HeldFrontend
) -> None:
    await engine.add(request(resumable=True))
    rank = engine.sent[0][1]
    engine.says(rank, output("a", cached=0, finish=STOP))
    more = request(tokens=range(500, 600), resumable=True)
    await engine.add(more)
    assert (engine.sent, more.data_parallel_rank) == ([("a", rank)] * 2, None)
    assert (len(frontend.asked), in_flight(frontend)) == (1, 1)
    engine.says(rank, finished=["a"])
    assert (receipt(frontend, "a").finish, in_flight(frontend)) == ("finished", 0)


async def test_further_input_waits_until_the_first_is_placed(
    engine: Engine, frontend: HeldFrontend
) -> None:
    frontend.open.clear()
    first = asyncio.create_task(engine.add(request(resumable=True)))
    await frontend.waiting.wait()
    second = asyncio.create_task(engine.add(request(tokens=range(9), resumable=True)))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (engine.sent, second.done()) == ([], False)
    frontend.open.set()
    assert await first
    assert await second
    assert [name for name, _ in engine.sent] == ["a", "a"]
    assert len({rank for _, rank in engine.sent}) == 1


async def test_further_input_of_an_aborted_request_is_not_sent(
    engine: Engine, frontend: HeldFrontend
) -> None:
    frontend.open.clear()
    adding = [asyncio.create_task(engine.add(request(resumable=True))) for _ in range(2)]
    await frontend.waiting.wait()
    engine.dispatch.aborting(["a"])
    frontend.open.set()
    assert await asyncio.gather(*adding) == [False, False]
    assert engine.sent == []


# --- what vLLM places itself ---


@pytest.mark.parametrize("cause", ["deadline", "scheduler_down", "not_ready"])
async def test_without_a_placement_vllm_chooses_and_it_is_accounted(
    engine: Engine, frontend: HeldFrontend, cause: str
) -> None:
    before = fallbacks(cause)
    frontend.unplaced = cause
    asked = request()
    await engine.add(asked)
    assert (asked.data_parallel_rank, engine.sent) == (None, [("a", 0)])
    assert (receipt(frontend, "a").branch, in_flight(frontend)) == ("engine", 1)
    assert fallbacks(cause) == before + 1
    engine.says(0, output("a", finish=STOP))
    assert in_flight(frontend) == 0


async def test_a_fault_of_ours_is_counted_and_vllm_chooses(
    engine: Engine, frontend: HeldFrontend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: Request) -> Placement:
        raise RuntimeError("broken")

    before = fallbacks("error")
    monkeypatch.setattr(frontend, "place", broken)
    for name in ("a", "b"):
        assert await engine.add(request(name))
    assert [name for name, _ in engine.sent] == ["a", "b"]
    assert (engine.dispatch.faults["place"], fallbacks("error")) == (2, before + 2)


async def test_requests_and_outputs_that_cannot_be_read_harm_nobody(engine: Engine) -> None:
    broken = SimpleNamespace(request_id="a", data_parallel_rank=None)
    assert await engine.add(broken)
    engine.says(0, SimpleNamespace(request_id="a"))
    assert set(engine.dispatch.faults) == {"place", "observe"}


async def test_token_ids_that_no_vocabulary_has_are_placed_by_load(
    engine: Engine, frontend: HeldFrontend
) -> None:
    before = fallbacks("token_ids")
    for number, token in enumerate((-1, 1 << 32, 1 << 70)):
        assert await engine.add(request(str(number), [5] * 40 + [token] * 40))
    assert [one.keys for one in frontend.asked] == [b""] * 3
    assert fallbacks("token_ids") == before + 3


# --- what a request says of itself ---


async def test_embeddings_are_placed_by_load(engine: Engine, frontend: HeldFrontend) -> None:
    await engine.add(request(tokens=None, prompt_embeds=[[0.0]] * 70))
    (asked,) = frontend.asked
    assert (asked.keys, asked.prompt_tokens) == (b"", 70)


async def test_a_fixed_rank_is_obeyed_and_accounted(engine: Engine, frontend: HeldFrontend) -> None:
    await engine.add(request(data_parallel_rank=1))
    assert engine.sent == [("a", 1)]
    assert receipt(frontend, "a").branch == "fixed"


async def test_lora_salt_and_images_set_equal_tokens_apart(
    engine: Engine, frontend: HeldFrontend
) -> None:
    lora = SimpleNamespace(lora_name="french", adapter_id=1)
    image = SimpleNamespace(identifier="cat", mm_position=SimpleNamespace(offset=0, length=BLOCK))
    kinds: list[dict[str, Any]] = [
        {},
        {"cache_salt": "x"},
        {"lora_request": lora},
        {"mm_features": [image]},
    ]
    for number, kind in enumerate(kinds):
        await engine.add(request(str(number), **kind))
    assert len({one.keys for one in frontend.asked}) == 4


async def test_what_else_a_request_says_is_passed_on(
    engine: Engine, frontend: HeldFrontend
) -> None:
    await engine.add(
        request(
            external_req_id="cmpl-1",
            priority=3,
            session_id="s",
            sampling_params=sampling(max_tokens=7, skip_reading_prefix_cache=True),
        )
    )
    (asked,) = frontend.asked
    assert (asked.external_id, asked.priority, asked.session_id) == ("cmpl-1", 3, "s")
    assert (asked.max_output_tokens, asked.reads_cache) == (7, False)
    assert asked.prompt_tokens == 100


async def test_prompts_that_a_prefill_server_sends_are_placed_by_load_and_are_no_prefill(
    engine: Engine, frontend: HeldFrontend
) -> None:
    fetched = sampling(extra_args={"kv_transfer_params": {"do_remote_prefill": True}})
    for request_id in ("a", "b", "c"):
        await engine.add(request(request_id, sampling_params=fetched))
    status = frontend.status()
    assert status is not None
    assert {rank for _, rank in engine.sent} == {0, 1}
    assert [one.queued_prefill_seconds for one in status.replicas] == [0.0, 0.0]

    rank = dict(engine.sent)["a"]
    engine.says(rank, output("a", cached=BLOCK))
    found = receipt(frontend, "a")
    assert (found.predicted_cached_tokens, found.actual_cached_tokens) == (0, None)


# --- ranks that come and go ---


async def test_ranks_that_come_and_go_are_followed(engine: Engine, frontend: HeldFrontend) -> None:
    await engine.add(request("a"))
    engine.core_engines = [rank.to_bytes(2, "little") for rank in (0, 1, 2)]
    await engine.add(request("b", range(1000, 1100), data_parallel_rank=2))
    assert engine.sent[-1] == ("b", 2)
    assert [one.replica for one in frontend.host.status().replicas] == [0, 1, 2]  # type: ignore[union-attr]
    engine.core_engines = [rank.to_bytes(2, "little") for rank in (0,)]
    for number in range(4):
        await engine.add(request(f"c{number}", range(number, number + 99)))
    assert {rank for name, rank in engine.sent if name.startswith("c")} == {0}


async def test_ranks_of_a_hybrid_node_are_indexed_from_its_first(
    frontend: HeldFrontend,
) -> None:
    frontend.set_replicas([ReplicaSpec(rank, BLOCK, 1000) for rank in (4, 5)])
    dispatch = Dispatch(
        frontend,
        PlacementMetrics(),
        (4, 5),
        lambda _: None,
        patience_seconds=1.0,
        on_close=lambda: None,
    )
    engine = Engine(dispatch, (4, 5))
    fixed = request(data_parallel_rank=1)
    await engine.add(fixed)
    assert (engine.sent, fixed.data_parallel_rank) == ([("a", 5)], 1)
    free = request("b", range(300, 400))
    await engine.add(free)
    assert engine.sent[-1] == ("b", 4 + free.data_parallel_rank)


# --- the end ---


async def test_closing_twice_from_another_thread_is_fine(
    engine: Engine, frontend: HeldFrontend
) -> None:
    await engine.add(request())
    await asyncio.to_thread(engine.dispatch.close)
    engine.dispatch.close()
    await frontend.closed.wait()
    assert engine.dispatch.faults == {}


def test_closing_without_a_loop_is_fine() -> None:
    asyncio.run(asyncio.sleep(0))
    closed: list[int] = []
    dispatch = Dispatch(
        LocalFrontend(Settings()),
        PlacementMetrics(),
        (0, 1),
        lambda _: None,
        patience_seconds=1.0,
        on_close=lambda: closed.append(1),
    )
    dispatch.close()
    assert (dispatch.faults, closed) == ({}, [1])
