"""What a search checks of a network first: on networks that keep the contracts, and on those that break one."""

import copy
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from trainables.errors import InputError
from trainables.pruning.contracts import check_contracts
from trainables.pruning.dependencies import find_groups
from trainables.pruning.draws import _unlike, draws
from trainables.pruning.held import CLASS_SCORES
from trainables.pruning.probe import draw_weights
from trainables.pruning.selection import possible_counts
from trainables.pruning_config import Pruning
from trainables.recipe import Precision

SHAPE = (3, 16, 16)
Two = namedtuple("Two", ["scores", "auxiliary"])


class Between(nn.Module):
    """Three convolutions, and an operation behind the second."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Sequential(nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))
        self.operation = operation
        self.third = nn.Conv2d(8, 10, 3, padding=1)
        self.scores = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.third(self.operation(self.second(self.first(x))))
        scores: torch.Tensor = self.scores(x.relu().mean((2, 3)))
        return scores


class Reversed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)


class Weighed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.rand(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weights


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.spread * torch.randn_like(x) if self.training else x


class Squeezed(nn.Module):
    """Takes the dimension of the channels away, too, where one is left."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pixels = x.squeeze()
        return pixels.view(len(x), -1, *x.shape[2:]) if pixels.ndim == 4 else pixels


class Needs(nn.Module):
    """32 channels, of which so many must be left."""

    def __init__(self, right: Callable[[int], bool]) -> None:
        super().__init__()
        self.wide, self.back = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 1)
        self.right = right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.wide(x)
        if not self.right(x.shape[1]):
            raise ValueError(f"not {x.shape[1]} channels")
        return self.back(x)


def test_networks_keep_the_contracts(architecture, networks) -> None:
    network, channel_map = networks(architecture)
    before = copy.deepcopy(network.state_dict())
    generator_state = torch.get_rng_state()
    findings = check_contracts(network.train(), SHAPE, pruning=Pruning())
    assert [group.name for group in findings.channel_map.groups] == [group.name for group in channel_map.groups]
    assert findings.silent == ()
    assert 0 <= findings.difference < 1e-4
    assert 0 < findings.smallest < 0.2
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(layer._forward_hooks for layer in network.modules())
    assert torch.equal(torch.get_rng_state(), generator_state)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Reversed(), r"group second\.1: the network without some of its channels gives other scores"),
        (nn.Hardtanh(0.5, 1.0), r"group second\.1: the network without some of its channels gives other scores"),
        (Weighed(), r"group second\.1: without some of its channels, the network fails \("),
        (Noise(), r"group second\.1: without some of its channels, the network fails in training \("),
        (Squeezed(), r"group second\.1: with as few channels as it may be left with, the network fails \("),
    ],
)
def test_a_network_that_breaks_a_contract_is_refused_by_its_groups_name(operation: nn.Module, message: str) -> None:
    network = Between(operation)
    with pytest.raises(InputError, match=message) as caught:
        check_contracts(network, SHAPE, pruning=Pruning())
    assert "\n" not in str(caught.value)
    findings = check_contracts(network, SHAPE, pruning=Pruning(keep=("second.1",)))  # the mend that it names
    names = [group.name for group in findings.channel_map.groups if not group.name.startswith("operation.")]
    assert names == ["third"]


@pytest.mark.parametrize("least", [2, 12, 20, 31])
def test_a_network_that_needs_some_channels_is_taken_with_a_floor(least: int) -> None:
    network = Between(Needs(lambda width: width >= least))
    for pruning in (Pruning(), Pruning(floors={"operation.wide": least - 1})):
        mend = r"keep, .*, or give it a floor in cascade\.pruning\.floors; its channels go"
        with pytest.raises(InputError, match=rf"^group operation\.wide: wit.*, the network fails \(.*{mend}"):
            check_contracts(network, SHAPE, pruning=pruning)
    for pruning in (Pruning(floors={"operation.wide": least}), Pruning(min_channels=least)):
        assert check_contracts(network, SHAPE, pruning=pruning).difference < 1e-4


