"""The accounting, against passes that are counted as they happen."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from orchestrator.evidence.settings import Budget
from orchestrator.evidence.work import cascade_work, epochs_within, training_work
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet, num_batches
from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import count_macs
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.cascade import CascadeStage
from trainables.trial import CascadeTrial

JOINT = CascadeConfig(
    macs_kept=(0.6, 0.2),
    recipe=Recipe(epochs=4, batch_size=16, learning_rate=0.02),
    pruning=Pruning(num_prunings=4),
)


def _images(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator).to(torch.uint8)
    return ImageSet(images_NCHW=images, labels_N=torch.arange(count) % 4)


@pytest.mark.parametrize(
    "config",
    [
        JOINT,
        replace(JOINT, learns_from="teacher"),
        replace(JOINT, distillation_weight=0.0),
        replace(JOINT, schedule="sequential"),
        replace(JOINT, schedule="sequential", learns_from="teacher"),
        replace(JOINT, recovery_epochs=1),
        replace(JOINT, teacher_every=4),
        replace(JOINT, schedule="sequential", teacher_every=2),
        replace(JOINT, teacher_views=2),
        replace(JOINT, schedule="sequential", recovery_epochs=2, teacher_views=1),
        replace(JOINT, distillation_weight=0.0, feature_weight=1.0),
        # Whichever of those between are drawn, they cost about the same.
        replace(JOINT, macs_kept=(0.9, 0.52, 0.5, 0.48, 0.1), levels_a_step=4),
        replace(JOINT, pruning=Pruning(num_prunings=4, regrowth=0.2)),
        replace(JOINT, schedule="sequential", pruning=Pruning(num_prunings=3, regrowth=1.0)),
    ],
    ids=[
        "joint",
        "no chain",
        "labels",
        "sequential",
        "sequential, no chain",
        "recovery",
        "one step in four asks the teacher",
        "sequential, one step in two",
        "two epochs are remembered",
        "sequential, recovery, one epoch is remembered",
        "features alone",
        "some levels a step",
        "channels come back",
        "sequential, channels come back",
    ],
)
def test_work_is_what_passes_through_networks(config: CascadeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSplits(train=_images(64), val=_images(8), mean=(0.5,), std=(0.3,), class_names=("a", "b", "c", "d"))
    teacher = build(ModelConfig(name="vgg-small", width=0.25), num_classes=4, in_channels=1)
    known: dict[tuple[torch.Size, ...], int] = {}

    def macs(network: nn.Module) -> int:
        shapes = tuple(tensor.shape for tensor in network.parameters())  # which decide it
        if shapes not in known:
            known[shapes] = count_macs(network, data.input_shape)
        return known[shapes]

    dense = macs(teacher)
    passed = 0.0
    step = CascadeStage.train_step

    def counted(stage: CascadeStage, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal passed
        ran: list[nn.Module] = []
        hook = stage._frozen_network.register_forward_hook(lambda network, *_: ran.append(network))
        losses = step(stage, images, labels)
        networks = {level.number: level.network for level in stage.levels}
        sizes = [macs(networks[level]) for level in stage._joint.taking_part]
        hook.remove()
        passed += len(images) * (3 * sum(sizes) + sum(macs(network) for network in ran))
        return losses

    monkeypatch.setattr(CascadeStage, "train_step", counted)
    for _ in CascadeTrial(teacher, config=config, data=data).run():
        pass
    assert passed / (dense * len(data.train)) == pytest.approx(cascade_work(config, num_batches(64, 16)), rel=0.02)


def test_saliency_of_the_labels_costs_a_backward_pass_while_channels_go() -> None:
    pruning = Pruning(num_prunings=1, ramp_fraction=0.5, saliency_loss="labels")
    config = CascadeConfig(macs_kept=(0.2,), recipe=Recipe(epochs=10), pruning=pruning)
    # Five epochs at the full size, five at a fifth.
    assert cascade_work(config, 8) == pytest.approx(10 + 5 * 3 + 5 * 3 * 0.2 + 5 * 2)


def test_training_one_network_goes_forward_and_back() -> None:
    assert training_work(0.1, 10, JOINT) == pytest.approx(13.0)
    assert training_work(0.1, 10, replace(JOINT, distillation_weight=0.0)) == pytest.approx(3.0)
    assert training_work(0.1, 10, replace(JOINT, teacher_every=4)) == pytest.approx(5.5)
    assert training_work(0.1, 10, replace(JOINT, teacher_views=4)) == pytest.approx(7.0)
    assert training_work(0.1, 3, replace(JOINT, teacher_views=4)) == pytest.approx(3.9)


def test_epochs_come_closest_to_the_budget() -> None:
    def work(epochs: int) -> float:
        return 1.3 * epochs

    assert epochs_within(Budget(amount=20), work) == 15  # 19.5; 16 would be 20.8
    assert epochs_within(Budget(amount=20.5), work) == 16
    assert epochs_within(Budget(amount=20), work, share=2) == 31
    assert epochs_within(Budget(amount=20, most_epochs=7), work) == 7
    assert epochs_within(Budget(amount=1.2), work) == 1
    assert epochs_within(Budget(amount=6, unit="epochs"), work) == 6
    with pytest.raises(InputError, match=r"budget.amount is 2, but 3 epochs would cost 3.9 teacher-passes"):
        epochs_within(Budget(amount=2), work, least=3)


def test_epochs_of_recovery_are_of_the_budget() -> None:
    def work(epochs: int) -> float:
        return 1.3 * (epochs + 4)

    assert epochs_within(Budget(amount=10, unit="epochs"), work, recovery=4) == 6
    assert epochs_within(Budget(amount=5, unit="epochs"), work, share=2, recovery=4) == 6
    assert epochs_within(Budget(amount=5, unit="epochs", most_epochs=7), work, share=2, recovery=4) == 3
    assert epochs_within(Budget(amount=20), work, recovery=4) == 11
    assert epochs_within(Budget(amount=20, most_epochs=10), work, recovery=4) == 6
    assert epochs_within(Budget(amount=200, most_epochs=5), work, recovery=4) == 1
    with pytest.raises(InputError, match=r"budget.amount is 2, but 5 epochs would cost 6.5 teacher-passes"):
        epochs_within(Budget(amount=2), work, recovery=4)


@pytest.mark.parametrize(
    ("budget", "least", "recovery", "message"),
    [
        (
            Budget(amount=3, unit="epochs"),
            1,
            6,
            "budget.amount is 3, which allows 3 epochs, but must allow at least 7, 6 of them recovery; give more, or "
            "lower recovery_epochs",
        ),
        (
            Budget(amount=200, most_epochs=1),
            3,
            0,
            "budget.most_epochs is 1, which allows 1 epoch, but must allow at least 3; give more",
        ),
        (
            Budget(amount=2, unit="epochs"),
            3,
            0,
            "budget.amount is 2, which allows 2 epochs, but must allow at least 3; give more",
        ),
    ],
)
def test_a_budget_of_too_few_epochs_is_refused(budget: Budget, least: int, recovery: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        epochs_within(budget, float, least=least, recovery=recovery)
    assert str(caught.value) == message
