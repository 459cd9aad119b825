"""The teacher stage: it learns, repeats itself, goes on where it stopped, and fails loudly."""

import copy
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainables.louder import LouderEachTime
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, StageFailure
from trainables.files.states import load_state, save_state
from trainables.recipe import Recipe
from trainables.stages import epochs, midway
from trainables.stages.evaluation import evaluate
from trainables.stages.recalibration import recalibrate
from trainables.stages.teacher import TeacherStage

RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=0.05, label_smoothing=0.1, max_grad_norm=5.0)


def make_stage(
    networks,
    data: DataSplits,
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    layout: torch.memory_format = torch.contiguous_format,
) -> TeacherStage:
    network, _ = networks("own")  # with dropout
    network.to(memory_format=layout)
    return TeacherStage(network, recipe=recipe, data=data, augmentation="crop-flip", seed=seed)


def final_weights(stage: TeacherStage) -> dict[str, torch.Tensor]:
    while not stage.finished:
        stage.train_epoch()
    return stage.network.state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_tells_of_each_epoch(networks, data: DataSplits) -> None:
    network, _ = networks("vgg-small")
    stage = TeacherStage(network, recipe=replace(RECIPE, epochs=8), data=data)
    told = []
    while not stage.finished:
        told.append(stage.train_epoch())
    assert [(p.stage, p.epoch, p.num_epochs, p.trial_epoch) for p in told] == [
        ("teacher", e, 8, e) for e in range(1, 9)
    ]
    assert all(p.levels[0].level == 0 and p.levels[0].macs_kept == 1.0 for p in told)
    assert told[-1].levels[0].train_loss < told[0].levels[0].train_loss
    assert told[-1].learning_rate < told[0].learning_rate
    result = stage.result()
    assert result.val_accuracy == told[-1].levels[0].val_accuracy == evaluate(stage.network, data).accuracy
    assert result.val_accuracy > 0.5
    assert result.seconds == pytest.approx(sum(p.seconds for p in told))


def test_an_epoch_took_as_long_as_its_losses_are_waited_for(networks, data: DataSplits, monkeypatch) -> None:
    mean_losses = epochs.mean_losses

    def on_a_slow_card(totals, num_steps):
        time.sleep(0.5)
        return mean_losses(totals, num_steps)

    monkeypatch.setattr(epochs, "mean_losses", on_a_slow_card)
    assert make_stage(networks, data).train_epoch().seconds > 0.5


def test_bf16_is_near_fp32_and_keeps_weights_and_momentum_in_float32(networks, data: DataSplits) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        stage = make_stage(networks, data, recipe=replace(RECIPE, epochs=1, precision=precision))
        losses[precision] = stage.train_epoch().levels[0].train_loss
        tensors, _ = stage.state()
        assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in tensors.values())
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_the_first_steps_are_plain_sgd(networks, data: DataSplits) -> None:
    """One batch an epoch and no momentum: the network moves against its gradient, by the rate."""
    recipe = Recipe(epochs=1, batch_size=64, learning_rate=0.1, momentum=0.0, weight_decay=0.0, warmup=0.0)
    network, _ = networks("vgg-small")
    before = network.classifier.bias.detach().clone()
    gradients = []
    network.classifier.bias.register_hook(lambda gradient: gradients.append(gradient.clone()))
    TeacherStage(network, recipe=recipe, data=data).train_epoch()
    torch.testing.assert_close(network.classifier.bias.detach(), before - 0.1 * gradients[0])


def test_every_epoch_has_an_order_of_its_own(networks, data: DataSplits) -> None:
    network, _ = networks("vgg-small")
    stage = TeacherStage(network, recipe=RECIPE, data=data)
    epochs = []
    for _ in range(2):
        seen: list[torch.Tensor] = []
        hook = network.register_forward_pre_hook(lambda _network, inputs, seen=seen: seen.append(inputs[0]))
        stage.train_epoch()
        hook.remove()
        epochs.append(torch.cat(seen[:4]))
    assert not torch.equal(epochs[0], epochs[1])
    torch.testing.assert_close(epochs[0].sort(dim=0).values, epochs[1].sort(dim=0).values)


def test_the_seed_decides(networks, data: DataSplits) -> None:
    torch.manual_seed(1)
    first = final_weights(make_stage(networks, data))
    torch.manual_seed(2)
    assert equal(first, final_weights(make_stage(networks, data)))
    assert not equal(first, final_weights(make_stage(networks, data, seed=1)))


RICH = replace(
    RECIPE, optimizer="adamw", learning_rate=0.01, ema=0.8, accumulate=3, mix="both", class_weights=(1.0, 2.0, 3.0, 4.0)
)


