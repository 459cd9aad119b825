"""The conditional space of cascades: how many assistants, how large, and how they learn.

A space is any function `space(trial, defaults) -> CascadeConfig` that calls `trial.suggest_…` as it goes; what it
depends on may be suggested only where it matters. A frozen callable, not a closure: spaces travel between processes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces.naming import named
from trainables.config import CascadeConfig, LearnsFrom, Schedule
from trainables.errors import InputError
from trainables.plain import PlainConfig, require_int
from trainables.pruning_config import Pruning, PruningCost
from trainables.recipe import Recipe

if TYPE_CHECKING:
    import optuna

SMALLEST_GAP, LARGEST_GAP = 0.5, 2.0
_MOST_PLACES = 10_000  # of a grid
_DECIMALS = 6  # of sizes, and of values on a grid
MOST_STARTING_POINTS = 1000  # which a search lays out before it begins
_PLAIN = CascadeConfig(macs_kept=(1.0,))
"""All settings but sizes as a cascade has them that nobody tuned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeDefaults(PlainConfig):
    """What a cascade has where the space says nothing else.

    Attributes:
        recipe: how weights are trained.
        pruning: how channels are chosen.
        non_target_weight: of the other classes where the distillation is decoupled; `None` leaves it whole.
        feature_weight: of the distance of attention maps; 0 leaves it out.
        learns_from: whom a level is distilled from.
        teacher_every: of how many steps one asks the frozen network.
        teacher_views: of how many epochs it sees the batches, which later ones draw again; `None`: of all.
        levels_a_step: how many levels of a joint cascade each step trains; `None` for all.
        level_weight_growth: how many times the loss of the next larger level a joint level's loss counts.
        epoch_growth: how many times the epochs of the level above a sequential level gets.
        recovery_epochs: for which each level's network is trained alone once it has its size.
        seed: of data order, augmentation and dropout; one for all cascades, so that they differ by their settings
            alone and stages that several of them have in common are equal.
    """

    recipe: Recipe = field(default_factory=Recipe)
    pruning: Pruning = field(default_factory=Pruning)
    non_target_weight: float | None = _PLAIN.non_target_weight
    feature_weight: float = _PLAIN.feature_weight
    learns_from: LearnsFrom = _PLAIN.learns_from
    teacher_every: int = _PLAIN.teacher_every
    teacher_views: int | None = _PLAIN.teacher_views
    levels_a_step: int | None = _PLAIN.levels_a_step
    level_weight_growth: float = _PLAIN.level_weight_growth
    epoch_growth: float = _PLAIN.epoch_growth
    recovery_epochs: int = _PLAIN.recovery_epochs
    seed: int = _PLAIN.seed

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        with named("cascade."):
            self.cascade(macs_kept=(1.0,))

    def cascade(self, **settings: Any) -> CascadeConfig:  # noqa: ANN401 - of each setting
        """A cascade with settings of its own, its sizes among them, and the others as they are here."""
        others = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return CascadeConfig(**(others | settings))


