from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.contracts.other_versions import SGLANG, VLLM, Contracts

Runs = dict[tuple[str, str], "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Those of this session, two at a time: each is a pytest of its own on one core."""
    chosen = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    pool = ThreadPoolExecutor(max_workers=2)
    try:
        yield {
            (one["contracts"].engine, one["version"]): pool.submit(
                one["contracts"].run, one["version"]
            )
            for one in chosen
        }
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    ("contracts", "version"),
    [
        *(pytest.param(VLLM, version, marks=pytest.mark.vllm) for version in VLLM.versions),
        *(pytest.param(SGLANG, version, marks=pytest.mark.sglang) for version in SGLANG.versions),
    ],
    ids=lambda it: it.engine if isinstance(it, Contracts) else it,
)
def test_the_contracts_hold_on_another_version(
    runs: Runs, contracts: Contracts, version: str
) -> None:
    done = runs[contracts.engine, version].result()
    assert done.returncode == 0, done.stdout
