"""Channel groups against the truth: a dense network with gates behind its layers and a narrow one agree."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from trainables.errors import InputError
from trainables.networks.vggs import vgg
from trainables.pruning.channels import ChannelMap, Kept, layer_widths
from trainables.pruning.contracts import check_contracts
from trainables.pruning.dependencies import find_groups
from trainables.pruning.held import CLASS_SCORES
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning_config import Pruning


def gated(network: nn.Module, channel_map: ChannelMap, kept: Kept) -> nn.Module:
    """The dense network, with a gate of zeros and ones that multiplies the output of each gate layer."""
    network = copy.deepcopy(network)
    for group in channel_map.groups:
        for member in group.members:
            if member.axis == "out" and member.layer in group.gates:
                layer = network.get_submodule(member.layer)
                gate = torch.ones(layer_widths(layer)[0])
                gate[member.positions_N[~torch.isin(member.channels_N, kept[group.name])]] = 0.0
                layer.register_forward_hook(
                    lambda _layer, _inputs, output, gate=gate: output * gate.view(-1, *[1] * (output.ndim - 2))
                )
    return network


def without_dropout(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    return network


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31), training=st.booleans())
def test_the_gated_dense_network_and_the_narrow_one_agree(architecture, networks, random_plan, seed, training) -> None:
    network, channel_map = networks(architecture)
    kept = random_plan(channel_map, seed)
    level = Level(1, SharedWeights(network, channel_map), shared_affine=False)
    level.keep(kept)
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    dense = without_dropout(gated(network, channel_map, kept).train(training))
    narrow = without_dropout(level.network.train(training))
    with torch.no_grad():
        wanted = dense(images)
        torch.testing.assert_close(narrow(images), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max().clamp(min=1)))


def test_groups_of_own_network_are_what_its_forward_pass_says(networks) -> None:
    _, channel_map = networks("own")
    groups = {group.name: group for group in channel_map.groups}
    # The depthwise convolution gives its input channels back, so the stem's outputs are in its group.
    assert list(groups) == ["depthwise.0", "plain", "normed.0", "merged", "hidden"]
    assert {name: group.gates for name, group in groups.items()} == {
        "depthwise.0": ("depthwise.1",),  # the last before the channels are read
        "plain": ("plain",),
        "normed.0": ("normed.1",),
        "merged": ("merged",),
        "hidden": ("hidden",),
    }
    axes = {(m.layer, m.axis): m.positions_N.tolist() for m in groups["normed.0"].members}
    assert axes["merged", "in"] == [6, 7, 8, 9]  # behind the six channels of the other branch
    flat = next(m for m in groups["merged"].members if m.layer == "hidden")
    assert flat.positions_N.tolist() == list(range(32))
    assert flat.channels_N.tolist() == [position // 4 for position in range(32)]
    assert channel_map.blockwise == {"stem.1", "depthwise.0", "depthwise.1", "normed.1"}


@pytest.mark.parametrize(("name", "number", "coupled"), [("resnet18", 12, 4), ("resnet50", 37, 4), ("vgg-small", 6, 0)])
def test_residual_sums_couple_channels(networks, name: str, number: int, coupled: int) -> None:
    _, channel_map = networks(name)
    assert len(channel_map.groups) == number
    assert sum(len(group.gates) > 1 for group in channel_map.groups) == coupled


def test_every_layer_but_the_ends_is_narrowed(architecture, networks) -> None:
    network, channel_map = networks(architecture)
    outputs = {m.layer for group in channel_map.groups for m in group.members if m.axis == "out"}
    inputs = {m.layer for group in channel_map.groups for m in group.members if m.axis == "in"}
    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    depthwise = set(layers) & channel_map.blockwise
    assert set(layers) - outputs == {layers[-1]}
    assert set(layers) - inputs - depthwise == {layers[0]}


def test_the_network_is_left_as_it_was(architecture, networks) -> None:
    network, _ = networks(architecture)
    network.requires_grad_(requires_grad=False).train()
    before = copy.deepcopy(network.state_dict())
    find_groups(network, (3, 16, 16))
    assert network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_groups_of_a_modern_network_are_what_its_forward_pass_says(networks) -> None:
    _, channel_map = networks("modern")
    groups = {group.name: group for group in channel_map.groups}
    assert {name: (group.num_channels, group.gates) for name, group in groups.items()} == {
        # Blocks of two channels go together from the stem on; the last convolution alone is read.
        "more.0": (8, ("more.0",)),
        "squeeze.1": (6, ("squeeze.1",)),
        "value": (20, ("value",)),  # a sigmoid is not zero at zero, but it multiplies what is
    }
    axes = {(m.layer, m.axis): m.channels_N.tolist() for m in groups["more.0"].members}
    assert axes["stem.0", "out"] == [position // 2 for position in range(16)]
    assert axes["stem.2", "out"] == axes["equal.1", "out"] == axes["stem.0", "out"]
    assert axes["more.0", "out"] == [position // 3 for position in range(24)] == axes["squeeze.1", "in"]
    assert ("more.0", "in") not in axes
    assert ("more.1", "out") not in axes  # one slope for all channels
    assert channel_map.blockwise == {"stem.1", "stem.2", "equal.0", "equal.1", "more.0"}
    assert channel_map.held == {"scores": "its outputs are the class scores"}


def test_a_concatenation_of_a_layer_with_itself_keeps_both_places() -> None:
    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.second = nn.Conv2d(8, 5, 3, padding=1)
            self.scores = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            scores: torch.Tensor = self.scores(self.second(torch.cat([x, -x], 1)).relu().mean((2, 3)))
            return scores

    channel_map = find_groups(Mirrored(), (3, 8, 8))
    member = next(m for m in channel_map.groups[0].members if m.layer == "second")
    assert dict(zip(member.positions_N.tolist(), member.channels_N.tolist(), strict=True)) == {
        position: position % 4 for position in range(8)
    }


class Parted(nn.Module):
    """Reads parts of a layer's channels, in another order than they stand there, and some twice."""

    def __init__(self, part: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> None:
        super().__init__()
        self.part = part
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.scores = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.part(self.first(x).relu())
        scores: torch.Tensor = self.scores(self.last(other * one.sigmoid() + other).relu().mean((2, 3)))
        return scores


PARTS = {
    "split": lambda x: x.split(x.shape[1] // 2, 1),
    "other halves": lambda x: x.split(x.shape[1] // 2, -3)[::-1],
    "slices": lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]),
    "slices from the end": lambda x: (x[:, -(x.shape[1] // 2) :], x[:, : -(x.shape[1] // 2)]),
    "every other": lambda x: (x[:, ::2], x[:, 1::2]),
    "joined again": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1).chunk(2, 1),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_parts_that_lose_the_same_channels_are_followed(
    part: Callable[[torch.Tensor], Sequence[torch.Tensor]],
) -> None:
    channel_map = check_contracts(Parted(part), (3, 8, 8), pruning=Pruning()).channel_map
    assert [(group.name, group.num_channels) for group in channel_map.groups] == [("first", 4), ("last", 6)]
    assert channel_map.held == {"scores": CLASS_SCORES}


def test_a_split_gives_its_parts_to_those_who_read_them() -> None:
    class Crossed(Parted):
        def __init__(self) -> None:
            super().__init__(lambda x: x.chunk(2, 1))
            self.one, self.other = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, other = self.part(self.first(x).relu())
            scores: torch.Tensor = self.scores(self.last(self.other(other) + self.one(one)).relu().mean((2, 3)))
            return scores

    network = Crossed()
    network.last = nn.Conv2d(5, 6, 1)
    channel_map = check_contracts(network, (3, 8, 8), pruning=Pruning()).channel_map
    assert {group.name for group in channel_map.groups} == {"other", "last"}
    assert channel_map.held["first"].startswith("torch.split, chunk or a slice parts them at fixed places")


class Flattened(nn.Module):
    """Two branches that are flattened, and joined then; a linear layer on tokens may run before."""

    def __init__(self, pixels: int, *, tokens: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 16, 3, padding=1)
        self.pool, self.tokens = nn.AdaptiveAvgPool2d(pixels), nn.Linear(3, 3) if tokens else None
        self.hidden = nn.Linear(8 * pixels**2 + 16, 6)
        self.scores = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.tokens is not None:
            x = self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        one = torch.flatten(self.pool(self.one(x).relu()), 1)
        other = self.other(x).relu().amax((2, 3), keepdim=True).view(len(x), -1)
        scores: torch.Tensor = self.scores(self.hidden(torch.cat([one, other], 1)).relu())
        return scores


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("tokens", [False, True])
def test_branches_that_are_flattened_before_they_are_joined_are_followed(pixels: int, *, tokens: bool) -> None:
    channel_map = check_contracts(Flattened(pixels, tokens=tokens), (3, 8, 8), pruning=Pruning()).channel_map
    widths = {group.name: group.num_channels for group in channel_map.groups}
    assert {name: widths[name] for name in ("one", "other", "hidden")} == {"one": 8, "other": 16, "hidden": 6}


class Laid(nn.Module):
    """Two layers whose channels meet as asked, in a layout other than that of images."""

    def __init__(self, meet: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], width: int) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.meet, self.last, self.scores = meet, nn.Linear(width, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.last(self.meet(self.one(x).relu(), self.other(x).relu())).relu())
        return scores


class Split(torch.autograd.Function):
    """A name that torch-pruning knows for something else."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return gradient


MEETINGS = {
    "channels last": (lambda a, b: torch.cat([a.movedim(1, -1), b.movedim(1, -1)], -1).mean((1, 2)), 16),
    "gates, channels last": (lambda a, b: torch.mul(*(a + b).movedim(1, -1).chunk(2, -1)).mean((1, 2)), 4),
    "pixels side by side": (lambda a, b: torch.cat([a.flatten(2), b.flatten(2)], 2).mean(2), 8),
    "pixels in two": (lambda a, b: (a + b).flatten(2).split(32, 2)[0].mean(2), 8),
    "flattened twice": (lambda a, b: (a + b)[..., :2, :2].flatten(2).flatten(1), 32),
    "to images and back": (lambda a, b: (a + b).mean((2, 3)).view(len(a), -1, 1, 1).flatten(1), 8),
    "a Function called so": (lambda a, b: Split.apply(a + b).mean((2, 3)), 8),
}


@pytest.mark.parametrize(("meet", "width"), MEETINGS.values(), ids=MEETINGS)
def test_channels_are_followed_along_whichever_axis_they_stand(
    meet: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], width: int
) -> None:
    channel_map = check_contracts(Laid(meet, width), (3, 8, 8), pruning=Pruning()).channel_map
    layers = {member.layer for group in channel_map.groups for member in group.members if member.axis == "out"}
    assert layers == {"one", "other", "last"}


def test_maps_of_one_channel_that_are_joined_hold_what_they_are_made_of() -> None:
    class SpatialAttention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1).mean(1, keepdim=True).sigmoid()

    network = Layers(nn.Sequential(nn.Conv2d(8, 8, 1), SpatialAttention()))
    channel_map = check_contracts(network, (3, 8, 8), pruning=Pruning()).channel_map
    assert [group.name for group in channel_map.groups] == ["first"]
    assert channel_map.held["asked.0"].startswith("as traced, 8 channels come to a tensor of 1")


def test_zeros_that_are_joined_for_a_wider_layer_hold_its_channels() -> None:
    network = Laid(lambda a, b: (torch.cat([a, torch.zeros_like(a)], 1) + b).mean((2, 3)), 16)
    network.other = nn.Conv2d(3, 16, 3, padding=1)
    channel_map = check_contracts(network, (3, 8, 8), pruning=Pruning()).channel_map
    assert [group.name for group in channel_map.groups] == ["last"]
    assert channel_map.held["other"] == "torch.cat puts what no layer gives, such as zeros, where they are added"


class BesideTheImage(nn.Module):
    """Channels of one layer, or of two, that are joined with the image, which no layer gives."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        self.order = order
        self.one, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.reading = nn.Conv2d(sum(3 if part == "image" else 4 for part in order), 6, 1)
        self.scores = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = {"one": self.one(x).relu(), "other": self.other(x).relu(), "image": x}
        joined = torch.cat([parts[part] for part in self.order], 1)
        scores: torch.Tensor = self.scores(self.reading(joined).relu().mean((2, 3)))
        return scores


@pytest.mark.parametrize(
    ("order", "held"),
    [
        (("one", "image"), set()),
        (("image", "one"), set()),
        (("image", "one", "other"), set()),
        (("one", "image", "other"), set()),
        (("image", "one", "image"), {"one"}),
        (("one", "image", "one", "image"), {"one"}),
    ],
)
def test_channels_that_are_joined_with_the_image_go_unless_it_stands_on_both_sides(
    order: tuple[str, ...], held: set[str]
) -> None:
    channel_map = check_contracts(BesideTheImage(order), (3, 8, 8), pruning=Pruning()).channel_map
    reasons = {layer: reason for layer, reason in channel_map.held.items() if reason != CLASS_SCORES}
    assert reasons.keys() == held
    assert all(reason.startswith("torch.cat puts them between what no layer gives") for reason in reasons.values())


class SideBySide(nn.Module):
    """Images of two layers beside one another, or above, with black ones between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.one, self.other = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.reading, self.scores = nn.Conv2d(4, 6, 1), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.one(x).relu(), self.other(x).relu()
        black = torch.zeros_like(x[:, :1]).expand(-1, one.shape[1], -1, -1)
        joined = torch.cat([black, one, black, other], self.dim)
        scores: torch.Tensor = self.scores(self.reading(joined).relu().mean((2, 3)))
        return scores


@pytest.mark.parametrize("dim", [-1, -2, 2, 3])
def test_images_that_are_joined_side_by_side_keep_the_channels_that_they_share(dim: int) -> None:
    channel_map = check_contracts(SideBySide(dim), (3, 8, 8), pruning=Pruning()).channel_map
    assert {member.layer for member in channel_map.groups[0].members} == {"one", "other", "reading"}
    assert set(channel_map.held) <= {"scores"}


def test_channels_that_stand_in_other_layers_are_groups_of_their_own() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1)
            self.depthwise = nn.Conv2d(5, 5, 3, groups=5)
            self.scores = nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.depthwise(torch.cat([self.left(x), self.right(x)], 1))
            scores: torch.Tensor = self.scores(x.relu().mean((2, 3)))
            return scores

    groups = find_groups(Joined(), (3, 8, 8)).groups
    assert {group.name: {(m.layer, m.axis): m.positions_N.tolist() for m in group.members} for group in groups} == {
        "depthwise[0]": {("depthwise", "out"): [0, 1], ("left", "out"): [0, 1], ("scores", "in"): [0, 1]},
        "depthwise[1]": {("depthwise", "out"): [2, 3, 4], ("right", "out"): [0, 1, 2], ("scores", "in"): [2, 3, 4]},
    }
    assert {group.gates for group in groups} == {("depthwise",)}


class Layers(nn.Module):
    """A convolution, a layer in question, and what gives the scores."""

    def __init__(self, layer: nn.Module, *, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.asked = layer
        self.scores = nn.Linear(channels, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(self.asked(self.first(x)).relu().mean((2, 3)))
        return scores


class WithParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class Lifted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


def _fails(_x: torch.Tensor) -> torch.Tensor:
    raise AssertionError("wrong image height")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layers(nn.LayerNorm([8, 8, 8])), "first: layer asked is a LayerNorm"),
        (lambda: Layers(nn.GroupNorm(2, 8)), "layer asked is a GroupNorm"),
        (lambda: Layers(nn.BatchNorm2d(8, affine=False)), "layer asked is a batch norm without scale and shift"),
        (lambda: Layers(WithParameter()), "first: it reaches a bare parameter"),
        (lambda: Layers(nn.Sigmoid()), "first: no gate silences what layer scores reads"),
        (lambda: Layers(nn.Softplus()), "first: no gate silences what layer scores reads"),
        (lambda: Layers(Lifted()), "first: no gate silences what layer scores reads"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), "no channels that could be removed"),
        (nn.Flatten, "no convolution and no linear layer"),
        (lambda: nn.Conv2d(3, 4, 1), "must return one tensor of class scores"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), "fails on an image of 3x8x8"),
    ],
)
def test_what_cannot_be_narrowed_is_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_groups(make(), (3, 8, 8))


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ((), ["features.0", "features.3", "features.7", "features.10"]),
        (("features.0",), ["features.3", "features.7", "features.10"]),
        (("features.8", "classifier"), ["features.0", "features.3"]),
        (("features.1*",), ["features.3"]),  # the first norm, and the last convolution with its inputs
    ],
)
def test_layers_that_are_kept_change_on_neither_side(keep: tuple[str, ...], left: list[str]) -> None:
    network = vgg(plan=(4, 6, "pool", 8, 8), num_classes=4, in_channels=3, width=1.0)
    channel_map = find_groups(network, (3, 16, 16), keep=keep)
    assert [group.name for group in channel_map.groups] == left
    assert all("is kept as asked" in reason for layer, reason in channel_map.held.items() if layer != "classifier")


def test_layers_that_are_never_narrowed_need_not_be_kept(networks) -> None:
    with pytest.raises(InputError, match=r"keep has 'norm', but no layer there can be narrowed: .* leave it out"):
        find_groups(nn.Sequential(OrderedDict(first=Layers(nn.ReLU()), norm=nn.LayerNorm(2))), (3, 8, 8), keep=["norm"])


def test_where_nothing_is_left_the_first_reasons_are_said_and_what_mends_them() -> None:
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3))]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(InputError, match=r"removed; (\d: layer \d is a GroupNorm, [\w ]*; ){3}and 1 more$"):
        find_groups(network, (3, 8, 8))
    with pytest.raises(InputError, match=r"first: layer first is kept as asked; cascade\.pruning\.keep leaves none"):
        find_groups(Layers(nn.ReLU()), (3, 8, 8), keep=["first"])


class ReadByRows(nn.Module):
    """A recurrent layer that reads images row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(8 * 8, 10, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rows(x.transpose(1, 2).flatten(2))[0][:, -1]
        return x[:, :, None, None]


class Maxout(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images, channels, height, width = x.shape
        return torch.reshape(input=x, shape=(images, channels // 2, 2, height, width)).amax(2)


@pytest.mark.parametrize(
    ("asked", "channels", "reason"),
    [
        (ReadByRows(), 10, "layer asked.0 has 8 outputs, but as traced 28 channels come to it"),
        (nn.GLU(1), 4, "layer scores has 4 inputs, but as traced 8 channels come to it; something before it joins"),
        (Maxout(), 4, "a reshape deals them into rows, as for a shuffle"),
        (nn.PixelShuffle(2), 2, "layer scores has 2 inputs, but as traced 8 channels"),
        (
            parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
            8,
            "layer asked.1 computes its weights by a parametrization, which cannot be narrowed",
        ),
    ],
)
def test_channels_whose_way_is_not_known_stay_whole_and_others_go(asked: nn.Module, channels: int, reason: str) -> None:
    network = Layers(nn.Sequential(nn.Conv2d(8, 8, 1), asked), channels=channels)
    channel_map = find_groups(network, (3, 8, 8))
    assert [group.name for group in channel_map.groups] == ["first"]
    assert channel_map.held["asked.0"].startswith(reason)


def test_layers_that_share_their_weights_stay_whole_and_go_on_sharing_them() -> None:
    first, second, third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    third.weight = second.weight
    layers = [first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    findings = check_contracts(network, (3, 8, 8), pruning=Pruning())
    assert [group.name for group in findings.channel_map.groups] == ["6"]
    held = {name: reason for name, reason in findings.channel_map.held.items() if reason != CLASS_SCORES}
    of_second = "layer 2 shares its weights with 4"
    assert held == {"0": of_second, "2": of_second, "4": "layer 4 shares its weights with 2"}
    level = Level(1, SharedWeights(network, findings.channel_map), shared_affine=False)
    level.keep({"6": torch.arange(3)})
    assert level.network[2].weight is level.network[4].weight


def test_channels_that_glu_joins_before_a_flatten_stay_whole() -> None:
    layers = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.GLU(1), nn.Flatten(), nn.Linear(4 * 64, 2)]
    channel_map = find_groups(nn.Sequential(*layers), (3, 8, 8))
    assert [group.name for group in channel_map.groups] == ["0"]
    assert channel_map.held["1"].startswith("layer 4 has 256 inputs, but as traced 512 channels come to it")


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean() > 0 else x


class HidesLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.BatchNorm2d(8)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scored: torch.Tensor = self.layers[0](x)
        return scored


class AddsConstant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(8, 1, 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Branches(), r"asks for values of a tensor \(.*\), but only shapes are known .* leave out branches"),
        (AddsConstant(), r"a tensor is not where the images are \(.*\); make constants on the images' device"),
        (HidesLayers(), r"a tensor is not where .* layers belong into an nn\.ModuleList, as a plain list hides them"),
    ],
)
def test_what_a_network_does_with_values_and_devices_is_said_in_its_own_terms(asked: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=rf"in the forward pass of part asked, a {type(asked).__name__}: .*{message}"):
        find_groups(Layers(asked), (3, 8, 8))


def test_a_forward_pass_that_asserts_is_refused(networks) -> None:
    network, _ = networks("vgg-small")
    network.forward = _fails
    with pytest.raises(InputError, match="wrong image height"):
        find_groups(network, (3, 16, 16))


class SpatialAttention(nn.Module):
    """A map of one channel, learnt or the mean of all, is multiplied with or added to all channels of a layer."""

    def __init__(self, meets: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *, learnt: bool = True) -> None:
        super().__init__()
        self.attention = nn.Conv2d(8 if learnt else 1, 1, 1)
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.scores = nn.Linear(6, 4)
        self.learnt, self.meets = learnt, meets

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = self.last(self.meets(self.attention(x if self.learnt else x.mean(1, keepdim=True)), x)).relu()
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


@pytest.mark.parametrize("meets", [lambda a, x: a.sigmoid() * x, lambda a, x: a.relu() * x, lambda a, x: x * a])
def test_a_map_of_one_channel_is_tied_to_none_that_it_multiplies(
    meets: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    network = SpatialAttention(meets).eval()
    groups = {group.name: group for group in find_groups(network, (3, 8, 8)).groups}
    assert {name: (group.num_channels, group.gates) for name, group in groups.items()} == {
        "first": (8, ("first",)),
        "last": (6, ("last",)),
    }
    assert {(member.layer, member.axis) for member in groups["first"].members} == {
        ("first", "out"),
        ("attention", "in"),
        ("last", "in"),
    }
    assert check_contracts(network, (3, 8, 8), pruning=Pruning()).difference < 1e-5


class AttentionPooling(nn.Module):
    """The mean of all places, weighed by a softmax over them of what one channel says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.weight, self.scores = nn.Conv2d(6, 1, 1), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.first(x).relu()).relu()
        weight = self.weight(x).flatten(2).softmax(-1)
        scores: torch.Tensor = self.scores((x.flatten(2) * weight).sum(-1))
        return scores


def test_a_map_of_one_channel_ties_none_where_both_are_flattened() -> None:
    network = AttentionPooling().eval()
    groups = find_groups(network, (3, 8, 8)).groups
    assert [(group.name, group.num_channels) for group in groups] == [("first", 8), ("last", 6)]
    assert check_contracts(network, (3, 8, 8), pruning=Pruning()).difference < 1e-5


class Neighbours(nn.Module):
    """Weighs each channel by itself and those beside it (efficient channel attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights: torch.Tensor = self.mix(x.mean((2, 3))[:, None]).sigmoid()
        return x * weights.view(len(x), -1, 1, 1)


class Trunk(nn.Module):
    """Grouped convolutions, with blocks of other sizes each, that add to one stream."""

    def __init__(self, width: int, sizes: list[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width // size), nn.BatchNorm2d(width), nn.ReLU())
            for size in sizes
        )
        self.scores = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


@pytest.mark.parametrize(
    ("width", "sizes", "tied"), [(64, [4, 8, 16], 16), (96, [6, 8], 24), (120, [4, 6], 12), (64, [2, 4, 8, 16, 32], 32)]
)
def test_blocks_of_several_sizes_tie_the_channels_of_one_stream(width: int, sizes: list[int], tied: int) -> None:
    (group,) = find_groups(Trunk(width, sizes), (3, 4, 4)).groups
    assert (group.num_channels, group.block) == (width // tied, tied)


def test_a_large_flatten_is_followed() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 64, 1), nn.Flatten(), nn.Linear(64 * 48 * 48, 2))
    assert [(group.name, group.num_channels) for group in find_groups(network, (3, 48, 48)).groups] == [
        ("0", 8),
        ("1", 64),
    ]


def test_channels_that_glu_halves_before_slopes_of_their_own_stay_whole() -> None:
    layers = [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 16, 1), nn.GLU(1), nn.PReLU(8), nn.Conv2d(8, 6, 1)]
    found = find_groups(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)), (3, 4, 4))
    assert [group.name for group in found.groups] == ["0", "4"]
    assert "1" in found.held


def test_a_zero_that_makes_floats_of_numbers_or_an_own_copy_does_so_while_traced() -> None:
    class Counts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            part = ((x > 0) + 0.0).mean((2, 3), keepdim=True)
            copy = x + 0
            copy.sigmoid_()
            return x * part + x * copy

    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.ReLU(), Counts(), nn.Conv2d(8, 6, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
    )
    assert [group.name for group in find_groups(network, (3, 4, 4)).groups] == ["0", "3"]


@pytest.mark.timeout(30)  # it is told at once, not by trying all places
@pytest.mark.parametrize("width", [16, 1024])
def test_channels_that_are_mixed_along_are_held_without_end_of_work(width: int) -> None:
    network = nn.Sequential(
        *(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, width, 1)),
        *(Neighbours(), nn.Conv2d(width, 7, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)),
    )
    found = find_groups(network, (3, 4, 4))
    assert [group.name for group in found.groups] == ["0", "5"]
    assert "3" in found.held


class Halves(nn.Module):
    """Multiplies one half of the channels with the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = x.chunk(2, 1)
        return one * other


def test_channels_that_are_all_tied_are_held_with_the_reason() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 2, 3), Halves(), nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    found = find_groups(network, (3, 8, 8))
    assert [group.name for group in found.groups] == ["2"]
    assert found.held["0"].startswith("its 2 channels could only go together")


@pytest.mark.parametrize(
    "meets",
    [
        lambda a, x: a.relu() + x,
        lambda a, x: x + a,
        torch.maximum,
        lambda a, x: torch.where(x > 1, x, a),
        lambda a, x: torch.addcmul(x, a, a),
    ],
)
def test_channels_to_which_a_map_is_added_are_held_as_no_gate_silences_them(
    meets: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    found = find_groups(SpatialAttention(meets), (3, 8, 8))
    assert [group.name for group in found.groups] == ["last"]
    assert found.held["first"].startswith("no gate silences what layer last reads")


def test_channels_whose_mean_is_a_map_are_held_with_the_reason() -> None:
    found = find_groups(SpatialAttention(torch.mul, learnt=False), (3, 8, 8))
    assert [group.name for group in found.groups] == ["last"]
    assert found.held["first"].startswith("layer attention has 1 inputs, but as traced 8 channels come to it")


class Head(nn.Module):
    """Class scores of a layer that cannot be narrowed, or of a bare parameter."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.one = nn.Conv1d(6, 4, 1) if kind == "one-dimensional" else None
        self.two = nn.Bilinear(6, 6, 4) if kind == "bilinear" else None
        self.bare = nn.Parameter(torch.ones(4, 6)) if kind == "bare" else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.mean((2, 3))
        if self.one is not None:
            return self.one(x[:, :, None])[:, :, 0]  # type: ignore[no-any-return]
        if self.two is not None:
            return self.two(x, x)  # type: ignore[no-any-return]
        assert self.bare is not None
        return nn.functional.linear(x, self.bare)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("one-dimensional", "layer 3.one is a Conv1d, which cannot be narrowed"),
        ("bilinear", "it reaches a bare parameter"),
        ("bare", "its channels are among what the network returns"),
    ],
)
def test_the_last_layer_of_the_trunk_does_not_give_the_scores_of_another_head(kind: str, reason: str) -> None:
    found = find_groups(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), Head(kind)), (3, 8, 8))
    assert [group.name for group in found.groups] == ["0"]
    assert found.held["2"].startswith(reason)


