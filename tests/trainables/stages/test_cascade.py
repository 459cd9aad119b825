"""The cascade stage: sizes on their way, momentum, sharing, levels that do not see each other, loud failures."""

import copy
import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, StageFailure
from trainables.files.states import load_state, save_state
from trainables.networks.vggs import vgg
from trainables.plan import StagePlan
from trainables.pruning.cost import LatencyTable, count_macs, count_params
from trainables.pruning.network_size import NetworkSize
from trainables.pruning.schedule import size_at
from trainables.pruning.views import find_indices, pick
from trainables.pruning_config import Pruning
from trainables.recipe import Optimizer, Recipe
from trainables.stages import midway
from trainables.stages.batches import epoch_batches
from trainables.stages.cascade import CascadeStage
from trainables.stages.evaluation import evaluate
from trainables.stages.objective import Objective
from trainables.stages.recalibration import recalibrate

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.02)
CONFIG = CascadeConfig(macs_kept=(0.6, 0.3), recipe=RECIPE, pruning=Pruning(num_prunings=3))


@pytest.fixture
def make_stage(networks, data: DataSplits) -> Callable[..., CascadeStage]:
    def make(
        config: CascadeConfig = CONFIG,
        *,
        architecture: str = "vgg-small",
        teacher: nn.Module | None = None,
        images: DataSplits = data,
        table: LatencyTable | None = None,
    ) -> CascadeStage:
        teacher = networks(architecture)[0] if teacher is None else teacher
        return CascadeStage(
            teacher,
            plan=StagePlan(
                name="cascade",
                levels=tuple(range(1, config.num_levels + 1)),
                epochs=config.recipe.epochs,
                first_epoch=0,
            ),
            config=config,
            teacher_size=NetworkSize.count(teacher, images.input_shape, table),
            data=images,
        )

    return make


def run(stage: CascadeStage) -> CascadeStage:
    while not stage.finished:
        stage.train_epoch()
    return stage


def first_batch(data: DataSplits, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return next(iter(epoch_batches(data, RECIPE, "none", seed)))


fractions = st.floats(0, 1)


@given(fractions, fractions, fractions, fractions, st.sampled_from(["cubic", "linear"]))
def test_the_ramp_falls_from_its_start_to_its_end(a: float, b: float, start: float, end: float, ramp) -> None:
    start, end = max(start, end), min(start, end)
    assert size_at(0.0, start=start, end=end, ramp=ramp) == pytest.approx(start)
    assert size_at(1.0, start=start, end=end, ramp=ramp) == size_at(2.0, start=start, end=end, ramp=ramp) == end
    sizes = [size_at(f, start=start, end=end, ramp=ramp) for f in (min(a, b), max(a, b))]
    assert start + 1e-9 >= sizes[0] >= sizes[1] >= end


def test_the_ramps_shapes() -> None:
    assert size_at(0.5, start=1.0, end=0.2, ramp="linear") == pytest.approx(0.6)
    assert size_at(0.5, start=1.0, end=0.2, ramp="cubic") == pytest.approx(0.3)


def test_levels_end_at_their_sizes_and_say_so(architecture, make_stage, data: DataSplits) -> None:
    stage = make_stage(replace(CONFIG, recipe=replace(RECIPE, epochs=1)), architecture=architecture)
    told = [stage.train_epoch()]
    assert (told[0].epoch, told[0].trial_epoch, told[0].num_epochs) == (1, 1, 1)
    for level, result, size in zip(stage.levels, stage.results, CONFIG.macs_kept, strict=True):
        assert result.macs == count_macs(level.network, data.input_shape)
        assert result.params == count_params(level.network)
        assert result.macs_kept == pytest.approx(size, rel=0.02)
        assert told[-1].levels[level.number - 1].macs_kept == result.macs_kept
        assert told[-1].levels[level.number - 1].val_accuracy == result.val_accuracy_before_recalibration
        assert (result.level, result.num_levels) == (level.number, 2)
        assert 0 < result.params_kept < 1


@pytest.mark.parametrize("architecture", ["vgg-small", "resnet18"])
def test_sizes_are_counted_in_parameters_where_pruning_says_so(architecture, make_stage) -> None:
    pruning = replace(CONFIG.pruning, size_in="params")
    stage = make_stage(
        replace(CONFIG, recipe=replace(RECIPE, epochs=1), pruning=pruning, macs_kept=(0.5, 0.2)),
        architecture=architecture,
    )
    (progress,) = [stage.train_epoch()]
    for result, size in zip(stage.results, (0.5, 0.2), strict=True):
        assert result.params_kept == pytest.approx(size, rel=0.02)
        assert progress.levels[result.level - 1].macs_kept == result.macs_kept != pytest.approx(size, rel=0.02)


@pytest.mark.parametrize("architecture", ["vgg-small", "resnet18"])
def test_sizes_are_milliseconds_of_the_table_where_pruning_says_so(architecture, make_stage, table_of) -> None:
    pruning = replace(CONFIG.pruning, size_in="latency")
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=1), pruning=pruning, macs_kept=(0.8, 0.6))
    table = table_of(architecture)
    stage = make_stage(config, architecture=architecture, table=table)
    (progress,) = [stage.train_epoch()]
    for level, result, size in zip(stage.levels, stage.results, (0.8, 0.6), strict=True):
        assert table.total(level.network) / table.full_ms == pytest.approx(size, rel=0.02)
        assert progress.levels[result.level - 1].macs_kept == result.macs_kept  # still of the MACs


