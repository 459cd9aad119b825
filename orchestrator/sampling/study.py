"""The durable Optuna study: what has been tried, what came out, and what to try next.

The study is kept in a journal file of the search's folder, or in a database. It is the truth about its trials; Ray Tune
only runs them. Every trial that was asked for ends complete, stopped or failed, and one that was running when the
driver died is found and run to its end.
"""

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.front.constraints import Bounds
from orchestrator.policies.budget import Ended
from orchestrator.policies.looks import Look, Refusal, admit
from orchestrator.policies.probe import SpaceProbe
from orchestrator.policies.samplers import DEFAULT_SAMPLER, make_sampler
from orchestrator.sampling.conclusions import CASCADE_ATTRIBUTE, conclusions
from orchestrator.sampling.journals import JournalFile
from orchestrator.sampling.storages import MEASURED_ATTRIBUTE, StudyAddress, find_or_make_study
from orchestrator.sampling.warm_start import Learned, Source, learn
from orchestrator.searches.asked import Asked
from orchestrator.searches.curves import End
from search_spaces.cascade import CascadeDefaults, Space
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.results import Reused

# Optuna speaks of every trial and of samplers' inner workings; the search's own view says what matters.
optuna.logging.set_verbosity(optuna.logging.ERROR)

_FAILURE = "failure"
_STOPPED = "stopped"
_REUSED = "reused"
_ENDED = "ended"
_CANDIDATES = "candidates"
_LAID_OUT = "starting_points"
_FIXED = "fixed_params"  # where Optuna keeps a point that waits for its trial
# As `optuna.Trial.set_constraint` writes it; a trial object of a running trial would sample anew.
_CONSTRAINT = "constraints"
_REFUSAL = "refusal"
# Beside the study a draw costs a millisecond, and what is left of a constrained space may be small.
_DRAWS = 500
_OWN_DRAWS = 10


class SpaceExhausted(Exception):
    """The space gives no new cascade any more; the message says what it gives instead."""


