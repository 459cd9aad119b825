"""What stages, levels and trials produced. Standard library only, plain values, JSON round trip."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

# Of the way from guessing to being always right; and how many times as often right as who guesses is enough, as it is
# where there are many classes.
_LEAST_LEARNT, _TIMES_GUESSING = 0.05, 3.0


def has_learnt(accuracy: float, *, guess: float) -> bool:
    """Whether a network does better than guessing, by more than chance gives on some hundred images.

    Args:
        accuracy: the network's, in [0, 1].
        guess: accuracy of who does not look at the images, in [0, 1].
    """
    return accuracy >= min(guess + _LEAST_LEARNT * (1.0 - guess), _TIMES_GUESSING * guess)


def collapse_line(*, guess: float, teacher: float) -> float:
    """Accuracy halfway from guessing to the teacher's; a network below it has lost most of what was learnt.

    Args:
        guess: accuracy of who does not look at the images, in [0, 1].
        teacher: the teacher's on the same images, in [0, 1]; where it has learnt nothing, nothing is below the line.
    """
    return (guess + teacher) / 2 if has_learnt(teacher, guess=guess) else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelProgress:
    """One level after one epoch.

    Attributes:
        level: 0 for the teacher, 1 … L below it.
        macs_kept: fraction of the teacher's MACs that the level keeps now, in (0, 1].
        train_loss: mean of the level's own loss over the epoch.
        val_accuracy: top-1 on the validation images, in [0, 1]; macro mean average precision where they have several
            labels.
        val_top5: the same of the five most likely classes; `None` with five classes or less.
    """

    level: int
    macs_kept: float
    train_loss: float
    val_accuracy: float
    val_top5: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochProgress:
    """One epoch of one stage: what is reported, tracked and shown.

    Attributes:
        stage: `teacher`, `cascade`, `level-1` … `level-L` of a sequential cascade, or `recovery-1` … `recovery-L`.
        epoch: epochs of this stage that are done, 1 … num_epochs.
        num_epochs: epochs of this stage.
        trial_epoch: epochs of the whole trial that are done, from 1.
        learning_rate: of the epoch's last step.
        seconds: wall time of the epoch, validation included.
        levels: the levels that the stage trains.
    """

    stage: str
    epoch: int
    num_epochs: int
    trial_epoch: int
    learning_rate: float
    seconds: float
    levels: tuple[LevelProgress, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, ready for JSON."""
        return dataclasses.asdict(self) | {"levels": [dataclasses.asdict(level) for level in self.levels]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave."""
        levels = tuple(LevelProgress(**level) for level in values["levels"])
        return cls(**{**values, "levels": levels})


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How far a trial is and what its levels are worth now, as early stopping compares trials.

    Attributes:
        fraction: of the trial's planned epochs that are done, in [0, 1].
        points: `val_accuracy` now and `macs_kept` as it was asked for, of each level that has been trained.
    """

    fraction: float
    points: tuple[Mapping[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, ready for JSON."""
        return {"fraction": self.fraction, "points": [dict(point) for point in self.points]}


@dataclass(frozen=True, kw_only=True, slots=True)
class LevelResult:
    """One level of one trial that has ended: a deployable network, its accuracy and its cost.

    Attributes:
        level: 1 … L; L is the student.
        num_levels: L.
        val_accuracy: top-1 on the validation images after recalibration, in [0, 1]; macro mean average precision where
            they have several labels.
        val_accuracy_before_recalibration: the same with the statistics that training left or, of averaged weights,
            with those of some batches.
        macs: multiply-accumulates for one image, counted after channels are removed.
        macs_kept: the same as a fraction of the teacher's.
        params: number of parameters.
        params_kept: the same as a fraction of the teacher's.
        latency_ms: median milliseconds for one image, where latency is an objective; else `None`.
        fidelity: fraction of its epochs that went into it, in (0, 1]; below 1 where the trial was stopped.
        val_top5: part of the validation images whose class is among the five most likely, after recalibration, in
            [0, 1]; `None` with five classes or less.
    """

    level: int
    num_levels: int
    val_accuracy: float
    val_accuracy_before_recalibration: float
    macs: int
    macs_kept: float
    params: int
    params_kept: float
    latency_ms: float | None = None
    fidelity: float = 1.0
    val_top5: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherResult:
    """The teacher as the search uses it.

    Attributes:
        val_accuracy: top-1 on the validation images, in [0, 1]; macro mean average precision where they have several
            labels.
        macs: multiply-accumulates for one image.
        params: number of parameters.
        seconds: wall time of its training; 0 for one that was read from a file.
        latency_ms: median milliseconds for one image, where latency is an objective; else `None`.
        reused: whether another search trained it.
        val_top5: the same of the five most likely classes; `None` with five classes or less.
        val_guess: accuracy on the same images of who does not look at them; `None` if an earlier version kept it.
    """

    val_accuracy: float
    macs: int
    params: int
    seconds: float
    latency_ms: float | None = None
    reused: bool = False
    val_top5: float | None = None
    val_guess: float | None = None

    @property
    def has_learnt(self) -> bool:
        """Whether it does better than guessing; where guessing is not known, so it is taken to be."""
        return self.val_guess is None or has_learnt(self.val_accuracy, guess=self.val_guess)

    @property
    def collapsed_below(self) -> float:
        """Accuracy below which a network has collapsed: 0, which nothing is below, where guessing is not known."""
        return 0.0 if self.val_guess is None else collapse_line(guess=self.val_guess, teacher=self.val_accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave."""
        return cls(**values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reused:
    """What a trial did not have to compute, since it was done already.

    Attributes:
        stages: names of the stages, in their order.
        epochs: that went into them.
        seconds: that their epochs took when they were computed.
    """

    stages: tuple[str, ...] = ()
    epochs: int = 0
    seconds: float = 0.0

    def and_stage(self, name: str, epochs: Sequence[EpochProgress]) -> Self:
        """The same with one more stage."""
        return dataclasses.replace(
            self,
            stages=(*self.stages, name),
            epochs=self.epochs + len(epochs),
            seconds=self.seconds + sum(epoch.seconds for epoch in epochs),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self) | {"stages": list(self.stages)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave."""
        return cls(**{**values, "stages": tuple(values["stages"])})
