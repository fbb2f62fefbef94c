"""Which accelerators the engines may use.

1. Where the environment names them (`CUDA_VISIBLE_DEVICES`, on AMD also
   `HIP_VISIBLE_DEVICES`), that is the answer: numbers, UUIDs or parts of a device alike.
2. Else torch is asked, in a process of its own: it counts as the engines will, on every
   kind of device, and this process stays without it. It takes some seconds, once.
3. A machine without any has none: engines then run on its processor.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from preble_plugin.run.flags import RunError

VARIABLES: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
_ASK: Final = (
    "import torch; found = torch.accelerator.current_accelerator(); "
    "print(found.type if found else 'cpu', torch.accelerator.device_count())"
)
_ASK_SECONDS: Final = 120.0


class Devices(NamedTuple):
    """What is visible here."""

    kind: str = "cpu"
    """As torch names it: NVIDIA and AMD are `cuda`."""
    names: tuple[str, ...] = ()
    variable: str = VARIABLES[0]
    """What tells an engine which of them are its own."""

    def share(self, place: int, each: int) -> dict[str, str]:
        """The environment of replica `place`, of `each` devices. Raises `RunError`."""
        if not self.names:
            return {}
        if self.kind != "cuda":
            raise RunError(
                f"devices of the kind {self.kind!r} cannot be assigned to several engines here: "
                "start the engines yourself, and `preble serve` in front of them"
            )
        mine = self.names[place * each : (place + 1) * each]
        if len(mine) < each:
            raise RunError(
                f"{place + 1} replicas of {each} device(s) need {(place + 1) * each}, and "
                f"{len(self.names)} are visible: lower --replicas or the parallel sizes"
            )
        return {self.variable: ",".join(mine)}


def visible(environment: Mapping[str, str], ask: Sequence[str] | None = None) -> Devices:
    """The devices that `environment` lets an engine use; `ask` is the command that is asked
    where it does not say. Raises `RunError`."""
    for variable in VARIABLES:
        if variable in environment:
            named = environment[variable].strip()
            names = [] if named == "-1" else [one.strip() for one in named.split(",")]
            return Devices("cuda", tuple(filter(None, names)), variable)
    command = ask if ask is not None else [sys.executable, "-P", "-c", _ASK]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=_ASK_SECONDS,
            check=True,
        )
        kind, count = done.stdout.split()[-2:]
        return Devices(kind, tuple(map(str, range(int(count)))))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise RunError(
            f"torch does not say how many devices there are ({error}): set {VARIABLES[0]}"
        ) from None
