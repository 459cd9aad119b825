"""Every value out of range is refused in one line that names key, rule and value; the rest survives a round trip."""

import json
from dataclasses import FrozenInstanceError, fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import CascadeConfig, Schedule
from trainables.data_config import Augmentation, DataConfig
from trainables.errors import InputError, StageFailure, shown
from trainables.imports import is_import_path
from trainables.model_config import ModelConfig, Stem
from trainables.pruning_config import Pruning, PruningCost, Ramp
from trainables.recipe import ClassWeights, LearningRateSchedule, Mix, Optimizer, Recipe

PATH = {"path": "images"}
NAN, INF = float("nan"), float("inf")

BAD: list[tuple[type, dict[str, Any], str]] = [
    (ModelConfig, {"name": ""}, "model.name is ''"),
    (ModelConfig, {"name": 5}, "model.name is 5"),
    (ModelConfig, {"weights": ""}, "model.weights is ''"),
    *[(ModelConfig, {"width": v}, f"model.width is {v!r}, but must be a number above 0") for v in (0, -1, "1")],
    (ModelConfig, {"width": 100}, "model.width is 100, but must be a number above 0 and at most 16"),
    (ModelConfig, {"stem": "large"}, "model.stem is 'large', but must be one of small, imagenet"),
    (ModelConfig, {"name": "my.nets:make", "width": 0.5}, "model.width is 0.5, but my.nets:make is your own function"),
    (DataConfig, {"name": "mnist"}, "data.name is 'mnist', but must be one of digits, cifar10"),
    (DataConfig, {"name": "cifar10"}, "data.path is missing, but cifar10 lies in a folder"),
    (DataConfig, {"name": "imagefolder", **PATH}, "data.image_size is missing"),
    (DataConfig, {"name": "parquet", **PATH}, "data.image_size is missing"),
    (DataConfig, {"name": "parquet", "image_size": 32}, "data.path is missing, but parquet lies in a folder"),
    (DataConfig, {"name": "cifar100", "image_size": 64, **PATH}, "data.image_size is 64, but CIFAR images are 32x32"),
    (DataConfig, {"path": 5}, "data.path is 5"),
    *[(DataConfig, {"image_size": v}, f"data.image_size is {v!r}, but must be a whole") for v in (7, 16.0, True)],
    (
        DataConfig,
        {"image_size": 33333},
        "data.image_size is 33333, but must be a whole number of at least 8 and at most",
    ),
    *[(DataConfig, {k: v}, f"data.{k} is {v}") for k in ("val_fraction", "test_fraction") for v in (0, 1, -0.1, INF)],
    (DataConfig, {"augmentation": "flip"}, "data.augmentation is 'flip'"),
    (ModelConfig, {"width": NAN}, "model.width is nan, but must be a finite number above 0"),
    (Recipe, {"ema": NAN}, "ema is nan, but must be a finite number above 0 and below 1"),
    (DataConfig, {"seed": -1}, "data.seed is -1, but must be a whole number of at least 0"),
    (DataConfig, {"download": "no"}, "data.download is 'no', but must be true or false"),
    *[(Recipe, {"epochs": v}, f"epochs is {v!r}, but must be a whole number of at least 1") for v in (0, 1.5, True)],
    (Recipe, {"batch_size": 1}, "batch_size is 1, but must be a whole number of at least 2"),
    *[(Recipe, {"learning_rate": v}, f"learning_rate is {v!r}, but must be") for v in (0, -0.1, INF, NAN, None)],
    *[(Recipe, {k: v}, f"{k} is {v}") for k in ("momentum", "warmup", "label_smoothing") for v in (-0.1, 1.0)],
    (Recipe, {"weight_decay": -1e-9}, "weight_decay is -1e-09, but must be a number at least 0"),
    (Recipe, {"max_grad_norm": 0}, "max_grad_norm is 0, but must be a number above 0"),
    (Pruning, {"size_in": "bytes"}, "pruning.size_in is 'bytes', but must be one of macs, params, latency"),
    (Recipe, {"precision": "fp16"}, "precision is 'fp16', but must be one of fp32, bf16"),
    (Recipe, {"optimizer": "adam"}, "optimizer is 'adam', but must be one of sgd, adamw"),
    (Recipe, {"optimizer": "adamw"}, "learning_rate is 0.1, but must be below 0.1 for adamw"),
    (Recipe, {"learning_rate_schedule": "linear"}, "learning_rate_schedule is 'linear', but must be one of cosine,"),
    (Recipe, {"accumulate": 0}, "accumulate is 0, but must be a whole number of at least 1"),
    (Recipe, {"accumulate": 5, "batch_size": 8}, "accumulate is 5, but each micro-batch must have at least 2 of the 8"),
    *[(Recipe, {"ema": v}, f"ema is {v!r}, but must be a number above 0 and below 1") for v in (0.0, 1, "0.9")],
    *[(Recipe, {"class_weights": v}, f"class_weights is {shown(v)}, but must be none,") for v in ("even", (), None, 3)],
    (Recipe, {"class_weights": (1.0, 0)}, "class_weights of class 1 is 0, but must be a number above 0"),
    (Recipe, {"mix": "cut"}, "mix is 'cut', but must be one of none, mixup, cutmix, both"),
    (Recipe, {"mix_alpha": 0}, "mix_alpha is 0, but must be a number above 0"),
    (Pruning, {"saliency": ""}, "pruning.saliency is ''"),
    (Pruning, {"cost": "params"}, "pruning.cost is 'params', but must be one of macs, none"),
    (Pruning, {"ramp": "square"}, "pruning.ramp is 'square'"),
    *[(Pruning, {"ramp_fraction": v}, f"pruning.ramp_fraction is {v}, but must be") for v in (0, 1, -1)],
    (Pruning, {"keep": "layer4"}, "pruning.keep is 'layer4', but must be a list of layers"),
    (Pruning, {"keep": ("",)}, "a layer in pruning.keep is ''"),
    (Pruning, {"floors": 8}, "pruning.floors is 8, but must map layers to channels"),
    (Pruning, {"floors": {"layer4": 0}}, "pruning.floors of layer4 is 0"),
    *[(Pruning, {k: 0}, f"pruning.{k} is 0") for k in ("num_prunings", "round_to", "min_channels")],
    *[(Pruning, {k: 1}, f"pruning.{k} is 1, but must be true or false") for k in ("nested", "shared_affine")],
    *[
        (CascadeConfig, {"macs_kept": v}, f"macs_kept is {shown(v)}, but must be a tuple")
        for v in ((), 0.5, "0.5", None)
    ],
    *[(CascadeConfig, {"macs_kept": (v,)}, f"macs_kept of level 1 is {v!r}, but must be") for v in (0, 1.01, NAN, "1")],
    (CascadeConfig, {"macs_kept": (0.5, 0.0)}, "macs_kept of level 2 is 0.0, but must be a number above 0"),
    (
        CascadeConfig,
        {"macs_kept": (0.45, 0.6)},
        "macs_kept of level 2 is 0.6, but must be below level 1's 0.45; sizes fall from the teacher to the student",
    ),
    (CascadeConfig, {"macs_kept": (0.5, 0.5)}, "macs_kept of level 2 is 0.5, but must be below level 1's 0.5"),
    *[(CascadeConfig, {"macs_kept": (0.5,), "temperature": v}, f"temperature is {v}") for v in (0, -1, INF)],
    *[
        (CascadeConfig, {"macs_kept": (0.5,), "distillation_weight": v}, f"distillation_weight is {v}")
        for v in (-0.1, 1.1)
    ],
    (CascadeConfig, {"macs_kept": (0.5,), "learns_from": "me"}, "learns_from is 'me', but must be one of level-above"),
    (CascadeConfig, {"macs_kept": (0.5,), "teacher_every": 0}, "teacher_every is 0"),
    (CascadeConfig, {"macs_kept": (0.5,), "non_target_weight": -1}, "non_target_weight is -1"),
    (
        CascadeConfig,
        {"macs_kept": (0.5,), "non_target_weight": 2.0, "recipe": Recipe(mix="mixup")},
        "non_target_weight is 2, but mix is 'mixup'",
    ),
    *[
        (
            CascadeConfig,
            {"macs_kept": (0.5,), "level_weight_growth": v},
            f"level_weight_growth is {v}, but must be a number above 0 and at most 1000",
        )
        for v in (0, -1.0, 1e9)
    ],
    (
        CascadeConfig,
        {"macs_kept": (0.5,), "feature_weight": -1},
        "feature_weight is -1, but must be a number at least 0",
    ),
    (
        CascadeConfig,
        {"macs_kept": (0.5,), "feature_weight": 2.0, "recipe": Recipe(execution="compile")},
        "feature_weight is 2, but execution is 'compile', and features cannot be read within a compiled network; take",
    ),
    (
        CascadeConfig,
        {"macs_kept": (0.5,), "feature_weight": 2.0, "teacher_views": 3},
        "feature_weight is 2, but teacher_views is 3, and what is remembered of a teacher are its scores alone; leave",
    ),
    *[
        (
            CascadeConfig,
            {"macs_kept": (0.5,), "levels_a_step": v},
            f"levels_a_step is {v!r}, but must be a whole number of at least 3, for the largest level, the smallest",
        )
        for v in (2, 3.0, True)
    ],
    *[
        (
            CascadeConfig,
            {"macs_kept": (0.5,), "epoch_growth": v},
            f"epoch_growth is {v!r}, but must be a number above 0 and at most 1000",
        )
        for v in (0, 1000.5, 1e160)
    ],
    *[
        (Pruning, {"regrowth": v}, f"pruning.regrowth is {v!r}, but must be a number at least 0 and at most 1")
        for v in (-0.1, 1.5, True)
    ],
    (
        Pruning,
        {"regrowth": 0.5, "num_prunings": 2},
        "pruning.regrowth is 0.5, but pruning.num_prunings is 2, and nothing comes back at the first pruning or the",
    ),
    (
        Pruning,
        {"regrowth": 0.5, "nested": True},
        "pruning.regrowth is 0.5, but pruning.nested is true, and what comes back to a level need not be what the",
    ),
    (Pruning, {"saliency_loss": "none"}, "pruning.saliency_loss is 'none', but must be one of level, labels"),
    (CascadeConfig, {"macs_kept": (0.5,), "schedule": "both"}, "schedule is 'both', but must be one of joint"),
    (CascadeConfig, {"macs_kept": (0.5,), "seed": 1.0}, "seed is 1.0"),
    (
        CascadeConfig,
        {"macs_kept": (0.5, 0.2), "schedule": "sequential", "recipe": Recipe(epochs=1)},
        "recipe.epochs is 1, but the sequential schedule shares them out over 2 levels",
    ),
]


