"""What exports are worth: a pruned VGG16 in ONNX Runtime against its teacher, in eight bits, and a front of eight.

`python -m benchmarks exports` trains on the embedded digits at 32 pixels; `python -m benchmarks.exports --data FOLDER`
on CIFAR-10 in that folder, for figures of more weight.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.demo import cascade
from benchmarks.table import Row, machine, table
from orchestrator.data.datasets import load_splits, load_test
from orchestrator.exports.export import Exported, Job, export_each
from orchestrator.exports.formats import FORMATS, ExportOptions
from orchestrator.exports.int8_file import CALIBRATION_IMAGES, write_int8
from orchestrator.exports.onnx_file import compare_files, open_session, session_logits, write_onnx
from orchestrator.exports.originals import Origin
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.fronts import read_front
from trainables.config import CascadeConfig
from trainables.data_config import DataConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import in_memory
from trainables.files.deployment import as_taken, batches, trace
from trainables.files.input_spec import InputSpec
from trainables.hardware.latency import Comparison
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.plan import StagePlan
from trainables.pruning.network_size import NetworkSize
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.cascade import CascadeStage
from trainables.stages.evaluation import score
from trainables.stages.teacher import TeacherStage

MACS_KEPT, ROUND_TO = 0.25, 8
BATCH = 64
EPOCHS, LEVEL_EPOCHS = 5, 20  # a level that falls in fewer is no network whose accuracy says anything
LEVEL_RATE = 0.02  # a level falls in 160 steps here, and at the teacher's rate of 0.05 may come to nothing
FRONT = 8
DIGITS = DataConfig(name="digits", image_size=32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A trained VGG16 and what a cascade of one level made of it, as ONNX files.

    Attributes:
        dense: file of the teacher.
        pruned: file of the level.
        macs_kept: of the level.
        spec: what both take.
    """

    dense: Path
    pruned: Path
    macs_kept: float
    spec: InputSpec


def trained_pair(data: DataSplits, folder: Path) -> Pair:
    """Train a teacher, prune it to a quarter of its MACs in multiples of eight channels, and write both."""
    spec, model = InputSpec.of(data), ModelConfig(name="vgg16")
    dense = build(model, num_classes=data.num_classes, in_channels=data.in_channels, seed=0)
    recipe = Recipe(epochs=EPOCHS, batch_size=BATCH, learning_rate=0.05)
    teacher = TeacherStage(dense, recipe=recipe, data=data)
    while not teacher.finished:
        epoch = teacher.train_epoch()
        print(f"exports: teacher, epoch {epoch.epoch}, {epoch.levels[0].val_accuracy:.2%}", file=sys.stderr, flush=True)
    dense.eval().requires_grad_(requires_grad=False)
    stage = CascadeStage(
        dense,
        plan=StagePlan(name="cascade", levels=(1,), epochs=LEVEL_EPOCHS, first_epoch=0),
        config=CascadeConfig(
            macs_kept=(MACS_KEPT,),
            pruning=Pruning(round_to=ROUND_TO),
            recipe=replace(recipe, epochs=LEVEL_EPOCHS, learning_rate=LEVEL_RATE),
        ),
        teacher_size=NetworkSize.count(dense, spec.shape),
        data=data,
    )
    while not stage.finished:
        epoch = stage.train_epoch()
        print(f"exports: level, epoch {epoch.epoch}, {epoch.levels[0].val_accuracy:.2%}", file=sys.stderr, flush=True)
    pair = Pair(
        dense=folder / "dense.onnx", pruned=folder / "pruned.onnx", macs_kept=stage.results[0].macs_kept, spec=spec
    )
    for network, path in ((dense, pair.dense), (stage.levels[0].network, pair.pruned)):
        write_onnx(trace(_resting(network), spec, pixels="normalised"), path)
    return pair


