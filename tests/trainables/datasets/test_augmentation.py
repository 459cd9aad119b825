"""Augmented images are among the possible ones, and the generator alone decides which."""

import itertools

import pytest
import torch

from trainables.data_config import Augmentation
from trainables.datasets.augmentation import NUM_DRAWS, augment, mirrors, random_window
from trainables.errors import InputError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(num_images: int) -> torch.Tensor:
    return torch.randint(0, 256, (num_images, 3, 8, 8), generator=_generator()).to(torch.uint8)


def _possible(image_CHW: torch.Tensor, pad_y: int, pad_x: int) -> dict[tuple[int, int, bool], torch.Tensor]:
    """Every result that shifting and mirroring may have, by top, left and whether it is mirrored."""
    channels, height, width = image_CHW.shape
    padded = torch.zeros(channels, height + 2 * pad_y, width + 2 * pad_x, dtype=image_CHW.dtype)
    padded[:, pad_y : pad_y + height, pad_x : pad_x + width] = image_CHW
    results = {}
    for top, left in itertools.product(range(2 * pad_y + 1), range(2 * pad_x + 1)):
        crop = padded[:, top : top + height, left : left + width]
        results[top, left, False] = crop
        results[top, left, True] = crop[:, :, list(reversed(range(width)))]
    return results


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("kind", ["crop", "crop-flip"])
def test_every_augmented_image_is_one_of_the_possible(kind: Augmentation, dtype: torch.dtype) -> None:
    images = torch.randint(1, 256, (64, 2, 8, 16), generator=_generator()).to(dtype)
    augmented = augment(images, kind, _generator())
    assert augmented.shape == images.shape
    assert augmented.dtype == dtype

    seen = []
    for image, result in zip(images, augmented, strict=True):
        possible = _possible(image, pad_y=1, pad_x=2)
        seen += [key for key, expected in possible.items() if torch.equal(result, expected)]
    assert len(seen) == 64  # exactly one for each
    tops, lefts, mirrored = (set(values) for values in zip(*seen, strict=True))
    assert (tops, lefts) == ({0, 1, 2}, {0, 1, 2, 3, 4})
    assert mirrored == ({False, True} if kind == "crop-flip" else {False})


def test_augmentation_follows_its_generator() -> None:
    images = _images(16)
    assert torch.equal(augment(images, "crop-flip", _generator(1)), augment(images, "crop-flip", _generator(1)))
    assert not torch.equal(augment(images, "crop-flip", _generator(1)), augment(images, "crop-flip", _generator(2)))
    generator = _generator(1)
    before = generator.get_state()
    assert torch.equal(augment(images, "none", generator), images)
    assert torch.equal(generator.get_state(), before)


def test_randaugment_follows_crops_where_both_are_asked() -> None:
    images = _images(16)
    generator = _generator(5)
    cropped = augment(images, "crop-flip", generator)
    wanted = augment(cropped, "randaugment", generator)
    assert torch.equal(augment(images, "crop-flip-randaugment", _generator(5)), wanted)


def test_randaugment_of_images_that_are_neither_grey_nor_coloured_is_refused() -> None:
    with pytest.raises(InputError, match="images have 2 channels, but must have 1 or 3 for randaugment"):
        augment(torch.zeros(4, 2, 8, 8, dtype=torch.uint8), "randaugment", _generator())


@pytest.mark.parametrize("kind", ["crop-flip", "randaugment"])
def test_augmentation_leaves_the_global_generator(kind: Augmentation) -> None:
    before = torch.get_rng_state()
    augment(_images(4), kind, _generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_resized_windows_are_enlarged_as_torch_enlarges_them() -> None:
    images = _images(40)
    augmented = augment(images, "resized-crop-flip", _generator())
    assert (augmented.shape, augmented.dtype) == (images.shape, images.dtype)
    draws_ND = torch.rand(40, NUM_DRAWS, generator=_generator())
    for image, draws, found in zip(images, draws_ND, augmented, strict=True):
        top, left, high, wide = random_window(8, 8, draws)
        window = image[None, :, top : top + high, left : left + wide].float()
        expected = torch.nn.functional.interpolate(window, size=(8, 8), mode="bilinear").round()[0]
        if mirrors(draws):
            expected = expected.flip(2)
        inner = slice(2, -2)  # at the rim of a window its neighbours shine through
        close = (found[:, inner, inner].float() - expected[:, inner, inner]).abs() <= 1
        assert close.double().mean() > 0.9


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 10), (1, 1)])
def test_windows_lie_in_images_of_any_shape(height: int, width: int) -> None:
    for seed in range(50):
        top, left, high, wide = random_window(height, width, torch.rand(NUM_DRAWS, generator=_generator(seed)))
        assert 0 <= top <= top + high <= height
        assert 0 <= left <= left + wide <= width
        assert min(high, wide) >= 1