@pytest.mark.parametrize(("kind", "values", "message"), BAD)
def test_a_bad_value_is_refused_in_one_line(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "macs_kept of CascadeConfig is missing"),
        (
            {"macs_kept": [0.5], "temprature": 2},
            "unknown key 'temprature' of CascadeConfig; did you mean 'temperature'",
        ),
        ({"macs_kept": [0.5], "recipe": {"lr": 1}}, "unknown key 'lr' of Recipe; there are accumulate, batch_size, "),
        ({"macs_kept": [0.5], "pruning": {"round_to": 0}}, "pruning.round_to is 0"),
        ({"macs_kept": [0.5], "pruning": 3}, "pruning is 3, but must be a mapping"),
        ({"macs_kept": [0.5], 3: 4}, "unknown key 3"),
        ([0.5], "CascadeConfig is [0.5], but must be a mapping"),
    ],
)
def test_a_bad_dictionary_is_refused_in_one_line(values: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        CascadeConfig.from_dict(values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [ModelConfig, DataConfig, Recipe, Pruning])
def test_defaults_are_valid_and_frozen(kind: type) -> None:
    config = kind()
    assert kind.from_dict({}) == config
    with pytest.raises(FrozenInstanceError):
        setattr(config, fields(config)[0].name, None)
    assert hash(config) == hash(kind())


unit = st.floats(0, 1, exclude_min=True, exclude_max=True)
half_open = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e6, exclude_min=True)
counts = st.integers(1, 10**6)
recipes = st.builds(
    Recipe,
    epochs=st.integers(10, 500),
    batch_size=st.integers(2, 4096),
    learning_rate=st.floats(0, 0.09, exclude_min=True),
    optimizer=st.sampled_from(get_args(Optimizer)),
    learning_rate_schedule=st.sampled_from(get_args(LearningRateSchedule)),
    ema=st.none() | unit,
    class_weights=st.sampled_from(get_args(ClassWeights)) | st.lists(positive, min_size=1).map(tuple),
    mix=st.sampled_from(get_args(Mix)),
    mix_alpha=positive,
    momentum=half_open,
    weight_decay=st.floats(0, 1),
    warmup=half_open,
    label_smoothing=half_open,
    max_grad_norm=st.none() | positive,
    precision=st.sampled_from(["fp32", "bf16"]),
)
prunings = st.builds(
    Pruning,
    saliency=st.sampled_from(["gate-gradient", "a.b:c"]),
    cost=st.sampled_from(get_args(PruningCost)),
    ramp=st.sampled_from(get_args(Ramp)),
    ramp_fraction=unit,
    num_prunings=counts,
    nested=st.booleans(),
    shared_affine=st.booleans(),
    round_to=counts,
    min_channels=counts,
    floors=st.dictionaries(st.sampled_from(["layer1", "*.conv2"]), counts),
    keep=st.lists(st.sampled_from(["layer1", "*.conv2"])).map(tuple),
)
sizes = st.lists(st.floats(1e-6, 1), min_size=1, max_size=6, unique=True).map(lambda s: tuple(sorted(s, reverse=True)))
cascades = st.builds(
    CascadeConfig,
    macs_kept=sizes,
    temperature=positive,
    distillation_weight=st.floats(0, 1),
    schedule=st.sampled_from(get_args(Schedule)),
    pruning=prunings,
    recipe=recipes,
    recovery_epochs=st.integers(0, 100),
    seed=st.integers(0, 2**63),
)
models = st.builds(
    ModelConfig,
    name=st.text(min_size=1).filter(lambda name: not is_import_path(name)),
    width=st.floats(1e-3, 16),
    stem=st.sampled_from(get_args(Stem)),
    weights=st.none() | st.text(min_size=1),
)
data_sets = st.builds(
    DataConfig,
    name=st.sampled_from(["digits", "imagefolder", "parquet"]),
    path=st.text(min_size=1),
    image_size=st.integers(8, 1000),
    val_fraction=unit,
    test_fraction=unit,
    augmentation=st.sampled_from(get_args(Augmentation)),
    seed=st.integers(0, 2**63 - 1),
    download=st.booleans(),
)


@given(cascades | models | data_sets)
def test_a_dictionary_and_json_bring_the_same_back(config: CascadeConfig | ModelConfig | DataConfig) -> None:
    kind = type(config)
    assert kind.from_dict(config.to_dict()) == config
    assert kind.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(cascades)
def test_levels_are_counted(config: CascadeConfig) -> None:
    assert config.num_levels == len(config.macs_kept) == config.num_assistants + 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a:b", True),
        ("a.b_1:c", True),
        ("a", False),
        ("a:b:c", False),
        ("a.:b", False),
        ("1a:b", False),
        ("a:b\n", False),
    ],
)
def test_import_paths(name: str, *, expected: bool) -> None:
    assert is_import_path(name) is expected


def test_a_failure_says_where_it_happened() -> None:
    failure = StageFailure("it diverged", stage="cascade", level=2, group="conv1", step=7)
    assert str(failure) == "stage cascade, level 2, group conv1, step 7: it diverged"
    assert (failure.reason, failure.stage, failure.level, failure.group, failure.step) == (
        "it diverged",
        "cascade",
        2,
        "conv1",
        7,
    )
    assert str(StageFailure("it diverged", stage="teacher")) == "stage teacher: it diverged"
