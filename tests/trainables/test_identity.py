"""What tells stages apart, and what does not."""

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.identity import data_digest, digest, engine_digest, stage_identities, teacher_identity, trial_origin
from trainables.model_config import ModelConfig
from trainables.plan import stage_plans
from trainables.pruning.cost import LatencyTable
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe

CONFIG = CascadeConfig(macs_kept=(0.6, 0.3, 0.1), schedule="sequential", recipe=Recipe(epochs=6))


def keys(config: CascadeConfig, origin: str = "here") -> list[str]:
    return [digest(identity) for identity in stage_identities(config, stage_plans(config), origin)]


def common(first: CascadeConfig, second: CascadeConfig) -> int:
    """How many stages from the first on are equal."""
    pairs = zip(keys(first), keys(second), strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), 3)


def test_equal_prefixes_meet_and_go_apart_where_sizes_do() -> None:
    assert common(CONFIG, CONFIG) == 3
    assert common(CONFIG, replace(CONFIG, macs_kept=(0.6, 0.3, 0.05))) == 2
    assert common(CONFIG, replace(CONFIG, macs_kept=(0.6, 0.2, 0.1))) == 1
    # The third stage is the same by itself, but not what it starts from.
    assert keys(CONFIG)[2] != keys(replace(CONFIG, macs_kept=(0.6, 0.2, 0.1)))[2]
    assert common(CONFIG, replace(CONFIG, macs_kept=(0.5, 0.3, 0.1))) == 0


def test_cascades_of_other_lengths_meet_where_stages_last_as_long() -> None:
    shorter = replace(CONFIG, macs_kept=(0.6, 0.3), recipe=replace(CONFIG.recipe, epochs=4))
    assert common(CONFIG, shorter) == 3  # all of the shorter one
    assert len(keys(shorter)) == 2
    assert common(CONFIG, replace(shorter, recipe=CONFIG.recipe)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 2.0},
        {"distillation_weight": 0.5},
        {"learns_from": "teacher"},
        {"teacher_every": 2},
        {"teacher_views": 2},
        {"non_target_weight": 2.0},
        {"level_weight_growth": 2.0},
        {"feature_weight": 2.0},
        {"levels_a_step": 3},
        {"seed": 1},
        {"pruning": Pruning(nested=True)},
        {"pruning": Pruning(regrowth=0.1)},
        {"recipe": Recipe(epochs=6, learning_rate=0.2)},
        {"recipe": Recipe(epochs=6, learning_rate_schedule="one-cycle")},
        {"recipe": Recipe(epochs=6, accumulate=2)},
        {"recipe": Recipe(epochs=6, ema=0.9)},
        {"recipe": Recipe(epochs=6, class_weights=(1.0, 2.0))},
        {"recipe": Recipe(epochs=6, mix="cutmix")},
        {"schedule": "joint"},
    ],
    ids=str,
)
def test_all_that_changes_a_weight_counts(change: dict[str, object]) -> None:
    assert common(CONFIG, replace(CONFIG, **change)) == 0


def test_a_recovery_is_a_stage_of_its_own_and_counts_for_what_follows() -> None:
    joint = replace(CONFIG, schedule="joint")
    assert keys(replace(joint, recovery_epochs=2))[0] == keys(joint)[0]
    assert len(keys(replace(joint, recovery_epochs=2))) == 4
    assert common(replace(joint, recovery_epochs=2), replace(joint, recovery_epochs=3)) == 1
    assert common(CONFIG, replace(CONFIG, recovery_epochs=2)) == 1
    assert keys(CONFIG)[1] not in keys(replace(CONFIG, recovery_epochs=2))


def test_where_a_cascade_starts_from_counts() -> None:
    assert set(keys(CONFIG)) & set(keys(CONFIG, origin="there")) == set()


def test_layers_times_count_where_sizes_are_made_of_them(table_of) -> None:
    def keys(size_in: str, latency: LatencyTable | None) -> list[str]:
        config = replace(CONFIG, pruning=Pruning(size_in=size_in))
        return [digest(identity) for identity in stage_identities(config, stage_plans(config), "here", latency)]

    table = table_of("vgg-small")
    again = LatencyTable.from_dict(json.loads(json.dumps(table.to_dict())))
    other = replace(table, fixed_ms=table.fixed_ms + 1e-9)
    assert keys("latency", table) == keys("latency", again)
    assert set(keys("latency", table)) & set(keys("latency", other)) == set()
    assert set(keys("latency", table)) & set(keys("macs", table)) == set()
    assert keys("macs", table) == keys("macs", other) == keys("macs", None)


def test_a_function_of_ones_own_counts_with_its_file(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    own = replace(CONFIG, pruning=Pruning(saliency="own_saliency:score"))
    (tmp_path / "own_saliency.py").write_text("def score(gates): return 1")
    before = keys(own)
    assert keys(own) == before
    (tmp_path / "own_saliency.py").write_text("def score(gates): return 2")
    assert set(keys(own)) & set(before) == set()


def test_images_and_labels_and_names_of_classes_count(data: DataSplits) -> None:
    label = data.val.labels_N.clone()
    label[0] += 1
    swapped = replace(data, train=data.val, val=data.train)
    others = [swapped, replace(data, class_names=("a", "b", "c", "e")), replace(data, mean=(0.3, 0.3, 0.4))]
    others.append(replace(data, val=replace(data.val, labels_N=label)))
    assert len({data_digest(other) for other in [data, *others]}) == 5


def test_a_teacher_is_known_by_what_it_was_trained_with_and_not_by_its_file() -> None:
    model = ModelConfig(name="vgg-small", width=0.25)

    def key(model: ModelConfig = model, **changes: object) -> str:
        given = {"recipe": Recipe(epochs=2), "augmentation": "none", "seed": 0, "data": "digits"} | changes
        return digest(teacher_identity(model, **given))

    assert key() == key(replace(model, weights="somewhere"))
    changes = [{"recipe": Recipe(epochs=3)}, {"augmentation": "crop"}, {"seed": 1}, {"data": "others"}]
    assert len({key(), key(replace(model, width=0.5)), *(key(**change) for change in changes)}) == 6


def test_an_origin_is_the_teachers_weights_and_the_data() -> None:
    model = ModelConfig()
    weights = {"a": torch.ones(2)}
    origins = {
        trial_origin(model, teacher=weights, augmentation="none", data="digits"),
        trial_origin(model, teacher={"a": torch.zeros(2)}, augmentation="none", data="digits"),
        trial_origin(model, teacher=weights, augmentation="crop", data="digits"),
        trial_origin(model, teacher=weights, augmentation="none", data="others"),
    }
    assert len(origins) == 4
    assert engine_digest() == engine_digest()


@pytest.mark.parametrize("library", ["torchvision", "torch-pruning", "torchcodec"])
def test_another_version_of_a_library_is_another_engine(library, monkeypatch):
    before = engine_digest()
    monkeypatch.setattr("trainables.identity.version", lambda name: "9.9" if name == library else version(name))
    assert engine_digest() != before


def test_a_library_that_is_not_there_is_none(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("trainables.identity.version", missing)
    assert engine_digest() != digest({})
