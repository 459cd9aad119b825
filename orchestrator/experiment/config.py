"""What a search is, read from YAML or a preset and checked before anything runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from orchestrator.addresses import database_at_home, without_credentials
from orchestrator.experiment.explanation import explain, stray_flag
from orchestrator.experiment.overrides import set_value
from orchestrator.experiment.resources import Resources
from orchestrator.experiment.yaml_text import read_yaml_file
from orchestrator.front.constraints import Bound, check_bounds
from orchestrator.front.pareto import OBJECTIVES
from orchestrator.policies.budget import Stop
from orchestrator.policies.rungs import EarlyStopping
from orchestrator.policies.samplers import DEFAULT_SAMPLER, check_sampler
from orchestrator.storage.bucket import check_address, is_bucket
from search_spaces.cascade import MOST_STARTING_POINTS, CascadeDefaults, CascadeSpace, Space
from search_spaces.presets import PRESETS, SPACES
from trainables.data_config import DataConfig
from trainables.errors import InputError, shown
from trainables.imports import import_function, is_import_path
from trainables.model_config import ModelConfig
from trainables.recipe import Recipe

# Ray Tune's schedulers, without dashes and underscores.
_SINGLE_METRIC = (
    "asha",
    "ashascheduler",
    "asynchyperband",
    "hyperband",
    "hyperbandforbohb",
    "bohb",
    "medianstopping",
    "medianstoppingrule",
    "pb2",
    "pbt",
    "populationbasedtraining",
)


_Address = Annotated[str, Field(min_length=1), AfterValidator(database_at_home)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tracking(_Section):
    """Where MLflow is.

    Attributes:
        uri: address of a tracking server; `MLFLOW_TRACKING_URI` or else a SQLite file in the storage folder.
        experiment: MLflow experiment that holds the search.
        models: which networks become versions of a registered model: those of the `front`, or `none`.
    """

    uri: str | None = None
    experiment: Annotated[str, Field(min_length=1)] = "cascade"
    models: Literal["front", "none"] = "front"


class StudyStore(_Section):
    """Where the study is kept, and which earlier ones it learns from.

    Attributes:
        url: of an Optuna storage, such as `sqlite:///studies.db`; a journal file in the search's folder where it is
            left out.
        warm_start: earlier studies whose completed trials the sampler learns from: names of searches in the same
            storage folder, folders of searches, journal files, or URLs (`sqlite:///studies.db#NAME`).
    """

    url: _Address | None = None
    warm_start: tuple[_Address, ...] = ()


class Experiment(_Section):
    """One search.

    Attributes:
        model: the teacher's network.
        data: its images.
        teacher: how the teacher is trained, unless `model.weights` gives one.
        cascade: what every cascade has where the space says nothing else.
        space: what is searched over: a name, ranges, or `package.module:function` of the user's own.
        objectives: names of what is to be good, two or more; `val_accuracy` among them.
        constraints: bounds on what candidates measure; one that breaks any is not on the front.
        sampler: name of what suggests trials, out of `samplers.SAMPLERS`.
        num_trials: cascades to try.
        starting_points: the user's own first trials: values by the name of what the space suggests.
        num_starting_points: hand-laid trials after those, before the sampler takes over.
        study: where trials are written down.
        early_stopping: when trials are stopped that are behind; `None` lets each of them end.
        stop: what ends the search before.
        resources: what trials take.
        checkpoint_minutes: after about which an epoch of a trial or the teacher that is not done leaves a checkpoint.
        tracking: where MLflow is.
        reuse: take over stages of other trials and searches in the storage folder that are equal to one's own; the
            address of a bucket, such as `s3://BUCKET/stages`, to share them beyond that folder.
        seed: of the sampler and of the teacher.
    """

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    teacher: Recipe = Field(default_factory=Recipe)
    cascade: CascadeDefaults = Field(default_factory=CascadeDefaults)
    space: CascadeSpace | str = "default"
    objectives: tuple[str, ...] = ("val_accuracy", "macs_kept")
    constraints: dict[str, Bound] = Field(default_factory=dict)
    sampler: str = DEFAULT_SAMPLER
    num_trials: Annotated[int, Field(ge=1, strict=True)] = 20
    starting_points: tuple[dict[str, Any], ...] = ()
    num_starting_points: Annotated[int, Field(ge=0, le=MOST_STARTING_POINTS, strict=True)] = 6
    study: StudyStore = Field(default_factory=StudyStore)
    early_stopping: EarlyStopping | None = None
    stop: Stop = Field(default_factory=Stop)
    resources: Resources = Field(default_factory=Resources)
    checkpoint_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    tracking: Tracking = Field(default_factory=Tracking)
    reuse: bool | str = True
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        for name in objectives:
            if name not in OBJECTIVES:
                raise InputError(f"{name!r} is no objective; there are {', '.join(OBJECTIVES)}")
        if "val_accuracy" not in objectives or not 2 <= len(set(objectives)) == len(objectives):
            raise InputError(
                f"[{', '.join(objectives)}] is given, but must be val_accuracy and at least one cost, each once"
            )
        return objectives

    @field_validator("constraints")
    @classmethod
    def _known_constraints(cls, constraints: dict[str, Bound]) -> dict[str, Bound]:
        check_bounds(constraints)
        return constraints

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, sampler: str) -> str:
        return check_sampler(sampler)

    @field_validator("reuse", mode="before")
    @classmethod
    def _known_store(cls, reuse: object) -> object:
        if isinstance(reuse, str) and is_bucket(reuse):
            check_address(reuse)
        elif not isinstance(reuse, bool):
            raise InputError(f"{shown(reuse)} is given, but must be true, false, or the address of a bucket")
        return reuse

    @field_validator("space")
    @classmethod
    def _known_space(cls, space: CascadeSpace | str) -> CascadeSpace | str:
        if isinstance(space, str) and space not in SPACES and not is_import_path(space):
            raise InputError(
                f"{space!r} is no space; give one of {', '.join(SPACES)}, ranges, or package.module:function"
            )
        return space

    @field_validator("early_stopping", mode="before")
    @classmethod
    def _named_early_stopping(cls, value: object) -> object:
        if isinstance(value, bool):  # YAML's on and off
            return {} if value else None
        if not isinstance(value, str):
            return value
        if value == "rungs":
            return {}
        if value.replace("_", "").replace("-", "").lower() in _SINGLE_METRIC:
            raise InputError(
                f"{value!r} compares trials by a single metric, which stops the small networks of a front for their "
                "lower accuracy; give rungs, which compares by fronts"
            )
        raise InputError(f"{value!r} is no way of early stopping; give rungs, its settings, or null for none")

    @property
    def measures_latency(self) -> bool:
        """Whether each level's latency is measured when a trial ends."""
        return "latency_ms" in self.objectives or "latency_ms" in self.constraints

    def find_space(self) -> Space:
        """The function that turns an Optuna trial into a cascade.

        Raises:
            InputError: if it is the user's own and cannot be imported.
        """
        if isinstance(self.space, CascadeSpace):
            return self.space
        if self.space in SPACES:
            return SPACES[self.space]
        return import_function(self.space, key="space")

    def without_secrets(self) -> Self:
        """The same experiment, with addresses that may be written down and shown."""
        study = {"url": _shown(self.study.url), "warm_start": tuple(map(_shown, self.study.warm_start))}
        return self.model_copy(
            update={
                "study": self.study.model_copy(update=study),
                "tracking": self.tracking.model_copy(update={"uri": _shown(self.tracking.uri)}),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for YAML."""
        sections = {name: getattr(self, name) for name in ("model", "data", "teacher", "cascade")}
        plain = {name: section.to_dict() for name, section in sections.items()}
        plain["space"] = self.space if isinstance(self.space, str) else self.space.to_dict()
        return plain | self.model_dump(mode="json", exclude={*plain})

    def to_yaml(self) -> str:
        """The whole experiment, defaults filled in, as `load_experiment` reads it."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def _shown(address: str | None) -> str | None:
    return address and without_credentials(address, address)


def parse_experiment(values: Mapping[str, Any]) -> Experiment:
    """Check plain values.

    Raises:
        InputError: naming the first wrong key, the rule and the value.
    """
    flag = stray_flag(values, Experiment)
    if flag is not None:
        raise InputError(flag)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, Experiment)) from error


def load_experiment(source: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read a preset by its name or a YAML file by its path, and set single keys.

    Args:
        source: name of a preset, or path of a file.
        overrides: `key=value`, keys dotted (`data.path=…`), values in YAML.

    Raises:
        InputError: if there is no such preset or file, or something in it is wrong.
    """
    values = _deep_copy(PRESETS[source]) if source in PRESETS else _read_yaml(Path(source))
    for override in overrides:
        set_value(values, override)
    return parse_experiment(values)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        is_neither = path.suffix not in (".yaml", ".yml") and not path.exists()
    except OSError as error:  # a folder that forbids looking, or a name that is too long to be one
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if is_neither:
        raise InputError(f"{str(path)!r} is neither a preset ({', '.join(PRESETS)}) nor a file")
    return read_yaml_file(
        path,
        missing=f"give a preset ({', '.join(PRESETS)}) or an existing YAML file",
        empty="`cascade presets demo` prints an experiment to start from",
    )


def _deep_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in values.items()}
