"""Attention maps: the formula, where they are read, and what a level learns of them."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.pruning.dependencies import find_groups
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.batches import epoch_batches
from trainables.stages.distillation import multi_label_loss
from trainables.stages.features import attention, attention_distance, attention_maps, find_boundaries
from trainables.stages.joint import Answer
from trainables.stages.objective import Objective

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.02)
CONFIG = CascadeConfig(macs_kept=(0.6, 0.4, 0.2), recipe=RECIPE, pruning=Pruning(num_prunings=3), feature_weight=3.0)
BOUNDARIES = ("features.3", "features.7", "features.10", "features.14", "features.17")


@pytest.fixture
def batch(data):
    return next(iter(epoch_batches(data, RECIPE, "none", 0)))


def map_in_a_loop(features):
    """Of one image."""
    places = [
        sum(float(features[channel, row, column]) ** 2 for channel in range(len(features)))
        for row in range(features.shape[1])
        for column in range(features.shape[2])
    ]
    length = math.sqrt(sum(place**2 for place in places))
    return [place / length for place in places]


def distance_of(network, larger, images):
    """The mean of 1 − cos over all boundaries and images, from what the layers give one after the other."""
    apart = []
    for boundary in BOUNDARIES:
        pair = [copy.deepcopy(one).features[: int(boundary.removeprefix("features."))] for one in (network, larger)]
        energies = [layers(images).detach().square().sum(1).flatten(1) for layers in pair]
        apart.append(1 - torch.cosine_similarity(*energies))
    return float(torch.stack(apart).mean())


def test_a_map_is_the_squares_over_channels_brought_to_length_one() -> None:
    features = torch.randn(3, 5, 2, 4, dtype=torch.float64)
    wanted = torch.tensor([map_in_a_loop(image) for image in features], dtype=torch.float64)
    torch.testing.assert_close(attention(features), wanted)
    torch.testing.assert_close(attention(7.5 * features), wanted)


def test_of_features_that_are_all_zero_nothing_is_learnt() -> None:
    features = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_distance({"a": attention(features)}, {"a": torch.full((2, 4), 0.5)}).backward()
    assert not features.grad.any()


def test_maps_that_do_not_overlap_are_one_apart_and_equal_ones_nothing() -> None:
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert float(attention_distance({"a": one}, {"a": other})) == 1.0
    assert float(attention_distance({"a": one, "b": one}, {"a": other, "b": one})) == 0.5
    assert float(attention_distance({"a": one, "left out": one}, {"a": one})) == 0.0


def test_features_are_read_where_channels_are_at_more_than_one_place_and_once_each(networks) -> None:
    found = {name: find_boundaries(*networks(name), (3, 16, 16)) for name in ("vgg-small", "resnet18", "own", "modern")}
    assert found["vgg-small"] == BOUNDARIES
    assert "layer2.0.conv1" in found["resnet18"]
    assert "layer2.0.downsample.0" not in found["resnet18"]  # it reads the same
    assert found["own"] == ("plain", "merged")  # not the hidden layer, which reads a vector
    assert found["modern"] == ("open",)  # nor what is squeezed to one place
    network, _ = networks("vgg-small")
    with attention_maps(network, BOUNDARIES) as maps:
        network(torch.randn(2, 3, 16, 16))
    assert tuple(maps) == BOUNDARIES
    assert not any(layer._forward_pre_hooks for layer in network.modules())


class ByName(nn.Sequential):
    """Calls its layers by the name of what they read."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(input=x)
        return x


def test_layers_that_are_called_by_name_are_looked_at_too() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    by_place, by_name = (kind(*layers, nn.Linear(8, 4)) for kind in (nn.Sequential, ByName))
    assert find_boundaries(by_name, find_groups(by_name, (3, 16, 16)), (3, 16, 16)) == ("2",)
    images, found = torch.randn(2, 3, 16, 16), []
    for network in (by_place, by_name):
        with attention_maps(network, ("2",)) as maps:
            network(images)
        found.append(maps["2"])
    assert torch.equal(*found)


def test_a_network_whose_features_have_no_places_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    with pytest.raises(InputError, match=r"feature_weight is above 0, but no layer of the network reads .*leave it at"):
        find_boundaries(network, find_groups(network, (3, 16, 16)), (3, 16, 16))


@pytest.mark.parametrize("learns_from", ["level-above", "teacher"])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_a_level_learns_the_maps_of_the_larger_network_beside_its_scores(
    joint_stage, batch, learns_from, weight
) -> None:
    stage = joint_stage(replace(CONFIG, learns_from=learns_from, distillation_weight=weight))
    for pruner in stage.pruners[1:]:
        number = pruner.level.number
        pruner.level.keep({name: kept[number:] for name, kept in pruner.level.kept.items()})
        pruner.meter.reset(pruner.level.network, pruner.level.kept)
    images, labels = batch
    for level in stage.levels:
        level.refresh()
    networks = [
        copy.deepcopy(network) for network in (stage._frozen_network, *(level.network for level in stage.levels))
    ]
    wanted = []
    for above, network in pairwise(networks):
        larger = networks[0] if learns_from == "teacher" else above
        with torch.no_grad():
            logits = [copy.deepcopy(one)(images) for one in (network, larger)]
        loss = Objective().of_level(*logits, labels, temperature=CONFIG.temperature, weight=weight)
        wanted.append(float(loss) + 3.0 * distance_of(network, larger, images))
    found = stage.train_step(images, labels)
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-5)


