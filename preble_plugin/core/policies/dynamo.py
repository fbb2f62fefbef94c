"""Dynamo: blocks to prefill plus blocks in use, in one sum.

The default cost of NVIDIA Dynamo's KV router (`lib/kv-router/src/scheduling/selector`,
and "Routing Concepts" of its documentation), with its default weights:

    prefill_load_scale * prefill blocks + decode blocks

1. *Prefill blocks*: tokens that the replica's waiting requests and this one have to
   be computed there, over the block size. Cached blocks earn `overlap_score_credit`,
   1 on the device; the scale is 1.
2. *Decode blocks*: those that the prompts in flight there would fill with this one
   among them. A block that several share counts once; outputs are not tracked, which
   is the default too.
3. The least cost wins: `router_temperature` is 0. Ties, which Dynamo draws by lot, go
   by `protocol.least`.

Both terms weigh the same, though a block to compute and a block that lies in the cache
have nothing in common: it knows no time.
"""

from __future__ import annotations

from preble_plugin.core.policies.protocol import Choice, View, least


class Dynamo:
    """Least prefill and decode blocks. O(nodes on the path + replicas)."""

    name = "dynamo"

    def choose(self, view: View) -> Choice:
        """The least linear cost."""
        candidates, size = view.candidates, view.block_size
        costs = [
            (one.queued_tokens + one.miss_tokens) / size + one.active_blocks + added
            for one, added in zip(candidates, view.new_active_blocks, strict=True)
        ]
        return Choice(least(candidates, costs, view), self.name)
