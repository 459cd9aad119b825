"""How channels are chosen and removed, and what sizes are counted in. Plain values, checked when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from trainables.errors import shown
from trainables.plain import (
    PlainConfig,
    require,
    require_flag,
    require_int,
    require_number,
    require_one_of,
    require_text,
)

Ramp = Literal["cubic", "linear"]
PruningCost = Literal["macs", "none"]
SaliencyLoss = Literal["level", "labels"]
SizeUnit = Literal["macs", "params", "latency"]
UNITS: Mapping[SizeUnit, str] = MappingProxyType({"macs": "MACs", "params": "parameters", "latency": "latency"})
"""What sizes are counted in, as people read it."""


def amount(size: float, unit: SizeUnit) -> str:
    """A size as people read it."""
    return f"{size:.4g} ms of latency" if unit == "latency" else f"{size / 1e6:.4g} M {UNITS[unit]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruning(PlainConfig):
    """How channels are chosen and removed.

    Attributes:
        saliency: criterion by name, one of `saliency.CRITERIA`, or a function of the user's own as
            `package.module:function`.
        saliency_loss: whose gradient saliency is made of: the `level`'s own loss, or that of the `labels` alone, which
            costs one backward pass more while channels go.
        size_in: what sizes are fractions of, and counted in: the teacher's `macs`, its `params`, or its `latency`, the
            milliseconds that one image takes where trials run, modelled as a sum over layers that were timed.
        cost: what a channel's saliency is divided by before channels of all groups are ranked: `macs`, or parameters
            or milliseconds where sizes are counted in these, that its removal saves; or `none` for the raw saliency.
        ramp: shape of the falling size over the ramp: `cubic` (Zhu & Gupta 2017, eq. 1) or `linear`.
        ramp_fraction: part of a stage's steps over which a level falls to its size, in (0, 1); held after that.
        num_prunings: pruning events over the ramp, at least 1.
        regrowth: how many of the channels that a level has lost may come back at a pruning, as a part of those that it
            keeps of a group, in [0, 1]; it falls to none over the ramp, on a cosine, and until then all channels stay
            in the shared weights. With 0 what goes is gone.
        nested: a level keeps only channels that the level above keeps.
        shared_affine: levels share scale and shift of normalisation layers; statistics stay private.
        round_to: widths of prunable layers become multiples of this.
        min_channels: floor of channels that layers keep.
        floors: other floors for some layers: name or pattern → channels.
        keep: layers that are left alone: names, names of parts that hold them, or patterns (`layer4`, `*.conv3`).
    """

    saliency: str = "gate-gradient"
    saliency_loss: SaliencyLoss = "level"
    size_in: SizeUnit = "macs"
    cost: PruningCost = "macs"
    ramp: Ramp = "cubic"
    ramp_fraction: float = 0.5
    num_prunings: int = 20
    regrowth: float = 0.0
    nested: bool = False
    shared_affine: bool = False
    round_to: int = 1
    min_channels: int = 1
    floors: Mapping[str, int] = field(default_factory=dict, hash=False)  # equal ones still have equal hashes
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_text("pruning.saliency", self.saliency)
        require_one_of("pruning.saliency_loss", self.saliency_loss, get_args(SaliencyLoss))
        require_flag("pruning.nested", self.nested)
        require_flag("pruning.shared_affine", self.shared_affine)
        require_one_of("pruning.size_in", self.size_in, get_args(SizeUnit))
        require_one_of("pruning.cost", self.cost, get_args(PruningCost))
        require_one_of("pruning.ramp", self.ramp, get_args(Ramp))
        require_number("pruning.ramp_fraction", self.ramp_fraction, above=0.0, below=1.0)
        require_int("pruning.num_prunings", self.num_prunings, at_least=1)
        check_regrowth(self)
        require_int("pruning.round_to", self.round_to, at_least=1)
        require_int("pruning.min_channels", self.min_channels, at_least=1)
        require(
            isinstance(self.floors, Mapping),
            f"pruning.floors is {shown(self.floors)}, but must map layers to channels, such as {{layer4: 64}}",
        )
        for layer, floor in self.floors.items():
            require_text("a layer in pruning.floors", layer)
            require_int(f"pruning.floors of {layer}", floor, at_least=1)
        require(
            isinstance(self.keep, tuple),
            f"pruning.keep is {shown(self.keep)}, but must be a list of layers, such as [layer4]",
        )
        for layer in self.keep:
            require_text("a layer in pruning.keep", layer)


def check_regrowth(pruning: Pruning) -> None:
    """Check whether, and where, channels may come back.

    Raises:
        InputError: naming the key, the rule and the value.
    """
    regrowth = pruning.regrowth
    require_number("pruning.regrowth", regrowth, at_least=0.0, at_most=1.0)
    require(
        regrowth == 0.0 or pruning.num_prunings > 2,
        f"pruning.regrowth is {regrowth:g}, but pruning.num_prunings is {pruning.num_prunings}, and nothing comes back "
        "at the first pruning or the last; prune more often, or leave regrowth at 0",
    )
    require(
        regrowth == 0.0 or not pruning.nested,
        f"pruning.regrowth is {regrowth:g}, but pruning.nested is true, and what comes back to a level need not be "
        "what the level above keeps; leave out one of them",
    )
