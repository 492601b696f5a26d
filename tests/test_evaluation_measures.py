"""Counts, confidence intervals and thresholds against SciPy, sed_scores_eval and the picker."""

import math
import sys
import types
import warnings

import numpy as np
import pytest
from scipy import stats

from rtconv.evaluation.measures import (
    Calibration,
    Counts,
    Scored,
    count,
    describe_rate,
    detection_error_tradeoff,
    operating_point,
    proportion_interval,
    rate_interval,
    solve_threshold,
)
from rtconv.evaluation.trace import ScoreTrace
from rtconv.model.detector import Output
from rtconv.stream.events import EventPicker

RATE = 100  # scores per second


def output(refractory=0.5, decision="peak"):
    return Output(
        name="a",
        threshold=0.5,
        release=0.25,
        refractory=refractory,
        max_hold=1.0,
        decision=decision,
    )


def traced(scores, rate=RATE):
    trace = ScoreTrace(rate)
    trace.push(scores.astype(np.float32))
    return trace


def noise(seconds, seed=0, smooth=10):
    rng = np.random.default_rng(seed)
    return np.convolve(rng.standard_normal(seconds * RATE), np.ones(smooth) / smooth**0.5, "same")


@pytest.mark.parametrize(("hits", "total"), [(1, 10), (5, 10), (3, 200), (199, 200)])
def test_proportion_interval_is_that_of_scipy(hits, total):
    expected = stats.binomtest(hits, total).proportion_ci(0.95, method="exact")
    assert proportion_interval(hits, total).low == pytest.approx(expected.low)
    assert proportion_interval(hits, total).high == pytest.approx(expected.high)


def test_proportion_interval_at_the_ends_is_one_sided():
    none, every = proportion_interval(0, 20), proportion_interval(20, 20)
    assert none.low == 0
    assert stats.binom.cdf(0, 20, none.high) == pytest.approx(0.05)
    assert every.high == 1
    assert stats.binom.sf(19, 20, every.low) == pytest.approx(0.05)
    assert (proportion_interval(0, 0).low, proportion_interval(0, 0).high) == (0, 1)


@pytest.mark.parametrize("events", [1, 3, 40])
def test_rate_interval_leaves_half_of_the_error_on_either_side(events):
    interval = rate_interval(events, 7.2)
    assert stats.poisson.cdf(events, interval.high * 7.2) == pytest.approx(0.025)
    assert stats.poisson.sf(events - 1, interval.low * 7.2) == pytest.approx(0.025)


def test_rates_are_told_with_their_confidence():
    assert describe_rate(0, 7.2) == "0 in 7.2 h: at most 0.42/h at 95 %"
    assert describe_rate(3, 7.2) == "3 in 7.2 h: 0.42/h, 0.086 to 1.2/h at 95 %"


def test_measures_of_counts():
    counts = Counts(labels=10, hits=8, duplicates=1, false_alarms=3, hours=2)
    assert counts.misses == 2
    assert counts.miss_rate == pytest.approx(0.2)
    assert counts.false_alarms_per_hour == 1.5
    assert (counts.precision, counts.recall) == (8 / 12, 0.8)
    assert counts.f1 == pytest.approx(stats.hmean([8 / 12, 0.8]))
    assert math.isnan(Counts(0, 0, 0, 0, 1).f1)


@pytest.fixture(scope="module")
def sed_scores_eval():
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        # dcase_util imports it for a function that is not used; it left setuptools 81.
        patch.setitem(sys.modules, "pkg_resources", types.ModuleType("pkg_resources"))
        package = pytest.importorskip("sed_scores_eval")
        from sed_scores_eval.base_modules import statistics

        # It wants arrays that it may write to, which pandas 3 does not give.
        curves = statistics.onset_offset_curves
        patch.setattr(
            statistics, "onset_offset_curves", lambda *given: curves(*map(_writable, given))
        )
        yield package


def _writable(value):
    return np.array(value) if isinstance(value, np.ndarray) else value


