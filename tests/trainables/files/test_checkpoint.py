"""Networks on disk: equal outputs, no pickle, and files that somebody made to do harm."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import trainables
from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.files.checkpoint import (
    ARCHITECTURE_FILE,
    WEIGHTS_FILE,
    InputSpec,
    load,
    load_network,
    rebuild,
    save_network,
)
from trainables.model_config import ModelConfig
from trainables.pruning.channels import network_widths
from trainables.pruning.cost import count_params
from trainables.pruning.dependencies import find_groups
from trainables.pruning.levels import Level, SharedWeights

SPEC = InputSpec(channels=3, image_size=16, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), class_names=("a", "b", "c", "d"))
CONFIGS = {
    "vgg-small": ModelConfig(name="vgg-small", width=1 / 8),
    "resnet18": ModelConfig(name="resnet18", width=1 / 16),
    "resnet18-imagenet": ModelConfig(name="resnet18", width=1 / 16, stem="imagenet"),
    "resnet50": ModelConfig(name="resnet50", width=1 / 16),
    "own": ModelConfig(name="some.module:Own"),
    "modern": ModelConfig(name="some.module:Modern"),
}


@pytest.fixture(scope="session")
def narrow(networks, random_plan) -> Callable[[str, int], nn.Module]:
    def make(architecture: str, seed: int = 0) -> nn.Module:
        network, channel_map = networks(architecture)
        level = Level(1, SharedWeights(network, channel_map), shared_affine=False)
        level.keep(random_plan(channel_map, seed))
        return level.network.eval()

    return make


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_network_that_is_read_back_gives_equal_outputs(
    architecture, narrow, own_builders, tmp_path_factory, seed: int
) -> None:
    network, folder = narrow(architecture, seed), tmp_path_factory.mktemp("saved") / "network"
    save_network(folder, network, model=CONFIGS[architecture], input_spec=SPEC)
    builder = own_builders.get(architecture)
    saved = load_network(folder, builder=builder)
    assert (saved.model, saved.input) == (CONFIGS[architecture], SPEC)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        assert torch.equal(saved.network(images), network(images))
        assert torch.equal(trainables.load(str(folder), builder=builder)(images), network(images))
    assert not any(layer.training for layer in saved.network.modules())
    assert network_widths(saved.network) == network_widths(network)


def test_a_network_is_on_the_disk_before_it_has_its_name(narrow, tmp_path: Path, monkeypatch) -> None:
    settled: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "trainables.files.checkpoint.settle",
        lambda path: settled.append((path.name, (tmp_path / "network").exists())),
    )
    save_network(tmp_path / "network", narrow("vgg-small"), model=CONFIGS["vgg-small"], input_spec=SPEC)
    assert settled[:2] == [(ARCHITECTURE_FILE, False), (WEIGHTS_FILE, False)]
    assert settled[2][1] is False
    assert settled[3] == (tmp_path.name, True)


def test_what_is_loaded_can_be_trained_further(narrow, tmp_path: Path) -> None:
    save_network(tmp_path / "network", narrow("vgg-small"), model=CONFIGS["vgg-small"], input_spec=SPEC)
    network = trainables.load(tmp_path / "network").train()
    network(torch.rand(4, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def tied(num_classes: int) -> nn.Module:
    """Two layers with one weight, before a third that can be narrowed."""
    layers = [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()]
    layers[4].weight = layers[2].weight
    layers += [nn.Conv2d(8, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)]
    return nn.Sequential(*layers)


def test_layers_that_share_their_weights_do_so_when_they_are_read_back(tmp_path: Path) -> None:
    model, network = ModelConfig(name="some.module:tied"), tied(SPEC.num_classes)
    level = Level(1, SharedWeights(network, find_groups(network, SPEC.shape)), shared_affine=False)
    level.keep({"6": torch.arange(3)})
    save_network(tmp_path / "network", level.network, model=model, input_spec=SPEC)
    again = trainables.load(tmp_path / "network", builder=tied)
    assert again[4].weight is again[2].weight
    assert count_params(again) == count_params(level.network)
    assert [group.name for group in find_groups(again, SPEC.shape).groups] == ["6"]
    images = torch.rand(2, *SPEC.shape)
    assert torch.equal(again(images), level.network.eval()(images))
    assert rebuild(network, model=model, input_spec=SPEC, builder=tied)[4].weight.shape == (8, 8, 1, 1)


class Counts(nn.Module):
    """A network that keeps whole numbers among its parameters."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.arange(num_classes), requires_grad=False)
        self.convolution = nn.Conv2d(3, 4, 1)
        self.scores = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.convolution(x).relu().mean((2, 3)))
        return scores[:, self.order]


