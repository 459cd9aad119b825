"""Channels that come back to a level: what tells which, what is left as it is meanwhile, and what they are then."""

import copy
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from trainables.config import CascadeConfig
from trainables.pruning import levels
from trainables.pruning.closed_gates import AJAR
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.regrowth import may_return, share_at
from trainables.pruning.schedule import LevelPruner
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.batches import epoch_batches

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=0.02)
CONFIG = CascadeConfig(
    macs_kept=(0.6, 0.3),
    recipe=RECIPE,
    pruning=Pruning(num_prunings=4, ramp_fraction=0.75, regrowth=1.0),
)


@given(st.data())
def test_the_most_salient_of_what_a_level_has_lost_may_come_back(data) -> None:
    shared = sorted(data.draw(st.sets(st.integers(0, 30), min_size=1)))
    kept = sorted(data.draw(st.sets(st.sampled_from(shared), min_size=1)))
    scores = data.draw(st.lists(st.integers(0, 4), min_size=len(shared), max_size=len(shared)))  # many are equal
    share = data.draw(st.floats(0, 1))
    pool, found = may_return(
        {"a": torch.tensor(kept)},
        {"a": torch.tensor(shared)},
        {"a": torch.tensor(scores, dtype=torch.float64)},
        share=share,
    )
    score_of = dict(zip(shared, scores, strict=True))
    lost = sorted((channel for channel in shared if channel not in kept), key=lambda c: (-score_of[c], c))
    wanted = sorted([*kept, *lost[: int(share * len(kept) + 0.5)]])
    assert pool["a"].tolist() == wanted
    assert found["a"].tolist() == [score_of[channel] for channel in wanted]


def test_what_may_come_back_falls_to_nothing_over_the_ramp() -> None:
    shares = [share_at(tenth / 10, 0.4) for tenth in range(11)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 0.4
    assert shares[5] == pytest.approx(0.2)
    assert shares[10] == 0.0


def make_level(networks, random_plan, architecture, *, shared_affine=False):
    """A level in double precision that keeps a part of θ, which has lost some of what the level has lost."""
    network, channel_map = networks(architecture)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # it would draw for other channels
    shared = SharedWeights(network.double(), channel_map)
    level, larger = (Level(number, shared, shared_affine=shared_affine, may_widen=True) for number in (1, 2))
    kept, more = random_plan(channel_map, 5), random_plan(channel_map, 6)
    level.keep(kept)
    larger.keep({name: torch.unique(torch.cat([kept[name], more[name]])) for name in kept})
    shared.drop_unread([level, larger])
    assert any(len(shared.kept[name]) > len(kept[name]) for name in kept)
    with torch.no_grad():
        for parameter in level.private.values():  # no two channels alike, and none as the teacher's
            parameter += torch.linspace(0.1, 0.4, len(parameter))
    level.network.train()
    return level


def images_and_labels():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(6, 3, 16, 16, generator=generator, dtype=torch.float64), torch.arange(6) % 4


def gradients(level):
    """Outputs of a batch, and the gradients that come to θ and to what the level has for itself."""
    images, labels = images_and_labels()
    sources = dict(level.shared.network.named_parameters(prefix="shared")) | level.private
    for parameter in sources.values():
        parameter.grad.zero_()
    level.refresh()
    outputs = level.network(images)
    F.cross_entropy(outputs, labels).backward()
    level.accumulate_gradients()
    return outputs.detach(), {name: parameter.grad.clone() for name, parameter in sources.items()}


@pytest.mark.parametrize("shared_affine", [False, True])
def test_a_level_behind_closed_gates_gives_and_learns_what_it_did(
    architecture, networks, random_plan, monkeypatch, *, shared_affine: bool
) -> None:
    monkeypatch.setattr(levels, "AJAR", 2.0**-50)
    level = make_level(networks, random_plan, architecture, shared_affine=shared_affine)
    narrow = level.network
    wanted_outputs, wanted = gradients(level)
    statistics = {name: buffer.clone() for name, buffer in narrow.named_buffers()}
    level.widen()
    assert level.is_wide
    outputs, found = gradients(level)
    assert torch.allclose(outputs, wanted_outputs, rtol=0, atol=1e-9)
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-9), name
    level.keep(level.kept)
    assert not level.is_wide
    for name, parameter in level.network.named_parameters():
        assert torch.equal(parameter, narrow.get_parameter(name)), name
    gradients(level)
    for name, buffer in level.network.named_buffers():  # the wide network's forward pass moved them too
        moved = statistics[name] if buffer.dtype == torch.int64 else torch.full_like(buffer, torch.nan)
        assert not torch.equal(buffer, moved)


