"""Total tokens: the replica whose requests have the fewest tokens between them.

The rule of SGLang's `--load-balance-method total_tokens` (`DPBudget.dispatch` in
`srt/managers/data_parallel_controller.py`): least tokens, then fewest requests,
then the lowest rank. A request adds its whole prompt at once, cached or not.

Here tokens are those of the prompts in flight, exact at every moment. SGLang's are
a photograph of each rank plus the prompts sent since, and the photograph counts a
prefix that running requests share once, and their output too.
"""

from __future__ import annotations

from preble_plugin.core.policies.protocol import Choice, View


class TotalTokens:
    """Fewest prompt tokens in flight. O(replicas)."""

    name = "total-tokens"

    def choose(self, view: View) -> Choice:
        """The first of those with the least tokens and, among these, requests."""
        loads = [(one.tokens_in_flight, one.waiting + one.running) for one in view.candidates]
        return Choice(loads.index(min(loads)), self.name)
