"""A page of metrics as `service/metrics` makes it, read back."""

from __future__ import annotations

import time

import prometheus_client
import pytest

from preble_plugin.core import FirstToken, Placement, Request
from preble_plugin.core.status import Trust
from preble_plugin.doctor.metrics_page import placed
from preble_plugin.doctor.placement import Placed
from preble_plugin.service.interface import ReplicaSpec, Unplaced
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.settings import Settings


async def page_of_a_placement() -> str:
    """A request of 64 tokens placed on the replica `doctored`, of which 48 were found."""
    frontend, metrics = LocalFrontend(Settings()), PlacementMetrics()
    frontend.set_replicas([ReplicaSpec("doctored", 16)])
    await frontend.start()
    assert frontend.hasher is not None
    placement = await frontend.place(Request("r", frontend.hasher.prompt_keys(range(64)), 65))
    assert isinstance(placement, Placement)
    outcome = FirstToken("r", 48)
    frontend.observe("doctored", [outcome], time.monotonic())
    metrics.placed(placement, 65, 0.001)
    metrics.observed("doctored", [outcome])
    metrics.fallback(Unplaced("doctored"))
    status = frontend.status()
    assert status is not None
    metrics.show(status)
    await frontend.close()
    return prometheus_client.generate_latest().decode()


async def test_what_is_counted_is_read_back() -> None:
    found = placed(await page_of_a_placement())
    assert found is not None
    (one,) = [one for one in found.replicas if one.name == "doctored"]
    assert (one.predicted_tokens, one.found_tokens, one.trust) == (0, 48, Trust.SILENT)
    assert one.pending_tokens == 16 * 65
    assert found.placements >= 1
    assert found.fallbacks["doctored"] == 1
    assert not found.shadow


@pytest.mark.parametrize("page", ["", "vllm:num_requests_running 0.0\n", "preble:}{\n"])
def test_a_page_without_a_word_of_it(page: str) -> None:
    assert placed(page) is None


def test_shadow_mode_is_read() -> None:
    assert placed("preble:shadow 1.0\n") == Placed((), 0, {}, True)
