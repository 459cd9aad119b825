"""What torch.compile makes of a joint step once levels have their sizes, and after how many epochs it has paid."""

import time

from benchmarks.engine import NUM_THREADS, Step, frozen, medians, pruned_stage, random_batch, random_splits
from benchmarks.speed import NETWORKS, TRAIN_IMAGES
from benchmarks.table import Row
from trainables.hardware import processor

ROUNDS = 5


def _row(name: str) -> Row:
    model, size, batch = NETWORKS[name]
    teacher, data = frozen(model), random_splits(batch, size)
    plain, _ = pruned_stage(teacher, data)
    compiled, _ = pruned_stage(teacher, data, execution="compile")
    images, labels = random_batch(batch, size)
    started = time.perf_counter()
    compiled.train_step(images, labels)
    once = time.perf_counter() - started
    arms: dict[str, Step] = {"compiled": compiled.train_step, "plain": plain.train_step}
    took = medians(arms, images, labels, rounds=ROUNDS)
    saved = took["plain"] - took["compiled"]
    pays = "never pays"
    if saved > 0:
        pays = f"pays after {once / saved / (TRAIN_IMAGES / batch):.1f} epochs of {TRAIN_IMAGES} images"
    return Row(
        name=f"{name}: joint step compiled / as it is",
        figure=took["compiled"] / took["plain"],
        note=f"{size}x{size}, batch {batch}, {NUM_THREADS} thread; compiling took {once:.0f} s and {pays}; "
        + ", ".join(f"{arm} {seconds:.2f} s" for arm, seconds in took.items()),
    )


def run() -> list[Row]:
    """Measure it."""
    processor.prepare(NUM_THREADS)
    return [_row(name) for name in ("VGG16", "MobileNetV2")]
