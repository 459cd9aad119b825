"""What the teacher's training tells, and that the times of its layers are never silently other ones."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError

from orchestrator.experiment.config import parse_experiment
from orchestrator.machines.rank_actors import RankActors
from orchestrator.preparation.teacher import _failure, _latency_ms, _run, _time_layers, time_layers
from orchestrator.preparation.teacher_task import TeacherTask
from orchestrator.searches.folder import SearchFolder
from orchestrator.storage import answers
from orchestrator.storage import bucket as buckets
from orchestrator.storage.bucket import Bucket
from orchestrator.trials.parts import make_teacher_task
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.errors import InputError, StageFailure
from trainables.files.input_spec import InputSpec
from trainables.files.states import load_state, save_state
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import LatencyTable, LayerTime
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe

TABLE = LatencyTable(
    layers={"features.0": LayerTime(fixed_ms=0.1, output_ms=1 / 3, product_ms=0.0)},
    fixed_ms=0.25,
    full_ms=1.5,
    num_threads=1,
    batch_size=1,
)

ONE = RankActors(size=1, num_cpus=1, num_gpus=0)


@pytest.fixture
def task(tmp_path):
    return TeacherTask(
        folder=tmp_path / "teacher",
        model=ModelConfig(name="vgg-small", width=0.25),
        recipe=Recipe(),
        augmentation="none",
        seed=0,
        actors=ONE,
        timed_on=None,
        finished_stages=None,
        identity={},
    )


def times(task):
    """As a search asks for them, where none are to be measured: without Ray."""
    return time_layers(task, Pruning(), None, actors=ONE)


def two_classes():
    images = ImageSet(images_NCHW=torch.zeros(8, 1, 8, 8, dtype=torch.uint8), labels_N=torch.arange(8) % 2)
    return DataSplits(train=images, val=images, mean=(0.5,), std=(0.25,), class_names=("a", "b"))


def test_an_attempt_after_another_tells_the_epochs_of_both(task):
    data = two_classes()
    task = replace(task, recipe=Recipe(epochs=3, batch_size=8))

    def attempt(num_told):
        return (epoch["epoch"] for epoch in _run(task, data.to_arrays(), (None,), num_told))

    assert next(attempt(0)) == 1  # and the process dies
    begun = attempt(0)
    assert [next(begun), next(begun)] == [1, 2]
    begun.close()
    assert list(attempt(2)) == [3]  # another start of the search, to which the earlier one has told two
    assert task.result().val_guess == 0.5


@pytest.mark.integration
def test_of_two_machines_the_one_that_came_farther_is_gone_on_with(task, s3, tmp_path):
    one, other = (replace(task, folder=tmp_path / name, bucket=Bucket(s3)) for name in ("one", "other"))
    assert one.state() is None

    def train(task, epochs):
        task.keep_state({"w": torch.full((1,), float(epochs))}, {"epochs": [{}] * epochs})

    train(one, 3)
    assert len(other.state()[1]["epochs"]) == 3
    train(other, 8)
    assert len(one.state()[1]["epochs"]) == 8
    assert load_state(one.state_file)[0]["w"].item() == 8.0  # for other ranks
    save_state(one.state_file, {"w": torch.zeros(1)}, {"epochs": [{}] * 9})  # as the bucket did not take it
    assert len(one.state()[1]["epochs"]) == 9


@pytest.mark.integration
def test_no_part_of_a_finished_teacher_is_begun_again_beside_itself(task, s3, tmp_path, monkeypatch):
    data = two_classes()
    network = build(task.model, num_classes=2, in_channels=1)
    with monkeypatch.context() as patched:
        patched.setattr(buckets, "seconds_for", lambda _num_bytes: 0.0)
        patched.setattr(answers._log, "warning", lambda text, *words: pytest.fail(text % words))
        replace(task, bucket=Bucket(s3)).keep(network, {"macs": 1}, InputSpec.of(data))
    assert Bucket(s3).pull("network", tmp_path / "other")
    assert json.loads(Bucket(s3).read("result.json")) == {"macs": 1}


def test_a_full_disk_is_told_as_the_system_tells_it_whoever_writes(task, monkeypatch):
    def write(*_words, **_named):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("trainables.files.states.save_file", write)
    with pytest.raises(SafetensorError) as caught:
        task.keep_state({}, {})
    told = _failure(caught.value, task.folder)
    assert str(told) == f"[Errno 28] No space left on device: '{task.folder}'"
    other = _failure(SafetensorError("Error while serializing: broken"), task.folder)
    assert str(other) == "stage teacher: SafetensorError: Error while serializing: broken"
    diverged = StageFailure("the loss is no longer finite", stage="teacher")
    assert _failure(diverged, task.folder) is diverged


def test_times_that_are_kept_are_read_back_to_the_last_bit(task):
    assert task.latency() is None
    task.keep_latency(TABLE)
    assert task.latency() == TABLE == times(task)


def test_times_that_are_damaged_or_lost_are_said_and_not_measured_again(task):
    task.keep_latency(TABLE)
    file = task.folder / "latency.json"
    for damaged in ("{", json.dumps({"layers": {}}), json.dumps([1])):
        file.write_text(damaged)
        with pytest.raises(InputError, match=r"latency\.json is damaged .* put it back, or search under another"):
            times(task)
    file.unlink()
    result = {"val_accuracy": 0.9, "macs": 1, "params": 1, "seconds": 0.0}
    (task.folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"has a teacher but no latency\.json"):
        times(task)


def test_an_untrained_teacher_is_timed_for_the_images_of_the_search(task, monkeypatch):
    from trainables.pruning import layer_times

    asked = []

    def measure(network, input_shape, *, pruning, num_threads):
        asked.append((network.classifier.out_features, input_shape, pruning, num_threads))
        return TABLE

    monkeypatch.setattr(layer_times, "measure_layers", measure)
    assert LatencyTable.from_dict(_time_layers(task, ONE, Pruning(round_to=8), 7, (1, 16, 16))) == TABLE
    assert asked == [(7, (1, 16, 16), Pruning(round_to=8), 1)]


def test_the_teachers_latency_is_measured_as_a_trial_measures(task, monkeypatch):
    from trainables.hardware import latency

    data = two_classes()
    asked = []
    measure = latency.measure

    def noted(network, shape, **how):
        asked.append((shape, torch.get_num_threads(), how))
        return measure(network, shape, min_seconds=0.01, **how)

    monkeypatch.setattr(latency, "measure", noted)
    task = replace(task, actors=RankActors(size=1, num_cpus=8, num_gpus=0))
    assert _latency_ms(task, ONE, data.to_arrays()) > 0.0
    assert asked == [((1, 8, 8), 1, {"batch_size": 1, "num_threads": 1})]


def test_who_times_the_teacher_is_who_times_its_levels(tmp_path):
    experiment = parse_experiment(
        {
            "objectives": ["val_accuracy", "latency_ms"],
            "resources": {"cpus_per_trial": 2, "teacher": {"cpus": 8}},
        }
    )
    task = make_teacher_task(experiment, SearchFolder(storage=tmp_path, name="timed"), "digest")
    assert (task.actors.num_threads, task.timed_on) == (8, RankActors.of_trial(experiment.resources))
    untimed = parse_experiment({})
    assert make_teacher_task(untimed, SearchFolder(storage=tmp_path, name="untimed"), "digest").timed_on is None