def test_sizes_in_latency_are_refused_without_a_table(make_stage) -> None:
    with pytest.raises(InputError, match=r"pruning\.size_in is 'latency', but no layers' times were measured"):
        make_stage(replace(CONFIG, pruning=replace(CONFIG.pruning, size_in="latency")))


def test_statistics_are_measured_anew_in_the_end(make_stage, data: DataSplits) -> None:
    stage = run(make_stage())
    for level in stage.levels:
        again = copy.deepcopy(level.network)
        recalibrate(again, data, batch_size=RECIPE.batch_size, seed=CONFIG.seed)
        found = level.network.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in again.state_dict().items())


def test_every_epoch_has_an_order_of_its_own(make_stage, networks) -> None:
    teacher, _ = networks("vgg-small")
    stage = make_stage(teacher=teacher)
    seen: list[torch.Tensor] = []
    teacher.register_forward_pre_hook(lambda _network, inputs: seen.append(inputs[0]))
    epochs = []
    while not stage.finished:
        seen.clear()
        stage.train_epoch()
        epochs.append(torch.cat(seen))
    assert epochs[0].shape == epochs[1].shape == (64, 3, 16, 16)
    assert not torch.equal(epochs[0], epochs[1])
    torch.testing.assert_close(epochs[0].sort(dim=0).values, epochs[1].sort(dim=0).values)


def test_a_level_of_the_teachers_size_keeps_everything(make_stage) -> None:
    stage = run(make_stage(replace(CONFIG, macs_kept=(1.0, 0.5))))
    assert stage.results[0].macs_kept == stage.results[0].params_kept == 1.0
    assert stage.results[1].macs_kept == pytest.approx(0.5, rel=0.02)


def test_the_teacher_is_left_as_it_was(make_stage, networks) -> None:
    teacher, _ = networks("vgg-small")
    run(make_stage(teacher=teacher))
    wanted = networks("vgg-small")[0].state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in teacher.state_dict().items())


