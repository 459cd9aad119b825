"""What a search knows, kept in one order: networks on disk, then the archive, then the study, then those who watch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.front.archive import Archive, Candidate
from orchestrator.front.candidates import candidates_of, results_of
from orchestrator.front.constraints import Bounds, measured, unmet, violations
from orchestrator.front.front_view import FrontView, front_view, grown
from orchestrator.front.pareto import front_hypervolume, losses
from orchestrator.policies.budget import Budget
from orchestrator.sampling.study import Study
from orchestrator.searches.asked import Asked
from orchestrator.searches.curves import Curves, End
from orchestrator.searches.layout import CANDIDATES, CURVES
from orchestrator.tracking import ClosedTrial, Status, Tracker
from orchestrator.trials.front_artist import FrontArtist
from orchestrator.trials.watcher import Watcher
from orchestrator.words import counted
from trainables.errors import InputError
from trainables.results import EpochProgress, LevelResult, Reused, TeacherResult

# Trials after which, and after as many more, constraints that nothing has met are spoken of.
_TRIALS_TO_MEET = 10


class SearchRecord:
    """Takes what trials report and keeps it; a candidate is in the archive before its trial counts as done."""

    def __init__(  # noqa: PLR0913
        self,
        *,
        folder: Path,
        objectives: Sequence[str],
        teacher: TeacherResult,
        archive: Archive,
        study: Study,
        budget: Budget,
        tracker: Tracker,
        watcher: Watcher,
        bounds: Bounds = MappingProxyType({}),
        fetch: Callable[[Sequence[str]], None] = lambda _networks: None,
    ) -> None:
        """Take the parts.

        Args:
            folder: the search's.
            objectives: names out of `pareto.OBJECTIVES`.
            teacher: what sizes and accuracies compare to.
            archive: of the candidates.
            study: of the trials.
            budget: counts what they take.
            tracker: MLflow.
            watcher: the terminal.
            bounds: what candidates of the front keep to.
            fetch: brings networks of the front, by their folders in the search's, to this machine.
        """
        self._objectives = tuple(objectives)
        self._teacher = teacher
        self._archive = archive
        self._study = study
        self._budget = budget
        self._tracker = tracker
        self._watcher = watcher
        self._bounds = bounds
        self._curves = Curves(folder / CURVES)
        self._view: FrontView | None = None
        self._artist = FrontArtist(folder, tracker, fetch, watcher.note)

    def adopt(self) -> tuple[Asked, ...]:
        """Conclude trials that a driver left running with their candidates in the archive; give the others back."""
        self._study.settle()
        archived = {candidate.trial for candidate in self._archive.candidates()}  # all of a trial's, or none
        self._archive.add(Candidate(**plain) for plain in self._study.candidates(besides=archived))
        self._note_lost()
        unfinished = []
        for asked in self._study.running():
            found = self._candidates(asked.number)
            is_whole = bool(found) and _is_whole(found)
            trained = self._curves.trained(asked.number)
            if trained is None:  # nothing was heard, but a trial that gave all its networks has had all its epochs
                trained = asked.cascade.num_epochs if is_whole else 0
            self._budget.trained(asked.number, trained)
            if is_whole:
                self._conclude(asked, found, Reused())
            elif found:
                self._conclude_stopped(asked.number, found, "early stopping, as the driver ended", Reused())
            else:
                unfinished.append(asked)
        # What a driver told the study, but could not keep elsewhere, nor tell MLflow, any more.
        concluded = self._study.concluded()
        self._curves.settle(concluded, lambda number: results_of(self._candidates(number)))
        self._tracker.settle(concluded, self._closed)
        return tuple(unfinished)

    def _note_lost(self) -> None:
        """Say so if networks of finished trials are neither in the archive nor in the study."""
        archived = {candidate.trial for candidate in self._archive.candidates()}
        lost = [
            number for number, end in self._study.concluded().items() if end == "finished" and number not in archived
        ]
        if lost:
            self._watcher.note(
                f"{self._archive.path} lacks the candidates of {counted(len(lost), 'finished trial')}, the first of "
                f"which is trial {min(lost)}; restore it from a copy, as the front is without them"
            )

    def _candidates(self, number: int) -> list[Candidate]:
        return [candidate for candidate in self._archive.candidates() if candidate.trial == number]

    def _closed(self, number: int) -> ClosedTrial:
        return ClosedTrial(
            parameters=self._parameters(self._study.asked(number)),
            candidates=self._candidates(number),
            reason=(self._study.failures() | self._study.stopped()).get(number),
        )

    def started(self, asked: Asked) -> None:
        """A trial begins, or goes on."""
        self._curves.started(asked, self._study.parameters(asked.number))
        self._tracker.start_trial(asked.number, self._parameters(asked))
        self._watcher.trial_started(asked.number, asked.cascade)

    def _parameters(self, asked: Asked) -> dict[str, Any]:
        parameters = self._study.parameters(asked.number) | {
            "num_assistants": asked.cascade.num_assistants,
            "schedule": asked.cascade.schedule,
            "epochs": asked.cascade.num_epochs,
        }
        for level, size in enumerate(asked.cascade.macs_kept, start=1):
            parameters[f"level_{level}_macs_kept_asked"] = size
        return parameters

    def trained(self, number: int, epochs: int) -> None:
        """A trial has trained so many epochs of its own, over all starts."""
        self._budget.trained(number, epochs)

    def epoch(self, number: int, progress: EpochProgress) -> None:
        """A trial trained an epoch, or took it over."""
        self._curves.epoch(number, progress, trained=self._budget.trained_by(number))
        self._tracker.log_epoch(number, progress)
        self._watcher.trial_epoch(number, progress)

    def finished(
        self, asked: Asked, results: Sequence[LevelResult], networks: Mapping[int, str], reused: Reused
    ) -> None:
        """A trial gave a network of every level."""
        candidates = self._archived(asked, results, networks)
        if candidates is not None:
            self._budget.trained(asked.number, asked.cascade.num_epochs - reused.epochs)
            self._conclude(asked, candidates, reused)

    def stopped(
        self, asked: Asked, results: Sequence[LevelResult], networks: Mapping[int, str], reused: Reused, reason: str
    ) -> None:
        """A trial was stopped early, and gave networks of the levels that had reached their sizes."""
        candidates = self._archived(asked, results, networks)
        if candidates is not None:
            self._conclude_stopped(asked.number, candidates, reason, reused)

    def failed(self, number: int, reason: str) -> None:
        """A trial gave nothing; none of its levels reaches the front."""
        self._end(number, "failed", tell=partial(self._study.fail, number, reason), reason=reason)
        self._watcher.trial_failed(number, reason)

    def note(self, text: str) -> None:
        """Something about all trials that people should know."""
        self._watcher.note(text)

    def close(self, status: Status, reason: str) -> None:
        """The search ends, for now or for good; why."""
        if self._archive.candidates():
            self._artist.show(self.view(), self._hypervolume(self.view()), num_trials=self._budget.num_ended)
            self._note_unmet()
        self.leave()
        self._artist.finish()
        self._tracker.finish(status, reason)

    def leave(self) -> None:
        """The search ends in whatever way: nobody waits for pictures of fronts, and all is where people look for it."""
        self._artist.hurry()
        with suppress(OSError):  # on a full disk it stays where it is, which is safe too
            self._archive.settle()

    def view(self) -> FrontView:
        """The front as it is now."""
        if self._view is None:
            self._view = front_view(
                self._archive.candidates(),
                self._objectives,
                teacher_val_accuracy=self._teacher.val_accuracy,
                bounds=self._bounds,
                collapsed_below=self._teacher.collapsed_below,
            )
        return self._view

    def _archived(
        self, asked: Asked, results: Sequence[LevelResult], networks: Mapping[int, str]
    ) -> tuple[Candidate, ...] | None:
        """Put a trial's levels into the archive; `None` where one lacks a number that is needed: the trial failed."""
        folders = {level: f"{CANDIDATES}/{name}" for level, name in networks.items()}
        try:
            candidates = candidates_of(asked.number, results, folders, asked.cascade)
            for candidate in candidates:
                losses(candidate, self._objectives)
                violations(self._bounds, candidate)
        except InputError as error:
            self.failed(asked.number, str(error))
            return None
        view = self.view()
        self._archive.add(candidates)
        self._view = grown(view, candidates, self._archive.candidates(), self._bounds)
        return candidates

    def _conclude(self, asked: Asked, candidates: Sequence[Candidate], reused: Reused) -> None:
        number = asked.number
        student = max(candidates, key=lambda candidate: candidate.level)

        def tell() -> None:
            self._study.tell(
                number,
                [getattr(student, name) for name in self._objectives],
                constraints=violations(self._bounds, student),
                measured=measured(student),
            )

        self._end(number, "finished", candidates, tell=tell, reused=reused)
        self._watcher.trial_finished(number, candidates, self.view(), reused)
        if self._budget.num_ended % _TRIALS_TO_MEET == 0:
            self._note_unmet()

    def _conclude_stopped(self, number: int, candidates: Sequence[Candidate], reason: str, reused: Reused) -> None:
        tell = partial(self._study.stop, number, reason)
        self._end(number, "stopped", candidates, tell=tell, reason=reason, reused=reused)
        self._watcher.trial_stopped(number, reason, candidates, self.view())

    def _end(  # noqa: PLR0913
        self,
        number: int,
        end: End,
        candidates: Sequence[Candidate] = (),
        *,
        tell: Callable[[], None],
        reason: str | None = None,
        reused: Reused | None = None,
    ) -> None:
        """End a trial: in the study, then its curve, then MLflow, then the picture of the front.

        Its candidates are in the archive before. What a kill loses, `adopt` makes up for: before the archive the trial
        goes on from its checkpoint; before the study it is concluded from its candidates, but what it had reused is
        not known any more, and one that failed is tried again; after the study its curve and its run in MLflow are
        ended as the study says. A picture that is missing is drawn with the next one, or when the search ends.
        """
        view = self.view()
        volume = self._hypervolume(view)
        with self._budget.ending(number, hypervolume=volume) as ended, self._study.together():
            self._study.note_end(number, ended)
            if reused is not None:
                self._study.note_reuse(number, reused)
                self._study.note_candidates(number, [asdict(candidate) for candidate in candidates])
            tell()
        self._curves.ended(number, end, results_of(candidates))
        self._tracker.finish_trial(number, candidates, end, reason, reused)
        if candidates:
            self._artist.show(view, volume, num_trials=self._budget.num_ended)

    def _note_unmet(self) -> None:
        text = unmet(self._bounds, self._archive.candidates())
        if text is not None:
            self._watcher.note(text)

    def _hypervolume(self, view: FrontView) -> float:
        return front_hypervolume(view.front, self._objectives, teacher_latency_ms=self._teacher.latency_ms)


def _is_whole(candidates: Sequence[Candidate]) -> bool:
    """Whether these are all levels of their trial, trained to the end."""
    return len(candidates) == candidates[0].num_assistants + 1 and all(c.fidelity == 1.0 for c in candidates)


def search_parameters(plain: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's plain values as flat parameters: dotted keys, scalars as they are, the rest as text.

    Floors are under patterns of the user's own, with signs that MLflow takes in no key, and are text as a whole.
    """
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and key != "floors":
            flat |= {f"{key}.{inner}": item for inner, item in search_parameters(value).items()}
        else:
            flat[key] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat
