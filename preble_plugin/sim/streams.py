"""Numbers of streams: 64 bits, so that two different things never meet.

A workload names what it draws by its seed, a kind ("tool/own") and an index; the
number is a hash of the three. Equal names give equal numbers on every machine.
"""

from __future__ import annotations

from hashlib import blake2b


def stream_number(seed: int, kind: str, index: int | str = 0) -> int:
    """The number of a stream, below 2^64: two of a million collide once in 10^7 times."""
    name = f"{seed}\0{kind}\0{index}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")
