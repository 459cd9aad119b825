"""Write a candidate as files to deploy, verify and measure what was written, and describe it.

The test images are read here and nowhere before: whatever was chosen was chosen without them.

Shape legend: N images, K classes.
"""

import importlib.metadata
import json
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from orchestrator import onnx_file
from orchestrator.archive import Candidate, cascade_of
from orchestrator.card import CARD_FILE, ONNX_FILE, README_FILE, Card, LatencyRow, NetworkFacts
from orchestrator.datasets import load_test
from orchestrator.readme import markdown
from orchestrator.verify import Verification, check_finite, check_tensors, logits_of, verify_onnx
from trainables import latency
from trainables.checkpoint import InputSpec, SavedNetwork, load_network, save_network
from trainables.config import DataConfig, ModelConfig
from trainables.cost import count_macs, count_params
from trainables.data import ImageSet, Source
from trainables.errors import InputError
from trainables.evaluation import class_scores, score, top5
from trainables.imports import is_import_path
from trainables.models import find_builder
from trainables.results import TeacherResult

__all__ = ["FORMATS", "Exported", "Format", "export"]

Format = Literal["native", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)

_TEACHER_NETWORK = Path("teacher", "network")
_TEACHER_RESULT = Path("teacher", "result.json")
_LATENCY_BATCHES = (1, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What `export` wrote.

    Attributes:
        folder: the finished folder.
        card: all facts of the network.
    """

    folder: Path
    card: Card


def export(
    candidate: Candidate,
    *,
    search_folder: Path,
    destination: Path,
    data: DataConfig,
    model: ModelConfig,
    search_name: str,
    formats: tuple[Format, ...] = FORMATS,
    num_threads: int = 1,
    min_seconds: float = 0.5,
    license_name: str | None = None,
) -> Exported:
    """Write a candidate as a folder to deploy, verified, measured, and with its card. All or nothing is written.

    Nothing else should run on the machine meanwhile, since latency is measured.

    Args:
        candidate: of this search's archive.
        search_folder: folder of the search; gives the networks of candidate and teacher.
        destination: folder to make; it may be there if it is empty.
        data: the search's data set.
        model: the search's network; its function is imported if it is the user's own.
        search_name: for the card.
        formats: `native` (`trainables.load` reads it), `onnx`, or both.
        num_threads: CPU threads that latency is measured on, at least 1.
        min_seconds: time that each of the latencies is measured for, above 0.
        license_name: for the card, such as `apache-2.0`.

    Raises:
        InputError: if the destination is taken, a package, a network or the data set is missing, damaged or does not
            belong to the candidate.
        StageFailure: if what was written does not compute what the candidate does.
    """
    _check_formats(formats)
    destination = destination.resolve()
    _check_free(destination)
    found = _load(
        search_folder / candidate.network,
        model,
        val_accuracy=candidate.val_accuracy,
        macs=candidate.macs,
        params=candidate.params,
    )
    teacher = _load_teacher(search_folder, model)
    cascade = cascade_of(candidate)
    spec = found.saved.input
    test = load_test(data)  # the first time that anything looks at these images
    _check_data(test, spec)
    _check_data(test, teacher.saved.input)
    with _staging(destination) as staging:
        package = staging / "package"
        network = _write(found.saved, package, formats)
        logits_NK = logits_of(network, test.images, spec)
        check_finite(logits_NK)
        teacher_logits_NK = logits_of(teacher.saved.network, test.images, teacher.saved.input)
        card = Card(
            search_name=search_name,
            trial=candidate.trial,
            level=candidate.level,
            fidelity=candidate.fidelity,
            cascade=cascade,
            model=model,
            data=data,
            input=spec,
            network=found.facts(logits_NK, test.images),
            teacher=teacher.facts(teacher_logits_NK, test.images),
            verification=_verify(package, logits_NK, test.images, spec, formats, num_threads),
            latency=_measure(teacher.saved, network, package, formats, num_threads, min_seconds),
            files={path.name: path.stat().st_size for path in sorted(package.iterdir())},
            processor=latency.processor_name(),
            versions=_versions(formats),
            license_name=license_name,
        )
        (package / CARD_FILE).write_text(card.to_json() + "\n", encoding="utf-8")
        (package / README_FILE).write_text(markdown(card), encoding="utf-8")
        _move(package, destination)
    return Exported(folder=destination, card=card)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A network of the search, and what the search says of it."""

    saved: SavedNetwork
    val_accuracy: float
    macs: int
    params: int

    def facts(self, logits_NK: torch.Tensor, images: ImageSet) -> NetworkFacts:
        labels = images.labels_N
        return NetworkFacts(
            test_accuracy=score(logits_NK, labels),
            val_accuracy=self.val_accuracy,
            macs=self.macs,
            params=self.params,
            test_top5=top5(logits_NK, labels),
            test_class_accuracies=class_scores(logits_NK, labels),
        )


def _check_formats(formats: Sequence[str]) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"formats are {', '.join(formats) or 'empty'}, but must be some of {', '.join(FORMATS)}")
    if "onnx" in formats:
        onnx_file.require_packages()


def _check_free(destination: Path) -> None:
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise InputError(
            f"{destination} is there already; choose another place with --out, or replace it with --overwrite"
        )


