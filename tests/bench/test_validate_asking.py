"""Workloads asked of a real HTTP server that streams token ids as the engines do."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.validate.asking import SPECIAL, ids, replay
from preble_plugin.bench.tiny_model import VOCABULARY
from preble_plugin.sim.asked import Asked, Part

ANSWER = [11, 12, 13, 14, 15]


class Engine:
    """Answers every prompt with `ANSWER`, in two chunks; refuses prompts of `refused` tokens."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.ranks: list[str | None] = []
        self.refused = -1
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                engine.prompts.append(asked["prompt"])
                engine.ranks.append(self.headers["X-data-parallel-rank"])
                refuse = len(asked["prompt"]) == engine.refused
                self.send_response(500 if refuse else 200)
                self.end_headers()
                if refuse:
                    return
                for tokens in (ANSWER[:1], ANSWER[1 : asked["max_tokens"]]):
                    self._send({"choices": [{"text": "", "token_ids": tokens}]})
                usage = {"prompt_tokens": len(asked["prompt"])}
                self._send({"choices": [], "usage": usage | {"completion_tokens": len(ANSWER)}})

            def _send(self, chunk: dict[str, object]) -> None:
                text = json.dumps(chunk, separators=(",", ":"))
                self.wfile.write(f"data: {text}\n\n".encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    thread = threading.Thread(target=engine.server.serve_forever)
    thread.start()
    yield engine
    engine.server.shutdown()
    engine.server.server_close()
    thread.join()


def turn(number: int, *parts: Part, after: int | None = None) -> Asked:
    return Asked(
        f"turn {number}",
        0.0,
        parts,
        len(ANSWER),
        after=None if after is None else f"turn {after}",
        answer=100 + number,
    )


def test_prompts_are_the_streams_tokens_in_the_vocabulary(engine: Engine) -> None:
    replay(engine.url, "tiny", [turn(1, Part(1, 40), Part(2, 8))])
    assert engine.prompts == [ids(1, 40) + ids(2, 8)]
    assert all(SPECIAL <= token < VOCABULARY for token in engine.prompts[0])


def test_the_next_turn_goes_on_from_what_the_engine_answered(engine: Engine) -> None:
    chain = [turn(1, Part(1, 40)), turn(2, Part(1, 40), Part(101, 5), Part(3, 6), after=1)]
    replay(engine.url, "tiny", chain)
    assert engine.prompts[1] == [*ids(1, 40), *ANSWER, *ids(3, 6)]


def test_a_turn_is_due_when_the_one_before_has_ended(engine: Engine) -> None:
    chain = [turn(1, Part(1, 40)), turn(2, Part(2, 40), after=1)]
    first, second = replay(engine.url, "tiny", chain)
    assert second.arrived == pytest.approx(first.arrived + first.latency)


def test_after_a_failed_turn_the_next_one_is_asked_all_the_same(engine: Engine) -> None:
    engine.refused = 40
    chain = [turn(1, Part(1, 40)), turn(2, Part(1, 40), Part(101, 5), after=1)]
    first, second = replay(engine.url, "tiny", chain)
    assert first.error is not None
    assert second.error is None
    assert len(engine.prompts[1]) == 45


def test_a_short_answer_is_an_error(engine: Engine) -> None:
    long = Asked("long", 0.0, (Part(1, 40),), 9)
    assert replay(engine.url, "tiny", [long])[0].error == "5 tokens"


def test_ranks_are_taken_in_turn_where_nobody_is_to_place(engine: Engine) -> None:
    chain = [turn(1, Part(1, 40)), turn(2, Part(2, 40), after=1), turn(3, Part(3, 40), after=2)]
    replay(engine.url, "tiny", chain)
    replay(engine.url, "tiny", chain, ranks=2)
    assert engine.ranks == [None, None, None, "0", "1", "0"]


def test_servers_are_taken_in_turn_where_there_are_several(engine: Engine) -> None:
    chain = [turn(1, Part(1, 40)), turn(2, Part(2, 40), after=1), turn(3, Part(3, 40), after=2)]
    nobody = "http://127.0.0.1:1"
    failed = [one.error is not None for one in replay([engine.url, nobody], "tiny", chain)]
    assert failed == [False, True, False]
