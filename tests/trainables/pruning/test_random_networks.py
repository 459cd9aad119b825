"""The engine against a naive one on networks drawn at random: the dense network, with masks where channels are gone.

The naive engine knows neither views nor index maps: it runs the dense network, multiplies by a mask of zeros and ones
behind each group's gates, and lets autograd differentiate that.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.pruning.channels import BATCH_NORMS, ChannelMap, Kept
from trainables.pruning.cost import count_macs, macs_model
from trainables.pruning.dependencies import find_groups
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.saliency import CRITERIA, SaliencyMeter

SHAPE = (3, 8, 8)
KINDS = (
    "plain",
    "normed",
    "normed later",
    "residual",
    "concatenated",
    "depthwise",
    "grouped",
    "squeezed",
    "gated unit",
)


class Block(nn.Module):
    """One kind of block from `before` to `after` channels, both multiples of four."""

    def __init__(self, kind: str, before: int, after: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.BatchNorm2d(after)
        if kind == "depthwise":
            self.wide = nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)
        if kind == "grouped":
            self.wide = nn.Conv2d(before, 2 * before, 3, padding=1, groups=4)
            before *= 2
        if kind == "squeezed":
            self.down, self.up = nn.Conv2d(after, 3, 1), nn.Conv2d(3, after, 1)
        if kind == "gated unit":
            self.opens = nn.Conv2d(before, after, 1)
        self.main = nn.Conv2d(before, after - before if kind == "concatenated" else after, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind in ("depthwise", "grouped"):
            x = self.wide(x)
        main = self.main(x)
        match self.kind:
            case "normed later":
                return self.norm(main.relu()).relu()
            case "residual":
                return F.silu(self.norm(main) + x)
            case "concatenated":
                return F.gelu(self.norm(torch.cat([x, main], dim=1)))
            case "squeezed":
                main = self.norm(main).relu()
                return main * self.up(self.down(main.mean((2, 3), keepdim=True)).relu()).sigmoid()
            case "gated unit":
                return main * self.opens(x).sigmoid()
            case "plain":
                return main.relu()
        return self.norm(main).relu()


class Drawn(nn.Module):
    """A stem, some blocks, and scores behind an average or behind a hidden layer on a flattened map."""

    def __init__(self, kinds: list[str], widths: list[int], *, hidden: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        before, blocks = 4, []
        for kind, width in zip(kinds, widths, strict=True):
            after = before if kind == "residual" else before + width if kind == "concatenated" else width
            blocks.append(Block(kind, before, after))
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Linear(4 * before, 8) if hidden else None
        self.scores = nn.Linear(8 if hidden else before, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem(x).relu())
        if self.hidden is not None:
            x = self.hidden(F.adaptive_avg_pool2d(x, 2).flatten(1)).relu()[:, :, None, None]
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


@st.composite
def networks_drawn(draw: st.DrawFn) -> tuple[nn.Module, int]:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
    widths = draw(st.lists(st.sampled_from([4, 8, 12]), min_size=len(kinds), max_size=len(kinds)))
    seed = draw(st.integers(0, 2**31))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Drawn(kinds, widths, hidden=draw(st.booleans()))
        for parameter in network.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, mean=0.5, std=0.5)
    return network, seed


def masked(network: nn.Module, channel_map: ChannelMap, kept: Kept) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The dense network with a gate for each channel of each group, zero where it is gone."""
    network = copy.deepcopy(network)
    gates = {}
    for group in channel_map.groups:
        gate_C = torch.zeros(group.num_channels, dtype=torch.float64)
        gate_C[kept[group.name]] = 1.0
        gates[group.name] = gate_C.requires_grad_()
        for layer in group.gates:
            (member,) = (member for member in group.members if (member.layer, member.axis) == (layer, "out"))
            places = dict(zip(member.positions_N.tolist(), member.channels_N.tolist(), strict=True))

            def close(module, _inputs, output, places=places, gate_C=gate_C):  # noqa: ANN001, ANN202
                ones = torch.ones((), dtype=torch.float64)
                mask = [gate_C[places[position]] if position in places else ones for position in range(output.shape[1])]
                return output * torch.stack(mask).view(-1, *[1] * (output.ndim - 2))

            network.get_submodule(layer).register_forward_hook(close)
    return network, gates


def require_equal(found: torch.Tensor, wanted: torch.Tensor, what: str, *, noise: float = 0.0) -> None:
    """Check that two tensors differ by rounding alone: relative to their own largest value, which may be small."""
    tolerance = 1e-6 * float(wanted.detach().abs().max()) + noise
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("training", [False, True])
@settings(max_examples=12, deadline=None)
@given(drawn=networks_drawn())
def test_scores_gradients_and_saliencies_are_the_naive_engines(random_plan, drawn, *, training: bool) -> None:
    network, seed = drawn
    channel_map = find_groups(network, SHAPE)
    assert set(channel_map.held) == {"scores"}
    network.double()  # so that sums in any order agree
    kept = random_plan(channel_map, seed)
    level = Level(1, SharedWeights(network, channel_map), shared_affine=True)
    level.keep(kept)
    naive, gates = masked(network, channel_map, kept)
    for either in (level.network, naive):
        either.train(training)
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(6, *SHAPE, generator=generator).double(), torch.arange(6) % 4
    meter = SaliencyMeter(CRITERIA["gate-gradient"], channel_map)
    meter.reset(level.network, level.kept)

    wanted_NK = naive(images)
    F.cross_entropy(wanted_NK, labels).backward()
    level.refresh()
    found_NK = level.network(images)
    F.cross_entropy(found_NK, labels).backward()
    level.accumulate_gradients()
    meter.update()

    require_equal(found_NK, wanted_NK, "scores")
    gradients = {name: parameter.grad for name, parameter in naive.named_parameters() if parameter.grad is not None}
    noise = 1e-12 * max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, parameter in level.shared.network.named_parameters():
        wanted = gradients.get(name, torch.zeros_like(parameter))
        require_equal(parameter.grad, wanted, f"gradient of {name}", noise=noise)  # of biases before a norm it is all
    for name, scores_C in meter.scores().items():
        gradient_C = gates[name].grad
        wanted_C = torch.zeros(len(kept[name])).double() if gradient_C is None else gradient_C[kept[name]].abs()
        require_equal(scores_C.sqrt(), wanted_C, f"saliency of {name}", noise=noise)


@settings(max_examples=25, deadline=None)
@given(drawn=networks_drawn())
def test_predicted_macs_are_those_of_the_narrow_network(random_plan, drawn) -> None:
    network, seed = drawn
    channel_map = find_groups(network, SHAPE)
    level = Level(1, SharedWeights(network, channel_map), shared_affine=False)
    level.keep(random_plan(channel_map, seed))
    counts = np.array([len(level.kept[group.name]) for group in channel_map.groups])
    assert macs_model(network, channel_map, SHAPE).total(counts) == count_macs(level.network, SHAPE)


@settings(max_examples=25, deadline=None)
@given(drawn=networks_drawn())
def test_every_layer_but_the_ends_is_in_a_group(drawn) -> None:
    network, _ = drawn
    channel_map = find_groups(network, SHAPE)
    outputs = {m.layer for group in channel_map.groups for m in group.members if m.axis == "out"}
    ran = {name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert ran - outputs == {"scores"}
    norms = {name for name, layer in network.named_modules() if isinstance(layer, BATCH_NORMS)}
    used = {f"blocks.{i}.norm" for i, block in enumerate(network.blocks) if block.kind not in ("plain", "gated unit")}
    assert norms & outputs == used
