"""A trial: its stages, the same seed twice, and going on where it stopped, bit for bit."""

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.trainables.louder import LouderEachTime
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, StageFailure
from trainables.files.states import load_state, save_state
from trainables.identity import digest
from trainables.plan import stage_plans
from trainables.pruning.cost import LatencyTable, count_macs, count_params
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.results import EpochProgress, Reused
from trainables.stages import midway
from trainables.stages.evaluation import evaluate
from trainables.trial import CascadeTrial, FinishedStages
from trainables.trial import progress as how_far

CONFIG = CascadeConfig(
    macs_kept=(0.6, 0.3), recipe=Recipe(epochs=4, batch_size=16, learning_rate=0.02), pruning=Pruning(num_prunings=3)
)
KINDS = {
    "joint": CONFIG,
    "sequential": replace(CONFIG, schedule="sequential"),
    "joint, recovery": replace(CONFIG, recovery_epochs=1),
    "sequential, recovery": replace(CONFIG, schedule="sequential", recovery_epochs=1),
    "nested": replace(CONFIG, pruning=replace(CONFIG.pruning, nested=True)),
    "bf16, features, smaller levels count more": replace(
        CONFIG, recipe=replace(CONFIG.recipe, precision="bf16"), feature_weight=3.0, level_weight_growth=4.0
    ),
    "shared affine": replace(CONFIG, pruning=replace(CONFIG.pruning, shared_affine=True)),
    "adamw": replace(
        CONFIG,
        recipe=replace(CONFIG.recipe, optimizer="adamw", learning_rate=0.005, learning_rate_schedule="one-cycle"),
    ),
    "averaged": replace(
        CONFIG, recipe=replace(CONFIG.recipe, ema=0.8, accumulate=3, mix="both", class_weights="balanced")
    ),
    "remembered": replace(CONFIG, schedule="sequential", teacher_views=1),
    "regrown": replace(
        CONFIG, recipe=replace(CONFIG.recipe, ema=0.8), pruning=replace(CONFIG.pruning, regrowth=1.0, num_prunings=4)
    ),
}
IN_LATENCY = replace(
    KINDS["sequential, recovery"], macs_kept=(0.8, 0.6), pruning=replace(CONFIG.pruning, size_in="latency")
)


@pytest.fixture
def make_trial(networks, data: DataSplits, table_of) -> Callable[..., CascadeTrial]:
    def make(
        config: CascadeConfig = CONFIG,
        stages: FinishedStages | None = None,
        latency: LatencyTable | None = None,
        layout: torch.memory_format = torch.contiguous_format,
        frozen: tuple[str, ...] = (),
    ) -> CascadeTrial:
        teacher, _ = networks("own")
        for name in frozen:
            teacher.get_parameter(name).requires_grad_(requires_grad=False)
        teacher.to(memory_format=layout)
        if config.pruning.size_in == "latency" and latency is None:
            latency = table_of("own")
        return CascadeTrial(
            teacher, config=config, data=data, augmentation="crop-flip", finished_stages=stages, latency=latency
        )

    return make


def without_times(progress: EpochProgress) -> EpochProgress:
    return replace(progress, seconds=0.0)


def assert_equal(first: CascadeTrial, second: CascadeTrial) -> None:
    assert first.results == second.results
    assert first.networks.keys() == second.networks.keys()
    for level, network in first.networks.items():
        other = second.networks[level].state_dict()
        assert all(torch.equal(tensor, other[name]) for name, tensor in network.state_dict().items())


@given(st.integers(1, 6), st.integers(0, 40))
def test_stages_share_the_epochs_out(num_levels: int, more: int) -> None:
    sizes = tuple(0.9**level for level in range(1, num_levels + 1))
    recipe = Recipe(epochs=num_levels + more)
    (joint,) = stage_plans(CascadeConfig(macs_kept=sizes, recipe=recipe))
    assert (joint.name, joint.levels, joint.first_epoch) == ("cascade", tuple(range(1, num_levels + 1)), 0)
    assert joint.epochs == recipe.epochs
    plans = stage_plans(CascadeConfig(macs_kept=sizes, recipe=recipe, schedule="sequential"))
    assert [plan.name for plan in plans] == [f"level-{level}" for level in range(1, num_levels + 1)]
    assert [plan.levels for plan in plans] == [(level,) for level in range(1, num_levels + 1)]
    shares = [plan.epochs for plan in plans]
    assert sum(shares) == recipe.epochs
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] <= 1
    assert [plan.first_epoch for plan in plans] == [sum(shares[:index]) for index in range(num_levels)]