def test_each_level_learns_from_the_next_larger(make_stage, networks, data: DataSplits) -> None:
    stage = make_stage(replace(CONFIG, macs_kept=(0.6, 0.4, 0.2)))
    stage.levels[1].keep({name: kept[1:] for name, kept in stage.levels[1].kept.items()})
    stage.pruners[1].meter.reset(stage.levels[1].network, stage.levels[1].kept)
    images, labels = first_batch(data)
    for level in stage.levels:
        level.network.train()
        level.refresh()
    with torch.no_grad():
        teacher = networks("vgg-small")[0]
        logits = [teacher(images), *(level.network(images) for level in stage.levels)]
    wanted = [
        Objective().of_level(own, larger, labels, temperature=CONFIG.temperature, weight=CONFIG.distillation_weight)
        for larger, own in pairwise(logits)
    ]
    torch.testing.assert_close(stage.train_step(images, labels), torch.stack(wanted))


def test_bf16_gives_nearly_the_losses_and_saliencies_of_fp32(architecture, make_stage, data: DataSplits) -> None:
    told = {}
    for precision in ("fp32", "bf16"):
        stage = make_stage(replace(CONFIG, recipe=replace(RECIPE, precision=precision)), architecture=architecture)
        for level in stage.levels:
            level.network.eval()  # neither dropout nor statistics of few images
        losses = stage.train_step(*first_batch(data))
        scores = torch.cat(list(stage.pruners[0].meter.scores().values()))
        assert losses.dtype == torch.float32
        told[precision] = losses, scores
    assert torch.isfinite(told["bf16"][1]).all()
    torch.testing.assert_close(told["bf16"][0], told["fp32"][0], rtol=0.05, atol=0.02)
    scores = torch.stack([told["fp32"][1], told["bf16"][1]])
    assert torch.corrcoef(scores)[0, 1] > 0.9
    assert not torch.equal(scores[0], scores[1])


@pytest.mark.parametrize("shared_affine", [False, True])
def test_scores_of_level_1_do_not_see_level_2(make_stage, data: DataSplits, *, shared_affine: bool) -> None:
    """Level 2's size and what it keeps leave level 1's scores bit-identical, from the same weights."""
    pruning = replace(CONFIG.pruning, shared_affine=shared_affine)
    alone = make_stage(replace(CONFIG, macs_kept=(0.6,), pruning=pruning))
    beside = make_stage(replace(CONFIG, pruning=pruning))
    beside.levels[1].keep({name: kept[1:] for name, kept in beside.levels[1].kept.items()})
    beside.pruners[1].meter.reset(beside.levels[1].network, beside.levels[1].kept)
    for stage in (alone, beside):
        for level in stage.levels:
            level.network.train()
        stage.train_step(*first_batch(data))
    wanted, found = alone.pruners[0].meter.scores(), beside.pruners[0].meter.scores()
    assert all(scores.any() for scores in wanted.values())
    assert all(torch.equal(scores, found[name]) for name, scores in wanted.items())


