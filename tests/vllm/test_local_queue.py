"""The local queue in vLLM's real schedulers, in this process and without a model."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.facts import QueueFacts
from preble_plugin.vllm_ext.local_queue import WaitingQueue, waiting_queue
from tests.engines.client import tokens
from tests.vllm.in_process import BLOCK, Core
from tests.vllm.serve_config import clean_process

pytestmark = pytest.mark.vllm
DOCUMENT = tokens(1, 20 * BLOCK)


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_process(monkeypatch)


def plain(**more: Any) -> Core:
    from preble_plugin.vllm_ext.schedulers import PrebleScheduler

    return Core(PrebleScheduler, **more)


def asynchronous(**more: Any) -> Core:
    from preble_plugin.vllm_ext.schedulers import PrebleAsyncScheduler

    return Core(PrebleAsyncScheduler, ahead=True, async_scheduling=True, **more)


def vllms_own(**more: Any) -> Core:
    from vllm.v1.core.sched.scheduler import Scheduler

    return Core(Scheduler, **more)


def queued(make: Callable[[QueueFacts], WaitingQueue], **more: Any) -> Core:
    """A scheduler whose queue is what `make` makes of its facts."""
    kind, _ = hooks.queueing_schedulers(lambda scheduler: make(hooks.queue_facts(scheduler)))
    return Core(kind, **more)


both = pytest.mark.parametrize("start", [plain, asynchronous])


def cached(core: Core) -> Core:
    """`core`, once it has `DOCUMENT` in its cache."""
    core.add("document", DOCUMENT)
    assert core.steps() == ["document"]
    return core


def question(number: int) -> list[int]:
    """One about `DOCUMENT`."""
    return [*DOCUMENT, *tokens(100 + number, 30)]


def other(number: int, blocks: int = 20) -> list[int]:
    """A prompt that nothing else shares."""
    return tokens(200 + number, blocks * BLOCK)


# --- order ---


@both
def test_cached_work_goes_first(start: Callable[..., Core]) -> None:
    core = cached(start(max_num_seqs=1))
    for number in range(4):
        core.add(f"other {number}", other(number))
    core.add("question", question(0))
    assert core.steps() == ["question", *(f"other {number}" for number in range(4))]
    assert core.hits["question"] == len(DOCUMENT)
    assert set(core.said.values()) == {1}


def test_vllms_own_scheduler_takes_the_first_that_came() -> None:
    core = cached(vllms_own(max_num_seqs=1))
    core.add("other", other(0))
    core.add("question", question(0))
    assert core.steps() == ["other", "question"]


@both
def test_what_is_computed_now_draws_the_rest_of_its_kind(start: Callable[..., Core]) -> None:
    """Nothing is cached when they come: a document's second question follows the first."""
    core = start(max_num_seqs=1)
    for turn in range(3):
        for document in range(3):
            core.add(f"{document}.{turn}", [*other(document), *tokens(turn, 40)])
    order = core.steps()
    assert [name[0] for name in order] == sorted(name[0] for name in order)


def test_nobody_is_overtaken_more_often_than_is_said() -> None:
    core = cached(queued(partial(WaitingQueue, overtakes=3), max_num_seqs=1))
    core.add("other", other(0))
    for number in range(8):
        core.add(f"question {number}", question(number))
    assert core.steps().index("other") == 3


@both
def test_priorities_come_first(start: Callable[..., Core]) -> None:
    core = cached(start(max_num_seqs=1, scheduling_policy="priority"))
    core.add("question", question(0), priority=2)
    core.add("later", other(1), priority=1)
    core.add("urgent", other(2), priority=-5)
    assert core.steps() == ["urgent", "later", "question"]


def test_without_the_policy_priorities_are_ignored_as_vllm_does() -> None:
    core = cached(plain(max_num_seqs=1))
    core.add("other", other(0), priority=-5)
    core.add("question", question(0), priority=2)
    assert core.steps() == ["question", "other"]


def test_a_request_that_reads_no_cache_has_nothing_cached() -> None:
    core = cached(plain(max_num_seqs=1))
    core.add("other", other(0))
    core.add("question", question(0)).skip_reading_prefix_cache = True
    assert core.steps() == ["other", "question"]


# --- what vLLM does with its requests ---


@both
def test_a_request_aborted_while_it_waits_is_never_taken_up(start: Callable[..., Core]) -> None:
    core = cached(start(max_num_seqs=1))
    for number in range(3):
        core.add(f"question {number}", question(number))
        core.add(f"other {number}", other(number))
    core.abort("question 0", "other 2", "unknown")
    order = core.steps()
    assert order == ["question 1", "question 2", "other 0", "other 1"]
    assert len(core.scheduler.waiting) == 0


