"""A deployed network computes what the network computes, batch norm folded and normalisation where it is wanted."""

import pytest
import torch
from torch import nn

from trainables.datasets.data import normalise
from trainables.files.deployment import as_taken, batches, logits_of, trace
from trainables.files.input_spec import InputSpec

SPEC = InputSpec(channels=2, image_size=6, mean=(0.4, 0.6), std=(0.2, 0.3), class_names=("a", "b", "c"))


class Branches(nn.Module):
    """Batch norms that can be folded, and such as cannot: before its convolution, after one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.depthwise_norm = nn.BatchNorm2d(4, affine=False)
        self.shared = nn.Conv2d(4, 4, 1)
        self.shared_norm = nn.BatchNorm2d(4)
        self.early_norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.first_norm(self.first(images)).relu_()
        x = self.depthwise_norm(self.depthwise(x))
        shared = self.shared(x)
        x = self.early_norm(shared + self.shared_norm(shared)).relu()
        x = self.norms[1](self.twice(self.norms[0](self.twice(x))))  # one layer, two norms
        scores: torch.Tensor = self.head(x.mean((2, 3)))
        return scores


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = Branches()
    for tensor in [*made.parameters(), *made.buffers()]:
        if tensor.ndim == 1:
            tensor.data.uniform_(0.5, 1.5)
    return made.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(256, (7, 2, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["normalised", "raw"])
def test_a_trace_gives_the_networks_scores_for_any_number_of_images(network, pixels, kind) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    program = trace(network, SPEC, pixels=kind)
    expected = network(normalise(pixels, SPEC.mean, SPEC.std))
    module = program.module()
    for count in (1, 2, 7):
        assert torch.allclose(module(as_taken(pixels[:count], SPEC, kind)), expected[:count], atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_batch_norms_are_folded_where_nothing_else_sees_the_convolution(network) -> None:
    program = trace(network, SPEC, pixels="normalised")
    left = [node for node in program.graph.nodes if node.target is torch.ops.aten.batch_norm.default]
    assert len(left) == 2  # the shared convolution's, and that before a convolution
    names = program.state_dict
    assert not any(name.startswith(("first_norm", "first.", "depthwise", "norms")) for name in names)
    assert any(name.startswith("early_norm") for name in names)


def test_a_trace_tells_nothing_of_where_it_was_made(network) -> None:
    program = trace(network, SPEC, pixels="normalised")
    noted = {key for node in program.graph.nodes for key in node.meta}
    assert not noted & {"stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node"}


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (3, [1, 2]), (4, [1, 3]), (140, [1, 3, 64, 64, 8])])
def test_batches_are_one_an_odd_number_and_the_rest(count: int, sizes: list[int]) -> None:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    given = list(batches(images, SPEC, "raw"))
    assert [len(batch) for batch in given] == sizes
    assert torch.equal(torch.cat(given), images)


def test_logits_are_those_of_all_images_in_order(network, pixels) -> None:
    expected = network(normalise(pixels, SPEC.mean, SPEC.std))
    assert torch.allclose(logits_of(network, pixels, SPEC, "normalised"), expected, atol=1e-5)