@pytest.mark.parametrize("pruning", [Pruning(), Pruning(min_channels=5), Pruning(round_to=4)])
@pytest.mark.parametrize("width", [2, 3, 4, 8, 12, 16, 30])
def test_widths_that_are_tried_are_two_and_not_half_where_there_is_a_choice(width: int, pruning: Pruning) -> None:
    (group,) = find_groups(nn.Sequential(nn.Conv2d(3, width, 1), nn.Flatten(), nn.Linear(width, 4)), (3, 1, 1)).groups
    counts = {*possible_counts(group, pruning)}
    for turn in range(1, 30):
        tried = {*_unlike(group, turn, pruning)}
        assert tried <= counts
        assert len(tried) == min(2, len(counts))
        assert width / 2 not in tried or len(counts) < 3


def test_a_network_that_needs_multiples_is_taken_with_rounded_widths() -> None:
    network = Between(Needs(lambda width: width % 8 == 0))
    for pruning in (Pruning(), Pruning(round_to=4), Pruning(floors={"operation.wide": 8})):
        with pytest.raises(InputError, match=r"^group operation\.wide: .*is given; its channels go"):
            check_contracts(network, SHAPE, pruning=pruning)
    for floors in ({}, {"operation.wide": 12}, {"operation.wide": 30}):
        assert check_contracts(network, SHAPE, pruning=Pruning(round_to=8, floors=floors)).difference < 1e-4


class AddsInPlace(nn.Sequential):
    """Adds to what a layer gave, which that layer needs for its gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        x += 1.0
        return x


class AddsInPlaceToImages(nn.Conv2d):
    """Adds to what it has convolved, which it needs for its weights' gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images = x.sigmoid().contiguous(memory_format=torch.channels_last)
        convolved = super().forward(images)
        images += 1.0
        return convolved


class AddsInPlaceAlone(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.sigmoid()
        x += 1.0
        return x


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (AddsInPlace(nn.ReLU()), r"what layer operation\.0 computed with is changed in place later; .* x = x \+ y for"),
        (AddsInPlaceToImages(8, 8, 3, padding=1, groups=8), "what layer operation computed with is changed in place"),
        (AddsInPlaceAlone(), "one of the variables needed .* inplace operation: .*; leave out operations in place"),
    ],
)
def test_operations_in_place_that_gradients_cannot_be_told_of_are_refused(operation: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=f"^the network's backward pass fails: {message}"):
        check_contracts(Between(operation), SHAPE, pruning=Pruning())


class Fails(torch.autograd.Function):
    """Raises an error in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, error: Exception) -> torch.Tensor:
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx: Any, _above: torch.Tensor) -> tuple[torch.Tensor, None]:
        raise ctx.error


class FailsWith(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_meta:  # while layers are traced
            return x * 1.0
        failed: torch.Tensor = Fails.apply(x, self.error)
        return failed


class FlatInTraining(nn.Module):
    """Views images as flat, in training alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1).view(x.shape) if self.training else x


