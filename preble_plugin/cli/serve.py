"""`preble serve`: its flags, and the router run with what they and the file say."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from pathlib import Path
from typing import Any, Final

from preble_plugin.serve.config import ServeConfig, ServeConfigError, make_config, read_config

_FLAGS: Final = (
    ("--host", str, "ADDRESS", "the address to listen at (default: 127.0.0.1, this machine)"),
    ("--port", int, "PORT", "the public port (default: 8000)"),
    ("--metrics-port", int, "PORT", "serve /metrics and /backends at this port (default: none)"),
    ("--tokenizer", str, "NAME", "directory or name of the tokenizer (default: what they name)"),
)
_COLLECT_AFTER: Final = (50_000, 20, 100)
"""Objects made before the collector looks at the youngest, and how often at the older: as
for the scheduler process, whose work is done here."""
_SWITCH_SECONDS: Final = 0.0005
"""How long a thread that renders a chat template may keep the loop waiting."""


def add_serve(commands: Any) -> None:
    """Add the command to the parser's subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="an OpenAI-compatible router in front of servers that run",
        description="Route OpenAI requests to vLLM and SGLang servers that already run, to where "
        "their prefix is cached, unless that one is too busy. Needs preble-plugin[serve].",
    )
    parser.add_argument(
        "--backend",
        action="append",
        metavar="URL",
        help="a server, as http://HOST:PORT; again for each; dns+http://HOST:PORT is one for "
        "each address of HOST",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML or JSON with all there is to set"
    )
    for flag, kind, meta, words in _FLAGS:
        parser.add_argument(flag, type=kind, metavar=meta, help=words)


def serve(options: argparse.Namespace) -> int:
    """Run the router until a signal ends it; the exit code."""
    try:
        config = configuration(options)
    except ServeConfigError as error:
        print(f"preble serve: {error}", file=sys.stderr)
        return 2
    try:
        import uvloop

        from preble_plugin.serve.app import App
    except ImportError as error:
        print(
            f"preble serve: {error.name} is missing: pip install 'preble-plugin[serve]'",
            file=sys.stderr,
        )
        return 1
    logging.basicConfig(
        level=logging.INFO,
        format="%(levelname)s %(asctime)s %(name)s: %(message)s",
        datefmt="%m-%d %H:%M:%S",
    )
    # Names of models and addresses are logged here; what a request holds never is.
    logging.getLogger("httpx").setLevel(logging.WARNING)

    async def run() -> None:
        app = App(config, options.config, lambda: configuration(options))
        await app.start()
        scheme = "https" if config.tls_cert_file else "http"
        logging.getLogger("preble_plugin.serve").info(
            "serving at %s://%s:%d%s",
            scheme,
            config.host,
            app.port,
            f", metrics at port {app.metrics_port}" if app.metrics_port else "",
        )
        await app.run()

    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        uvloop.run(run())
    except (OSError, ServeConfigError) as error:
        print(f"preble serve: {error}", file=sys.stderr)
        return 1
    return 0


def configuration(options: argparse.Namespace) -> ServeConfig:
    """What file and flags say; flags win. Raises `ServeConfigError`."""
    given = read_config(options.config) if options.config else {}
    if options.backend:
        given["backends"] = options.backend
    for name in ("host", "port", "metrics_port", "tokenizer"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    return make_config(given)
