"""ONNX files take any batch, compute what the network computes, and tell nothing of the machine that wrote them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from orchestrator.exports.formats import require_onnx
from orchestrator.exports.onnx_file import compare_files, open_session, session_logits, write_onnx
from trainables.errors import InputError
from trainables.files.deployment import trace
from trainables.files.input_spec import InputSpec

SHAPE = (1, 6, 6)
SPEC = InputSpec(channels=1, image_size=6, mean=(0.5,), std=(0.25,), class_names=("a", "b", "ß"))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(self.features(images))
        return scores

    def features(self, images: torch.Tensor) -> torch.Tensor:
        means: torch.Tensor = self.norm(self.convolution(images)).relu().mean((2, 3))
        return means


class FixedBatch(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(self.features(images).view(2, 4))
        return scores


class CountsByLen(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.linear(self.features(images)) + torch.zeros(len(images), 1)
        return scores


class Raises(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise KeyError("a forward pass may raise anything")


class InBfloat16(Small):
    def features(self, images: torch.Tensor) -> torch.Tensor:
        weight = self.convolution.weight.bfloat16()
        return nn.functional.conv2d(images.bfloat16(), weight).float().mean((2, 3))


class Bessel(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(super().forward(images))


class DependsOnValues(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = self.features(images)
        scores: torch.Tensor = self.linear(means if means.sum() > 0 else -means)
        return scores


def made(kind: type[Small] = Small) -> Small:
    torch.manual_seed(0)
    return kind().eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    write_onnx(trace(made(), SPEC, pixels="normalised"), path, metadata={"class_names": '["a", "ß"]'})
    return path


def test_every_batch_size_gives_the_networks_logits(written: Path) -> None:
    images = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(1))
    logits = session_logits(open_session(written, num_threads=1), [images[:1], images[1:3], images[3:]])
    assert torch.allclose(logits, made()(images), atol=1e-6)


def test_the_file_is_one_and_says_what_it_takes(written: Path) -> None:
    model = onnx.load(written)
    assert [path.name for path in written.parent.iterdir()] == ["small.onnx"]
    (given,), (result,) = model.graph.input, model.graph.output
    assert (given.name, result.name) == ("images", "logits")
    assert [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim] == ["batch", *SHAPE]
    assert [dim.dim_param or dim.dim_value for dim in result.type.tensor_type.shape.dim] == ["batch", 3]
    session = open_session(written, num_threads=1)
    assert session.get_modelmeta().custom_metadata_map == {"class_names": '["a", "ß"]'}


def test_the_file_tells_no_paths_of_this_machine(written: Path) -> None:
    content = written.read_bytes()
    for path in (Path(torch.__file__).parent, Path(__file__).parent):
        assert str(path).encode() not in content
    assert b"stack_trace" not in content


def test_the_runtime_leaves_nothing_in_the_users_home(written: Path, tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from orchestrator.exports.onnx_file import open_session;"
    script += "open_session(Path(sys.argv[1]), num_threads=1)"
    named = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    subprocess.run([sys.executable, "-c", script, written], env=kept | named, check=True, timeout=120)
    assert [path for path in tmp_path.rglob("*") if re.search("onnx|microsoft", path.name, re.IGNORECASE)] == []


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (FixedBatch, "must take their number as x.shape[0]"),
        (CountsByLen, "must take their number as x.shape[0], not as len(x)"),
        (DependsOnValues, "must not depend on the images' values"),
        (Raises, "KeyError: 'a forward pass may raise anything'"),
    ],
)
def test_a_network_that_cannot_be_traced_is_named_in_one_line(
    capfd: pytest.CaptureFixture[str], kind: type[Small], rule: str
) -> None:
    with pytest.raises(InputError, match=rf"this {kind.__name__} cannot be traced .*{re.escape(rule)}") as raised:
        trace(made(kind), SPEC, pixels="normalised")
    assert "\n" not in str(raised.value)
    printed = capfd.readouterr()
    assert "def forward" not in printed.out + printed.err


@pytest.mark.parametrize(("kind", "why"), [(InBfloat16, "ShapeInferenceError"), (Bessel, "bessel_j0")])
def test_a_network_that_onnx_cannot_express_is_named_in_one_line(tmp_path: Path, kind: type[Small], why: str) -> None:
    program = trace(made(kind), SPEC, pixels="normalised")
    message = rf"^the network cannot be expressed in ONNX \(.*{why}.*\); export with --formats native,pt2$"
    with pytest.raises(InputError, match=message):
        write_onnx(program, tmp_path / "network.onnx")
    assert list(tmp_path.iterdir()) == []


def test_two_files_are_compared_at_the_stated_batch(written: Path) -> None:
    comparison = compare_files(written, written, SHAPE, batch_size=4, num_threads=1, min_seconds=0.002)
    assert comparison.pruned.batch_size == comparison.dense.batch_size == 4
    assert 0.1 < comparison.speedup < 10


def test_sessions_run_on_the_stated_threads(written: Path) -> None:
    options = open_session(written, num_threads=3).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r'^onnxscript not installed, .* pip install "cascade-pruning\[export\]"'):
        require_onnx()
    with pytest.raises(InputError, match="onnxscript not installed"):
        write_onnx(trace(made(), SPEC, pixels="normalised"), tmp_path / "network.onnx")
