import pickle
from contextlib import contextmanager
from dataclasses import replace

import pytest
from ray.tune.result import SHOULD_CHECKPOINT

from trainables.config import CascadeConfig
from trainables.data_config import DataConfig
from trainables.datasets.images import ImageSet
from trainables.errors import InputError, MachineError, StageFailure
from trainables.files.checkpoint import load
from trainables.files.states import save_state
from trainables.hardware.branches import Branches
from trainables.hardware.ranks import RanksDiffer, Solo
from trainables.model_config import ModelConfig
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.results import Reused
from trainables.stages import midway
from trainables.trial import CascadeTrial
from trainables.tune_adapter import STATE_FILE, CascadeTrainable, TrialSettings, stop_note, trial_key

CONFIG = CascadeConfig(macs_kept=(0.6,), recipe=Recipe(epochs=2, batch_size=32), pruning=Pruning(num_prunings=2))
MODEL = ModelConfig(name="vgg-small", width=0.25)


@pytest.fixture(autouse=True)
def whole_card(monkeypatch):
    """A trial takes its share of a card for the whole of its process, which is this one here."""
    monkeypatch.setattr(Branches, "share_of_card", 1.0)


@pytest.fixture
def actor(tmp_path, data):
    """The adapter as Tune would make it, without Ray, and the teacher that it was given."""
    from trainables.networks.models import build

    teacher = build(MODEL, num_classes=data.num_classes, in_channels=data.in_channels, seed=1)
    settings = TrialSettings(
        model=MODEL,
        augmentation="none",
        candidates=str(tmp_path / "candidates"),
        num_threads=1,
        num_gpus=0.0,
        measure_latency=False,
        stops=str(tmp_path),
    )
    made = CascadeTrainable.__new__(CascadeTrainable)
    weights = {name: tensor.numpy() for name, tensor in teacher.state_dict().items()}
    made.setup(trial(0), teacher=weights, data=data.to_arrays(), settings=settings)
    return made, teacher


def trial(number, config=CONFIG, state=None):
    return {"trial": number, "cascade": config.to_dict(), "state": state}


def run(made):
    result = made.step()
    while not result["done"]:
        result = made.step()
    return result


def test_a_trial_reports_epochs_and_then_its_networks(actor, tmp_path):
    made, _ = actor
    first = made.step()
    assert [epoch["epoch"] for epoch in first["progress"]] == [1]
    assert not first["done"]
    last = made.step()
    assert last["done"]
    assert last["networks"] == {1: "0-1"}
    assert sum(p.numel() for p in load(tmp_path / "candidates/0-1").parameters()) == last["results"][0]["params"]


def test_a_long_epoch_reports_parts_that_each_leave_a_checkpoint(actor, tmp_path, monkeypatch):
    monkeypatch.setattr(midway, "PACED_BATCHES", 1)  # of two a batch
    made, _ = actor
    made._settings = replace(made._settings, checkpoint_seconds=0.0)
    told = []
    for number in range(4):
        result = made.step()
        told.append(([epoch["trial_epoch"] for epoch in result["progress"]], result["epochs_done"], result["done"]))
        if number == 0:
            assert result[SHOULD_CHECKPOINT]
            made.save_checkpoint(str(tmp_path))
            made.reset_config(trial(0, state=str(tmp_path / STATE_FILE)))
    assert told == [([], 0.5, False), ([1], 1, False), ([], 1.5, False), ([2], 2, True)]


def test_a_trial_takes_its_share_of_a_card(actor):
    assert Branches.share_of_card == 0.0  # as it is given none


def test_a_machine_that_does_not_see_the_search_trains_nothing(tmp_path, data):
    settings = TrialSettings(
        model=MODEL,
        augmentation="none",
        candidates=str(tmp_path / "not mounted/runs/photos/candidates"),
        num_threads=1,
        num_gpus=0.0,
        measure_latency=False,
    )
    made = CascadeTrainable.__new__(CascadeTrainable)
    with pytest.raises(FileNotFoundError, match=r"does not see .*photos; all machines must mount the storage folder"):
        made.setup(trial(0), teacher={}, data=data.to_arrays(), settings=settings)
    assert not (tmp_path / "not mounted").exists()


