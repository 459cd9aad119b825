"""What a joint step on a CPU gains where oneDNN keeps the kernels of a whole step, against what it keeps by itself.

How many it keeps is read once in a process. So the two arms are processes, which take turns.
"""

import os
from contextlib import ExitStack

from benchmarks.engine import BATCH, NUM_THREADS, Step, frozen, pruned_stage, random_batch, random_splits, seconds
from benchmarks.processes import in_turn, process
from benchmarks.table import Row
from trainables.model_config import ModelConfig

NETWORKS = ("vgg16", "resnet101", "mobilenet_v3_large", "efficientnet_b0", "densenet121")
BY_ITSELF = "1024"
ROUNDS = 7
IMAGE_SIZE = 32
_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_steps: dict[str, Step] = {}  # of an arm's process


def _take_step(name: str) -> float:
    """Seconds of a step of levels that have their sizes, on digits' scale; the network is made at the first."""
    if name not in _steps:
        _steps.clear()
        teacher = frozen(ModelConfig(name=name))
        _steps[name] = pruned_stage(teacher, random_splits(BATCH, IMAGE_SIZE))[0].train_step
    return seconds(_steps[name], *random_batch(BATCH, IMAGE_SIZE))


def run() -> list[Row]:
    """Measure it."""
    ours = os.environ.get(_KEPT, BY_ITSELF)  # as importing `trainables` has set it, or who runs this
    rows = []
    with ExitStack() as stack:
        arms = [stack.enter_context(process({_KEPT: kept})) for kept in (ours, BY_ITSELF)]
        for name in NETWORKS:
            took = in_turn(arms, _take_step, name, rounds=ROUNDS)
            rows.append(
                Row(
                    name=f"{name}: joint step that keeps {ours} kernels / {BY_ITSELF}",
                    figure=took[0] / took[1],
                    rule="at most",
                    target=1.05,
                    note=f"{IMAGE_SIZE}x{IMAGE_SIZE}, batch {BATCH}, three levels, {NUM_THREADS} thread; "
                    f"{took[0]:.3f} s, {took[1]:.3f} s",
                )
            )
    return rows
