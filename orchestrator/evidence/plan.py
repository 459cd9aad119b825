"""What a study is: arms, sizes and seeds on one network and data set, from YAML, checked before anything runs."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from orchestrator.evidence.settings import Arm, Budget, Images, Purpose, Run, RunResources, Tuning
from orchestrator.experiment.overrides import set_value
from orchestrator.experiment.yaml_text import read_yaml_file
from search_spaces.naming import named
from trainables.config import CascadeConfig
from trainables.data_config import DataConfig
from trainables.errors import shown
from trainables.identity import digest
from trainables.model_config import ModelConfig
from trainables.plain import PlainConfig, require, require_int, require_number
from trainables.recipe import Recipe

_SMALL_RATE = 1e-6  # which every recipe takes, so that what is wrong with it is something else


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlan(PlainConfig):
    """A study.

    Attributes:
        model: the teacher's network.
        data: its images.
        images: how many of them.
        teacher: how the teacher is trained; one teacher for all arms.
        teacher_seed: of its weights and training.
        cascade: keys of a cascade (`trainables.config.CascadeConfig`) that all arms share; `recipe` holds for all
            methods, but for `epochs`, which the budget decides.
        sizes: of the small networks, as fractions of the teacher's MACs.
        seeds: of the measured runs.
        budget: of each arm for each size.
        tuning: how learning rates are chosen.
        arms: by name.
        reference: name of the arm that the others are compared with.
        resources: of a run.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    images: Images = field(default_factory=Images)
    teacher: Recipe = field(default_factory=Recipe)
    teacher_seed: int = 0
    cascade: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sizes: tuple[float, ...] = (0.25, 0.1, 0.05)
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    budget: Budget = field(default_factory=Budget)
    tuning: Tuning = field(default_factory=Tuning)
    arms: Mapping[str, Arm] = field(default_factory=dict, hash=False)
    reference: str
    resources: RunResources = field(default_factory=RunResources)

    called: ClassVar[str] = "a study"

    def __post_init__(self) -> None:
        """Check ranges, and every cascade that will be trained.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_int("teacher_seed", self.teacher_seed, at_least=0)
        require(
            isinstance(self.sizes, tuple) and 0 < len(self.sizes) == len(set(self.sizes)),
            f"sizes is {shown(self.sizes)}, but must be a list of different fractions, such as [0.25, 0.1]",
        )
        for size in self.sizes:
            require_number("a size in sizes", size, above=0.0, below=1.0)
        require(
            isinstance(self.seeds, tuple) and 0 < len(self.seeds) == len(set(self.seeds)),
            f"seeds is {shown(self.seeds)}, but must be a list of different whole numbers, such as [1, 2, 3, 4, 5]",
        )
        for seed in self.seeds:
            require_int("a seed in seeds", seed, at_least=0)
        require(
            self.tuning.seed not in self.seeds,
            f"tuning.seed is {self.tuning.seed}, but must not be one of seeds: what was chosen on it looks too good",
        )
        require(len(self.arms) > 0, "arms is empty, but must name at least one")
        require(
            self.reference in self.arms,
            f"reference is {shown(self.reference)}, but must be one of the arms: {', '.join(self.arms)}",
        )
        rates = self.tuning.learning_rates
        for name, arm in self.arms.items():
            with named(f"arms.{name}: "):
                self._check_cascades(arm, _SMALL_RATE if rates else None)
            for rate in rates:
                with named(f"arms.{name}, with {rate!r} of tuning.learning_rates: "):
                    self._check_cascades(arm, rate)

    def _check_cascades(self, arm: Arm, learning_rate: float | None) -> None:
        for size in self.sizes:
            self.cascade_of(arm, size, seed=0, learning_rate=learning_rate, epochs=10_000)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from plain values.

        Raises:
            InputError: on an unknown or missing key or a value out of range.
        """
        arms = values.get("arms", {}) if isinstance(values, Mapping) else {}
        require(isinstance(arms, Mapping), f"arms is {shown(arms)}, but must map names to arms")
        made = {}
        for name, arm in arms.items():
            with named(f"arms.{name}: "):
                made[str(name)] = Arm.from_dict({} if arm is None else arm)
        return super(StudyPlan, cls).from_dict({**values, "arms": made})

    def to_yaml(self) -> str:
        """The whole study, defaults filled in, as `load_plan` reads it."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def cascade_of(
        self, arm: Arm, size: float, *, seed: int, learning_rate: float | None, epochs: int
    ) -> CascadeConfig:
        """The cascade of an arm; of other methods what their one level is trained with.

        Raises:
            InputError: if it cannot be.
        """
        values = _merged(self.cascade, arm.cascade)
        for key in ("macs_kept", "seed"):
            require(
                key not in values, f"cascade.{key} is given, but comes from the study's sizes and seeds; leave it out"
            )
        recipe = _recipe(values)
        require("epochs" not in recipe, "cascade.recipe.epochs is given, but follows from the budget; leave it out")
        recipe["epochs"] = epochs
        if learning_rate is not None:
            recipe["learning_rate"] = learning_rate
        config = CascadeConfig.from_dict(
            {**values, "recipe": recipe, "macs_kept": list(arm.sizes(size, self.sizes)), "seed": seed}
        )
        require(
            config.pruning.size_in == "macs",
            f"cascade.pruning.size_in is {config.pruning.size_in}, but a study's sizes are in MACs; leave it out",
        )
        return config

    def learning_rates(self, arm: Arm) -> tuple[float, ...]:
        """Learning rates that an arm may take; the one of its recipe where none are tried."""
        if self.tuning.learning_rates:
            return self.tuning.learning_rates
        return (Recipe.from_dict(_recipe(_merged(self.cascade, arm.cascade))).learning_rate,)

    def sizes_of(self, arm: Arm) -> tuple[float, ...]:
        """Student's size of each run of an arm: the smallest alone, where one run gives all."""
        return (min(self.sizes),) if arm.method == "one-cascade" else self.sizes

    def run(self, arm: str, size: float, seed: int, learning_rate: float, purpose: Purpose) -> Run:
        """A run, with the key that tells it from any other."""
        own = self.arms[arm]
        determines = _teacher_values(self) | {
            "arm": {key: value for key, value in _told(own).items() if key != "cascade"},
            "cascade": _told(self.cascade_of(own, size, seed=seed, learning_rate=learning_rate, epochs=10_000)),
            "budget": _told(self.budget),
        }
        return Run(arm=arm, size=size, seed=seed, learning_rate=learning_rate, purpose=purpose, key=digest(determines))

    def tuning_runs(self, arm: str, size: float) -> tuple[Run, ...]:
        """Runs that choose an arm's learning rate at a size; none where there is no choice."""
        rates = self.learning_rates(self.arms[arm])
        if len(rates) < 2:
            return ()
        return tuple(self.run(arm, size, self.tuning.seed, rate, "tuning") for rate in rates)

    def all_tuning_runs(self) -> Iterator[Run]:
        """All of them."""
        for size in sorted(self.sizes):
            for name, arm in self.arms.items():
                if size in self.sizes_of(arm):
                    yield from self.tuning_runs(name, size)


