"""The `preble` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from preble_plugin.cli.doctor import add_doctor, doctor
from preble_plugin.cli.inspect_servers import explain, status
from preble_plugin.cli.run import add_run, run, split
from preble_plugin.cli.serve import add_serve, serve
from preble_plugin.cli.simulate_arguments import add_simulate
from preble_plugin.service.admin import AdminSocketError
from preble_plugin.service.run_dir import RunDirError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0, or 1 with a word on stderr."""
    given, engine_flags = split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    try:
        if options.command == "simulate":
            # Here, so that the other commands start without the simulator.
            from preble_plugin.cli.simulate import simulate

            return simulate(options)
        if options.command == "serve":
            return serve(options)
        if options.command == "run":
            return run(options, engine_flags)
        if options.command == "doctor":
            return doctor(options)
        if options.command == "explain":
            return explain(options.request_id, socket=options.socket, as_json=options.json)
        return status(socket=options.socket, as_json=options.json)
    except (AdminSocketError, RunDirError) as error:
        print(f"preble: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="preble",
        description="Run engines with placement by prefix, route requests to those that run, look "
        "into it, or simulate it.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="admin socket of one server (default: all servers of this user)",
    )
    common.add_argument("--json", action="store_true", help="print JSON, one server a line")
    explaining = commands.add_parser(
        "explain", parents=[common], help="why a request went where it went"
    )
    explaining.add_argument(
        "request_id", metavar="REQUEST-ID", help="the id in the server's answer, or the engine's"
    )
    commands.add_parser("status", parents=[common], help="replicas, their caches and load")
    add_serve(commands)
    add_run(commands)
    add_doctor(commands)
    add_simulate(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
