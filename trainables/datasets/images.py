"""Images as stages get them: what any set of them does, and sets in memory.

Images in memory are decoded once and stay uint8. Random draws are made on the CPU by the generator that the caller
gives, and moved to where the images are, so that every device sees the same order.

Shape suffixes: N images, C channels, H height, W width.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from trainables.data_config import Augmentation
from trainables.datasets.augmentation import augment
from trainables.errors import InputError

# Pixels that are augmented at once: some batches of small images, one of large ones. RandAugment makes some hundred
# calls whatever their number; the others fit into a processor's cache.
_AUGMENTED_BYTES, _RANDAUGMENTED_BYTES = 8 << 20, 32 << 20


class Images(Protocol):
    """Images and their labels, in memory (`ImageSet`) or read as they are needed (`streaming.StreamedSet`)."""

    @property
    def labels_N(self) -> torch.Tensor:
        """On the device of the batches: int64, one class an image; or bool of shape (N, K), which of K it shows."""

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels that are held on the device."""

    @property
    def content(self) -> torch.Tensor | str:
        """What tells the images from any others: their pixels, or a digest of where they come from."""

    def __len__(self) -> int:
        """N."""

    def to(self, device: torch.device | str) -> "Images":
        """The same set, whose labels and batches are on `device`."""

    def first(self, number: int) -> "Images":
        """The first so many images, or all; they share memory with the set."""

    def shared(self) -> Any:  # noqa: ANN401 - a NumPy array, or plain values that know their files
        """The pixels for processes that share memory; `DataSplits.from_arrays` reads them back."""

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """Images at int64 `indices`, uint8 of shape (N, C, H, W), as evaluation sees them."""

    def shuffled(
        self, *, batch_size: int, augmentation: Augmentation, generator: torch.Generator, start: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`num_batches` batches of one pass, shuffled and augmented by the generator: uint8 images and their labels.

        The first `start` are left out; what follows is what follows them.
        """

    def ordered(self, *, batch_size: int, rows: slice | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images `rows.start` … `rows.stop`, or all, in order: uint8, and labels; in batches of at most that size."""


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
            raise InputError(f"images are {described(images)}, but must be uint8 of shape (N, C, H, W)")
        if (labels.ndim, labels.dtype) not in ((1, torch.int64), (2, torch.bool)):
            raise InputError(
                f"labels are {described(labels)}, but must be int64 of shape (N,), or bool of shape (N, K)"
            )
        if len(images) != len(labels):
            raise InputError(f"there are {len(images)} images and {len(labels)} labels; give one label an image")
        if images.numel() == 0:
            raise InputError(f"images are {described(images)}, but must not be empty; give at least one image")

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.labels_N.ndim == 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images_NCHW.shape
        return channels, height, width

    @property
    def held_bytes(self) -> int:
        """Bytes of all images."""
        return self.images_NCHW.nbytes

    @property
    def content(self) -> torch.Tensor:
        """All pixels."""
        return self.images_NCHW

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on `device`; shares memory where it is there already."""
        return ImageSet(images_NCHW=self.images_NCHW.to(device), labels_N=self.labels_N.to(device))

    def first(self, number: int) -> "ImageSet":
        """The first so many images, or all; they share memory with the set."""
        return ImageSet(images_NCHW=self.images_NCHW[:number], labels_N=self.labels_N[:number])

    def shared(self) -> np.ndarray[Any, Any]:
        """The images as an array; nothing is copied on the CPU."""
        return self.images_NCHW.cpu().numpy()

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """Images at int64 `indices`, copied."""
        return self.images_NCHW[indices]

    def shuffled(
        self, *, batch_size: int, augmentation: Augmentation, generator: torch.Generator, start: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of one pass, shuffled and augmented; the arguments are those of `training_batches`."""
        batches = self._shuffled(batch_size, augmentation, generator)
        yield from itertools.islice(batches, start, None)  # all are drawn, as one draw follows another

    def _shuffled(
        self, batch_size: int, augmentation: Augmentation, generator: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(self), generator=generator).to(self.labels_N.device)
        order = order[: num_batches(len(self), batch_size) * batch_size]
        # Changes of a few images cost a card, and RandAugment a CPU too, as much as changes of many.
        at_once = _RANDAUGMENTED_BYTES if "randaugment" in augmentation else _AUGMENTED_BYTES
        together = max(1, at_once // (batch_size * self.images_NCHW[0].numel()))
        for group in order.split(together * batch_size):  # type: ignore[no-untyped-call]
            pixels_NCHW = augment(self.images_NCHW[group], augmentation, generator)
            parts = (tensor.split(batch_size) for tensor in (pixels_NCHW, group))
            for pixels, batch in zip(*parts, strict=True):
                yield pixels, self.labels_N[batch]

    def ordered(self, *, batch_size: int, rows: slice | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images from `rows.start` to `rows.stop`, or all, in order."""
        chosen = range(len(self)) if rows is None else range(rows.start, rows.stop)
        for start in chosen[::batch_size]:
            batch = slice(start, min(start + batch_size, chosen.stop))
            yield self.images_NCHW[batch], self.labels_N[batch]


def in_memory(images: Images, *, purpose: str) -> ImageSet:
    """A set that must be in memory.

    Raises:
        InputError: if it is streamed, naming what it is wanted for.
    """
    if not isinstance(images, ImageSet):
        raise InputError(
            f"{len(images)} images are streamed, but {purpose} takes them from memory; raise data.memory_gb"
        )
    return images


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


def num_batches(num_images: int, batch_size: int) -> int:
    """Batches that `training_batches` gives for one pass."""
    return max(1, num_images // batch_size)


def described(tensor: torch.Tensor) -> str:
    """A tensor's type and shape, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
