"""`preble run`: its flags, and what they stand for, run.

1. The plan is made and told on stderr, as lines that a shell takes.
2. One engine: this process becomes it. Several: they and the router are started, and kept
   running until a signal ends them (`run/supervisor`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from preble_plugin.adapter.event_endpoints import events_directory
from preble_plugin.run.apart import Apart
from preble_plugin.run.devices import visible
from preble_plugin.run.engines import ENGINES, SECRETS
from preble_plugin.run.flags import RunError, dashed
from preble_plugin.run.plan import Inside, plan
from preble_plugin.run.supervisor import Supervisor, Task
from preble_plugin.run.wish import (
    LOOPBACK,
    Surroundings,
    Wish,
    check_installed,
    port_is_free,
    version_of,
)
from preble_plugin.serve.config import ServeConfigError, make_config, read_config
from preble_plugin.service.run_dir import ServerDirectory

_HIDDEN: Final = "***"


def add_run(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="start vLLM or SGLang with data parallelism and preble",
        usage="preble run {vllm,sglang} --model MODEL [--port PORT] [--replicas N] "
        "[--separate] [-- ENGINE FLAGS]",
        description="Start an engine of this Python environment with data parallelism and "
        "preble. What is behind -- goes to the engine as it stands. Where the engine cannot "
        "place among its replicas, one engine a replica is started, with `preble serve` in "
        "front of them.",
    )
    parser.add_argument("engine", choices=tuple(ENGINES), help="what to start")
    parser.add_argument("--model", metavar="MODEL", help="name or directory of the model")
    parser.add_argument("--port", type=_port, metavar="PORT", help="default: 8000")
    parser.add_argument(
        "--host", metavar="ADDRESS", help="where to listen (default: the engine's own)"
    )
    parser.add_argument(
        "--replicas",
        type=_count,
        metavar="N",
        help="data-parallel replicas (default: visible devices / those that a replica takes)",
    )
    parser.add_argument(
        "--separate",
        action="store_true",
        help="one engine a replica, with `preble serve` in front (needs preble-plugin[serve])",
    )
    parser.add_argument(
        "--router-config",
        type=Path,
        metavar="FILE",
        help="more for that router: the file of `preble serve`, without backends",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be run, and run nothing"
    )


def split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The command's own arguments, and those behind the first `--` of `preble run`, which
    are the engine's."""
    given = list(arguments)
    if given[:1] != ["run"] or "--" not in given:
        return given, ()
    place = given.index("--")
    return given[:place], tuple(given[place + 1 :])


def run(options: argparse.Namespace, flags: Sequence[str]) -> int:
    """Run it; the exit code, if it returns. Raises `RunDirError`."""
    made: list[ServerDirectory] = []

    def directory() -> Path:
        made.append(events_directory())
        return made[-1].path

    try:
        check_installed(options.engine)
        router = read_config(options.router_config) if options.router_config else {}
        if "backends" in router:
            raise RunError("--router-config names backends, which are the engines started here")
        wish = Wish(
            engine=options.engine,
            model=options.model,
            host=options.host or router.get("host"),
            port=options.port or router.get("port"),
            replicas=options.replicas,
            separate=options.separate,
            flags=tuple(flags),
        )
        around = Surroundings(os.environ, lambda: visible(os.environ), version_of, port_is_free)
        found = plan(wish, around, directory)
        if isinstance(found, Inside):
            if router:
                raise RunError("--router-config: there is no router: --separate starts one")
            return _become(found, options.dry_run)
        return _keep(found, router, made[-1].path, options.dry_run)
    except (RunError, ServeConfigError) as error:
        print(f"preble run: {error}", file=sys.stderr)
        return 2
    finally:
        for one in made:
            one.remove()


def _become(found: Inside, dry: bool) -> int:
    line = shown(found.command)
    if dry:
        print(line)
        return 0
    _say(found.remark)
    _say(line)
    sys.stdout.flush()
    try:
        os.execv(found.command[0], found.command)
    except OSError as error:
        _say(f"{found.command[0]} cannot be started: {error}")
        return 1


def _keep(found: Apart, router: Mapping[str, Any], directory: Path, dry: bool) -> int:
    keys = {**router, **found.router_keys()}
    make_config(keys)
    path = directory / "router.json"
    module = ("-P", "-m", "preble_plugin.cli.main", "serve", "--config", str(path))
    serving = Task("router", (sys.executable, *module), {}, found.host, found.port)
    engines = [
        Task(one.name, one.command, one.environment, LOOPBACK, one.port) for one in found.backends
    ]
    lines = [shown(one.command, one.environment) for one in (*engines, serving)]
    lines.append(f"# {path}: {json.dumps(keys)}")
    if dry:
        print("\n".join(lines))
        return 0
    _check_port(found.host, found.port)
    _say(f"one engine a replica, with a router in front: {found.reason}")
    _say(found.remark)
    for line in lines:
        _say(line)
    path.write_text(json.dumps(keys))
    for place in range(len(engines)):
        (directory / str(place)).mkdir(mode=0o700)

    async def kept() -> int:
        return await Supervisor(engines, serving).run()

    return asyncio.run(kept())


def shown(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """As a line that a shell takes, but for secrets."""
    words: list[str] = []
    secret = owed = False  # of some flags vLLM takes several values, of each at least one
    for word in command:
        name, equals, _ = word.partition("=")
        if word.startswith("-") and not owed:
            secret = dashed(name) in SECRETS
            owed = secret and not equals
            words.append(f"{name}={_HIDDEN}" if secret and equals else word)
        else:
            owed = False
            words.append(_HIDDEN if secret else word)
    pairs = [f"{key}={shlex.quote(value)}" for key, value in (environment or {}).items()]
    return " ".join([*pairs, shlex.join(words)])


def _say(words: str | None) -> None:
    if words is not None:
        print(f"preble run: {words}", file=sys.stderr, flush=True)


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise RunError(f"cannot listen at {host}, port {port}: {error.strerror}") from None


def _port(text: str) -> int:
    number = _count(text)
    if number > 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port: give one from 1 to 65535")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
