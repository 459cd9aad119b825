"""What was recorded answers for what is asked."""

import dataclasses
import random

import pytest

from orchestrator.front.constraints import Bound
from orchestrator.replay.recorded import Recorded
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.recipe import Recipe

OBJECTIVES = ("val_accuracy", "macs_kept")


def table(*curves, **options):
    return Recorded(curves, objectives=OBJECTIVES, **options)


def answers(recorded, cascade):
    """All trials that answer for a cascade."""
    draws = random.Random(0)
    return {recorded.answer(cascade, draws).trial for _ in range(50)}


def test_the_three_nearest_of_the_same_kind_answer(make_curve):
    recorded = table(
        *(make_curve(number, rate=0.01 * 2**number) for number in range(6)),
        make_curve(6, sizes=(0.1,), accuracies=(0.8,)),
        make_curve(7, schedule="sequential"),
    )
    asked = make_curve(rate=0.02).cascade
    assert answers(recorded, asked) == {0, 1, 2}
    assert answers(recorded, dataclasses.replace(asked, schedule="sequential", seed=7)) == {7}
    assert answers(recorded, CascadeConfig(macs_kept=(0.4,), recipe=asked.recipe)) == {6}


def test_one_level_is_the_same_in_either_schedule(make_curve):
    recorded = table(make_curve(sizes=(0.1,), accuracies=(0.8,), schedule="sequential"))
    assert answers(recorded, CascadeConfig(macs_kept=(0.1,), recipe=Recipe(epochs=4))) == {0}


def test_sizes_weigh_more_than_the_rest(make_curve):
    near_in_size = [make_curve(number, sizes=(0.5, 0.02), rate=1.0) for number in range(3)]
    near_in_rate = [make_curve(number, sizes=(0.5, 0.2), rate=0.01) for number in range(3, 6)]
    recorded = table(*near_in_size, *near_in_rate)
    # Halfway between the two sizes but for a little, and as the second in its rate.
    assert answers(recorded, make_curve(sizes=(0.5, 0.04), rate=0.01).cascade) == {0, 1, 2}


def test_what_was_not_recorded_is_named(make_curve):
    with pytest.raises(InputError, match="no recorded trial has 2 assistants, schedule joint"):
        table(make_curve()).answer(CascadeConfig(macs_kept=(0.5, 0.2, 0.1)), random.Random(0))
    with pytest.raises(InputError, match="objective 'latency_ms' is not in learning curves"):
        Recorded([make_curve()], objectives=("val_accuracy", "latency_ms"))
    with pytest.raises(InputError, match="constraints: latency_ms must be at most 5, but is not in learning curves"):
        table(make_curve(), bounds={"latency_ms": Bound(at_most=5)})
    with pytest.raises(InputError, match="no trial of these learning curves finished"):
        table(make_curve(end="failed"), make_curve(end="stopped"))


def test_levels_count_once_they_are_at_their_sizes(make_curve):
    (trial,) = table(make_curve()).trials
    assert [len(epoch.counted) for epoch in trial.epochs] == [0, 0, 2, 2]
    assert trial.epochs[2].counted[1] == trial.results[1] | {"val_accuracy": pytest.approx(0.7)}
    assert trial.results[1] == {"val_accuracy": 0.8, "macs_kept": 0.1, "params_kept": 0.1, "macs": 1, "params": 1}
    assert trial.epochs[3].counted == trial.results
    # Before that the size is what was asked for.
    assert trial.epochs[0].reported[1] == {"val_accuracy": pytest.approx(0.7), "macs_kept": 0.1}


@pytest.mark.parametrize(
    ("bounds", "breaks"),
    [
        ({"macs_kept": Bound(at_most=0.05)}, "macs_kept must be at most 0.05"),
        ({"macs": Bound(at_most=0.1)}, "macs must be at most 0.1"),  # of a teacher's 2
        ({"macs": Bound(at_most=0.3)}, None),
        ({"macs_kept": Bound(at_least=0.4)}, None),  # which the larger level meets
        ({"val_accuracy": Bound(at_least=0.99)}, None),
    ],
)
def test_cascades_without_a_level_within_the_bounds_are_refused(make_curve, bounds, breaks):
    curve = make_curve()
    refusal = table(curve, bounds=bounds).look(curve.cascade)
    assert (refusal is None) if breaks is None else (breaks in refusal.reason)


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


@pytest.mark.parametrize(
    ("cascade", "asking"),
    [
        ({"distillation_weight": 0.0}, (0.0, 0.0, 0.0, 0.0)),
        ({"distillation_weight": 0.0, "feature_weight": 1.0}, (1.0, 1.0, 1.0, 1.0)),
        ({"teacher_views": 3}, (1.0, 1.0, 1.0, 0.0)),
        ({"teacher_every": 4}, (0.25, 0.25, 0.25, 0.25)),
    ],
)
def test_a_teacher_costs_work_where_it_is_asked(make_curve, cascade, asking):
    (trial,) = table(make_curve(**cascade), work="macs").trials
    trained = (3 * 2, 3 * 2, 3 * 0.6, 3 * 0.6)
    assert [4 * epoch.work for epoch in trial.epochs] == pytest.approx(
        [sum(each) for each in zip(asking, trained, strict=True)]
    )


@pytest.mark.parametrize(("learns_from", "asked"), [("level-above", 0.48), ("teacher", 1.0)])
def test_a_level_that_is_trained_alone_asks_the_one_above(make_curve, learns_from, asked):
    curve = make_curve(schedule="sequential", learns_from=learns_from)
    points = tuple(
        dataclasses.replace(point, stage=f"level-{level}", epoch=point.trial_epoch - first, macs_kept=size)
        for level, first, size in ((1, 0, 0.48), (2, 2, 0.1))
        for point in curve.points
        if point.level == level and first < point.trial_epoch <= first + 2
    )
    (trial,) = table(dataclasses.replace(curve, points=points), work="macs").trials
    assert [4 * epoch.work for epoch in trial.epochs] == pytest.approx([1 + 3 * 0.48] * 2 + [asked + 3 * 0.1] * 2)
