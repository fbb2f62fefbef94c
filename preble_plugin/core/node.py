"""A node of the prefix tree: a run of blocks, and who holds it."""

from __future__ import annotations

from array import array


class Node:
    """A run of blocks. Identity is what counts: nodes compare by `is`."""

    __slots__ = (
        "branched",
        "children",
        "depth",
        "edge",
        "expected",
        "expecting",
        "forward",
        "holders",
        "ids",
        "parent",
        "partial",
        "uses",
    )

    def __init__(self, parent: Node | None, edge: bytes, ids: array[int], depth: int) -> None:
        self.parent = parent
        self.edge = edge
        """The run's block keys, packed."""
        self.ids = ids
        """The run's block ids."""
        self.depth = depth
        """Blocks between the root and the first of this run."""
        self.children: dict[bytes, Node] = {}
        """By the first key of their edge."""
        self.branched = False
        """Whether prompts ever parted here: they will again, so it stays a node."""
        self.holders = 0
        """Mask of the columns that hold every block of the run."""
        self.partial: dict[int, int] = {}
        """Bitmap by column, for those that hold some blocks but not all."""
        self.expected = 0
        """Mask of the columns for which `expecting` is not empty."""
        self.expecting: dict[int, set[str]] = {}
        """Requests by column that will store this run."""
        self.forward: Node | None = None
        """Where this run went when it was freed or merged away."""
        self.uses: dict[int, list[int]] = {}
        """Windowed use counts by column (`core.usage`)."""

    @property
    def needed(self) -> bool:
        """Whether anybody holds or expects a block of it, or stands below it."""
        return bool(self.children or self.holders or self.partial or self.expecting)

    def holds(self, column: int) -> int:
        """Bitmap of the run's blocks that `column` holds."""
        if self.holders >> column & 1:
            return (1 << len(self.ids)) - 1
        return self.partial.get(column, 0)
