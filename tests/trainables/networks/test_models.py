"""Networks by name, and functions of the user's own."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils.prune import l1_unstructured

from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.models import BUILT_IN, build


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(("num_classes", "in_channels"), [(3, 1), (7, 3)])
def test_built_in_networks_score_images(name: str, num_classes: int, in_channels: int) -> None:
    config = ModelConfig(name=name, width=1 / 16)
    network = build(config, num_classes=num_classes, in_channels=in_channels).eval()
    assert network(torch.zeros(2, in_channels, 32, 32)).shape == (2, num_classes)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_with_the_imagenet_stem_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(num_classes=5)
        ours = build(ModelConfig(name=name, stem="imagenet"), num_classes=5, in_channels=3)
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}


def test_an_equal_state_dict_gives_torchvisions_scores() -> None:
    theirs = torchvision.models.resnet18(num_classes=5).eval()
    ours = build(ModelConfig(name="resnet18", stem="imagenet"), num_classes=5, in_channels=3).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(("depth", "params"), [(20, 269_722), (56, 853_018)])
def test_resnets_for_cifar_have_the_published_depth_and_size(depth: int, params: int) -> None:
    network = build(ModelConfig(name=f"resnet{depth}"), num_classes=10, in_channels=3)
    published = {n: layer for n, layer in network.named_modules() if "downsample" not in n}  # their shortcuts are free
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in published.values()) == depth
    # He et al. 2016, table 6: 0.27 M and 0.85 M.
    assert sum(p.numel() for layer in published.values() for p in layer.parameters(recurse=False)) == params


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "inception_v3", "vgg11_bn"])
def test_networks_of_torchvision_are_built_by_their_names(name: str) -> None:
    with torch.device("meta"):
        network = build(ModelConfig(name=name), num_classes=7, in_channels=3)
        for mode in (network.eval(), network.train()):
            assert mode(torch.zeros(2, 3, 96, 96)).shape == (2, 7)


@pytest.mark.parametrize(
    ("config", "in_channels", "message"),
    [
        (
            ModelConfig(name="mobilenet_v2"),
            1,
            "images have 1 channel, but mobilenet_v2 is torchvision's and takes 3; use one of vgg",
        ),
        (
            ModelConfig(name="mobilenet_v2", width=0.5),
            3,
            r"model\.width is 0\.5, but mobilenet_v2 is torchvision's, .*; leave model\.width out, or use",
        ),
    ],
)
def test_networks_of_torchvision_are_as_they_are(config: ModelConfig, in_channels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(config, num_classes=7, in_channels=in_channels)


def test_the_small_stem_keeps_the_images_size() -> None:
    network = build(ModelConfig(name="resnet18", width=1 / 16), num_classes=4, in_channels=3)
    assert network.maxpool(network.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 4, 32, 32)


def test_the_seed_decides_the_weights_and_nothing_else_is_touched() -> None:
    before = torch.get_rng_state()
    config = ModelConfig(width=1 / 8)
    first, again, other = (build(config, num_classes=4, in_channels=3, seed=s).classifier.weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the user's, with a name of its own for every test."""
    name = f"user_module_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "def plain(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))\n"
        "def with_channels(num_classes, in_channels):\n    return nn.Linear(in_channels, num_classes)\n"
        "def with_any(num_classes, **_):\n    return nn.Linear(2, num_classes)\n"
        "def fails(num_classes):\n    raise OSError('no disk\\nat all')\n"
        "def gives_text(num_classes):\n    return 'network'\n"
        "def wants_more(num_classes, depth):\n    return nn.Identity()\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize(
    ("function", "kind"), [("plain", nn.Sequential), ("with_channels", nn.Linear), ("with_any", nn.Linear)]
)
def test_a_users_function_is_called(user_module: str, function: str, kind: type[nn.Module]) -> None:
    network = build(ModelConfig(name=f"{user_module}:{function}"), num_classes=4, in_channels=3)
    assert isinstance(network, kind)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("missing", "cannot be imported"),
        ("number", "is a int, not a function"),
        ("fails", "failed with OSError: no disk"),
        ("gives_text", "gave a str, but must give an nn.Module"),
        ("wants_more", "failed with TypeError"),
    ],
)
def test_a_users_function_that_gives_no_network_is_refused(user_module: str, function: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(ModelConfig(name=f"{user_module}:{function}"), num_classes=4, in_channels=3)
    assert "\n" not in str(caught.value)


class Wraps(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.part(x)
        return scores


class TakesTwo(Wraps):
    def forward(self, x: torch.Tensor, extra: object) -> torch.Tensor:
        return super().forward(x)


def scripted(network: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        module: nn.Module = torch.jit.script(network)
    return module


def exported(network: nn.Module) -> nn.Module:
    return torch.export.export(network.eval(), (torch.zeros(2, 3, 2, 2),)).module()


def compiled_in_place(network: nn.Module) -> nn.Module:
    network.compile()
    return network


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (scripted, r"gave a RecursiveScriptModule, but must give a Python module, as it was before torch\.jit"),
        (lambda network: Wraps(scripted(network)), "gave a RecursiveScriptModule as the part part, but must"),
        (torch.compile, r"gave a OptimizedModule, which is compiled, .* itself \(network\._orig_mod"),
        (compiled_in_place, "gave a Sequential, which is compiled"),
        (TakesTwo, r"TakesTwo, whose forward must take images alone, .* 'extra'\); give its other arguments defaults"),
        (exported, r"cannot be trained \(Calling train\(\) .* not what torch\.export made of it"),
    ],
)
def test_modules_that_only_run_or_take_more_than_images_are_refused_with_what_to_give(
    monkeypatch: pytest.MonkeyPatch, wrap: Callable[[nn.Module], nn.Module], message: str
) -> None:
    network = wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)))
    monkeypatch.setattr("torchvision.own_network_of_this_test", lambda num_classes: network, raising=False)
    with pytest.raises(InputError, match=rf"^model\.name: your function .*{message}") as caught:
        build(ModelConfig(name="torchvision:own_network_of_this_test"), num_classes=4, in_channels=3)
    assert "\n" not in str(caught.value)


