"""One cascade: its levels' sizes and how they are trained. Plain values, checked when they are made.

These and the sections that it is made from (`recipe`, `pruning_config`), with those beside them (`model_config`,
`data_config`), are standard library only, frozen, and go to a plain dictionary and back without loss.
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from trainables.errors import shown
from trainables.plain import PlainConfig, require, require_int, require_number, require_one_of
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe

Schedule = Literal["joint", "sequential"]
LearnsFrom = Literal["level-above", "teacher"]
_LARGEST_GROWTH = 1000.0  # the most that a level's loss or epochs may be, in those of the next larger level


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig(PlainConfig):
    """One cascade: its levels' sizes and how they are trained.

    Attributes:
        macs_kept: size of each level, 1 … L, as the fraction of the teacher's MACs (or of what `pruning.size_in`
            says) that it keeps; each in (0, 1], strictly falling. The last level is the student, those before it are
            the assistants.
        temperature: T of the distillation, above 0.
        distillation_weight: λ, the part of the loss that comes from the next larger level, in [0, 1].
        non_target_weight: β, of the classes that are not the image's where the distillation is decoupled, at least 0;
            where it is left out the divergence is whole.
        feature_weight: what the distance of a level's attention maps to those of the network that it is distilled from
            counts beside the loss, at least 0; 0 leaves it out.
        learns_from: what a level is distilled from: the `level-above`, or each of them the `teacher`, without a chain.
        teacher_every: of so many steps, one asks the frozen network that a stage learns from: the teacher, or in a
            sequential cascade the level before. In the others, what would learn from it learns from the labels alone.
            Of small levels, the teacher's forward pass is most of the work.
        teacher_views: of so many epochs of a stage the frozen network sees the batches; later epochs draw the same
            ones again, in turn, and its logits are remembered. `None`: every epoch draws its own, and it sees them all.
        schedule: `joint` trains all levels at once, `sequential` one after the other.
        levels_a_step: how many levels each step trains where levels are trained at once, at least 3: the largest, the
            smallest, and others drawn anew for each step; `None` trains all. All take part in the first step of an
            epoch, and in a step after which channels go.
        level_weight_growth: how many times the loss of the next larger level each level's loss counts where levels are
            trained at once, in (0, 1000]; the weights' mean is 1.
        epoch_growth: how many times the epochs of the level above each level of a sequential cascade gets, in
            (0, 1000]; above 1, as smaller levels take less work an epoch, and learn from a smaller network.
        pruning: how channels are chosen.
        recipe: how weights are trained; `epochs` is the budget of the whole cascade in either schedule.
        recovery_epochs: passes over the training images that each level's network is trained for alone, once it has its
            size, beyond the recipe's epochs; 0 for no recovery.
        seed: seed of data order, augmentation and dropout.
    """

    macs_kept: tuple[float, ...]
    temperature: float = 4.0
    distillation_weight: float = 0.7
    non_target_weight: float | None = None
    feature_weight: float = 0.0
    learns_from: LearnsFrom = "level-above"
    teacher_every: int = 1
    teacher_views: int | None = None
    schedule: Schedule = "joint"
    levels_a_step: int | None = None
    level_weight_growth: float = 1.0
    epoch_growth: float = 1.0
    pruning: Pruning = field(default_factory=Pruning)
    recipe: Recipe = field(default_factory=Recipe)
    recovery_epochs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges and that sizes fall.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        self._check_sizes()
        require_number("temperature", self.temperature, above=0.0)
        require_number("distillation_weight", self.distillation_weight, at_least=0.0, at_most=1.0)
        require_one_of("learns_from", self.learns_from, get_args(LearnsFrom))
        require_one_of("schedule", self.schedule, get_args(Schedule))
        self._check_distillation()
        self._check_teacher_steps()
        self._check_levels_a_step()
        require_number("level_weight_growth", self.level_weight_growth, above=0.0, at_most=_LARGEST_GROWTH)
        require_number("epoch_growth", self.epoch_growth, above=0.0, at_most=_LARGEST_GROWTH)
        require_int("recovery_epochs", self.recovery_epochs, at_least=0)
        require_int("seed", self.seed, at_least=0)
        require(
            self.schedule == "joint" or self.recipe.epochs >= self.num_levels,
            f"recipe.epochs is {self.recipe.epochs}, but the sequential schedule shares them out over "
            f"{self.num_levels} levels; give at least one epoch a level",
        )

    def _check_sizes(self) -> None:
        require(
            isinstance(self.macs_kept, tuple) and len(self.macs_kept) > 0,
            f"macs_kept is {shown(self.macs_kept)}, but must be a tuple with one size a level, the student's last",
        )
        for level, size in enumerate(self.macs_kept, start=1):
            require_number(f"macs_kept of level {level}", size, above=0.0, at_most=1.0)
        for level, (larger, smaller) in enumerate(zip(self.macs_kept, self.macs_kept[1:], strict=False), start=2):
            require(
                smaller < larger,
                f"macs_kept of level {level} is {smaller:.4g}, but must be below level {level - 1}'s {larger:.4g}; "
                "sizes fall from the teacher to the student",
            )

    def _check_distillation(self) -> None:
        """Other classes need the one class of an image; features are read between a network's layers as they run."""
        if self.non_target_weight is not None:
            require_number("non_target_weight", self.non_target_weight, at_least=0.0)
            require(
                self.recipe.mix == "none",
                f"non_target_weight is {self.non_target_weight:g}, but mix is {self.recipe.mix!r}, and a mixed image "
                "has no one class; leave out one of them",
            )
        require_number("feature_weight", self.feature_weight, at_least=0.0)
        if self.feature_weight > 0.0:
            require(
                self.recipe.execution != "compile",
                f"feature_weight is {self.feature_weight:g}, but execution is 'compile', and features cannot be read "
                "within a compiled network; take graph",
            )
            require(
                self.teacher_views is None,
                f"feature_weight is {self.feature_weight:g}, but teacher_views is {self.teacher_views}, and what is "
                "remembered of a teacher are its scores alone; leave out one of them",
            )

    def _check_teacher_steps(self) -> None:
        require_int("teacher_every", self.teacher_every, at_least=1)
        if self.teacher_views is not None:
            require_int("teacher_views", self.teacher_views, at_least=1)
            require(
                self.teacher_every == 1,
                f"teacher_every is {self.teacher_every}, but teacher_views is {self.teacher_views}, and what is "
                "remembered is asked in every step; give one of them",
            )

    def _check_levels_a_step(self) -> None:
        number = self.levels_a_step
        require(
            number is None or (isinstance(number, int) and not isinstance(number, bool) and number >= 3),
            f"levels_a_step is {number!r}, but must be a whole number of at least 3, for the largest level, the "
            "smallest and one of those between; leave it out to train all in every step",
        )

    @property
    def asks_larger(self) -> bool:
        """Whether levels learn anything from larger networks."""
        return self.distillation_weight > 0.0 or self.feature_weight > 0.0

    @property
    def num_levels(self) -> int:
        """Networks below the teacher, L."""
        return len(self.macs_kept)

    @property
    def num_epochs(self) -> int:
        """Passes over the training images of all stages."""
        return self.recipe.epochs + self.num_levels * self.recovery_epochs

    @property
    def num_assistants(self) -> int:
        """Levels between teacher and student, L − 1."""
        return self.num_levels - 1