@given(st.integers(1, 5), st.integers(0, 40), st.floats(0.1, 10))
def test_epochs_grow_from_level_to_level(num_levels: int, more: int, growth: float) -> None:
    sizes = tuple(0.9**level for level in range(1, num_levels + 1))
    config = CascadeConfig(
        macs_kept=sizes, recipe=Recipe(epochs=num_levels + more), schedule="sequential", epoch_growth=growth
    )
    shares = [plan.epochs for plan in stage_plans(config)]
    assert sum(shares) == num_levels + more
    assert min(shares) >= 1
    assert shares == sorted(shares, reverse=growth < 1)


def test_four_times_the_epochs_are_a_fifth_and_four() -> None:
    config = CascadeConfig(macs_kept=(0.5, 0.2), recipe=Recipe(epochs=20), schedule="sequential", epoch_growth=4.0)
    assert [plan.epochs for plan in stage_plans(config)] == [4, 16]


@pytest.mark.parametrize(
    ("schedule", "stages"),
    [
        ("joint", ["cascade", "recovery-1", "recovery-2"]),
        ("sequential", ["level-1", "recovery-1", "level-2", "recovery-2"]),
    ],
)
def test_each_level_is_recovered_before_the_next_one_learns_from_it(schedule: str, stages: list[str]) -> None:
    config = replace(CONFIG, schedule=schedule, recovery_epochs=3)
    plans = stage_plans(config)
    assert [plan.name for plan in plans] == stages
    assert [plan.epochs for plan in plans if plan.kind == "recovery"] == [3, 3]
    assert [plan.first_epoch for plan in plans] == [sum(p.epochs for p in plans[:i]) for i in range(len(plans))]
    assert sum(plan.epochs for plan in plans) == config.num_epochs == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_gives_a_network_and_a_result_for_each_level_and_an_equal_one_takes_them_over(
    make_trial, data: DataSplits, kind: str
) -> None:
    stages = InMemory()
    trial, equal = make_trial(KINDS[kind], stages), make_trial(KINDS[kind], stages)
    told = list(trial.run())
    assert trial.finished
    assert [progress.trial_epoch for progress in told] == list(range(1, KINDS[kind].num_epochs + 1))
    assert list(trial.networks) == [result.level for result in trial.results] == [1, 2]
    for result, size in zip(trial.results, (0.6, 0.3), strict=True):
        network = trial.networks[result.level]
        assert result.macs_kept == pytest.approx(size, rel=0.02)
        assert result.macs == count_macs(network, data.input_shape)
        assert result.params == count_params(network)
        assert result.val_accuracy == evaluate(network, data).accuracy
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert [progress.stage for progress in told] == [
        plan.name for plan in stage_plans(KINDS[kind]) for _ in range(plan.epochs)
    ]
    assert list(equal.run()) == told  # to the second, as they are the same epochs
    assert_equal(trial, equal)
    assert trial.reused == Reused()
    assert equal.reused.stages == tuple(plan.name for plan in stage_plans(KINDS[kind]))
    assert equal.reused.epochs == KINDS[kind].num_epochs
    assert equal.reused.seconds == pytest.approx(sum(progress.seconds for progress in told))
    assert equal.finished
    assert equal.take_over() == ()


def test_a_sequential_level_starts_from_the_one_before(make_trial) -> None:
    pruning = replace(CONFIG.pruning, ramp_fraction=0.9)
    trial = make_trial(replace(KINDS["sequential"], macs_kept=(0.3, 0.29), pruning=pruning))
    told = list(trial.run())
    assert told[2].levels[0].macs_kept <= trial.results[0].macs_kept  # in the midst of its ramp
    widths = [{name: t.shape for name, t in trial.networks[level].state_dict().items()} for level in (1, 2)]
    assert all(
        small <= large for name in widths[0] for small, large in zip(widths[1][name], widths[0][name], strict=True)
    )