class Flat(nn.Module):
    """Views images as flat."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1).view(x.shape)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            FlatInTraining(),
            r"view size is not compatible .*\), in the forward pass of layer operation, in fp32 on images whose "
            "channels lie last; change what fails$",
        ),
        (FailsWith(RuntimeError("expected Float")), r"expected Float\), in the backward pass, in fp32 on images"),
        (FailsWith(TypeError("no number")), r"no number\), in the backward pass"),
    ],
)
def test_what_fails_in_a_step_as_training_takes_it_is_refused(operation: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=rf"^the network fails in training \({message}"):
        check_contracts(Between(operation), SHAPE, pruning=Pruning())


def test_a_network_that_needs_its_channels_first_keeps_the_contracts() -> None:
    assert check_contracts(Between(Flat()), SHAPE, pruning=Pruning()).difference < 1e-4


def test_a_machine_without_memory_is_not_the_networks_fault() -> None:
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    with pytest.raises(RuntimeError, match=r"^DefaultCPUAllocator"):
        check_contracts(Between(FailsWith(error)), SHAPE, pruning=Pruning())


def test_steps_are_taken_in_the_precision_of_training() -> None:
    class Added(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            nothing = torch.zeros(x.shape, device=x.device)  # in float32
            return nothing.index_add(0, torch.arange(len(x), device=x.device), x)

    network = Between(Added())
    assert check_contracts(network, SHAPE, pruning=Pruning()).difference < 1e-4
    message = r"in the forward pass of layer operation, in bf16 .* or take fp32 for the recipe's precision$"
    with pytest.raises(InputError, match=rf"^the network fails in training \(.*same scalar type\), {message}"):
        check_contracts(network, SHAPE, pruning=Pruning(), precisions=("fp32", "bf16"))


class Recomputed(nn.Module):
    """Layers whose outputs are computed again in the backward pass of training."""

    def __init__(self, *layers: nn.Module, use_reentrant: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers) if len(layers) > 1 else layers[0]
        self.use_reentrant = use_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            told: torch.Tensor = self.layers(x)
        else:
            told = checkpoint(self.layers, x, use_reentrant=self.use_reentrant)
        return told


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # while layers are traced
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "layers", [[nn.Conv2d(8, 8, 1)], [nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU()]]
)
def test_layers_that_run_again_in_the_backward_pass_are_refused(
    layers: list[nn.Module],
    precision: Precision,
    use_reentrant: bool,  # noqa: FBT001
) -> None:
    operation = Recomputed(*layers, use_reentrant=use_reentrant)
    message = r"^layer operation\.layers runs again in the backward pass, .*; leave torch\.utils\.checkpoint out"
    with pytest.raises(InputError, match=message):
        check_contracts(Between(operation), SHAPE, pruning=Pruning(), precisions=(precision,))


def test_what_only_computes_in_the_backward_pass_is_no_layer_that_runs_again() -> None:
    class Hooked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.act(x) * 2.0
            if y.requires_grad:
                y.register_hook(lambda gradient: self.act(gradient) - self.act(-gradient))
            return y

    assert check_contracts(Between(Hooked()), SHAPE, pruning=Pruning()).difference < 1e-4


def test_a_hook_of_the_users_own_that_fails_in_training_is_told() -> None:
    network = Between(nn.Identity())

    def refuse(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if layer.training and not inputs[0].is_meta:
            raise RuntimeError("mine")

    network.register_forward_pre_hook(refuse)
    with pytest.raises(
        InputError, match=r"^the network fails in training \(mine\), in the forward pass of layer Between"
    ):
        check_contracts(network, SHAPE, pruning=Pruning())


def test_auxiliary_heads_are_refused() -> None:
    class Auxiliary(Between):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = super().forward(x)
            return Two(scores, scores) if self.training else scores

    with pytest.raises(InputError, match="in training the network returns a Two"):
        check_contracts(Auxiliary(nn.Identity()), SHAPE, pruning=Pruning())


def test_a_network_with_a_parametrized_layer_keeps_the_contracts_around_it() -> None:
    network = Between(nn.Identity())
    parametrizations.spectral_norm(network.first)
    findings = check_contracts(network, SHAPE, pruning=Pruning())
    assert [group.name for group in findings.channel_map.groups] == ["second.1", "third"]


def test_a_branch_on_values_in_training_alone_is_refused() -> None:
    class Dropped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0 if self.training and torch.rand(1, device=x.device) < 0.1 else x

    with pytest.raises(InputError, match=r"in training, in the forward pass of part operation, .* leave out branches"):
        check_contracts(Between(Dropped()), SHAPE, pruning=Pruning())


def test_an_autocast_on_the_images_device_is_refused_with_its_mend() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.device_of(x), torch.bfloat16):
                return super().forward(x).float()

        def device_of(self, x: torch.Tensor) -> str:
            return x.device.type

    class Mended(Own):
        def device_of(self, x: torch.Tensor) -> str:
            return "cpu" if x.is_meta else x.device.type

    mend = r'give it one, as by torch\.autocast\("cpu" if x\.is_meta else x\.device\.type\)$'
    with pytest.raises(InputError, match=rf"forward pass of part operation, an? Own: .*device_type 'meta'.*; {mend}"):
        check_contracts(Between(Own(8, 8, 3)), SHAPE, pruning=Pruning())
    assert check_contracts(Between(Mended(8, 8, 3, padding=1)), SHAPE, pruning=Pruning()).silent == ()


def test_a_batch_norm_that_averages_over_all_batches_is_refused() -> None:
    norm = nn.BatchNorm2d(8, momentum=None)
    with pytest.raises(InputError, match=r"part operation, a BatchNorm2d: its momentum=None, .* give it a number"):
        check_contracts(Between(norm), SHAPE, pruning=Pruning())


@pytest.mark.parametrize("kept", [lambda x: x, lambda x: [x], lambda x: {"features": x}])
def test_a_layer_that_keeps_what_it_computed_is_refused(kept: Callable[[torch.Tensor], object]) -> None:
    class Keeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = kept(x)
            return x

    with pytest.raises(InputError, match=r"layer operation keeps kept of its last forward pass, .*detach"):
        check_contracts(Between(Keeps()), SHAPE, pruning=Pruning())


def test_a_layer_that_keeps_what_a_hook_gives_it_is_refused() -> None:
    network = Between(nn.Identity())
    network.seen = {}
    network.first.register_forward_hook(lambda _layer, _inputs, output: network.seen.update(first=output))
    with pytest.raises(InputError, match=r"layer Between keeps seen of its last forward pass, .*detach"):
        check_contracts(network, SHAPE, pruning=Pruning())


def test_a_layer_may_keep_what_has_no_gradients() -> None:
    class Keeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.kept = x.detach()
            return x

    assert check_contracts(Between(Keeps()), SHAPE, pruning=Pruning()).silent == ()


def test_scores_that_are_probabilities_are_known() -> None:
    class Ends(Between):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.end(super().forward(x))

    for end, probabilities in ((nn.Softmax(1), True), (nn.LogSoftmax(1), False), (nn.Sigmoid(), False)):
        network = Ends(nn.Identity())
        network.end = end
        assert check_contracts(network, SHAPE, pruning=Pruning()).probabilities == probabilities


def test_a_groups_layers_are_named_where_it_breaks_a_contract() -> None:
    with pytest.raises(InputError, match=r"keep; its channels go from second\.1 to third; with cascade"):
        check_contracts(Between(Reversed()), SHAPE, pruning=Pruning())


class Blocks(nn.Module):
    """Residual blocks, of which the second and the third turn the order of their inner channels around."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), turn, nn.ReLU(), nn.Conv2d(8, 6, 1))
            for turn in (nn.Identity(), Reversed(), Reversed(), nn.Identity())
        )
        self.scores = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


