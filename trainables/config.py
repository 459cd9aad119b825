"""What a cascade is made from: network, data, recipe, pruning, sizes. Plain values, checked when they are made.

Everything here is standard library only, frozen, and goes to a plain dictionary and back without loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from trainables.imports import is_import_path
from trainables.plain import (
    PlainConfig,
    require,
    require_flag,
    require_int,
    require_number,
    require_one_of,
    require_text,
)

Schedule = Literal["joint", "sequential"]
Ramp = Literal["cubic", "linear"]
Optimizer = Literal["sgd", "adamw"]
LearningRateSchedule = Literal["cosine", "one-cycle"]
ClassWeights = Literal["none", "balanced"]
Mix = Literal["none", "mixup", "cutmix", "both"]
PruningCost = Literal["macs", "none"]
Execution = Literal["graph", "eager", "compile"]
SaliencyLoss = Literal["level", "labels"]
LearnsFrom = Literal["level-above", "teacher"]
SizeUnit = Literal["macs", "params", "latency"]
UNITS: Mapping[SizeUnit, str] = MappingProxyType({"macs": "MACs", "params": "parameters", "latency": "latency"})
"""What sizes are counted in, as people read it."""
Augmentation = Literal["none", "crop", "crop-flip", "resized-crop-flip", "randaugment", "crop-flip-randaugment"]
Stem = Literal["small", "imagenet"]
Precision = Literal["fp32", "bf16"]
Pixels = Literal["normalised", "raw"]
"""What a deployed network takes: float32 images that were normalised before, or uint8 pixels 0 … 255."""
LARGEST_GROWTH = 1000.0
"""How many times the larger level's loss a level's loss may count at most."""
DataName = Literal["digits", "cifar10", "cifar100", "imagefolder", "parquet", "shards"]


def amount(size: float, unit: SizeUnit) -> str:
    """A size as people read it."""
    return f"{size:.4g} ms of latency" if unit == "latency" else f"{size / 1e6:.4g} M {UNITS[unit]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(PlainConfig):
    """Which network the teacher is.

    Attributes:
        name: a built-in name (`vgg16`, `vgg-small`, `resnet18`, `resnet20`, `resnet50`, `resnet56`), another
            classification network of torchvision by its name there, or `package.module:function` of the user's own;
            the function is called with `num_classes` and must return an `nn.Module`.
        width: multiplier of every built-in layer's channels, above 0; torchvision and user functions take only 1.
        stem: `small` for images of about 32x32 (no early downsampling), `imagenet` for 224x224. ResNets only.
        weights: path of a pretrained teacher (safetensors, or a state dict that `torch.load(weights_only=True)`
            reads); without one a teacher is trained.
    """

    name: str = "vgg-small"
    width: float = 1.0
    stem: Stem = "small"
    weights: str | None = None

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_text("model.name", self.name)
        if self.weights is not None:
            require_text("model.weights", self.weights)
        require_number("model.width", self.width, above=0.0)
        require_one_of("model.stem", self.stem, get_args(Stem))
        require(
            not is_import_path(self.name) or self.width == 1.0,
            f"model.width is {self.width!r}, but {self.name} is your own function and has no width multiplier; "
            "leave model.width at 1",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(PlainConfig):
    """Which images are trained on, and how they are split.

    Attributes:
        name: `digits` (embedded), `cifar10`, `cifar100`, `imagefolder`, `parquet` (files of encoded images with one
            label or several), or `shards` (what `cascade data` writes).
        path: folder of the data set; needed by all but `digits`. Of `shards` also an address in a bucket
            (`s3://BUCKET/PREFIX`), from which each machine fetches them once.
        image_size: height and width in pixels that images are brought to; needed by `imagefolder`, `parquet` and
            `shards`.
            `digits` come at 16 unless said otherwise; CIFAR is always 32.
        val_fraction: part of the training images held out for validation where a data set has no validation images of
            its own, stratified by class, in (0, 1).
        test_fraction: part of all images held out for test where a data set has no test split of its own
            (`digits`, an `imagefolder` without a `test` folder), stratified by class, in (0, 1).
        augmentation: what training batches go through: `none`, `crop` (pad by an eighth, crop at random),
            `crop-flip` (also mirrored at random), `resized-crop-flip` (a window of 8 to 100 % of the area brought to
            the size, and mirrored at random), `randaugment` (two random changes of shape or colour an image), or
            `crop-flip-randaugment`.
        seed: seed of the splits.
        memory_gb: `shards` whose training and validation images take at most so many 10⁹ bytes decoded are held in
            memory; larger ones are streamed.
        workers: processes that decode streamed images for each trial; 0 decodes where training runs.
        download: fetch CIFAR into `path` if it is not there; nothing is fetched unless this is asked.
    """

    name: DataName = "digits"
    path: str | None = None
    image_size: int | None = None
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    augmentation: Augmentation = "none"
    seed: int = 0
    download: bool = False
    memory_gb: float = 2.0
    workers: int = 2

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_one_of("data.name", self.name, get_args(DataName))
        require_one_of("data.augmentation", self.augmentation, get_args(Augmentation))
        require_number("data.val_fraction", self.val_fraction, above=0.0, below=1.0)
        require_number("data.test_fraction", self.test_fraction, above=0.0, below=1.0)
        require_int("data.seed", self.seed, at_least=0)
        require_flag("data.download", self.download)
        require_number("data.memory_gb", self.memory_gb, at_least=0.0)
        require_int("data.workers", self.workers, at_least=0)
        if self.path is not None:
            require_text("data.path", self.path)
            require(
                self.name == "shards" or "://" not in self.path,
                f"data.path is {self.path!r}, but only shards are read from a bucket; make some with `cascade data`",
            )
        if self.image_size is not None:
            require_int("data.image_size", self.image_size, at_least=8)
        require(
            self.name == "digits" or self.path is not None,
            f"data.path is missing, but {self.name} lies in a folder; set data.path to it",
        )
        require(
            self.name not in ("imagefolder", "parquet", "shards") or self.image_size is not None,
            "data.image_size is missing, but images of a folder must be brought to one size; set it, to 64 say",
        )
        require(
            self.image_size in (None, 32) or not self.name.startswith("cifar"),
            f"data.image_size is {self.image_size!r}, but CIFAR images are 32x32; leave it out",
        )


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
        precision: `fp32`, or `bf16`: the forward and backward passes of training multiply in bfloat16 (but in depthwise
            convolutions on a CPU); weights, losses, saliency and all measurements stay float32.
        execution: `graph`: on a card the kernels of a step are recorded and started at once; `eager`: always one by
            one, for a network that draws from Python's random numbers or looks at values; `compile`: as `graph`, and
            torch compiles levels that have their sizes, or a teacher that is trained.
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
        require_int("epochs", self.epochs, at_least=1)
        require_int("batch_size", self.batch_size, at_least=2)
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
                f"class_weights is {self.class_weights!r}, but must be none, balanced, or a list of one number a class",
            )
        require_one_of("mix", self.mix, get_args(Mix))
        require_number("mix_alpha", self.mix_alpha, above=0.0)


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
            f"pruning.floors is {self.floors!r}, but must map layers to channels, such as {{layer4: 64}}",
        )
        for layer, floor in self.floors.items():
            require_text("a layer in pruning.floors", layer)
            require_int(f"pruning.floors of {layer}", floor, at_least=1)
        require(
            isinstance(self.keep, tuple),
            f"pruning.keep is {self.keep!r}, but must be a list of layers, such as [layer4]",
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


def check_non_target_weight(key: str, weight: float | None, recipe: Recipe) -> None:
    """Check the weight of other classes in a decoupled distillation, which must know the one class of an image.

    Raises:
        InputError: naming the key, the rule and the value.
    """
    if weight is not None:
        require_number(key, weight, at_least=0.0)
        require(
            recipe.mix == "none",
            f"{key} is {weight:g}, but mix is {recipe.mix!r}, and a mixed image has no one class; leave out one of "
            "them",
        )


def check_teacher_steps(prefix: str, *, every: int, views: int | None) -> None:
    """Check what says how often a frozen network is asked.

    Args:
        prefix: of its keys in messages, with a dot.
        every: `teacher_every`.
        views: `teacher_views`.

    Raises:
        InputError: naming the key, the rule and the value.
    """
    require_int(f"{prefix}teacher_every", every, at_least=1)
    if views is not None:
        require_int(f"{prefix}teacher_views", views, at_least=1)
        require(
            every == 1,
            f"{prefix}teacher_every is {every}, but {prefix}teacher_views is {views}, and what is remembered is asked "
            "in every step; give one of them",
        )


def check_feature_weight(key: str, weight: float, *, recipe: Recipe, views: int | None) -> None:
    """Check the weight of features that are learnt, which are read between a network's layers as they run.

    Args:
        key: its name in messages.
        weight: `feature_weight`.
        recipe: that levels are trained with.
        views: `teacher_views`.

    Raises:
        InputError: naming the key, the rule and the value.
    """
    require_number(key, weight, at_least=0.0)
    require(
        weight == 0.0 or recipe.execution != "compile",
        f"{key} is {weight:g}, but execution is 'compile', and features cannot be read within a compiled network; take "
        "graph",
    )
    require(
        weight == 0.0 or views is None,
        f"{key} is {weight:g}, but teacher_views is {views}, and what is remembered of a teacher are its scores alone; "
        "leave out one of them",
    )


def check_levels_a_step(key: str, number: int | None) -> None:
    """Check how many levels a step trains.

    Raises:
        InputError: naming the key, the rule and the value.
    """
    require(
        number is None or (isinstance(number, int) and not isinstance(number, bool) and number >= 3),
        f"{key} is {number!r}, but must be a whole number of at least 3, for the largest level, the smallest and one "
        "of those between; leave it out to train all in every step",
    )


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
        epoch_growth: how many times the epochs of the level above each level of a sequential cascade gets; above 1, as
            smaller levels take less work an epoch, and learn from a smaller network.
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
        require(
            isinstance(self.macs_kept, tuple) and len(self.macs_kept) > 0,
            f"macs_kept is {self.macs_kept!r}, but must be a tuple with one size a level, the student's last",
        )
        for level, size in enumerate(self.macs_kept, start=1):
            require_number(f"macs_kept of level {level}", size, above=0.0, at_most=1.0)
        for level, (larger, smaller) in enumerate(zip(self.macs_kept, self.macs_kept[1:], strict=False), start=2):
            require(
                smaller < larger,
                f"macs_kept of level {level} is {smaller:.4g}, but must be below level {level - 1}'s {larger:.4g}; "
                "sizes fall from the teacher to the student",
            )
        require_number("temperature", self.temperature, above=0.0)
        require_number("distillation_weight", self.distillation_weight, at_least=0.0, at_most=1.0)
        check_non_target_weight("non_target_weight", self.non_target_weight, self.recipe)
        require_one_of("learns_from", self.learns_from, get_args(LearnsFrom))
        check_feature_weight("feature_weight", self.feature_weight, recipe=self.recipe, views=self.teacher_views)
        check_teacher_steps("", every=self.teacher_every, views=self.teacher_views)
        require_one_of("schedule", self.schedule, get_args(Schedule))
        check_levels_a_step("levels_a_step", self.levels_a_step)
        require_number("level_weight_growth", self.level_weight_growth, above=0.0, at_most=LARGEST_GROWTH)
        require_number("epoch_growth", self.epoch_growth, above=0.0)
        require_int("recovery_epochs", self.recovery_epochs, at_least=0)
        require_int("seed", self.seed, at_least=0)
        require(
            self.schedule == "joint" or self.recipe.epochs >= self.num_levels,
            f"recipe.epochs is {self.recipe.epochs}, but the sequential schedule shares them out over "
            f"{self.num_levels} levels; give at least one epoch a level",
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
