"""How weights are trained. Plain values, checked when they are made."""

from dataclasses import dataclass
from typing import Literal, get_args

from trainables.errors import shown
from trainables.plain import (
    PlainConfig,
    require,
    require_int,
    require_number,
    require_one_of,
)

Optimizer = Literal["sgd", "adamw"]
LearningRateSchedule = Literal["cosine", "one-cycle"]
ClassWeights = Literal["none", "balanced"]
Mix = Literal["none", "mixup", "cutmix", "both"]
Execution = Literal["graph", "eager", "compile"]
Precision = Literal["fp32", "bf16"]


MOST = 1_000_000
"""Of epochs, and of images in a batch: what is more was not meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(PlainConfig):
    """How weights are trained.

    Attributes:
        epochs: passes over the training images, for all stages of a cascade together.
        batch_size: images a step.
        learning_rate: peak of the schedule; below 0.1 for AdamW.
        momentum: Nesterov momentum of SGD, β₁ of AdamW, in [0, 1).
        weight_decay: of all weights but normalisation layers and biases: L2 for SGD, decoupled for AdamW.
        warmup: fraction of the steps over which the learning rate rises, in [0, 1).
        label_smoothing: of the cross-entropy, in [0, 1).
        max_grad_norm: gradients are scaled down to this norm; `None` leaves them.
        precision: `fp32`, or `bf16`: the forward and backward passes of training multiply in bfloat16; weights,
            losses, saliency and all measurements stay float32.
        execution: `graph`: on a card the kernels of a step are recorded and started at once, those of levels side by
            side where they are small; `eager`: always one by one, for a network that draws from Python's random numbers
            or looks at values; `compile`: as `graph`, and torch compiles levels that have their sizes, or a teacher
            that is trained.
        optimizer: `sgd` with Nesterov momentum, or `adamw` with β₂ 0.999 and ε 1e-8.
        learning_rate_schedule: `cosine` rises linearly and falls to zero on a cosine; `one-cycle` rises from a 25th of
            the peak on a cosine and falls to a 250,000th of it on another.
        accumulate: micro-batches that a batch is cut into, of two images or more each, whose gradients are summed to
            the batch's: less memory for the same step. Batch norm sees a micro-batch at a time.
        ema: decay of a moving average of the weights, in (0, 1), which is what is validated and handed on; `None`
            takes the weights of the last step.
        class_weights: what classes count in the cross-entropy: `none` for all alike, `balanced` for the inverse of how
            many training images they have, or a number above 0 for each, of which only the ratios count.
        mix: what is made of each batch: `none`, `mixup` (pairs of images blended), `cutmix` (a box cut from the other
            of a pair), or `both` (one of the two by chance); labels are mixed likewise.
        mix_alpha: both parameters of the Beta distribution that the shares of a pair are drawn from, above 0.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    label_smoothing: float = 0.0
    max_grad_norm: float | None = None
    precision: Precision = "fp32"
    execution: Execution = "graph"
    optimizer: Optimizer = "sgd"
    learning_rate_schedule: LearningRateSchedule = "cosine"
    accumulate: int = 1
    ema: float | None = None
    class_weights: ClassWeights | tuple[float, ...] = "none"
    mix: Mix = "none"
    mix_alpha: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_int("epochs", self.epochs, at_least=1, at_most=MOST)
        require_int("batch_size", self.batch_size, at_least=2, at_most=MOST)
        require_number("learning_rate", self.learning_rate, above=0.0)
        require_number("momentum", self.momentum, at_least=0.0, below=1.0)
        require_number("weight_decay", self.weight_decay, at_least=0.0)
        require_number("warmup", self.warmup, at_least=0.0, below=1.0)
        require_number("label_smoothing", self.label_smoothing, at_least=0.0, below=1.0)
        if self.max_grad_norm is not None:
            require_number("max_grad_norm", self.max_grad_norm, above=0.0)
        require_one_of("precision", self.precision, get_args(Precision))
        require_one_of("execution", self.execution, get_args(Execution))
        require_one_of("optimizer", self.optimizer, get_args(Optimizer))
        require_one_of("learning_rate_schedule", self.learning_rate_schedule, get_args(LearningRateSchedule))
        require(
            self.optimizer == "sgd" or self.learning_rate < 0.1,
            f"learning_rate is {self.learning_rate!r}, but must be below 0.1 for adamw, which moves every weight by "
            "about so much a step; give it, 0.001 say",
        )
        require_int("accumulate", self.accumulate, at_least=1)
        require(
            2 * self.accumulate <= self.batch_size,
            f"accumulate is {self.accumulate}, but each micro-batch must have at least 2 of the {self.batch_size} "
            "images of a batch; accumulate less or raise batch_size",
        )
        if self.ema is not None:
            require_number("ema", self.ema, above=0.0, below=1.0)
        if isinstance(self.class_weights, tuple) and self.class_weights:
            for label, weight in enumerate(self.class_weights):
                require_number(f"class_weights of class {label}", weight, above=0.0)
        else:
            require(
                self.class_weights in get_args(ClassWeights),
                f"class_weights is {shown(self.class_weights)}, but must be none, balanced, or a list of one number a "
                "class",
            )
        require_one_of("mix", self.mix, get_args(Mix))
        require_number("mix_alpha", self.mix_alpha, above=0.0)
