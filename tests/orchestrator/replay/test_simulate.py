"""Replays spend what they are given, count what a search would count, and depend on their seed alone."""

import itertools

import pytest

from orchestrator.front.constraints import Bound
from orchestrator.replay.policy import Policy
from orchestrator.replay.recorded import Recorded
from orchestrator.replay.simulate import OwnSearcher, Simulation, replay
from orchestrator.searches.asked import Asked
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.errors import InputError
from trainables.recipe import Recipe

OBJECTIVES = ("val_accuracy", "macs_kept")
SPACE = CascadeSpace(num_assistants=(1, 1), student_macs_kept=(0.01, 0.2), learning_rate=(0.01, 1.0))
DEFAULTS = CascadeDefaults(recipe=Recipe(epochs=4))


@pytest.fixture(scope="module")
def grid(make_curve):
    """A grid of sizes and learning rates, of which the middle one is best."""
    curves = []
    for size, rate in itertools.product((0.01, 0.03, 0.1, 0.2), (0.01, 0.1, 1.0)):
        accuracy = 0.9 + size / 2 - (0.2 if rate != 0.1 else 0.0)
        accuracies = (accuracy + 0.01, accuracy)
        curves.append(make_curve(len(curves), sizes=(size**0.5, size), accuracies=accuracies, rate=rate))
    return curves


@pytest.fixture(scope="module")
def recorded(grid):
    return Recorded(grid, objectives=OBJECTIVES)


class Scripted:
    """Asks for cascades in turn and stops those it is told to, after so many epochs."""

    def __init__(self, cascades, stop_after=()):
        self.cascades, self.stop_after = cascades, dict(stop_after)
        self.heard, self.fractions = [], []
        self.num_asked = 0

    def ask(self):
        number, self.num_asked = self.num_asked, self.num_asked + 1
        return Asked(number=number, cascade=self.cascades[number % len(self.cascades)])

    def report(self, number, fraction, points):
        self.fractions.append((number, fraction))
        return fraction * 4 < self.stop_after.get(number, 4)

    def finished(self, number, result):
        self.heard.append(("finished", number, result["macs_kept"]))

    def stopped(self, number):
        self.heard.append(("stopped", number))

    def failed(self, number):
        self.heard.append(("failed", number))


def test_students_are_told_and_failures_too(make_curve):
    cascade = make_curve().cascade
    failing = [make_curve(number, end="failed", rate=1.0) for number in range(3, 6)]
    recorded = Recorded([*(make_curve(number) for number in range(3)), *failing], objectives=OBJECTIVES)
    searcher = Scripted([cascade, make_curve(rate=1.0).cascade])
    found = replay(searcher, recorded, num_workers=1, budget=6, seed=0)
    assert searcher.heard == [("finished", 0, 0.1), ("failed", 1)]
    assert (found.work, found.given, found.num_stopped) == ((4.0, 6.0), (recorded.trials[0].results, ()), 0)


def test_workers_train_side_by_side_and_the_budget_is_theirs_together(recorded, grid):
    searcher = Scripted([curve.cascade for curve in grid])
    found = replay(searcher, recorded, num_workers=3, budget=8, seed=0)
    assert [number for number, _ in searcher.fractions] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert (len(found.work), searcher.num_asked) == (0, 3)


def test_an_epoch_that_would_end_beyond_the_budget_is_dropped(make_curve):
    recorded = Recorded([make_curve(0)], objectives=OBJECTIVES, work="macs")  # a trial costs 4.9
    for budget, num_ended in ((4.8, 0), (recorded.work_per_trial, 1), (9 * recorded.work_per_trial, 9)):
        found = replay(Scripted([make_curve().cascade]), recorded, num_workers=1, budget=budget, seed=0)
        assert len(found.work) == len(found.given) == num_ended


