"""What a launch has to know of each engine: its command, and the names of a few flags.

Names are those of vLLM 0.31 to 0.33 (`engine/arg_utils.py`, `entrypoints/**/cli_args.py`)
and SGLang 0.5.22 and 0.5.23 (`srt/arg_groups/fields/`); the engines' own parsers are held
against them in tests/run. The commands run this Python's engine, and with `-P` nothing that
happens to lie in the working directory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from preble_plugin.adapter.choice import CONFIG_KEY, SCHEDULER_KEY
from preble_plugin.adapter.known import Known
from preble_plugin.run.flags import Flags
from preble_plugin.sglang_ext.known import SGLANG as KNOWN_SGLANG
from preble_plugin.vllm_ext.known import VLLM as KNOWN_VLLM

HOST: Final = ("--host",)
PORT: Final = ("--port",)
DEVICE: Final = ("--device",)
SCHEDULER: Final = tuple(f"--{key.replace('_', '-')}" for key in (SCHEDULER_KEY, CONFIG_KEY))
"""Who gives one of ours has chosen placement inside the engine."""
EVENTS: Final = "--kv-events-config"
KEYS: Final = ("--api-key", "--admin-api-key")
TLS: Final = ("--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certs", "--ssl-keyfile-password")
SECRETS: Final = (*KEYS, "--ssl-keyfile-password", "--hf-token")
"""Whose values are not printed."""


@dataclass(frozen=True)
class Engine:
    """One engine."""

    known: Known
    program: tuple[str, ...]
    """The command, up to the model."""
    say_model: tuple[str, ...]
    """What comes before the model, if anything."""
    model: tuple[str, ...]
    """Names of the flag of the model."""
    data: tuple[str, ...]
    """Of the number of data-parallel ranks."""
    sizes: tuple[tuple[str, ...], ...]
    """Of those whose product is the number of devices of a rank."""
    attention: tuple[str, ...]
    """Flags of ranks inside one replica (DP attention)."""
    chooses: tuple[str, ...]
    """Flags that choose devices, or spread one replica over several machines."""
    single: tuple[str, ...]
    """Flags that only one engine on a machine can have."""
    key_variables: tuple[str, ...] = ()
    """Environment variables with the key that it asks its clients for."""
    events: Mapping[str, object] = field(default_factory=dict)
    """What its events configuration holds beside the endpoints."""

    def command(self, model: str | None, arguments: Sequence[str]) -> tuple[str, ...]:
        """The command that serves `model`, None where `arguments` say which."""
        named = () if model is None else (*self.say_model, model)
        return (sys.executable, "-P", "-m", *self.program, *named, *arguments)

    def devices_each(self, flags: Flags) -> int:
        """How many devices a replica takes. Raises `RunError`."""
        return math.prod(flags.number(names) or 1 for names in self.sizes)

    def ranks_inside(self, flags: Flags) -> str | None:
        """The flag that gives one replica several data-parallel ranks, if one is given."""
        return next((one for one in self.attention if flags.text((one,)) not in (None, "1")), None)


VLLM: Final = Engine(
    known=KNOWN_VLLM,
    program=("vllm.entrypoints.cli.main", "serve"),
    say_model=(),
    model=("--model",),
    data=("--data-parallel-size", "-dp"),
    sizes=(
        ("--tensor-parallel-size", "-tp"),
        ("--pipeline-parallel-size", "-pp"),
        ("--prefill-context-parallel-size", "-pcp"),
    ),
    attention=(),
    chooses=("--device-ids", "--nnodes", "-n"),
    single=(
        *("--uds", "--grpc", "--grpc-port", "--headless"),
        *("--data-parallel-rank", "-dpn", "--data-parallel-start-rank", "-dpr"),
        *("--data-parallel-size-local", "-dpl", "--data-parallel-address", "-dpa"),
        *("--data-parallel-rpc-port", "-dpp", "--data-parallel-hybrid-lb", "-dph"),
        *("--data-parallel-external-lb", "-dpe"),
        *("--data-parallel-multi-port-external-lb", "-dpm"),
        "--master-port",
    ),
    key_variables=("VLLM_API_KEY",),
    events={"enable_kv_cache_events": True},
)
SGLANG: Final = Engine(
    known=KNOWN_SGLANG,
    program=("sglang.launch_server",),
    say_model=("--model-path",),
    model=("--model-path", "--model"),
    data=("--dp-size", "--data-parallel-size", "--dp"),
    sizes=(
        ("--tp-size", "--tensor-parallel-size", "--tp"),
        ("--pp-size", "--pipeline-parallel-size", "--pp"),
    ),
    attention=("--enable-dp-attention", "--attn-dp-size", "--attention-data-parallel-size"),
    chooses=("--base-gpu-id", "--gpu-id-step", "--nnodes"),
    single=(
        *("--grpc-mode", "--smg-grpc-mode", "--grpc-port", "--use-ray"),
        *("--nccl-port", "--dist-init-addr", "--nccl-init-addr", "--gated-launch-port"),
    ),
)
ENGINES: Final = {one.known.package: one for one in (VLLM, SGLANG)}
"""By package, which is what it is called on the command line."""
