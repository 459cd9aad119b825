"""Weights that someone gives a network: those that fit, and those that do not."""

import math
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.given_weights import load_weights, versioned
from trainables.networks.models import build


def test_plain_tensors_are_of_the_networks_own_version() -> None:
    network = build(ModelConfig(name="mnasnet0_5"), num_classes=4, in_channels=3)  # refuses what says no version
    plain = dict(network.state_dict())
    with pytest.raises(ValueError, match="version"):
        network.load_state_dict(plain)
    network.load_state_dict(versioned(plain, network))
    old = network.state_dict()
    old._metadata["layers.0"] = {"version": 1}
    assert versioned(old, network)._metadata == old._metadata


def small(num_classes: int = 4) -> nn.Module:
    return build(ModelConfig(width=1 / 8), num_classes=num_classes, in_channels=3, seed=num_classes)


@pytest.mark.parametrize(
    "form",
    ["safetensors", "state dict", "state_dict", "model", "parallel", "parallel, compiled", "compiled, parallel", "old"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_are_read(tmp_path: Path, form: str, suffix: str) -> None:
    wanted = small().state_dict()
    path = tmp_path / f"weights{suffix}"
    forms = {
        "state dict": wanted,
        "parallel": {f"module.{name}": tensor for name, tensor in wanted.items()},
        "parallel, compiled": {f"module._orig_mod.{name}": tensor for name, tensor in wanted.items()},
        "old": {name: tensor for name, tensor in wanted.items() if not name.endswith("num_batches_tracked")},
        "compiled, parallel": {f"_orig_mod.module.{name}": tensor for name, tensor in wanted.items()},
    }
    if form == "safetensors":
        save_file(wanted, path)
    else:
        torch.save(forms.get(form, {form: wanted, "epoch": 3}), path)
    network = build(ModelConfig(width=1 / 8), num_classes=4, in_channels=3, seed=99)
    load_weights(network, path)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in network.state_dict().items())


def test_a_network_whose_own_part_is_called_module_keeps_its_names(tmp_path: Path) -> None:
    wanted = nn.Sequential()
    wanted.add_module("module", small())
    torch.save(wanted.state_dict(), tmp_path / "weights.pt")
    network = nn.Sequential()
    network.add_module("module", build(ModelConfig(width=1 / 8), num_classes=4, in_channels=3, seed=99))
    load_weights(network, tmp_path / "weights.pt")
    assert all(torch.equal(tensor, wanted.state_dict()[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_of_torchvisions_networks_are_left_out(tmp_path: Path, name: str) -> None:
    config = ModelConfig(name=name)
    given = build(config, num_classes=4, in_channels=3, seed=99).state_dict()
    with torch.device("meta"):
        trained = torchvision.models.get_model(name, num_classes=4, aux_logits=True, init_weights=False).state_dict()
    heads = trained.keys() - given.keys()
    assert heads
    save_file(given | {head: torch.zeros(1) for head in heads}, tmp_path / "weights.safetensors")
    network = build(config, num_classes=4, in_channels=3)
    load_weights(network, tmp_path / "weights.safetensors")
    assert all(torch.equal(tensor, given[key]) for key, tensor in network.state_dict().items())


def without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (small(7).state_dict(), r"classifier\.weight of shape 7x16, but the network needs 4x16"),
        (without(small().state_dict(), "features.0.weight"), r"lacks features\.0\.weight, of shape 4x3x3x3"),
        (small().state_dict() | {"extra": torch.zeros(1)}, "has extra, which the network does not have"),
        ({"epoch": 3}, "is not a state dict"),
        ([torch.zeros(1)], "is not a state dict"),
    ],
)
def test_weights_of_another_network_are_refused_by_name_and_shapes(tmp_path: Path, state, message: str) -> None:
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=message):
        load_weights(small(), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: (100 * weight).to(torch.int8), r"torch\.int8"),
        (lambda weight: weight.to(torch.complex64), r"torch\.complex64"),
        (lambda weight: weight.to_sparse(), r"torch\.sparse_coo of torch\.float32"),
    ],
    ids=["int8", "complex", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # of torch, on reading
def test_weights_of_another_kind_are_refused_by_name(tmp_path: Path, change, said: str) -> None:
    state = small().state_dict()
    torch.save(state | {"classifier.weight": change(state["classifier.weight"])}, tmp_path / "weights.pt")
    with pytest.raises(
        InputError, match=rf"^model\.weights .* has classifier\.weight as {said}, but .* torch\.float32;"
    ):
        load_weights(small(), tmp_path / "weights.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_floating_weights_are_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    wanted = {name: t.to(dtype) if t.is_floating_point() else t.float() for name, t in small().state_dict().items()}
    torch.save(wanted, tmp_path / "weights.pt")
    network = build(ModelConfig(width=1 / 8), num_classes=4, in_channels=3, seed=99)
    load_weights(network, tmp_path / "weights.pt")
    assert all(torch.equal(tensor, wanted[name].to(tensor.dtype)) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("classifier.bias", math.nan, "nan, but all must be finite"),
        ("features.1.running_mean", math.inf, "inf, but all must be finite"),
        ("features.1.running_var", math.nan, "nan, but all must be finite"),
        ("features.1.running_var", -0.5, r"-0\.5, but variances must not be below 0"),
    ],
)
def test_weights_of_impossible_values_are_refused_by_name(tmp_path: Path, name: str, value: float, said: str) -> None:
    state = small().state_dict()
    state[name][1] = value
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=rf"^model\.weights .* has {name} with the value {said};"):
        load_weights(small(), tmp_path / "weights.pt")


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    network = small()
    network.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    load_weights(network, tmp_path / "weights.pt")


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path, how: str) -> None:
    victim, path = tmp_path / "executed", tmp_path / "weights.pt"
    state = small().state_dict() | {"extra": Malicious(victim)}
    if how == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(victim)))
    with pytest.raises(InputError, match="more than a plain state dict"):
        load_weights(small(), path)
    assert not victim.exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "noise", "truncated"])
def test_damaged_weights_are_refused_in_one_line(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    save_file(small().state_dict(), path) if suffix == "safetensors" else torch.save(small().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "noise": b"\x93" * 500, "truncated": whole[: len(whole) // 2]}.get(damage, whole))
    if damage == "missing":
        path.unlink()
    with pytest.raises(InputError, match=f"model.weights is {path}, but") as caught:
        load_weights(small(), path)
    assert "\n" not in str(caught.value)