REST = r" the rest holds, down to [\d.]+ % of the MACs$"


def test_all_that_break_a_contract_are_named_with_what_leaves_them_alone_and_nothing_else() -> None:
    said = r"^group blocks\.1\.0: .*; its channels go from .*; 2 of 3 groups fail; with cascade\.pruning\."
    alone = r'keep=\["\*\.3\.4", blocks\.1\.0, blocks\.2\.0\]'
    with pytest.raises(InputError, match=said + alone + REST):
        check_contracts(Blocks(), SHAPE, pruning=Pruning(keep=("*.3.4",)))
    alone = r"keep=\[blocks\.1\.1, blocks\.2\.1\]"  # the convolutions there read what may go
    with pytest.raises(InputError, match=alone + REST):
        check_contracts(Blocks(), SHAPE, pruning=Pruning())
    floors = {"blocks.1.0": 4, "blocks.0": 2}
    with pytest.raises(InputError, match=rf"{alone} and without cascade\.pruning\.floors of blocks\.1\.0{REST}"):
        check_contracts(Blocks(), SHAPE, pruning=Pruning(floors=floors))
    pruning = Pruning(keep=("blocks.1.1", "blocks.2.1"), floors={"blocks.0": 2})
    findings = check_contracts(Blocks(), SHAPE, pruning=pruning)
    assert {group.name for group in findings.channel_map.groups} == {"blocks.0.0", "blocks.3.0", "blocks.3.4"}