Space = Callable[["optuna.Trial", CascadeDefaults], CascadeConfig]


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeSpace(PlainConfig):
    """Ranges (two ends, both included) and choices (one value leaves nothing to choose).

    Attributes:
        num_assistants: range within 0 … 4.
        student_macs_kept: range of the smallest level's size, in (0, 1), searched in logarithms.
        temperature: range of T, searched in logarithms.
        distillation_weight: range of λ, in [0, 1].
        learning_rate: range of the peak rate, searched in logarithms; the recipe's own where it is left out.
        schedule: choices among `joint` and `sequential`.
        saliency: choices among criteria; the defaults' own where it is left out.
        cost: choices among `macs` and `none`; likewise.
        nested: choices; likewise.
        shared_affine: choices; likewise.
        size_grid: sizes that levels may have, so many from the teacher's down to the smallest student's, evenly in
            logarithms, at least 2; any size where it is left out. Students have those within their range. On a grid
            sequential cascades come to have stages in common, which are computed once.
        value_grid: values that temperature, λ and learning rate may each take, evenly over their ranges, at least 2;
            any value where it is left out. Stages are equal only where these are equal too.
    """

    num_assistants: tuple[int, int] = (0, 2)
    student_macs_kept: tuple[float, float] = (0.02, 0.3)
    temperature: tuple[float, float] = (1.0, 8.0)
    distillation_weight: tuple[float, float] = (0.3, 0.9)
    learning_rate: tuple[float, float] | None = None
    schedule: tuple[Schedule, ...] = ("joint",)
    saliency: tuple[str, ...] | None = None
    cost: tuple[PruningCost, ...] | None = None
    nested: tuple[bool, ...] | None = None
    shared_affine: tuple[bool, ...] | None = None
    size_grid: int | None = None
    value_grid: int | None = None

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        self._check_range("num_assistants", least=0, most=4)
        self._check_range("student_macs_kept", least=1e-4, most=0.95)
        self._check_range("temperature", least=0.1, most=100.0)
        self._check_range("distillation_weight", least=0.0, most=1.0)
        if self.learning_rate is not None:
            self._check_range("learning_rate", least=1e-6, most=100.0)
        for name in ("schedule", "saliency", "cost", "nested", "shared_affine"):
            if getattr(self, name) == ():
                raise InputError(f"space.{name} is empty; give at least one choice, or leave it out")
        for name in ("size_grid", "value_grid"):
            if getattr(self, name) is not None:
                require_int(f"space.{name}", getattr(self, name), at_least=2, at_most=_MOST_PLACES)
        if self.size_grid is not None and self._largest_student() <= self.num_assistants[1]:
            raise InputError(
                f"space.size_grid is {self.size_grid}, which leaves no {self.num_assistants[1]} sizes for assistants "
                f"above a student of {self.student_macs_kept[1]:g}; give a finer grid, fewer assistants or smaller "
                "students"
            )

    def _check_range(self, name: str, *, least: float, most: float) -> None:
        low, high = getattr(self, name)
        if not least <= low <= high <= most:
            raise InputError(
                f"space.{name} is [{low:g}, {high:g}], but must be [lowest, highest] within {least:g} … {most:g}"
            )

    def __call__(self, trial: "optuna.Trial", defaults: CascadeDefaults) -> CascadeConfig:
        """Suggest a cascade."""
        recipe, pruning = defaults.recipe, defaults.pruning
        if self.learning_rate is not None:
            rate = self._suggest_value(trial, "learning_rate", self.learning_rate, log=True)
            recipe = dataclasses.replace(recipe, learning_rate=rate)
        for name in ("saliency", "cost", "nested", "shared_affine"):
            choices = getattr(self, name)
            if choices is not None:
                pruning = dataclasses.replace(pruning, **{name: _choose(trial, name, choices)})
        return defaults.cascade(
            macs_kept=self._suggest_sizes(trial),
            temperature=self._suggest_value(trial, "temperature", self.temperature, log=True),
            distillation_weight=self._suggest_value(trial, "distillation_weight", self.distillation_weight, log=False),
            schedule=_choose(trial, "schedule", self.schedule),
            pruning=pruning,
            recipe=recipe,
        )

    def _suggest_value(self, trial: "optuna.Trial", name: str, ends: tuple[float, float], *, log: bool) -> float:
        value = trial.suggest_float(name, *ends, log=log)
        low, high, place = (math.log(number) if log else number for number in (*ends, value))
        if self.value_grid is None or low == high:  # also where ends differ by their last bit
            return value
        step = (high - low) / (self.value_grid - 1)
        value = low + round((place - low) / step) * step
        decimals = _DECIMALS
        if log:
            value = math.exp(value)
            decimals = max(decimals, 2 - math.floor(math.log10(value)))  # three digits of a small learning rate
        return _within(round(value, decimals), ends)

    def _suggest_sizes(self, trial: "optuna.Trial") -> tuple[float, ...]:
        """Sizes that fall by construction: the way from the teacher to the student, in logarithms, cut into gaps.

        Each assistant's gap is drawn relative to the student's own, so that equal gaps are the middle of the space
        and no two levels come closer than a fixed part of the way.
        """
        student = trial.suggest_float("student_macs_kept", *self.student_macs_kept, log=True)
        num_assistants = trial.suggest_int("num_assistants", *self.num_assistants)
        gaps = [
            trial.suggest_float(f"assistant_{index}_gap", SMALLEST_GAP, LARGEST_GAP, log=True)
            for index in range(1, num_assistants + 1)
        ]
        gaps.append(1.0)
        sizes, passed = [], 0.0
        for gap in gaps:
            passed += gap / sum(gaps)
            sizes.append(round(math.exp(passed * math.log(student)), _DECIMALS))
        return tuple(sizes) if self.size_grid is None else self._on_grid(sizes)

    def _way(self, size: float) -> float:
        """Where on the grid a size lies: at 0 the teacher's, at `size_grid` the smallest student's."""
        assert self.size_grid is not None
        return self.size_grid * math.log(size) / math.log(self.student_macs_kept[0])

    def _place(self, size: float) -> int:
        """The place on the grid that is nearest to a size."""
        return round(self._way(size))

    def _largest_student(self) -> int:
        """The first place on the grid whose size, which is rounded, a student may have; the last one is always such."""
        return math.ceil(self._way(self.student_macs_kept[1] + 0.5 * 10**-_DECIMALS))

    def _on_grid(self, sizes: Sequence[float]) -> tuple[float, ...]:
        """Each size at the nearest place that levels above and below it leave."""
        assert self.size_grid is not None
        student = min(max(self._place(sizes[-1]), self._largest_student()), self.size_grid)
        places: list[int] = []
        for left, size in zip(range(len(sizes) - 1, 0, -1), sizes, strict=False):
            lowest = places[-1] + 1 if places else 1
            places.append(min(max(self._place(size), lowest), student - left))
        smallest = self.student_macs_kept[0]
        return tuple(round(smallest ** (place / self.size_grid), _DECIMALS) for place in (*places, student))

    def starting_points(self, number: int, defaults: CascadeDefaults | None = None) -> tuple[dict[str, Any], ...]:
        """Hand-laid first trials, in an order in which any first few of them spread over the sizes.

        The smallest student comes first, then the largest, then others between them, closer together where students
        are small, since that is where fronts bend. Assistants are evenly spaced, as many as there may be at first,
        then one fewer each time. Everything else is as a cascade has it that nobody tuned. What is left out is for
        the sampler to fill in.

        Args:
            number: how many.
            defaults: what the space builds on; its learning rate is taken where the space searches for one.
        """
        recipe = (defaults or CascadeDefaults()).recipe
        plain: dict[str, Any] = {
            "temperature": _within(_PLAIN.temperature, self.temperature),
            "distillation_weight": _within(_PLAIN.distillation_weight, self.distillation_weight),
        }
        if self.learning_rate is not None:
            plain["learning_rate"] = _within(recipe.learning_rate, self.learning_rate)
        if len(self.schedule) > 1:
            plain["schedule"] = _PLAIN.schedule
        low, high = (math.log(size) for size in self.student_macs_kept)
        fewest, most = self.num_assistants
        points = []
        for index in range(number):
            num_assistants = most - index % (most - fewest + 1)
            denser_at_small = _spread(index) ** 2
            size = math.exp(low + (high - low) * denser_at_small)
            points.append(
                {
                    "student_macs_kept": _within(size, self.student_macs_kept),
                    "num_assistants": num_assistants,
                }
                | plain
                | {f"assistant_{assistant}_gap": 1.0 for assistant in range(1, num_assistants + 1)}
            )
        return tuple(points)


def _within(value: float, ends: tuple[float, float]) -> float:
    return min(max(value, ends[0]), ends[1])


def _spread(index: int) -> float:
    """Both ends of [0, 1], then the middle, the quarters, the eighths (van der Corput 1935)."""
    if index < 2:
        return float(index)
    place, step, rest = 0.0, 0.5, index - 1
    while rest:
        place += step * (rest % 2)
        rest, step = rest // 2, step / 2
    return place


def _choose(trial: "optuna.Trial", name: str, choices: tuple[Any, ...]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)
