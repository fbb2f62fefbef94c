"""Some lives of `fuzz`, which runs for as long as it is asked to (`make fuzz`)."""

from __future__ import annotations

import pytest
from fuzz import Life


@pytest.mark.parametrize("seed", range(24))
def test_a_random_life_is_sound_and_the_same_compiled_and_in_python(seed: int) -> None:
    Life(seed).run()