def test_a_stopped_trial_frees_its_worker_and_counts_only_at_its_size(make_curve):
    recorded = Recorded([make_curve(0)], objectives=OBJECTIVES)
    searcher = Scripted([make_curve().cascade], stop_after={0: 1, 1: 3})
    found = replay(searcher, recorded, num_workers=1, budget=8, seed=0)
    assert searcher.heard == [("stopped", 0), ("stopped", 1), ("finished", 2, 0.1)]
    assert (found.work, found.num_stopped) == ((1.0, 4.0, 8.0), 2)
    # Stopped after one epoch nothing is at its size; after three it is, and less accurate than in the end.
    assert [[round(point["val_accuracy"], 3) for point in group] for group in found.given] == [
        [],
        [0.8, 0.7],
        [0.9, 0.8],
    ]


@pytest.mark.parametrize("words", ["random", "tpe+start:3", "tpe+start:3+rungs"])
def test_the_seed_alone_decides(recorded, words):
    simulation = Simulation(space=SPACE, defaults=DEFAULTS, recorded=recorded, num_workers=2, budget=48)
    one, again, other = (simulation.run(Policy.parse(words), seed) for seed in (0, 0, 1))
    assert one == again
    assert one.given != other.given


def test_constraints_are_those_of_the_search(grid):
    bounds = {"macs_kept": Bound(at_most=0.02), "val_accuracy": Bound(at_least=0.8)}
    recorded = Recorded(grid, objectives=OBJECTIVES, bounds=bounds)
    simulation = Simulation(space=SPACE, defaults=DEFAULTS, recorded=recorded, num_workers=1, budget=40)
    found = simulation.run(Policy.parse("random"), 0)
    # A tenth or a fifth of the teacher is no size within the bounds, and not asked for.
    assert {result["macs_kept"] for _, result in found.given} <= {0.01, 0.03}
    searcher = OwnSearcher(Policy(sampler="tpe"), SPACE, DEFAULTS, objectives=OBJECTIVES, seed=0, bounds=bounds)
    number = searcher.ask().number
    searcher.finished(number, {"val_accuracy": 0.6, "macs_kept": 0.03})
    told = searcher._study._study.trials[number].constraints
    assert told == {"macs_kept": pytest.approx(0.5), "val_accuracy": pytest.approx(0.25)}


def test_kinds_that_were_not_recorded_are_not_asked_for(recorded):
    space = CascadeSpace(num_assistants=(0, 2), student_macs_kept=(0.01, 0.2), learning_rate=(0.01, 1.0))
    simulation = Simulation(space=space, defaults=DEFAULTS, recorded=recorded, num_workers=2, budget=40)
    assert len(simulation.run(Policy.parse("random+start:3"), 0).work) == 10


def test_a_space_that_is_exhausted_ends_the_search(recorded):
    space = CascadeSpace(
        num_assistants=(1, 1),
        student_macs_kept=(0.1, 0.1),
        temperature=(1.0, 2.0),
        distillation_weight=(0.5, 0.5),
        size_grid=2,
        value_grid=2,
    )
    simulation = Simulation(space=space, defaults=DEFAULTS, recorded=recorded, num_workers=2, budget=100)
    assert len(simulation.run(Policy.parse("random"), 0).work) == 2


def test_rungs_stop_trials_and_leave_room_for_others(recorded):
    simulation = Simulation(space=SPACE, defaults=DEFAULTS, recorded=recorded, num_workers=2, budget=160)
    plain, stopping = (simulation.run(Policy.parse(words), 0) for words in ("random", "random+rungs"))
    assert (plain.num_stopped, len(plain.work)) == (0, 40)
    assert stopping.num_stopped > 0
    assert len(stopping.work) > 40


def test_the_hand_laid_start_comes_first(recorded):
    searcher = OwnSearcher(
        Policy(sampler="random", num_starting_points=2), SPACE, DEFAULTS, objectives=OBJECTIVES, seed=0
    )
    assert [searcher.ask().cascade.macs_kept[-1] for _ in range(2)] == pytest.approx([0.01, 0.2])


def test_a_hand_laid_start_needs_ranges(recorded):
    policy = Policy(sampler="random", num_starting_points=2)
    with pytest.raises(InputError, match=r"leave \+start out"):
        OwnSearcher(policy, lambda trial, defaults: None, DEFAULTS, objectives=OBJECTIVES, seed=0)
