"""Seeds, one for each use, and the global generators that layers draw from: torch's, Python's and NumPy's."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from trainables.tensors import Tensors


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed of its own for each use, in [0, 2⁶³), from a base seed and what it is used for."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded_layers(seed: int, device: torch.device, midway: Tensors | None = None) -> Iterator[None]:
    """Seed what draws from global generators (dropout has no other), and put their states back afterwards.

    A user's own network may draw from Python's or NumPy's as well, to leave out blocks, say.

    Args:
        seed: of an epoch.
        device: that layers are on.
        midway: what `drawn_layers` gave in the midst of the epoch, to go on there.
    """
    devices = [device] if device.type == "cuda" else []
    before = _python_state(), _numpy_state()
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that layers draw from
            if midway:
                torch.set_rng_state(midway["cpu"].cpu())
                if devices and "cuda" in midway:
                    torch.cuda.set_rng_state(midway["cuda"].cpu(), device)
                if "python" in midway:  # earlier versions kept torch's alone
                    _set_python_state(midway["python"])
                    _set_numpy_state(midway["numpy"])
            yield
    finally:
        _set_python_state(before[0])
        _set_numpy_state(before[1])


def drawn_layers(device: torch.device) -> Tensors:
    """Where the global generators are: torch's of the CPU and of a card, Python's and NumPy's."""
    states = {"cpu": torch.get_rng_state(), "python": _python_state(), "numpy": _numpy_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


# A state is words of 32 bits and the second of two normal numbers, if there is one: all of it is exact in float64.


def _python_state() -> torch.Tensor:
    _, words, normal = random.getstate()
    return torch.tensor([*words, normal is not None, normal or 0.0], dtype=torch.float64)


def _set_python_state(state: torch.Tensor) -> None:
    *words, has_normal, normal = state.tolist()
    random.setstate((3, tuple(int(word) for word in words), normal if has_normal else None))


def _numpy_state() -> torch.Tensor:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
    words, place = state["state"]["key"].tolist(), state["state"]["pos"]
    return torch.tensor([*words, place, state["has_gauss"], state["gauss"]], dtype=torch.float64)


def _set_numpy_state(state: torch.Tensor) -> None:
    *words, place, has_normal, normal = state.tolist()
    np.random.set_state(("MT19937", np.array(words, np.uint32), int(place), int(has_normal), normal))  # noqa: NPY002
