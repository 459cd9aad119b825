"""Which network the teacher is. Plain values, checked when they are made."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from trainables.imports import is_import_path
from trainables.plain import (
    PlainConfig,
    at_home,
    require,
    require_number,
    require_one_of,
    require_text,
)

Stem = Literal["small", "imagenet"]
_WIDEST = 16.0  # wide residual networks (Zagoruyko & Komodakis 2016) end at 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(PlainConfig):
    """Which network the teacher is.

    Attributes:
        name: a built-in name (`vgg16`, `vgg-small`, `resnet18`, `resnet20`, `resnet50`, `resnet56`), another
            classification network of torchvision by its name there, or `package.module:function` of the user's own;
            the function is called with `num_classes` and must return an `nn.Module`.
        width: multiplier of every built-in layer's channels, above 0 and at most 16; torchvision and user functions
            take only 1.
        stem: `small` for images of about 32x32 (no early downsampling), `imagenet` for 224x224. ResNets only.
        weights: path of a pretrained teacher (safetensors, or a state dict that `torch.load(weights_only=True)`
            reads), where `~` at the beginning is the user's home; without one a teacher is trained.
    """

    name: str = "vgg-small"
    width: float = 1.0
    stem: Stem = "small"
    weights: str | None = None

    called: ClassVar[str] = "model"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_text("model.name", self.name)
        if self.weights is not None:
            require_text("model.weights", self.weights)
            object.__setattr__(self, "weights", at_home(self.weights))
        require_number("model.width", self.width, above=0.0, at_most=_WIDEST)
        require_one_of("model.stem", self.stem, get_args(Stem))
        require(
            not is_import_path(self.name) or self.width == 1.0,
            f"model.width is {self.width!r}, but {self.name} is your own function and has no width multiplier; "
            "leave model.width at 1",
        )