def test_layers_that_are_called_by_numbers_are_named_as_text() -> None:
    layers = [
        nn.Conv2d(3, 8, 1),
        Reversed(),
        nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    ]
    with pytest.raises(InputError, match=rf'keep=\["0"\]{REST}'):
        check_contracts(nn.Sequential(*layers), SHAPE, pruning=Pruning())


class Either(nn.Module):
    """Fails once both halves of its layers lost channels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if index == 0 else 6, 6, 1) for index in range(4))
        self.scores = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        if self.layers[0].out_channels < 6 and self.layers[3].out_channels < 6:
            raise ValueError("too narrow")
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


class Alike(nn.Module):
    """Two layers in a row, of 16 channels each, that must stay as wide as each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.back = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.one.out_channels != self.other.out_channels:
            raise ValueError("not alike")
        x = self.back(self.other(self.one(x)))
        return x


@pytest.mark.parametrize(
    "pruning", [Pruning(), Pruning(round_to=8), Pruning(min_channels=15), Pruning(min_channels=14)]
)
def test_groups_that_must_be_as_wide_as_each_other_are_refused(pruning: Pruning) -> None:
    named = r"keep=\[operation\.one, operation\.other\]"
    with pytest.raises(
        InputError, match=rf"^group operation\.one: without some .*\(not alike\).*; 2 of .*{named}{REST}"
    ):
        check_contracts(Between(Alike()), SHAPE, pruning=pruning)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_one_draw_leaves_every_other_group_whole(depth: int) -> None:
    layers = [nn.Conv2d(8, 8, 1) for _ in range(depth)]
    network = nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Flatten(), nn.Linear(8, 4))
    groups = find_groups(network, (3, 1, 1)).groups
    for pruning in (Pruning(), Pruning(round_to=4)):
        tried = [
            [len(draw.kept[group.name]) == 8 for group in groups]
            for draw in draws(groups, pruning, torch.Generator().manual_seed(0))
        ]
        assert [index % 2 == 1 for index, _ in enumerate(groups)] in tried


def test_groups_that_fail_together_alone_are_said_to() -> None:
    with pytest.raises(InputError, match=r"^group layers\.0 with 3 others: .*\(too narrow\).*; 4 of 4 groups fail$"):
        check_contracts(Either(), SHAPE, pruning=Pruning())


def test_weights_that_are_not_finite_are_refused() -> None:
    network = Between(nn.Identity())
    nn.init.constant_(network.scores.bias, torch.nan)
    with pytest.raises(InputError, match="loss on images of noise is not finite"):
        check_contracts(network, SHAPE, pruning=Pruning())


def test_groups_behind_a_zero_initialised_layer_are_silent() -> None:
    network = torchvision.models.resnet18(num_classes=4, zero_init_residual=True)
    findings = check_contracts(network, SHAPE, pruning=Pruning())
    assert findings.silent == tuple(f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1))
    network = Between(nn.Identity())
    nn.init.zeros_(network.scores.weight)
    assert check_contracts(network, SHAPE, pruning=Pruning()).silent == ("first", "second.1", "third")