class Scaled(nn.Conv2d):
    """A convolution with a factor of its own."""

    def __init__(self, *widths: int) -> None:
        super().__init__(*widths)
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.gain


class Pixelwise(nn.Module):
    """A linear layer that has pixels where others have images."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.back = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
        return self.back(self.mix(pixels).relu()).reshape(n, h, w, -1).permute(0, 3, 1, 2)


def _with(layer: nn.Module, after: int = 8) -> nn.Module:
    tail = [nn.ReLU(), nn.Conv2d(after, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), layer, *tail)


def test_a_layer_with_tensors_of_its_own_is_held_by_name() -> None:
    found = find_groups(_with(Scaled(8, 8, 3)), (3, 12, 12))
    assert [group.name for group in found.groups] == ["4"]
    assert found.held["2"].startswith("layer 2 is a Scaled with a tensor 'gain'")
    assert found.held["0"].startswith("layer 2 is a Scaled")


@pytest.mark.parametrize("before", [nn.Identity(), nn.BatchNorm2d(3)])
def test_a_grouped_layer_that_reads_the_image_is_held(before: nn.Module) -> None:
    network = _with(nn.Conv2d(8, 8, 3))
    network[0] = nn.Sequential(before, nn.Conv2d(3, 12, 3, groups=3), nn.Conv2d(12, 8, 1))
    found = check_contracts(network.eval(), (3, 12, 12), pruning=Pruning()).channel_map
    assert [group.name for group in found.groups] == ["0.2", "2", "4"]
    assert found.held["0.1"] == "layer 0.1 reads the image's own channels in groups, which stay as many"


def test_pixels_in_place_of_images_are_counted_as_they_are() -> None:
    findings = check_contracts(_with(Pixelwise()).eval(), (3, 12, 12), pruning=Pruning())
    assert "2.mix" in {group.name for group in findings.channel_map.groups}


class SharedSlopes(nn.Module):
    """One PReLU that runs twice, before a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.slopes = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.PReLU()
        self.depthwise, self.last = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1)
        self.scores = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.slopes(self.stem(x))
        x = x + self.slopes(self.middle(x))
        x = self.last(self.depthwise(x)).relu()
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


def test_a_slope_that_several_layers_share_makes_no_endless_way() -> None:
    assert "last" in {group.name for group in find_groups(SharedSlopes(), (3, 8, 8)).groups}