def test_the_gradient_of_shared_weights_is_the_sum_over_levels(make_stage, data: DataSplits) -> None:
    both = make_stage(replace(CONFIG, recipe=replace(RECIPE, momentum=0.0, weight_decay=0.0)))
    images, labels = first_batch(data)
    for level in both.levels:
        level.network.eval()
    both.train_step(images, labels)
    weight = both.levels[0].shared.network.get_submodule("classifier").weight
    parts = [level.network.get_submodule("classifier").weight.grad for level in both.levels]
    torch.testing.assert_close(weight.grad, parts[0] + parts[1])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_no_level_keeps_is_cut_with_what_is_remembered_of_it_and_the_rest_is_untouched(
    make_stage, data: DataSplits, optimizer: Optimizer
) -> None:
    stage = make_stage(replace(CONFIG, recipe=replace(RECIPE, optimizer=optimizer, ema=0.9)))
    for level in stage.levels:
        level.network.train()
    for seed in range(3):
        stage.train_step(*first_batch(data, seed))
    shared, channel_map = stage.levels[0].shared, stage.levels[0].shared.channel_map
    weights = stage._joint.weights
    averages = {parameter: name for name, parameter in weights.parameters.items()}

    def held(parameter):
        state = [tensor for tensor in weights.optimizer.state[parameter].values() if tensor is not None and tensor.ndim]
        return [parameter.detach().clone(), weights.average.tensors[averages[parameter]], *state]

    before = {parameter: held(parameter) for parameter in weights.optimizer.state}
    assert {len(tensors) for tensors in before.values()} == {4 if optimizer == "adamw" else 3}
    stage._prune(1.0)
    for group in channel_map.groups:
        kept = [set(level.kept[group.name].tolist()) for level in stage.levels]
        assert set(shared.kept[group.name].tolist()) == kept[0] | kept[1]
    everything = channel_map.everything()
    stores = [(dict(shared.network.named_parameters()), shared.kept)]
    stores += [(level.private, level.kept) for level in stage.levels]
    num_cut = 0
    for parameters, kept in stores:
        indices = find_indices(shared.network, channel_map, wide=everything, narrow=kept)
        for name, parameter in parameters.items():
            assert parameter.grad.shape == parameter.shape
            for found, wide in zip(held(parameter), before[parameter], strict=True):
                assert torch.equal(found, pick(wide, indices[name]))
                num_cut += wide.numel() - found.numel()
    assert num_cut > 0


def test_a_checkpoint_and_what_is_trained_fall_with_the_largest_level(make_stage) -> None:
    stage = make_stage()
    sizes = []
    for _ in range(3):
        tensors, _ = stage.state()
        sizes.append(sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("weights.shared")))
        if not stage.finished:
            stage.train_epoch()
    assert sizes[1] < 0.8 * sizes[0]
    assert sizes[2] == sizes[1]  # levels are held


