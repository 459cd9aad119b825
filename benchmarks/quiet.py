"""A watcher that is told everything and says nothing; benchmarks build theirs on it."""

from collections.abc import Sequence

from orchestrator.archive import Candidate
from orchestrator.front_view import FrontView
from trainables.config import CascadeConfig
from trainables.results import EpochProgress, Reused, TeacherResult


class Quiet:
    """Does nothing of what `orchestrator.watcher.Watcher` may do."""

    def teacher_epoch(self, progress: EpochProgress) -> None:
        """Nothing."""

    def teacher_ready(self, result: TeacherResult) -> None:
        """Nothing."""

    def going_on(self, num_ended: int) -> None:
        """Nothing."""

    def trial_started(self, number: int, cascade: CascadeConfig) -> None:
        """Nothing."""

    def trial_epoch(self, number: int, progress: EpochProgress) -> None:
        """Nothing."""

    def trial_finished(self, number: int, candidates: Sequence[Candidate], view: FrontView, reused: Reused) -> None:
        """Nothing."""

    def trial_stopped(self, number: int, reason: str, candidates: Sequence[Candidate], view: FrontView) -> None:
        """Nothing."""

    def trial_failed(self, number: int, reason: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
