"""What a trial takes of a card is measured by running its beginning; the figures themselves need a card."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables import peak
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.peak import MARGIN, Peak, measure_peak, rehearse
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.cascade import CascadeStage
from trainables.stages.joint import JointStep

GIB = 2**30
CASCADE = CascadeConfig(
    macs_kept=(0.6, 0.3),
    recipe=Recipe(epochs=50, batch_size=8, learning_rate=0.05),
    pruning=Pruning(num_prunings=3),
)


def splits(num_train, num_val=600):
    pixels = torch.randint(0, 256, (num_train + num_val, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = ImageSet(images_NCHW=pixels.to(torch.uint8), labels_N=torch.arange(num_train + num_val) % 3)
    return DataSplits(
        train=images.first(num_train),
        val=ImageSet(images_NCHW=images.images_NCHW[num_train:], labels_N=images.labels_N[num_train:]),
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
        class_names=("a", "b", "c"),
    )


@pytest.fixture
def teacher():
    return build(ModelConfig(name="vgg-small", width=1 / 8), num_classes=3, in_channels=3, seed=0).eval()


@pytest.fixture
def seen(monkeypatch):
    """What happens in a stage: images of each step, and how large levels are after each pruning."""
    found, step, prune = [], CascadeStage.train_step, CascadeStage._prune

    def seen_step(stage, images, labels):
        found.append(len(images))
        return step(stage, images, labels)

    def seen_prune(stage, fraction):
        before = [pruner.size for pruner in stage.pruners]
        prune(stage, fraction)
        found.append([after.size < size for after, size in zip(stage.pruners, before, strict=True)])

    monkeypatch.setattr(CascadeStage, "train_step", seen_step)
    monkeypatch.setattr(CascadeStage, "_prune", seen_prune)
    return found


@pytest.mark.parametrize(
    "cascade",
    [
        CASCADE,
        replace(CASCADE, recovery_epochs=5, recipe=replace(CASCADE.recipe, class_weights="balanced", ema=0.9)),
        replace(CASCADE, pruning=replace(CASCADE.pruning, num_prunings=1)),
        replace(CASCADE, recipe=replace(CASCADE.recipe, optimizer="adamw", learning_rate=0.01, execution="compile")),
    ],
)
def test_a_beginning_is_steps_of_whole_batches_around_the_first_pruning(teacher, seen, cascade):
    trial = rehearse(teacher, cascade, splits(1000), augmentation="crop-flip")
    assert seen == [8] * 4 + [[True, True]] + [8] * 3
    assert not trial.finished


def test_of_a_sequential_cascade_the_first_level_is_trained_which_is_the_largest(teacher, seen):
    trial = rehearse(teacher, replace(CASCADE, schedule="sequential", epoch_growth=2.0), splits(1000))
    assert seen == [8] * 4 + [[True]] + [8] * 3
    assert trial.networks == {}


def kinds_of_steps(monkeypatch):
    """Which of the ways to take a step that are recorded each by itself is taken, one after the other."""
    found, step = [], JointStep.__call__

    def seen_step(joint, way, *batch):
        found.append(way)
        return step(joint, way, *batch)

    monkeypatch.setattr(JointStep, "__call__", seen_step)
    return found


@pytest.mark.parametrize("teacher_every", [2, 5])
def test_steps_with_and_without_the_teacher_are_each_recorded_between_prunings(
    teacher, seen, monkeypatch, teacher_every
):
    kinds = kinds_of_steps(monkeypatch)
    rehearse(teacher, replace(CASCADE, teacher_every=teacher_every), splits(1000))
    assert seen == [8] * 8 + [[True, True]] + [8] * 7
    for kind in ("asked", "alone"):
        assert kinds[8:].count(kind) >= 3  # the third is recorded


def test_steps_that_know_what_the_teacher_said_are_recorded_where_a_trial_takes_such(teacher, seen, monkeypatch):
    kinds = kinds_of_steps(monkeypatch)
    rehearse(teacher, replace(CASCADE, teacher_views=10), splits(1000))
    assert seen == [8] * 4 + [[True, True]] + [8] * 3
    rehearse(teacher, replace(CASCADE, teacher_views=50), splits(1000))  # every epoch is another
    assert kinds == ["given"] * 7 + ["asked"] * 7


@pytest.mark.parametrize(("num_train", "steps"), [(5, [5] * 4), (20, [8] * 4)])
def test_few_images_are_gone_over_more_than_once(teacher, seen, num_train, steps):
    rehearse(teacher, CASCADE, splits(num_train, num_val=3))
    assert seen[:5] == [*steps, [True, True]]
    assert 7 <= sum(isinstance(step, int) for step in seen) <= 8


def test_first_images_share_memory_with_the_set():
    images = splits(10).train
    first = images.first(4)
    assert len(first) == 4
    assert first.images_NCHW.data_ptr() == images.images_NCHW.data_ptr()
    assert len(images.first(400)) == 10


def test_what_a_process_took_is_what_another_one_sees_go():
    # 80 GiB of which somebody holds 10; the onlooker's context takes half a GiB, as this process's own does.
    found = Peak.of(
        free=(round(69.5 * GIB), 69 * GIB, 65 * GIB), held=3 * GIB, most_held=round(4.5 * GIB), card_bytes=80 * GIB
    )
    assert (found.torch_bytes, found.other_bytes) == (round(4.5 * GIB), round(1.5 * GIB))
    assert found.usable_bytes == 70 * GIB
    assert found.total_bytes == 6 * GIB
    assert found.num_trials == int(70 / (6 * MARGIN)) == 9


def test_a_neighbour_that_leaves_meanwhile_does_not_make_a_trial_smaller_than_its_context():
    found = Peak.of(free=(round(69.5 * GIB), 69 * GIB, 76 * GIB), held=3 * GIB, most_held=3 * GIB, card_bytes=80 * GIB)
    assert found.other_bytes == GIB // 2
    assert found.usable_bytes == 80 * GIB


def test_a_trial_that_takes_the_whole_card_has_it_alone():
    assert Peak(torch_bytes=9, other_bytes=1, usable_bytes=11).num_trials == 1
    assert Peak(torch_bytes=9, other_bytes=1, usable_bytes=24).num_trials == 2


def test_a_process_that_has_used_the_card_before_is_refused(teacher, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="has used a card before"):
        measure_peak(teacher, CASCADE, splits(100))


def test_the_onlooker_answers_as_often_as_it_is_asked_and_its_death_is_said(monkeypatch):
    monkeypatch.setattr(peak, "_ONLOOKER", "import sys\nfor n, _ in enumerate(sys.stdin): print(n, flush=True)")
    with peak._onlooker() as ask:
        assert [ask(), ask()] == [0, 1]
    monkeypatch.setattr(peak, "_ONLOOKER", "input()")
    with peak._onlooker() as ask, pytest.raises(RuntimeError, match="has ended"):
        ask()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_card_a_whole_trial_takes_no_more_than_its_beginning_with_the_margin():
    def measured(what, share=0.0):
        job = [sys.executable, str(Path(__file__).with_name("peak_job.py")), what, str(share)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    beginning, whole = measured("beginning"), measured("whole")
    print(beginning, whole)  # what to look at, with -s
    assert beginning["least_bytes"] <= beginning["torch_bytes"] <= whole["torch_bytes"] * MARGIN
    assert whole["torch_bytes"] <= beginning["torch_bytes"] * MARGIN
    side_by_side = measured("whole", 1 / beginning["num_trials"])["torch_bytes"]
    assert side_by_side + beginning["other_bytes"] <= beginning["usable_bytes"] / beginning["num_trials"]
    assert 50 * 2**20 < beginning["other_bytes"] < 3 * GIB
    assert beginning["num_trials"] > 1
    assert beginning["usable_bytes"] <= torch.cuda.mem_get_info()[1]
