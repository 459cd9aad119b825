"""What of a long study a sampler looks at, so that a suggestion costs the same after ten thousand trials as after some.

TPE weighs every trial of the study for every parameter, in all about 0.04 ms a trial and suggestion. What it learns
from are the best trials, against a picture of all others; the most recent ones give that picture.
"""

from collections.abc import Container, Sequence
from typing import Any, cast

import moocore
import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

NUM_BEST = 100
NUM_RECENT = 300
_CHUNK = 500


class BoundedHistory(BaseSampler):
    """A sampler that sees the best and the most recent trials of a study; in a short study that is all.

    The best are the first by the front that they lie on; where a front does not fit in, its older trials. Those that
    break a constraint come after all that break none, the least broken first, as TPE itself ranks them.
    """

    def __init__(self, sampler: BaseSampler, *, num_best: int = NUM_BEST, num_recent: int = NUM_RECENT) -> None:
        """Wrap a sampler.

        Args:
            sampler: one that reads a study by its trials alone, as TPE does.
            num_best: completed trials that stay in sight, at least 1.
            num_recent: newest trials, in whatever state, at least 1.
        """
        self._sampler = sampler
        self._sight = _Sight(num_best=num_best, num_recent=num_recent)
        self._looked: tuple[int, list[FrozenTrial]] | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What the sampler makes of what it sees."""
        return self._sampler.infer_relative_search_space(self._seen(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What the sampler makes of what it sees."""
        return self._sampler.sample_relative(self._seen(study, trial), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401 - Optuna's
        """What the sampler makes of what it sees."""
        return self._sampler.sample_independent(self._seen(study, trial), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Look at the study, once for all parameters of the trial: a list of all trials takes its time."""
        self._looked = None
        seen = self._seen(study, trial)
        self._looked = trial.number, seen._get_trials(deepcopy=False)
        self._sampler.before_trial(self._seen(study, trial), trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass it on."""
        self._looked = None
        self._sampler.after_trial(self._seen(study, trial), trial, state, values)

    def reseed_rng(self) -> None:
        """Pass it on."""
        self._sampler.reseed_rng()

    def _seen(self, study: Study, trial: FrozenTrial) -> Study:
        looked = self._looked[1] if self._looked is not None and self._looked[0] == trial.number else None
        return cast(Study, _SeenStudy(study, self._sight, looked))


class _SeenStudy:
    """A study of which only some trials are seen."""

    def __init__(self, study: Study, sight: "_Sight", looked: list[FrozenTrial] | None) -> None:
        self._study, self._sight, self._looked = study, sight, looked

    def _get_trials(
        self,
        deepcopy: bool = True,  # noqa: FBT001, FBT002 - Optuna's signature
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: FBT001, FBT002
    ) -> list[FrozenTrial]:
        # Copies are for callers that change trials, which samplers do not.
        seen = self._looked
        if seen is None:
            trials = self._study._get_trials(deepcopy=False, use_cache=use_cache)
            seen = self._sight.of(trials, self._study.directions)
        return [trial for trial in seen if states is None or trial.state in states]

    def get_trials(
        self,
        deepcopy: bool = True,  # noqa: FBT001, FBT002
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._study, name)


class _Sight:
    """Remembers the best of the older trials, so that each is ranked once."""

    def __init__(self, *, num_best: int, num_recent: int) -> None:
        self._num_best, self._num_recent = num_best, num_recent
        self._best: list[FrozenTrial] = []
        self._num_looked_at = 0
        self._unfinished: list[int] = []

    def of(self, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
        """The trials in sight, by number, out of all of a study."""
        end = len(trials) - self._num_recent
        if end <= self._num_best:
            return list(trials)
        signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])
        older = [*self._unfinished, *range(self._num_looked_at, end)]
        self._unfinished = [index for index in older if not trials[index].state.is_finished()]
        self._num_looked_at = end
        done = [trials[index] for index in older if trials[index].state is TrialState.COMPLETE]
        for start in range(0, len(done), _CHUNK):
            pool = sorted([*self._best, *done[start : start + _CHUNK]], key=lambda trial: trial.number)
            broken_N = np.array([_violation(trial) for trial in pool])
            losses_ND = signs * np.array([trial.values for trial in pool])
            self._best = [pool[index] for index in sorted(_first(broken_N, losses_ND, self._num_best))]
        return [*self._best, *trials[end:]]


def _violation(trial: FrozenTrial) -> float:
    """By how much a trial breaks its constraints, in all; 0 if it breaks none."""
    return sum(max(0.0, violation) for violation in trial.constraints.values())


def _first(broken_N: np.ndarray, losses_ND: np.ndarray, number: int) -> list[int]:
    """Indices of so many trials: those that break nothing, front by front, then the least broken."""
    (whole,), (broken,) = np.nonzero(broken_N == 0.0), np.nonzero(broken_N)
    best = [*whole[_first_by_front(losses_ND[whole], number)], *broken[np.argsort(broken_N[broken], kind="stable")]]
    return best[:number]


def _first_by_front(losses_ND: np.ndarray, number: int) -> list[int]:
    """Indices of so many points, front by front, all coordinates to be minimised."""
    by_front: list[int] = np.argsort(moocore.pareto_rank(losses_ND), kind="stable").tolist()
    return by_front[:number]
