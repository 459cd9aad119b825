"""What trials and the teacher take of machines, as an experiment says it."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from orchestrator.experiment.machine_rules import AUTO, LOCAL, require_address, require_cards
from trainables.errors import InputError


def _check_gpus(key: str, gpus: float, ranks_key: str, ranks: int | None) -> None:
    """Check a number of GPUs, and that no rank would have several, of which it uses one."""
    require_cards(key, gpus)
    if ranks is not None and gpus > ranks:
        raise InputError(
            f"{key} is {gpus:g}, but {ranks_key} is {ranks}, and a rank uses one GPU; leave {ranks_key} out or raise it"
        )


def _check_kind(key: str, kind: str | None, gpus_key: str, gpus: float) -> None:
    if kind is not None and gpus == 0:
        raise InputError(f"{key} is {kind!r}, but {gpus_key} is 0; ask for a GPU, or leave {key} out")


class TeacherResources(BaseModel, extra="forbid", frozen=True):
    """What training the teacher takes, where that is not what a trial takes.

    Attributes:
        cpus: CPU cores, of all its ranks together.
        gpus: GPUs likewise; a fraction of one, or a whole number of them.
        ranks: processes that train it together; one for each whole GPU where it is left out.
        gpu_kind: which cards, as for trials.
    """

    cpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gpus: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    ranks: Annotated[int, Field(ge=1, strict=True)] | None = None
    gpu_kind: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_gpu_a_rank(self) -> Self:
        _check_gpus("gpus", self.gpus, "ranks", self.ranks)
        _check_kind("gpu_kind", self.gpu_kind, "gpus", self.gpus)
        return self

    @property
    def num_ranks(self) -> int:
        """Processes that train it."""
        return self.ranks or max(1, int(self.gpus))


class Resources(BaseModel, extra="forbid", frozen=True):
    """What a trial takes, and where.

    Attributes:
        cpus_per_trial: CPU cores of a trial, of all its ranks together.
        gpus_per_trial: GPUs of a trial likewise; a fraction shares a card. `auto` is the part of a card that a trial is
            seen to take (`packing`), and none where there are no cards.
        ranks_per_trial: processes that train a trial together, each a part of every batch; one for each whole GPU
            where it is left out.
        gpu_kind: which cards, by Ray's name for them (`H100`, `A100-80G`; `ray.util.accelerators` lists them), where
            machines have several kinds; any where it is left out.
        teacher: what training the teacher takes; where it is left out one GPU if trials have any, and on one's own
            machine all CPUs.
        max_concurrent: trials at the same time; as many as fit where it is left out.
        address: `local` starts Ray on this machine; `auto` joins the cluster that this machine is part of, and
            HOST:PORT the one whose head answers there.
    """

    cpus_per_trial: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gpus_per_trial: float | Literal["auto"] = 0.0
    ranks_per_trial: Annotated[int, Field(ge=1, strict=True)] | None = None
    gpu_kind: Annotated[str, Field(min_length=1)] | None = None
    teacher: TeacherResources | None = None
    max_concurrent: Annotated[int, Field(ge=1, strict=True)] | None = None
    address: str = LOCAL

    @field_validator("gpus_per_trial", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == AUTO or (is_number and 0 <= value < math.inf):  # type: ignore[operator]
            return value
        raise InputError(f"{value!r} is given, but must be a number of GPUs, 0 or more, or {AUTO}")

    @field_validator("address")
    @classmethod
    def _known_address(cls, address: str) -> str:
        require_address(address)
        return address

    @model_validator(mode="after")
    def _one_gpu_a_rank(self) -> Self:
        if self.gpus_per_trial == AUTO and self.num_ranks > 1:
            raise InputError(
                f"resources.gpus_per_trial is {AUTO}, but resources.ranks_per_trial is {self.ranks_per_trial}, and "
                "only trials of one rank share a card; leave ranks_per_trial out, or give a number of GPUs"
            )
        _check_gpus("resources.gpus_per_trial", self.num_gpus, "resources.ranks_per_trial", self.ranks_per_trial)
        _check_kind("resources.gpu_kind", self.gpu_kind, "resources.gpus_per_trial", self.num_gpus)
        return self

    @property
    def num_gpus(self) -> float:
        """GPUs of a trial; a whole one as long as it is not known what part a trial takes."""
        return 1.0 if self.gpus_per_trial == AUTO else self.gpus_per_trial

    @property
    def num_ranks(self) -> int:
        """Processes that train a trial."""
        return self.ranks_per_trial or max(1, int(self.num_gpus))

    def at_once(self, num_trials: int) -> int:
        """How many of so many trials may run at the same time, if they fit."""
        return num_trials if self.max_concurrent is None else min(num_trials, self.max_concurrent)

    def with_gpus(self, gpus: float) -> Self:
        """The same with so many GPUs a trial."""
        return self.model_copy(update={"gpus_per_trial": gpus})
