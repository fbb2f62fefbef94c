"""Names of `torchvision.transforms.v2.functional`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cpu_standins import absent

from torchvision.transforms.functional import InterpolationMode

__all__ = ["InterpolationMode"]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return absent(__name__, name)
