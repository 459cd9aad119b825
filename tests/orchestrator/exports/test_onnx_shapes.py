"""Sizes that exporters compute from sizes are known for one image; sizes that depend on values are not."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from orchestrator.exports.onnx_file import open_session, session_logits, write_onnx
from orchestrator.exports.onnx_shapes import UNSAID, find_shapes
from trainables.files.deployment import trace
from trainables.files.input_spec import InputSpec

SPEC = InputSpec(channels=3, image_size=4, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b", "c"))
OFFSET = torch.arange(48.0).view(1, 3, 4, 4)

COMPUTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "layer norm by hand": lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt(),
    "a repetition": lambda x: x + OFFSET.repeat(x.shape[0], 1, 1, 1),
    "a multiple of the batch": lambda x: (x.reshape(-1, 4, 4) + OFFSET[:, 0].expand(x.shape[0] * 3, 4, 4)).reshape(
        x.shape
    ),
    "a range": lambda x: x + torch.arange(x.shape[0]).view(-1, 1, 1, 1),
}


class Computed(nn.Module):
    def __init__(self, step: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.step(images).square().mean((2, 3))


@pytest.mark.parametrize("name", COMPUTED)
def test_a_file_whose_sizes_are_computed_from_sizes_is_opened(tmp_path: Path, name: str) -> None:
    network, path = Computed(COMPUTED[name]).eval(), tmp_path / "model.onnx"
    write_onnx(trace(network, SPEC, pixels="normalised"), path)
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    logits = session_logits(open_session(path, num_threads=1), [images[:1], images[1:]])
    assert torch.allclose(logits, torch.cat([network(images[:1]), network(images[1:])]), rtol=1e-5)


def shapes_of(*nodes: onnx.NodeProto, **initial: list[int]) -> dict[str, tuple[int, ...]]:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    tensors = [helper.make_tensor(name, TensorProto.INT64, [len(sizes)], sizes) for name, sizes in initial.items()]
    graph = helper.make_graph(list(nodes), "sizes", [images], [logits], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    before = model.SerializeToString()
    shapes = find_shapes(model)
    assert model.SerializeToString() == before
    return shapes


def test_sizes_are_followed_through_what_is_done_with_lists_of_them() -> None:
    node = helper.make_node
    shapes = shapes_of(
        node("Shape", ["images"], ["batch"], end=1),
        node("Shape", ["images"], ["rest"], start=-2),
        node("Squeeze", ["batch"], ["number"]),
        node("Add", ["number", "five"], ["six"]),
        node("Sub", ["six", "batch"], ["again"]),
        node("Mul", ["again", "six"], ["thirty"]),
        node("Reshape", ["thirty", "flat"], ["listed"]),
        node("Concat", ["listed", "rest"], ["shape"], axis=0),
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("Shape", ["zeros"], ["sizes"], end=1),  # known once the zeros' are
        node("Reshape", ["sizes", "flat"], ["flat_sizes"]),
        node("ConstantOfShape", ["flat_sizes"], ["logits"]),
        five=[5],
        flat=[-1],
    )
    assert (shapes["zeros"], shapes["logits"]) == ((30, 4, 4), (30,))


@pytest.mark.parametrize("between", ["NonZero", "Cast"])
def test_sizes_that_depend_on_values_are_not_known(between: str) -> None:
    node = helper.make_node
    how = {"to": TensorProto.INT64} if between == "Cast" else {}
    shapes = shapes_of(
        node(between, ["images"], ["numbers"], **how),
        node("Reshape", ["numbers", "flat"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["logits"]),
        flat=[-1],
    )
    assert not any(shapes.get("logits", UNSAID))