class Grouped(nn.Module):
    """A network whose one grouped convolution is left with a single group at a third of its size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
        )

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        scores_NK: torch.Tensor = self.body(images_NCHW)
        return scores_NK


def test_a_trial_goes_on_whose_grouped_convolution_has_but_one_group_of_which_channels_went(
    data: DataSplits, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    teacher = Grouped()
    config = replace(KINDS["sequential"], macs_kept=(0.35, 0.15))
    whole, again = (CascadeTrial(teacher, config=config, data=data) for _ in range(2))
    list(whole.run())
    shapes = [whole.networks[level].get_parameter("body.3.weight").shape[:2] for level in (1, 2)]
    assert shapes[0] == (4, 4)
    assert min(shapes[1]) < 4
    save_state(tmp_path / "state", *whole.state())
    again.load_state(*load_state(tmp_path / "state"))
    assert_equal(whole, again)


def test_a_stage_that_is_done_takes_no_memory_until_python_looks_for_circles(make_trial) -> None:
    trial = make_trial(KINDS["sequential, recovery"])
    gc.collect()
    gc.disable()
    try:
        stages = {}
        while not trial.finished:
            stage = trial._stage
            stages.setdefault(stage.name, [weakref.ref(stage._joint), weakref.ref(stage._shared.network)])
            del stage
            trial.train_epoch()
        assert len(stages) == len(stage_plans(KINDS["sequential, recovery"]))
        del trial
        assert [name for name, parts in stages.items() if any(part() is not None for part in parts)] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["joint", "sequential"])
def test_the_seed_alone_decides(make_trial, kind: str) -> None:
    first, again, other = (make_trial(replace(KINDS[kind], seed=seed)) for seed in (0, 0, 1))
    told = []
    for number, trial in enumerate((first, again, other)):
        torch.manual_seed(number)  # no random choice may come from here
        told.append([without_times(progress) for progress in trial.run()])
    assert_equal(first, again)
    assert told[0] == told[1]
    assert told[0] != told[2]


def saved_and_read(trial: CascadeTrial, fresh: CascadeTrial, path: Path) -> CascadeTrial:
    """Another trial in the state of this one, which is as it was."""
    tensors, values = trial.state()
    save_state(path, tensors, values)
    fresh.load_state(*load_state(path))
    found, plain = fresh.state()
    assert values == plain
    assert tensors.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in tensors.items())
    return fresh


FROM_EVERY_BATCH = {kind: KINDS[kind] for kind in ("sequential, recovery", "averaged", "remembered", "regrown")}
WITHOUT_MORE = ("joint", "sequential")  # which others are too, and something else beside
FROM_EVERY_EPOCH = {kind: KINDS[kind] for kind in KINDS if kind not in (*FROM_EVERY_BATCH, *WITHOUT_MORE)}
CHANNELS_LAST = {"adamw": KINDS["adamw"], "regrown": KINDS["regrown"], "sequential, recovery, in latency": IN_LATENCY}


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        *((config, torch.contiguous_format) for config in FROM_EVERY_EPOCH.values()),
        *((config, torch.channels_last) for config in CHANNELS_LAST.values()),
    ],
    ids=[*FROM_EVERY_EPOCH, *(f"{kind}, channels last" for kind in CHANNELS_LAST)],
)
def test_a_trial_goes_on_from_every_epoch_as_if_it_had_not_stopped(
    make_trial, tmp_path: Path, config: CascadeConfig, layout: torch.memory_format
) -> None:
    # Channels go between the ends of epochs, so that saliency is half gathered where the trial stops.
    pruning = replace(config.pruning, num_prunings=3, ramp_fraction=0.8)
    config = replace(config, recipe=replace(config.recipe, epochs=3), pruning=pruning)
    whole, later = (make_trial(config, layout=layout) for _ in range(2))
    wanted = [without_times(progress) for progress in whole.run()]
    for epoch in range(config.num_epochs + 1):
        later = saved_and_read(later, make_trial(config, layout=layout), tmp_path / "state")
        assert later.finished == (epoch == config.num_epochs)
        if not later.finished:
            assert without_times(later.train_epoch()) == wanted[epoch]
    assert_equal(whole, later)


@pytest.mark.parametrize(
    "config",
    [*FROM_EVERY_BATCH.values(), replace(CONFIG, macs_kept=(0.8, 0.7, 0.6, 0.5), levels_a_step=3)],
    ids=[*FROM_EVERY_BATCH, "some levels a step"],
)
def test_a_trial_goes_on_from_every_batch_as_if_it_had_not_stopped(
    make_trial, tmp_path: Path, monkeypatch, config: CascadeConfig
) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)
    config = replace(config, recipe=replace(config.recipe, epochs=2))
    whole, later = make_trial(config), make_trial(config)
    wanted = [without_times(progress) for progress in whole.run()]
    told, places = [], []
    while not later.finished:
        torch.manual_seed(len(places))  # no random choice may come from here
        found = later.train_for(0.0)
        told += [] if found is None else [without_times(found)]
        places.append(how_far(later.state()[1]))
        later = saved_and_read(later, make_trial(config), tmp_path / "state")
    assert told == wanted
    assert_equal(whole, later)
    assert places == sorted(set(places))
    assert len(places) == 4 * len(wanted)


def test_a_buffer_that_is_not_saved_with_the_network_goes_on_from_stage_to_stage(
    data: DataSplits, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), LouderEachTime()]
    teacher = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    config = replace(KINDS["joint, recovery"], recipe=replace(CONFIG.recipe, epochs=2))
    whole, later = (CascadeTrial(teacher, config=config, data=data) for _ in range(2))
    list(whole.run())
    while not later.finished:
        later.train_epoch()
        save_state(tmp_path / "state", *later.state())
        later = CascadeTrial(teacher, config=config, data=data)
        later.load_state(*load_state(tmp_path / "state"))
    assert_equal(whole, later)
    for level, network in whole.networks.items():
        assert float(network[4].seen) == float(later.networks[level][4].seen) > 0
    tensors, values = later.state()
    earlier = CascadeTrial(teacher, config=config, data=data)
    earlier.load_state({name: t for name, t in tensors.items() if not name.startswith("buffers")}, values)
    assert earlier.results == whole.results


def test_as_many_batches_are_trained_as_fit_into_the_seconds(make_trial, monkeypatch) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 2)
    monkeypatch.setattr(midway.time, "perf_counter", iter(range(0, 1000, 10)).__next__)
    trial = make_trial()
    assert trial.train_for(15.0) is None  # ten seconds for two batches
    assert trial.epochs_done == 3 / 4
    trial.stop()
    assert trial.results == ()


def test_a_trial_within_its_first_epoch_takes_over_nothing(make_trial, monkeypatch) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)
    stages = InMemory()
    trial, other = make_trial(stages=stages), make_trial(stages=stages)
    assert trial.take_over() == ()
    assert trial.train_for(0.0) is None
    list(other.run())
    assert trial.take_over() == ()
    assert other.results == (list(trial.run()), trial.results)[1]


def test_a_trial_of_several_labels_learns_and_goes_on_where_it_stopped(data: DataSplits, networks) -> None:
    def with_neighbours(labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(labels, 4).bool() | (torch.arange(4) == 3)  # the last class is always there

    train, val = (replace(part, labels_N=with_neighbours(part.labels_N)) for part in (data.train, data.val))
    several = replace(data, train=train, val=val)
    recipe = replace(CONFIG.recipe, epochs=6, learning_rate=0.2, mix="mixup", mix_alpha=0.1, ema=0.5)
    teacher, _ = networks("vgg-small")

    def trial() -> CascadeTrial:
        return CascadeTrial(teacher, config=replace(CONFIG, recipe=recipe, distillation_weight=0.1), data=several)

    whole, stopped, later = trial(), trial(), trial()
    told = list(whole.run())
    stopped.train_epoch()
    later.load_state(*stopped.state())
    assert [without_times(progress) for progress in later.run()] == [without_times(progress) for progress in told[1:]]
    assert_equal(whole, later)
    assert told[-1].levels[0].train_loss < told[0].levels[0].train_loss
    assert all(result.val_accuracy > 0.7 and result.val_top5 is None for result in whole.results)


def test_a_state_may_be_loaded_over_a_trial_that_has_run(make_trial) -> None:
    trial = make_trial(KINDS["sequential"])
    trial.train_epoch()
    tensors, values = trial.state()
    tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    wanted = [without_times(progress) for progress in trial.run()]
    results = trial.results
    trial.load_state(tensors, values)
    assert [without_times(progress) for progress in trial.run()] == wanted
    assert trial.results == results


def test_levels_learn_although_they_shrink(data: DataSplits, networks) -> None:
    teacher, _ = networks("vgg-small")
    recipe = Recipe(epochs=12, batch_size=16, learning_rate=0.05)
    config = replace(CONFIG, recipe=recipe, distillation_weight=0.0)  # this teacher has nothing to teach
    trial = CascadeTrial(teacher, config=config, data=data)
    list(trial.run())
    assert evaluate(teacher, data).accuracy < 0.5
    assert min(result.val_accuracy for result in trial.results) > 0.9


def test_the_teacher_is_left_as_it_was(networks, data: DataSplits) -> None:
    teacher, _ = networks("own")
    teacher.train()
    list(CascadeTrial(teacher, config=CONFIG, data=data).run())
    wanted = networks("own")[0].state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in teacher.state_dict().items())
    assert teacher.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


def test_a_failure_in_a_later_stage_names_it(make_trial) -> None:
    config = replace(CONFIG, macs_kept=(0.6, 0.001), schedule="sequential")
    message = r"stage level-2, level 2, step \d+: .*as close as .*; level 2 can only keep what level 1 has left.* joint"
    with pytest.raises(StageFailure, match=message):
        list(make_trial(config).run())
    with pytest.raises(
        StageFailure, match=r"stage cascade, level 2, .*as close as .*, pruning\.round_to or pruning\.keep$"
    ):
        list(make_trial(replace(config, schedule="joint")).run())


def test_an_unknown_criterion_is_refused_before_work_starts(make_trial) -> None:
    with pytest.raises(InputError, match=r"pruning\.saliency is 'taylor'"):
        make_trial(replace(CONFIG, pruning=Pruning(saliency="taylor")))


def test_a_states_values_are_plain(make_trial) -> None:
    trial = make_trial(KINDS["sequential"])
    list(trial.run())
    _, values = trial.state()
    assert values["results"] == [asdict(result) for result in trial.results]
    assert values["num_stages_done"] == 2


class InMemory:
    """Finished stages of one process."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[dict, dict]] = {}
        self.claimed: list[str] = []

    def find_or_claim(self, identity):
        found = self.kept.get(digest(identity))
        self.claimed += [] if found else [identity["stage"]]
        return found

    def keep(self, identity, tensors, values):
        copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.kept[digest(identity)] = copies, json.loads(json.dumps(values))
        self.release()

    def release(self):
        self.claimed.clear()


