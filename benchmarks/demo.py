"""The preset `demo` from the command line, as a newcomer runs it: how long it takes and how good its networks are."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.startup import cascade_command
from benchmarks.table import Row
from orchestrator.data.datasets import load_test
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.fronts import read_front
from trainables.datasets.data import evaluation_batches
from trainables.datasets.images import Source
from trainables.files.checkpoint import load_network

PRESET = "demo"
SMALL = 0.05
EVALUATION_BATCH = 512


def cascade(*arguments: str) -> tuple[str, float]:
    """What the command printed, and the seconds it took."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    started = time.perf_counter()
    done = subprocess.run(
        [cascade_command(), *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout, time.perf_counter() - started


@torch.no_grad()
def num_correct(network_folder: Path, test: Source) -> int:
    """Test images that a saved network gets right."""
    saved = load_network(network_folder)
    network: nn.Module = saved.network
    batches = evaluation_batches(test.images, mean=saved.input.mean, std=saved.input.std, batch_size=EVALUATION_BATCH)
    return sum(int((network(images).argmax(dim=1) == labels).sum()) for images, labels in batches)


def run() -> list[Row]:
    """Measure it."""
    with tempfile.TemporaryDirectory() as storage:
        _, seconds = cascade("search", PRESET, "--storage", storage)
        printed, front_seconds = cascade("front", PRESET, "--storage", storage, "--format", "json")
        _, export_seconds = cascade("export", PRESET, "--storage", storage, "--format", "json")
        print(f"demo: searched in {seconds:.0f} s", file=sys.stderr)
        candidates = json.loads(printed)
        return [
            Row(name="demo: search", figure=seconds, unit="s", rule="below", target=240),
            Row(name="demo: front", figure=front_seconds, unit="s"),
            Row(name="demo: export, verified", figure=export_seconds, unit="s"),
            Row(
                name="demo: finished trials",
                figure=len({candidate["trial"] for candidate in candidates}),
                rule="at least",
                target=8,
            ),
            Row(
                name="demo: candidates on the front",
                figure=sum(candidate["on_front"] for candidate in candidates),
                rule="at least",
                target=5,
                note=f"of {len(candidates)}",
            ),
            smallest_drop(SearchFolder(storage=Path(storage), name=PRESET)),
        ]


def smallest_drop(folder: SearchFolder) -> Row:
    """How much test accuracy the best small network of the front loses against the teacher."""
    test = load_test(folder.experiment().data)
    teacher = num_correct(folder.teacher / "network", test)
    small = [candidate for candidate in read_front(folder).front if candidate.macs_kept <= SMALL]
    drops = {
        candidate: 100 * (teacher - num_correct(folder.path / candidate.network, test)) / len(test.images)
        for candidate in small
    }
    for candidate, drop in drops.items():
        print(f"demo: {candidate.label} at {candidate.macs_kept:.2%} loses {drop:.2f} points", file=sys.stderr)
    name = f"demo: smallest loss of test accuracy at no more than {SMALL:.0%} of the MACs"
    if not drops:
        return Row(name=name, figure=float("nan"), unit="points", rule="at most", target=1.5, note="none so small")
    best = min(drops, key=lambda candidate: (drops[candidate], candidate.macs_kept))
    return Row(
        name=name,
        figure=drops[best],
        unit="points",
        rule="at most",
        target=1.5,
        note=f"{best.label} at {best.macs_kept:.2%}, teacher {teacher / len(test.images):.2%}, "
        f"one of {len(drops)} so small, {len(test.images)} test images",
    )