@pytest.mark.parametrize("recipe", [RECIPE, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_it_goes_on_where_it_stopped(networks, data: DataSplits, tmp_path: Path, stop: int, recipe: Recipe) -> None:
    whole = make_stage(networks, data, recipe=recipe)
    wanted = final_weights(whole)
    stopped = make_stage(networks, data, recipe=recipe)
    for _ in range(stop):
        stopped.train_epoch()
    save_state(tmp_path / "state", *stopped.state())
    later = make_stage(networks, data, recipe=recipe)
    later.load_state(*load_state(tmp_path / "state"))
    assert later.epoch == stop
    assert equal(wanted, final_weights(later))
    assert later.result().val_accuracy == whole.result().val_accuracy


@pytest.mark.parametrize("recipe", [RECIPE, RICH], ids=["plain", "rich"])
def test_it_goes_on_from_every_batch_as_if_it_had_not_stopped(
    networks, data: DataSplits, tmp_path: Path, monkeypatch, recipe: Recipe
) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)
    whole, later = (make_stage(networks, data, recipe=recipe) for _ in range(2))
    wanted = [whole.train_epoch() for _ in range(recipe.epochs)]
    told, num_parts = [], 0
    while not later.finished:
        torch.manual_seed(num_parts)  # no random choice may come from here
        found = later.train_for(0.0)
        told += [] if found is None else [found]
        num_parts += 1
        save_state(tmp_path / "state", *later.state())
        later = make_stage(networks, data, recipe=recipe)
        later.load_state(*load_state(tmp_path / "state"))
    assert num_parts == recipe.epochs * (len(data.train) // recipe.batch_size)
    assert [epoch.levels for epoch in told] == [epoch.levels for epoch in wanted]
    assert equal(later.network.state_dict(), whole.network.state_dict())
    assert later.result().seconds == pytest.approx(sum(epoch.seconds for epoch in told))


@pytest.mark.parametrize("recipe", [RECIPE, RICH], ids=["plain", "rich"])
def test_a_network_whose_weights_lie_channels_last_goes_on_too(
    networks, data: DataSplits, tmp_path: Path, recipe: Recipe
) -> None:
    whole, stopped, later = (make_stage(networks, data, recipe=recipe, layout=torch.channels_last) for _ in range(3))
    stopped.train_epoch()
    save_state(tmp_path / "state", *stopped.state())
    later.load_state(*load_state(tmp_path / "state"))
    assert equal(final_weights(whole), final_weights(later))
    assert later.result().val_accuracy == whole.result().val_accuracy


def test_what_is_frozen_stays_and_a_network_that_is_all_frozen_is_refused(networks, data: DataSplits) -> None:
    network, _ = networks("own")
    network.stem.requires_grad_(requires_grad=False)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    TeacherStage(network, recipe=RECIPE, data=data).train_epoch()
    changed = {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name.split(".")[0] for name in before} - {"stem"}
    network.requires_grad_(requires_grad=False)
    with pytest.raises(InputError, match=r"^all parameters of the network are frozen, .*; leave requires_grad_"):
        TeacherStage(network, recipe=RECIPE, data=data)


class SometimesLouder(nn.Module):
    """Draws from Python's and NumPy's generators, as a user's own block that is left out now and then does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * (1.0 + random.random() + random.gauss() + np.random.randn())  # noqa: NPY002


def test_a_network_that_draws_from_other_generators_goes_on_from_every_batch_too(
    data: DataSplits, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)
    start = nn.Sequential(nn.Conv2d(3, 4, 3), SometimesLouder(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))

    def fresh() -> TeacherStage:
        return TeacherStage(copy.deepcopy(start), recipe=replace(RECIPE, epochs=2), data=data)

    wanted, later, num_parts = final_weights(fresh()), fresh(), 0
    while not later.finished:
        random.seed(num_parts)  # no random choice may come from here
        np.random.seed(num_parts)  # noqa: NPY002
        later.train_for(0.0)
        num_parts += 1
        save_state(tmp_path / "state", *later.state())
        later = fresh()
        later.load_state(*load_state(tmp_path / "state"))
    assert equal(wanted, later.network.state_dict())


class SometimesLeftOut(nn.Sequential):
    """A block beside a shortcut, and now and then the shortcut alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and random.random() < 0.5:
            return x
        return x + super().forward(x)


@pytest.mark.parametrize("recipe", [RECIPE, RICH], ids=["plain", "rich"])
def test_a_network_that_leaves_blocks_out_by_chance_goes_on_from_every_batch_too(
    data: DataSplits, tmp_path: Path, monkeypatch, recipe: Recipe
) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)
    blocks = [SometimesLeftOut(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(4)]
    start = nn.Sequential(nn.Conv2d(3, 4, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))

    def fresh() -> TeacherStage:
        return TeacherStage(copy.deepcopy(start), recipe=replace(recipe, execution="eager"), data=data)

    wanted, later = final_weights(fresh()), fresh()
    while not later.finished:
        later.train_for(0.0)
        save_state(tmp_path / "state", *later.state())
        later = fresh()
        later.load_state(*load_state(tmp_path / "state"))
    assert equal(wanted, later.network.state_dict())


def test_a_buffer_that_is_not_saved_with_the_network_goes_on_too(data: DataSplits, tmp_path: Path) -> None:
    start = nn.Sequential(nn.Conv2d(3, 4, 3), LouderEachTime(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))

    def fresh() -> TeacherStage:
        return TeacherStage(copy.deepcopy(start), recipe=replace(RECIPE, epochs=2), data=data)

    wanted, stopped, later = final_weights(fresh()), fresh(), fresh()
    stopped.train_epoch()
    save_state(tmp_path / "state", *stopped.state())
    tensors, values = load_state(tmp_path / "state")
    later.load_state(tensors, values)
    assert equal(wanted, final_weights(later))
    fresh().load_state({name: tensor for name, tensor in tensors.items() if "buffers" not in name}, values)


def test_an_average_of_weights_is_what_is_validated_and_handed_on(networks, data: DataSplits) -> None:
    network, _ = networks("vgg-small")
    stage = TeacherStage(network, recipe=replace(RECIPE, ema=0.7), data=data)
    wanted = network.classifier.weight.detach().clone()
    optimizer_step = stage._weights.optimizer.step

    def step_and_average() -> None:
        optimizer_step()
        wanted.mul_(0.7).add_(network.classifier.weight.detach(), alpha=0.3)

    stage._weights.optimizer.step = step_and_average
    stage.train_epoch()
    assert not torch.allclose(network.classifier.weight, wanted)  # training goes on from the weights themselves
    told = stage.train_epoch()
    final_weights(stage)
    torch.testing.assert_close(network.classifier.weight.detach(), wanted)
    assert stage.result().val_accuracy == evaluate(network, data).accuracy
    assert 0 <= told.levels[0].val_accuracy <= 1
    again = copy.deepcopy(network)
    recalibrate(again, data, batch_size=RECIPE.batch_size, seed=0)
    assert equal(again.state_dict(), network.state_dict())


def test_micro_batches_give_the_step_of_the_batch(data: DataSplits) -> None:
    """Without batch norm, in float64's absence to a few last digits."""
    weights = []
    for accumulate in (1, 5):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 4))
        recipe = replace(RECIPE, accumulate=accumulate, class_weights=(1.0, 2.0, 3.0, 4.0), mix="mixup")
        weights.append(final_weights(TeacherStage(network, recipe=recipe, data=data)))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=1e-5)


