"""SGLang's launching process, up to where it would start its first child.

    found = launching.ask("serve", ["--dp-size", "2", "--dp-scheduler", "preble"])

1. A helper process has imported SGLang, with the stand-ins on its path. For each
   question it forks a child, which has loaded no plugin yet.
2. The child launches a server as a user does: it parses the arguments of
   `launch_server`, or calls `sgl.Engine(...)` or `launch_server(ServerArgs(...))`.
   SGLang resolves, checks and publishes them.
3. In place of the first process that SGLang would spawn it tells what that would
   have got: the configuration, and the environment that says of us.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, Self

from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.settings import Settings
from preble_plugin.sglang_ext import launch_env
from tests.engines import ROOT, SGLANG_ENVIRONMENT, TINY_MODEL
from tests.engines.preble import RUN_ENVIRONMENT


class Launched(NamedTuple):
    """What came of a launch."""

    method: str | None
    """`--load-balance-method` as resolved, where a process would have been spawned."""
    events: dict[str, Any] | None
    """`--kv-events-config` as resolved."""
    environment: dict[str, str]
    """Variables of ours, as a child would have got them."""
    error: str | None
    """What was raised instead: its type and message."""
    said: str
    """What it wrote, both streams."""
    earlier: list[dict[str, Any] | None]
    """`events` of the launches before, in the same process."""

    @property
    def settings(self) -> Settings | None:
        """Those by which its requests would be placed, None where they would not."""
        found = launch_env.read(self.environment)
        if found is None or found.outcomes is None:
            return None
        assert self.method == "total_tokens"
        return found.settings

    @property
    def queue(self) -> bool:
        """Whether its schedulers would put in order what waits."""
        found = launch_env.read(self.environment)
        return found is not None and found.queue

    @property
    def warnings(self) -> list[str]:
        """What it wrote that names our flag."""
        return [line for line in self.said.splitlines() if "--dp-scheduler" in line]


class Launching:
    """The helper process; a context manager."""

    def __init__(self, path: Sequence[Path] = ()) -> None:
        self._path = path

    def __enter__(self) -> Self:
        paths = [*map(str, self._path), str(SGLANG_ENVIRONMENT["PYTHONPATH"])]
        ours = {**dict(RUN_ENVIRONMENT), "PYTHONPATH": os.pathsep.join(paths)}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PREBLE_")}
        laid_over = {**kept, **SGLANG_ENVIRONMENT, **ours}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.sglang.launching", str(make_tiny_model(TINY_MODEL))],
            cwd=ROOT,
            env={key: value for key, value in laid_over.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(
        self,
        way: str,
        arguments: Sequence[Any] | Mapping[str, Any] = (),
        environment: Mapping[str, str] | None = None,
        version: str | None = None,
        renamed: str | None = None,
    ) -> Launched:
        """Launch a server of the tiny model: `serve` with command-line arguments,
        `engine` by `sgl.Engine` or `record` by `ServerArgs` with keyword arguments.
        With several of these `engines` launches one after the other, and tells of
        the last.

        `version` is what SGLang is taken to be, `renamed` the touch that has another name there.
        """
        given = arguments if isinstance(arguments, Mapping) else list(arguments)
        question = {"way": way, "arguments": given, "version": version, "renamed": renamed}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps({**question, "environment": environment or {}}), file=stdin, flush=True)
        answer = stdout.readline()
        assert answer, "the helper process ended"
        return Launched(**json.loads(answer))


# --- in the helper process ---


class _Spawned(Exception):
    """SGLang was about to spawn its first process."""


def _main(model: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what SGLang prints is no answer
    import sglang
    import sglang.srt.entrypoints.http_server  # noqa: F401  all that is slow to import

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as found:
            child = os.fork()
            if child == 0:
                _answer(json.loads(line), model, said, found)
            os.waitpid(child, 0)
            found.seek(0)
            said.seek(0)
            answer = json.loads(found.read() or '{"error": "nothing came of it"}')
            print(json.dumps({**_NOTHING, **answer, "said": said.read()}), file=answers, flush=True)


_NOTHING: dict[str, Any] = {
    "method": None,
    "events": None,
    "environment": {},
    "error": None,
    "earlier": [],
}


def _answer(question: dict[str, Any], model: str, said: IO[str], found: IO[str]) -> NoReturn:
    """In a child of the helper; ends it."""
    answer: dict[str, Any] = {}
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    try:
        os.environ.update(question["environment"])
        _stop_before_spawning(answer)
        if question["version"] is not None:
            from preble_plugin.sglang_ext import hooks

            hooks.version = lambda: question["version"]
        with contextlib.ExitStack() as stack:
            if question["renamed"] is not None:
                from preble_plugin.sglang_ext.contract import CONTRACT
                from tests.contracts.renamed import renamed

                (touch,) = [one for one in CONTRACT if one.name == question["renamed"]]
                stack.enter_context(renamed(touch))
            _LAUNCH[question["way"]](model, question["arguments"])
    except _Spawned:
        pass
    except SystemExit as exit:
        answer["error"] = f"SystemExit: {exit.code}"
    except BaseException as error:
        traceback.print_exc()
        answer["error"] = f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    json.dump(answer, found)
    found.flush()
    os._exit(0)


def _serve(model: str, arguments: list[str]) -> None:
    """`python -m sglang.launch_server`."""
    from sglang.launch_server import run_server
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    run_server(prepare_server_args(["--model-path", model, *_CPU_FLAGS, *arguments]))


def _engine(model: str, arguments: dict[str, Any]) -> None:
    import sglang

    sglang.Engine(model_path=model, log_level="info", **_CPU_FIELDS, **arguments)


def _engines(model: str, arguments: list[dict[str, Any]]) -> None:
    for one in arguments:
        with contextlib.suppress(_Spawned):
            _engine(model, one)


def _record(model: str, arguments: dict[str, Any]) -> None:
    from sglang.srt.entrypoints.http_server import launch_server
    from sglang.srt.server_args import ServerArgs

    launch_server(ServerArgs(model_path=model, **_CPU_FIELDS, **arguments))


_LAUNCH: dict[str, Callable[[str, Any], None]] = {
    "serve": _serve,
    "engine": _engine,
    "engines": _engines,
    "record": _record,
}
_CPU_FIELDS: dict[str, Any] = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "disable_overlap_schedule": True,
    "mem_fraction_static": 0.1,
    "page_size": 16,
}
_CPU_FLAGS = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--disable-overlap-schedule"),
    *("--mem-fraction-static", "0.1", "--page-size", "16"),
)


def _stop_before_spawning(answer: dict[str, Any]) -> None:
    import multiprocessing
    from multiprocessing.context import SpawnProcess

    def start(process: Any) -> NoReturn:
        from sglang.srt.runtime_context import get_observability, get_parallel

        if "events" in answer:
            answer.setdefault("earlier", []).append(answer["events"])
        events = get_observability().kv_events_config
        answer["method"] = get_parallel().load_balance_method
        answer["events"] = json.loads(events) if events else None
        answer["environment"] = {
            key: value for key, value in os.environ.items() if key.startswith("PREBLE_")
        }
        answer["environment"].pop("PREBLE_RUN_DIR")
        raise _Spawned

    for process in (multiprocessing.Process, SpawnProcess):
        process.start = start  # type: ignore


if __name__ == "__main__":
    _main(sys.argv[1])