class Study:
    """Asks for cascades and is told what came of them; every call is on disk when it returns."""

    def __init__(self, address: StudyAddress, *, seed: int, sampler: str = DEFAULT_SAMPLER) -> None:
        """Open the study, or make it.

        Args:
            address: where it is, and what it is of.
            seed: of the sampler, and of draws beside the study.
            sampler: its name, out of `samplers.SAMPLERS`.

        Raises:
            InputError: if there is no such sampler, or the study cannot be opened or is another search's.
        """
        self._objectives = tuple(address.objectives)
        self._seed = seed
        self._study = find_or_make_study(address)
        started = sum(trial.state is not TrialState.WAITING for trial in self._in())
        self._study.sampler = make_sampler(sampler, seed=seed, num_started=started)
        self._tried = {
            _identity(_cascade(trial)): trial.number for trial in self._in() if CASCADE_ATTRIBUTE in trial.user_attrs
        }

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let what is written within be on disk at its end, rather than after each call: a disk takes its time."""
        journal = self._journal
        with nullcontext() if journal is None else journal.together():
            yield

    @property
    def _journal(self) -> JournalFile | None:
        backend = getattr(self._study._storage, "_backend", None)
        return backend if isinstance(backend, JournalFile) else None

    def enqueue(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Let these parameters be suggested first; only where no earlier start has done so."""
        if _LAID_OUT in self._study.user_attrs:
            return
        # Some may be there, if an earlier start was killed between two of them. Optuna would read all for each.
        there = {_text(trial.system_attrs[_FIXED]) for trial in self._in() if _FIXED in trial.system_attrs}
        with self.together():
            for point in points:
                if _text(point) not in there:
                    there.add(_text(point))
                    self._study.enqueue_trial(dict(point))
            self._study.set_user_attr(_LAID_OUT, len(points))

    def learn(self, sources: Sequence[Source], probe: SpaceProbe, bounds: Bounds) -> tuple[Learned, ...]:
        """Let the sampler know what earlier studies found, as `warm_start.learn` says; it counts as no trial here."""
        with self.together():
            return learn(self._study, sources, probe, objectives=self._objectives, bounds=bounds)

    def ask(self, space: Space, defaults: CascadeDefaults, look: Look = admit) -> Asked:
        """A new trial to run: a cascade that can be, that `look` admits, and that no trial of the study has had.

        What is drawn besides is told pruned, with the reason, and does not count as a trial.

        Raises:
            SpaceExhausted: if there is none in 500 draws, most of them at random.
            InputError: if so before any trial was run.
        """
        with self.together():
            return self._ask(space, defaults, look)

    def _ask(self, space: Space, defaults: CascadeDefaults, look: Look) -> Asked:
        reason = ""
        for draw in range(_DRAWS):
            if draw == _OWN_DRAWS:  # a sampler may insist on what it likes best
                point = self._find(space, defaults, look)
                if point is None:
                    break
                self._study.enqueue_trial(point)
            trial = self._study.ask()
            try:
                found = self._look_at(trial, space, defaults, look)
            except BaseException:  # the user's own space failed, or the user stopped it
                self._study.tell(trial, state=TrialState.FAIL)
                raise
            if isinstance(found, CascadeConfig):
                trial.set_user_attr(CASCADE_ATTRIBUTE, json.dumps(found.to_dict()))
                self._tried[_identity(found)] = trial.number
                return Asked(number=trial.number, cascade=found)
            reason = found.reason
            self._refuse(trial, found)
        if not self.num_started:
            raise InputError(f"the space gives no valid cascade in {_DRAWS} draws; the last one: {reason}")
        raise SpaceExhausted(f"space: {_DRAWS} draws gave nothing new to run; the last one: {reason}")

    def _find(self, space: Space, defaults: CascadeDefaults, look: Look) -> dict[str, Any] | None:
        """Parameters, drawn at random beside the study, of a cascade to run."""
        from trainables.seeds import derive_seed  # here, as it takes torch, which simulated searches need none of

        seed = derive_seed(self._seed, "beside", len(self._in())) % 2**32  # as far as NumPy's reach
        beside = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        for _ in range(_DRAWS - _OWN_DRAWS):
            trial = beside.ask()
            if isinstance(self._look_at(trial, space, defaults, look), CascadeConfig):
                return trial.params
        return None

    def _look_at(
        self, trial: optuna.Trial, space: Space, defaults: CascadeDefaults, look: Look
    ) -> CascadeConfig | Refusal:
        """The cascade of a draw, or why it is not worth a trial."""
        try:
            cascade = space(trial, defaults)
        except InputError as error:
            return Refusal(reason=str(error))
        if _identity(cascade) in self._tried:
            return Refusal(reason=f"equal to trial {self._tried[_identity(cascade)]}")
        return look(cascade) or cascade

    def _refuse(self, trial: optuna.Trial, refusal: Refusal) -> None:
        trial.set_user_attr(_REFUSAL, refusal.reason)
        if refusal.constraint is not None:
            trial.set_constraint(refusal.constraint, refusal.violation)
        self._study.tell(trial, state=TrialState.PRUNED)

    def tell(
        self,
        number: int,
        values: Sequence[float | None],
        *,
        constraints: Mapping[str, float] = MappingProxyType({}),
        measured: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """What came of a trial; one that has ended is left as it is.

        Args:
            number: of the trial.
            values: its objectives, in their order; one that is missing or no number fails the trial.
            constraints: how far it breaks each constraint; 0 or below where it is met.
            measured: all that is known of its student, by metric, for studies that learn from this one.
        """
        for name, value in zip(self._objectives, values, strict=True):
            if value is None or not math.isfinite(value):
                self.fail(number, f"{name} is {value}, but is an objective and must be a finite number")
                return
        trial = self._trial(number)
        with self.together():
            if trial.state is TrialState.RUNNING:
                self._study._storage.set_trial_user_attr(trial._trial_id, MEASURED_ATTRIBUTE, dict(measured))
                for name, violation in constraints.items():
                    self._study._storage.set_trial_system_attr(trial._trial_id, f"{_CONSTRAINT}:{name}", violation)
            self._study.tell(number, [float(value) for value in values if value is not None], skip_if_finished=True)

    def note_reuse(self, number: int, reused: Reused) -> None:
        """Remember what a trial, which has not ended yet, did not have to compute."""
        if reused.stages:
            self._note(number, _REUSED, json.dumps(reused.to_dict()))

    def note_candidates(self, number: int, candidates: Sequence[Mapping[str, Any]]) -> None:
        """Remember what a trial, which has not ended yet, gave, as plain values, for an archive that is lost.

        A database outlives the search's folder, or is ahead of what a bucket has of it.
        """
        # The cascade is there already, and is most of a candidate.
        plain = [{name: value for name, value in each.items() if name != "cascade"} for each in candidates]
        self._note(number, _CANDIDATES, json.dumps(plain))

    def candidates(self, *, besides: Collection[int]) -> Iterator[dict[str, Any]]:
        """What was remembered of what trials gave.

        Args:
            besides: trials that are left out, which need not be read then.
        """
        for trial in self._in():
            if trial.number not in besides and _CANDIDATES in trial.user_attrs:
                noted = json.loads(trial.user_attrs[_CANDIDATES])
                cascade = json.dumps(_cascade(trial).to_dict(), sort_keys=True)
                yield from ({"cascade": cascade} | plain for plain in noted)  # earlier versions kept the cascade too

    def reused(self) -> tuple[Reused, ...]:
        """What trials did not have to compute, for those that reused anything."""
        noted = (trial.user_attrs.get(_REUSED) for trial in self._study.get_trials(deepcopy=False))
        return tuple(Reused.from_dict(json.loads(text)) for text in noted if text)

    def fail(self, number: int, reason: str) -> None:
        """A trial gave no usable network."""
        self._end(number, TrialState.FAIL, _FAILURE, reason)

    def stop(self, number: int, reason: str) -> None:
        """A trial was stopped early; what it was worth then is not what it would have been worth, and is not told."""
        self._end(number, TrialState.PRUNED, _STOPPED, reason)

    def settle(self) -> None:
        """End what a driver that was killed while it asked has left half-drawn; a starting point is laid out again."""
        for trial in self._in(TrialState.RUNNING):
            if CASCADE_ATTRIBUTE in trial.user_attrs:
                continue
            point = trial.system_attrs.get(_FIXED)
            if point:
                self._study.enqueue_trial(point)
            self.fail(trial.number, "the driver ended while it was drawn")

    def note_end(self, number: int, ended: Ended) -> None:
        """Keep what a trial took, before it is told or failed; a trial that has ended is left as it is."""
        self._note(number, _ENDED, dataclasses.asdict(ended))

    def ended(self) -> tuple[Ended, ...]:
        """What trials that have ended took, by number."""
        trials = (trial for trial in self._in(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
        return tuple(Ended(**trial.user_attrs[_ENDED]) for trial in trials if _ENDED in trial.user_attrs)

    def asked(self, number: int) -> Asked:
        """A trial that was asked for, whatever has become of it."""
        return Asked(number=number, cascade=_cascade(self._trial(number)))

    def concluded(self) -> dict[int, End]:
        """How trials that were asked for ended, by number."""
        return conclusions(self._study)

    def running(self) -> tuple[Asked, ...]:
        """Trials that were asked for and have not ended."""
        return tuple(
            Asked(number=trial.number, cascade=_cascade(trial))
            for trial in self._in(TrialState.RUNNING)
            if CASCADE_ATTRIBUTE in trial.user_attrs
        )

    def parameters(self, number: int) -> dict[str, Any]:
        """What was suggested for a trial."""
        return dict(self._trial(number).params)

    def failures(self) -> dict[int, str]:
        """Why trials failed, by number."""
        return {
            trial.number: trial.user_attrs.get(_FAILURE, "unknown")
            for trial in self._in(TrialState.FAIL)
            if CASCADE_ATTRIBUTE in trial.user_attrs
        }

    def stopped(self) -> dict[int, str]:
        """Why trials were stopped early, by number."""
        pruned = self._in(TrialState.PRUNED)
        return {trial.number: trial.user_attrs[_STOPPED] for trial in pruned if _STOPPED in trial.user_attrs}

    @property
    def num_started(self) -> int:
        """Trials that count towards the number asked for: complete, stopped, failed or running."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)
        return sum(CASCADE_ATTRIBUTE in trial.user_attrs for trial in self._in(*states))

    @property
    def num_ended(self) -> int:
        """Trials that are complete, stopped or failed."""
        return self.num_started - len(self.running())

    def _end(self, number: int, state: TrialState, attribute: str, reason: str) -> None:
        with self.together():
            self._note(number, attribute, reason)
            self._study.tell(number, state=state, skip_if_finished=True)

    def _note(self, number: int, attribute: str, value: Any) -> None:
        """Remember something of a trial; one that has ended is left as it is."""
        trial = self._trial(number)
        if trial.state is TrialState.RUNNING:
            self._study._storage.set_trial_user_attr(trial._trial_id, attribute, value)

    def _in(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _trial(self, number: int) -> FrozenTrial:
        # Not out of all trials, of which a list would be made for each report of a long search.
        storage = self._study._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number))


def _cascade(trial: FrozenTrial) -> CascadeConfig:
    return CascadeConfig.from_dict(json.loads(trial.user_attrs[CASCADE_ATTRIBUTE]))


def _identity(cascade: CascadeConfig) -> str:
    """What two cascades have in common that are the same but for their seed."""
    return json.dumps(cascade.to_dict() | {"seed": None}, sort_keys=True)


def _text(point: Mapping[str, Any]) -> str:
    """What two points have in common that are the same."""
    return json.dumps(point, sort_keys=True)