@pytest.mark.filterwarnings("ignore")
def test_counts_and_f1_at_every_threshold_are_those_of_sed_scores_eval(sed_scores_eval):
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    rng = np.random.default_rng(1)
    frames = 6000
    scores = np.zeros((frames, 1), np.float32)
    places = np.sort(rng.choice(np.arange(5, frames, 3), 300, replace=False))
    scores[places, 0] = np.round(rng.uniform(0.05, 1, 300), 3)
    starts = np.sort(rng.choice(places, 60, replace=False)) + rng.integers(-30, 30, 60)
    starts = np.unique(np.clip(starts, 2, frames - 2) // 2 * 2)  # it refuses labels that touch
    labels = [(s / RATE, (s + 1) / RATE, "a") for s in starts]
    table = create_score_dataframe(scores, np.arange(frames + 1) / RATE, ["a"])
    recording = Scored(traced(scores[:, 0]), starts / RATE)
    for threshold in (0.1005, 0.3005, 0.5555, 0.8005, 0.9505):
        f1, precision, recall, statistics = sed_scores_eval.collar_based.fscore(
            {"x": table}, {"x": labels}, threshold, onset_collar=0.2, offset_collar=0.2
        )
        ours = count([recording], output(refractory=0).at_threshold(threshold), collar=0.2 + 1e-9)
        assert ours.hits == statistics["a"]["tps"]
        assert ours.duplicates + ours.false_alarms == statistics["a"]["fps"]
        assert ours.labels == statistics["a"]["n_ref"]
        assert (ours.precision, ours.recall) == pytest.approx((precision["a"], recall["a"]))
        assert ours.f1 == pytest.approx(f1["a"])


def picked(scores, settings):
    picker = EventPicker(settings, RATE)
    return picker.push(scores.astype(np.float32)) + picker.finish()


@pytest.mark.parametrize("refractory", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("wish", [200.0, 1000.0, 555.5])
def test_the_solved_threshold_gives_the_wished_rate_through_the_picker(wish, refractory):
    backgrounds = [noise(900, seed) for seed in (1, 2)]
    calibration = solve_threshold(
        [traced(x) for x in backgrounds], output(refractory), false_alarms_per_hour=wish
    )
    at = output(refractory).at_threshold(calibration.threshold)
    events = sum(len(picked(x, at)) for x in backgrounds)
    assert calibration.hours == pytest.approx(0.5)
    assert calibration.false_alarms == events == math.floor(wish / 2)
    assert calibration.warning is None
    # A refractory time that was ignored would count bursts as several.
    lower = output(refractory).at_threshold(0.9 * calibration.threshold)
    assert sum(len(picked(x, lower)) for x in backgrounds) > wish / 2


def test_the_solved_threshold_keeps_its_promise_on_other_background():
    outside = 0
    for seed in range(40):
        calibration = solve_threshold([traced(noise(360, seed))], output(0), 100.0)
        at = output(0).at_threshold(calibration.threshold)
        events = len(picked(noise(3600, 1000 + seed), at))
        spread = math.sqrt(100 + 100**2 / 10)  # of both Poisson counts
        outside += abs(events - 100) > 1.96 * spread
    assert outside <= 6  # 2 are expected; more than 6 in 40 happen in 0.5 % of cases


def test_too_short_a_background_is_said():
    calibration = solve_threshold([traced(noise(600))], output(), 0.5)
    assert calibration.false_alarms == 0
    assert calibration.threshold > noise(600).astype(np.float32).max()
    assert "0.17 h of background are too short" in calibration.warning
    assert "about 6 h are needed" in calibration.warning
    assert str(Calibration(0.5, 0.5, 0, 7.2)) == (
        "threshold 0.5, 0 in 7.2 h: at most 0.42/h at 95 %"
    )


def test_a_background_without_scores_has_a_threshold():
    calibration = solve_threshold([traced(np.full(1000, np.nan))], output(), 1.0)
    assert calibration.false_alarms == 0
    assert calibration.threshold > 0


def with_hits(seconds=1800, seed=3):
    rng = np.random.default_rng(seed)
    scores = noise(seconds, seed)
    ends = np.arange(10, seconds - 10, 20.0)
    for end in ends:
        scores[round(end * RATE) + rng.integers(-10, 30)] += rng.uniform(0, 8)
    return Scored(traced(scores), ends)


@pytest.mark.parametrize("rate", [0.0, 2.0, 20.0])
def test_operating_point_is_the_lowest_threshold_with_so_few_false_alarms(rate):
    recording = with_hits()
    point = operating_point([recording], output(), 0.5, rate)
    assert point.counts.false_alarms_per_hour <= rate
    lower = [t for t in np.unique(recording.trace.peaks()) if t < point.threshold][-60:]
    counts = [count([recording], output().at_threshold(float(t)), 0.5) for t in lower]
    assert min(c.false_alarms for c in counts) / 0.5 > rate


def test_no_hits_where_the_highest_score_is_a_false_alarm():
    scores = np.zeros(1000)
    scores[[100, 800]] = 5, 4
    point = operating_point([Scored(traced(scores), np.array([8.0]))], output(), 0.5, 1.0)
    assert (point.counts.hits, point.counts.false_alarms) == (0, 0)


def test_every_point_of_the_tradeoff_is_what_the_picker_does():
    recording = with_hits()
    curve = detection_error_tradeoff([recording], output(), 0.5, false_alarms_per_hour=200)
    assert len(curve) > 50
    thresholds = [point.threshold for point in curve]
    assert thresholds == sorted(thresholds, reverse=True)
    assert curve[-1].counts.false_alarms_per_hour > 150
    assert curve[0].counts.misses == len(recording.reference) - 1
    for point in curve[::20]:
        assert point.counts == count([recording], output().at_threshold(point.threshold), 0.5)


def test_the_tradeoff_reaches_to_the_top_where_side_peaks_come_first():
    rng = np.random.default_rng(0)
    scores = 0.01 * rng.standard_normal(60_000)
    ends = np.arange(500, 60_000, 500)
    scores[ends] = rng.uniform(0.5, 1, len(ends))
    scores[ends - 10] = 0.3  # within the refractory time
    recording = Scored(traced(scores), ends / RATE)
    curve = detection_error_tradeoff([recording], output(), 0.5)
    thresholds = np.array([point.threshold for point in curve])
    assert thresholds.max() == np.float32(scores.max())
    assert np.sum(thresholds > 0.5) > 50
    assert curve[-1].counts.misses == 0
