"""Stands in for SGLang's compiled kernels, which have no wheel for a CPU without AMX.

SGLang imports names from here whatever the model. Its layers look for the
operators that the compiled kernels register with torch, find none, and take
their native torch path. What is left is one function, called where several tokens
are decoded at a time, in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from cpu_standins import absent

if TYPE_CHECKING:
    from torch import Tensor

__version__ = "0.0.0+cpu"


def assign_req_to_token_pool_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Write each request's new cache slots into its row of the pool.

    Request i owns row `req_pool_indices[i]` and gets the next slots of
    `out_cache_loc` at the columns `start_offset[i]` to `end_offset[i]`
    (sglang/srt/mem_cache/allocation.py). O(slots).
    """
    taken = 0
    rows = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist(), strict=True)
    for row, start, end in rows:
        slots = out_cache_loc[taken : taken + end - start]
        req_to_token[row, start:end] = slots.to(req_to_token.dtype)
        taken += end - start


def __getattr__(name: str) -> Callable[..., NoReturn]:
    return absent(__name__, name)