class Block(nn.Module):
    """Two 1x1 convolutions with a residue, or the same as linear layers on maps that lie channels last (ConvNeXt)."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.wide, self.narrow = (kind(*widths, *([1] if kind is nn.Conv2d else [])) for widths in ((8, 12), (12, 8)))
        self.scores = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if isinstance(self.wide, nn.Linear):
            more = self.narrow(self.wide(x.permute(0, 2, 3, 1)).relu()).permute(0, 3, 1, 2)
        else:
            more = self.narrow(self.wide(x).relu())
        scores: torch.Tensor = self.scores((x + more).mean((2, 3)))
        return scores


def test_linear_layers_that_read_channels_last_learn_what_convolutions_do(joint_stage, batch) -> None:
    convolutions, linear = Block(nn.Conv2d), Block(nn.Linear)
    linear.load_state_dict(
        {name: tensor.view(linear.get_parameter(name).shape) for name, tensor in convolutions.state_dict().items()}
    )
    told = []
    for teacher in (convolutions, linear):
        channel_map = find_groups(teacher, (3, 16, 16))
        assert find_boundaries(teacher, channel_map, (3, 16, 16)) == ("wide", "narrow")
        stage = joint_stage(CONFIG, teacher=teacher)
        for pruner in stage.pruners:
            number = pruner.level.number
            pruner.level.keep({name: kept[number:] for name, kept in pruner.level.kept.items()})
            pruner.meter.reset(pruner.level.network, pruner.level.kept)
        told.append(stage.train_step(*batch))
    torch.testing.assert_close(*told)


def test_maps_come_closer_the_more_they_count(joint_stage, data) -> None:
    images = next(iter(epoch_batches(data, RECIPE, "none", 0)))[0]
    distances = []
    for weight in (0.0, 3.0, 30.0):
        stage = joint_stage(replace(CONFIG, macs_kept=(0.2,), feature_weight=weight))
        while not stage.finished:
            stage.train_epoch()
        distances.append(distance_of(stage.levels[0].network, stage._frozen_network, images[:4]))
    assert distances[0] > distances[1] > distances[2]


class Plain(nn.Sequential):
    """Without batch norm, where a batch is the sum of its parts."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=3), nn.ReLU(), nn.Flatten()
        super().__init__(*layers, nn.Linear(5 * 16, 4))


def test_micro_batches_learn_the_features_of_the_batch(joint_stage, batch) -> None:
    stages = [
        joint_stage(replace(CONFIG, recipe=replace(RECIPE, accumulate=parts)), teacher=Plain()) for parts in (1, 5)
    ]
    for stage in stages:
        stage.levels[0].private.clear()
        stage.levels[1].keep({name: kept[1:] for name, kept in stage.levels[1].kept.items()})
        stage.pruners[1].meter.reset(stage.levels[1].network, stage.levels[1].kept)
    whole, cut = (stage.train_step(*batch) for stage in stages)
    torch.testing.assert_close(cut, whole)
    for name, parameter in stages[0]._joint.weights.parameters.items():
        torch.testing.assert_close(stages[1]._joint.weights.parameters[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_bf16_learns_nearly_the_features_of_fp32(joint_stage, batch) -> None:
    told = {}
    for weight in (0.0, 3.0):
        for precision in ("fp32", "bf16"):
            stage = joint_stage(replace(CONFIG, recipe=replace(RECIPE, precision=precision), feature_weight=weight))
            told[weight, precision] = stage.train_step(*batch)
    learnt = {precision: told[3.0, precision] - told[0.0, precision] for precision in ("fp32", "bf16")}
    assert (learnt["fp32"][0] > 0.01).all()  # of the teacher, whose statistics are others
    torch.testing.assert_close(learnt["bf16"], learnt["fp32"], rtol=0.05, atol=0.005)


def test_features_of_several_labels_are_those_of_one(joint_stage, data, batch) -> None:
    several = nn.functional.one_hot(data.train.labels_N, 4).bool()
    images = replace(data, train=replace(data.train, labels_N=several), val=replace(data.val, labels_N=several[:32]))
    config = replace(CONFIG, distillation_weight=0.0)
    one = joint_stage(config).train_step(*batch) - joint_stage(replace(config, feature_weight=0.0)).train_step(*batch)
    stage = joint_stage(config, images=images)
    labels = nn.functional.one_hot(batch[1], 4).bool()
    for level in stage.levels:
        level.refresh()
    of_labels = [multi_label_loss(copy.deepcopy(level.network)(batch[0]), labels).detach() for level in stage.levels]
    torch.testing.assert_close(stage.train_step(batch[0], labels) - torch.stack(of_labels), one, rtol=1e-3, atol=1e-5)


def test_where_a_network_has_left_out_all_that_the_other_ran_there_is_nothing_to_learn(joint_stage, batch) -> None:
    joint, logits_NK, map_NP = joint_stage(CONFIG)._joint, torch.randn(16, 4), torch.full((16, 4), 0.5)
    level = Answer(logits_NK=logits_NK, maps={"a": map_NP})
    nothing, other = Answer(logits_NK=logits_NK), Answer(logits_NK=logits_NK, maps={"b": map_NP})
    wanted = joint._loss(level, nothing, batch[1])
    assert torch.equal(joint._loss(level, other, batch[1]), wanted)
    turned = Answer(logits_NK=logits_NK, maps={"a": -map_NP})
    torch.testing.assert_close(joint._loss(level, turned, batch[1]), wanted + 3.0 * 2.0)


def test_nothing_is_read_where_features_are_not_learnt(joint_stage, batch, monkeypatch) -> None:
    def never(_features):
        raise AssertionError("a map was made")

    monkeypatch.setattr("trainables.stages.features.attention", never)
    joint_stage(replace(CONFIG, feature_weight=0.0)).train_step(*batch)
    with pytest.raises(AssertionError, match="a map was made"):
        joint_stage(CONFIG).train_step(*batch)
