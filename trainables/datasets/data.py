"""Training and validation images: how they are shared, normalised and cut into batches.

Shape suffixes: N images, C channels, H height, W width.
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from trainables.data_config import Augmentation
from trainables.datasets.images import Images, ImageSet, described
from trainables.errors import InputError


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

    train: Images
    val: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that the parts fit together.

        Raises:
            InputError: naming what differs.
        """
        train_shape, val_shape = self.train.image_shape, self.val.image_shape
        if train_shape != val_shape:
            raise InputError(
                f"validation images have shape {val_shape}, but must have the training images' {train_shape}"
            )
        _check_channels(train_shape[0], self.mean, self.std)
        if self.train.labels_N.shape[1:] != self.val.labels_N.shape[1:]:
            raise InputError(
                f"validation labels are {described(self.val.labels_N)}, but must be as training labels, which are "
                f"{described(self.train.labels_N)}"
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
        return self.input_shape[0]

    @property
    def image_size(self) -> int:
        """Height in pixels; every reader gives square images."""
        return self.input_shape[1]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.image_shape

    def to(self, device: torch.device | str) -> Self:
        """The same splits with their images and labels on a device."""
        return dataclasses.replace(self, train=self.train.to(device), val=self.val.to(device))

    def to_arrays(self) -> dict[str, Any]:
        """Arrays and plain values, for processes that share memory; nothing is copied on the CPU."""
        return {
            "train_images": self.train.shared(),
            "train_labels": self.train.labels_N.cpu().numpy(),
            "val_images": self.val.shared(),
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
            train=_images(arrays["train_images"], arrays["train_labels"]),
            val=_images(arrays["val_images"], arrays["val_labels"]),
            mean=tuple(arrays["mean"]),
            std=tuple(arrays["std"]),
            class_names=tuple(arrays["class_names"]),
        )


def _check_channels(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    if not len(mean) == len(std) == channels:
        raise InputError(
            f"images have {channels} channels, but there are {len(mean)} means and {len(std)} standard deviations; "
            "give one of each for a channel"
        )


def _images(shared: Any, labels_N: np.ndarray[Any, Any]) -> Images:
    if isinstance(shared, np.ndarray):
        return ImageSet(images_NCHW=_tensor(shared), labels_N=_tensor(labels_N))
    labelled: Images = shared.labelled(_tensor(labels_N))
    return labelled


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
    return _Normalised(images_NCHW.shape[1], images_NCHW.device, mean, std)(images_NCHW)


class _Normalised:
    """Normalises images of so many channels; what it multiplies by and adds is brought to the device once."""

    def __init__(self, channels: int, device: torch.device, mean: Sequence[float], std: Sequence[float]) -> None:
        _check_channels(channels, mean, std)
        scale, shift = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
        self._scale, self._shift = torch.tensor([scale, shift], device=device).view(2, -1, 1, 1)

    @classmethod
    def like(cls, images: Images, mean: Sequence[float], std: Sequence[float]) -> Self:
        """For the batches of a set."""
        return cls(images.image_shape[0], images.labels_N.device, mean, std)

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        floats_NCHW = images_NCHW.to(torch.float32)
        if not floats_NCHW.is_contiguous() and floats_NCHW.is_contiguous(memory_format=torch.channels_last):
            # Whole lines of pixels at once, not one pixel's channels.
            lines = floats_NCHW.permute(0, 2, 3, 1).flatten(0, 1).flatten(1)
            scale, shift = (values.flatten().repeat(images_NCHW.shape[3]) for values in (self._scale, self._shift))
            lines.mul_(scale).add_(shift)  # a view
        else:
            floats_NCHW.mul_(self._scale).add_(self._shift)
        return floats_NCHW


def training_batches(
    images: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int,
    augmentation: Augmentation,
    generator: torch.Generator,
    start: int = 0,
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
        start: batches to leave out; what follows is what follows them.

    Yields:
        float32 images (batch, C, H, W), and the labels of these images as the set has them.
    """
    normalised = _Normalised.like(images, mean, std)
    batches = images.shuffled(batch_size=batch_size, augmentation=augmentation, generator=generator, start=start)
    for pixels, labels in batches:
        yield normalised(pixels), labels


def evaluation_batches(
    images: Images, *, mean: Sequence[float], std: Sequence[float], batch_size: int, rows: slice | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Every image once, in order, normalised; the last batch may be smaller.

    Arguments are those of `training_batches`, and so is what it yields; `rows` are the images, all if it is left out.
    """
    normalised = _Normalised.like(images, mean, std)
    for pixels, labels in images.ordered(batch_size=batch_size, rows=rows):
        yield normalised(pixels), labels
