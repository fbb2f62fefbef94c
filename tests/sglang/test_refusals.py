"""What cannot work is refused by a sentence with its remedy, before any model
loads; under `auto` it is SGLang's own dispatch, with one warning.

SGLang parses, resolves and checks here as it does, up to its first child.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from preble_plugin.service.run_dir import living_servers
from preble_plugin.settings import Settings
from tests.engines import EngineRoom, SglangServing
from tests.engines.client import tokens
from tests.engines.preble import RUN_DIR, RUN_ENVIRONMENT
from tests.sglang.launching import Launched, Launching
from tests.sglang.preble_servers import SglangClient

pytestmark = pytest.mark.sglang
TWO = ("--dp-size", "2")
ATTENTION = ("--tp-size", "2", "--attn-dp-size", "2")
PREBLE = ("--dp-scheduler", "preble")
AUTO = ("--dp-scheduler", "auto")
RUST = {"SGLANG_RUST_SERVER": "1"}


def events(**config: str) -> tuple[str, ...]:
    return (*TWO, "--kv-events-config", json.dumps(config))


def config(**settings: str) -> tuple[str, ...]:
    return ("--dp-scheduler-config", json.dumps(settings))


REFUSED: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    (config(local_queue="off"), {}, "one rank, whose local queue is off: set --dp-size to 2"),
    (("--schedule-policy", "lpm"), {}, "one rank, whose local queue is off: set --dp-size to 2"),
    (("--disable-radix-cache",), {}, "radix cache and it is off for this server: leave out"),
    ((*TWO, "--disable-radix-cache"), {}, "radix cache and it is off for this server: leave out"),
    (
        (*TWO, "--disaggregation-mode", "decode"),
        {},
        "off for this server: set --disaggregation-decode-enable-radix-cache",
    ),
    (
        (
            *(*TWO, "--disaggregation-mode", "prefill"),
            *("--load-balance-method", "follow_bootstrap_room"),
        ),
        {},
        "follow_bootstrap_room lets its bootstrap room do so: leave that out",
    ),
    (
        (*TWO, "--load-balance-method", "total_tokens"),
        {},
        "--load-balance-method total_tokens are two choices for one thing: leave one of them out",
    ),
    (ATTENTION, RUST, "the Rust server passes it by: unset SGLANG_RUST_SERVER"),
    (TWO, RUST, "the Rust server passes it by: unset SGLANG_RUST_SERVER"),
    (
        (
            *(*ATTENTION, "--nnodes", "2", "--node-rank", "0"),
            *("--dist-init-addr", "127.0.0.1:5999"),
        ),
        {},
        "this server spans 2: run one server on each node",
    ),
    (events(publisher="null"), {}, "does not publish events: leave it out, or set publisher to"),
    (events(), {}, "does not publish events"),
    (
        events(publisher="zmq", endpoint="tcp://collector:5557"),
        {},
        "publishes to tcp://collector:5557 instead of binding an address",
    ),
    (events(publisher="zmq", endpoint="ipc:///tmp/kv"), {}, "has one ipc path for all ranks"),
    (events(publisher="zmq", endpoint="tcp://*:0"), {}, "leaves the port open, which SGLang does"),
    (("--encoder-only",), {}, "with --encoder-only there are none: give it to the servers behind"),
]
LEFT_ALONE = [one for one in REFUSED if "--encoder-only" not in one[0]]


@pytest.fixture(scope="module")
def launching() -> Iterator[Launching]:
    with Launching() as process:
        yield process


@pytest.mark.parametrize(("arguments", "environment", "message"), REFUSED)
def test_what_cannot_work_is_refused(
    launching: Launching, arguments: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    error = launching.ask("serve", [*arguments, *PREBLE], environment).error
    assert error is not None
    assert message in error
    assert error.startswith("CannotWork: --dp-scheduler preble")
    assert error.endswith(".")
    assert "\n" not in error


@pytest.mark.parametrize(("arguments", "environment", "message"), LEFT_ALONE)
def test_what_cannot_work_is_left_to_sglang_under_auto(
    launching: Launching, arguments: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    own = launching.ask("serve", [*arguments, "--dp-scheduler", "default"], environment)
    found = launching.ask("serve", [*arguments, *AUTO], environment)
    assert (found.method, found.events) == (own.method, own.events)
    assert (found.error, found.settings, own.error) == (None, None, None)
    (warning,) = found.warnings
    assert "] SGLang's own dispatch is used. --dp-scheduler preble" in warning
    assert message in warning


def test_an_encoder_is_told_so_under_auto(launching: Launching) -> None:
    (warning,) = launching.ask("serve", ["--encoder-only", *AUTO]).warnings
    assert "with --encoder-only there are none" in warning


def test_ray_is_refused(launching: Launching) -> None:
    given = {"dp_size": 2, "use_ray": True}
    error = launching.ask("record", given, {"PREBLE_DP_SCHEDULER": "preble"}).error
    assert error is not None
    assert "Ray runs it in a thread: leave out --use-ray" in error


def test_a_refusal_from_python_says_the_same(launching: Launching) -> None:
    given = {"dp_size": 1, "schedule_policy": "lpm"}
    for way in ("engine", "record"):
        error = launching.ask(way, given, {"PREBLE_DP_SCHEDULER": "preble"}).error
        assert error is not None
        assert error.startswith("CannotWork: --dp-scheduler preble places requests among")


def test_several_tokenizers_detokenizers_and_stages_are_served(launching: Launching) -> None:
    more = ("--tokenizer-worker-num", "2", "--detokenizer-worker-num", "2", "--pp-size", "2")
    assert launching.ask("serve", [*TWO, *PREBLE, *more]).settings == Settings()


def test_prefill_servers_are_served_where_their_method_is_not_named(launching: Launching) -> None:
    found = launching.ask("serve", [*TWO, *PREBLE, "--disaggregation-mode", "prefill"])
    assert (found.error, found.method) == (None, "total_tokens")


# --- the local queue ---


@pytest.mark.parametrize("choice", [PREBLE, AUTO, (*PREBLE, *config(local_queue="on"))])
def test_one_rank_has_the_local_queue_alone(launching: Launching, choice: tuple[str, ...]) -> None:
    found = launching.ask("serve", list(choice))
    own = launching.ask("serve")
    assert (found.error, found.queue, found.settings, found.warnings) == (None, True, None, [])
    assert (found.method, found.events, own.queue) == (own.method, own.events, False)
    assert found.said.count("one data-parallel rank: what waits is put in order") == 1


def test_a_choice_is_told_to_one_engine(launching: Launching) -> None:
    found = launching.ask("engines", [{"dp_scheduler": "preble"}, {}])
    assert not found.queue


def test_several_ranks_have_the_local_queue_beside_placement(launching: Launching) -> None:
    found = launching.ask("serve", [*TWO, *PREBLE, "--enable-priority-scheduling"])
    assert (found.settings, found.queue, found.warnings) == (Settings(), True, [])
    off = launching.ask("serve", [*TWO, *PREBLE, *config(local_queue="off")])
    assert (off.settings, off.queue) == (Settings(local_queue="off"), False)


def test_a_policy_that_the_user_chose_stays_with_a_warning(launching: Launching) -> None:
    found = launching.ask("serve", [*TWO, *PREBLE, "--schedule-policy", "lpm"])
    assert (found.settings, found.queue) == (Settings(), False)
    assert "--schedule-policy lpm orders what waits, and not preble's local queue" in found.said
    off = config(local_queue="off")
    quiet = launching.ask("serve", [*TWO, *PREBLE, *off, "--schedule-policy", "lpm"])
    assert "orders what waits" not in quiet.said


def test_a_local_queue_that_is_asked_for_and_cannot_be_is_refused(launching: Launching) -> None:
    given = [*TWO, *PREBLE, *config(local_queue="on"), "--schedule-policy", "lpm"]
    error = launching.ask("serve", given).error
    assert error is not None
    assert "local_queue on and --schedule-policy lpm are two orders for what waits: leave" in error


# --- versions ---


@pytest.mark.parametrize("version", ["0.5.18", "0.5.24", "0.6.0rc1"])
@pytest.mark.parametrize("scheduler", [PREBLE, AUTO])
def test_a_version_that_is_not_tested_is_served_and_a_line_says_so(
    launching: Launching, scheduler: tuple[str, ...], version: str
) -> None:
    found = launching.ask("serve", [*TWO, *scheduler], version=version)
    (line,) = found.warnings
    assert (found.error, found.settings) == (None, Settings())
    assert f"tested on SGLang 0.5.22 to 0.5.23 and this is {version}: all that is used" in line


@pytest.mark.parametrize("version", ["0.5.22.post1", "0.5.23.post2", "0.5.23+cu130"])
def test_patches_of_tested_versions_are_tested(launching: Launching, version: str) -> None:
    found = launching.ask("serve", [*TWO, *PREBLE], version=version)
    assert (found.settings, found.warnings) == (Settings(), [])


@pytest.mark.parametrize(
    "name",
    [
        "KVEventsConfig",
        "DataParallelController.total_tokens_scheduler",
        "DataParallelController.event_loop",
        "SenderWrapper.send_output",
        "SchedulePolicy.calc_priority",
    ],
)
def test_a_version_with_one_touch_renamed_is_refused_by_its_name(
    launching: Launching, name: str
) -> None:
    def ask(*scheduler: str) -> Launched:
        return launching.ask("serve", [*TWO, *scheduler], version="0.5.24", renamed=name)

    error = ask(*PREBLE).error
    assert error is not None
    assert re.match(
        rf"CannotWork: --dp-scheduler preble relies on sglang\S*:{name} of SGLang, and in 0.5.24 "
        r"it .*: use SGLang 0.5.22 to 0.5.23, upgrade preble-plugin, or use",
        error,
    )
    left = ask(*AUTO)
    (warning,) = left.warnings
    assert (left.error, left.settings, left.method) == (None, None, "round_robin")
    assert f":{name} of SGLang" in warning


# --- the real command ---


def test_the_real_command_ends_with_the_sentence_before_any_process_starts(
    engine_room: EngineRoom,
) -> None:
    server = SglangServing(flags=(*PREBLE, "--disable-radix-cache"), environment=RUN_ENVIRONMENT)
    said = engine_room.refused(server)
    assert "CannotWork: --dp-scheduler preble needs the radix cache and it is off" in said
    assert "DP0" not in said  # no rank has said a word
    assert living_servers(RUN_DIR / "events") == []


def test_a_real_server_that_cannot_place_serves_by_itself_under_auto(
    engine_room: EngineRoom,
) -> None:
    server = engine_room.serve(
        SglangServing(flags=(*AUTO, "--disable-radix-cache"), environment=RUN_ENVIRONMENT)
    )
    client, before = SglangClient(server), server.computed_tokens()
    for _ in range(4):
        client.complete(tokens(970, 100))
    after = server.computed_tokens()
    assert {rank: after[rank] - before[rank] for rank in after} == {"0": 200, "1": 200}
    assert server.log_text().count("SGLang's own dispatch is used.") == 1
    assert not [one for one in server.metrics().samples if one.name.startswith("preble")]
