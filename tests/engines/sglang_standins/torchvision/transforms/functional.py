"""Names of `torchvision.transforms.functional`."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NoReturn

from cpu_standins import absent


class InterpolationMode(enum.Enum):
    """Image processors name these where they are defined."""

    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return absent(__name__, name)