class Plain(nn.Sequential):
    """Without batch norm, where a batch is the sum of its parts."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=3), nn.ReLU(), nn.Flatten()
        super().__init__(*layers, nn.Linear(5 * 16, 4))


@pytest.mark.parametrize("parts", [2, 5, 8])
def test_micro_batches_give_the_gradients_losses_and_scores_of_the_batch(
    make_stage, data: DataSplits, parts: int
) -> None:
    stages = []
    for accumulate in (1, parts):
        recipe = replace(RECIPE, accumulate=accumulate, class_weights=(1.0, 2.0, 3.0, 4.0), label_smoothing=0.1)
        stage = make_stage(replace(CONFIG, recipe=recipe), teacher=Plain())
        stage.levels[1].keep({name: kept[1:] for name, kept in stage.levels[1].kept.items()})
        stage.pruners[1].meter.reset(stage.levels[1].network, stage.levels[1].kept)
        stages.append((stage, stage.train_step(*first_batch(data))))
    (whole, loss), (cut, cut_loss) = stages
    torch.testing.assert_close(cut_loss, loss)
    for name, parameter in whole._joint.weights.parameters.items():
        assert parameter.grad.any()
        torch.testing.assert_close(cut._joint.weights.parameters[name].grad, parameter.grad)
    for pruner, cut_pruner in zip(whole.pruners, cut.pruners, strict=True):
        assert pruner.meter.num_batches == cut_pruner.meter.num_batches == 1
        for group, scores in pruner.meter.scores().items():
            torch.testing.assert_close(cut_pruner.meter.scores()[group], scores, rtol=1e-3, atol=1e-10)


def test_levels_are_handed_on_with_averaged_weights(make_stage, data: DataSplits) -> None:
    """The average is that of a naive one, gathered at what a level keeps, with statistics that were measured for it."""
    stage = make_stage(replace(CONFIG, recipe=replace(RECIPE, ema=0.7)))
    first = {"shared.features.0.weight": stage.levels[0].shared}
    first |= {f"level-{level.number}.features.1.weight": level for level in stage.levels}
    wanted = {name: stage._joint.weights.parameters[name].detach().clone() for name in first}
    step = stage._joint.weights.optimizer.step

    def step_and_average() -> None:
        step()
        for name, holder in first.items():
            kept = holder.kept["features.0"]  # what is not kept is averaged no more
            wanted[name][kept] = 0.7 * wanted[name][kept] + 0.3 * stage._joint.weights.parameters[name].detach()

    stage._joint.weights.optimizer.step = step_and_average
    run(stage)
    for level, result in zip(stage.levels, stage.results, strict=True):
        kept = level.kept["features.0"]
        weight, scale = (level.network.get_submodule(f"features.{layer}").weight.detach() for layer in (0, 1))
        torch.testing.assert_close(weight, wanted["shared.features.0.weight"][kept])
        torch.testing.assert_close(scale, wanted[f"level-{level.number}.features.1.weight"][kept])
        again = copy.deepcopy(level.network)
        recalibrate(again, data, batch_size=RECIPE.batch_size, seed=CONFIG.seed)
        found = level.network.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in again.state_dict().items())
        assert result.val_accuracy == evaluate(level.network, data).accuracy
    # Training itself goes on from the weights, not from their average.
    kept = stage.levels[0].shared.kept["features.0"]
    assert not torch.equal(
        stage._joint.weights.parameters["shared.features.0.weight"], wanted["shared.features.0.weight"][kept]
    )


def test_averaging_changes_no_weight_in_training(make_stage) -> None:
    stages = (run(make_stage(replace(CONFIG, recipe=replace(RECIPE, ema=ema)))) for ema in (None, 0.9))
    plain, averaged = (stage._joint.weights.parameters for stage in stages)
    assert all(torch.equal(parameter, averaged[name]) for name, parameter in plain.items())


@pytest.mark.parametrize("nested", [False, True])
def test_nested_levels_are_subsets_at_every_size(make_stage, data: DataSplits, *, nested: bool) -> None:
    stage = make_stage(replace(CONFIG, macs_kept=(0.6, 0.4, 0.2), pruning=replace(CONFIG.pruning, nested=nested)))
    seen = []
    while not stage.finished:
        stage.train_epoch()
        sets = [{(g, c) for g, kept in level.kept.items() for c in kept.tolist()} for level in stage.levels]
        seen.append(sets[2] <= sets[1] <= sets[0])
    assert all(seen) is nested
    assert [r.macs_kept for r in stage.results] == pytest.approx([0.6, 0.4, 0.2], rel=0.02)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_nested_level_waits_for_the_smaller_one_where_that_is_in_its_way(make_stage, seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = vgg(plan=(3, 5, "pool", 6), num_classes=4, in_channels=3, width=1.0)
    config = replace(CONFIG, macs_kept=(0.7, 0.4), pruning=Pruning(num_prunings=4, nested=True), seed=seed)
    stage = run(make_stage(config, teacher=teacher))
    assert [result.macs_kept for result in stage.results] == pytest.approx(config.macs_kept, rel=0.02)


def test_where_what_the_smaller_level_keeps_is_in_the_way_the_failure_says_so(make_stage) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = vgg(plan=(3, 5, "pool", 6), num_classes=4, in_channels=3, width=1.0)
    config = replace(CONFIG, macs_kept=(0.6, 0.3), pruning=Pruning(num_prunings=1))
    run(make_stage(config, teacher=teacher))
    nested = replace(config, pruning=replace(config.pruning, nested=True))
    with pytest.raises(
        StageFailure, match=r"level 1, step \d+: .* of level 2, .*; set pruning\.nested: false, .* sizes$"
    ):
        run(make_stage(nested, teacher=teacher))


def test_rounding_and_floor_hold_in_the_end(make_stage) -> None:
    rounded = run(make_stage(replace(CONFIG, pruning=replace(CONFIG.pruning, round_to=2))))
    assert all(len(kept) % 2 == 0 for level in rounded.levels for kept in level.kept.values())
    floored = run(make_stage(replace(CONFIG, pruning=replace(CONFIG.pruning, min_channels=2))))
    assert all(len(kept) >= 2 for level in floored.levels for kept in level.kept.values())


@pytest.mark.parametrize("shared_affine", [False, True])
def test_levels_share_scale_and_shift_only_if_asked(make_stage, *, shared_affine: bool) -> None:
    stage = make_stage(
        replace(CONFIG, macs_kept=(1.0, 0.999), pruning=replace(CONFIG.pruning, shared_affine=shared_affine))
    )
    stage.train_epoch()
    first, second = (level.network.get_submodule("features.1") for level in stage.levels)
    kept = stage.levels[1].kept["features.0"]
    assert torch.equal(first.weight[kept], second.weight) is shared_affine
    assert torch.equal(first.bias[kept], second.bias) is shared_affine
    assert first.running_mean is not second.running_mean


def zero_initialised(networks) -> nn.Module:
    network, _ = networks("resnet18")
    network.layer1[0].bn1.weight.data.zero_()
    network.layer1[0].bn1.bias.data.zero_()
    network.layer1[0].conv2.weight.data.zero_()
    return network


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, recipe=replace(RECIPE, learning_rate=1e6)), "level [12].*(not finite|no longer finite)"),
        (replace(CONFIG, macs_kept=(0.6, 0.01)), "level 2, step [0-9]+: .*as close as whole channels come"),
        (
            replace(CONFIG, pruning=Pruning(num_prunings=1, round_to=16)),
            r"level 2, step 4: .*relax .*pruning\.round_to",
        ),
    ],
)
def test_failures_name_stage_level_and_step(make_stage, config: CascadeConfig, message: str) -> None:
    with pytest.raises(StageFailure, match=f"stage cascade, {message}") as caught:
        run(make_stage(config))
    assert caught.value.stage == "cascade"
    assert caught.value.level is not None
    assert caught.value.step is not None


def test_weights_that_diverge_in_the_last_step_fail_too(make_stage, monkeypatch) -> None:
    stage = make_stage(replace(CONFIG, recipe=replace(RECIPE, epochs=1)))
    train_step = stage.train_step

    def step_and_diverge(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = train_step(images, labels)
        if stage._steps_taken == 4:
            stage._joint.weights.parameters["shared.classifier.bias"].data[0] = math.inf
        return losses

    monkeypatch.setattr(stage, "train_step", step_and_diverge)
    with pytest.raises(StageFailure, match=r"^stage cascade, level 1, step 4: weights are no longer finite; lower the"):
        stage.train_epoch()


def test_a_group_that_is_cut_off_from_the_loss_is_named(make_stage, networks) -> None:
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=1))
    with pytest.raises(StageFailure, match=r"level 2, group layer1\.0\.conv1, step 1: saliency is zero"):
        run(make_stage(config, teacher=zero_initialised(networks)))


class Skipping(nn.Module):
    """Blocks beside shortcuts, of which some are left out in training by chance."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        inner = [nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(3)]
        self.inner = nn.ModuleList(inner)
        self.outer = nn.ModuleList([nn.Conv2d(16, 8, 1) for _ in range(3)])
        self.scores = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        for inner, outer in zip(self.inner, self.outer, strict=True):
            if not self.training or random.random() >= self.chance:
                x = x + outer(inner(x))
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


