"""What a network on disk takes: its images, and the classes that its scores are of."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainables.errors import InputError

if TYPE_CHECKING:  # so that reading a network takes torch and safetensors alone
    from trainables.datasets.data import DataSplits

# Beyond what any image has: a file that says more would have memory filled before anything else is found wrong.
_MOST_CHANNELS, _MOST_PIXELS = 4096, 65536


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """What a network takes: images as float32 in [0, 1], from which `mean` is taken and which `std` divides.

    Attributes:
        channels: of an image.
        image_size: height and width in pixels.
        mean: per channel.
        std: per channel, above 0.
        class_names: one for each output.
        multi_label: whether each output is a yes or no of its own (sigmoid), or all are one choice (softmax).
    """

    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    multi_label: bool = False

    def __post_init__(self) -> None:
        """Check that it can be computed with.

        Raises:
            InputError: naming the field, the rule and the value.
        """
        if self.channels < 1 or self.image_size < 1 or not self.class_names:
            raise InputError(
                f"images of {self.channels} channels and {self.image_size} pixels in {len(self.class_names)} classes "
                "cannot be; all three must be at least 1"
            )
        if self.channels > _MOST_CHANNELS or self.image_size > _MOST_PIXELS:
            raise InputError(
                f"images of {self.channels} channels and {self.image_size} pixels cannot be; at most {_MOST_CHANNELS} "
                f"and {_MOST_PIXELS} are"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise InputError(f"mean and std must have one value for each of {self.channels} channels")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise InputError(f"mean {self.mean} and std {self.std} must be finite, and std above 0")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.image_size, self.image_size

    @property
    def num_classes(self) -> int:
        """Outputs of the network."""
        return len(self.class_names)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "InputSpec":
        """Make one from what JSON gave."""
        return cls(
            channels=int(values["channels"]),
            image_size=int(values["image_size"]),
            mean=tuple(map(float, values["mean"])),
            std=tuple(map(float, values["std"])),
            class_names=tuple(map(str, values["class_names"])),
            multi_label=bool(values.get("multi_label", False)),  # networks from before there was any lack it
        )

    @classmethod
    def of(cls, data: "DataSplits") -> "InputSpec":
        """What a network trained on these images takes."""
        return cls(
            channels=data.in_channels,
            image_size=data.image_size,
            mean=tuple(data.mean),
            std=tuple(data.std),
            class_names=tuple(data.class_names),
            multi_label=data.multi_label,
        )