@both
def test_what_runs_and_what_was_preempted_can_be_aborted(start: Callable[..., Core]) -> None:
    core = start(blocks=40, max_num_seqs=4, watermark=0.0)
    for number in range(3):
        core.add(f"long {number}", other(number, blocks=10), tokens=400)
    while not core.preempted:
        core.step()
    core.abort("long 2", "long 1")
    core.steps()
    assert core.said["long 0"] == 400
    assert len(core.scheduler.waiting) == 0


@both
def test_the_preempted_go_before_what_is_cached_and_lose_nothing(
    start: Callable[..., Core],
) -> None:
    core = start(blocks=40, max_num_seqs=3)
    for number in range(3):
        core.add(f"long {number}", other(number, blocks=10), tokens=300)
    while not core.preempted:
        core.step()
    preempted = core.scheduler.waiting.peek_request().request_id
    core.add("question", [*other(0, blocks=10), *tokens(3, 40)], tokens=2)
    core.scheduler.waiting.begin_step()
    assert core.scheduler.waiting.peek_request().request_id == preempted
    core.steps(most=3000)
    assert core.said == {"long 0": 300, "long 1": 300, "long 2": 300, "question": 2}


@both
def test_a_request_that_is_put_off_does_not_hold_up_the_others(
    start: Callable[..., Core],
) -> None:
    """One adapter fits into a batch; vLLM passes over requests of another."""
    from vllm.lora.request import LoRARequest

    core = start(max_num_seqs=2, enable_lora=True, max_loras=1)
    one, two = (LoRARequest(f"adapter {n}", n, "/nowhere") for n in (1, 2))
    core.add("first", other(0), lora_request=one, tokens=4)
    assert core.step() == ["first"]
    core.add("put off", other(1), lora_request=two)
    core.add("second", other(2), lora_request=one)
    assert core.step() == ["second"]
    assert core.steps() == ["put off"]
    assert core.said == {"first": 4, "second": 1, "put off": 1}


@both
def test_prompts_are_computed_in_chunks(start: Callable[..., Core]) -> None:
    core = cached(start(max_num_batched_tokens=256, max_num_seqs=4))
    for number in range(3):
        core.add(f"other {number}", other(number), tokens=3)
    core.add("question", question(0), tokens=3)
    assert core.step()[0] == "question"
    core.steps()
    expected = {f"other {number}": 3 for number in range(3)}
    assert core.said == {"document": 1, "question": 3, **expected}


@both
def test_what_a_kv_connector_brings_is_waited_for_and_holds_up_nobody(
    start: Callable[..., Core],
) -> None:
    from vllm.config import KVTransferConfig

    connector = KVTransferConfig(
        kv_connector="SlowConnector",
        kv_connector_module_path="tests.vllm.slow_connector",
        kv_role="kv_both",
    )
    core = start(max_num_seqs=1, kv_transfer_config=connector)
    for number in range(2):
        core.add(f"remote {number}", other(number), tokens=2)
        core.add(f"local {number}", other(10 + number), tokens=2)
    order = [name for _ in range(12) for name in core.step()]
    assert order == ["local 0", "local 1"]
    loading = core.scheduler.connector.loading
    assert loading == {"remote 0", "remote 1"}
    core.arrived = set(loading)
    assert sorted(core.steps()) == ["remote 0", "remote 1"]
    assert core.said == {"local 0": 2, "local 1": 2, "remote 0": 2, "remote 1": 2}
    assert core.scheduler.waiting.faults == {}


@both
def test_a_long_mixed_life_ends_every_request(start: Callable[..., Core]) -> None:
    rng = random.Random(5)
    core = start(blocks=120, max_num_seqs=4, max_num_batched_tokens=512)
    wanted: dict[str, int] = {}
    for number in count():
        if number == 150:
            break
        name, told = f"request {number}", rng.randrange(1, 40)
        core.add(name, [*other(rng.randrange(6)), *tokens(number, 20)], tokens=told)
        wanted[name] = told
        if rng.random() < 0.1:
            gone = f"request {rng.randrange(number + 1)}"
            if core.said.get(gone, 0) < wanted.get(gone, 0):
                core.abort(gone)
                del wanted[gone]
        core.step()
    core.steps(most=3000)
    assert {name: core.said[name] for name in wanted} == wanted
    assert core.scheduler.waiting.faults == {}


# --- as a queue of vLLM's ---


