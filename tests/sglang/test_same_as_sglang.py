"""What a client sees is what it sees of SGLang's own dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from preble_plugin.bench.server import members
from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.service.run_dir import living_servers
from tests.engines import ROOT, EngineRoom, SglangServing, serving
from tests.engines.client import tokens
from tests.engines.preble import RUN_DIR
from tests.sglang.preble_servers import OWN, ROUND_ROBIN, TWO, SglangClient, sglang_requests

pytestmark = pytest.mark.sglang
GOOD: list[dict[str, Any]] = [
    {"prompt": [5]},
    {"prompt": "a"},
    {"prompt": [7] * 15},
    {"prompt": [7] * 16},
    {"prompt": [7] * 17},
    {"prompt": [7] * 4000},
    {"prompt": [[7] * 40, [8] * 40]},
    {"prompt": ["Stan re", "Stan re Stan"]},
    {"prompt": [5], "n": 0},
    *({**body, "n": 1, "temperature": 0} for body in sglang_requests(seed=3, count=40)),
]
BAD: list[dict[str, Any]] = [
    {"prompt": []},
    {"prompt": [5, 1 << 70]},
    {"prompt": ["a", 5]},
    {"prompt": [7] * 4200},
    {"prompt": [7] * 8193},
    {"prompt": [7] * 200_000},
    {"prompt": [5], "max_new_tokens": -1},
    {"prompt": [5], "temperature": -1.0},
    {"prompt": [5], "return_logprob": True, "logprob_start_len": 9},
    {"prompt": [5], "routed_dp_rank": 7},
]
# The text "" is not among them: no tokens come of it, and SGLang ends on a CPU.


class Said(NamedTuple):
    answers: list[list[list[int]]]
    errors: list[tuple[int, Any]]


@pytest.fixture(scope="session")
def say(engine_room: EngineRoom) -> Callable[[SglangServing], Said]:
    """What a server of a kind says to `GOOD`, one at a time and greedy, and to `BAD`."""
    known: dict[SglangServing, Said] = {}

    def ask(kind: SglangServing) -> Said:
        if kind not in known:
            client = SglangClient(engine_room.serve(kind))
            given = [client.generate(**body) for body in GOOD]
            answers = [it if isinstance(it, list) else [it] for it in given]
            known[kind] = Said([[one["output_ids"] for one in it] for it in answers], [])
            for number, body in enumerate(BAD):
                refused = client.ask(**body)
                known[kind].errors.append((refused.status_code, refused.text))
                assert client.generate(tokens(number, 50))["output_ids"]
        return known[kind]

    return ask


@serving(TWO)
def test_every_request_is_answered_or_refused(
    server_kind: SglangServing, say: Callable[[SglangServing], Said]
) -> None:
    said = say(server_kind)
    assert all(all(answers) for answers in said.answers)
    assert [status for status, _ in said.errors] == [400] * len(BAD)


@serving(OWN)
def test_answers_and_errors_are_sglangs_own(
    server_kind: SglangServing, say: Callable[[SglangServing], Said]
) -> None:
    ours = say(TWO)
    assert say(server_kind) == ours


def processes(server: SglangServer) -> list[str]:
    return sorted(one.name() for one in members(server.pid))


@serving(OWN)
def test_without_the_choice_nothing_of_ours_runs(
    server: SglangServer, server_kind: SglangServing, engine_room: EngineRoom
) -> None:
    client = SglangClient(server)
    assert [client.generate([5])["meta_info"]["dp_rank"] for _ in range(4)] in (
        [0, 1, 0, 1],
        [1, 0, 1, 0],
    )
    assert "preble" not in client.get("/metrics").text
    log = server.log_text().replace(str(ROOT), "")  # a clone is named after us
    told = [line for line in log.splitlines() if "server_args=" not in line]
    assert "preble" not in "\n".join(told)
    assert living_servers(RUN_DIR) == []
    info = client.get("/server_info").json()
    assert (info["kv_events_config"], info["load_balance_method"]) == (None, "round_robin")
    found = processes(server)
    assert found == processes(engine_room.serve(ROUND_ROBIN))
