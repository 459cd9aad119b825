"""Who is told how a search goes."""

from collections.abc import Sequence

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from trainables.config import CascadeConfig
from trainables.results import EpochProgress, Reused, TeacherResult


class Watcher:
    """Who is told how the search goes, as on the terminal; of what it does not override it takes no notice."""

    def teacher_epoch(self, progress: EpochProgress) -> None:
        """The teacher trained an epoch."""

    def teacher_ready(self, result: TeacherResult) -> None:
        """The teacher is there."""

    def going_on(self, num_ended: int, num_begun: int) -> None:
        """Trials begin, or go on after so many of those that were begun have ended."""

    def trial_started(self, number: int, cascade: CascadeConfig) -> None:
        """A trial runs."""

    def trial_epoch(self, number: int, progress: EpochProgress) -> None:
        """A trial trained an epoch."""

    def trial_finished(self, number: int, candidates: Sequence[Candidate], view: FrontView, reused: Reused) -> None:
        """A trial gave its candidates, some stages of which may have been done before."""

    def trial_stopped(self, number: int, reason: str, candidates: Sequence[Candidate], view: FrontView) -> None:
        """A trial was stopped early, and gave the candidates that had reached their sizes."""

    def trial_failed(self, number: int, reason: str) -> None:
        """A trial gave nothing."""

    def note(self, text: str) -> None:
        """Something about the search as a whole that people should know."""
