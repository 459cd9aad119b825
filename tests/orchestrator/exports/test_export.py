"""An export is whole and verified or does not exist; damaged, swapped and foreign networks are refused by name."""

import dataclasses
import errno
import hashlib
import json
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn

import orchestrator.exports.export as export_module
from orchestrator.data.datasets import load_splits, load_test
from orchestrator.exports import reload, verify, write
from orchestrator.exports.delivered import check_export
from orchestrator.exports.export import Exported, Failed, Job, export_each
from orchestrator.exports.formats import FORMATS, ExportOptions
from orchestrator.exports.originals import Origin
from orchestrator.front.archive import Candidate
from orchestrator.storage.staging import Existing, staging
from trainables.config import CascadeConfig
from trainables.data_config import DataConfig
from trainables.datasets.data import normalise
from trainables.errors import InputError, StageFailure
from trainables.files.checkpoint import load, load_network, save_network
from trainables.files.deployment import trace
from trainables.files.input_spec import InputSpec
from trainables.files.programs import write_program
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import count_macs, count_params
from trainables.pruning.dependencies import find_groups
from trainables.pruning.levels import Level, SharedWeights
from trainables.results import TeacherResult

DATA = DataConfig(name="digits", image_size=8)
MODEL = ModelConfig(name="vgg-small", width=0.25)
OWN = """
from torch import nn

def build(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes),
    )
"""

