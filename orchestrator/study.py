"""The durable Optuna study: what has been tried, what came out, and what to try next.

The study is a journal file in the search's folder and the truth about its trials; Ray Tune only runs them. Every trial
that was asked for ends complete or failed, and one that was running when the driver died is found and run to its end.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from orchestrator.budget import Ended
from orchestrator.pareto import OBJECTIVES
from search_spaces.cascade import CascadeDefaults, Space
from trainables.config import CascadeConfig
from trainables.errors import InputError, first_line
from trainables.results import Reused

# Optuna speaks of every trial; the search's own view does that.
optuna.logging.set_verbosity(optuna.logging.WARNING)

_CASCADE = "cascade"
_FAILURE = "failure"
_REUSED = "reused"
_ENDED = "ended"
_ATTEMPTS = 100
_CONCLUSIONS: Mapping[TrialState, Literal["finished", "failed", "stopped"]] = MappingProxyType(
    {TrialState.COMPLETE: "finished", TrialState.FAIL: "failed", TrialState.PRUNED: "stopped"}
)


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

    def __init__(self, path: Path, *, objectives: Sequence[str], seed: int) -> None:
        """Open the study, or make it.

        Args:
            path: the journal file.
            objectives: names out of `pareto.OBJECTIVES`.
            seed: of the sampler.
        """
        self._objectives = tuple(objectives)
        storage = JournalStorage(JournalFileBackend(str(path)))
        self._study = optuna.create_study(
            study_name="search",
            storage=storage,
            directions=[OBJECTIVES[name] for name in objectives],
            load_if_exists=True,
        )
        # Seeded anew for each start, or a resumed search would suggest its first trials again.
        started = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = optuna.samplers.TPESampler(seed=(seed + started) % 2**32)

    def enqueue(self, points: Sequence[dict[str, Any]]) -> None:
        """Let these parameters be suggested first; only where the study is new."""
        if not self._study.get_trials(deepcopy=False):
            for point in points:
                self._study.enqueue_trial(point)

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

    def note_end(self, number: int, ended: Ended) -> None:
        """Keep what a trial took, before it is told or failed; a trial that has ended is left as it is."""
        trial = self._trial(number)
        if trial.state is TrialState.RUNNING:
            self._study._storage.set_trial_user_attr(trial._trial_id, _ENDED, dataclasses.asdict(ended))

    def ended(self) -> tuple[Ended, ...]:
        """What trials that have ended took, by number."""
        trials = (trial for trial in self._in(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
        return tuple(Ended(**trial.user_attrs[_ENDED]) for trial in trials if _ENDED in trial.user_attrs)

    def drop_undrawn(self) -> None:
        """End trials that a driver had begun to draw when it died; no one runs them."""
        for trial in self._in(TrialState.RUNNING):
            if _CASCADE not in trial.user_attrs:
                self._study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)

    def asked(self, number: int) -> Asked:
        """A trial that was asked for, whatever has become of it."""
        return Asked(number=number, cascade=_cascade(self._trial(number)))

    def concluded(self) -> dict[int, Literal["finished", "failed", "stopped"]]:
        """How trials that were asked for ended, by number."""
        return {
            trial.number: _CONCLUSIONS[trial.state] for trial in self._in(*_CONCLUSIONS) if _CASCADE in trial.user_attrs
        }

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


def check_space(space: Space, defaults: CascadeDefaults) -> None:
    """Draw from a space once, beside any study, so that one that cannot work shows before the search starts.

    Raises:
        InputError: if it fails, or gives no valid cascade.
    """
    try:
        _, cascade = _draw(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), space, defaults)
    except InputError:
        raise
    except Exception as error:  # the space may be the user's own
        raise InputError(f"space: your function failed with {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(cascade, CascadeConfig):
        raise InputError(f"space: your function gave a {type(cascade).__name__}, but must give a CascadeConfig")


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
