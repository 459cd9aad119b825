"""The durable Optuna study: what has been tried, what came out, and what to try next.

The study is a journal file in the search's folder and the truth about its trials; Ray Tune only runs them. Every trial
that was asked for ends complete or failed, and one that was running when the driver died is found and run to its end.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.pareto import OBJECTIVES
from orchestrator.samplers import DEFAULT_SAMPLER, make_sampler
from search_spaces.cascade import CascadeDefaults, Space
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.results import Reused

# Optuna speaks of every trial and of samplers' inner workings; the search's own view says what matters.
optuna.logging.set_verbosity(optuna.logging.ERROR)

_CASCADE = "cascade"
_FAILURE = "failure"
_REUSED = "reused"
_LAID_OUT = "starting_points"
_ATTEMPTS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A trial to run.

    Attributes:
        number: in the study, from 0.
        cascade: what it trains.
    """

    number: int
    cascade: CascadeConfig


class Study:
    """Asks for cascades and is told what came of them; every call is on disk when it returns."""

    def __init__(self, path: Path, *, objectives: Sequence[str], seed: int, sampler: str = DEFAULT_SAMPLER) -> None:
        """Open the study, or make it.

        Args:
            path: the journal file.
            objectives: names out of `pareto.OBJECTIVES`.
            seed: of the sampler.
            sampler: its name, out of `samplers.SAMPLERS`.

        Raises:
            InputError: if there is no such sampler.
        """
        self._objectives = tuple(objectives)
        storage = JournalStorage(JournalFileBackend(str(path)))
        self._study = optuna.create_study(
            study_name="search",
            storage=storage,
            directions=[OBJECTIVES[name] for name in objectives],
            load_if_exists=True,
        )
        started = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = make_sampler(sampler, seed=seed, num_started=started)

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Let these parameters be suggested first; only where no earlier start has done so."""
        if _LAID_OUT in self._study.user_attrs:
            return
        for point in points:
            # Some may be there, if an earlier start was killed between two of them.
            self._study.enqueue_trial(dict(point), skip_if_exists=True)
        self._study.set_user_attr(_LAID_OUT, len(points))

    def ask(self, space: Space, defaults: CascadeDefaults) -> Asked:
        """A new trial to run.

        Raises:
            InputError: if the space gives no valid cascade.
        """
        trial, cascade = _draw(self._study, space, defaults)
        trial.set_user_attr(_CASCADE, json.dumps(cascade.to_dict()))
        return Asked(number=trial.number, cascade=cascade)

    def tell(self, number: int, values: Sequence[float]) -> None:
        """A trial's objectives, in their order; a trial that has ended is left as it is."""
        self._study.tell(number, list(values), skip_if_finished=True)

    def note_reuse(self, number: int, reused: Reused) -> None:
        """Remember what a trial, which has not ended yet, did not have to compute."""
        trial = self._trial(number)
        if reused.stages and trial.state is TrialState.RUNNING:
            self._study._storage.set_trial_user_attr(trial._trial_id, _REUSED, json.dumps(reused.to_dict()))

    def reused(self) -> tuple[Reused, ...]:
        """What trials did not have to compute, for those that reused anything."""
        noted = (trial.user_attrs.get(_REUSED) for trial in self._study.get_trials(deepcopy=False))
        return tuple(Reused.from_dict(json.loads(text)) for text in noted if text)

    def fail(self, number: int, reason: str) -> None:
        """A trial gave no usable network."""
        if self._trial(number).state is TrialState.RUNNING:
            self._study._storage.set_trial_user_attr(self._trial(number)._trial_id, _FAILURE, reason)
        self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def running(self) -> tuple[Asked, ...]:
        """Trials that were asked for and have not ended."""
        return tuple(
            Asked(number=trial.number, cascade=_cascade(trial))
            for trial in self._in(TrialState.RUNNING)
            if _CASCADE in trial.user_attrs
        )

    def parameters(self, number: int) -> dict[str, Any]:
        """What was suggested for a trial."""
        return dict(self._trial(number).params)

    def failures(self) -> dict[int, str]:
        """Why trials failed, by number."""
        return {trial.number: trial.user_attrs.get(_FAILURE, "unknown") for trial in self._in(TrialState.FAIL)}

    @property
    def num_started(self) -> int:
        """Trials that count towards the number asked for: complete, failed or running."""
        states = (TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING)
        return sum(_CASCADE in trial.user_attrs for trial in self._in(*states))

    @property
    def num_ended(self) -> int:
        """Trials that are complete or failed."""
        return self.num_started - len(self.running())

    def _in(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _trial(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]


def _draw(study: optuna.Study, space: Space, defaults: CascadeDefaults) -> tuple[optuna.Trial, CascadeConfig]:
    """Ask until the space gives a cascade that can be; one that cannot is not worth a trial."""
    for _ in range(_ATTEMPTS):
        trial = study.ask()
        try:
            return trial, space(trial, defaults)
        except InputError as error:
            study.tell(trial, state=TrialState.PRUNED)
            reason = error
    raise InputError(f"the space gives no valid cascade in {_ATTEMPTS} draws; the last one: {reason}")


def _cascade(trial: FrozenTrial) -> CascadeConfig:
    return CascadeConfig.from_dict(json.loads(trial.user_attrs[_CASCADE]))
