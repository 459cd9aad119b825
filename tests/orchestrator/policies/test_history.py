"""A sampler that sees a part of a long study suggests as in a short one, from the trials that count."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from orchestrator.policies.history import BoundedHistory, _first, _Sight

SPACE = {"x": FloatDistribution(0.0, 1.0)}


class Looking(TPESampler):
    """Remembers what it saw."""

    seen = ()

    def sample_independent(self, study, trial, param_name, param_distribution):
        self.seen = [found.number for found in study.get_trials(deepcopy=False)]
        return super().sample_independent(study, trial, param_name, param_distribution)


def make_study(sampler, num_trials, values=lambda x: (x, 1.0 - x)):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for number in range(num_trials):
        x = (number * 0.37) % 1.0
        study.add_trial(create_trial(params={"x": x}, distributions=SPACE, values=values(x)))
    return study


@pytest.mark.parametrize("constant_liar", [False, True])
def test_in_a_short_study_nothing_changes(constant_liar):
    def suggest(wrap):
        sampler = wrap(TPESampler(seed=0, constant_liar=constant_liar))
        study = make_study(sampler, 20)
        return [study.ask(SPACE).params["x"] for _ in range(5)]

    assert suggest(BoundedHistory) == suggest(lambda sampler: sampler)


def test_a_study_is_listed_once_for_all_parameters_of_a_trial(monkeypatch):
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=BoundedHistory(TPESampler(seed=0)))
    for number in range(20):
        trial = study.ask()
        study.tell(trial, [sum(trial.suggest_float(name, 0, 1) for name in "xyz"), number])
    listed = []
    listing = study._storage.get_all_trials
    monkeypatch.setattr(
        study._storage, "get_all_trials", lambda *words, **named: listed.append(1) or listing(*words, **named)
    )
    counts = []
    for names in ("x", "xyz"):
        listed.clear()
        trial = study.ask()
        for name in names:
            trial.suggest_float(name, 0, 1)
        counts.append(len(listed))
    assert counts[0] == counts[1] > 0


def test_what_was_told_in_between_is_seen_by_the_next_trial():
    sampler = Looking(seed=0)
    study = make_study(BoundedHistory(sampler), 20)
    first = study.ask(SPACE)
    study.add_trial(create_trial(params={"x": 0.5}, distributions=SPACE, values=(0.5, 0.5)))
    study.tell(first, (0.1, 0.1))
    study.ask(SPACE)
    assert sampler.seen == list(range(23))


def dominates(one, other):
    return (one <= other).all() and (one < other).any()


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_the_best_are_chosen_front_by_front_and_the_older_of_one_front(objectives):
    draws = np.random.default_rng(objectives)
    for size in range(1, 40):
        points = draws.integers(0, 5, (size, objectives)).astype(float)  # so that some are equal
        left, naive = list(range(size)), []
        while left:
            front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
            naive += front
            left = [i for i in left if i not in front]
        number = size // 2 + 1
        assert _first(np.zeros(size), points, number) == naive[:number]


def test_a_long_study_shows_its_best_and_its_newest():
    sampler = Looking(seed=0)
    study = make_study(BoundedHistory(sampler, num_best=2, num_recent=5), 40, values=lambda x: (x, 1.0))
    study.ask(SPACE)
    # The one that is asked for is the newest; of those before the newest five the two largest x are the best.
    older = sorted(range(36), key=lambda number: (number * 0.37) % 1.0)[-2:]
    assert sampler.seen == [*sorted(older), 36, 37, 38, 39, 40]


def test_trials_that_end_late_are_ranked_then():
    def trial(number, value, state=TrialState.COMPLETE):
        values = [value] if state is TrialState.COMPLETE else None
        found = create_trial(state=state, values=values)
        found.number = number
        return found

    sight = _Sight(num_best=1, num_recent=2)
    minimize = [optuna.study.StudyDirection.MINIMIZE]
    trials = [trial(0, 0.0, TrialState.RUNNING), *(trial(number, float(number)) for number in range(1, 6))]
    assert [found.number for found in sight.of(trials, minimize)] == [1, 4, 5]
    trials[0] = trial(0, 0.5)
    assert [found.number for found in sight.of(trials, minimize)] == [0, 4, 5]


def test_fronts_are_kept_whole_as_far_as_they_fit():
    sight = _Sight(num_best=3, num_recent=1)
    points = [(0.0, 3.0), (1.0, 1.0), (3.0, 0.0), (2.0, 2.0), (4.0, 4.0), (9.0, 9.0)]
    trials = [create_trial(values=list(point)) for point in points]
    for number, found in enumerate(trials):
        found.number = number
    directions = [optuna.study.StudyDirection.MINIMIZE] * 2
    assert [found.number for found in sight.of(trials, directions)] == [0, 1, 2, 5]


def test_failed_and_pruned_trials_are_never_among_the_best():
    sight = _Sight(num_best=2, num_recent=1)
    trials = [create_trial(state=TrialState.PRUNED), create_trial(state=TrialState.FAIL)]
    trials += [create_trial(value=value) for value in (3.0, 1.0, 2.0, 9.0)]
    for number, found in enumerate(trials):
        found.number = number
    assert [found.number for found in sight.of(trials, [optuna.study.StudyDirection.MINIMIZE])] == [3, 4, 5]


@pytest.mark.parametrize("multivariate", [False, True])
def test_it_goes_on_after_the_bound(multivariate):
    with pytest.warns(optuna.exceptions.ExperimentalWarning) if multivariate else _nothing():
        inner = TPESampler(seed=0, multivariate=multivariate, group=multivariate)
    study = make_study(BoundedHistory(inner, num_best=5, num_recent=15), 60)
    drawn = {study.ask(SPACE).params["x"] for _ in range(10)}
    assert len(drawn) == 10


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_what_breaks_a_constraint_comes_after_all_that_does_not():
    sampler = Looking(seed=0)
    study = optuna.create_study(directions=["maximize"], sampler=BoundedHistory(sampler, num_best=4, num_recent=5))
    broken = [2.0, 0.0, 1.0, -1.0, 3.0, *[4.0] * 25]  # the better the value, the more is broken
    for number, violation in enumerate(broken):
        study.add_trial(
            create_trial(
                params={"x": 0.5}, distributions=SPACE, values=[violation + number], constraints={"params": violation}
            )
        )
    study.ask(SPACE)
    assert sampler.seen == [0, 1, 2, 3, 26, 27, 28, 29, 30]
