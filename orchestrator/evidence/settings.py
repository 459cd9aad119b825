"""The parts of a study: arms, budget, tuning, images, runs. Plain values, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from orchestrator.experiment.machine_rules import LOCAL, require_address, require_cards
from search_spaces.naming import named
from trainables.errors import shown
from trainables.plain import PlainConfig, require, require_int, require_number, require_one_of, require_text

Method = Literal["cascade", "one-cascade", "from-scratch", "torch-pruning"]
Importance = Literal["taylor", "l1", "l2", "random"]
Scope = Literal["global", "layer"]
BudgetUnit = Literal["teacher-passes", "epochs"]
Purpose = Literal["tuning", "measured"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm(PlainConfig):
    """One way to a small network.

    Attributes:
        method: `cascade`: its student is what counts. `one-cascade`: its levels are the study's sizes, all from one run
            with the budget of as many. `from-scratch`: a network narrowed evenly, trained from random weights.
            `torch-pruning`: cut by that library's own pruner, then trained.
        assistants: of a cascade, spaced evenly in logarithms between teacher and student.
        assistants_at: places of a cascade's assistants instead: the size of one at e is the student's to the power of
            e, so 0 would be the teacher and 1 the student; rising, each in (0, 1).
        importance: of torch-pruning: `taylor` (its GroupTaylorImportance), `l1`, `l2` (its GroupMagnitudeImportance)
            or `random`.
        scope: of torch-pruning: channels are ranked over the whole network (`global`), or each `layer` loses its part.
        max_pruning_ratio: of torch-pruning: part of a layer's channels that may go at most.
        cascade: keys of the study's `cascade` that are different here.
    """

    method: Method = "cascade"
    assistants: int = 0
    assistants_at: tuple[float, ...] = ()
    importance: Importance = "taylor"
    scope: Scope = "global"
    max_pruning_ratio: float = 0.95
    cascade: Mapping[str, Any] = field(default_factory=dict, hash=False)

    called: ClassVar[str] = "an arm"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_one_of("method", self.method, get_args(Method))
        require_int("assistants", self.assistants, at_least=0)
        require_one_of("importance", self.importance, get_args(Importance))
        require_one_of("scope", self.scope, get_args(Scope))
        require_number("max_pruning_ratio", self.max_pruning_ratio, above=0.0, at_most=1.0)
        places = self.assistants_at
        require(
            isinstance(places, tuple)
            and all(isinstance(place, float | int) and 0 < place < 1 for place in places)
            and sorted(set(places)) == list(places),
            f"assistants_at is {shown(places)}, but must be rising numbers between 0 and 1, such as [0.3, 0.6]",
        )
        require(
            self.method == "cascade" or not (self.assistants or places),
            f"assistants are given, but {self.method} has none; leave them out",
        )
        require(
            not (self.assistants and places) or len(places) == self.assistants,
            f"assistants is {self.assistants}, but assistants_at has {len(places)} places; give one of the two",
        )
        require(
            isinstance(self.cascade, Mapping),
            f"cascade is {shown(self.cascade)}, but must map keys of a cascade to values",
        )

    def sizes(self, size: float, sizes: Sequence[float]) -> tuple[float, ...]:
        """Sizes of the levels, the student's last.

        Args:
            size: of the student.
            sizes: of the study.
        """
        if self.method == "one-cascade":
            return tuple(sorted(sizes, reverse=True))
        number = self.assistants
        places = self.assistants_at or tuple(place / (number + 1) for place in range(1, number + 1))
        return (*(size**place for place in places), size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget(PlainConfig):
    """What each arm may spend on each size.

    Attributes:
        amount: in `unit`.
        unit: `teacher-passes`: the work of the teacher's forward passes over all training images, one for each, as
            `work` counts it; or `epochs`: passes over the training images, whatever they cost, those of recovery too.
        most_epochs: an arm is not trained for longer, recovery included, even if it has not spent its budget.
    """

    amount: float = 20.0
    unit: BudgetUnit = "teacher-passes"
    most_epochs: int | None = None

    called: ClassVar[str] = "budget"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_number("budget.amount", self.amount, above=0.0)
        require_one_of("budget.unit", self.unit, get_args(BudgetUnit))
        if self.most_epochs is not None:
            require_int("budget.most_epochs", self.most_epochs, at_least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning(PlainConfig):
    """How each arm is tuned, at each size, with the same search.

    Attributes:
        learning_rates: that are tried, each once; the best on validation images is used for all seeds. None or one
            tries nothing.
        seed: of the tries.
    """

    learning_rates: tuple[float, ...] = ()
    seed: int = 0

    called: ClassVar[str] = "tuning"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require(
            isinstance(self.learning_rates, tuple),
            f"tuning.learning_rates is {shown(self.learning_rates)}, but must be a list, such as [0.03, 0.1]",
        )
        for rate in self.learning_rates:
            require_number("a rate in tuning.learning_rates", rate, above=0.0)
        require_int("tuning.seed", self.seed, at_least=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Images(PlainConfig):
    """How many images are used, stratified by class; all where a number is left out.

    Attributes:
        train: to train on.
        val: to choose learning rates on.
    """

    train: int | None = None
    val: int | None = None

    called: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        for name, number in (("train", self.train), ("val", self.val)):
            if number is not None:
                require_int(f"images.{name}", number, at_least=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResources(PlainConfig):
    """What a run takes of the machine or cluster.

    Attributes:
        cpus: cores of each.
        gpus: of each; a fraction shares a card.
        address: `local` starts Ray on this machine; `auto` joins the cluster that it is part of, and HOST:PORT the one
            whose head answers there.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    address: str = LOCAL

    called: ClassVar[str] = "resources"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_number("resources.cpus", self.cpus, above=0.0)
        require_number("resources.gpus", self.gpus, at_least=0.0)
        require_cards("resources.gpus", self.gpus)
        require_text("resources.address", self.address)
        with named("resources.address: "):
            require_address(self.address)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One arm at one size with one seed.

    Attributes:
        arm: its name.
        size: of the student, as a fraction of the teacher's MACs; of the smallest level where one run gives all sizes.
        seed: of data order, augmentation, dropout, and random weights and choices.
        learning_rate: peak of the schedule.
        purpose: `tuning` for the choice of the learning rate, `measured` for the comparison.
        key: digest of all that determines the result but for code and machine.
    """

    arm: str
    size: float
    seed: int
    learning_rate: float
    purpose: Purpose
    key: str