class WithoutGradients(nn.Module):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    network = nn.Sequential(Between(nn.Identity()), WithoutGradients())
    with pytest.raises(InputError, match="Sequential cannot be traced: no gradient comes from the scores to a layer"):
        check_contracts(network, SHAPE, pruning=Pruning())


def test_a_shuffle_of_channels_is_left_whole_and_what_stands_between_is_narrowed() -> None:
    network = torchvision.models.shufflenet_v2_x0_5(num_classes=4)
    findings = check_contracts(network, (3, 32, 32), pruning=Pruning())
    names = {group.name for group in findings.channel_map.groups}
    inner = {f"stage{stage}.{block}.branch2.3" for stage, blocks in ((2, 4), (3, 8), (4, 4)) for block in range(blocks)}
    assert names == {"conv1.0", "conv5.0"} | inner
    assert findings.smallest < 0.1
    reason = "a reshape deals them into rows, as for a shuffle or attention, which is not followed"
    assert all(held in (CLASS_SCORES, reason) for held in findings.channel_map.held.values())


def test_a_network_is_narrowed_around_what_cannot_be_followed() -> None:
    network = torchvision.models.swin_t(num_classes=4)  # its blocks shift windows of the whole image
    findings = check_contracts(network, (3, 32, 32), pruning=Pruning())
    groups, held = findings.channel_map.groups, findings.channel_map.held
    assert {group.name.rpartition(".")[0].rpartition(".")[2] for group in groups} == {"mlp"}
    assert len(groups) == 12
    dealt = "a reshape deals them into rows, as for a shuffle or attention, which is not followed"
    endless = "its channels cannot be followed: they stand at ever more places; reshapes and shifts of whole images are"
    assert {reason.partition(" not supported")[0] for reason in held.values()} == {CLASS_SCORES, dealt, endless}


class UnitConv(nn.Conv2d):
    """Filters of length one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = nn.functional.normalize(self.weight.flatten(1)).view_as(self.weight)
        return self._conv_forward(x, weight, self.bias)


class StandardisedConv(nn.Conv2d):
    """Weights of mean zero and variance one (Qiao et al. 2019)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


class ActivatedConv(nn.Conv2d):
    """An activation of its own behind the gate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.silu(super().forward(x))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [UnitConv, StandardisedConv])
def test_layers_that_normalise_their_own_weights_are_no_gates(kind: type[nn.Conv2d], bias: bool) -> None:  # noqa: FBT001
    network = Between(nn.Identity())
    network.first = kind(3, 6, 3, padding=1, bias=bias)
    mend = rf"put a batch norm behind it, .*; with cascade\.pruning\.keep=\[first\]{REST}"
    with pytest.raises(InputError, match=rf"^group first: with half its weights, layer first does not give .*; {mend}"):
        check_contracts(network, SHAPE, pruning=Pruning())
    assert "first" in check_contracts(network, SHAPE, pruning=Pruning(keep=("first",))).channel_map.held
    network.first = nn.Sequential(network.first, nn.BatchNorm2d(6))
    assert check_contracts(network, SHAPE, pruning=Pruning()).channel_map.groups[0].gates == ("first.1",)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_an_activation_within_a_layer_stands_behind_its_gate(scale: float) -> None:
    network = Between(nn.Identity())
    network.first = ActivatedConv(3, 6, 3, padding=1)
    network.first.register_forward_hook(lambda _layer, _inputs, output: output * scale + scale * output.tanh())
    findings = check_contracts(network, SHAPE, pruning=Pruning())
    assert findings.channel_map.groups[0].gates == ("first",)


class Branches(nn.Module):
    """Adds two branches, each multiplied by a number that is learnt."""

    def __init__(self, weigh: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.weights = nn.Parameter(torch.tensor([0.5, 1.0]))
        self.weigh = weigh

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.weigh(self.weights)
        return one * self.one(x) + self.other(x) * other


@pytest.mark.parametrize(
    "weigh",
    [
        lambda weights: weights.softmax(0),  # Liu et al. 2019
        lambda weights: weights.relu() / (weights.relu().sum() + 1e-4),  # Tan et al. 2020
        lambda weights: weights.sigmoid().view(2, 1, 1, 1),
    ],
)
def test_channels_are_not_followed_into_numbers_that_weigh_branches(
    weigh: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    findings = check_contracts(Between(Branches(weigh)), SHAPE, pruning=Pruning())
    assert findings.channel_map.held == {"scores": CLASS_SCORES}
    (branches,) = (group for group in findings.channel_map.groups if group.gives("operation"))
    assert branches.gates == ("operation.one", "operation.other")
    assert {member.layer for member in branches.members} == {"operation.one", "operation.other", "third"}
    assert findings.difference < 1e-4


class Blurred(nn.Module):
    """Blurs each channel by a filter that takes its shape from the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel = torch.full((1, 1, 3, 3), 1 / 9, device=x.device).expand(x.shape[1], 1, 3, 3)
        return nn.functional.conv2d(x, kernel, padding=1, groups=x.shape[1])


