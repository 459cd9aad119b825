"""The search on the terminal: a live table where there is one, a line an event where there is not."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.tables import print_line
from orchestrator.trials.watcher import Watcher
from orchestrator.words import duration, nothing_to_teach, percent
from trainables.config import CascadeConfig
from trainables.pruning_config import UNITS
from trainables.results import EpochProgress, Reused, TeacherResult


@contextmanager
def watching(console: Console, *, num_trials: int) -> Iterator[Watcher]:
    """A watcher that suits the terminal, or the pipe, that the console writes to.

    Args:
        console: where to.
        num_trials: trials that the search is to have.
    """
    if not console.is_terminal:
        yield LineWatcher(console, num_trials=num_trials)
        return
    watcher = LiveWatcher(console, num_trials=num_trials)
    with Live(get_renderable=watcher.render, console=console, refresh_per_second=4, transient=True):
        yield watcher


def _sizes(cascade: CascadeConfig) -> str:
    sizes = " → ".join(percent(size) for size in cascade.macs_kept)
    return f"{sizes} of the {UNITS[cascade.pruning.size_in]}"


_QUIET_SECONDS = 60.0  # that a log says nothing, at most, while epochs end


class LineWatcher(Watcher):
    """One line an event, for logs and pipes, and one an epoch where nothing else was said for a minute."""

    def __init__(self, console: Console, *, num_trials: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting."""
        self._console = console
        self._clock = clock
        self._said_at = clock()
        self._num_trials = num_trials
        self._num_ended = 0
        self._teacher: TeacherResult | None = None
        self._collapse_is_explained = False

    def teacher_epoch(self, progress: EpochProgress) -> None:
        """The teacher trained an epoch."""
        self._say_if_quiet(f"teacher: {_epoch(progress)}")

    def teacher_ready(self, result: TeacherResult) -> None:
        """The teacher is there."""
        self._teacher = result
        self._say(_teacher_line(result))
        if not result.has_learnt:
            assert result.val_guess is not None
            self.note(
                f"{nothing_to_teach(percent(result.val_accuracy), percent(result.val_guess))}, or if model.weights "
                "gave it, see whether their classes and their pixels are those of data"
            )

    def going_on(self, num_ended: int, num_begun: int) -> None:
        """Trials begin, or go on after so many of those that were begun have ended."""
        if num_begun > self._num_trials:
            self.note(f"{num_begun:,} trials are there, and num_trials is {self._num_trials:,}: no new one is started")
        self._num_ended, self._num_trials = num_ended, max(self._num_trials, num_begun)

    def trial_started(self, number: int, cascade: CascadeConfig) -> None:
        """A trial runs."""
        self._say(f"trial {number} runs: {cascade.schedule}, {_sizes(cascade)}")

    def trial_epoch(self, number: int, progress: EpochProgress) -> None:
        """A trial trained an epoch."""
        self._say_if_quiet(f"trial {number}: {progress.stage}, {_epoch(progress)}")

    def trial_finished(self, number: int, candidates: Sequence[Candidate], view: FrontView, reused: Reused) -> None:
        """A trial gave its candidates, some stages of which may have been done before."""
        self._num_ended += 1
        self._say(
            f"trial {number} done ({self._num_ended} of {self._num_trials}): {_levels(candidates, view)}; "
            f"front of {len(view.front)} among {len(view.candidates)}{_saved(reused)}"
        )
        self._explain_collapse(candidates, view)

    def trial_stopped(self, number: int, reason: str, candidates: Sequence[Candidate], view: FrontView) -> None:
        """A trial was stopped early, and gave the candidates that had reached their sizes."""
        self._num_ended += 1
        levels = _levels(candidates, view)
        self._say(
            f"trial {number} stopped ({self._num_ended} of {self._num_trials}): {reason}"
            f"{'; kept ' if levels else ''}{levels}"
        )

    def trial_failed(self, number: int, reason: str) -> None:
        """A trial gave nothing."""
        self._num_ended += 1
        self._say(f"trial {number} failed ({self._num_ended} of {self._num_trials}): {reason}")

    def note(self, text: str) -> None:
        """Something about the search as a whole."""
        self._say(f"note: {text}")

    def _say(self, line: str) -> None:
        self._said_at = self._clock()
        print_line(self._console, line)

    def _say_if_quiet(self, line: str) -> None:
        if self._clock() - self._said_at >= _QUIET_SECONDS:
            self._say(line)

    def _explain_collapse(self, candidates: Sequence[Candidate], view: FrontView) -> None:
        """Once, at the first level that has collapsed although all of its epochs were trained."""
        collapsed = [candidate for candidate in candidates if view.is_collapsed(candidate)]
        if not collapsed or self._collapse_is_explained:
            return
        assert self._teacher is not None
        assert self._teacher.val_guess is not None
        self._collapse_is_explained = True
        self.note(
            f"level {collapsed[0].level} of trial {collapsed[0].trial} has collapsed: it is nearer to guessing "
            f"({percent(self._teacher.val_guess)}) than to the teacher ({percent(self._teacher.val_accuracy)}); "
            "if many do, give cascades more epochs (cascade.recipe.epochs), a slower fall "
            "(cascade.pruning.ramp_fraction), clipped gradients (cascade.recipe.max_grad_norm: 1), another "
            "learning rate or larger students (space)"
        )


@dataclass(slots=True)
class _Running:
    cascade: CascadeConfig
    progress: EpochProgress | None = None


