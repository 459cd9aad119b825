"""A step of several levels: what each of them counts."""

from dataclasses import replace

import pytest
import torch

from trainables.config import CascadeConfig
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.batches import epoch_batches
from trainables.stages.joint import level_weights

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.02, momentum=0.0, weight_decay=0.0)
CONFIG = CascadeConfig(macs_kept=(0.6, 0.4, 0.2), recipe=RECIPE, pruning=Pruning(num_prunings=3))


def test_each_level_counts_so_many_times_the_one_before_and_one_on_the_mean() -> None:
    assert level_weights(3, growth=1.0) == (1.0, 1.0, 1.0)
    assert level_weights(3, growth=2.0) == pytest.approx((3 / 7, 6 / 7, 12 / 7))
    assert level_weights(2, growth=0.25) == pytest.approx((1.6, 0.4))
    assert level_weights(1, growth=1000.0) == (1.0,)


@pytest.mark.parametrize("saliency_loss", ["level", "labels"])
def test_the_step_is_that_of_the_weighted_sum_and_what_is_told_is_not_weighted(
    joint_stage, data, saliency_loss
) -> None:
    """Against each level's own gradient in a loop; losses and saliency are bit by bit those without weights."""
    pruning = replace(CONFIG.pruning, saliency_loss=saliency_loss)
    plain = joint_stage(replace(CONFIG, pruning=pruning))
    weighted = joint_stage(replace(CONFIG, pruning=pruning, level_weight_growth=3.0))
    before = {name: parameter.detach().clone() for name, parameter in weighted._joint.weights.parameters.items()}
    images, labels = next(iter(epoch_batches(data, RECIPE, "none", 0)))
    assert torch.equal(weighted.train_step(images, labels), plain.train_step(images, labels))
    for one, other in zip(plain.pruners, weighted.pruners, strict=True):
        scores = other.meter.scores()
        assert all(torch.equal(found, scores[group]) for group, found in one.meter.scores().items())
    for name, parameter in weighted._joint.weights.parameters.items():
        wanted = torch.zeros_like(parameter)
        for weight, level in zip((3 / 13, 9 / 13, 27 / 13), plain.levels, strict=True):
            owner, _, own = name.partition(".")  # levels still keep everything
            if owner == f"level-{level.number}" or (owner == "shared" and own not in level.private):
                wanted += weight * level.network.get_parameter(own).grad
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6)
        rate = weighted._joint.weights.optimizer.param_groups[0]["lr"]
        torch.testing.assert_close(parameter, before[name] - rate * wanted, rtol=1e-4, atol=1e-6)