def test_a_common_prefix_is_computed_once_and_the_rest_is_as_if_it_had_not_been(make_trial) -> None:
    stages = InMemory()
    list(make_trial(KINDS["sequential"], stages).run())
    config = replace(KINDS["sequential"], macs_kept=(0.6, 0.2))
    alone, sharing = make_trial(config), make_trial(config, stages)
    wanted = [without_times(progress) for progress in alone.run()]
    taken = sharing.take_over()
    assert [progress.stage for progress in taken] == ["level-1", "level-1"]
    assert stages.claimed == ["level-2"]
    assert [without_times(progress) for progress in (*taken, *sharing.run())] == wanted
    assert sharing.reused.stages == ("level-1",)
    assert stages.claimed == []
    assert_equal(alone, sharing)


def test_a_stage_of_a_longer_cascade_says_how_many_levels_this_one_has(make_trial) -> None:
    stages = InMemory()
    list(make_trial(replace(KINDS["sequential"], macs_kept=(0.6, 0.3)), stages).run())
    short = replace(KINDS["sequential"], macs_kept=(0.6,), recipe=replace(CONFIG.recipe, epochs=2))
    trial = make_trial(short, stages)
    list(trial.run())
    assert trial.reused.stages == ("level-1",)
    assert [result.num_levels for result in trial.results] == [1]