def test_whole_numbers_are_read_back_and_take_no_gradients(tmp_path: Path) -> None:
    model = ModelConfig(name="some.module:Counts")
    save_network(tmp_path / "network", Counts(SPEC.num_classes), model=model, input_spec=SPEC)
    again = trainables.load(tmp_path / "network", builder=Counts)
    assert {name for name, p in again.named_parameters() if not p.requires_grad} == {"order"}


def test_weights_that_are_read_back_lie_where_torch_puts_its_own(narrow, tmp_path: Path) -> None:
    # Elsewhere some processors round in another way, so that scores differ in their last bits.
    save_network(tmp_path / "network", narrow("resnet18"), model=CONFIGS["resnet18"], input_spec=SPEC)
    read = load_network(tmp_path / "network").network.state_dict()
    assert all(tensor.data_ptr() % 64 == 0 for tensor in read.values())


def test_a_saved_network_is_json_and_safetensors_and_nothing_else(narrow, tmp_path: Path) -> None:
    save_network(tmp_path / "network", narrow("vgg-small"), model=CONFIGS["vgg-small"], input_spec=SPEC)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [ARCHITECTURE_FILE, "network", WEIGHTS_FILE]
    json.loads((tmp_path / "network" / ARCHITECTURE_FILE).read_text())
    weights = (tmp_path / "network" / WEIGHTS_FILE).read_bytes()
    (length,) = struct.unpack("<Q", weights[:8])  # a safetensors file: the length of its JSON header, then that
    assert json.loads(weights[8 : 8 + length])
    assert not weights.startswith((b"PK", b"\x80"))