def _load(folder: Path, model: ModelConfig, *, val_accuracy: float, macs: int, params: int) -> _Loaded:
    builder = find_builder(model.name) if is_import_path(model.name) else None
    saved = load_network(folder, builder=builder)
    if replace(saved.model, weights=None) != replace(model, weights=None):
        raise InputError(
            f"{folder} holds a {saved.model.name} of width {saved.model.width:g}, but the search's network is "
            f"{model.name} of width {model.width:g}; give the configuration that the search was run with"
        )
    try:
        counted = count_macs(saved.network, saved.input.shape), count_params(saved.network)
    except InputError as error:  # widths that fit their tensors, but not one another
        raise InputError(f"{folder} is damaged: {error}") from error
    if counted != (macs, params):
        raise InputError(
            f"{folder} holds a network of {counted[0]:,} MACs and {counted[1]:,} parameters, but the search found "
            f"one of {macs:,} and {params:,}; the folder was changed or swapped with another"
        )
    return _Loaded(saved=saved, val_accuracy=val_accuracy, macs=macs, params=params)


def _load_teacher(search_folder: Path, model: ModelConfig) -> _Loaded:
    path = search_folder / _TEACHER_RESULT
    try:
        result = TeacherResult.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is missing or damaged ({error}); export from a search's own folder, with its teacher"
        ) from error
    return _load(
        search_folder / _TEACHER_NETWORK,
        model,
        val_accuracy=result.val_accuracy,
        macs=result.macs,
        params=result.params,
    )


def _check_data(test: Source, spec: InputSpec) -> None:
    shape = tuple(test.images.images_NCHW.shape[1:])
    if shape != spec.shape:
        raise InputError(f"test images have shape {shape}, but the network takes {spec.shape}; is it other data?")
    if test.class_names != spec.class_names:
        raise InputError(
            f"the data set has the classes {_some(test.class_names)}, but the network was trained on "
            f"{_some(spec.class_names)}; give the data set of the search"
        )
    if test.images.multi_label != spec.multi_label:
        raise InputError(
            f"a test image has {_labels(test.images.multi_label)}, but the network was trained on "
            f"{_labels(spec.multi_label)} an image; give the data set of the search"
        )


def _labels(multi_label: bool) -> str:  # noqa: FBT001 - reads as a phrase where it is called
    return "several labels" if multi_label else "one label"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", … ({len(names)})" if len(names) > 5 else "")


@contextmanager
def _staging(destination: Path) -> Iterator[Path]:
    """A hidden folder beside the destination, gone afterwards: from there a finished folder moves in one step."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    except OSError as error:
        raise InputError(f"{destination} cannot be made ({error.strerror}); choose another place") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(package: Path, destination: Path) -> None:
    try:
        package.rename(destination)  # over an empty folder too
    except OSError as error:
        raise InputError(f"{destination} was taken while the export ran; choose another place") from error


def _write(saved: SavedNetwork, package: Path, formats: Sequence[Format]) -> nn.Module:
    """Write the files of all formats; gives the network as it is read back, where it can be."""
    model, spec = replace(saved.model, weights=None), saved.input  # the path of old weights is of no use elsewhere
    network = saved.network
    if "native" in formats:
        save_network(package, network, model=model, input_spec=spec)
        builder = find_builder(model.name) if is_import_path(model.name) else None
        network = load_network(package, builder=builder).network
        check_tensors(saved.network, network)
    else:
        package.mkdir()
    if "onnx" in formats:
        texts = {"mean": list(spec.mean), "std": list(spec.std), "class_names": list(spec.class_names)}
        metadata = {name: json.dumps(values, ensure_ascii=False) for name, values in texts.items()}
        onnx_file.write_onnx(network, spec.shape, package / ONNX_FILE, metadata=metadata)
    return network


def _verify(
    package: Path,
    logits_NK: torch.Tensor,
    images: ImageSet,
    spec: InputSpec,
    formats: Sequence[Format],
    num_threads: int,
) -> Verification:
    verification = Verification(num_images=len(images), max_logit=logits_NK.abs().max().item())
    if "onnx" in formats:
        verification = verify_onnx(package / ONNX_FILE, logits_NK, images, spec, num_threads=num_threads)
    return replace(verification, native_identical=True if "native" in formats else None)


def _measure(
    teacher: SavedNetwork,
    network: nn.Module,
    package: Path,
    formats: Sequence[Format],
    num_threads: int,
    min_seconds: float,
) -> tuple[LatencyRow, ...]:
    shape = teacher.input.shape
    rows = [
        LatencyRow(
            runtime="PyTorch, eager",
            comparison=latency.compare(
                teacher.network, network, shape, batch_size=batch, num_threads=num_threads, min_seconds=min_seconds
            ),
        )
        for batch in _LATENCY_BATCHES
    ]
    if "onnx" in formats:
        teacher_path = package.with_name("teacher.onnx")
        onnx_file.write_onnx(teacher.network, shape, teacher_path)
        paths = teacher_path, package / ONNX_FILE
        rows += [
            LatencyRow(
                runtime="ONNX Runtime",
                comparison=onnx_file.compare_files(
                    *paths, shape, batch_size=batch, num_threads=num_threads, min_seconds=min_seconds
                ),
            )
            for batch in _LATENCY_BATCHES
        ]
    return tuple(rows)


def _versions(formats: Sequence[Format]) -> dict[str, str]:
    packages = ["cascade-pruning", "torch", "safetensors"]
    if "onnx" in formats:
        packages += ["onnx", "onnxruntime", "onnxscript"]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
