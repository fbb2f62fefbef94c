"""What a step of an engine takes on some hardware, in closed form.

1. A step computes `n` new tokens of each prompt it works on, with a context of `c`
   (cached, computed before, and `n` itself), and one token for each of `b` requests
   that decode, with `C` tokens of context between them:
       linear(sum n + b) + sum attention(n, c) + decode(C), over the efficiency.
   The linear layers see all tokens alike, and take as long for few of them as the
   weights take to read; attention counts where `n * c` is large.
2. In steps of the same requests that decode, `C` grows by `b` a step, so that many
   steps are one sum.
3. A profile is a file of coefficients in milliseconds: those that come with the
   package are in `sim/profiles/`, any other is read from a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec


class LinearPiece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Linear layers on a step of fewer tokens than `below`: a polynomial in ms."""

    below: int
    """Tokens; 0 for no bound."""
    fixed: float
    per_token: float = 0.0
    per_token_squared: float = 0.0


class PrefillAttention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Attention of `n` new tokens in a context of `c`, where `n c` exceeds `above`: ms."""

    above: int = 0
    fixed: float = 0.0
    per_new: float = 0.0
    per_context: float = 0.0
    per_product: float = 0.0


class DecodeAttention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Attention of a batch that decodes with `C` tokens of context in all: ms. Up to
    `short` tokens it is `short_fixed`."""

    short: int = 0
    short_fixed: float = 0.0
    fixed: float = 0.0
    per_context: float = 0.0


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One replica: a model on its accelerators, and the engine's limits there."""

    name: str
    source: str
    """Where the coefficients come from."""
    kv_tokens: int
    """Tokens that its cache holds."""
    batch_tokens: int
    """Tokens of a step, at most (`--max-num-batched-tokens`, `--chunked-prefill-size`)."""
    max_running: int
    """Requests of a step, at most (`--max-num-seqs`, `--max-running-requests`)."""
    linear: tuple[LinearPiece, ...]
    """In order of `below`, the last without bound."""
    prefill: PrefillAttention
    decode: DecodeAttention
    efficiency: float = 1.0

    def __post_init__(self) -> None:
        bounds = [piece.below for piece in self.linear]
        if bounds[-1:] != [0] or bounds[:-1] != sorted({*bounds[:-1]} - {0}):
            raise ValueError(
                f"linear needs pieces of rising `below` and a last one with 0, got {bounds}"
            )
        if min(self.kv_tokens, self.batch_tokens, self.max_running) < 1 or self.efficiency <= 0:
            raise ValueError("kv_tokens, batch_tokens, max_running and efficiency must be above 0")

    def step_seconds(
        self, chunks: Sequence[tuple[int, int]], decoding: int, decode_context: int
    ) -> float:
        """Seconds of a step with `chunks` of prompts, each (new tokens, context), and
        `decoding` requests with `decode_context` tokens between them. O(chunks)."""
        tokens = decoding
        law, attention = self.prefill, 0.0
        for new, context in chunks:
            tokens += new
            if new * context > law.above:
                attention += (
                    law.fixed
                    + law.per_new * new
                    + (law.per_context + law.per_product * new) * context
                )
        took = self._linear(tokens) + attention
        if decoding:
            took += self._decode(decoding, decode_context, 1)
        return took * 1e-3 / self.efficiency

    def decode_steps_seconds(self, decoding: int, decode_context: int, steps: int) -> float:
        """Seconds of `steps` steps of nothing but `decoding` requests, whose context is
        `decode_context` in the first and grows by one each a step. O(1)."""
        took = self._linear(decoding) * steps + self._decode(decoding, decode_context, steps)
        return took * 1e-3 / self.efficiency

    def prefill_seconds(self, new_tokens: int, prompt_tokens: int) -> float:
        """Seconds to compute the last `new_tokens` of a prompt alone, in chunks of the
        step's tokens. O(chunks)."""
        took, context = 0.0, prompt_tokens - new_tokens
        while new_tokens > 0:
            new = min(new_tokens, self.batch_tokens)
            context += new
            new_tokens -= new
            took += self.step_seconds([(new, context)], 0, 0)
        return took

    def _linear(self, tokens: int) -> float:
        for piece in self.linear:
            if tokens < piece.below or not piece.below:
                break
        return piece.fixed + (piece.per_token + piece.per_token_squared * tokens) * tokens

    def _decode(self, decoding: int, context: int, steps: int) -> float:
        law, took = self.decode, 0.0
        if context <= law.short:
            within = min((law.short - context) // decoding + 1, steps)
            took = within * law.short_fixed
            steps -= within
            context += within * decoding
        contexts = steps * context + decoding * (steps * (steps - 1) // 2)
        return took + law.fixed * steps + law.per_context * contexts


_PROFILES = resources.files("preble_plugin.sim") / "profiles"


def hardware_names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(
        each.name.removesuffix(".json")
        for each in _PROFILES.iterdir()
        if each.name.endswith(".json")
    )


def load_hardware(name: str) -> Hardware:
    """A profile by its name, or by the path of its JSON.

    Raises ValueError where there is none, or where it cannot be read, with what is
    wrong in it.
    """
    if name in hardware_names():
        text = (_PROFILES / f"{name}.json").read_bytes()
    else:
        try:
            text = Path(name).read_bytes()
        except OSError as error:
            raise ValueError(
                f"no hardware {name!r}: it is neither a file that can be read "
                f"({error.strerror}) nor one of {', '.join(hardware_names())}"
            ) from None
    try:
        return msgspec.json.decode(text, type=Hardware)
    except msgspec.MsgspecError as error:
        raise ValueError(f"hardware {name!r} cannot be read: {error}") from None
