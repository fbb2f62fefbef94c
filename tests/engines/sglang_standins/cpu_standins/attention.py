"""Attention of new tokens alone, in plain torch.

SGLang's torch_native backend, which a CPU without the compiled kernels is left
with, computes the attention of a prompt's cached tokens once more and throws it
away: a hit costs almost as much as a miss. SGLang's compiled backends compute
what is new. So does this, in place of `_run_sdpa_forward_extend`
(sglang/srt/layers/attention/torch_native_backend.py) where plain causal
self-attention is asked for; what else a model asks for goes to SGLang's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def computing_new_tokens_only(own: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`own`, the backend's method, replaced where attention is plainly causal."""

    def run_sdpa_forward_extend(
        backend: Any,
        query: Tensor,
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        extend_prefix_lens: Tensor,
        extend_seq_lens: Tensor,
        encoder_lens: Tensor | None = None,
        **named: Any,
    ) -> Tensor:
        plain = encoder_lens is None and named.get("sliding_window_size") is None
        if not (plain and named.get("causal")):
            return own(
                *(backend, query, output, k_cache, v_cache, req_to_token, req_pool_indices),
                *(seq_lens, extend_prefix_lens, extend_seq_lens, encoder_lens),
                **named,
            )
        start = 0
        for row, length, new in zip(
            req_pool_indices.tolist(), seq_lens.tolist(), extend_seq_lens.tolist(), strict=True
        ):
            slots = req_to_token[row, :length]
            output[start : start + new] = _attend(
                query[start : start + new],
                k_cache[slots].to(query.dtype),
                v_cache[slots].to(query.dtype),
                scale=named.get("scaling"),
                enable_gqa=named.get("enable_gqa", False),
            )
            start += new
        return output

    return run_sdpa_forward_extend


def _attend(query: Tensor, keys: Tensor, values: Tensor, **how: Any) -> Tensor:
    """The last `len(query)` tokens look at all `len(keys)`, each at none after it.

    All are `(tokens, heads, head size)`, keys and values perhaps of fewer heads.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    new, length = len(query), len(keys)
    if new == length:
        how["is_causal"] = True
    else:
        seen = torch.ones(new, length, dtype=torch.bool)
        how["attn_mask"] = seen.tril(diagonal=length - new)
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, keys, values))
    return scaled_dot_product_attention(q, k, v, **how).squeeze(0).transpose(0, 1)