def _resting(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(requires_grad=False)


def quantised(config: DataConfig, folder: Path) -> list[Row]:
    """A pruned VGG16 against dense, and in eight bits against itself."""
    data = load_splits(config)
    pair = trained_pair(data, folder)
    int8 = folder / "int8.onnx"
    train_NCHW = in_memory(data.train, purpose="this benchmark").images_NCHW[:CALIBRATION_IMAGES]
    write_int8(pair.pruned, int8, as_taken(train_NCHW, pair.spec, "normalised"))
    test = in_memory(load_test(config).images, purpose="this benchmark")
    accuracies = {}
    for name, path in (("fp32", pair.pruned), ("int8", int8)):
        taken = batches(test.images_NCHW, pair.spec, "normalised")
        accuracies[name] = score(session_logits(open_session(path, num_threads=2), taken), test.labels_N)

    def compare(dense: Path, pruned: Path) -> Comparison:
        return compare_files(dense, pruned, pair.spec.shape, batch_size=BATCH, num_threads=1, min_seconds=4.0)

    against_dense, against_fp32 = compare(pair.dense, pair.pruned), compare(pair.pruned, int8)
    return [
        Row(
            name=f"exports: VGG16 at macs_kept {MACS_KEPT}, rounded to {ROUND_TO}, ONNX Runtime, batch {BATCH}: "
            "latency against dense",
            figure=1 / against_dense.speedup,
            rule="at most",
            target=0.35,
            note=f"{_times(against_dense)}, {pair.macs_kept:.3f} of the MACs",
        ),
        Row(
            name="exports: int8 of it against fp32, latency",
            figure=1 / against_fp32.speedup,
            rule="below",
            target=1.0,
            note=_times(against_fp32),
        ),
        Row(
            name="exports: int8 of it against fp32, loss of test accuracy",
            figure=100 * (accuracies["fp32"] - accuracies["int8"]),
            unit="points",
            rule="at most",
            target=1.0,
            note=f"{accuracies['fp32']:.2%} and {accuracies['int8']:.2%}, {len(test):,} images of {config.name}",
        ),
    ]


def _times(comparison: Comparison) -> str:
    dense, pruned = comparison.dense, comparison.pruned
    noisy = ", noisy" if dense.is_noisy or pruned.is_noisy else ""
    return (
        f"{dense.median_ms:.3g} ± {dense.iqr_ms:.1g} ms and {pruned.median_ms:.3g} ± {pruned.iqr_ms:.1g} ms, "
        f"one thread{noisy}"
    )


def whole_front(storage: Path) -> list[Row]:
    """Eight candidates of the demo's search in all formats: the front, and what comes next to it if it is smaller."""
    _, seconds = cascade("search", "demo", "--storage", str(storage))
    print(f"exports: searched in {seconds:.0f} s", file=sys.stderr, flush=True)
    folder = SearchFolder(storage=storage, name="demo")
    view, experiment = read_front(folder), folder.experiment()
    others = [candidate for candidate in view.candidates if candidate not in view.front]
    others.sort(key=lambda candidate: (-candidate.val_accuracy, candidate.macs_kept))
    chosen = [*view.front, *others][:FRONT]
    jobs = [Job(candidate=member, destination=storage / "out" / f"{member.trial}-{member.level}") for member in chosen]
    origin = Origin(folder=folder.path, name="demo", data=experiment.data, model=experiment.model)
    started = time.perf_counter()
    results = list(export_each(jobs, origin=origin, options=ExportOptions(formats=FORMATS)))
    took = time.perf_counter() - started
    whole = [
        result
        for result in results
        if isinstance(result, Exported) and len(result.card.verification.files) == len(FORMATS)
    ]
    return [
        Row(
            name=f"exports: {FRONT} candidates exported, verified and measured in all formats",
            figure=took,
            unit="s",
            rule="below",
            target=180,
            note=f"the demo's search, {min(len(view.front), FRONT)} of them its front; latency on one thread included",
        ),
        Row(name="exports: … delivered in every format", figure=len(whole), rule="at least", target=FRONT),
    ]


def run(config: DataConfig = DIGITS) -> list[Row]:
    """Measure all of it."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        rows = quantised(config, Path(folder))
        return rows + whole_front(Path(folder) / "storage")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--data", help="folder with CIFAR-10: torchvision's, or Parquet files")
    given = parser.parse_args()
    found = run(DIGITS if given.data is None else DataConfig(name="cifar10", path=given.data))
    print(machine())
    print(table(found))
    sys.exit(0 if all(row.met for row in found) else 1)