def test_class_weights_that_do_not_fit_the_classes_are_refused(networks, data: DataSplits) -> None:
    with pytest.raises(InputError, match="class_weights has 2 values, but the data has 4 classes; give one a class"):
        make_stage(networks, data, recipe=replace(RECIPE, class_weights=(1.0, 2.0)))


def test_a_diverging_loss_fails_with_stage_and_step(networks, data: DataSplits) -> None:
    stage = make_stage(networks, data, recipe=Recipe(epochs=3, batch_size=16, learning_rate=1e6))
    with pytest.raises(StageFailure, match=r"stage teacher, step .*: the loss is no longer finite") as caught:
        final_weights(stage)
    assert caught.value.step is not None
    assert math.isfinite(caught.value.step)


def test_weights_that_diverge_in_the_last_step_fail_too(networks, data: DataSplits, monkeypatch) -> None:
    stage = make_stage(networks, data, recipe=replace(RECIPE, epochs=1))
    optimizer_step, left = stage._weights.optimizer.step, iter(range(3, -1, -1))

    def step_and_diverge() -> None:
        optimizer_step()
        if next(left) == 0:
            stage.network.scores.bias.data[0] = math.nan

    monkeypatch.setattr(stage._weights.optimizer, "step", step_and_diverge)
    with pytest.raises(StageFailure, match=r"^stage teacher, step 4: weights are no longer finite; lower the learning"):
        stage.train_epoch()


def test_a_network_without_norms_is_trained_too(data: DataSplits) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 4))
    stage = TeacherStage(network, recipe=Recipe(epochs=4, batch_size=16, learning_rate=0.01), data=data)
    final_weights(stage)
    assert stage.result().val_accuracy > 0.9
