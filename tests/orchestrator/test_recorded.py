"""What was recorded answers for what is asked, and fronts are measured against the best of it."""

import dataclasses
import math

import pytest

from orchestrator.recorded import Recorded
from trainables.config import CascadeConfig, Recipe
from trainables.errors import InputError

OBJECTIVES = ("val_accuracy", "macs_kept")


def table(*curves, **options):
    return Recorded(curves, objectives=OBJECTIVES, **options)


def test_the_nearest_of_the_same_kind_answers(make_curve):
    recorded = table(
        make_curve(0),
        make_curve(1, rate=0.01),
        make_curve(2, sizes=(0.1,), accuracies=(0.8,)),
        make_curve(3, schedule="sequential"),
    )
    asked = make_curve(rate=0.02).cascade
    assert recorded.nearest(asked).trial == 1
    assert recorded.nearest(dataclasses.replace(asked, schedule="sequential", seed=7)).trial == 3
    assert recorded.nearest(CascadeConfig(macs_kept=(0.4,), recipe=asked.recipe)).trial == 2


def test_one_level_is_the_same_in_either_schedule(make_curve):
    recorded = table(make_curve(sizes=(0.1,), accuracies=(0.8,), schedule="sequential"))
    assert recorded.nearest(CascadeConfig(macs_kept=(0.1,), recipe=Recipe(epochs=4))).trial == 0


def test_sizes_weigh_more_than_the_rest(make_curve):
    near_in_size = make_curve(0, sizes=(0.5, 0.02), rate=1.0)
    near_in_rate = make_curve(1, sizes=(0.5, 0.2), rate=0.01)
    recorded = table(near_in_size, near_in_rate)
    # Halfway between the two sizes but for a little, and as the second in its rate.
    assert recorded.nearest(make_curve(sizes=(0.5, 0.04), rate=0.01).cascade).trial == 0


def test_what_was_not_recorded_is_named(make_curve):
    with pytest.raises(InputError, match="no recorded trial has 2 assistants, schedule joint"):
        table(make_curve()).nearest(CascadeConfig(macs_kept=(0.5, 0.2, 0.1)))
    with pytest.raises(InputError, match="objective 'latency_ms' is not in learning curves"):
        Recorded([make_curve()], objectives=("val_accuracy", "latency_ms"))
    with pytest.raises(InputError, match="no trial of these learning curves finished"):
        table(make_curve(end="failed"), make_curve(end="stopped"))


def test_levels_count_once_they_are_at_their_sizes(make_curve):
    (trial,) = table(make_curve()).trials
    assert [len(epoch.counted) for epoch in trial.epochs] == [0, 0, 2, 2]
    assert trial.epochs[2].counted[1] == {"val_accuracy": pytest.approx(0.7), "macs_kept": 0.1, "params_kept": 0.1}
    assert trial.epochs[3].counted == trial.results
    # Before that the size is what was asked for.
    assert trial.epochs[0].reported[1] == {"val_accuracy": pytest.approx(0.7), "macs_kept": 0.1}


def test_trials_with_epochs_missing_are_left_out(make_curve):
    curve = make_curve(1)
    gap = dataclasses.replace(curve, points=tuple(point for point in curve.points if point.trial_epoch != 2))
    short = dataclasses.replace(curve, points=curve.points[:4])
    assert [trial.trial for trial in table(make_curve(0), gap, short).trials] == [0]


def test_a_failed_trial_counts_nothing(make_curve):
    failed = table(make_curve(0), make_curve(1, end="failed")).trials[1]
    assert (len(failed.epochs), failed.num_epochs, failed.results, failed.epochs[-1].counted) == (2, 4, (), ())


def test_work_is_counted_in_epochs_or_by_size(make_curve):
    assert table(make_curve()).work_per_trial == 4
    recorded = table(make_curve(), work="macs")
    full, small = (1 + 3 * 2) / 4, (1 + 3 * 0.6) / 4
    assert [epoch.work for epoch in recorded.trials[0].epochs] == pytest.approx([full, full, small, small])


def test_the_best_front_of_the_table_is_all_and_its_ends_count(make_curve):
    curves = [make_curve(0, accuracies=(0.9, 0.8)), make_curve(1, sizes=(0.5, 0.01), accuracies=(0.85, 0.6))]
    recorded = table(*curves)
    front = recorded.front()
    assert front.share == 0.0
    front.add(recorded.trials[0].results)
    # Scaled: sizes 0.5, 0.1, 0.01 to 1, log(10)/log(50), 0 and accuracies 0.9, 0.8, 0.6 to 0, 1/3, 1; corner 1.1.
    middle = math.log(10) / math.log(50)
    without_end = (1.1 - 1) * 1.1 + (1 - middle) * (1.1 - 1 / 3)
    assert front.share == pytest.approx(without_end / (without_end + middle * 0.1))
    front.add(recorded.trials[1].results)
    assert front.share == pytest.approx(1.0)
    front.add(recorded.trials[1].results)
    assert front.share == pytest.approx(1.0)
