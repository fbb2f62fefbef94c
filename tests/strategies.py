"""Hypothesis strategies, shared by the tests of all rooms."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# -- feed ------------------------------------------------------------------------------

_wire_hashes = st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(min_size=1, max_size=32)
_wire_values = st.none() | st.booleans() | st.integers(-2, 5) | st.text("abc", max_size=3)


@st.composite
def wire_events(draw: st.DrawFn) -> Any:
    """An event on the wire: mostly good, else with a wrong field."""
    block_size = draw(st.integers(1, 4))
    hashes = draw(st.lists(_wire_hashes, max_size=3))
    tokens = draw(
        st.lists(
            st.integers(0, 100),
            min_size=len(hashes) * block_size,
            max_size=len(hashes) * block_size + draw(st.sampled_from([0, 0, 0, 1])),
        )
    )
    parent = draw(st.none() | _wire_hashes)
    match draw(st.sampled_from(["map", "removed", "cleared", "junk"])):
        case "map":
            event = {
                "type": "BlockStored",
                "block_hashes": hashes,
                "parent_block_hash": parent,
                "token_ids": tokens,
                "block_size": block_size,
            }
            if draw(st.booleans()):
                event[
                    draw(
                        st.sampled_from([*event, "extra_keys", "group_idx", "lookahead_token_ids"])
                    )
                ] = draw(_wire_values)
            return event
        case "removed":
            return {"type": "BlockRemoved", "block_hashes": hashes, "medium": draw(_wire_values)}
        case "cleared":
            return draw(st.sampled_from([{"type": "AllBlocksCleared"}, ["AllBlocksCleared"]]))
        case _:
            return draw(_wire_values | st.lists(_wire_values, max_size=2))


def event_networks() -> st.SearchStrategy[list[tuple[str, int]]]:
    """What befalls a publisher, its subscriber and the network between, step by
    step; the number tells which replayed batches are dropped, or how long it took."""
    kinds = ["publish"] * 4 + ["lose", "live", "live", "serve", "replay", "replay"]
    kinds += ["again", "time", "restart"]
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 255)), max_size=60)
