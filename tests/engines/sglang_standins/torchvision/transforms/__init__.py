"""Names of `torchvision.transforms`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cpu_standins import absent

from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

__all__ = ["InterpolationMode", "functional"]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return absent(__name__, name)