SKIPPING = replace(
    CONFIG, recipe=replace(RECIPE, epochs=4, execution="eager"), pruning=replace(CONFIG.pruning, num_prunings=8)
)


@pytest.mark.parametrize("changes", [{}, {"nested": True}, {"regrowth": 1.0}], ids=["plain", "nested", "regrown"])
def test_what_no_batch_has_run_since_the_last_pruning_stays_whole_and_goes_on_from_every_batch(
    make_stage, monkeypatch, tmp_path, changes
) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)
    torch.manual_seed(0)
    teacher = Skipping(0.5)
    config = replace(SKIPPING, pruning=replace(SKIPPING.pruning, **changes))
    whole, later = make_stage(config, teacher=teacher), make_stage(config, teacher=teacher)
    num_left_out = 0
    for pruner in whole.pruners:
        fall = pruner.fall

        def fall_and_look(fraction, *, protected, pruner=pruner, fall=fall):
            nonlocal num_left_out
            left_out = pruner.meter.left_out(pruner.meter.scores())
            before = {group: pruner.level.kept[group] for group in left_out}
            cuts = fall(fraction, protected=protected)
            assert all(torch.equal(pruner.level.kept[group], channels) for group, channels in before.items())
            num_left_out += len(left_out)
            return cuts

        monkeypatch.setattr(pruner, "fall", fall_and_look)
    run(whole)
    assert num_left_out > 0
    later.train_for(0.0)
    while not later.finished:
        save_state(tmp_path / "state", *later.state())
        later = make_stage(config, teacher=teacher)
        later.load_state(*load_state(tmp_path / "state"))
        later.train_for(0.0)
    assert later.results == whole.results
    for result, level, other in zip(whole.results, whole.levels, later.levels, strict=True):
        assert result.macs_kept == pytest.approx(config.macs_kept[result.level - 1], rel=0.02)
        assert all(torch.equal(level.kept[group], other.kept[group]) for group in level.kept)
        state = other.network.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in level.network.state_dict().items())


