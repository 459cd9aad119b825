"""Random changes of training images, so that no epoch shows the same ones.

Shape suffixes: N images, C channels, H height, W width.
"""

from typing import Literal

import torch
from torch.nn import functional

from trainables.config import Augmentation
from trainables.errors import InputError

_PAD_PARTS = 8  # a crop may shift by this part of the size


def augment(images_NCHW: torch.Tensor, kind: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Change each image at random.

    What a change leaves open is zero: black for uint8 pixels, which is what `training_batches` gives, the mean colour
    for normalised ones.

    Args:
        images_NCHW: of any type, on any device; for RandAugment uint8.
        kind: `none` gives the images back as they are. `crop` shifts each by up to an eighth of its size; `crop-flip`
            also mirrors each with probability one half. `randaugment` makes two of 14 changes (Cubuk et al. 2020).
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
    channels = images_NCHW.shape[1]
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels, but must have 1 or 3 for randaugment; augment otherwise")
    if kind == "crop-flip-randaugment":
        images_NCHW = _cropped(images_NCHW, "crop-flip", generator)
    from trainables.randaugment import randaugment  # torchvision takes more than a second to import

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
