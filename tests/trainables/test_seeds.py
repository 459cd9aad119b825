"""Seeds, one for each use, and what layers draw."""

import torch
from torch import nn

from trainables.seeds import derive_seed, seeded_layers


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