def holding(layer: nn.Module) -> nn.Module:
    layer.held = layer.weight * 2
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nn.utils.weight_norm, r"computes its weights anew .* make them so with torch\.nn\.utils\.remove_weight_norm"),
        (nn.utils.spectral_norm, r"computes its weights anew .* with torch\.nn\.utils\.remove_spectral_norm"),
        (
            partial(l1_unstructured, name="weight", amount=0.5),
            r"computes .* hook of L1Unstructured, .*prune\.remove",
        ),
        (holding, "has held, which was computed from parameters as it was built"),
        (nn.Module.bfloat16, r"has weight of torch\.bfloat16, but it must be of torch\.float32; .*precision: bf16"),
        (nn.Module.double, r"has weight of torch\.float64, but it must be of torch\.float32"),
        (lambda _: nn.BatchNorm1d(12, affine=False).half(), r"has running_mean of torch\.float16, but"),
        (lambda layer: nn.LazyLinear(layer.out_features), "is a LazyLinear, but must have its size from the start"),
        (lambda _: nn.LazyBatchNorm1d(affine=False), "is a LazyBatchNorm1d, but must have its size"),
    ],
)
def test_layers_with_tensors_of_a_wrong_kind_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[nn.Module], nn.Module], message: str
) -> None:
    def network(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), change(nn.Linear(12, num_classes)))

    monkeypatch.setattr("torchvision.own_network_of_this_test", network, raising=False)
    with pytest.raises(InputError, match=rf"^model\.name: layer 1 of your function's network {message}"):
        build(ModelConfig(name="torchvision:own_network_of_this_test"), num_classes=4, in_channels=3)


@pytest.mark.parametrize(
    ("name", "message"), [("vgg7", "must be one of vgg16, vgg-small"), ("no.such:f", "cannot be imported")]
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(ModelConfig(name=name), num_classes=4, in_channels=3)
