"""What reports teach: on a played replica whose law is known, and step by step."""

from __future__ import annotations

import pytest
from laws import decode_law, prefill_law
from played_replica import PlayedReplica, worst_decode_error, worst_prefill_error

from preble_plugin.core.calibration import Calibration
from preble_plugin.core.load import ReplicaLoad
from preble_plugin.core.report import LoadReport
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.witness import PATIENCE_SECONDS, SILENCE_SECONDS


def played(**settings: float) -> PlayedReplica:
    return PlayedReplica(ReplicaLoad(TimeModel()), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("per_second", [0.5, 2.0])
@pytest.mark.parametrize("chunk", [512, 2048, 8192])
def test_reports_teach_the_law_of_chunked_prefill_and_of_decode(chunk, per_second):
    replica = played(chunk=chunk)
    replica.serve(400, per_second)
    assert worst_prefill_error(replica.load.model) < 0.07
    assert worst_decode_error(replica.load.model) < 0.07


def test_reports_teach_what_outputs_alone_do_not():
    with_reports, without = played(chunk=512), played(chunk=512)
    with_reports.serve(400, 2.0)
    without.serve(400, 2.0, report=False)
    assert worst_prefill_error(without.load.model) > 4 * worst_prefill_error(
        with_reports.load.model
    )


def test_outputs_that_come_late_do_little_harm():
    replica = played(delay=0.05)
    replica.serve(400, 1.0)
    assert worst_prefill_error(replica.load.model) < 0.1
    assert worst_decode_error(replica.load.model) < 0.1


def test_an_engine_that_began_anew_and_runs_slower_is_followed():
    replica = played()
    replica.serve(200, 2.0)
    replica.restart()
    replica.slowness = 3.0
    replica.serve(400, 0.6)
    assert worst_prefill_error(replica.load.model, slowness=3.0) < 0.07
    assert worst_decode_error(replica.load.model, slowness=3.0) < 0.07


# -- step by step --------------------------------------------------------------------------


def at(
    as_of: float, tokens: int, seconds: float, steps: int = 0, decode_tokens: int = 0
) -> LoadReport:
    """A report of prefill, and of decode steps of four requests that take 20 ms each."""
    return LoadReport(as_of, 1, 0, tokens, seconds, steps, 4 * steps, 0.02 * steps, decode_tokens)


class Told:
    """A calibration, told of outputs and reports in one line each."""

    def __init__(self) -> None:
        self._model = TimeModel()
        self._calibration = Calibration(self._model)

    def first_token(self, now: float, new: int = 1000, prompt: int = 2000) -> Told:
        self._calibration.passed(now, 0, 0)
        self._calibration.prefilled(1, new, prompt, new * prompt, now - 0.5, now)
        return self

    @property
    def prefill(self) -> tuple[float, ...]:
        """The law of prefill as learned."""
        return self._model.prefill_coefficients

    @property
    def decode(self) -> tuple[float, ...]:
        """The law of decode as learned."""
        return self._model.decode_coefficients

    def settled(self, now: float) -> Told:
        self._calibration.settle(now)
        return self

    def ran(self, until: float, requests: int, context: int) -> Told:
        self._calibration.passed(until, requests, context)
        return self

    def finished(self, since: float, now: float) -> Told:
        mark = self._calibration.passed(since, 0, 0)
        self._calibration.passed(now, 1, 1000)
        self._calibration.decoded(mark, 100)
        return self

    def report(self, report: LoadReport, now: float | None = None) -> Told:
        now = report.as_of if now is None else now
        self._calibration.passed(now, 0, 0)
        self._calibration.reported(report, now)
        return self


PREFILL = (1.0, 1000, 2000.0, 2_000_000.0, 0.2)
DECODE = (40, 16_000, 4.0, 0.8)
"""What `taught_by_reports` was taught."""
LATER = (1.0, 1000, 2000.0, 2_000_000.0, 0.25)


BY_OUTPUT = (1, 1000, 2000, 2_000_000, 0.5)
"""A first token half a second after its placement."""


def taught_by_reports() -> Told:
    """Reports taught prefill and decode, the last one at 11.0."""
    told = Told().report(at(10.0, 0, 0.0)).first_token(10.2).ran(10.9, 2, 8000)
    told.report(at(11.0, 1000, 0.2, steps=40))
    assert (told.prefill, told.decode) == (prefill_law(PREFILL), decode_law(DECODE))
    return told


def test_the_first_report_teaches_nothing():
    told = Told().report(at(10.0, 5000, 2.0, steps=50))
    assert (told.prefill, told.decode) == (prefill_law(), decode_law())


def test_first_tokens_are_scaled_to_what_the_engine_computed():
    told = Told().report(at(10.0, 5000, 2.0)).first_token(10.5, new=1000, prompt=2000)
    told.report(at(10.6, 6100, 2.2))
    assert told.prefill == prefill_law((1.1, 1100, 2200, 2_200_000, 0.2))


def test_a_prompt_computed_in_pieces_is_one_observation():
    told = Told().report(at(10.0, 0, 0.0)).report(at(10.1, 400, 0.1)).report(at(10.2, 800, 0.2))
    assert told.prefill == prefill_law()
    told.first_token(10.3, new=1000, prompt=2000).report(at(10.4, 1000, 0.25))
    assert told.prefill == prefill_law(LATER)


def test_first_tokens_that_the_engine_has_not_counted_yet_wait_for_its_next_report():
    told = taught_by_reports().first_token(11.3).report(at(11.4, 1000, 0.2, steps=40))
    assert told.prefill == prefill_law(PREFILL)
    told.report(at(11.5, 2000, 0.45, steps=40))
    assert told.prefill == prefill_law(PREFILL, LATER)


def test_idle_intervals_do_not_wear_out_patience():
    later = 11.0 + 2 * PATIENCE_SECONDS
    told = taught_by_reports().report(at(later, 1000, 0.2, steps=40)).first_token(later + 0.5)
    told.report(at(later + 0.6, 1000, 0.2, steps=40))
    told.report(at(later + 0.7, 2000, 0.45, steps=40))
    assert told.prefill == prefill_law(PREFILL, LATER)


def test_an_interval_that_never_fits_is_given_up_and_the_next_one_teaches():
    told = Told().report(at(10.0, 0, 0.0)).first_token(10.5).report(at(11.0, 90_000, 9.0))
    told.report(at(11.0 + PATIENCE_SECONDS, 90_000, 9.0))
    told.first_token(50.0).report(at(50.1, 91_000, 9.2))
    assert told.prefill == prefill_law(BY_OUTPUT, PREFILL)


def test_decode_is_one_observation_at_its_mean_batch_and_our_mean_context():
    told = Told().report(at(10.0, 0, 0.0, steps=50)).ran(10.5, 2, 6000).ran(11.0, 2, 10_000)
    told.report(at(11.0, 0, 0.0, steps=90))
    # 4 requests of 4,000 tokens each
    assert told.decode == decode_law((40, 16_000, 4.0, 0.8))


def test_a_speculating_engine_is_priced_by_the_token():
    told = Told().report(at(10.0, 0, 0.0, steps=50)).ran(11.0, 2, 8000)
    told.report(at(11.0, 0, 0.0, steps=90, decode_tokens=480))
    assert told.decode == decode_law((120, 16_000, 4.0, 0.8))


def test_sums_that_fall_teach_nothing_and_start_over():
    told = taught_by_reports().first_token(11.5).ran(11.9, 1, 100)
    told.report(at(12.0, 900, 0.15, steps=10))
    assert told.decode == decode_law(DECODE)
    told.first_token(12.5).report(at(13.0, 1900, 0.45, steps=10))
    assert told.prefill == prefill_law(PREFILL, BY_OUTPUT, (1.0, 1000, 2000.0, 2_000_000.0, 0.3))


# -- the better witness ----------------------------------------------------------------------


def test_until_a_report_taught_outputs_do():
    told = Told().report(at(10.0, 0, 0.0)).first_token(10.5).settled(10.6)
    assert told.prefill == prefill_law(BY_OUTPUT)


def test_while_reports_teach_outputs_do_not():
    told = taught_by_reports().first_token(11.5).finished(12.0, 15.0).settled(16.0)
    assert (told.prefill, told.decode) == (prefill_law(PREFILL), decode_law(DECODE))


def test_where_reports_stop_outputs_teach_again():
    late = 11.0 + SILENCE_SECONDS
    told = taught_by_reports().first_token(late + 0.5).settled(late + 0.9)
    assert told.prefill == prefill_law(PREFILL, BY_OUTPUT)
    told.finished(late + 1.0, late + 4.0)
    assert told.decode == decode_law(DECODE, (99, 1000, 1.0, 3.0))


def test_an_engine_that_counts_no_decode_leaves_decode_to_outputs():
    told = Told().report(at(10.0, 0, 0.0)).first_token(10.2).report(at(11.0, 1000, 0.2))
    told.finished(12.0, 15.0).settled(16.0)
    assert told.prefill == prefill_law(PREFILL)
    assert told.decode == decode_law((99, 1000, 1.0, 3.0))


def test_after_an_interval_was_given_up_outputs_teach_again():
    told = taught_by_reports().report(at(11.5, 90_000, 9.0, steps=40))
    told.report(at(12.0 + PATIENCE_SECONDS, 90_000, 9.0, steps=40))
    told.first_token(43.0).settled(44.0)
    assert told.prefill == prefill_law(PREFILL, BY_OUTPUT)
