"""Names of `torchvision.io`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from cpu_standins import absent


class ImageReadMode:
    """Asked for when image processors are defined."""

    RGB = UNCHANGED = GRAY = None


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return absent(__name__, name)
