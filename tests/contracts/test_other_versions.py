from __future__ import annotations

import pytest

from tests.contracts.other_versions import SGLANG, VLLM, Contracts


@pytest.mark.parametrize(
    ("contracts", "version"),
    [
        *(pytest.param(VLLM, version, marks=pytest.mark.vllm) for version in VLLM.versions),
        *(pytest.param(SGLANG, version, marks=pytest.mark.sglang) for version in SGLANG.versions),
    ],
    ids=lambda it: it.engine if isinstance(it, Contracts) else it,
)
def test_the_contracts_hold_on_another_version(contracts: Contracts, version: str) -> None:
    done = contracts.run(version)
    assert done.returncode == 0, done.stdout