def facts(own: Any, by_priority: bool = False, looks: int = 64) -> QueueFacts:
    """Of a scheduler in whose cache nothing is."""
    return QueueFacts(own, by_priority, lambda request: 0, looks)


class Waits:
    """A request as far as a queue looks into it, with vLLM's own order of priority."""

    def __init__(self, number: int, priority: int = 0) -> None:
        self.request_id, self.arrival_time = f"request {number}", float(number)
        self.priority, self.num_prompt_tokens = priority, 10

    def __lt__(self, other: Waits) -> bool:
        from vllm.v1.request import Request

        return bool(Request.__lt__(self, other))  # type: ignore[arg-type]


OPERATIONS = ("add", "add", "add", "pop", "pop", "peek", "put back", "put back 2", "remove", "step")


@given(st.lists(st.tuples(st.sampled_from((*OPERATIONS, "fault")), st.integers(0, 99))))
def test_where_nothing_is_cached_it_is_vllms_own_queue_also_after_a_fault(
    operations: Sequence[tuple[str, int]],
) -> None:
    from vllm.v1.core.sched.request_queue import FCFSRequestQueue

    ours, own = WaitingQueue(facts(FCFSRequestQueue())), FCFSRequestQueue()
    queues: tuple[Any, Any] = (ours, own)
    numbers = count()
    taken: deque[Any] = deque()
    for operation, choice in operations:
        if operation in ("add", "fault"):
            request = Waits(next(numbers))
            if operation == "fault":
                request.num_prompt_tokens = None  # type: ignore[assignment]
            for queue in queues:
                queue.add_request(request)
        elif operation == "pop" and own:
            taken.append(own.pop_request())
            assert ours.pop_request() is taken[-1]
        elif operation == "peek" and own:
            assert ours.peek_request() is own.peek_request()
        elif operation == "put back" and taken:
            one = taken.pop()
            for queue in queues:
                queue.prepend_request(one)
        elif operation == "put back 2" and len(taken) > 1:
            some = deque([taken.pop(), taken.pop()])
            for queue in queues:
                queue.prepend_requests(some)
        elif operation == "remove" and own:
            gone = own[choice % len(own)]
            for queue in queues:
                queue.remove_requests([gone, *list(taken)[:1]])
        elif operation == "step":
            ours.begin_step()
        assert (len(ours), bool(ours), list(ours)) == (len(own), bool(own), list(own))


@given(st.lists(st.integers(-2, 2) | st.none()))
def test_with_priorities_and_nothing_cached_it_is_vllms_own_queue(
    priorities: Sequence[int | None],
) -> None:
    from vllm.v1.core.sched.request_queue import PriorityRequestQueue

    ours = WaitingQueue(facts(PriorityRequestQueue(), by_priority=True))
    own = PriorityRequestQueue()
    for number, priority in enumerate(priorities):
        if priority is None:
            if own:
                assert ours.pop_request() is own.pop_request()
            continue
        request: Any = Waits(number, priority)
        for queue in (ours, own):
            queue.add_request(request)
    while own:
        assert ours.pop_request() is own.pop_request()
    assert not ours


def test_an_empty_queue_has_nothing_to_show() -> None:
    queue = WaitingQueue(facts(deque()))
    for ask in (queue.peek_request, queue.pop_request):
        with pytest.raises(IndexError, match="empty"):
            ask()


# --- faults ---


def test_a_look_that_raises_counts_as_nothing_cached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: object) -> int:
        raise RuntimeError("no such cache")

    core = queued(lambda found: WaitingQueue(found._replace(cached_tokens=broken)), max_num_seqs=1)
    cached(core)
    for number in range(3):
        core.add(f"other {number}", other(number))
    core.add("question", question(0))
    assert core.steps() == ["other 0", "other 1", "other 2", "question"]
    assert core.scheduler.waiting.faults["a look of the local queue"] > 1


def test_an_order_that_fails_leaves_the_rest_to_vllms_own_queue() -> None:
    core = cached(plain(max_num_seqs=1))
    core.add("other", other(0))
    core.add("question", question(0))
    broken = core.request("broken", other(1))
    core.scheduler.requests[broken.request_id] = broken
    tokens_of, broken.num_prompt_tokens = broken.num_prompt_tokens, None
    core.scheduler.waiting.add_request(broken)
    broken.num_prompt_tokens = tokens_of
    core.add("question 1", question(1))
    assert core.steps() == ["other", "question", "broken", "question 1"]
    assert core.scheduler.waiting.faults == {"the local queue's add_request": 1}


def test_a_scheduler_that_is_not_as_we_know_it_keeps_its_queue() -> None:
    assert waiting_queue(object()) is None