class Store:
    """What is to outlive a machine, in memory."""

    def __init__(self):
        self.states, self.networks, self.told = {}, [], {}

    def state(self, key):
        return self.states.get(key)

    def keep_state(self, key, tensors, values):
        self.states[key] = ({name: tensor.clone() for name, tensor in tensors.items()}, dict(values))

    def keep_network(self, folder):
        assert (folder / "architecture.json").exists()
        self.networks.append(folder.name)
        return folder.rename(folder.with_name(f"{folder.name}-mine"))

    def told_to_stop(self, key):
        return self.told.get(key)


@pytest.fixture
def on_machine(tmp_path, data):
    """Makes actors on machines that share nothing but a store."""
    from trainables.networks.models import build

    teacher = build(MODEL, num_classes=data.num_classes, in_channels=data.in_channels, seed=1)
    weights = {name: tensor.numpy() for name, tensor in teacher.state_dict().items()}

    def make(machine, store, config):
        settings = TrialSettings(
            model=MODEL,
            augmentation="none",
            candidates=str(tmp_path / machine / "photos" / "candidates"),
            num_threads=1,
            num_gpus=0.0,
            measure_latency=False,
            stops="on no machine",
            store=store,
        )
        made = CascadeTrainable.__new__(CascadeTrainable)
        made.setup(config, teacher=weights, data=data.to_arrays(), settings=settings)
        return made

    return make


def test_a_trial_goes_on_where_nothing_but_its_store_is_left(on_machine, tmp_path):
    store = Store()
    first = on_machine("one", store, trial(0)).step()
    assert "should_checkpoint" not in first  # else Tune would look for a folder that all machines share
    last = on_machine("other", store, trial(0)).step()
    assert [epoch["trial_epoch"] for epoch in last["progress"]] == [2]
    assert last["done"]
    assert store.networks == ["0-1"]
    assert last["networks"] == {1: "0-1-mine"}
    assert load(tmp_path / "other/photos/candidates/0-1-mine") is not None
    whole = run(on_machine("third", Store(), trial(0)))
    assert whole["results"] == last["results"]


def test_a_trial_is_told_to_stop_by_its_store_under_its_own_key(on_machine):
    store = Store()
    other = CascadeConfig(macs_kept=(0.5,), recipe=CONFIG.recipe, pruning=CONFIG.pruning)
    store.told[trial_key(0, other.to_dict())] = "of a trial that had this number before"
    made = on_machine("one", store, trial(0))
    assert "stopped" not in made.step()
    store.told[trial_key(0, CONFIG.to_dict())] = "it is behind"
    assert made.step()["stopped"] == "it is behind"


class Crew(Solo):
    """Ends at a bad image, as ranks do."""

    @contextmanager
    def doing(self, work, *arguments):
        try:
            yield
        except InputError:
            self.closed = True
            raise


def test_a_trial_after_a_bad_image_has_a_crew_that_is_there(actor, monkeypatch):
    made, _ = actor
    made._settings = replace(made._settings, crew=lambda settings: Crew())
    made._crew = Crew()
    with monkeypatch.context() as patched:
        patched.setattr(CascadeTrial, "train_for", unreadable)
        assert made.step()["failure"] == "image 3 cannot be read"
    assert made._crew.closed
    assert made.reset_config(trial(1))
    assert "results" in run(made)


def test_a_trial_on_a_machine_that_lacks_its_images_is_not_to_blame(actor, monkeypatch, tmp_path):
    def lacking(trial, seconds=0.0):
        raise MachineError("images were replaced")

    made, _ = actor
    unfit = {"progress": [], "unfit": {"node": None, "reason": "images were replaced"}, "done": True}
    with monkeypatch.context() as patched:
        patched.setattr(CascadeTrial, "train_for", lacking)
        assert made.step() == unfit
    stop_note(tmp_path, 0).write_text("dominated")
    monkeypatch.setattr(CascadeTrial, "stop", lacking)
    assert made.step() == unfit
    with monkeypatch.context() as patched:
        patched.setattr(CascadeTrial, "__init__", lacking_at_once)
        assert made.reset_config(trial(1))
        made.load_checkpoint("nowhere")
        assert made.step() == unfit
    assert made.reset_config(trial(2))
    assert "results" in run(made)


