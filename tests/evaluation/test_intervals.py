"""Intervals of shares and of means, against other implementations and by what they promise."""

import numpy as np
import pytest
from scipy.stats import binomtest

from jaxplain.evaluation.intervals import bootstrap, wilson
from jaxplain.evaluation.studies.report import share_interval


@pytest.mark.parametrize("confidence", [0.68, 0.95, 0.99])
def test_wilson_is_scipys(confidence):
    trials = np.arange(1, 40)[:, None]
    hits = np.minimum(np.arange(40), trials)
    low, high = wilson(hits, trials, confidence)
    for n in range(1, 40):
        for k in range(n + 1):
            own = binomtest(k, n).proportion_ci(confidence, method="wilson")
            np.testing.assert_allclose(
                (low[n - 1, k], high[n - 1, k]), (own.low, own.high), atol=1e-12
            )


def test_wilson_at_the_borders():
    assert [float(end) for end in wilson(0, 0)] == [0, 1]
    low, high = wilson([0, 10**6], [10**6, 10**6])
    assert low[0] == 0 and high[1] == 1 and high[0] < 1e-5 and low[1] > 1 - 1e-5
    assert share_interval(0, 0) == "-"
    for hits, trials in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="no more hits than trials"):
            wilson(hits, trials)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1"):
        wilson(1, 2, 95)


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(400, 50))  # their true mean is 1
    ends = np.array([bootstrap(sample, 0.9, resamples=400) for sample in samples])
    covered = ((ends[:, 0] <= 1) & (ends[:, 1] >= 1)).mean()
    assert 0.82 < covered < 0.93  # a skewed sample's is a little short
    width = (ends[:, 1] - ends[:, 0]).mean()
    assert width == pytest.approx(2 * 1.645 / np.sqrt(50), rel=0.1)


def test_bootstrap_draws_the_same_images_for_all_scores():
    values = np.random.default_rng(1).normal(size=30)
    low, high = bootstrap([values, 2 * values + 1])
    np.testing.assert_allclose(2 * low[0] + 1, low[1])
    np.testing.assert_allclose(2 * high[0] + 1, high[1])
    assert [float(end) for end in bootstrap([3.0])] == [3, 3]
    with pytest.raises(ValueError, match="N >= 1"):
        bootstrap(np.zeros((3, 0)))
