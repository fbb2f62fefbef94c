"""The two forms of the loops that each placement makes: Python's, and the compiled one
where the package was built with a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from preble_plugin.core import block_keys, prefix_tree, use_order, walk


class Implementation(NamedTuple):
    keys: Callable[..., Any]
    walk: Callable[..., Any]
    expect: Callable[..., Any]
    use_node: Callable[..., Any]

    def use(self) -> None:
        """Let all trees and hashers go by this one from here on."""
        block_keys.fastest_keys = self.keys
        prefix_tree.fastest_walk, prefix_tree.fastest_expect = self.walk, self.expect
        use_order.fastest_use = self.use_node


IMPLEMENTATIONS = {
    "python": Implementation(
        block_keys.numpy_keys, walk.plain_walk, walk.plain_expect, use_order.plain_use
    )
}
if block_keys.fastest_keys is not block_keys.numpy_keys:
    IMPLEMENTATIONS["compiled"] = Implementation(
        block_keys.fastest_keys, walk.fastest_walk, walk.fastest_expect, use_order.fastest_use
    )
