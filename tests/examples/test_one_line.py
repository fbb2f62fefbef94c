"""One line turns placement on: the YAML of each engine, before and after."""

from __future__ import annotations

import pytest

from tests.engines import ROOT


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_after_is_before_and_one_line(engine: str) -> None:
    before, after = (
        (ROOT / "examples" / engine / f"{name}.yaml").read_text().splitlines()[1:]  # a comment
        for name in ("default", "preble")
    )
    assert after == [*before, "dp-scheduler: preble"]
