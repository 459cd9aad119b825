"""Seeds, one for each use, and the generators of torch that layers draw from."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainables.tensors import Tensors


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed of its own for each use, in [0, 2⁶³), from a base seed and what it is used for."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded_layers(seed: int, device: torch.device, midway: Tensors | None = None) -> Iterator[None]:
    """Seed what draws from torch's global generator (dropout has no other), and put its state back afterwards.

    Args:
        seed: of an epoch.
        device: that layers are on.
        midway: what `drawn_layers` gave in the midst of the epoch, to go on there.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        if midway:
            torch.set_rng_state(midway["cpu"].cpu())
            if devices and "cuda" in midway:
                torch.cuda.set_rng_state(midway["cuda"].cpu(), device)
        yield


def drawn_layers(device: torch.device) -> Tensors:
    """Where torch's global generators are, of the CPU and of a card."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states
