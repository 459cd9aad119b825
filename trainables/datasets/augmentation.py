"""Random changes of training images, so that no epoch shows the same ones.

Shape suffixes: N images, C channels, H height, W width.
"""

import math
from typing import Literal

import torch
from torch.nn import functional

from trainables.data_config import Augmentation
from trainables.errors import InputError

_PAD_PARTS = 8  # a crop may shift by this part of the size

# Of windows that are brought to the size (Szegedy et al. 2015): part of the area, sides to one another, tries.
_AREAS, _RATIOS, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
NUM_DRAWS = 2 * _TRIES + 3  # numbers that one window takes, the last of them for mirroring


def augment(images_NCHW: torch.Tensor, kind: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Change each image at random.

    What a change leaves open is zero: black for uint8 pixels, which is what `training_batches` gives, the mean colour
    for normalised ones.

    Args:
        images_NCHW: of any type, on any device; for RandAugment uint8.
        kind: `none` gives the images back as they are. `crop` shifts each by up to an eighth of its size; `crop-flip`
            also mirrors each with probability one half. `resized-crop-flip` brings a random window of each to the size,
            and mirrors likewise. `randaugment` makes two of 14 changes (Cubuk et al. 2020).
            `crop-flip-randaugment` does all.
        generator: on the CPU; the same state gives the same result.

    Returns:
        Images of the same shape, type and device.

    Raises:
        InputError: if RandAugment cannot take such images.
    """
    if kind == "none":
        return images_NCHW
    if kind in ("crop", "crop-flip"):
        return _cropped(images_NCHW, kind, generator)
    if kind == "resized-crop-flip":
        return _resized_windows(images_NCHW, generator)
    channels = images_NCHW.shape[1]
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels, but must have 1 or 3 for randaugment; augment otherwise")
    if kind == "crop-flip-randaugment":
        images_NCHW = _cropped(images_NCHW, "crop-flip", generator)
    from trainables.datasets.randaugment import randaugment  # torchvision takes more than a second to import

    return randaugment(images_NCHW, generator)


def _cropped(images_NCHW: torch.Tensor, kind: Literal["crop", "crop-flip"], generator: torch.Generator) -> torch.Tensor:
    num_images, _, height, width = images_NCHW.shape
    device = images_NCHW.device
    pad_y, pad_x = height // _PAD_PARTS, width // _PAD_PARTS
    top_N = torch.randint(2 * pad_y + 1, (num_images,), generator=generator).to(device)
    left_N = torch.randint(2 * pad_x + 1, (num_images,), generator=generator).to(device)
    padded = functional.pad(images_NCHW, (pad_x, pad_x, pad_y, pad_y))
    # A view of every window of the padded images, (N, tops, lefts, C, H, W); indexing it copies one window an image.
    windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
    cropped_NCHW = windows[torch.arange(num_images, device=device), top_N, left_N]
    if kind == "crop":
        return cropped_NCHW
    mirrored_N = torch.randint(2, (num_images,), generator=generator).to(device, torch.bool)
    return torch.where(mirrored_N.view(-1, 1, 1, 1), cropped_NCHW.flip(3), cropped_NCHW)


def random_window(height: int, width: int, draws: torch.Tensor) -> tuple[int, int, int, int]:
    """A window of 8 to 100 % of an image's area, its sides 3:4 to 4:3, anywhere in the image.

    As torchvision's `RandomResizedCrop` draws it: if ten windows in turn do not fit, it is the largest central one.

    Args:
        height: of the image in pixels.
        width: likewise.
        draws: `NUM_DRAWS` numbers in [0, 1).

    Returns:
        Top, left, height and width in pixels.
    """
    *tries, at_y, at_x, _ = draws.tolist()
    for drawn_area, drawn_ratio in zip(tries[::2], tries[1::2], strict=True):
        area = height * width * (_AREAS[0] + drawn_area * (_AREAS[1] - _AREAS[0]))
        ratio = _RATIOS[0] * (_RATIOS[1] / _RATIOS[0]) ** drawn_ratio
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return int(at_y * (height - high + 1)), int(at_x * (width - wide + 1)), high, wide
    wide, high = min(width, round(height * _RATIOS[1])), min(height, round(width / _RATIOS[0]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def mirrors(draws: torch.Tensor) -> bool:
    """Whether an image with these draws is mirrored."""
    return bool(draws[-1] < 0.5)


def _resized_windows(images_NCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every window bilinearly enlarged, all images at once."""
    num_images, _, height, width = images_NCHW.shape
    draws_ND = torch.rand(num_images, NUM_DRAWS, generator=generator)
    affine_N23 = torch.zeros(num_images, 2, 3)
    for affine, draws in zip(affine_N23, draws_ND, strict=True):
        top, left, high, wide = random_window(height, width, draws)
        # Window coordinates in [-1, 1] to those of the image.
        affine[0, 0] = (-wide if mirrors(draws) else wide) / width
        affine[1, 1] = high / height
        affine[0, 2] = (2 * left + wide) / width - 1
        affine[1, 2] = (2 * top + high) / height - 1
    grid = functional.affine_grid(affine_N23.to(images_NCHW.device), list(images_NCHW.shape), align_corners=False)
    floats_NCHW = images_NCHW.float()
    resized_NCHW = functional.grid_sample(floats_NCHW, grid, padding_mode="border", align_corners=False)
    return (resized_NCHW if images_NCHW.is_floating_point() else resized_NCHW.round_()).to(images_NCHW.dtype)
