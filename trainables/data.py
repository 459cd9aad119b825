"""Images in memory: how they are held, split, normalised and cut into batches.

Images are decoded once and stay uint8; a batch becomes float when it is drawn. Random draws are made on the CPU by the
generator that the caller gives, and moved to where the images are, so that every device sees the same order.

Shape suffixes: N images, C channels, H height, W width.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from trainables.augmentation import augment
from trainables.config import Augmentation
from trainables.errors import InputError

# Pixels that are augmented at once: some batches of small images, one of large ones.
_AUGMENTED_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSet:
    """Images and their labels, decoded, all of one size.

    Attributes:
        images_NCHW: uint8, values 0 … 255.
        labels_N: on the same device: int64, one class an image; or bool of shape (N, K), which of K classes it shows.
    """

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor

    def __post_init__(self) -> None:
        """Check shapes and types.

        Raises:
            InputError: naming the rule and what was found.
        """
        images, labels = self.images_NCHW, self.labels_N
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise InputError(f"images are {_described(images)}, but must be uint8 of shape (N, C, H, W)")
        if (labels.ndim, labels.dtype) not in ((1, torch.int64), (2, torch.bool)):
            raise InputError(
                f"labels are {_described(labels)}, but must be int64 of shape (N,), or bool of shape (N, K)"
            )
        if len(images) != len(labels):
            raise InputError(f"there are {len(images)} images and {len(labels)} labels; give one label an image")
        if images.numel() == 0:
            raise InputError(f"images are {_described(images)}, but must not be empty; give at least one image")

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.labels_N.ndim == 2

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on `device`; shares memory where it is there already."""
        return ImageSet(images_NCHW=self.images_NCHW.to(device), labels_N=self.labels_N.to(device))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """What a reader gives for one part, training or test, of a data set.

    Attributes:
        images: the part's images.
        class_names: name of each label, in the order of labels.
    """

    images: ImageSet
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that every label has a name.

        Raises:
            InputError: naming the first bad row, its label and the range.
        """
        labels_N, num_classes = self.images.labels_N, len(self.class_names)
        if self.images.multi_label:
            if labels_N.shape[1] != num_classes:
                raise InputError(f"labels are of {labels_N.shape[1]} classes, but {num_classes} have names; name each")
            return
        bad_N = (labels_N < 0) | (labels_N >= num_classes)
        if bad_N.any():
            row = int(bad_N.nonzero()[0])
            raise InputError(
                f"label of row {row} is {int(labels_N[row])}, but must be in 0 … {num_classes - 1}, "
                f"as there are {num_classes} classes"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataSplits:
    """What training gets: training and validation images. Test images are never here.

    Attributes:
        train: images that weights are trained on.
        val: images that candidates are compared on.
        mean: of each channel over the training images, of pixels in [0, 1].
        std: standard deviation likewise, at least 1/255.
        class_names: name of each label, in the order of labels.
    """

    train: ImageSet
    val: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            InputError: naming what differs.
        """
        train_shape, val_shape = (tuple(part.images_NCHW.shape[1:]) for part in (self.train, self.val))
        if train_shape != val_shape:
            raise InputError(
                f"validation images have shape {val_shape}, but must have the training images' {train_shape}"
            )
        _check_channels(self.train.images_NCHW, self.mean, self.std)
        if self.train.labels_N.shape[1:] != self.val.labels_N.shape[1:]:
            raise InputError(
                f"validation labels are {_described(self.val.labels_N)}, but must be as training labels, which are "
                f"{_described(self.train.labels_N)}"
            )

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.train.multi_label

    @property
    def num_classes(self) -> int:
        """Number of labels."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """C."""
        return self.train.images_NCHW.shape[1]

    @property
    def image_size(self) -> int:
        """Height in pixels; every reader gives square images."""
        return self.train.images_NCHW.shape[2]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.train.images_NCHW.shape
        return channels, height, width

    def to(self, device: torch.device | str) -> Self:
        """The same splits with their images and labels on a device."""
        return dataclasses.replace(self, train=self.train.to(device), val=self.val.to(device))

    def to_arrays(self) -> dict[str, Any]:
        """NumPy arrays and plain values, for processes that share memory; nothing is copied on the CPU."""
        return {
            "train_images": self.train.images_NCHW.cpu().numpy(),
            "train_labels": self.train.labels_N.cpu().numpy(),
            "val_images": self.val.images_NCHW.cpu().numpy(),
            "val_labels": self.val.labels_N.cpu().numpy(),
            "mean": list(self.mean),
            "std": list(self.std),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Self:
        """Make one from what `to_arrays` gave, without a copy.

        Arrays may be read-only, as those of a shared object store are: the tensors must then never be written to,
        and nothing in this module does.
        """
        return cls(
            train=ImageSet(images_NCHW=_tensor(arrays["train_images"]), labels_N=_tensor(arrays["train_labels"])),
            val=ImageSet(images_NCHW=_tensor(arrays["val_images"]), labels_N=_tensor(arrays["val_labels"])),
            mean=tuple(arrays["mean"]),
            std=tuple(arrays["std"]),
            class_names=tuple(arrays["class_names"]),
        )


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


def _check_channels(images_NCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    channels = images_NCHW.shape[1]
    if not len(mean) == len(std) == channels:
        raise InputError(
            f"images have {channels} channels, but there are {len(mean)} means and {len(std)} standard deviations; "
            "give one of each for a channel"
        )


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable", category=UserWarning)
        return torch.from_numpy(array)


def normalise(images_NCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Pixels scaled to [0, 1], less the mean, over the standard deviation.

    Args:
        images_NCHW: uint8, values 0 … 255.
        mean: of each channel, of pixels in [0, 1].
        std: of each channel likewise, above 0.

    Returns:
        float32 of the same shape, on the same device.

    Raises:
        InputError: if there is not one mean and one standard deviation for each channel.
    """
    return _Normalised(images_NCHW, mean, std)(images_NCHW)


