"""The cascade of H12.3 a: closed forms against other arithmetic and against simulation."""

import math

import mpmath
import pytest

from mingpt import cascade


@pytest.mark.parametrize(("value", "stage"), [(5, 1), (1e-4, 40), (1e-5, 40), (-0.3, 3), (0, 7)])
def test_the_probability_is_that_of_other_arithmetic(value, stage):
    with mpmath.workdps(40):
        rest = mpmath.sqrt(mpmath.mpf(2) ** (1 - stage))
        exact = mpmath.log(mpmath.ncdf(-mpmath.mpf(value) / rest))
        assert cascade.log_prob_nonpositive(value, stage) == pytest.approx(float(exact), rel=1e-12)


def test_the_sheets_probabilities():
    assert math.exp(cascade.log_prob_nonpositive(5, 1)) == pytest.approx(2.867e-7, rel=1e-3)
    log10 = cascade.log_prob_nonpositive(1e-4, 40) / math.log(10)
    assert log10 == pytest.approx(-1196.05, abs=0.01)


@pytest.mark.parametrize(("value", "stage"), [(0.5, 1), (0.5, 3), (-0.2, 2)])
@pytest.mark.parametrize("tilted", [False, True])
def test_drawing_the_next_stages_gives_the_same(value, stage, tilted):
    found, error = cascade.simulated_log_prob_nonpositive(value, stage, 50_000, tilted)
    assert abs(math.expm1(found - cascade.log_prob_nonpositive(value, stage))) < 4 * error


def test_tilted_draws_see_what_plain_ones_never_do():
    found, error = cascade.simulated_log_prob_nonpositive(1e-4, 40, 50_000, tilted=True)
    assert abs(math.expm1(found - cascade.log_prob_nonpositive(1e-4, 40))) < 4 * error < 0.5
    assert cascade.simulated_log_prob_nonpositive(1e-4, 40, 50_000, tilted=False)[0] == -math.inf


@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.999, 1 - 1e-9])
def test_the_stages_of_a_confidence_are_those_of_the_simulation(confidence):
    exact = cascade.stopping(confidence)
    mean, error = cascade.simulated_stopping(confidence, 50_000)
    assert abs(exact.stages - mean.stages) < 4 * error.stages
    assert abs(exact.wrong - mean.wrong) < 4 * error.wrong
    assert exact.wrong < 1 - confidence


def test_no_confidence_stops_at_once_and_is_wrong_a_quarter_of_the_time():
    """Y and Y_1 are jointly normal with correlation 1 / sqrt(2): their signs differ with
    probability arccos(1 / sqrt(2)) / pi = 1/4."""
    assert cascade.stopping(0.5) == pytest.approx((1, 0.25))


def test_more_nodes_change_nothing(monkeypatch):
    found = cascade.stopping(0.99)
    monkeypatch.setattr(cascade, "NODES", 2 * cascade.NODES)
    assert cascade.stopping(0.99) == pytest.approx(found, rel=1e-10)


@pytest.mark.parametrize("confidence", [0.49, 1, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        cascade.stopping(confidence)
    with pytest.raises(ValueError, match="stage"):
        cascade.log_prob_nonpositive(1, 0)
