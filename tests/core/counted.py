"""Work counted, not timed."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable


def calls(work: Callable[[], object]) -> Counter[str]:
    """Functions that `work` calls, by name: of ours or built in."""
    found: Counter[str] = Counter()

    def note(frame: object, event: str, argument: object) -> None:
        if event == "call":
            found[frame.f_code.co_name] += 1  # type: ignore[attr-defined]
        elif event == "c_call":
            found[argument.__name__] += 1  # type: ignore[attr-defined]

    gc.disable()  # others' callbacks of the collector are no calls of ours
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    found.pop("setprofile", None)
    return found
