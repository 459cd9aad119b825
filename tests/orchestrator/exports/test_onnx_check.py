"""What is in an ONNX file is counted from it, and a file that reaches outside or holds absurd sizes is not opened."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from orchestrator.exports.int8_file import write_int8
from orchestrator.exports.onnx_check import read_onnx
from orchestrator.exports.onnx_file import open_session, session_logits, write_onnx
from trainables.errors import InputError
from trainables.files.deployment import as_taken, trace
from trainables.files.input_spec import InputSpec
from trainables.pruning.cost import count_macs, count_params

SPEC = InputSpec(channels=1, image_size=6, mean=(0.5,), std=(0.25,), class_names=("a", "b", "c"))


def made() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(16, 3)).eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(trace(made(), SPEC, pixels="raw"), path, metadata={"class_names": "[]"})
    return path


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randint(256, (40, 1, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_macs_and_parameters_are_those_of_the_network(written: Path) -> None:
    file, network = read_onnx(written), made()
    assert file.macs == count_macs(network, SPEC.shape)
    folded = 2 * 4 - 0  # gain and offset of the batch norm
    normalisation = 2
    assert file.params == count_params(network) - folded + normalisation
    assert (file.opset, file.content) == (18, written.read_bytes())


def test_eight_bits_are_counted_alike_and_agree(written: Path, pixels: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.int8.onnx"
    write_int8(written, path, pixels)
    file, source = read_onnx(path), read_onnx(written)
    assert (file.macs, file.opset) == (source.macs, 18)
    model = onnx.load(path)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [item.domain for item in model.opset_import] == [""]
    assert [(item.key, item.value) for item in model.metadata_props] == [("class_names", "[]")]
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8 and tensor.dims]
    assert {len(tensor.dims) for tensor in weights} >= {2, 4}
    largest = max(abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() for tensor in weights)
    assert 32 < largest <= 64  # with more, sums overflow on a processor without VNNI
    normalising = [node for node in model.graph.node if node.op_type in ("Mul", "Add")]
    assert all("DequantizeLinear" not in name for node in normalising for name in node.input)
    exact, rounded = (session_logits(open_session(name, num_threads=1), [pixels]) for name in (written, path))
    assert 0 < (exact - rounded).abs().max() < 0.05 * exact.abs().max()
    assert torch.allclose(exact, made()(as_taken(pixels, SPEC, "normalised")), atol=1e-5)


def test_a_network_that_cannot_be_quantised_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be quantised .* leave int8 out of --formats"):
        write_int8(tmp_path / "nothing.onnx", tmp_path / "out.onnx", torch.zeros(1, 1, 6, 6))
    assert list(tmp_path.iterdir()) == []


def outside(model: Any) -> None:  # noqa: ANN401
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def branch(model: Any) -> None:  # noqa: ANN401
    inner = helper.make_graph([], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["images"], ["x"], then_branch=inner, else_branch=inner))


def huge_weight(model: Any) -> None:  # noqa: ANN401
    model.graph.initializer[0].dims[0] = 10**12


def huge_value(model: Any) -> None:  # noqa: ANN401
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [10**11])
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))


def unsaid_value(model: Any) -> None:  # noqa: ANN401
    """As many zeros as the images' pixels add up to."""
    add = model.graph.node.append
    add(helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.INT64))
    add(helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0))
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    add(helper.make_node("Reshape", ["sum", "one"], ["shape"]))
    add(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))


def unsaid_rank(model: Any) -> None:  # noqa: ANN401
    """Zeros of as many dimensions as the images have pixels that are not zero."""
    add = model.graph.node.append
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [-1]))
    add(helper.make_node("NonZero", ["images"], ["where"]))
    add(helper.make_node("Reshape", ["where", "one"], ["shape"]))
    add(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))


def huge_product(model: Any) -> None:  # noqa: ANN401
    """A size that is computed from sizes in steps that ONNX's own inference does not follow."""
    add = model.graph.node.append
    for name, value in (("factor", 2**16), ("flat", -1)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], [value]))
    add(helper.make_node("Shape", ["images"], ["batch"], start=0, end=1))
    add(helper.make_node("Reshape", ["batch", "flat"], ["size"]))
    add(helper.make_node("Mul", ["size", "factor"], ["product"]))
    add(helper.make_node("Concat", ["product", "product"], ["shape"], axis=0))
    add(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))


