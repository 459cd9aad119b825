"""Encoded images to pixels at the speed that streaming needs. Shape legend as in `trainables.images`."""

import torch
from torch.nn import functional

from trainables.augmentation import mirrors, random_window
from trainables.sources import decode_image

_JPEG = b"\xff\xd8\xff"


def decode(data: bytes, *, name: str) -> torch.Tensor:
    """An encoded image as pixels; JPEG pixels are those that `sources.decode_image` gives, sooner.

    Args:
        data: the encoded bytes.
        name: what an error calls the image.

    Returns:
        uint8 RGB of shape (3, H, W), channels last in memory.

    Raises:
        InputError: if it cannot be decoded.
    """
    if data.startswith(_JPEG):
        from torchcodec.decoders import decode_jpeg

        try:
            pixels: torch.Tensor = decode_jpeg(data, mode="RGB")
        except RuntimeError:
            pass  # a kind of JPEG that it does not know, or a broken one, of which the other decoder says more
        else:
            return pixels
    return decode_image(data, name=name)


def central_square(pixels_CHW: torch.Tensor, size: int) -> torch.Tensor:
    """The largest central square of an image, brought to `size` pixels with antialiasing: uint8 (C, size, size)."""
    height, width = pixels_CHW.shape[1:]
    side = min(height, width)
    return _resized(pixels_CHW, ((height - side) // 2, (width - side) // 2, side, side), size)


def drawn_window(pixels_CHW: torch.Tensor, size: int, draws: torch.Tensor) -> torch.Tensor:
    """A random window of an image, brought to `size` pixels with antialiasing and mirrored or not, as draws say.

    Args:
        pixels_CHW: uint8.
        size: height and width of the result.
        draws: `augmentation.NUM_DRAWS` numbers in [0, 1).

    Returns:
        uint8 of shape (C, size, size).
    """
    window = random_window(pixels_CHW.shape[1], pixels_CHW.shape[2], draws)
    resized_CHW = _resized(pixels_CHW, window, size)
    return resized_CHW.flip(2) if mirrors(draws) else resized_CHW


def _resized(pixels_CHW: torch.Tensor, window: tuple[int, int, int, int], size: int) -> torch.Tensor:
    top, left, height, width = window
    window_CHW = pixels_CHW[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return window_CHW
    # Without gaps torch resizes it as it lies, and gives it back so: half the time.
    whole_1CHW = window_CHW[None].contiguous(memory_format=torch.channels_last)
    return functional.interpolate(whole_1CHW, size=(size, size), mode="bilinear", antialias=True)[0]