def test_what_no_batch_at_all_has_run_is_named_at_the_last_pruning(make_stage) -> None:
    with pytest.raises(StageFailure, match=r"level 2, group inner\.0\.0, step 8: no batch up to .* in pruning\.keep"):
        run(make_stage(SKIPPING, teacher=Skipping(1.0)))


def test_what_no_batch_at_all_has_run_is_named_where_its_size_is_met_before(make_stage) -> None:
    (pruner,) = make_stage(replace(SKIPPING, macs_kept=(0.6,)), teacher=Skipping(1.0)).pruners
    one_less_G = pruner.counts_G
    (runs,) = (place for place, group in enumerate(pruner.level.kept) if group.startswith("outer"))
    one_less_G[runs] -= 1
    size = pruner._sizes.total(one_less_G) / pruner.size  # which the first pruning comes to
    with pytest.raises(StageFailure, match=r"level 1, group inner\.0\.0, step 8: no batch up to"):
        run(make_stage(replace(SKIPPING, macs_kept=(size,)), teacher=Skipping(1.0)))


def test_a_size_that_is_missed_for_what_no_batch_has_run_says_so(make_stage) -> None:
    stage = make_stage(replace(SKIPPING, macs_kept=(0.6,)), teacher=Skipping(1.0))
    (pruner,) = stage.pruners
    pruner.meter.ever_ran = {group.name for group in stage._shared.channel_map.groups}  # before
    with pytest.raises(StageFailure, match=r"nothing could go from outer.*, which no batch .*num_prunings than 8"):
        stage._prune(1.0)


def test_a_user_s_criterion_that_gives_nan_is_blamed_on_its_group(make_stage, monkeypatch, tmp_path) -> None:
    (tmp_path / "nan_criterion.py").write_text(
        "def score(layers):\n    return layers[0].per_channel(layers[0].layer.bias.detach() * float('nan'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = replace(CONFIG, pruning=replace(CONFIG.pruning, saliency="nan_criterion:score"))
    with pytest.raises(StageFailure, match=r"level 2, group features\.0, step 1: saliency is not finite") as caught:
        run(make_stage(config))
    assert caught.value.group == "features.0"


def test_networks_that_cannot_be_narrowed_are_refused_before_work_starts(make_stage) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 196, 4))
    with pytest.raises(InputError, match="layer 1 is a GroupNorm"):
        make_stage(teacher=network)


