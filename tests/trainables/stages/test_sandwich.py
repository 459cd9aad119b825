"""Steps that train some of the levels: which, what they learn, and what is left as it is."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import CascadeConfig
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.batches import epoch_batches
from trainables.stages.objective import Objective
from trainables.stages.sandwich import Sandwich, leaves_out, num_whole_steps

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=0.02)
CONFIG = CascadeConfig(
    macs_kept=(0.8, 0.6, 0.45, 0.3, 0.2), recipe=RECIPE, pruning=Pruning(num_prunings=3), levels_a_step=3
)
LEVELS = (1, 2, 3, 4, 5)


def sandwich(levels_a_step=3, seed=0):
    return Sandwich(levels=LEVELS, levels_a_step=levels_a_step, steps_per_epoch=10, prunings={7, 14}, seed=seed)


@pytest.mark.parametrize("levels_a_step", [3, 4])
def test_the_ends_take_part_in_every_step_and_each_level_between_as_often(levels_a_step) -> None:
    draw = sandwich(levels_a_step)
    drawn = [draw(step) for step in range(1, 3000) if step % 10 and step + 1 not in (7, 14)]
    assert {len(levels) for levels in drawn} == {levels_a_step}
    assert all(list(levels) == sorted(set(levels)) for levels in drawn)
    times = Counter(level for levels in drawn for level in levels)
    assert times[1] == times[5] == len(drawn)
    for level in (2, 3, 4):
        assert times[level] / len(drawn) == pytest.approx((levels_a_step - 2) / 3, abs=0.04)


def test_all_take_part_where_an_epoch_begins_where_channels_go_and_where_nobody_asks_for_less() -> None:
    draw = sandwich()
    assert leaves_out(5, 3)
    assert [step for step in range(20) if draw(step) == LEVELS] == [0, 6, 10, 13]
    assert [draw(step) for step in range(20)] == [sandwich()(step) for step in range(20)]
    assert [draw(step) for step in range(20)] != [sandwich(seed=1)(step) for step in range(20)]
    for levels_a_step in (None, 5, 6):
        assert not leaves_out(5, levels_a_step)
        assert all(sandwich(levels_a_step)(step) == LEVELS for step in range(20))


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 12), st.booleans())
def test_whole_steps_are_counted_as_they_come(first: int, number: int, steps_per_epoch: int, pruned) -> None:
    after = first + number
    prunings = {after} if pruned else set()
    draw = Sandwich(levels=LEVELS, levels_a_step=3, steps_per_epoch=steps_per_epoch, prunings=prunings, seed=0)
    wanted = sum(draw(step) == LEVELS for step in range(first, after))
    assert num_whole_steps(first, after, steps_per_epoch=steps_per_epoch, pruned=pruned) == wanted


def test_each_level_learns_from_the_next_larger_that_takes_part_and_the_others_are_left_alone(
    joint_stage, data
) -> None:
    """Losses, gradients and saliency are those of a stage that has the levels that take part and no others."""
    images, labels = next(iter(epoch_batches(data, RECIPE, "none", 0)))
    stage = joint_stage(CONFIG)
    beside = joint_stage(replace(CONFIG, macs_kept=(0.8, 0.45, 0.2), levels_a_step=None))
    of_beside = dict(zip((1, 3, 5), beside.pruners, strict=True))
    for number, pruner in of_beside.items():  # no two levels are the same
        kept = {name: channels[number // 2 :] for name, channels in pruner.level.kept.items()}
        for one in (pruner, stage.pruners[number - 1]):
            one.level.keep(kept)
            one.meter.reset(one.level.network, one.level.kept)
    stage._sandwich = lambda _step: (1, 3, 5)
    statistics = {level.number: level.network.features[1].running_mean.clone() for level in stage.levels}
    found, wanted = stage.train_step(images, labels), beside.train_step(images, labels)
    assert torch.equal(found, torch.stack([wanted[0], torch.tensor(0.0), wanted[1], torch.tensor(0.0), wanted[2]]))
    renamed = {"level-1": "level-1", "level-3": "level-2", "level-5": "level-3", "shared": "shared"}
    for name, parameter in stage._joint.weights.parameters.items():
        owner, _, own = name.partition(".")
        if owner in renamed:
            assert torch.equal(parameter.grad, beside._joint.weights.parameters[f"{renamed[owner]}.{own}"].grad)
        else:
            assert not parameter.grad.any()
    for level, pruner in zip(stage.levels, stage.pruners, strict=True):
        moved = not torch.equal(level.network.features[1].running_mean, statistics[level.number])
        assert moved is (level.number in of_beside)
        assert pruner.meter.num_batches == int(level.number in of_beside)
        for group, scores in pruner.meter.scores().items():
            other = of_beside[level.number].meter.scores()[group] if moved else torch.zeros_like(scores)
            assert torch.equal(scores, other)


def test_the_loss_that_is_told_is_the_mean_over_steps_that_a_level_took_part_in(joint_stage) -> None:
    stage = joint_stage(CONFIG)
    told, step = [], stage.train_step

    def recorded(images, labels):
        losses = step(images, labels)
        told.append((stage._joint.taking_part, losses.clone()))
        return losses

    stage.train_step = recorded
    progress = stage.train_epoch()
    assert len({taking_part for taking_part, _ in told}) > 2
    for level in progress.levels:
        own = [float(losses[level.level - 1]) for taking_part, losses in told if level.level in taking_part]
        assert level.train_loss == pytest.approx(sum(own) / len(own), rel=1e-5)


def test_all_levels_come_to_their_sizes_and_a_stage_goes_on_where_it_stopped(joint_stage, data) -> None:
    """With so few steps between prunings that some levels take part in none but the last of them."""
    config = replace(CONFIG, pruning=Pruning(num_prunings=8, ramp_fraction=0.8), feature_weight=1.0)
    whole, stopped, later = (joint_stage(config) for _ in range(3))
    told = [whole.train_epoch() for _ in range(2)]
    stopped.train_epoch()
    later.load_state(*stopped.state())
    assert replace(later.train_epoch(), seconds=0.0) == replace(told[1], seconds=0.0)
    assert later.results == whole.results
    for level, other in zip(whole.levels, later.levels, strict=True):
        found = other.network.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in level.network.state_dict().items())
    for result, size in zip(whole.results, config.macs_kept, strict=True):
        assert result.macs_kept == pytest.approx(size, rel=0.02)


def test_a_level_between_learns_from_the_teacher_s_scores_where_there_is_no_chain(joint_stage, data) -> None:
    images, labels = next(iter(epoch_batches(data, RECIPE, "none", 0)))
    stage = joint_stage(replace(CONFIG, learns_from="teacher"))
    stage._sandwich = lambda _step: (1, 4, 5)
    for level in stage.levels:
        level.refresh()
    with torch.no_grad():
        own, teacher = stage.levels[3].network(images), stage._frozen_network(images)
    wanted = Objective().of_level(
        own, teacher, labels, temperature=CONFIG.temperature, weight=CONFIG.distillation_weight
    )
    torch.testing.assert_close(stage.train_step(images, labels)[3], wanted)