def lacking_at_once(*_, **__):
    raise MachineError("images were replaced")


def unreadable(trial, seconds=0.0):
    raise InputError("image 3 cannot be read")


def test_a_trial_that_meets_a_bad_image_when_it_is_stopped_ends_with_the_reason(actor, monkeypatch, tmp_path):
    made, _ = actor
    stop_note(tmp_path, 0).write_text("dominated")
    monkeypatch.setattr(CascadeTrial, "stop", unreadable)
    result = made.step()
    assert (result["progress"], result["failure"], result["done"]) == ([], "image 3 cannot be read", True)


def test_a_trial_that_goes_on_and_fails_says_what_it_had_trained_and_what_it_had_not(actor, monkeypatch, tmp_path):
    made, _ = actor
    assert made.step()["reused"] == Reused().to_dict()
    tensors, values = made._trial.state()
    reused = Reused(stages=("level-1",), epochs=1, seconds=2.0).to_dict()
    save_state(tmp_path / STATE_FILE, tensors, values | {"reused": reused})
    made.reset_config(trial(0, state=str(tmp_path / STATE_FILE)))
    monkeypatch.setattr(CascadeTrial, "train_for", unreadable)
    result = made.step()
    assert (result["failure"], result["epochs_done"], result["reused"]) == ("image 3 cannot be read", 1, reused)


def test_an_actor_that_is_used_again_has_nothing_of_the_trial_before(actor):
    made, _ = actor
    first = run(made)
    assert made.reset_config(trial(1))
    assert run(made)["results"] == first["results"]


WITH_DROPOUT = """
from torch import nn


def network(num_classes, in_channels):
    return nn.Sequential(
        nn.Conv2d(in_channels, 24, 3), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, num_classes),
    )
"""


@pytest.fixture
def on_digits(tmp_path, monkeypatch):
    """Makes actors on real digits, of a network that draws random numbers as it trains, with a folder each."""
    from trainables.datasets.data import DataSplits
    from trainables.datasets.sources import read_train
    from trainables.networks.models import build

    (tmp_path / "with_dropout.py").write_text(WITH_DROPOUT)
    monkeypatch.syspath_prepend(tmp_path)
    model = ModelConfig(name="with_dropout:network")
    images = read_train(DataConfig(image_size=8)).images
    parts = [
        replace(images, images_NCHW=images.images_NCHW[part], labels_N=images.labels_N[part])
        for part in (slice(0, 300), slice(300, 400))
    ]
    digits = DataSplits(
        train=parts[0], val=parts[1], mean=(0.3,), std=(0.4,), class_names=tuple(str(digit) for digit in range(10))
    )
    weights = {
        name: tensor.numpy()
        for name, tensor in build(model, num_classes=10, in_channels=1, seed=1).state_dict().items()
    }

    def make(name, config):
        settings = TrialSettings(
            model=model,
            augmentation="crop",
            candidates=str(tmp_path / name),
            num_threads=1,
            num_gpus=0.0,
            measure_latency=False,
        )
        made = CascadeTrainable.__new__(CascadeTrainable)
        made.setup(config, teacher=weights, data=digits.to_arrays(), settings=settings)
        return made

    return make


def test_a_trial_on_a_used_actor_is_bit_identical_to_one_on_a_fresh_actor(on_digits, tmp_path):
    recipe = Recipe(epochs=4, batch_size=64, learning_rate=0.05)
    pruning = Pruning(num_prunings=3, nested=True)
    wanted = trial(
        7, CascadeConfig(macs_kept=(0.6, 0.3), schedule="sequential", recipe=recipe, pruning=pruning, seed=7)
    )
    others = [
        CascadeConfig(macs_kept=(0.7, 0.5, 0.2), recipe=recipe, pruning=replace(pruning, shared_affine=True)),
        CascadeConfig(macs_kept=(0.4,), recipe=replace(recipe, learning_rate=1e12)),
        CascadeConfig(macs_kept=(0.5,), recipe=recipe, seed=3),
    ]
    fresh = run(on_digits("fresh", wanted))
    used = on_digits("used", trial(0, others[0]))
    assert "results" in run(used)
    used.reset_config(trial(1, others[1]))
    assert "failure" in run(used)
    used.reset_config(trial(2, others[2]))
    used.step()  # and is left in the middle
    used.reset_config(wanted)
    again = run(used)
    for result in (fresh, again):
        for epoch in result["progress"]:
            epoch.pop("seconds")
    assert again == fresh
    for name in ("7-1", "7-2"):
        weights = [(tmp_path / actor / name / "weights.safetensors").read_bytes() for actor in ("fresh", "used")]
        assert weights[0] == weights[1]