def test_levels_learn_from_the_teacher_where_there_is_no_chain(make_stage, data: DataSplits) -> None:
    config = replace(CONFIG, distillation_weight=1.0, learns_from="teacher")
    chain, star = make_stage(replace(config, learns_from="level-above")), make_stage(config)
    images, labels = first_batch(data)
    teacher = copy.deepcopy(star._frozen_network)
    for stage in (chain, star):  # levels that have drifted from the teacher, each elsewhere
        for level in stage.levels:
            for name, parameter in level.private.items():
                parameter.data.mul_(1 + 0.2 * level.number if name.endswith("weight") else 1.0)
    logits = [level.network(images).detach() for level in _refreshed(star)]
    learnt_from = {"chain": [teacher(images), logits[0]], "star": [teacher(images)] * 2}
    for name, stage in (("chain", chain), ("star", star)):
        losses = stage.train_step(images, labels)
        for loss, own, larger in zip(losses, logits, learnt_from[name], strict=True):
            wanted = Objective().of_level(own, larger, labels, temperature=config.temperature, weight=1.0)
            torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)


def _refreshed(stage: CascadeStage):
    for level in stage.levels:
        level.refresh()
        yield copy.deepcopy(level)


def test_saliency_of_the_labels_alone_leaves_the_step_as_it_is(make_stage, data: DataSplits) -> None:
    recipe = replace(RECIPE, accumulate=2)
    labels_alone = replace(CONFIG, recipe=recipe, pruning=replace(CONFIG.pruning, saliency_loss="labels"))
    one, other = make_stage(replace(CONFIG, recipe=recipe)), make_stage(labels_alone)
    plain = make_stage(replace(CONFIG, recipe=recipe, distillation_weight=0.0))
    for stage in (one, other, plain):
        stage.train_step(*first_batch(data))
    for name, parameter in one._joint.weights.parameters.items():
        torch.testing.assert_close(other._joint.weights.parameters[name], parameter, rtol=1e-5, atol=1e-6)
    for mine, labels, own in zip(other.pruners, plain.pruners, one.pruners, strict=True):
        scores, wanted, differing = mine.meter.scores(), labels.meter.scores(), own.meter.scores()
        for group in scores:
            torch.testing.assert_close(scores[group], wanted[group], rtol=1e-3, atol=1e-9)
        assert any(not torch.allclose(scores[group], differing[group], rtol=0.1) for group in scores)


def test_the_teacher_does_not_run_where_nothing_is_learnt_from_it(make_stage, data: DataSplits) -> None:
    stage = make_stage(replace(CONFIG, distillation_weight=0.0))
    calls: list[int] = []
    stage._frozen_network.register_forward_hook(lambda *_: calls.append(1))
    stage.train_step(*first_batch(data))
    assert not calls
    stage = make_stage()
    stage._frozen_network.register_forward_hook(lambda *_: calls.append(1))
    stage.train_step(*first_batch(data))
    assert calls == [1]


def test_one_step_of_some_asks_the_teacher_and_the_others_learn_from_labels_and_the_level_above(
    make_stage, data: DataSplits
) -> None:
    stage = make_stage(replace(CONFIG, teacher_every=3, recipe=replace(RECIPE, learning_rate=1e-9)))
    calls: list[int] = []
    stage._frozen_network.register_forward_hook(lambda *_: calls.append(len(asked)))
    images, labels = first_batch(data)
    asked: list[torch.Tensor] = []
    for _ in range(6):
        asked.append(stage.train_step(images, labels))
    assert calls == [0, 3]
    first, second = (level.network(images).detach() for level in _refreshed(stage))
    of_labels = nn.functional.cross_entropy(first, labels)
    of_both = Objective().of_level(
        second, first, labels, temperature=CONFIG.temperature, weight=CONFIG.distillation_weight
    )
    for losses in (*asked[1:3], *asked[4:6]):
        torch.testing.assert_close(losses, torch.stack([of_labels, of_both]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(asked[0][0], of_labels, rtol=1e-2)