class LiveWatcher(Watcher):
    """A table of running trials, the best so far, and the time that is left; finished trials scroll by above it."""

    def __init__(self, console: Console, *, num_trials: int) -> None:
        """Start counting."""
        self._lines = LineWatcher(console, num_trials=num_trials)
        self._num_trials = num_trials
        self._num_ended = 0
        self._ended_here = 0
        self._started = time.monotonic()
        self._trials_started: float | None = None
        self._teacher: TeacherResult | None = None
        self._teacher_progress: EpochProgress | None = None
        self._running: dict[int, _Running] = {}  # changes while another thread draws, from a copy
        self._view: FrontView | None = None

    def teacher_epoch(self, progress: EpochProgress) -> None:
        """The teacher trained an epoch."""
        self._teacher_progress = progress

    def teacher_ready(self, result: TeacherResult) -> None:
        """The teacher is there."""
        self._trials_started = time.monotonic()
        self._teacher = result  # last: the drawing thread looks at it first
        self._lines.teacher_ready(result)

    def going_on(self, num_ended: int, num_begun: int) -> None:
        """Trials begin, or go on after so many of those that were begun have ended."""
        self._num_ended, self._ended_here = num_ended, 0
        self._num_trials = max(self._num_trials, num_begun)
        self._lines.going_on(num_ended, num_begun)

    def trial_started(self, number: int, cascade: CascadeConfig) -> None:
        """A trial runs."""
        self._running[number] = _Running(cascade)

    def trial_epoch(self, number: int, progress: EpochProgress) -> None:
        """A trial trained an epoch."""
        self._running[number].progress = progress

    def trial_finished(self, number: int, candidates: Sequence[Candidate], view: FrontView, reused: Reused) -> None:
        """A trial gave its candidates, some stages of which may have been done before."""
        self._view = view
        self._end(number)
        self._lines.trial_finished(number, candidates, view, reused)

    def trial_stopped(self, number: int, reason: str, candidates: Sequence[Candidate], view: FrontView) -> None:
        """A trial was stopped early, and gave the candidates that had reached their sizes."""
        self._view = view
        self._end(number)
        self._lines.trial_stopped(number, reason, candidates, view)

    def trial_failed(self, number: int, reason: str) -> None:
        """A trial gave nothing."""
        self._end(number)
        self._lines.trial_failed(number, reason)

    def note(self, text: str) -> None:
        """Something about the search as a whole."""
        self._lines.note(text)

    def _end(self, number: int) -> None:
        self._running.pop(number, None)
        self._num_ended += 1
        self._ended_here += 1

    def render(self) -> RenderableType:
        """What stands at the bottom of the terminal now."""
        parts: list[RenderableType] = [self._headline()]
        if self._running:
            parts.append(self._table())
        return Group(*parts)

    def _headline(self) -> Text:
        elapsed = time.monotonic() - self._started
        if self._teacher is None:
            progress = self._teacher_progress
            doing = _epoch(progress) if progress else "starting"
            return Text(f"teacher: {doing}, {duration(elapsed)} so far", style="bold")
        text = f"{self._num_ended} of {self._num_trials} trials, {duration(elapsed)} so far"
        left = self._left_seconds()
        if left is not None:
            text += f", about {duration(left)} left"
        if self._view is not None and self._view.knee is not None:
            knee = self._view.knee
            text += f"; best so far: {percent(knee.val_accuracy)} at {percent(knee.macs_kept)} of the MACs"
        return Text(text, style="bold")

    def _left_seconds(self) -> float | None:
        """From epochs that are done and to do; `None` before there is anything to go by."""
        assert self._trials_started is not None
        done = float(self._ended_here)
        for running in self._running.copy().values():
            if running.progress is not None:
                done += running.progress.trial_epoch / running.cascade.num_epochs
        ahead = self._num_trials - self._num_ended - (done - self._ended_here)
        if done < 0.2:
            return None
        return (time.monotonic() - self._trials_started) / done * ahead

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("trial", "stage", "epoch", "sizes asked", "accuracy now"):
            table.add_column(column)
        for number, running in sorted(self._running.copy().items()):
            progress = running.progress
            table.add_row(
                str(number),
                progress.stage if progress else "starting",
                f"{progress.epoch}/{progress.num_epochs}" if progress else "",
                _sizes(running.cascade),
                ", ".join(f"{percent(level.val_accuracy)}" for level in progress.levels) if progress else "",
            )
        return table


def _epoch(progress: EpochProgress) -> str:
    return f"epoch {progress.epoch} of {progress.num_epochs}"


def _levels(candidates: Sequence[Candidate], view: FrontView) -> str:
    return ", ".join(
        f"{percent(c.val_accuracy)} at {percent(c.macs_kept)}{'' if number else ' of the MACs'}"
        f"{' (collapsed)' if view.is_collapsed(c) else ''}"
        for number, c in enumerate(candidates)
    )


def _saved(reused: Reused) -> str:
    if not reused.stages:
        return ""
    return f"; {', '.join(reused.stages)} reused, which saved {duration(reused.seconds)}"


def _teacher_line(result: TeacherResult) -> str:
    took = f", trained in {duration(result.seconds)}" if result.seconds else ", read from its file"
    if result.reused:
        took = f", reused from another search, which saved {duration(result.seconds)}"
    return (
        f"teacher: {percent(result.val_accuracy)} on validation, {result.macs / 1e6:.4g} M MACs, "
        f"{result.params / 1e6:.3g} M parameters{took}"
    )
