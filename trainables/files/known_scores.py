"""Scores of one fixed image, kept with a network of the user's own: they tell whether its code is what it was.

Weights and widths say nothing of a forward pass that was changed since, and neither does an error.

Shape legend: K classes.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn

from trainables.errors import InputError

_TOLERANCE = 1e-2  # of the largest score; processors and cards differ by less
_MOST_NUMBERS = 2**22  # of an image: what a file says of larger ones is not computed


def known_scores(network: nn.Module, shape: tuple[int, int, int]) -> list[float] | None:
    """What a network says of the fixed image in evaluation mode.

    Args:
        network: any; it is left as it was.
        shape: channels, height and width of its images.

    Returns:
        A score for each class, which may be not finite; `None` where such images are too large.
    """
    if math.prod(shape) > _MOST_NUMBERS:
        return None
    network = copy.deepcopy(network).eval()  # a forward pass may count in buffers
    device = next(network.parameters(), torch.empty(0)).device
    image_1CHW = torch.sin(torch.arange(math.prod(shape), dtype=torch.float32)).view(1, *shape)
    images_2CHW = image_1CHW.expand(2, *shape).to(device)  # some networks squeeze a batch of one away
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        torch.no_grad(),
        torch.backends.cudnn.flags(allow_tf32=False),
    ):
        scores_2K: torch.Tensor = network(images_2CHW)
    return [float(score) for score in scores_2K[0].cpu()]


def require_known_scores(
    network: nn.Module, shape: tuple[int, int, int], known: Sequence[float], *, where: str, name: str
) -> None:
    """Refuse a network that says something else of the fixed image than was kept.

    Args:
        network: that was read back.
        shape: as of `known_scores`.
        known: what was kept.
        where: place of the file, for people.
        name: of the function that built it.

    Raises:
        InputError: if so.
    """
    found = known_scores(network, shape)
    if found is None:
        return
    largest = max(map(abs, known), default=0.0)
    apart = max((abs(here - there) for here, there in zip(found, known, strict=True)), default=0.0)
    if math.isfinite(largest) and not apart <= _TOLERANCE * largest:
        raise InputError(
            f"{where}: {name} builds a network that says something else than the one that was saved: of one image, its "
            f"scores are up to {apart:.3g} apart, where the largest was {largest:.3g}. Its code was changed since; put "
            "it back as it was, or search what it is now under another --name"
        )
