"""A node of the prefix tree: a run of blocks, and who holds it."""

from __future__ import annotations


class Node:
    """A run of blocks. Identity is what counts: nodes compare by `is`.

    What few nodes have is None until there is some, and what there is by column are
    plain numbers: a tree of a million nodes is made of little else than these, and
    the garbage collector need not look at them.
    """

    __slots__ = (
        "children",
        "depth",
        "edge",
        "expected",
        "expecting",
        "forward",
        "holders",
        "more_holds",
        "parent",
        "parted",
        "partial",
        "size",
        "uses",
    )

    def __init__(self, parent: Node | None, edge: bytes, size: int, depth: int) -> None:
        self.parent = parent
        self.edge = edge
        """The run's block keys, packed."""
        self.size = size
        """Blocks in the run."""
        self.depth = depth
        """Blocks between the root and the first of this run."""
        self.children: dict[bytes, Node] = {}
        """By the first key of their edge."""
        self.parted = False
        """Whether a prompt that ended or went on elsewhere here has split it off."""
        self.holders = 0
        """Mask of the columns that hold every block of the run."""
        self.partial: dict[int, int] | None = None
        """Bitmap by column, for those that hold some blocks but not all."""
        self.more_holds: dict[int, dict[int, int]] | None = None
        """By column and a block's depth, the holds beyond the first (`HeldTree`)."""
        self.expected = 0
        """Mask of the columns in `expecting`."""
        self.expecting: dict[int, int] | None = None
        """Requests by column that will store this run (`PrefixTree.expect`)."""
        self.forward: Node | None = None
        """Where this run went when it was freed or merged away."""
        self.uses: dict[int, int] | None = None
        """Windowed use counts by column (`core.usage`)."""

    @property
    def needed(self) -> bool:
        """Whether anybody holds or expects a block of it, or stands below it."""
        return bool(self.children or self.holders or self.partial or self.expected)

    def holds(self, column: int) -> int:
        """Bitmap of the run's blocks that `column` holds."""
        if self.holders >> column & 1:
            return (1 << self.size) - 1
        return self.partial.get(column, 0) if self.partial else 0

    def set_bitmap(self, column: int, bitmap: int, size: int) -> None:
        """Let `column` hold these blocks of the run, which has `size`, and no others."""
        if self.partial:
            self.partial.pop(column, None)
        if bitmap == (1 << size) - 1:
            self.holders |= 1 << column
        else:
            self.holders &= ~(1 << column)
            if bitmap:
                if self.partial is None:
                    self.partial = {}
                self.partial[column] = bitmap
