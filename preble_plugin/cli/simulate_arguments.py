"""The arguments of `preble simulate`. Imports nothing of the simulator: the other
commands start without it."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

N = TypeVar("N", int, float)

_EXAMPLES = """\
examples:
  preble simulate --list
  preble simulate --workload tool,document
  preble simulate --workload chat --rate 4,8,16 --policy e2,min-ttft --plot pictures
  preble simulate --workload tool,hot --policy e2 --ablate --seed 1,2,3
  preble simulate --workload tool-zipf --rate 40 --policy e2 --local-queue off,on
  preble simulate --trace recorded.jsonl --replicas 8 --hardware llama-3-70b-h100-tp2
"""


def add_simulate(commands: Any) -> None:
    """Add the command to those of `preble` (what `add_subparsers` returns)."""
    parser = commands.add_parser(
        "simulate",
        help="run policies on simulated replicas and compare them",
        description="Run policies on simulated replicas, under workloads or a recorded trace,\n"
        "and compare them. No engine and no GPU is needed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    load = parser.add_argument_group("what is asked")
    kind = load.add_mutually_exclusive_group()
    kind.add_argument("--workload", type=_items, metavar="NAME[,NAME]", help="workloads, by name")
    kind.add_argument("--trace", type=Path, metavar="FILE", help="replay a trace (JSONL)")
    load.add_argument(
        "--rate",
        type=_rates,
        metavar="R[,R]",
        help="requests per second (default: three loads of each workload, a trace's own times)",
    )
    load.add_argument(
        "--requests",
        type=_count,
        metavar="N",
        help="requests of a run (default: 2000, all of a trace)",
    )
    load.add_argument(
        "--seed", type=_seeds, metavar="S[,S]", help="seeds of the workloads (default: 1)"
    )
    load.add_argument(
        "--workload-option",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the workloads that take it (--list shows them); may be repeated",
    )
    fleet = parser.add_argument_group("who serves it")
    fleet.add_argument(
        "--policy",
        type=_items,
        default=["round-robin", "least-loaded", "e2"],
        metavar="A[,B]",
        help="policies to compare (default: round-robin,least-loaded,e2)",
    )
    fleet.add_argument(
        "--ablate",
        action="store_true",
        help="also e2 without each of its rules, to see what the rule adds",
    )
    fleet.add_argument(
        "--local-queue",
        type=_switches,
        default=[False],
        metavar="off[,on]",
        help="whether each replica takes up cached work first, or in order of arrival "
        "(default: off)",
    )
    fleet.add_argument("--replicas", type=_count, default=4, metavar="N", help="default: 4")
    fleet.add_argument(
        "--hardware",
        default="mistral-7b-a6000",
        metavar="P",
        help="a profile by name, or the path of one (default: mistral-7b-a6000)",
    )
    fleet.add_argument(
        "--lockstep",
        action="store_true",
        help="the replicas take their steps together, as ranks of a mixture of experts do",
    )
    fleet.add_argument(
        "--block-size", type=_count, default=16, metavar="N", help="tokens of a block (default: 16)"
    )
    shown = parser.add_argument_group("what is shown")
    shown.add_argument(
        "--baseline",
        metavar="NAME",
        help="policy that the others are compared with (default: round-robin, else the first)",
    )
    shown.add_argument(
        "--warm-up",
        type=_share,
        metavar="SHARE",
        help="share of the requests, by arrival, that does not count (default: 0.1)",
    )
    shown.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    shown.add_argument("--plot", type=Path, metavar="DIR", help="write pictures (needs matplotlib)")
    shown.add_argument(
        "--jobs", type=_count, default=1, metavar="N", help="runs at a time (default: 1)"
    )
    shown.add_argument(
        "--list", action="store_true", help="list workloads, policies and hardware, and end"
    )


def _items(text: str) -> list[str]:
    items = list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if not items:
        raise argparse.ArgumentTypeError("names nothing")
    return items


def _switches(text: str) -> list[bool]:
    items = _items(text)
    if not {"off", "on"}.issuperset(items):
        raise argparse.ArgumentTypeError(f"takes off, on, or both, got {text!r}")
    return [item == "on" for item in items]


def _rates(text: str) -> list[float]:
    words = "rates above 0, in requests per second"
    return [_number(item, float, lambda rate: 0 < rate < math.inf, words) for item in _items(text)]


def _seeds(text: str) -> list[int]:
    words = "whole numbers of 0 or more"
    return [_number(item, int, lambda seed: seed >= 0, words) for item in _items(text)]


def _count(text: str) -> int:
    return _number(text, int, lambda count: count >= 1, "a whole number of 1 or more")


def _share(text: str) -> float:
    return _number(text, float, lambda share: 0 <= share < 1, "a share from 0 to below 1")


def _number(text: str, kind: Callable[[str], N], fits: Callable[[N], bool], words: str) -> N:
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not fits(number):
        raise argparse.ArgumentTypeError(f"takes {words}, got {text!r}")
    return number


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"takes KEY=VALUE, got {text!r}")
    return key.strip(), value.strip()
