"""Mixed batches: what they are made of, that labels say so, and that the generator alone decides."""

from typing import Any

import pytest
import torch

from trainables.datasets.data import DataSplits
from trainables.datasets.mixing import Mixer
from trainables.recipe import Recipe
from trainables.stages.batches import epoch_batches

KINDS = ["mixup", "cutmix", "both"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(channels: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image n is n + 1 everywhere, and of class n."""
    labels = torch.arange(5)
    return (labels + 1.0).view(-1, 1, 1, 1).expand(5, channels, size, size).clone(), labels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32)])
def test_labels_say_what_an_image_is_made_of(kind: Any, channels: int, size: int) -> None:
    mixer = Mixer(Recipe(mix=kind), num_classes=7)
    images, labels = batch(channels, size)
    seen = set()
    for seed in range(20):
        mixed, shares = mixer(images, labels, generator(seed))
        assert mixed.shape == images.shape
        assert (mixed.dtype, shares.dtype, shares.shape) == (torch.float32, torch.float32, (5, 7))
        torch.testing.assert_close(shares.sum(1), torch.ones(5))
        # Pixels are class numbers plus one, so that an image's mean is its label's.
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ torch.arange(1.0, 8.0), rtol=1e-4, atol=1e-4)
        whole = bool((mixed == mixed.round()).all())
        seen.add("cutmix" if whole else "mixup")
    assert seen >= ({"mixup", "cutmix"} if kind == "both" else {kind})


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_alone_decides(kind: Any) -> None:
    mixer = Mixer(Recipe(mix=kind, mix_alpha=0.3), num_classes=5)
    images, labels = batch(3, 8)
    found = []
    for seed, noise in ((1, 0), (1, 1), (2, 0)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        found.append(mixer(images, labels, generator(seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][1], found[2][1])
    assert torch.equal(images, batch(3, 8)[0])


def test_batches_of_an_epoch_are_mixed_as_the_recipe_says(data: DataSplits) -> None:
    plain, mixed, again = (
        list(epoch_batches(data, Recipe(batch_size=16, mix=mix), "none", 3)) for mix in ("none", "mixup", "mixup")
    )
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(mixed, again, strict=True))
    for (images, labels), (blended, shares) in zip(plain, mixed, strict=True):
        share = shares[torch.arange(16), labels].view(-1, 1, 1, 1)
        same = (labels == labels.roll(1)).view(-1, 1, 1, 1)
        lam = share[~same].view(-1)[0]
        torch.testing.assert_close(blended, lam * images + (1 - lam) * images.roll(1, 0), rtol=1e-4, atol=1e-4)
    assert len({float(shares.max(1).values.min()) for _, shares in mixed}) == 4  # each batch draws for itself
