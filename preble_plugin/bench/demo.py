"""`make demo`, `make demo-sglang`: the gain, measured on a real engine on this machine.

1. The same seeded workload drives each side: the engine's own dispatch, and
   `--dp-scheduler preble`. Nothing else differs (`engines`, `stage`).
2. With `--repeat` the sides alternate (A B A B), so that a machine that slows
   down does not favour one of them; the figures are medians then.
3. What came out is a table here, a picture, and a page with both.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from preble_plugin.bench import page, picture
from preble_plugin.bench.engines import Engine, Sglang, Vllm
from preble_plugin.bench.open_loop import Pace
from preble_plugin.bench.plan import LOAD, REQUESTS, Plan
from preble_plugin.bench.result import Comparison
from preble_plugin.bench.server import ServerError
from preble_plugin.bench.stage import Stage
from preble_plugin.bench.table import caption, render
from preble_plugin.bench.tiny_model import make_tiny_model

TOLERATED_CORES = 0.25

NEXT_STEPS = """\
make {serve:<15} # the same {engine} with preble on port 8000, until Ctrl-C

# in another terminal: a question about a text, twice; the second finds the text cached
curl -s http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
  -d @examples/question.json
{preble} explain ID         # why it went where it went; ID is the "id" of the answer
{preble} status             # replicas: trust, cache, load, predictions against facts
curl -s http://127.0.0.1:8000/metrics | grep '^preble:.*_total'
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; 0 if every request was answered in full, 1 if not."""
    options = _parse(arguments)
    # SIGTERM ends as Ctrl-C does: through the blocks that stop the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    engine: Engine = options.engine
    stage = Stage(engine, options.plan, make_tiny_model(options.model), options.out)
    try:
        runs = [
            stage.run(dispatch, number)
            for number in range(options.repeat)
            for dispatch in options.dispatch
        ]
    except (ServerError, RuntimeError) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the server was ended", file=sys.stderr)
        return 130
    comparison = Comparison(
        workload=options.plan.workload,
        rate=stage.rate,
        seed=options.plan.seed,
        machine=f"{os.cpu_count()} CPU cores ({platform.machine()})",
        engine=f"{engine.name} {version(engine.distribution)}",
        sides={dispatch: engine.side(dispatch) for dispatch in options.dispatch},
        runs=runs,
    )
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(msgspec.json.encode(comparison))
    _show(comparison, engine, options.out)
    return 1 if comparison.failed else 0


def _show(comparison: Comparison, engine: Engine, out: Path) -> None:
    preble = os.path.relpath(Path(sys.executable).parent / "preble")
    commands = NEXT_STEPS.format(serve=engine.serve, engine=engine.name, preble=preble)
    picture.draw(comparison, out / "gain.png")
    page.write(comparison, out / "gain.png", out / "index.html", commands)
    print(f"\n{render(comparison)}\n{caption(comparison)}")
    for run in comparison.runs:
        if run.figures.foreign_cores > TOLERATED_CORES:
            name = comparison.sides[run.dispatch].heading
            print(
                f"note: other programs used {run.figures.foreign_cores:.1f} of {os.cpu_count()} "
                f"cores during round {run.round + 1} of {name!r}: measure again on a quieter "
                "machine before you believe the ratios"
            )
    print(f"\npicture  {out / 'gain.png'}\npage     {out / 'index.html'}")
    print(f"\nTo keep it running and look inside:\n\n{commands}")


def arguments_parser() -> argparse.ArgumentParser:
    """The options of the demo, defaults and all."""
    plan = Plan()
    parser = argparse.ArgumentParser(
        prog="python -m preble_plugin.bench.demo",
        description="Measure an engine's own dispatch against preble on this machine.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--engine", choices=("vllm", "sglang"), default="vllm", help="what is served with")
    add("--standins", type=Path, help="what SGLang imports and a CPU has no wheel of: directory")
    add("--workload", choices=("documents", "unique"), default=plan.workload, help="prompts")
    add("--rate", type=float, help=f"arrivals in requests/s; chosen: {LOAD} of capacity")
    add("--requests", type=int, help=f"requests of a side and round; chosen: up to {REQUESTS}")
    add("--documents", type=int, default=plan.documents, help="documents that are asked about")
    add("--seed", type=int, default=plan.seed, help="of prompts, order and arrival times")
    add("--cache-tokens", type=int, default=plan.cache_tokens, help="cache of a rank")
    add("--front-ends", type=int, help="API servers, tokenizer workers; chosen by the engine")
    add("--config", dest="settings", help="--dp-scheduler-config of the preble side")
    add("--dispatch", type=lambda text: text.split(","), help="sides, in order; chosen: all")
    add("--repeat", type=int, default=1, help="rounds")
    add("--model", type=Path, default=Path(".cache/tiny-model"), help="made if not there")
    add("--out", type=Path, help="for picture, page and logs; chosen: demo, demo/sglang")
    add("--json", type=Path, help="write every answer and figure to this file")
    return parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments_parser()
    options = parser.parse_args(arguments)
    options.plan = Plan(**{name: getattr(options, name) for name in Plan.__dataclass_fields__})
    if options.repeat < 1:
        parser.error(f"--repeat must be at least 1, got {options.repeat}")
    options.out = options.out or Path("demo" if options.engine == "vllm" else "demo/sglang")
    try:
        options.engine = Vllm() if options.engine == "vllm" else Sglang(options.standins)
        options.plan.load(Pace(uncached=1000.0, cached=1000.0))
    except (ValueError, FileNotFoundError) as problem:
        parser.error(str(problem))
    options.dispatch = options.dispatch or list(options.engine.sides)
    return options


if __name__ == "__main__":
    sys.exit(main())
