from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.sim.hardware import Hardware, LinearPiece, hardware_names, load_hardware
from tests.sim.builders import hardware


def test_a_step_is_linear_layers_and_attention_over_the_efficiency() -> None:
    law = hardware(efficiency=0.5)
    # 10 + 0.1 * 103 tokens, 1e-3 * 300 + 1e-6 * 100 * 300, 0.4 + 1e-3 * 700
    expected = (10 + 10.3) + (0.3 + 0.03) + (0.4 + 0.7)
    assert law.step_seconds([(100, 300)], 3, 700) == pytest.approx(expected * 2e-3)


def test_attention_counts_where_the_product_is_large() -> None:
    law = load_hardware("mistral-7b-a6000")
    assert law.step_seconds([(512, 2048)], 0, 0) == pytest.approx((0.1084 * 512 + 4.21) / 900)
    more = 1.13e-3 * 513 + 1.75e-3 * 2048 + 2.19e-6 * 513 * 2048
    assert law.step_seconds([(513, 2048)], 0, 0) == pytest.approx(
        (0.1084 * 513 + 4.21 + more) / 900
    )


@pytest.mark.parametrize(
    ("tokens", "milliseconds"),
    [(1, 22), (191, 22), (192, -118 + 240 - 0.00256 * 192**2), (384, 0.1084 * 384 + 4.21)],
)
def test_the_a6000_as_the_paper_has_it(tokens: int, milliseconds: float) -> None:
    law = load_hardware("mistral-7b-a6000")
    assert law.step_seconds([(tokens, tokens)], 0, 0) == pytest.approx(milliseconds / 900)


@given(st.integers(1, 9), st.integers(0, 400), st.integers(1, 80))
def test_many_decode_steps_are_the_sum_of_each(decoding: int, context: int, steps: int) -> None:
    law = hardware()
    each = [law.step_seconds([], decoding, context + decoding * one) for one in range(steps)]
    assert law.decode_steps_seconds(decoding, context, steps) == pytest.approx(sum(each))


def test_a_long_prompt_is_computed_in_chunks() -> None:
    law = hardware()
    expected = sum(law.step_seconds([part], 0, 0) for part in ((256, 356), (256, 612), (88, 700)))
    assert law.prefill_seconds(600, 700) == pytest.approx(expected)
    assert law.prefill_seconds(0, 700) == 0


@pytest.mark.parametrize("name", hardware_names())
def test_each_profile_is_usable(name: str) -> None:
    law = load_hardware(name)
    assert law.name == name
    seconds = [law.prefill_seconds(tokens, tokens) for tokens in (64, 512, 4096, 30_000)]
    assert seconds == sorted(seconds)
    assert 0.005 < law.decode_steps_seconds(8, 8 * 2000, 1) < 0.2


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_bytes(msgspec.json.encode(hardware()))
    assert load_hardware(str(path)) == hardware()


def test_a_profile_that_is_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no hardware 'tpu'.*llama-3-70b-h100-tp2, mistral"):
        load_hardware("tpu")
    path = tmp_path / "own.json"
    path.write_text('{"name": 3}')
    with pytest.raises(ValueError, match=r"own.json' cannot be read: .*\$.name"):
        load_hardware(str(path))
    path.write_bytes(msgspec.json.encode({**msgspec.to_builtins(hardware()), "kv_token": 3}))
    with pytest.raises(ValueError, match="unknown field `kv_token`"):
        load_hardware(str(path))


@pytest.mark.parametrize("bounds", [(), (5,), (0, 0), (9, 5, 0)])
def test_pieces_that_leave_a_gap_are_refused(bounds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rising `below`"):
        hardware(linear=tuple(LinearPiece(below, 1.0) for below in bounds))


def test_no_limit_may_be_nothing() -> None:
    for name in ("kv_tokens", "batch_tokens", "max_running", "efficiency"):
        with pytest.raises(ValueError, match="must be above 0"):
            hardware(**{name: 0})
    assert isinstance(hardware(kv_tokens=1), Hardware)