UNEXPORTABLE = """
import torch
from torch import nn

class Bessel(nn.Sequential):
    def forward(self, images):
        return torch.special.bessel_j0(super().forward(images))

class CountsByLen(nn.Sequential):
    def forward(self, images):
        return super().forward(images) + torch.zeros(len(images), 1, device=images.device)

def layers(num_classes):
    return nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)

def bessel(num_classes):
    return Bessel(*layers(num_classes))

def counts_by_len(num_classes):
    return CountsByLen(*layers(num_classes))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """A search's folder with a teacher and one finished trial of two levels, and how to export from it."""

    folder: Path
    model: ModelConfig
    candidates: tuple[Candidate, ...]

    def origin(self, **changed: Any) -> Origin:  # noqa: ANN401
        return Origin(**({"folder": self.folder, "name": "digits-search", "data": DATA, "model": self.model} | changed))

    def export(
        self,
        destination: Path,
        *,
        level: int = 2,
        existing: Existing = "keep",
        data: DataConfig = DATA,
        model: ModelConfig | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Exported:
        (result,) = export_each(
            [Job(candidate=self.candidates[level - 1], destination=destination, existing=existing)],
            origin=self.origin(data=data, model=model or self.model),
            options=quick(**options),
        )
        if isinstance(result, Failed):
            raise StageFailure(result.reason, stage="export")
        return result


def quick(**changed: Any) -> ExportOptions:  # noqa: ANN401
    return ExportOptions(**({"formats": ("native",), "min_seconds": 0.001, "runtimes": ()} | changed))


class Here:
    """Reads files back in this process, as the tests need not see each time that another one starts."""

    def __init__(self, *, before: Callable[[Path], object] = lambda package: None) -> None:
        self.before = before

    def __call__(self, arguments: list[str]) -> None:
        (folder,) = arguments[2:]
        request = json.loads((Path(folder) / "request.json").read_text())
        self.before(Path(request["package"]))
        reload.main(Path(folder))


@pytest.fixture(autouse=True)
def here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("integration") is None:
        monkeypatch.setattr(verify, "_run", Here())


def make_search(folder: Path, model: ModelConfig, network: nn.Module) -> Search:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.ndim == 1:  # batch norm and biases as training might leave them, no longer all equal
            tensor.data.uniform_(0.5, 1.5, generator=generator).mul_(1.0 if name.endswith("var") else 0.7)
    network.eval()
    spec = InputSpec.of(load_splits(DATA))
    macs, params = count_macs(network, spec.shape), count_params(network)
    save_network(folder / "teacher" / "network", network, model=model, input_spec=spec)
    result = TeacherResult(val_accuracy=0.9, macs=macs, params=params, seconds=1.0)
    (folder / "teacher" / "result.json").write_text(json.dumps(result.to_dict()))
    channel_map = find_groups(network, spec.shape)
    cascade = CascadeConfig(macs_kept=(0.5, 0.2))
    candidates = []
    for number, kept in ((1, 0.7), (2, 0.4)):
        level = Level(number, SharedWeights(network, channel_map), shared_affine=False)
        level.keep(
            {
                group.name: torch.randperm(group.num_channels, generator=generator)[: int(kept * group.num_channels)]
                .sort()
                .values
                for group in channel_map.groups
            }
        )
        level.refresh()
        level.network.eval()
        path = f"candidates/0-{number}"
        save_network(folder / path, level.network, model=model, input_spec=spec)
        level_macs, level_params = count_macs(level.network, spec.shape), count_params(level.network)
        candidates.append(
            Candidate(
                trial=0,
                level=number,
                num_assistants=1,
                val_accuracy=0.8,
                val_accuracy_before_recalibration=0.7,
                macs=level_macs,
                macs_kept=level_macs / macs,
                params=level_params,
                params_kept=level_params / params,
                latency_ms=None,
                network=path,
                cascade=json.dumps(cascade.to_dict()),
            )
        )
    return Search(folder=folder, model=model, candidates=tuple(candidates))


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Shared by this module's tests, and never changed; the same in each process that shares the tests."""
    network = build(MODEL, num_classes=10, in_channels=1, seed=0)
    return make_search(tmp_path_factory.mktemp("search"), MODEL, network)


@pytest.fixture
def search(pristine: Search, tmp_path: Path) -> Search:
    """A copy to damage."""
    shutil.copytree(pristine.folder, tmp_path / "search")
    return dataclasses.replace(pristine, folder=tmp_path / "search")


@pytest.fixture(scope="session")
def exported(pristine: Search, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Exported:
    """All formats of the student, read back by another process and measured; once for all tests, and never changed."""
    base = tmp_path_factory.getbasetemp()
    parent = base if worker_id == "master" else base.parent  # which processes that share the tests share
    found = parent / "exported.pickle"
    with FileLock(parent / "exported.lock"):
        if not found.exists():
            options = {"formats": FORMATS, "runtimes": ("eager", "onnxruntime")}
            found.write_bytes(pickle.dumps(pristine.export(parent / "exported" / "student", **options)))
    made: Exported = pickle.loads(found.read_bytes())
    return made


def snippet(folder: Path, word: str) -> str:
    """The README's Python that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (found,) = (block for block in blocks if word in block)
    return str(found)


@contextmanager
def nothing_written(parent: Path) -> Iterator[None]:
    before = sorted(parent.rglob("*"))
    yield
    assert sorted(parent.rglob("*")) == before


def test_the_folder_holds_all_formats_and_nothing_is_left_beside_it(exported: Exported) -> None:
    files = ["architecture.json", "model.int8.onnx", "model.onnx", "model.pt2", "weights.safetensors"]
    assert sorted(path.name for path in exported.folder.iterdir()) == ["README.md", *files[:1], "card.json", *files[1:]]
    assert [path.name for path in exported.folder.parent.iterdir()] == ["student"]
    assert list(exported.card.files) == files
    for name, facts in exported.card.files.items():
        content = (exported.folder / name).read_bytes()
        assert (facts.bytes, facts.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    readme = (exported.folder / "README.md").read_text()
    assert json.loads((exported.folder / "card.json").read_text()) == json.loads(exported.card.to_json(readme))
    assert not check_export(exported.folder).readme_changed


def test_the_card_states_what_was_counted_and_measured(pristine: Search, exported: Exported) -> None:
    card, candidate = exported.card, pristine.candidates[1]
    assert (card.trial, card.level, card.cascade.macs_kept) == (0, 2, (0.5, 0.2))
    assert (card.network.macs, card.network.params) == (candidate.macs, candidate.params)
    assert card.macs_ratio == pytest.approx(1 / candidate.macs_kept)
    assert (card.network.val_accuracy, card.teacher.val_accuracy) == (0.8, 0.9)
    measured = [(row.runtime, row.comparison.pruned.batch_size) for row in card.latency]
    runtimes = ("PyTorch, eager", "ONNX Runtime", "ONNX Runtime, int8 against the teacher in float32")
    assert measured == [(runtime, batch) for runtime in runtimes for batch in (1, 64)]
    assert {row.comparison.dense.num_threads for row in card.latency} == {1}


def test_test_accuracy_is_that_of_the_test_images(pristine: Search, exported: Exported) -> None:
    test = load_test(DATA).images
    for path, stated in (("candidates/0-2", exported.card.network), ("teacher/network", exported.card.teacher)):
        saved = load_network(pristine.folder / path)
        pixels = (test.images_NCHW / 255 - torch.tensor(saved.input.mean)) / torch.tensor(saved.input.std)
        predicted = [int(saved.network(image[None]).argmax()) for image in pixels]
        num_right = sum(found == label for found, label in zip(predicted, test.labels_N.tolist(), strict=True))
        assert stated.test_accuracy == pytest.approx(num_right / len(test))
        assert stated.test_accuracy <= stated.test_top5 <= 1
        images = torch.bincount(test.labels_N, minlength=10)
        right = images * torch.tensor(stated.test_class_accuracies)
        assert right.sum().item() == pytest.approx(num_right, rel=1e-5)


def test_every_format_gives_what_the_search_found_and_is_counted_by_itself(
    pristine: Search, exported: Exported
) -> None:
    checked, candidate = exported.card.verification, pristine.candidates[1]
    assert checked.num_images == len(load_test(DATA).images)
    assert [check.format for check in checked.files] == list(FORMATS)
    assert checked.refused == {}
    native, onnx, pt2, int8 = checked.files
    assert (native.identical, native.params) == (True, candidate.params)
    # Not 0: where tensors lie in memory decides which kernels compute with them.
    assert native.max_difference <= 1e-5 * checked.max_logit
    for check in checked.files:
        assert check.macs == candidate.macs
    for check in (onnx, pt2):
        assert check.max_difference <= 1e-5 * checked.max_logit
        assert (check.agreement, check.test_accuracy) == (1.0, exported.card.network.test_accuracy)
        assert check.params < candidate.params  # two numbers a channel where there were four: batch norm is folded
    assert 1e-5 * checked.max_logit < int8.max_difference < 0.5 * checked.max_logit
    assert int8.agreement > 0.8
    assert exported.card.num_calibration_images == 512


def test_a_front_is_exported_by_one_call_and_a_failure_keeps_nobody_back(search: Search, tmp_path: Path) -> None:
    spoil_bias(search.folder / "candidates" / "0-1")
    jobs = [Job(candidate=candidate, destination=tmp_path / candidate.label) for candidate in search.candidates]
    failed, done = export_each(jobs, origin=search.origin(), options=quick())
    assert isinstance(failed, Failed)
    assert (failed.candidate.label, "not finite" in failed.reason) == ("0:1", True)
    assert isinstance(done, Exported)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0:2", "search"]


def test_a_front_without_a_compiler_is_exported_and_that_is_told_once(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(_network: nn.Module) -> nn.Module:
        raise RuntimeError("no g++ here")

    monkeypatch.setattr(torch, "compile", no_compiler)
    jobs = [Job(candidate=candidate, destination=tmp_path / candidate.label) for candidate in pristine.candidates]
    said: list[str] = []
    options = quick(runtimes=("eager", "compiled"))
    done = list(export_each(jobs, origin=pristine.origin(), options=options, say=said.append))
    for result in done:
        assert isinstance(result, Exported)
        assert {row.runtime.split(", ")[1] for row in result.card.latency} == {"eager"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0:1", "0:2"]
    assert "PyTorch, compiled is not measured: the network cannot be compiled (RuntimeError: no g++ here)" in said[0]
    assert len(set(said)) == len(said) == (2 if torch.cuda.is_available() else 1)


def test_latency_in_onnx_runtime_is_told_to_be_left_out_where_no_file_is_for_it(
    pristine: Search, tmp_path: Path
) -> None:
    job, said = Job(candidate=pristine.candidates[1], destination=tmp_path / "out"), []
    options = quick(runtimes=("eager", "onnxruntime"))
    (done,) = export_each([job], origin=pristine.origin(), options=options, say=said.append)
    assert isinstance(done, Exported)
    assert all(row.runtime.startswith("PyTorch, eager") for row in done.card.latency)
    assert said == ["latency in ONNX Runtime is not measured, as no format that was asked for is an ONNX file"]


def test_nothing_of_a_front_is_written_if_anything_is_wrong_with_it(search: Search, tmp_path: Path) -> None:
    cut_weights(search.folder / "candidates" / "0-2")
    jobs = [Job(candidate=candidate, destination=tmp_path / candidate.label) for candidate in search.candidates]
    with pytest.raises(InputError, match="damaged"), nothing_written(tmp_path):
        list(export_each(jobs, origin=search.origin(), options=quick()))


def test_what_does_not_verify_is_not_delivered(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(package: Path) -> None:
        other = load_network(pristine.folder / "candidates" / "0-1")
        write_program(trace(other.network, other.input, pixels="normalised"), package / "model.pt2")

    monkeypatch.setattr(verify, "_run", Here(before=swap))
    done = pristine.export(tmp_path / "out", formats=("native", "pt2"))
    assert not (done.folder / "model.pt2").exists()
    assert list(done.card.files) == ["architecture.json", "weights.safetensors"]
    assert "model.pt2 gives logits that differ" in done.card.verification.refused["pt2"]
    assert "pt2 was asked for and is not delivered" in (done.folder / "README.md").read_text()
    with pytest.raises(StageFailure, match="nothing that was written verifies: model"):
        pristine.export(tmp_path / "other", formats=("pt2",))
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_refused_is_told_by_its_name_alone(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_run", Here(before=lambda package: (package / "model.pt2").write_bytes(b"")))
    done = pristine.export(tmp_path / "out", formats=("native", "pt2"))
    assert done.card.verification.refused["pt2"].startswith("model.pt2 is ")


@pytest.mark.parametrize(
    ("network", "delivered", "why"),
    [
        ("bessel", ("native", "pt2"), "the network cannot be expressed in ONNX ("),
        ("counts_by_len", ("native",), "this CountsByLen cannot be traced (it does not take any number of images)"),
    ],
)
def test_a_format_that_cannot_be_written_keeps_no_other_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, delivered: tuple[str, ...], why: str
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "unexportable.py").write_text(UNEXPORTABLE)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    model = ModelConfig(name=f"unexportable:{network}")
    own = make_search(tmp_path / "search", model, build(model, num_classes=10, in_channels=1, seed=0))
    job, said = Job(candidate=own.candidates[1], destination=tmp_path / "out"), []
    options = quick(formats=FORMATS, runtimes=("onnxruntime",))
    (done,) = export_each([job], origin=own.origin(), options=options, say=said.append)
    assert isinstance(done, Exported)
    assert tuple(check.format for check in done.card.verification.files) == delivered
    assert sorted(done.card.verification.refused) == sorted(set(FORMATS) - set(delivered))
    assert all(told.startswith(why) for told in done.card.verification.refused.values())
    assert f"onnx was asked for and is not delivered: {why}" in (done.folder / "README.md").read_text()
    assert not list(done.folder.glob("*.onnx"))
    assert (done.card.opset, done.card.num_calibration_images, done.card.latency) == (None, 0, ())
    assert said == [line for line in said if why in line and "the teacher has no ONNX file" in line] != []
    with pytest.raises(StageFailure, match=f"it cannot be written: {re.escape(why)}"), nothing_written(tmp_path):
        own.export(tmp_path / "other", formats=("onnx", "int8"))


def test_a_native_file_of_other_tensors_is_found_out(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_one_bit(package: Path) -> None:
        path = package / "weights.safetensors"
        tensors = load_file(path)
        tensors["classifier.bias"][0] += 1e-7
        save_file(tensors, path)

    monkeypatch.setattr(verify, "_run", Here(before=change_one_bit))
    with pytest.raises(StageFailure, match="holds other tensors than were written"):
        pristine.export(tmp_path / "out")


def test_raw_pixels_go_into_all_but_the_native_format(pristine: Search, tmp_path: Path) -> None:
    done = pristine.export(tmp_path / "out", formats=("native", "pt2"), pixels="raw")
    pixels = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    saved = load_network(done.folder)
    expected = saved.network(normalise(pixels, saved.input.mean, saved.input.std))
    assert torch.allclose(load(done.folder / "model.pt2")(pixels), expected, atol=1e-5)


@pytest.mark.parametrize("free", [10**6, 4 * 10**6])
def test_a_disk_without_room_is_refused_before_anything_is_written(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    message = rf"has {free // 10**6}\.0 MB left, but must have [45]\.\d MB: about 0\.\d MB for weights that stay, "
    with pytest.raises(InputError, match=message), nothing_written(tmp_path):
        pristine.export(tmp_path / "out")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space"), RuntimeError("writing failed")])
def test_a_disk_that_fills_up_is_told_in_one_way(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fill_up(*_: object, **__: object) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
        raise error

    monkeypatch.setattr(write, "save_network", fill_up)
    with pytest.raises(OSError, match="is full; make room"), nothing_written(tmp_path):
        pristine.export(tmp_path / "out")


def test_the_cards_onnx_runtime_lines_run(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(exported.folder)
    names: dict[str, Any] = {}
    exec(snippet(exported.folder, "import onnxruntime"), names)
    predicted = capsys.readouterr().out.strip()
    saved = load_network(exported.folder)
    black = -torch.tensor(saved.input.mean).view(1, -1, 1, 1) / torch.tensor(saved.input.std).view(1, -1, 1, 1)
    logits = saved.network(black.expand(1, *saved.input.shape))
    assert predicted == f"[{int(logits.argmax())}]"
    assert torch.allclose(torch.from_numpy(names["logits"]), logits, atol=1e-5)


@pytest.mark.integration
def test_the_cards_pytorch_lines_run_in_a_fresh_process_that_has_torch_and_safetensors_alone(
    exported: Exported,
) -> None:
    lines = 'import sys; sys.modules |= dict.fromkeys(["numpy", "torchvision", "torch_pruning", "onnx", "ray"])\n'
    lines += snippet(exported.folder, "trainables.load") + snippet(exported.folder, "torch.export.load")
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=exported.folder, capture_output=True, text=True, check=False
    )
    first, second = done.stdout.splitlines()
    assert first == second, done.stderr
    assert re.fullmatch(r"tensor\(\[\d\]\)", first)


def test_onnx_alone_has_no_native_files(pristine: Search, tmp_path: Path) -> None:
    done = pristine.export(tmp_path / "out", formats=("onnx",))
    assert sorted(path.name for path in done.folder.iterdir()) == ["README.md", "card.json", "model.onnx"]
    assert "native" not in [check.format for check in done.card.verification.files]


def test_native_alone_needs_no_further_packages(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    done = pristine.export(tmp_path / "out")
    assert not (done.folder / "model.onnx").exists()
    with pytest.raises(InputError, match=r"cascade-pruning\[export\]"), nothing_written(tmp_path):
        pristine.export(tmp_path / "other", formats=("native", "onnx"))


def test_a_taken_destination_is_left_alone(pristine: Search, tmp_path: Path) -> None:
    taken, file = tmp_path / "taken", tmp_path / "file"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    file.write_text("mine")
    with nothing_written(tmp_path):
        for destination in (taken, file):
            with pytest.raises(InputError, match=rf"{destination.name} is there already"):
                pristine.export(destination)
        with pytest.raises(InputError, match=r"cannot be made \(.*\); choose another place with --out$"):
            pristine.export(file / "below")
    assert (taken / "mine.txt").read_text() == "mine"


def test_an_empty_folder_and_missing_parents_are_taken(pristine: Search, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for destination in (tmp_path / "empty", tmp_path / "new" / "deep"):
        pristine.export(destination)
        assert (destination / "README.md").is_file()


def test_what_a_killed_export_of_other_candidates_left_goes(pristine: Search, tmp_path: Path) -> None:
    with staging(tmp_path / "0-1", name="export") as folder:
        shutil.copytree(folder, tmp_path / "aside")
    (tmp_path / "aside" / "images.safetensors").touch()
    (tmp_path / "aside").rename(folder)  # as if the process had been killed
    pristine.export(tmp_path / "0-2")
    assert [path.name for path in tmp_path.iterdir()] == ["0-2"]


def test_a_destination_taken_meanwhile_is_left_alone(
    pristine: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "out"

    def take(card: object) -> str:
        destination.mkdir()
        (destination / "theirs.txt").write_text("theirs")
        return ""

    monkeypatch.setattr(export_module, "markdown", take)
    with pytest.raises(InputError, match="was taken while the export ran"):
        pristine.export(destination)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs.txt"]


def cut_weights(folder: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])


def spoil_bias(folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    tensors["classifier.bias"][3] = torch.nan
    save_file(tensors, folder / "weights.safetensors")


def remove_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def cut_architecture(folder: Path) -> None:
    content = (folder / "architecture.json").read_text()
    (folder / "architecture.json").write_text(content[: len(content) // 2])


def change_architecture(folder: Path, **values: object) -> None:
    path = folder / "architecture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_widths(folder: Path, layer: str, widths: object) -> None:
    known = json.loads((folder / "architecture.json").read_text())["widths"]
    assert layer in known
    change_architecture(folder, widths=known | {layer: widths})


def uneven_widths(folder: Path) -> None:
    """Files that agree with each other on a network whose layers do not fit together."""
    tensors = load_file(folder / "weights.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"][:, :-1].contiguous()
    change_widths(folder, "classifier", [10, tensors["classifier.weight"].shape[1]])
    save_file(tensors, folder / "weights.safetensors")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (cut_weights, "weights.safetensors is damaged"),
    "no weights": (remove_weights, "weights.safetensors is missing"),
    "no folder": (shutil.rmtree, "architecture.json is missing"),
    "cut architecture": (cut_architecture, "architecture.json is damaged"),
    "widths too large": (lambda folder: change_widths(folder, "classifier", [10, 10**9]), "cannot have widths"),
    "widths of zero": (lambda folder: change_widths(folder, "features.0", [0, 1]), "cannot have widths"),
    "widths of text": (lambda folder: change_widths(folder, "features.0", ["a", "b"]), "is damaged"),
    "no widths": (lambda folder: change_architecture(folder, widths=None), "is damaged"),
    "widths of another": (lambda folder: change_architecture(folder, widths={"nose": [1, 1]}), "no layer 'nose'"),
    "uneven widths": (uneven_widths, r"do not fit one another"),
    "newer version": (lambda folder: change_architecture(folder, version=99), "version 99"),
    "other format": (lambda folder: change_architecture(folder, format="x"), "does not describe a network"),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("which", ["candidates/0-2", "teacher/network"])
def test_damaged_networks_are_refused_before_test_images_are_read(
    search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, which: str
) -> None:
    damage, message = DAMAGES[name]
    damage(search.folder / which)
    monkeypatch.setattr(export_module, "load_test", lambda _data: pytest.fail("test images were read"))
    with pytest.raises(InputError, match=message), nothing_written(tmp_path):
        search.export(tmp_path / "out")


def swap(folder: Path, file: str) -> None:
    first, second = folder / "candidates" / "0-1" / file, folder / "candidates" / "0-2" / file
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("", "the search found one of .* the folder was changed or swapped"),
        ("weights.safetensors", r"weights\.safetensors has .* of shape"),
        ("architecture.json", r"weights\.safetensors has .* of shape"),
    ],
)
def test_swapped_networks_are_refused(search: Search, tmp_path: Path, file: str, message: str) -> None:
    swap(search.folder, file)
    with pytest.raises(InputError, match=message), nothing_written(tmp_path):
        search.export(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"), [(None, "missing; export from a search's own"), ("[]", r"damaged \(.*; put it back from")]
)
def test_a_teachers_result_that_is_missing_or_damaged_is_named(
    search: Search, tmp_path: Path, text: str | None, message: str
) -> None:
    path = search.folder / "teacher" / "result.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=rf"result\.json is {message}"):
        search.export(tmp_path / "out")


@pytest.mark.parametrize("text", ["{", "[]", '{"macs_kept": 3}', '{"macs_kept": [2.0]}', "{}"])
def test_a_damaged_configuration_in_the_archive_is_named(pristine: Search, tmp_path: Path, text: str) -> None:
    damaged = dataclasses.replace(pristine.candidates[1], cascade=text)
    broken = dataclasses.replace(pristine, candidates=(pristine.candidates[0], damaged))
    with pytest.raises(InputError, match="configuration of candidate 0:2 is damaged"):
        broken.export(tmp_path / "out")


def test_another_configuration_is_refused(pristine: Search, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds a vgg-small of width 0\.25, but the search's network is vgg16"):
        pristine.export(tmp_path / "out", model=ModelConfig(name="vgg16"))
    with pytest.raises(InputError, match=r"test images have shape \(1, 16, 16\), but the network takes \(1, 8, 8\)"):
        pristine.export(tmp_path / "out", data=DataConfig(name="digits"))


def test_other_classes_are_refused(search: Search, tmp_path: Path) -> None:
    for folder in ("candidates/0-2", "teacher/network"):
        spec = dataclasses.asdict(load_network(search.folder / folder).input)
        change_architecture(search.folder / folder, input=spec | {"class_names": list("abcdefghij")})
    with pytest.raises(InputError, match=r"classes 0, 1, 2, 3, 4, … \(10\), but the network was trained on a, b"):
        search.export(tmp_path / "out")


def test_a_network_that_gives_no_numbers_fails_and_leaves_nothing(search: Search, tmp_path: Path) -> None:
    spoil_bias(search.folder / "candidates" / "0-2")
    with pytest.raises(StageFailure, match=r"stage export: .* not finite for 359 of 359"), nothing_written(tmp_path):
        search.export(tmp_path / "out")


def test_no_path_of_old_weights_is_told(search: Search, tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, weights="/secret/teacher.safetensors")
    for network in ("candidates/0-2", "teacher/network"):
        change_architecture(search.folder / network, model=model.to_dict())
    folder = search.export(tmp_path / "out", model=model).folder
    assert all(b"secret" not in path.read_bytes() for path in folder.iterdir())


@pytest.mark.integration
def test_a_users_own_network_is_built_by_its_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    model = ModelConfig(name="own_network:build")
    own = make_search(tmp_path / "search", model, build(model, num_classes=10, in_channels=1, seed=0))
    done = own.export(tmp_path / "out", formats=("native", "pt2"))
    assert [check.agreement for check in done.card.verification.files] == [1.0, 1.0]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    lines = snippet(done.folder, "trainables.load")
    ran = subprocess.run([sys.executable, "-c", lines], cwd=done.folder, capture_output=True, text=True, check=False)
    assert re.fullmatch(r"tensor\(\[\d\]\)\n", ran.stdout), ran.stderr