def load_plan(path: Path, overrides: Sequence[str] = ()) -> StudyPlan:
    """Read a study from YAML and set single keys.

    Raises:
        InputError: if the file is missing or not YAML, or something in it is wrong.
    """
    values = read_yaml_file(
        path, missing="give the YAML file of a study, such as those in studies/ in a checkout of the project"
    )
    for override in overrides:
        set_value(values, override)
    return StudyPlan.from_dict(values)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    recipe = values.get("recipe", {})
    require(isinstance(recipe, Mapping), f"cascade.recipe is {shown(recipe)}, but must map keys to values")
    return dict(recipe)


def digest_of_teacher(plan: StudyPlan) -> str:
    """What tells a study's teacher from any other."""
    return digest(_teacher_values(plan))


def _teacher_values(plan: StudyPlan) -> dict[str, Any]:
    data = {key: value for key, value in _told(plan.data).items() if key not in ("path", "download")}
    return {
        "model": _told(plan.model),
        "data": data,
        "images": _told(plan.images),
        "teacher": _told(plan.teacher),
        "teacher_seed": plan.teacher_seed,
    }


def _told(config: PlainConfig) -> dict[str, Any]:
    """What differs from the defaults, so that a key stays the same when there are more settings."""
    told: dict[str, Any] = {}
    for setting in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, setting.name)
        if isinstance(value, PlainConfig):
            inner = _told(value)
            told |= {setting.name: inner} if inner else {}
        elif setting.default_factory is not dataclasses.MISSING:
            told |= {} if value == setting.default_factory() else {setting.name: config.to_dict()[setting.name]}
        elif value != setting.default:
            told[setting.name] = config.to_dict()[setting.name]
    return told