class _Normalised:
    """Normalises images like these; what it multiplies by and adds is brought to the device once."""

    def __init__(self, images_NCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
        _check_channels(images_NCHW, mean, std)
        scale, shift = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
        self._scale, self._shift = torch.tensor([scale, shift], device=images_NCHW.device).view(2, -1, 1, 1)

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return images_NCHW.to(torch.float32).mul_(self._scale).add_(self._shift)


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches that `training_batches` gives for one pass."""
    return max(1, num_images // batch_size)


def training_batches(
    images: ImageSet,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One pass over shuffled, augmented, normalised images.

    The last batch is dropped if it is incomplete, unless it is the only one: a batch of one image would break batch
    norm in training.

    Args:
        images: on the device where batches are wanted.
        mean: of each channel, of pixels in [0, 1].
        std: of each channel likewise.
        batch_size: images a batch, at least 1.
        augmentation: what each batch goes through, before it is normalised.
        generator: on the CPU; gives the order and the augmentation.

    Yields:
        float32 images (batch, C, H, W), and the labels of these images as the set has them.
    """
    order = torch.randperm(len(images), generator=generator).to(images.labels_N.device)
    order = order[: num_batches(len(images), batch_size) * batch_size]
    normalised = _Normalised(images.images_NCHW, mean, std)
    # Changes of a few images cost a card, and RandAugment a CPU too, as much as changes of many.
    together = max(1, _AUGMENTED_BYTES // (batch_size * images.images_NCHW[0].numel()))
    for group in order.split(together * batch_size):  # type: ignore[no-untyped-call]
        pixels_NCHW = augment(images.images_NCHW[group], augmentation, generator)
        parts = (tensor.split(batch_size) for tensor in (pixels_NCHW, group))
        for pixels, batch in zip(*parts, strict=True):
            yield normalised(pixels), images.labels_N[batch]


def evaluation_batches(
    images: ImageSet, *, mean: Sequence[float], std: Sequence[float], batch_size: int, rows: slice | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every image once, in order, normalised; the last batch may be smaller.

    Arguments are those of `training_batches`, and so is what it yields; `rows` are the images, all if it is left out.
    """
    normalised = _Normalised(images.images_NCHW, mean, std)
    chosen = range(len(images)) if rows is None else range(rows.start, rows.stop)
    for start in chosen[::batch_size]:
        batch = slice(start, min(start + batch_size, chosen.stop))
        yield normalised(images.images_NCHW[batch]), images.labels_N[batch]