def test_what_was_reused_survives_a_stop(make_trial, tmp_path: Path) -> None:
    stages = InMemory()
    list(make_trial(KINDS["sequential"], stages).run())
    config = replace(KINDS["sequential"], macs_kept=(0.6, 0.2))
    trial = make_trial(config, stages)
    trial.take_over()
    trial.train_epoch()
    save_state(tmp_path / "state", *trial.state())
    later = make_trial(config, stages)
    later.load_state(*load_state(tmp_path / "state"))
    assert later.take_over() == ()  # it is in the midst of a stage
    list(later.run())
    assert later.reused == trial.reused
    again = make_trial(config, stages)
    told = list(again.run())
    assert again.reused.stages == ("level-1", "level-2")
    assert [progress.trial_epoch for progress in told] == [1, 2, 3, 4]  # the epoch before the stop is among them


def test_standing_is_of_the_levels_known_so_far_at_the_sizes_asked(make_trial, tmp_path: Path) -> None:
    trial = make_trial(KINDS["sequential"])
    assert (trial.standing.fraction, trial.standing.points) == (0.0, ())
    stood = []
    for progress in trial.run():
        stood.append(trial.standing)
        if progress.trial_epoch == 3:
            save_state(tmp_path / "state", *trial.state())
            assert trial.standing.points[1]["val_accuracy"] == progress.levels[0].val_accuracy
    assert [standing.fraction for standing in stood] == [0.25, 0.5, 0.75, 1.0]
    assert [[point["macs_kept"] for point in standing.points] for standing in stood] == [[0.6]] * 2 + [[0.6, 0.3]] * 2
    assert all(standing.points[0]["val_accuracy"] == trial.results[0].val_accuracy for standing in stood[1:])
    later = make_trial(KINDS["sequential"])
    later.load_state(*load_state(tmp_path / "state"))
    assert later.standing == stood[2]
    assert json.loads(json.dumps(later.standing.to_dict()))["points"] == list(stood[2].points)


