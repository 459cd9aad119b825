"""Each change is torchvision's own, and each image draws for itself."""

import pytest
import torch
from torchvision.transforms import v2

from trainables.datasets.randaugment import CHANGES, randaugment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(number: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (number, channels, height, width), generator=generator()).to(torch.uint8)


def test_the_changes_are_those_of_torchvision() -> None:
    assert list(CHANGES) == list(v2.RandAugment._AUGMENTATION_SPACE)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 12), (3, 32, 32)])
def test_a_change_is_that_of_torchvision(name: str, shape: tuple[int, int, int]) -> None:
    """Its own RandAugment, with no other change to draw from, image by image in either direction."""

    class One(v2.RandAugment):
        _AUGMENTATION_SPACE = {name: v2.RandAugment._AUGMENTATION_SPACE[name]}  # noqa: RUF012

    batch = images(4, *shape)
    found = {tuple(CHANGES[name](batch, sign).flatten().tolist()) for sign in (-1, 1)}
    wanted = set()
    with torch.random.fork_rng(devices=[]):
        for seed in range(8):
            changed = []
            for image in batch:
                torch.manual_seed(seed)
                changed.append(One(num_ops=1)(image))
            wanted.add(tuple(torch.stack(changed).flatten().tolist()))
    assert found == wanted


def test_each_image_draws_two_changes_for_itself() -> None:
    image = images(1, 3, 16, 16)
    batch = image.expand(3000, -1, -1, -1)
    changed = randaugment(batch, generator(1))
    once = {tuple(change(image, sign).flatten().tolist()) for change in CHANGES.values() for sign in (-1, 1)}
    seen = {tuple(row) for row in changed.flatten(1).tolist()}
    assert len(seen) > 200  # of 23 different changes, one after the other
    assert seen & once
    assert seen - once
    untouched = (changed == image).flatten(1).all(1).float().mean().item()
    assert untouched == pytest.approx(1 / 14**2, abs=0.01)
    assert torch.equal(batch[0], image[0])


def test_the_generator_alone_decides() -> None:
    batch = images(32, 1, 8, 8)
    before = torch.get_rng_state()
    first, again, other = (randaugment(batch, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
