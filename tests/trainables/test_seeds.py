"""Seeds, one for each use, and what layers draw."""

import random

import numpy as np
import torch
from torch import nn

from trainables.seeds import derive_seed, drawn_layers, seeded_layers

CPU = torch.device("cpu")


def test_seeds_differ_by_base_and_by_use() -> None:
    seeds = {derive_seed(seed, *parts) for seed in (0, 1) for parts in (("a", 1), ("a", 2), ("b", 1), ("a",), ())}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)


def test_seeded_layers_are_repeatable_and_leave_the_global_generator() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (5, 5, 6):
        with seeded_layers(seed, torch.device("cpu")):
            drawn.append(nn.functional.dropout(torch.ones(64)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)


def draw() -> list[float]:
    """One number of each of the global generators' kinds, of which normal numbers are drawn in pairs."""
    return [torch.rand(()).item(), random.random(), random.gauss(), np.random.rand(), np.random.randn()]  # noqa: NPY002


def test_the_generators_of_python_and_numpy_are_seeded_go_on_and_are_left_as_they_were() -> None:
    random.gauss()
    np.random.randn()  # noqa: NPY002
    before = drawn_layers(CPU)
    with seeded_layers(2**63 - 1, CPU):
        first, midway, second = draw(), drawn_layers(CPU), draw()
    after = drawn_layers(CPU)
    assert all(torch.equal(after[name], state) for name, state in before.items())
    with seeded_layers(2**63 - 1, CPU):
        assert draw() == first
    with seeded_layers(0, CPU):
        assert not set(draw()) & set(first)
    with seeded_layers(0, CPU, midway):
        assert draw() == second
