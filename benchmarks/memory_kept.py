"""What a joint step on a CPU gains where freed memory stays with the process, against what glibc does by itself.

That holds for a whole process. So the two arms are processes, which take turns.
"""

import resource
from contextlib import ExitStack

from benchmarks.engine import (
    NUM_THREADS,
    Step,
    frozen,
    full_stage,
    pruned_stage,
    random_batch,
    random_splits,
    seconds,
)
from benchmarks.processes import in_turn, process
from benchmarks.table import Row
from trainables.model_config import ModelConfig

NETWORKS = {"vgg16": (32, 128), "resnet18": (32, 128), "mobilenet_v2": (64, 64), "efficientnet_b0": (64, 64)}
ROUNDS = 5
# A user's own setting, which stands; this one is what glibc has by itself.
BY_ITSELF = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
_steps: dict[tuple[str, str], Step] = {}  # of an arm's process


def _take_step(name: str, when: str) -> float:
    """Seconds of a step; the network is made at the first."""
    size, batch = NETWORKS[name]
    if (name, when) not in _steps:
        _steps.clear()
        make = full_stage if when == "before" else pruned_stage
        _steps[name, when] = make(frozen(ModelConfig(name=name)), random_splits(batch, size))[0].train_step
    return seconds(_steps[name, when], *random_batch(batch, size))


def _peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run() -> list[Row]:
    """Measure it."""
    rows = []
    for name, (size, batch) in NETWORKS.items():
        with ExitStack() as stack:
            arms = [stack.enter_context(process(environment)) for environment in ({}, BY_ITSELF)]
            for when in ("after", "before"):
                took = in_turn(arms, _take_step, name, when, rounds=ROUNDS)
                peaks = [arm.submit(_peak).result() for arm in arms]
                rows.append(
                    Row(
                        name=f"{name}: joint step {when} pruning, memory kept / returned",
                        figure=took[0] / took[1],
                        rule="at most",
                        target=1.02,
                        note=f"{size}x{size}, batch {batch}, three levels, {NUM_THREADS} thread; "
                        f"{took[0]:.3f} s, {took[1]:.3f} s; peaks {peaks[0]:.0f} MB, {peaks[1]:.0f} MB",
                    )
                )
    return rows
