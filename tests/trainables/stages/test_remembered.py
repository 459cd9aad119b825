"""What a frozen network said is remembered: the same steps as if it were asked again, and it is asked less often."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import num_batches
from trainables.errors import InputError
from trainables.plan import StagePlan
from trainables.pruning.network_size import NetworkSize
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.cascade import CascadeStage
from trainables.stages.remembered import RememberedLogits, remembered_bytes, require_room_for_logits

EPOCHS, VIEWS = 5, 2
CONFIG = CascadeConfig(
    macs_kept=(0.6, 0.3),
    recipe=Recipe(epochs=EPOCHS, batch_size=20, learning_rate=0.02),
    pruning=Pruning(num_prunings=3),
    teacher_views=VIEWS,
)


@pytest.fixture
def make_stage(networks, data: DataSplits) -> Callable[[CascadeConfig], CascadeStage]:
    teacher, _ = networks("own")  # with dropout, which stays an epoch's own

    def make(config: CascadeConfig) -> CascadeStage:
        return CascadeStage(
            teacher,
            plan=StagePlan(name="cascade", levels=(1, 2), epochs=EPOCHS, first_epoch=0),
            config=config,
            teacher_size=NetworkSize.count(teacher, data.input_shape),
            data=data,
            augmentation="crop-flip",
        )

    return make


def trained(stage: CascadeStage) -> dict[str, torch.Tensor]:
    while not stage.finished:
        stage.train_epoch()
    return {
        f"{level.number}.{name}": tensor
        for level in stage.levels
        for name, tensor in level.network.state_dict().items()
    }


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def asked(stage: CascadeStage) -> list[torch.Tensor]:
    """The images that the frozen network is given from now on."""
    seen: list[torch.Tensor] = []
    stage._frozen_network.register_forward_hook(lambda _network, images, _logits: seen.append(images[0].clone()))
    return seen


@pytest.mark.parametrize("learns_from", ["level-above", "teacher"])
@pytest.mark.parametrize("recipe", [CONFIG.recipe, replace(CONFIG.recipe, accumulate=3, mix="both")])
def test_levels_learn_what_they_would_if_it_were_asked_every_time(make_stage, recipe: Recipe, learns_from) -> None:
    config = replace(CONFIG, recipe=recipe, learns_from=learns_from)
    asking = make_stage(config)
    asking._joint._records["given"] = asking._joint._records["asked"]
    assert same(trained(make_stage(config)), trained(asking))


def test_it_sees_the_batches_of_so_many_epochs_and_no_more(make_stage, data: DataSplits) -> None:
    stage = make_stage(CONFIG)
    seen = asked(stage)
    trained(stage)
    assert len(seen) == VIEWS * num_batches(len(data.train), CONFIG.recipe.batch_size)
    assert len({images.sum().item() for images in seen}) == len(seen)  # no view is another's


def test_where_every_epoch_is_seen_nothing_differs(make_stage) -> None:
    plain = trained(make_stage(replace(CONFIG, teacher_views=None)))
    assert same(plain, trained(make_stage(replace(CONFIG, teacher_views=EPOCHS))))
    assert not same(plain, trained(make_stage(CONFIG)))


def test_where_nobody_is_asked_every_epoch_draws_its_own_batches(make_stage) -> None:
    alone = replace(CONFIG, distillation_weight=0.0)
    plain = trained(make_stage(replace(alone, teacher_views=None)))
    stage = make_stage(alone)
    seen = asked(stage)
    assert same(trained(stage), plain)
    assert not seen


def test_only_one_of_two_ways_to_ask_less_often() -> None:
    with pytest.raises(InputError, match=r"^teacher_every is 2, but teacher_views is 2, .*; give one of them$"):
        replace(CONFIG, teacher_every=2)
    with pytest.raises(InputError, match="teacher_views is 0"):
        replace(CONFIG, teacher_views=0)


def test_too_much_to_remember_is_refused(data: DataSplits) -> None:
    data = replace(data, class_names=tuple(map(str, range(1000))))
    most = 2 * 2**30 // (4 * len(data.train) * data.num_classes)

    def cascade(views: int | None, *, epochs: int = 2 * most) -> CascadeConfig:
        return replace(CONFIG, teacher_views=views, recipe=replace(CONFIG.recipe, epochs=epochs))

    for views in (None, 1000, most):
        require_room_for_logits(cascade(views), data)
    require_room_for_logits(cascade(most + 1, epochs=most + 1), data)  # every epoch is seen: nothing is remembered
    with pytest.raises(
        InputError, match=rf"^teacher_views is {most + 1}, .* take 2\.1 GB, but may take 2\.1; give few"
    ):
        require_room_for_logits(cascade(most + 1), data)


def test_what_a_trial_holds_of_logits_is_counted_where_a_stage_asks_for_nothing_twice(data: DataSplits) -> None:
    a_view = 4 * len(data.train) * data.num_classes
    assert remembered_bytes(CONFIG, data) == VIEWS * a_view
    assert remembered_bytes(replace(CONFIG, teacher_views=None), data) == 0
    assert remembered_bytes(replace(CONFIG, teacher_views=EPOCHS), data) == 0
    assert remembered_bytes(replace(CONFIG, distillation_weight=0.0), data) == 0
    assert remembered_bytes(replace(CONFIG, schedule="sequential"), data) == VIEWS * a_view  # of 2 and 3 epochs
    assert remembered_bytes(replace(CONFIG, schedule="sequential", teacher_views=3), data) == 0
    assert remembered_bytes(replace(CONFIG, teacher_views=6, recovery_epochs=7), data) == 6 * a_view


@pytest.mark.parametrize("batch_size", [20, 1000])
def test_all_that_is_held_is_the_answers_to_what_was_drawn(make_stage, data: DataSplits, batch_size: int) -> None:
    stage = make_stage(replace(CONFIG, recipe=replace(CONFIG.recipe, batch_size=batch_size)))
    stage.train_epoch()
    batches = num_batches(len(data.train), batch_size)
    drawn = (VIEWS, batches, min(batch_size, len(data.train)), data.num_classes)
    assert stage._remembered._logits_VBNK.shape == drawn


def test_an_answer_is_kept_where_it_belongs() -> None:
    remembered = RememberedLogits(num_views=2, num_batches=2)
    answers = {(view, place): torch.randn(3, 4) for view in (0, 1) for place in (0, 1)}
    asked_for: list[tuple[int, int]] = []

    def ask(epoch: int, place: int) -> torch.Tensor:
        asked_for.append((epoch, place))
        return answers[epoch % 2, place]

    for epoch in (1, 0, 2, 3):
        for place in (0, 1):
            found = remembered(epoch, place, lambda epoch=epoch, place=place: ask(epoch, place))  # type: ignore[misc]
            assert torch.equal(found, answers[epoch % 2, place])
    assert asked_for == [(1, 0), (1, 1), (0, 0), (0, 1)]