def test_a_checkpoint_of_the_last_epoch_gives_the_results_without_another(actor, tmp_path, data):
    made, teacher = actor
    finished = CascadeTrial(teacher, config=CONFIG, data=data)
    for _ in finished.run():
        pass
    save_state(tmp_path / "state.safetensors", *finished.state())
    made.reset_config(trial(0, state=str(tmp_path / "state.safetensors")))
    result = made.step()
    assert result["done"]
    assert result["progress"] == []
    assert [level["level"] for level in result["results"]] == [1]
    with pytest.raises(RuntimeError, match="finished"):
        finished.train_epoch()


def test_a_trial_that_finds_a_note_ends_with_what_has_its_size(actor, tmp_path):
    made, _ = actor
    standing = made.step()["standing"]
    assert (standing["fraction"], [point["macs_kept"] for point in standing["points"]]) == (0.5, [0.6])
    stop_note(tmp_path, 1).write_text("for another trial")
    stop_note(tmp_path, 0).write_text("behind")
    last = made.step()
    assert (last["stopped"], last["done"], last["progress"]) == ("behind", True, [])
    assert [(result["level"], result["fidelity"]) for result in last["results"]] == [(1, 0.5)]
    assert sum(p.numel() for p in load(tmp_path / "candidates/0-1").parameters()) == last["results"][0]["params"]


def test_a_trial_that_is_stopped_on_its_way_to_its_size_leaves_nothing(actor, tmp_path):
    made, _ = actor
    made.reset_config(trial(0, replace(CONFIG, recipe=replace(CONFIG.recipe, epochs=4))))
    made.step()
    stop_note(tmp_path, 0).write_text("behind")
    last = made.step()
    assert (last["stopped"], last["results"], last["networks"]) == ("behind", [], {})
    assert not (tmp_path / "candidates").exists()


def test_a_note_that_comes_too_late_does_not_undo_a_finished_trial(actor, tmp_path, data):
    made, teacher = actor
    finished = CascadeTrial(teacher, config=CONFIG, data=data)
    list(finished.run())
    save_state(tmp_path / "state.safetensors", *finished.state())
    stop_note(tmp_path, 0).write_text("behind")
    made.reset_config(trial(0, state=str(tmp_path / "state.safetensors")))
    result = made.step()
    assert "stopped" not in result
    assert [level["fidelity"] for level in result["results"]] == [1.0]


def test_a_failure_ends_the_trial_with_its_reason(actor):
    made, _ = actor
    made.reset_config(trial(0, replace(CONFIG, recipe=replace(CONFIG.recipe, learning_rate=1e12))))
    result = run(made)
    assert "level 1" in result["failure"]
    assert "results" not in result


def test_an_image_that_cannot_be_read_ends_the_trial_with_its_name(actor, monkeypatch):
    def unreadable(*_, **__):
        raise InputError("image 7 cannot be read")

    made, _ = actor
    made.reset_config(trial(0))
    monkeypatch.setattr(ImageSet, "shuffled", unreadable)
    result = made.step()
    assert (result["failure"], result["done"]) == ("image 7 cannot be read", True)


def test_a_failure_travels_between_processes():
    failure = StageFailure("diverged", stage="cascade", level=2, group="features.0", step=7)
    again = pickle.loads(pickle.dumps(failure))
    assert str(again) == str(failure)
    assert (again.level, again.group, again.step) == (2, "features.0", 7)


def test_ranks_that_differ_end_the_trial_with_the_reason(actor, monkeypatch):
    made, _ = actor

    def differ(_trial, _seconds):
        raise RanksDiffer("weights of rank 1 are not those of rank 0 (of 2)")

    monkeypatch.setattr(CascadeTrial, "train_for", differ)
    result = made.step()
    assert (result["failure"], result["done"]) == ("weights of rank 1 are not those of rank 0 (of 2)", True)
