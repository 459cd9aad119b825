"""Policies are compared seed by seed, and intervals narrow with more of them."""

import pytest

from orchestrator.replay.comparison import BootstrapEstimate, compare, ratio_of_means
from orchestrator.replay.recorded import Recorded
from orchestrator.replay.simulate import Replay
from orchestrator.replay.yardstick import Yardstick

OBJECTIVES = ("val_accuracy", "macs_kept")


def test_policies_are_compared_seed_by_seed(make_curve):
    good, bad = make_curve(0, sizes=(0.01,), accuracies=(0.9,)), make_curve(1, sizes=(0.1,), accuracies=(0.9,))
    recorded = Recorded([good, bad], objectives=OBJECTIVES)
    good, bad = (trial.results for trial in recorded.trials)

    def found(*works):
        """Searches that found half of it at once and, unless it is `None`, all of it after so much work."""
        for work in works:
            ends = (1.0,) if work is None else (1.0, work)
            yield Replay(work=ends, given=(bad, good)[: len(ends)], budget=40.0, num_stopped=1)

    searches = {"slow": list(found(20.0, 30.0)), "fast": list(found(10.0, None))}
    slow, fast = compare(searches, Yardstick(recorded), until=0.95)
    assert (slow.work.mean, slow.num_short, slow.ratio.mean, slow.ratio.low) == (25.0, 0, 1.0, 1.0)
    assert (fast.work.mean, fast.num_short, fast.share.mean) == (25.0, 1, pytest.approx(0.75))
    assert (fast.ratio.low, fast.ratio.high) == (pytest.approx(0.5), pytest.approx(40 / 30))
    assert (fast.num_trials, fast.num_stopped) == (1.5, 1.0)
    easy, _ = compare(searches, Yardstick(recorded), until=0.5)
    assert easy.work.mean == 1.0


def test_an_interval_holds_the_mean_and_narrows_with_more_seeds():
    few, many = (BootstrapEstimate.of([1.0, 2.0, 3.0, 4.0] * times) for times in (1, 25))
    assert few.low < few.mean == many.mean == 2.5 < few.high
    assert many.high - many.low < (few.high - few.low) / 3
    assert BootstrapEstimate.of([7.0]) == BootstrapEstimate(mean=7.0, low=7.0, high=7.0)
    assert ratio_of_means([2.0, 4.0], [4.0, 8.0]) == 0.5
