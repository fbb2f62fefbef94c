from __future__ import annotations

import pytest

from tests.contracts.other_versions import VERSIONS, run

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("version", VERSIONS)
def test_the_contracts_hold_on_another_version(version: str) -> None:
    done = run(version)
    assert done.returncode == 0, done.stdout
