"""How often each run of blocks was used on a replica in the window H.

N_j of the paper's section 3.2: the requests that shared node j in H. Kept on the
node, by column, as the counts of the current and the last window; the sliding
count weighs the last one by the share of it that H still covers. Three numbers
per node and replica, whatever the traffic.
"""

from __future__ import annotations

from preble_plugin.core.node import Node


def count_use(node: Node, column: int, now: float, window_seconds: float) -> None:
    """A request placed on `column` shares `node`. O(1)."""
    epoch = int(now / window_seconds)
    use = node.uses.get(column)
    if use is None:
        node.uses[column] = [epoch, 1, 0]
    elif use[0] == epoch:
        use[1] += 1
    else:
        use[2] = use[1] if use[0] == epoch - 1 else 0
        use[0], use[1] = epoch, 1


def uses_in_window(node: Node, column: int, now: float, window_seconds: float) -> float:
    """Requests on `column` that shared `node` in the window. O(1)."""
    use = node.uses.get(column)
    if use is None:
        return 0.0
    epoch = int(now / window_seconds)
    covered = 1.0 - (now / window_seconds - epoch)
    if use[0] == epoch:
        return use[1] + use[2] * covered
    if use[0] == epoch - 1:
        return use[1] * covered
    return 0.0
