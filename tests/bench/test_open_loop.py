"""The load generator against a real HTTP server that streams as vLLM does."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from preble_plugin.bench.open_loop import drive, warm
from preble_plugin.bench.workload import Call


class Engine:
    """Streams the tokens asked for; `before_reply` runs before each answer."""

    def __init__(self) -> None:
        self.before_reply: Callable[[], None] = lambda: None
        self.status = 200
        self.short_by = 0
        self.ranks: list[str | None] = []
        self.prompts: list[str] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                engine.ranks.append(self.headers["X-data-parallel-rank"])
                engine.prompts.append(body["messages"][0]["content"])
                engine.before_reply()
                self.send_response(engine.status)
                self.end_headers()
                if engine.status != 200:
                    return
                tokens = body["max_tokens"] - engine.short_by
                usage = {
                    "prompt_tokens": 40,
                    "completion_tokens": tokens,
                    "prompt_tokens_details": {"cached_tokens": 32},
                }
                for _ in range(tokens):
                    self._send({"choices": [{"delta": {"content": "x"}}]})
                self._send({"choices": [], "usage": usage})
                self.wfile.write(b"data: [DONE]\n\n")

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
    thread = threading.Thread(target=engine.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield engine
    engine.server.shutdown()
    thread.join()
    engine.server.server_close()


def calls(count: int, apart_seconds: float = 0.0, tokens: int = 4) -> list[Call]:
    return [Call(number * apart_seconds, f"call {number}", tokens, 0) for number in range(count)]


def test_calls_are_sent_while_earlier_ones_are_unanswered(engine: Engine) -> None:
    all_sent = threading.Barrier(8)
    engine.before_reply = lambda: all_sent.wait(timeout=30) and None
    answers = drive(engine.url, "tiny", calls(8, apart_seconds=0.01))
    assert [answer.error for answer in answers] == [None] * 8


def test_answers_come_in_order_of_arrival_with_what_the_engine_counted(engine: Engine) -> None:
    answers = drive(engine.url, "tiny", calls(3, apart_seconds=0.02))
    assert [(a.at_seconds, a.prompt_tokens, a.cached_tokens, a.output_tokens) for a in answers] == [
        (0.0, 40, 32, 4),
        (0.02, 40, 32, 4),
        (0.04, 40, 32, 4),
    ]


def test_the_first_token_comes_before_the_answer_is_complete(engine: Engine) -> None:
    (answer,) = drive(engine.url, "tiny", calls(1))
    assert 0 < answer.ttft_seconds < answer.latency_seconds


def test_a_refused_call_is_an_answer_with_an_error(engine: Engine) -> None:
    engine.status = 503
    (answer,) = drive(engine.url, "tiny", calls(1))
    assert answer.error is not None
    assert "503" in answer.error


def test_an_answer_cut_short_is_an_error(engine: Engine) -> None:
    engine.short_by = 1
    (answer,) = drive(engine.url, "tiny", calls(1))
    assert answer.error == "3 of 4 output tokens"


def test_nobody_there_is_an_error_and_not_an_exception() -> None:
    (answer,) = drive("http://127.0.0.1:9", "tiny", calls(1))
    assert answer.error is not None


def test_each_answer_is_told_as_it_comes(engine: Engine) -> None:
    told: list[float] = []
    drive(engine.url, "tiny", calls(5), lambda answer: told.append(answer.latency_seconds))
    assert len(told) == 5


def test_warming_sends_each_rank_its_share_and_then_the_same_again(engine: Engine) -> None:
    warm(engine.url, "tiny", calls(6), ranks=2)
    seen = sorted(zip(engine.prompts, engine.ranks, strict=True))
    expected = [(f"call {number}", str(number % 2)) for number in range(6)]
    assert seen == sorted(expected + expected[2:])


def test_a_failed_warm_up_says_so(engine: Engine) -> None:
    engine.status = 500
    with pytest.raises(RuntimeError, match="warm-up request failed"):
        warm(engine.url, "tiny", calls(4), ranks=2)


def test_too_few_calls_to_time_a_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="3 calls are too few to time 2 ranks"):
        warm("http://127.0.0.1:9", "tiny", calls(3), ranks=2)