def test_a_convolution_outside_of_a_layer_is_refused_with_its_mend() -> None:
    with pytest.raises(
        InputError, match=r"MACs, but \d+ were predicted; .* outside of a layer .*: make it an nn\.Conv2d"
    ):
        check_contracts(Between(Blurred()), SHAPE, pruning=Pruning())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.arange(4), r"parameter own of torch\.int64, but parameters must be of .*; register it as a buffer"),
        (torch.zeros(4, dtype=torch.complex64), r"own of torch\.complex64, but .*; torch\.view_as_complex makes"),
    ],
)
def test_parameters_that_are_no_real_numbers_are_refused(networks, values: torch.Tensor, message: str) -> None:
    network, _ = networks("vgg-small")
    network.register_parameter("own", nn.Parameter(values, requires_grad=False))
    with pytest.raises(InputError, match=message):
        check_contracts(network, SHAPE, pruning=Pruning())


@pytest.mark.parametrize("shape", [(4, 0), (0, 4), (0,)])
def test_a_parameter_without_numbers_is_left_as_it_is(networks, shape: tuple[int, ...]) -> None:
    network, _ = networks("vgg-small")
    network.register_parameter("none", nn.Parameter(torch.zeros(shape)))
    assert check_contracts(network, SHAPE, pruning=Pruning()).difference < 1e-5


def test_floors_decide_the_smallest_size(networks) -> None:
    network, _ = networks("vgg-small")  # 4, 4, 8, 8, 16, 16 channels
    smallest = [
        check_contracts(network, SHAPE, pruning=pruning).smallest
        for pruning in (Pruning(), Pruning(min_channels=4), Pruning(floors={"features": 16}), Pruning(round_to=8))
    ]
    assert smallest[0] < smallest[1] < smallest[3] < smallest[2] == 1.0


def test_floors_of_layers_that_are_not_there_are_refused(networks) -> None:
    with pytest.raises(InputError, match=r"pruning\.floors has 'classifier', but no layer whose channels"):
        check_contracts(networks("vgg-small")[0], SHAPE, pruning=Pruning(floors={"classifier": 2}))


def test_floors_that_no_layer_reaches_are_refused(networks) -> None:
    with pytest.raises(
        InputError, match=r"floors of features is 17, but what is called so has 16 channels at the most"
    ):
        check_contracts(networks("vgg-small")[0], SHAPE, pruning=Pruning(floors={"features": 17}))


def test_drawn_weights_have_neither_zeros_nor_ones(networks) -> None:
    network, _ = networks("own")
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    draw_weights(network, torch.Generator().manual_seed(0))
    for name, tensor in network.state_dict().items():
        if tensor.ndim:
            assert tensor.isfinite().all(), name
            assert ((tensor != 0) & (tensor != 1)).all(), name
    again = copy.deepcopy(network)
    draw_weights(again, torch.Generator().manual_seed(0))
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in network.state_dict().items())