def test_standing_of_a_trial_that_took_over_everything_is_at_its_end(make_trial) -> None:
    stages = InMemory()
    list(make_trial(CONFIG, stages).run())
    trial = make_trial(CONFIG, stages)
    trial.take_over()
    assert trial.standing.fraction == 1.0
    assert [point["macs_kept"] for point in trial.standing.points] == [0.6, 0.3]


@pytest.mark.parametrize(
    ("kind", "epochs", "fidelities"),
    [
        ("joint", 1, []),
        ("joint", 2, [0.5, 0.5]),
        ("joint", 3, [0.75, 0.75]),
        ("sequential", 0, []),
        ("sequential", 2, [1.0]),
        ("sequential", 3, [1.0, 0.5]),
        ("joint, recovery", 4, [0.8, 0.8]),
        ("joint, recovery", 5, [1.0, 0.8]),
        ("sequential, recovery", 2, [2 / 3]),
    ],
)
def test_a_stop_gives_the_levels_that_have_their_sizes(
    make_trial, data: DataSplits, kind: str, epochs: int, fidelities: list[float]
) -> None:
    stages = InMemory()
    trial = make_trial(KINDS[kind], stages)
    trial.take_over()
    for _ in range(epochs):
        trial.train_epoch()
    trial.stop()
    assert stages.claimed == []
    assert [result.fidelity for result in trial.results] == fidelities
    assert list(trial.networks) == [result.level for result in trial.results]
    for result, size in zip(trial.results, (0.6, 0.3), strict=False):
        network = trial.networks[result.level]
        assert result.macs == count_macs(network, data.input_shape)
        assert result.macs_kept == pytest.approx(size, rel=0.02)
        assert result.val_accuracy == evaluate(network, data).accuracy


