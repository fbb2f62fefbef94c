"""Names of `torchvision.transforms.v2`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cpu_standins import absent

from torchvision.transforms.functional import InterpolationMode
from torchvision.transforms.v2 import functional

__all__ = ["InterpolationMode", "functional"]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return absent(__name__, name)
