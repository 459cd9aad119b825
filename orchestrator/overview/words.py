"""Numbers as the overview writes them."""

from orchestrator import words
from orchestrator.front.archive import Candidate
from trainables.results import TeacherResult


def fewer(kept: float) -> str:
    """How many times fewer, from the fraction that is kept."""
    return f"{1 / kept:.3g}×"


def points_text(candidate: Candidate, teacher_val_accuracy: float) -> str:
    """How a candidate's accuracy stands to the teacher's."""
    points = 100 * (candidate.val_accuracy - teacher_val_accuracy)
    if abs(points) < 0.005:
        return "as accurate as the teacher"
    return f"{abs(points):.2f} points {'above' if points > 0 else 'below'} the teacher"


def signed_points(candidate: Candidate, teacher: TeacherResult) -> str:
    """The same in a few characters."""
    points = round(100 * (candidate.val_accuracy - teacher.val_accuracy), 2)
    return f"{'−' if points < 0 else '+' if points else '±'}{abs(points):.2f} points"


def duration(seconds: float) -> str:
    """Seconds as people read them, those of less than a minute with as many digits as tell trials apart."""
    return words.duration(seconds) if round(seconds) >= 60 else f"{seconds:.3g} s"
