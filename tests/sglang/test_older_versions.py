"""Versions of SGLang before the one that is installed.

Their trees are those that the contract tests run on, fetched where they are not
there. What a server of an older version does with tenants is in test_tenants.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.settings import Settings
from tests.contracts.other_versions import SGLANG
from tests.engines import serving
from tests.engines.preble import Audit, Scheduler
from tests.sglang.launching import Launching
from tests.sglang.mode_servers import OLDER
from tests.sglang.preble_servers import SglangClient, one_by_one, sglang_requests

pytestmark = pytest.mark.sglang
TWO = ("--dp-size", "2")
PREBLE = ("--dp-scheduler", "preble")


@pytest.fixture(scope="module", params=["0.5.18", "0.5.20"])
def launching(request: pytest.FixtureRequest) -> Iterator[Launching]:
    with Launching(SGLANG.path(request.param)) as process:
        yield process


def test_every_way_in_works(launching: Launching, tmp_path: Path) -> None:
    config = '{"receipts": 5}'
    (tmp_path / "serve.yaml").write_text(
        "dp-scheduler: preble\ndp-scheduler-config:\n  receipts: 5\ndp-size: 2\n"
    )
    placed = {"dp_size": 2, "load_balance_method": "preble", "dp_scheduler_config": config}
    chosen = {"PREBLE_DP_SCHEDULER": "preble", "PREBLE_CONFIG": config}
    found = [
        launching.ask("serve", [*TWO, *PREBLE, "--dp-scheduler-config", config]),
        launching.ask("serve", ["--config", str(tmp_path / "serve.yaml")]),
        launching.ask("engine", placed),
        *(launching.ask(way, {"dp_size": 2}, chosen) for way in ("engine", "record")),
    ]
    assert [one.error for one in found] == 5 * [None]
    assert [one.settings for one in found] == 5 * [Settings(receipts=5)]


def test_what_cannot_work_is_refused_or_left_to_sglang(launching: Launching) -> None:
    off = (*TWO, "--disable-radix-cache")
    refused = launching.ask("serve", [*off, *PREBLE])
    assert refused.error is not None
    assert refused.error.startswith("CannotWork: --dp-scheduler preble needs the radix cache")
    left = launching.ask("serve", [*off, "--dp-scheduler", "auto"])
    assert (left.error, left.method, left.events) == (None, "round_robin", None)
    assert len(left.warnings) == 1


def test_without_a_choice_sglang_is_left_alone(launching: Launching) -> None:
    found = launching.ask("serve", TWO)
    assert (found.method, found.events, found.environment) == ("round_robin", None, {})


@serving(OLDER)
def test_predictions_equal_the_engines_own_numbers(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    assert "requests are placed by preble" in server.log_text()
    before = scheduler.settled()
    assert one_by_one(client, scheduler, sglang_requests(seed=17, count=60)) > 0
    audit = Audit(before, scheduler.settled())
    assert audit.exact == audit.requests >= 60, audit
