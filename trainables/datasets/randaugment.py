"""RandAugment (Cubuk et al. 2020): two of fourteen changes for each image, each at a fixed magnitude.

The changes, their magnitudes and what is drawn are those of torchvision's `RandAugment`, which gives all images of a
batch one and the same change. Here each image draws for itself, and those that drew alike are changed together, which
is several times as fast as one after the other.

Shape suffixes: N images, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torchvision.transforms.v2 import functional

_NUM_CHANGES = 2
_BIN, _NUM_BINS = 9, 31

Change = Callable[[torch.Tensor, int], torch.Tensor]
"""Changes images (N, C, H, W) of uint8 alike; the sign, 1 or -1, is the direction where there are two."""


def _shear(images_NCHW: torch.Tensor, x: float, y: float) -> torch.Tensor:
    angles = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
    sheared: torch.Tensor = functional.affine(
        images_NCHW, angle=0.0, translate=[0, 0], scale=1.0, shear=angles, center=[0, 0]
    )
    return sheared


def _translate(images_NCHW: torch.Tensor, x: float, y: float) -> torch.Tensor:
    height, width = images_NCHW.shape[2:]
    pixels = [int(x * width), int(y * height)]
    moved: torch.Tensor = functional.affine(images_NCHW, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])
    return moved


def _part_of(largest: float) -> float:
    """The magnitude of the bin, in float32 as torchvision has it, so that pixels round alike."""
    return float(torch.linspace(0.0, largest, _NUM_BINS)[_BIN])


_SHEAR, _SHIFT, _DEGREES, _FACTOR = (_part_of(largest) for largest in (0.3, 150 / 331, 30.0, 0.9))
_BITS, _THRESHOLD = 8 - round(_part_of(4.0)), 255 * (1.0 - _part_of(1.0))
CHANGES: Mapping[str, Change] = {
    "Identity": lambda images, _sign: images,
    "ShearX": lambda images, sign: _shear(images, sign * _SHEAR, 0.0),
    "ShearY": lambda images, sign: _shear(images, 0.0, sign * _SHEAR),
    "TranslateX": lambda images, sign: _translate(images, sign * _SHIFT, 0.0),
    "TranslateY": lambda images, sign: _translate(images, 0.0, sign * _SHIFT),
    "Rotate": lambda images, sign: functional.rotate(images, sign * _DEGREES),
    "Brightness": lambda images, sign: functional.adjust_brightness(images, 1.0 + sign * _FACTOR),
    "Color": lambda images, sign: functional.adjust_saturation(images, 1.0 + sign * _FACTOR),
    "Contrast": lambda images, sign: functional.adjust_contrast(images, 1.0 + sign * _FACTOR),
    "Sharpness": lambda images, sign: functional.adjust_sharpness(images, 1.0 + sign * _FACTOR),
    "Posterize": lambda images, _sign: functional.posterize(images, _BITS),
    "Solarize": lambda images, _sign: functional.solarize(images, _THRESHOLD),
    "AutoContrast": lambda images, _sign: functional.autocontrast(images),
    "Equalize": lambda images, _sign: functional.equalize(images),
}


def randaugment(images_NCHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Give each image two changes, drawn for itself; what they leave open is black.

    Args:
        images_NCHW: uint8, C is 1 or 3.
        generator: on the CPU; the same state gives the same result.

    Returns:
        Images of the same shape, type and device.
    """
    images_NCHW = images_NCHW.clone()
    changes = tuple(CHANGES.values())
    for _ in range(_NUM_CHANGES):
        drawn_N = torch.randint(2 * len(changes), (len(images_NCHW),), generator=generator)
        # Images that drew alike, one draw after the other; moved at once, as a card waits for each move.
        order_N = drawn_N.argsort(stable=True).to(images_NCHW.device)
        counts = drawn_N.bincount(minlength=2 * len(changes)).tolist()
        for drawn, rows in enumerate(order_N.split(counts)):  # type: ignore[no-untyped-call]
            if len(rows):
                images_NCHW[rows] = changes[drawn // 2](images_NCHW[rows], 2 * (drawn % 2) - 1)
    return images_NCHW