def test_nothing_is_overwritten(narrow, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        save_network(tmp_path, narrow("vgg-small"), model=CONFIGS["vgg-small"], input_spec=SPEC)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_nothing(narrow, tmp_path: Path) -> None:
    spec = replace(SPEC, class_names=(object(),))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_network(tmp_path / "network", narrow("vgg-small"), model=CONFIGS["vgg-small"], input_spec=spec)
    assert list(tmp_path.iterdir()) == []


OWN_LAYERS = ModelConfig(name="some.module:layers")


def layers(first: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


class Noted(nn.Conv2d):
    def get_extra_state(self) -> str:
        return "a note"


class Grows(nn.Conv2d):
    """Makes a part of itself when it first runs."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.scale = nn.Parameter(torch.ones(1))
        return super().forward(images)


@pytest.mark.parametrize("name", ["vgg-small", "own"])
def test_what_is_rebuilt_is_what_is_saved_and_read(name: str, networks, tmp_path: Path) -> None:
    network = networks(name)[0]
    builder = None if name == "vgg-small" else lambda num_classes: type(network)(num_classes)
    again = rebuild(network, model=CONFIGS[name], input_spec=SPEC, builder=builder)
    save_network(tmp_path / "network", network, model=CONFIGS[name], input_spec=SPEC)
    read = load(tmp_path / "network", builder=builder).state_dict()
    assert not again.training
    assert all(torch.equal(tensor, read[key]) for key, tensor in again.state_dict().items())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers(Noted(3, 6, 3)), r"what state_dict\(\) gives is not a state dict: names with tensors"),
        (lambda: layers(Grows(3, 6, 3)), r"has 0\.scale, which the network does not have"),
    ],
)
def test_what_could_not_be_read_again_is_refused_before_it_is_saved(
    make: Callable[[], nn.Module], message: str
) -> None:
    network = make()
    with torch.no_grad():
        network(torch.zeros(2, *SPEC.shape))
    with pytest.raises(InputError, match=message):
        rebuild(network, model=OWN_LAYERS, input_spec=SPEC, builder=lambda num_classes: make())


@pytest.fixture
def saved(narrow, tmp_path: Path) -> Path:
    folder = tmp_path / "network"
    save_network(folder, narrow("vgg-small"), model=CONFIGS["vgg-small"], input_spec=SPEC)
    return folder


def change(folder: Path, key: str, value: Any) -> None:
    """Set a dotted key of the architecture."""
    path = folder / ARCHITECTURE_FILE
    architecture = json.loads(path.read_text())
    place = architecture
    *above, last = key.split("/")
    for part in above:
        place = place[part]
    place[last] = value
    path.write_text(json.dumps(architecture))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "another", "does not describe a network of this project"),
        ("version", 2, "format version 2, but this program reads 1"),
        ("version", None, "format version None"),
        ("model", {"name": "vgg7"}, "must be one of"),
        ("model", {"name": "vgg-small", "depth": 3}, "unknown key 'depth'"),
        ("model", [], "must be a mapping"),
        ("model/width", 1e300, "model.width is 1e+300, but must be a number above 0 and at most 16"),
        ("model/width", float("inf"), "model.width is inf"),
        ("widths", {}, ".weight of shape"),
        ("input", {"channels": 3}, "is damaged: KeyError: 'image_size'"),
        ("input/channels", "many", "is damaged"),
        ("input/channels", -3, "images of -3 channels"),
        ("input/mean", [0.5], "mean and std must have one value for each of 3 channels"),
        ("input/std", [1.0, 0.0, 1.0], "std above 0"),
        ("input/class_names", 4, "is damaged"),
        ("input/class_names", ["a", "b"], "layer classifier cannot have widths 4, "),
        ("input/class_names", ["a", "b", "c", "d", "e", "f"], "gives 4 scores, but names 6 classes"),
        ("input/channels", 1, "mean and std must have one value"),
        ("input/image_size", 1, "layers do not fit one another"),
        ("widths", [1, 2], "is damaged"),
        ("widths/features.0", [0, 3], "layer features.0 cannot have widths 0, 3"),
        ("widths/features.0", [-1, 3], "layer features.0 cannot have widths -1, 3"),
        ("widths/features.0", [10**9, 3], "layer features.0 cannot have widths 1000000000, 3"),
        ("widths/features.0", ["4", 3], "is damaged: ValueError: widths are two whole numbers"),
        ("widths/features.0", [4.5, 3], "widths are two whole numbers"),
        ("widths/features.0", [float("inf"), 3], "widths are two whole numbers"),
        ("widths/features.0", [4], "widths are two whole numbers"),
        ("widths/features.0", None, "widths are two whole numbers"),
        ("widths/nowhere", [4, 3], "no layer 'nowhere'"),
        ("widths/features", [4, 3], "a Sequential cannot be narrowed"),
        ("widths/features.0", [2, 3], "layers do not fit one another"),
    ],
)
def test_a_changed_architecture_is_refused(saved: Path, key: str, value: Any, message: str) -> None:
    change(saved, key, value)
    with pytest.raises(InputError) as caught:
        load(saved)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["model", "input", "widths"])
def test_a_missing_part_is_refused(saved: Path, key: str) -> None:
    architecture = json.loads((saved / ARCHITECTURE_FILE).read_text())
    del architecture[key]
    (saved / ARCHITECTURE_FILE).write_text(json.dumps(architecture))
    with pytest.raises(InputError, match=f"is damaged: KeyError: '{key}'"):
        load(saved)


@pytest.mark.parametrize("name", ["os:system", "evil_module:run"])
def test_what_a_file_names_is_not_imported(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\ndef run(**_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    change(saved, "model", {"name": name})
    with pytest.raises(InputError, match="not imported from a file's word; import it yourself"):
        load(saved)
    assert not (tmp_path / "executed").exists()


def rewrite(folder: Path, alter: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(alter(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda t: {n: x for n, x in t.items() if n != "classifier.bias"}, "lacks classifier.bias, of shape 4"),
        (lambda t: t | {"classifier.bias": t["classifier.bias"][:2].clone()}, "of shape 2, but the network needs 4"),
        (lambda t: t | {"classifier.bias": t["classifier.bias"].int()}, "has classifier.bias as torch.int32"),
        (lambda t: t | {"more": torch.zeros(1)}, "has more, which the network does not have"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(saved: Path, alter, message: str) -> None:
    rewrite(saved, alter)
    with pytest.raises(InputError) as caught:
        load(saved)
    assert message in str(caught.value)


def test_weights_of_another_network_are_refused(saved: Path, narrow, tmp_path: Path) -> None:
    save_network(tmp_path / "other", narrow("resnet18"), model=CONFIGS["resnet18"], input_spec=SPEC)
    (tmp_path / "other" / WEIGHTS_FILE).replace(saved / WEIGHTS_FILE)
    with pytest.raises(InputError, match=r"lacks features\.0\.weight"):
        load(saved)


@pytest.mark.parametrize("name", [ARCHITECTURE_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "noise", "deep", "folder"])
def test_damaged_files_are_refused(saved: Path, name: str, damage: str) -> None:
    whole = (saved / name).read_bytes()
    (saved / name).unlink()
    contents = {"empty": b"", "truncated": whole[: len(whole) // 2], "noise": b"\x93\xff" * 99, "deep": b"[" * 10**6}
    if damage == "folder":
        (saved / name).mkdir()
    elif damage != "missing":
        (saved / name).write_bytes(contents[damage])
    with pytest.raises(InputError, match=f"{name} (is missing|is damaged)"):
        load(saved)


def test_a_file_instead_of_its_folder_is_refused(saved: Path) -> None:
    with pytest.raises(
        InputError, match=rf"{WEIGHTS_FILE} is a file, but a network is a folder with .*; give the folder"
    ):
        load(saved / WEIGHTS_FILE)


def test_a_users_builder_that_gives_another_network_is_refused(narrow, tmp_path: Path) -> None:
    save_network(tmp_path / "own", narrow("own"), model=CONFIGS["own"], input_spec=SPEC)
    with pytest.raises(InputError, match="no layer"):
        load(tmp_path / "own", builder=lambda num_classes: nn.Linear(3, num_classes))


class Changed(Counts):
    """The same weights, read in another way."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(nn.functional.gelu(self.convolution(x)).mean((2, 3)))
        return scores[:, self.order]


def test_a_users_network_whose_code_was_changed_is_refused(tmp_path: Path) -> None:
    network = Counts(SPEC.num_classes).train()
    save_network(tmp_path / "own", network, model=ModelConfig(name="some.module:Counts"), input_spec=SPEC)
    assert network.training
    with pytest.raises(
        InputError, match=r"own: some\.module:Counts builds a network that says something else .* put it back as it was"
    ):
        load(tmp_path / "own", builder=Changed)
    _rewrite(tmp_path / "own", lambda architecture: architecture.pop("scores"))  # as of earlier versions
    load(tmp_path / "own", builder=Changed)


class Squeezes(Counts):
    """It counts its passes, squeezes a batch of one away, and draws in evaluation what it does not use."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        torch.rand(1)
        return super().forward(x).squeeze()


def test_what_is_known_of_a_network_leaves_it_as_it_was(tmp_path: Path) -> None:
    network = Squeezes(SPEC.num_classes)
    before = torch.get_rng_state()
    save_network(tmp_path / "own", network, model=ModelConfig(name="some.module:Squeezes"), input_spec=SPEC)
    assert torch.equal(torch.get_rng_state(), before)
    again = load_network(tmp_path / "own", builder=Squeezes).network
    assert float(network.passes) == float(again.passes) == 0.0


def test_code_that_came_to_nothing_finite_is_refused(tmp_path: Path) -> None:
    class Infinite(Counts):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / 0.0

    save_network(
        tmp_path / "own", Counts(SPEC.num_classes), model=ModelConfig(name="some.module:Counts"), input_spec=SPEC
    )
    with pytest.raises(InputError, match="says something else"):
        load(tmp_path / "own", builder=Infinite)


@pytest.mark.parametrize("scores", [[1.0], "none", [None] * 4])
def test_scores_that_are_none_are_damage(scores: object, tmp_path: Path) -> None:
    save_network(
        tmp_path / "own", Counts(SPEC.num_classes), model=ModelConfig(name="some.module:Counts"), input_spec=SPEC
    )
    _rewrite(tmp_path / "own", lambda architecture: architecture.update(scores=scores))
    with pytest.raises(InputError, match=f"{ARCHITECTURE_FILE} is damaged"):
        load(tmp_path / "own", builder=Counts)


def _rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    architecture = json.loads((folder / ARCHITECTURE_FILE).read_text())
    change(architecture)
    (folder / ARCHITECTURE_FILE).write_text(json.dumps(architecture))


def test_what_a_network_takes_is_what_its_data_gave(data: DataSplits) -> None:
    spec = InputSpec.of(data)
    assert spec.shape == data.input_shape
    assert spec.num_classes == 4
    assert (spec.mean, spec.std, spec.class_names) == (data.mean, data.std, data.class_names)
