"""What SGLang misses on a CPU, put there by SGLang's own plugin loader.

1. Attention is computed of new tokens alone, as SGLang's compiled backends do it
   (`attention`).
2. DP attention (`--attn-dp-size`) asks the attention backend for a fill value
   that only the AMX backend has.
3. HiCache (`--enable-hierarchical-cache --hicache-io-backend direct
   --hicache-mem-layout layer_first`) pins its host pages for CUDA, and copies
   with a kernel of `sgl_kernel`. On a CPU both sides are plain tensors: nothing
   is pinned, and the copy is an index copy.
3. LoRA (`--lora-backend torch_native`) keeps what it copies in pinned tensors,
   which torch refuses to make without a device.

Only scheduler processes compute, so only there is anything done.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cpu_standins.attention import computing_new_tokens_only

if TYPE_CHECKING:
    from torch import Tensor


def register() -> None:
    """Entry point of `sglang.srt.plugins`; runs once in every process."""
    if "sglang.srt.managers.scheduler" in sys.modules:
        _complete_attention()
        _complete_hicache()
        _complete_lora()


def _complete_attention() -> None:
    module: Any = importlib.import_module("sglang.srt.layers.attention.torch_native_backend")
    backend = module.TorchNativeAttnBackend
    backend._run_sdpa_forward_extend = computing_new_tokens_only(backend._run_sdpa_forward_extend)
    if not hasattr(backend, "get_cpu_graph_seq_len_fill_value"):
        backend.get_cpu_graph_seq_len_fill_value = lambda backend: 1


def _complete_hicache() -> None:
    common: Any = importlib.import_module("sglang.srt.mem_cache.pool_host.common")
    mha: Any = importlib.import_module("sglang.srt.mem_cache.pool_host.mha")
    for module in (common, mha):
        for name in ("_cuda_host_register", "_cuda_host_unregister"):
            if hasattr(module, name):
                setattr(module, name, _leave_unpinned)
    mha.transfer_kv_direct = transfer_kv_direct


def _complete_lora() -> None:
    torch: Any = importlib.import_module("torch")
    for name in ("tensor", "empty", "zeros"):
        setattr(torch, name, _unpinned(getattr(torch, name)))
    torch.Tensor.pin_memory = lambda tensor, *arguments, **named: tensor


def _unpinned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`make` without `pin_memory`."""

    @functools.wraps(make)
    def unpinned(*arguments: Any, pin_memory: bool = False, **named: Any) -> Tensor:
        return make(*arguments, **named)

    return unpinned


def _leave_unpinned(*arguments: Any, **named: Any) -> None:
    """Host memory as it is: there is no device that would read it."""


def transfer_kv_direct(
    src_layers: Sequence[Tensor],
    dst_layers: Sequence[Tensor],
    src_indices: Tensor,
    dst_indices: Tensor,
    page_size: int,
) -> None:
    """Copy the tokens at `src_indices` of each layer to `dst_indices`, of any page size."""
    for source, destination in zip(src_layers, dst_layers, strict=True):
        destination[dst_indices] = source[src_indices]
