"""Encoded images as pixels, by Pillow and by the faster decoder."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pictures import encoded, one_line
from trainables.datasets.augmentation import NUM_DRAWS
from trainables.datasets.decoding import central_square, decode, decode_image, decode_square, drawn_window
from trainables.errors import InputError


def test_decoded_pixels_are_those_that_were_saved(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    assert torch.equal(decode_image(encoded(pixels), name="x"), expected)
    file = tmp_path / "image.bmp"
    file.write_bytes(encoded(pixels, "BMP"))
    assert torch.equal(decode_image(file, name="x"), expected)


def test_grey_becomes_rgb_and_transparency_goes() -> None:
    grey = np.full((4, 4), 77, dtype=np.uint8)
    assert np.unique(decode_image(encoded(grey), name="x")).tolist() == [77]
    assert decode_image(encoded(np.full((4, 4, 4), 77, dtype=np.uint8)), name="x").shape == (3, 4, 4)


def test_images_that_cannot_be_read_are_named() -> None:
    with pytest.raises(InputError) as error:
        decode_image(b"no image", name="photo 3")
    assert one_line(error).startswith("photo 3 cannot be read as an image (unknown format)")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="unknown format"):
        decode_image(encoded(noise, "EPS"), name="photo 3")  # of which Pillow would have a program run
    for kind in ("PNG", "JPEG"):
        whole = encoded(noise, kind)
        with pytest.raises(InputError, match="photo 3 cannot be read"):
            decode_image(whole[: len(whole) // 2], name="photo 3")


def test_sixteen_bits_are_refused_rather_than_clipped() -> None:
    with pytest.raises(InputError, match="pixels of mode I;16, but must have 8 bits a channel"):
        decode_image(encoded(np.full((4, 4), 40_000, dtype=np.uint16)), name="x")


def test_large_images_are_taken_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(encoded(np.zeros((4, 4, 3), dtype=np.uint8)))
    script = (
        "from pathlib import Path; from PIL import Image; from trainables.datasets.decoding import decode_image; "
        "Image.MAX_IMAGE_PIXELS = 10; decode_image(Path('image.png'), name='it')"
    )
    # A process of its own, as tests have their own filters of warnings.
    said = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=True)
    assert said.stderr == ""


def test_images_twice_as_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with pytest.raises(InputError, match=r"it cannot be read as an image .*decompression bomb"):
        decode_image(encoded(np.zeros((4, 4, 3), dtype=np.uint8)), name="it")


def _photo(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pixels_are_those_of_the_other_decoder(kind):
    data = encoded(_photo(90, 120), kind, quality=95)
    assert torch.equal(decode(data, name="it"), decode_image(data, name="it"))
    square, expected = central_square(decode(data, name="it"), 32), decode_square(data, name="it", size=32)
    # Pillow lets what lies beside the square shine in at its rim.
    assert (square.int() - expected.int())[:, :, 1:-1].abs().max() <= 1


@pytest.mark.parametrize("orientation", [3, 6])
def test_neither_decoder_turns_photographs_as_the_camera_was_held(orientation):
    notes = Image.Exif()
    notes[0x0112] = orientation
    data = encoded(_photo(90, 120), "JPEG", quality=95, exif=notes, comment=b"before and after")
    assert Image.open(BytesIO(data)).getexif()[0x0112] == orientation
    pixels = decode(data, name="it")
    assert torch.equal(pixels, decode_image(data, name="it"))
    assert torch.equal(pixels, decode(encoded(_photo(90, 120), "JPEG", quality=95), name="it"))


def test_a_mark_before_the_notes_may_be_repeated():
    notes = Image.Exif()
    notes[0x0112] = 6
    data = encoded(_photo(90, 120), "JPEG", quality=95, exif=notes)
    place = data.index(b"Exif") - 4
    filled = data[:place] + b"\xff\xff" + data[place:]
    assert torch.equal(decode(filled, name="it"), decode_image(data, name="it"))


@pytest.mark.parametrize("length", [3, 5, 12, 30])
def test_a_photograph_that_ends_in_its_notes_is_refused(length):
    notes = Image.Exif()
    notes[0x0112] = 6
    with pytest.raises(InputError, match="it cannot be read as an image"):
        decode(encoded(_photo(9, 12), "JPEG", exif=notes)[:length], name="it")


def test_grey_images_become_colour():
    assert decode(encoded(_photo(20, 30)[:, :, 0], "JPEG", quality=95), name="it").shape == (3, 20, 30)


def test_drawn_windows_are_windows():
    image = torch.zeros(3, 80, 120, dtype=torch.uint8)
    image[0] = torch.arange(80)[:, None]  # where a pixel comes from
    image[1] = torch.arange(120)
    generator = torch.Generator().manual_seed(0)
    areas, mirrored = [], []
    for _ in range(200):
        found = drawn_window(image, 16, torch.rand(NUM_DRAWS, generator=generator)).int()
        rows, columns = found[0, :, 0], found[1, 0]
        mirrored.append(bool(columns[0] > columns[-1]))
        wide, high = (abs(int(ends[-1] - ends[0])) * 16 / 15 for ends in (columns, rows))
        areas.append(wide * high / 9600)
    assert 0.05 < min(areas) < 0.15
    assert 0.8 < max(areas) < 1.05
    assert 60 < sum(mirrored) < 140
