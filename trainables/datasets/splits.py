"""Held-out parts: stratified by class, by seed. Shape legend as in `trainables.datasets.data`."""

import math
from collections.abc import Sequence

import torch

from trainables.data_config import DataConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet, Source
from trainables.errors import InputError

_LEVELS = 256  # values of a uint8 pixel
_MIN_STD = 1 / 255  # one step of a uint8 pixel; what a channel of one single value is divided by
_FEWEST = "at least 2, one for either part (3 in all where both test and validation images are held out)"


def stratified_split(
    labels_N: torch.Tensor, *, fraction: float, seed: int, class_names: Sequence[str] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of two parts in which classes have the shares that they have in the whole.

    Each class gives `fraction` of its images, rounded, but at least one to either part.

    Args:
        labels_N: int64 labels.
        fraction: part of each class that is held out, in (0, 1).
        seed: the same seed gives the same split.
        class_names: names of the labels, for the message of an error.

    Returns:
        Sorted int64 indices of the images that stay and of those that are held out.

    Raises:
        InputError: if a class has fewer than two images.
    """
    labels_N = labels_N.cpu()
    counts = torch.bincount(labels_N).tolist()
    if 1 in counts:
        label = counts.index(1)
        name = f"class {class_names[label]}" if class_names else f"the class of label {label}"
        raise InputError(
            f"{name} has 1 image to split, but must have {_FEWEST}; add images of it or leave the class out"
        )
    held_out = [min(max(round(fraction * count), 1), count - 1) for count in counts]
    is_held_out_N = _drawn(labels_N, held_out, seed)
    return (~is_held_out_N).nonzero().flatten(), is_held_out_N.nonzero().flatten()


def stratified_sample(labels_N: torch.Tensor, *, number: int, seed: int) -> torch.Tensor:
    """Indices of so many images, of which each class gives its part, at least one, by largest remainders.

    Args:
        labels_N: int64 labels.
        number: of images, at least as many as classes and at most all.
        seed: the same seed gives the same images.

    Returns:
        Sorted int64 indices.
    """
    labels_N = labels_N.cpu()
    return _drawn(labels_N, _shares(torch.bincount(labels_N), number).tolist(), seed).nonzero().flatten()


def _shares(counts_C: torch.Tensor, number: int) -> torch.Tensor:
    exact_C = counts_C.double() * number / counts_C.sum()
    taken_C = torch.maximum(exact_C.floor(), (counts_C > 0).double())
    while (missing := number - int(taken_C.sum())) != 0:
        if missing > 0:
            taken_C[(exact_C - taken_C).argmax()] += 1
        else:  # classes that are too small for a part give one all the same
            taken_C[(taken_C - exact_C).masked_fill(taken_C <= 1, -torch.inf).argmax()] -= 1
    return taken_C.long()


def _drawn(labels_N: torch.Tensor, numbers: Sequence[int], seed: int) -> torch.Tensor:
    """Which images are drawn, where each class gives so many."""
    generator = torch.Generator().manual_seed(seed)
    is_drawn_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label, number in enumerate(numbers):
        members = (labels_N == label).nonzero().flatten()
        if len(members) > 0:
            is_drawn_N[members[torch.randperm(len(members), generator=generator)[:number]]] = True
    return is_drawn_N


def random_split(num_images: int, *, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of two parts, where images have several labels, so that no split keeps all shares.

    Args:
        num_images: in all, at least 2.
        fraction: part that is held out, rounded, but at least one image is in either part; in (0, 1).
        seed: the same seed gives the same split.

    Returns:
        Sorted int64 indices of the images that stay and of those that are held out.

    Raises:
        InputError: if there are fewer than two images.
    """
    if num_images < 2:
        raise InputError(f"there is {num_images} image to split, but must be {_FEWEST}; add some")
    num_held_out = min(max(round(fraction * num_images), 1), num_images - 1)
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return order[num_held_out:].sort().values, order[:num_held_out].sort().values


def select(images: ImageSet, indices: torch.Tensor) -> ImageSet:
    """The images of a set at int64 `indices`, copied."""
    return ImageSet(images_NCHW=images.images_NCHW[indices], labels_N=images.labels_N[indices])


def split(source: Source, config: DataConfig, val: ImageSet | None = None) -> DataSplits:
    """Hold out validation images, unless they are given, and measure the channels of those that stay.

    The split is stratified by class, or plainly random where images have several labels.

    Args:
        source: all images that are neither test nor `val`.
        config: gives `val_fraction` and `seed`.
        val: validation images, where the data set has a part of them.

    Raises:
        InputError: if a class has fewer than two images, or there are fewer than two in all; or if `val` does not fit.
    """
    if val is not None:
        mean, std = channel_statistics(source.images.images_NCHW)
        return DataSplits(train=source.images, val=val, mean=mean, std=std, class_names=source.class_names)
    labels_N, fraction, seed = source.images.labels_N, config.val_fraction, config.seed
    if source.images.multi_label:
        stay, held_out = random_split(len(labels_N), fraction=fraction, seed=seed)
    else:
        stay, held_out = stratified_split(labels_N, fraction=fraction, seed=seed, class_names=source.class_names)
    train = select(source.images, stay)
    mean, std = channel_statistics(train.images_NCHW)
    return DataSplits(
        train=train, val=select(source.images, held_out), mean=mean, std=std, class_names=source.class_names
    )


def channel_statistics(images_NCHW: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel, exact, from counts of the 256 values."""
    channels = images_NCHW.shape[1]
    counts_CV = torch.zeros(channels, _LEVELS, dtype=torch.float64)
    for start in range(0, len(images_NCHW), 1024):  # a chunk at a time, since flattening copies
        for channel in range(channels):
            pixels = images_NCHW[start : start + 1024, channel].flatten()
            counts_CV[channel] += torch.bincount(pixels, minlength=_LEVELS)
    shares_CV = counts_CV / counts_CV.sum(1, keepdim=True)
    values_V = torch.arange(_LEVELS, dtype=torch.float64) / (_LEVELS - 1)
    mean_C = shares_CV @ values_V
    variance_C = (shares_CV * (values_V - mean_C[:, None]).square()).sum(1)
    std = (max(math.sqrt(variance), _MIN_STD) for variance in variance_C.tolist())
    return tuple(mean_C.tolist()), tuple(std)
