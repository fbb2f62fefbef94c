"""Metrics as they come out of /metrics, in one process and over several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

SAMPLES = """
from preble_plugin.core import FirstToken, Finished, Placement
from preble_plugin.core import ReplicaStatus, SchedulerStatus, Trust
from preble_plugin.service.interface import Unplaced
from preble_plugin.service.metrics import PlacementMetrics

def status(blocks, *ranks):
    return SchedulerStatus("e2", 16, [
        ReplicaStatus(rank, Trust.EXACT, blocks, 0, None, 0, 0.25, 0.0, 0, 0, 0, 0, 0, 1.0,
                      event_lag_seconds=0.5, event_gaps=3)
        for rank in ranks
    ], 0, 0, 0, 0, 0, 0)

metrics = PlacementMetrics()
metrics.placed(Placement("r1", 0, 32, "exploit"), 100, 0.00003)
metrics.placed(Placement("r2", "b/1", 0, "explore"), 50, 0.00003)
metrics.fallback(Unplaced("deadline"))
metrics.observed(0, [FirstToken("r1", 16), FirstToken("r2", None), Finished("r1", 3)])
metrics.show(status(8, 0, "b/1"))
"""
SHOW = """
import os
from prometheus_client import CollectorRegistry, REGISTRY, generate_latest, multiprocess
registry = REGISTRY
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def run(code: str, multiprocess_dir: Path | None = None) -> dict[str, float]:
    """Samples that a fresh interpreter prints after `code`."""
    environment = {key: value for key, value in os.environ.items() if "PROMETHEUS" not in key}
    if multiprocess_dir is not None:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(multiprocess_dir)
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    lines = [line for line in shown.splitlines() if line.startswith("preble:")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


EXPECTED = {
    'preble:placements_total{branch="exploit",replica="0"}': 1.0,
    'preble:placements_total{branch="explore",replica="b/1"}': 1.0,
    'preble:predicted_cached_tokens_total{replica="0"}': 32.0,
    'preble:actual_cached_tokens_total{replica="0"}': 16.0,
    'preble:prompt_tokens_total{replica="0"}': 100.0,
    'preble:prompt_tokens_total{replica="b/1"}': 50.0,
    'preble:fallbacks_total{cause="deadline"}': 1.0,
    'preble:placement_seconds_bucket{le="2e-05"}': 0.0,
    'preble:placement_seconds_bucket{le="5e-05"}': 2.0,
    "preble:placement_seconds_count": 2.0,
    'preble:event_lag_seconds{replica="0"}': 0.5,
    'preble:event_gaps{replica="0"}': 3.0,
    'preble:resident_blocks{replica="b/1"}': 8.0,
    'preble:queued_prefill_seconds{replica="0"}': 0.25,
    'preble:stream_trust{replica="0",state="exact"}': 1.0,
    'preble:stream_trust{replica="0",state="gapped"}': 0.0,
}
SHADOW = """
import msgspec
from preble_plugin.core.status import RecordingStatus, ShadowStatus
metrics.show(msgspec.structs.replace(
    status(8, 0, "b/1"),
    shadow=ShadowStatus(7, 3, 1000, 100, 640),
    recording=RecordingStatus("x.jsonl", 5, 1, 2),
))
"""
SHADOW_SHOWN = {
    "preble:shadow": 1.0,
    'preble:shadow_requests{choice="same"}': 4.0,
    'preble:shadow_requests{choice="elsewhere"}': 3.0,
    'preble:shadow_cached_tokens{dispatch="engine"}': 100.0,
    'preble:shadow_cached_tokens{dispatch="preble"}': 640.0,
    "preble:shadow_prompt_tokens": 1000.0,
    'preble:recorded_requests{state="written"}': 5.0,
    'preble:recorded_requests{state="dropped"}': 1.0,
    'preble:recorded_requests{state="failed"}': 2.0,
}


def shown(samples: dict[str, float]) -> dict[str, float]:
    return {name: samples.get(name, float("nan")) for name in EXPECTED}


def test_what_was_counted_comes_out() -> None:
    assert shown(run(SAMPLES + SHOW)) == EXPECTED


def test_registering_twice_counts_in_one_place() -> None:
    twice = run(SAMPLES + SAMPLES + SHOW)
    assert twice['preble:placements_total{branch="exploit",replica="0"}'] == 2.0
    assert twice["preble:placement_seconds_count"] == 4.0


def test_shadow_mode_and_the_recording_are_shown() -> None:
    samples = run(SAMPLES + SHADOW + SHOW)
    assert {name: value for name, value in samples.items() if name in SHADOW_SHOWN} == SHADOW_SHOWN


def test_out_of_shadow_mode_that_is_said_and_nothing_else() -> None:
    samples = run(SAMPLES + SHOW)
    assert samples["preble:shadow"] == 0.0
    assert not [one for one in samples if one.startswith("preble:shadow_cached_tokens{")]
    assert not [one for one in samples if one.startswith("preble:recorded_requests{")]


def test_a_replica_that_is_gone_is_shown_no_more() -> None:
    samples = run(SAMPLES + "metrics.show(status(9, 0))\n" + SHOW)
    assert samples['preble:resident_blocks{replica="0"}'] == 9.0
    assert 'preble:resident_blocks{replica="b/1"}' not in samples
    assert 'preble:stream_trust{replica="b/1",state="exact"}' not in samples


def test_over_processes_counters_add_up_and_the_latest_gauge_wins(tmp_path: Path) -> None:
    run(SAMPLES, tmp_path)
    samples = run(SAMPLES + "metrics.show(status(11, 0, 'b/1'))\n" + SHOW, tmp_path)
    assert samples['preble:placements_total{branch="exploit",replica="0"}'] == 2.0
    assert samples['preble:actual_cached_tokens_total{replica="0"}'] == 32.0
    assert samples["preble:placement_seconds_count"] == 4.0
    assert samples['preble:resident_blocks{replica="0"}'] == 11.0
    assert samples['preble:stream_trust{replica="0",state="exact"}'] == 1.0


def test_over_processes_a_replica_that_is_gone_is_shown_as_empty(tmp_path: Path) -> None:
    warnings_raise = "import warnings; warnings.simplefilter('error')\n"
    gone = "metrics.show(status(9, 0))\n"
    samples = run(warnings_raise + SAMPLES + gone + SHOW, tmp_path)
    assert samples['preble:resident_blocks{replica="0"}'] == 9.0
    assert samples['preble:resident_blocks{replica="b/1"}'] == 0.0


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, preble_plugin.service.metrics\nassert 'prometheus_client' not in sys.modules"
    )
    assert run(code) == {}