def test_a_closed_gates_saliency_is_the_square_of_its_gradient(architecture, networks, random_plan) -> None:
    """Against gates that are written out: zeros that multiply what layers give, and autograd asked of them."""
    level = make_level(networks, random_plan, architecture)
    shared, images_N, labels_N = level.shared, *images_and_labels()
    pruner = LevelPruner(
        level,
        sizes=SimpleNamespace(total=lambda _counts: 1.0),
        final=1.0,
        pruning=Pruning(regrowth=0.5),
    )
    pruner.widen()
    level.refresh()
    network = copy.deepcopy(level.network)
    F.cross_entropy(level.network(images_N), labels_N).backward()
    pruner.add_scores()
    pruner.meter.num_batches += 1
    positions = shared.channel_map.kept_positions(shared.kept)
    with torch.no_grad():
        for name, parameter in network.named_parameters():  # open, all of them
            parameter.copy_(level.private.get(name, shared.network.get_parameter(name)))
    gates = {
        name: torch.where(torch.isin(channels, level.kept[name]), 1.0, AJAR).double()
        for name, channels in shared.kept.items()
    }
    for group in shared.channel_map.groups:
        gate_C = gates[group.name].requires_grad_()
        for member in group.members:
            if member.axis == "out" and member.layer in group.gates:
                stays = torch.isin(member.channels_N, shared.kept[group.name])
                at = torch.searchsorted(positions[member.layer, "out"], member.positions_N[stays])
                channels = torch.searchsorted(shared.kept[group.name], member.channels_N[stays])

                def close(_layer, _inputs, output, at=at, channels=channels, gate_C=gate_C):
                    factors = torch.ones(output.shape[1], dtype=output.dtype).index_put((at,), gate_C[channels])
                    return output * factors.view(1, -1, *[1] * (output.ndim - 2))

                network.get_submodule(member.layer).register_forward_hook(close)
    found = torch.autograd.grad(F.cross_entropy(network(images_N), labels_N), list(gates.values()))
    for name, gradient in zip(gates, found, strict=True):
        scores = pruner.meter.scores()[name]
        assert torch.allclose(scores, gradient.square(), rtol=1e-5, atol=1e-12), name
    closed = {name: ~torch.isin(shared.kept[name], level.kept[name]) for name in gates}
    assert any(bool((pruner.meter.scores()[name][closed[name]] > 0).any()) for name in gates)


def trained(stage, data):
    """What each level and θ keep after each of a stage's prunings."""
    seen = []
    prune = stage._prune

    def looked_at(fraction):
        prune(fraction)
        seen.append(([level.kept for level in stage.levels], stage._shared.kept, fraction))

    stage._prune = looked_at
    while not stage.finished:
        stage.train_epoch()
    return seen


def test_channels_come_back_until_the_ramp_is_over_and_then_what_no_level_keeps_leaves(joint_stage, data) -> None:
    stage = joint_stage(CONFIG)
    seen = trained(stage, data)
    everything = stage._shared.channel_map.everything()
    returned = 0
    for (before, _, _), (after, shared, fraction) in pairwise(seen):
        returned += sum(
            int((~torch.isin(new[name], old[name])).sum())
            for old, new in zip(before, after, strict=True)
            for name in everything
        )
        for name, channels in everything.items():
            union = torch.unique(torch.cat([kept[name] for kept in after]))
            assert torch.equal(shared[name], channels if fraction < 1 else union)
    assert returned > 0
    assert [fraction for _, _, fraction in seen] == [0.25, 0.5, 0.75, 1.0]
    for result, asked in zip(stage.results, CONFIG.macs_kept, strict=True):
        assert result.macs_kept == pytest.approx(asked, rel=0.02)
    for name, parameter in stage._joint.weights.parameters.items():
        state = stage._joint.weights.optimizer.state[parameter]
        assert parameter.grad.shape == state["momentum_buffer"].shape == parameter.shape, name
    assert sum(p.numel() for p in stage._shared.network.parameters()) < sum(
        p.numel() for p in stage._frozen_network.parameters()
    )


def test_without_regrowth_what_goes_is_gone(joint_stage, data) -> None:
    seen = trained(joint_stage(replace(CONFIG, pruning=replace(CONFIG.pruning, regrowth=0.0))), data)
    for (before, *_), (after, *_) in pairwise(seen):
        for old, new in zip(before, after, strict=True):
            assert all(torch.isin(new[name], old[name]).all() for name in old)


def test_what_came_back_has_the_weights_that_it_went_with_moved_by_momentum_alone(joint_stage, data) -> None:
    """Scale and shift of a channel that no step trains are where momentum left them; nothing is drawn anew."""
    recipe = replace(RECIPE, momentum=0.0, weight_decay=0.0)
    stage = joint_stage(replace(CONFIG, macs_kept=(0.3,), recipe=recipe))
    level, norm = stage.levels[0], stage._shared.norms[0]
    group = next(g for g in stage._shared.channel_map.groups if norm in g.gates)
    level.keep({name: kept[1:] if name == group.name else kept for name, kept in level.kept.items()})
    stage.pruners[0].meter.reset(level.network, level.kept)
    before = level.private[f"{norm}.weight"].detach().clone()
    stage.train_step(*next(iter(epoch_batches(data, RECIPE, "none", 0))))
    level.widen()
    level.keep(stage._shared.kept)
    after = level.network.get_submodule(norm).weight
    assert after[0] == before[0]
    assert not torch.equal(after[1:], before[1:])
