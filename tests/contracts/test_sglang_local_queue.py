"""`sglang_ext/local_queue.py` on SGLang's own requests, prefix cache and policy.

Passes are SGLang's own up to the walk, which takes up as many as there is room for.
"""

from __future__ import annotations

import gc
import logging
import weakref
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.core.local_queue import LocalQueue
from preble_plugin.sglang_ext import hooks
from preble_plugin.sglang_ext.local_queue import BOUND, FEWEST_AHEAD, MOST_AHEAD, WaitingOrders
from tests.engines import TINY_MODEL

pytestmark = pytest.mark.sglang


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The configuration of a server, as a scheduler process has it."""
    from sglang.srt import runtime_context
    from sglang.srt.server_args import ServerArgs

    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runtime_context.reset_context()
    record: Any = ServerArgs(model_path=str(make_tiny_model(TINY_MODEL)), device="cpu")
    record.resolve_once()
    runtime_context.publish(record, role="tokenizer")
    yield
    runtime_context.reset_context()


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> WaitingOrders:
    """Our queue, on SGLang's functions as its hooks put it there."""
    from sglang.srt.managers.schedule_policy import SchedulePolicy
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.plugins.hook_registry import HookRegistry

    for owner, name in (
        (SchedulePolicy, "calc_priority"),
        (Scheduler, "get_new_batch_prefill"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(HookRegistry, "_hooks", type(HookRegistry._hooks)(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    monkeypatch.setattr(hooks, "_wrapped", {})
    monkeypatch.setattr(Scheduler, "_get_new_batch_prefill_raw", walk)
    made = WaitingOrders()
    hooks.wrap_prefill_pass(made.before_walk, made.after_walk)
    hooks.apply()
    assert hooks.missing() == []
    return made


def walk(scheduler: Any, prefill_delayer_single_pass: Any, running_batch: Any) -> Any:
    """In place of the walk through a model's pools: the first that there is room for."""
    scheduler.policy.calc_priority(scheduler.waiting_queue, running_batch)
    scheduler.took = scheduler.waiting_queue[: scheduler.room]
    scheduler.waiting_queue = scheduler.waiting_queue[scheduler.room :]
    return None, running_batch


def make_scheduler(policy: str = "fcfs", *, priorities: bool = False, cache: bool = True) -> Any:
    from sglang.srt.managers.schedule_policy import SchedulePolicy
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.mem_cache.radix_cache import RadixCache

    made: Any = object.__new__(Scheduler)
    made.tree = RadixCache.create_simulated(disable=not cache)
    made.policy = SchedulePolicy(policy, made.tree, False, priorities, False)
    made.waiting_queue, made.took, made.room = [], [], 0
    made.prefill_delayer = None
    return made


@pytest.fixture
def scheduler(orders: WaitingOrders) -> Any:
    return make_scheduler()


class Running:
    """In place of the running batch, at which nothing here looks."""

    reqs = ()


def a_pass(scheduler: Any, room: int = 0) -> list[str]:
    """One prefill pass with room for so many; who was taken, or with no room who waits."""
    scheduler.room = room
    scheduler.get_new_batch_prefill(Running())
    return names(scheduler.took if room else scheduler.waiting_queue)


def names(requests: Sequence[Any]) -> list[str]:
    return [one.rid for one in requests]


def prompt(number: int, count: int = 100) -> list[int]:
    """Tokens that start as those of no other number do."""
    return [number * 1000 + place for place in range(count)]


def request(rid: str, tokens: Sequence[int], priority: int | None = None, **given: Any) -> Any:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    params = SamplingParams(max_new_tokens=2)
    params.normalize(None)
    return Req(rid, "", array("q", tokens), params, vocab_size=4096, priority=priority, **given)


def come(scheduler: Any, *requests: Any) -> None:
    """As `Scheduler._add_request_to_queue` does it."""
    for one in requests:
        scheduler.waiting_queue.append(one)
        one.time_stats.set_wait_queue_entry_time()


def store(scheduler: Any, tokens: Sequence[int]) -> None:
    import torch
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams
    from sglang.srt.mem_cache.radix_cache import RadixKey

    key = RadixKey(token_ids=array("q", tokens), extra_key=None)
    scheduler.tree.insert(InsertParams(key=key, value=torch.arange(len(tokens))))


def test_what_is_cached_goes_first_and_the_rest_as_it_came(scheduler: Any) -> None:
    store(scheduler, prompt(3))
    come(scheduler, *(request(f"r{number}", prompt(number)) for number in range(1, 5)))
    assert a_pass(scheduler) == ["r3", "r1", "r2", "r4"]


def test_what_is_cached_is_found_anew_in_each_pass(scheduler: Any) -> None:
    store(scheduler, prompt(3))
    come(scheduler, *(request(f"r{number}", prompt(number)) for number in range(1, 5)))
    assert a_pass(scheduler)[0] == "r3"
    scheduler.tree.reset()
    store(scheduler, prompt(4))
    assert a_pass(scheduler)[0] == "r4"


def test_who_was_taken_is_gone_and_who_comes_joins_the_end(scheduler: Any) -> None:
    come(scheduler, request("a", prompt(1)), request("b", prompt(2)))
    assert a_pass(scheduler, room=1) == ["a"]
    come(scheduler, request("c", prompt(3)))
    assert a_pass(scheduler) == ["b", "c"]


def test_who_was_aborted_is_forgotten(scheduler: Any) -> None:
    come(scheduler, *(request(name, prompt(place)) for place, name in enumerate("abc")))
    a_pass(scheduler)
    scheduler.waiting_queue.pop(1)
    assert a_pass(scheduler, room=2) == ["a", "c"]
    assert a_pass(scheduler) == []


def test_who_comes_back_goes_first(scheduler: Any) -> None:
    store(scheduler, prompt(9))
    a, b = request("a", prompt(1)), request("b", prompt(2))
    come(scheduler, a, b, request("c", prompt(3)), request("cached", prompt(9)))
    assert a_pass(scheduler, room=3) == ["cached", "a", "b"]
    come(scheduler, request("d", prompt(4)))
    for retracted in (a, b):
        retracted.reset_for_retract()
        come(scheduler, retracted)
    assert a_pass(scheduler) == ["a", "b", "c", "d"]


def test_priorities_of_the_user_come_first_and_what_is_cached_within(
    orders: WaitingOrders,
) -> None:
    scheduler = make_scheduler(priorities=True)
    store(scheduler, prompt(3))
    store(scheduler, prompt(4))
    for number, priority in enumerate([0, 5, 5, 0, 9, 5], start=1):
        come(scheduler, request(f"r{number}", prompt(number), priority))
    assert a_pass(scheduler) == ["r5", "r3", "r2", "r6", "r4", "r1"]


def test_priorities_hold_behind_the_head_too(orders: WaitingOrders) -> None:
    scheduler = make_scheduler(priorities=True)
    for number in range(3 * FEWEST_AHEAD):
        come(scheduler, request(str(number % 3), prompt(number), number % 3))
    each = FEWEST_AHEAD
    assert a_pass(scheduler) == ["2"] * each + ["1"] * each + ["0"] * each


def test_of_those_that_start_alike_one_goes_and_the_others_wait_for_its_prefix(
    scheduler: Any,
) -> None:
    shared = prompt(1, 50)
    for name, tail in (("a", 11), ("b", 12), ("c", 13)):
        come(scheduler, request(name, shared + prompt(tail)))
    come(scheduler, request("other", prompt(2)))
    assert a_pass(scheduler, room=2) == ["a", "other"]
    store(scheduler, shared + prompt(11))
    come(scheduler, request("new", prompt(3)))
    assert a_pass(scheduler) == ["b", "c", "new"]


def test_those_of_another_tenant_do_not_start_alike(scheduler: Any) -> None:
    for number, (extra_key, salt) in enumerate([(None, None), ("k", None), (None, "s")]):
        one = request(str(number), prompt(1), extra_key=extra_key, cache_salt=salt)
        come(scheduler, one)
    come(scheduler, request("last", prompt(2)))
    assert a_pass(scheduler) == ["0", "1", "2", "last"]


def test_who_was_passed_by_for_its_start_keeps_its_place(scheduler: Any) -> None:
    come(scheduler, request("a", prompt(1)), request("b", prompt(1)), request("c", prompt(2)))
    come(scheduler, request("d", prompt(3)))
    scheduler.tree.reset()
    assert a_pass(scheduler) == ["a", "c", "d", "b"]  # nobody was taken
    assert a_pass(scheduler, room=2) == ["a", "c"]
    again = request("a2", prompt(1))
    come(scheduler, again)
    assert a_pass(scheduler) == ["b", "d", "a2"]


def test_nobody_is_overtaken_beyond_the_bound(scheduler: Any) -> None:
    cached, rare = prompt(1), request("rare", prompt(2))
    store(scheduler, cached)
    come(scheduler, rare)
    taken: list[str] = []
    for number in range(BOUND):
        while len(scheduler.waiting_queue) < 2 * FEWEST_AHEAD:
            come(scheduler, request(f"c{number}", cached))
        taken += a_pass(scheduler, room=8)
        if "rare" in taken:
            break
    assert 0 < taken.index("rare") <= BOUND


def test_as_many_are_put_in_order_as_passes_take(
    scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []
    own = LocalQueue.order

    def order(queue: LocalQueue[Any], limit: int) -> list[Any]:
        limits.append(limit)
        return own(queue, limit)

    monkeypatch.setattr(LocalQueue, "order", order)
    come(scheduler, *(request(str(number), prompt(number)) for number in range(400)))
    for room in (FEWEST_AHEAD, 64, 200, 1, 1, 1):
        a_pass(scheduler, room=room)
    assert limits == [16, 32, MOST_AHEAD, MOST_AHEAD, 32, 16]


def test_equal_lists_get_an_equal_order(orders: WaitingOrders) -> None:
    """As those of ranks in lockstep are."""
    found = []
    for _ in range(2):
        scheduler, seen = make_scheduler(), []
        for step in range(30):
            come(scheduler, *(request(f"{step}.{n}", prompt((step * n) % 7)) for n in range(5)))
            seen += a_pass(scheduler, room=3)
            store(scheduler, prompt(step % 5))
        found.append(seen)
    assert found[0] == found[1]


def test_who_was_taken_is_not_kept_alive(scheduler: Any) -> None:
    one = request("a", prompt(1))
    known = weakref.ref(one)
    come(scheduler, one)
    a_pass(scheduler, room=1)
    scheduler.took = []
    del one
    gc.collect()
    assert known() is None


# --- what goes wrong ---


def failing(*_: Any) -> Any:
    raise ZeroDivisionError


def test_a_look_that_fails_counts_as_nothing_cached(
    scheduler: Any, orders: WaitingOrders, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(scheduler.tree, "match_prefix", failing)
    come(scheduler, *(request(str(number), prompt(number)) for number in range(4)))
    assert a_pass(scheduler, room=2) == ["0", "1"]
    assert a_pass(scheduler) == ["2", "3"]
    assert orders.faults.counts["a look at the cache"] > 1
    assert caplog.text.count("preble failed in a look at the cache") == 1


def test_sglangs_own_order_goes_on_where_ours_fails(
    scheduler: Any, orders: WaitingOrders, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    store(scheduler, prompt(2))
    come(scheduler, *(request(f"r{number}", prompt(number)) for number in range(3)))
    assert a_pass(scheduler) == ["r2", "r0", "r1"]
    with monkeypatch.context() as patched:
        patched.setattr(hooks, "alike_tokens", failing)
        come(scheduler, request("r3", prompt(3)))
        for _ in range(2):
            assert a_pass(scheduler) == ["r0", "r1", "r2", "r3"]
    assert a_pass(scheduler, room=1) == ["r2"]
    assert orders.faults.counts == {"the local queue": 2}
    assert caplog.text.count("preble failed in the local queue") == 1


# --- where it is not asked ---


@pytest.mark.parametrize(
    ("policy", "cache", "priorities"),
    [
        ("lpm", True, False),
        ("dfs-weight", True, False),
        ("lof", True, True),
        ("routing-key", True, False),
        ("lpm", False, False),
        ("fcfs", False, False),
        ("fcfs", False, True),
    ],
)
def test_other_policies_and_servers_without_a_cache_are_left_alone(
    orders: WaitingOrders, caplog: Any, policy: str, cache: bool, priorities: bool
) -> None:
    scheduler = make_scheduler(policy, cache=cache, priorities=priorities)
    come(scheduler, *(request(str(number), prompt(number), number % 2) for number in range(6)))
    with caplog.at_level(logging.INFO):
        a_pass(scheduler)
    assert list(orders._orders.values()) == [None]
    assert "taken up by preble" not in caplog.text


def test_a_diffusion_model_is_left_alone(scheduler: Any, orders: WaitingOrders) -> None:
    """`dllm/mixin/scheduler.py: SchedulerDllmMixin.get_new_batch_dllm`."""
    scheduler.policy.calc_priority(scheduler.waiting_queue)
    assert len(orders._orders) == 0


def test_a_streaming_session_is_not_matched(scheduler: Any) -> None:
    class Session:
        streaming = True

    one = request("a", prompt(1))
    one.session = Session()
    assert hooks.cached_tokens(scheduler.policy, one) == 100
    assert one.last_node is None


def test_a_request_that_waits_is_matched_as_lpm_does(scheduler: Any) -> None:
    store(scheduler, prompt(1, 60))
    ours, theirs = request("a", prompt(1)), request("b", prompt(1))
    assert hooks.cached_tokens(scheduler.policy, ours) == 60
    lpm = make_scheduler("lpm")
    lpm.policy.tree_cache = scheduler.tree
    come(lpm, theirs)
    lpm.policy.calc_priority(lpm.waiting_queue)
    assert theirs.num_matched_prefix_tokens == 60
    assert ours.last_node is theirs.last_node
