"""Which images are trained on. Plain values, checked when they are made."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from trainables.plain import (
    PlainConfig,
    at_home,
    require,
    require_flag,
    require_int,
    require_number,
    require_one_of,
    require_text,
)

Augmentation = Literal["none", "crop", "crop-flip", "resized-crop-flip", "randaugment", "crop-flip-randaugment"]
Pixels = Literal["normalised", "raw"]
"""What a deployed network takes: float32 images that were normalised before, or uint8 pixels 0 … 255."""
# A side; at that, a batch of 32 is 1.6 GB as the network takes it, its features apart.
_MOST_PIXELS = 2048
DataName = Literal["digits", "cifar10", "cifar100", "imagefolder", "parquet", "shards"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(PlainConfig):
    """Which images are trained on, and how they are split.

    Attributes:
        name: `digits` (embedded), `cifar10`, `cifar100`, `imagefolder`, `parquet` (files of encoded images with one
            label or several), or `shards` (what `cascade data` writes).
        path: folder of the data set, where `~` at the beginning is the user's home; needed by all but `digits`. Of
            `shards` also an address in a bucket (`s3://BUCKET/PREFIX`), from which each machine fetches them once.
        image_size: height and width in pixels that images are brought to, 8 … 2048; needed by `imagefolder`,
            `parquet` and `shards`.
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

    called: ClassVar[str] = "data"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        require_one_of("data.name", self.name, get_args(DataName))
        require_one_of("data.augmentation", self.augmentation, get_args(Augmentation))
        require_number("data.val_fraction", self.val_fraction, above=0.0, below=1.0)
        require_number("data.test_fraction", self.test_fraction, above=0.0, below=1.0)
        require_int("data.seed", self.seed, at_least=0, at_most=2**63 - 1)
        require_flag("data.download", self.download)
        require_number("data.memory_gb", self.memory_gb, at_least=0.0)
        require_int("data.workers", self.workers, at_least=0)
        if self.path is not None:
            require_text("data.path", self.path)
            object.__setattr__(self, "path", at_home(self.path))
            require(
                self.name == "shards" or "://" not in self.path,
                f"data.path is {self.path!r}, but only shards are read from a bucket; make some with `cascade data`",
            )
        if self.image_size is not None:
            require_int("data.image_size", self.image_size, at_least=8, at_most=_MOST_PIXELS)
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