def test_a_stop_within_the_first_epoch_counts_the_part_that_was_trained(make_trial, monkeypatch) -> None:
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)
    at_once = replace(CONFIG.pruning, num_prunings=1, ramp_fraction=0.01)
    trial = make_trial(replace(CONFIG, pruning=at_once))
    assert trial.train_for(0.0) is None
    trial.stop()
    num_steps = CONFIG.recipe.epochs * (64 // CONFIG.recipe.batch_size)
    assert [result.fidelity for result in trial.results] == [1 / num_steps] * 2


def test_a_stop_keeps_no_unfinished_stage_for_others(make_trial) -> None:
    stages = InMemory()
    trial = make_trial(KINDS["sequential"], stages)
    for _ in range(3):
        trial.take_over()
        trial.train_epoch()
    trial.stop()
    assert len(stages.kept) == 1


def test_a_finished_trial_is_fully_trained_and_a_stop_changes_nothing(make_trial) -> None:
    trial = make_trial()
    list(trial.run())
    before = trial.results
    trial.stop()
    assert trial.results == before
    assert [result.fidelity for result in before] == [1.0, 1.0]


def test_sizes_in_latency_hold_for_every_level_and_stages_of_other_times_are_not_taken(make_trial, table_of) -> None:
    stages, table = InMemory(), table_of("own")
    trial = make_run(make_trial(IN_LATENCY, stages, table))
    for level, size in ((1, 0.8), (2, 0.6)):
        assert table.total(trial.networks[level]) / table.full_ms == pytest.approx(size, rel=0.02)
    same = make_trial(IN_LATENCY, stages, LatencyTable.from_dict(table.to_dict()))
    same.take_over()
    assert same.finished
    assert_equal(trial, same)
    other = make_trial(IN_LATENCY, stages, replace(table, fixed_ms=table.fixed_ms + 1))
    assert other.take_over() == ()


def test_a_recovery_trains_one_level_alone_and_changes_no_size(make_trial) -> None:
    trial = make_trial(KINDS["joint, recovery"])
    for _ in range(4):
        trial.train_epoch()
    before = dict(trial.networks)
    sizes = [(result.macs, result.params) for result in trial.results]
    found = trial.results
    trained = trial._stage.levels[0]
    (progress,) = [trial.train_epoch()]
    assert (progress.stage, [level.level for level in progress.levels]) == ("recovery-1", [1])
    assert progress.levels[0].macs_kept == found[0].macs_kept
    now, then = trained.network.state_dict(), before[1].state_dict()
    assert all(tensor.shape == then[name].shape for name, tensor in now.items())
    assert not torch.equal(now["merged.weight"], then["merged.weight"])
    assert trial.networks[2] is before[2]
    trial.train_epoch()
    assert trial.finished
    assert [(result.macs, result.params) for result in trial.results] == sizes
    assert all(now.val_accuracy >= then.val_accuracy for now, then in zip(trial.results, found, strict=True))


class TwoChannels(nn.Module):
    """A network of two groups, of each of which one channel stays at 0.4 of its MACs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 3, padding=1)
        self.body = nn.Conv2d(2, 2, 3, padding=1)
        self.scores = nn.Linear(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.body(self.stem(x).relu()).mean((2, 3)))
        return scores


@pytest.mark.parametrize("kind", ["joint, recovery", "sequential, recovery"])
@pytest.mark.parametrize("changes", [{}, {"feature_weight": 1.0}])
def test_a_network_with_one_channel_a_group_is_recovered_too(data: DataSplits, kind: str, changes: dict) -> None:
    config = replace(KINDS[kind], macs_kept=(0.4,), **changes)
    trial = CascadeTrial(TwoChannels(), config=config, data=data)
    assert [epoch.stage for epoch in trial.run()][-1] == "recovery-1"
    assert trial.networks[1].body.weight.shape[:2] == (1, 1)
    (result,) = trial.results
    assert result.macs == count_macs(trial.networks[1], data.input_shape)


FROZEN = ("stem.0.weight", "stem.1.weight", "stem.1.bias", "scores.bias")


def filters(network: nn.Module) -> list[tuple[float, ...]]:
    """What is frozen of each channel of the stem."""
    state = network.state_dict()
    weight, scale, shift = (state[name].flatten(1) if state[name].ndim > 1 else state[name] for name in FROZEN[:3])
    return [tuple(row) for row in torch.column_stack([weight, scale, shift]).tolist()]


@pytest.mark.parametrize(
    "kind", ["joint, recovery", "sequential, recovery", "shared affine", "adamw", "averaged", "regrown"]
)
def test_what_the_user_froze_stays_in_every_level_and_may_be_cut(make_trial, networks, tmp_path: Path, kind) -> None:
    teacher, _ = networks("own")
    recipe = replace(KINDS[kind].recipe, weight_decay=0.1, epochs=2)
    config = replace(KINDS[kind], recipe=recipe)
    trial, whole = make_trial(config, frozen=FROZEN), make_trial(config, frozen=FROZEN)
    while not trial.finished:
        trial.train_epoch()
        for level in trial._stage.levels:  # of a recovery too, which may be thrown away
            assert set(filters(level.network)) <= set(filters(teacher))
        save_state(tmp_path / "state", *trial.state())
        trial = make_trial(config, frozen=FROZEN)
        trial.load_state(*load_state(tmp_path / "state"))
    list(whole.run())
    assert_equal(whole, trial)
    for network in trial.networks.values():
        assert len(filters(network)) < len(filters(teacher))
        assert set(filters(network)) <= set(filters(teacher))
        assert torch.equal(network.scores.bias, teacher.scores.bias)
        assert not torch.equal(network.plain.bias, teacher.plain.bias[: len(network.plain.bias)])


def test_levels_of_a_network_that_is_all_frozen_are_trained(make_trial, networks) -> None:
    teacher, _ = networks("own")
    trial = make_trial(frozen=tuple(name for name, _ in teacher.named_parameters()))
    trial.train_epoch()
    assert not torch.equal(trial._stage.levels[0].network.scores.bias, teacher.scores.bias)


def test_a_recovered_network_is_taken_unless_validation_finds_it_worse(make_trial) -> None:
    kept, taken = make_trial(KINDS["joint, recovery"]), make_trial(KINDS["joint, recovery"])
    for trial, known in ((kept, 1.0), (taken, 0.0)):
        for _ in range(4):
            trial.train_epoch()
        trial.results = tuple(replace(result, val_accuracy=known) for result in trial.results)
        before = trial.networks[1]
        trial.train_epoch()
        assert (trial.networks[1] is before) == (trial is kept)
    assert kept.results[0].val_accuracy == 1.0
    assert taken.results[0].val_accuracy == evaluate(taken.networks[1], taken._data).accuracy


def test_a_smaller_level_learns_from_the_recovered_one(make_trial) -> None:
    for kind in ("joint, recovery", "sequential, recovery"):
        trial = make_trial(KINDS[kind])
        while trial._stage.plan.name not in ("recovery-2", "level-2"):
            trial.train_epoch()
        assert trial._stage._frozen_network is trial.networks[1]


def test_a_cascade_is_found_done_by_one_that_adds_a_recovery(make_trial) -> None:
    stages = InMemory()
    list(make_trial(CONFIG, stages).run())
    trial = make_trial(KINDS["joint, recovery"], stages)
    told = list(trial.run())
    assert trial.reused.stages == ("cascade",)
    assert [progress.trial_epoch for progress in told] == [1, 2, 3, 4, 5, 6]
    assert_equal(trial, make_run(make_trial(KINDS["joint, recovery"])))


def make_run(trial: CascadeTrial) -> CascadeTrial:
    list(trial.run())
    return trial


def test_without_a_chain_a_sequential_level_learns_from_the_teacher_and_starts_from_the_one_before(make_trial) -> None:
    trial = make_trial(replace(KINDS["sequential"], learns_from="teacher"))
    while 1 not in trial.networks:
        trial.train_epoch()
    stage = trial._stage
    assert stage._frozen_network is trial._teacher
    for name, tensor in stage._shared.network.state_dict().items():
        assert torch.equal(tensor, trial.networks[1].state_dict()[name]), name