def endless_product(model: Any) -> None:  # noqa: ANN401
    """A size whose products overflow to a small one."""
    add = model.graph.node.append
    model.graph.initializer.append(helper.make_tensor("factor", TensorProto.INT64, [1], [2**31]))
    add(helper.make_node("Shape", ["images"], ["size0"], start=0, end=1))
    for number in range(3):
        add(helper.make_node("Mul", [f"size{number}", "factor"], [f"size{number + 1}"]))
    add(helper.make_node("Add", ["size3", "size0"], ["shape"]))
    add(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))


def huge_constant(model: Any) -> None:  # noqa: ANN401
    tensor = TensorProto(name="zeros", data_type=TensorProto.FLOAT, dims=[10**11])
    model.graph.node.append(helper.make_node("Constant", [], ["zeros"], value=tensor))


HOSTILE: dict[str, tuple[Callable[[Any], object], str]] = {
    "another file": (outside, "points at another file"),
    "a graph of its own": (branch, "brings a graph of its own"),
    "a function": (lambda m: m.functions.add(name="f"), "brings functions"),
    "training": (lambda m: m.training_info.add(), "brings training steps"),
    "settings": (lambda m: m.metadata_props.add(key="ort_config", value="{}"), "settings for a runtime"),
    "an operator from elsewhere": (
        lambda m: m.graph.node.append(helper.make_node("Run", ["images"], ["x"], domain="com.evil")),
        "'com.evil' is not one of ONNX's",
    ),
    "an operator that is not there": (
        lambda m: m.graph.node.append(helper.make_node("Run", ["images"], ["x"])),
        "is damaged",
    ),
    "a huge weight": (huge_weight, "would fill the memory|bytes, not"),
    "a huge value": (huge_value, "'zeros' of shape .* would fill the memory"),
    "a value of unsaid size": (unsaid_value, "how large ConstantOfShape makes 'zeros' is not said"),
    "a value of unsaid rank": (unsaid_rank, "how large ConstantOfShape makes 'zeros' is not said"),
    "a huge product": (huge_product, "'zeros' of shape .* would fill the memory"),
    "an endless product": (endless_product, "is damaged or no ONNX file: .*overflow"),
    "a huge constant": (huge_constant, "zeros of shape .* would fill the memory"),
    "a short weight": (lambda m: m.graph.initializer[0].dims.insert(0, 2), r"bytes, not"),
    "a negative size": (lambda m: m.graph.initializer[0].dims.insert(0, -1), "has the shape"),
    "another input": (lambda m: m.graph.input.add(name="more"), "input is not 'images'"),
    "another output": (lambda m: m.graph.output.add(name="more"), "output is not 'logits'"),
    "no network": (lambda m: m.graph.ClearField("node"), "holds no network"),
    "no version": (lambda m: m.ClearField("opset_import"), "no version of its operators"),
    "sparse tensors": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "a loop": (lambda m: m.graph.node[0].input.__setitem__(0, "logits"), "is damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_damaged_files_are_refused(written: Path, tmp_path: Path, name: str) -> None:
    change, message = HOSTILE[name]
    model = onnx.load(written)
    change(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=message) as raised:
        open_session(path, num_threads=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing"), (b"", "is refused"), (b"\xff" * 99, "is damaged"), (pickle.dumps([1]), "is damaged")],
)
def test_other_files_under_its_name_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_session(path, num_threads=1)
    with pytest.raises(InputError, match="is no file"):
        read_onnx(tmp_path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 10**6), noise=st.binary(min_size=1, max_size=8), cut=st.booleans())
def test_fuzzed_files_are_refused_or_opened(
    written: Path,
    tmp_path: Path,
    start: int,
    noise: bytes,
    cut: bool,  # noqa: FBT001
) -> None:
    content = bytearray(written.read_bytes())
    start %= len(content)
    content[start : len(content) if cut else start + len(noise)] = noise
    path = tmp_path / "fuzzed.onnx"
    path.write_bytes(content)
    said = ""
    try:
        open_session(path, num_threads=1)
    except InputError as error:
        said = str(error)
    assert "\n" not in said
