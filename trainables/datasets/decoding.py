"""Encoded images to pixels: by Pillow, which knows the formats, and at the speed that streaming needs.

Shape legend as in `trainables.datasets.images`.
"""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn import functional

from trainables.datasets.augmentation import mirrors, random_window
from trainables.errors import InputError, first_line

# Not all that Pillow knows: it has PostScript run by another program.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Pillow refuses images from 179 megapixels on, and warns from half as many on. Set once, as threads share filters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_JPEG = b"\xff\xd8\xff"
_MARK, _SCAN, _APP1, _EXIF = (
    b"\xff",
    b"\xda",
    b"\xe1",
    b"Exif\0\0",
)  # each part begins with a mark, its kind and its size


def decode_image(data: bytes | Path, *, name: str) -> torch.Tensor:
    """An encoded image as pixels.

    Args:
        data: the encoded bytes, or the file that holds them.
        name: what an error calls the image.

    Returns:
        uint8 RGB of shape (3, H, W); grey becomes RGB, transparency is dropped, colours of 16 bits lose the lower 8,
        and the camera's orientation (EXIF) is left aside.

    Raises:
        InputError: if it cannot be decoded or is grey of more than 8 bits.
        PermissionError: if the file may not be read.
    """
    return _pixels(decode_rgb(data, name=name))


def decode_square(data: bytes | Path, *, name: str, size: int) -> torch.Tensor:
    """The largest central square of an encoded image, brought to `size` pixels with antialiasing.

    Args:
        data: as of `decode_image`, and so are `name` and the errors.
        name: what an error calls the image.
        size: height and width in pixels.

    Returns:
        uint8 RGB of shape (3, size, size).
    """
    return _pixels(_central_square(decode_rgb(data, name=name), size))


def decode_rgb(data: bytes | Path, *, name: str) -> Image.Image:
    """An encoded image as Pillow holds it; arguments and errors are those of `decode_image`."""
    try:
        with Image.open(BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS) as image:
            mode, rgb = image.mode, image.convert("RGB")
    except PermissionError:  # of the file, which may be whole
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise InputError(f"{name} cannot be read as an image ({reason}); mend or remove it") from error
    if mode.startswith(("I", "F")):  # of which PIL clips all values above 255 without a word
        raise InputError(f"{name} has pixels of mode {mode}, but must have 8 bits a channel; convert it")
    return rgb


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _central_square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to `size`, then the central square: in one pass, so that a long side costs nothing."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def decode(data: bytes, *, name: str) -> torch.Tensor:
    """An encoded image as pixels; JPEG pixels are those that `decode_image` gives, sooner.

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
            pixels: torch.Tensor = decode_jpeg(_without_exif(data), mode="RGB")
        except RuntimeError:
            pass  # a kind of JPEG that it does not know, or a broken one, of which the other decoder says more
        else:
            return pixels
    return decode_image(data, name=name)


def _without_exif(jpeg: bytes) -> bytes:
    """A JPEG without the camera's notes, by one of which the fast decoder would turn it."""
    place = 2
    while jpeg[place : place + 1] == _MARK:
        while jpeg[place + 1 : place + 2] == _MARK:  # a mark may be repeated
            place += 1
        kind, size = jpeg[place + 1 : place + 2], jpeg[place + 2 : place + 4]
        if kind == _SCAN or len(size) < 2:
            break
        end = place + 2 + int.from_bytes(size)
        if kind == _APP1 and jpeg.startswith(_EXIF, place + 4):
            jpeg, end = jpeg[:place] + jpeg[end:], place
        place = end
    return jpeg


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
