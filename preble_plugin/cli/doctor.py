"""`preble doctor`: its flags, and findings for people or for scripts."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from preble_plugin.doctor.finding import Finding, State, failed
from preble_plugin.serve.config import EVERY_ADDRESS, ServeConfigError, check_url


def add_doctor(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="what is on, what is not, and the remedy",
        description="Say what is on, what is not, and the remedy: of this machine and the servers "
        "that run on it, or of the server at a URL. Exits with 0 when nothing failed, else 1.",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        help="look at this server instead, vLLM, SGLang or `preble serve` "
        "(needs preble-plugin[serve])",
    )
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="a file with the key to ask it with"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="directory or name of the tokenizer to compare with (default: what it names)",
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help="send it a prompt of some blocks twice, for one token each; without this nothing "
        "is sent that it computes",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one finding a line")


def doctor(options: argparse.Namespace) -> int:
    """Look, and print; the exit code: 0, 1 where something failed, 2 for flags that cannot
    be used."""
    if options.url is None:
        for flag in ("api_key_file", "tokenizer", "probe"):
            if getattr(options, flag):
                return _wrong(f"--{flag.replace('_', '-')} goes with --url")
        # Here, so that the other commands start without the adapters.
        from preble_plugin.doctor.contract import look_at_contracts
        from preble_plugin.doctor.machine import look_here
        from preble_plugin.doctor.running import look_at_running

        findings = [*look_here(), *look_at_contracts(), *look_at_running()]
    else:
        try:
            findings = _at_url(options)
        except ServeConfigError as error:
            return _wrong(str(error))
        except ImportError as error:
            print(
                f"preble doctor: {error.name} is missing: pip install 'preble-plugin[serve]'",
                file=sys.stderr,
            )
            return 1
    if options.json:
        for one in findings:
            print(msgspec.json.encode(one).decode())
    else:
        print(report(findings))
    return int(failed(findings))


def report(findings: Sequence[Finding]) -> str:
    """The findings for people: by what they are about, a remedy under what is not ok."""
    lines = []
    for about, group in groupby(findings, lambda one: one.about):
        lines.append(about)
        for one in group:
            lines.append(f"  {one.state.value:<4}  {one.check}: {one.words}")
            if one.remedy is not None:
                lines.append(f"        -> {one.remedy}")
        lines.append("")
    counts = {state: sum(one.state is state for one in findings) for state in State}
    lines.append(", ".join(f"{count} {state.value}" for state, count in counts.items()))
    return "\n".join(lines)


def _at_url(options: argparse.Namespace) -> list[Finding]:
    """Raises `ServeConfigError` for flags that cannot be used, `ImportError` where what HTTP
    needs is not installed."""
    _check_url(options.url)
    key = None
    if options.api_key_file is not None:
        try:
            key = options.api_key_file.read_text("utf-8").strip() or None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ServeConfigError(f"--api-key-file {options.api_key_file}: {reason}") from None
    # Here, so that looking at this machine needs nothing of the router's.
    from preble_plugin.doctor.server import Wanted, look_at_server

    wanted = Wanted(options.url.rstrip("/"), key, options.tokenizer, options.probe)
    return asyncio.run(look_at_server(wanted))


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ServeConfigError("--url takes no user or password: use --api-key-file FILE")
    try:
        check_url(url)
        right = not url.startswith(EVERY_ADDRESS)
    except ServeConfigError:
        right = False
    if not right:
        raise ServeConfigError(f"--url {url!r} is not http://HOST:PORT or https://HOST:PORT")


def _wrong(words: str) -> int:
    print(f"preble doctor: {words}", file=sys.stderr)
    return 2
