"""JPEGs to training batches at 224x224 on two processes: shards as they are streamed, against torchvision's way.

Photographs of ImageNet's size (500x375, about 90 kB) are generated. Torchvision's way is an `ImageFolder`, Pillow, and
torch's DataLoader with two workers; the transforms of both are a random resized crop, mirroring, and normalisation to
float32. A second comparison leaves out what turns pixels into floats, which a GPU would do. A pass includes the start
of its processes; passes are run in turn, and medians compared. Processor time, of all processes of a pass together, is
told too, as other work on the machine adds nothing to it.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.table import Row, machine, table
from orchestrator.data.datasets import load_splits
from orchestrator.data.shard_sources import open_source
from orchestrator.data.shard_writer import WriteOptions, write_shards
from trainables.data_config import Augmentation, DataConfig
from trainables.datasets.data import DataSplits, training_batches

NUM_IMAGES = 1536
ROUNDS = 5
BATCH, SIZE, WORKERS = 64, 224, 2
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
DRAWN: Augmentation = "resized-crop-flip"
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def photograph(draws: np.random.Generator) -> bytes:
    """A JPEG with large shapes and grain."""
    coarse = Image.fromarray(draws.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        (500, 375), Image.Resampling.BICUBIC
    )
    grain = draws.normal(0, 12, (375, 500, 1))
    buffer = BytesIO()
    pixels = (np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photographs(folder: Path, number: int) -> float:
    """Write a folder of two classes; mean kB of an image."""
    draws = np.random.default_rng(0)
    written = 0
    for index in range(number):
        place = folder / "train" / f"class-{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        written += (place / f"{index:05d}.jpg").write_bytes(photograph(draws))
    return written / number / 1e3


def torchvision_passes(folder: Path) -> tuple[Callable[[], Batches], Callable[[], Batches]]:
    """A pass that gives floats, and one that gives bytes."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    drawn = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    floats = transforms.Compose([*drawn, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    pixels = transforms.Compose([*drawn, transforms.PILToTensor()])

    def loader(transform: object) -> Callable[[], Batches]:
        images = datasets.ImageFolder(str(folder / "train"), transform=transform)
        return lambda: DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)

    return loader(floats), loader(pixels)


def streamed_passes(data: DataSplits) -> tuple[Callable[[], Batches], Callable[[], Batches]]:
    """The same of a streamed set."""

    def floats() -> Batches:
        return training_batches(
            data.train, mean=MEAN, std=STD, batch_size=BATCH, augmentation=DRAWN, generator=torch.Generator()
        )

    def pixels() -> Batches:
        return data.train.shuffled(batch_size=BATCH, augmentation=DRAWN, generator=torch.Generator())

    return floats, pixels


def processor_seconds() -> float:
    """Of this process and of its processes that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def seconds_an_image(arm: Callable[[], Batches]) -> tuple[float, float]:
    """Of one pass: by the clock, and of the processor."""
    started, spent = time.perf_counter(), processor_seconds()
    batches = arm()
    number = sum(len(images) for images, _ in batches)
    del batches
    gc.collect()  # its processes have ended then
    return (time.perf_counter() - started) / number, (processor_seconds() - spent) / number


def in_turn(arms: Mapping[str, Callable[[], Batches]]) -> tuple[dict[str, float], dict[str, float]]:
    """Images a second of each arm, and milliseconds of the processor an image: medians over rounds."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            taken[name].append(seconds_an_image(arm))
            clock, processor = taken[name][-1]
            print(f"jpeg: {name}, {1 / clock:.0f} images/s, {1e3 * processor:.2f} ms", file=sys.stderr)
    medians = {name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in taken.items()}
    return {name: 1 / clock for name, (clock, _) in medians.items()}, {
        name: 1e3 * processor for name, (_, processor) in medians.items()
    }


def run(num_images: int = NUM_IMAGES) -> list[Row]:
    """Measure it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kilobytes = photographs(folder / "photographs", num_images)
        started = time.perf_counter()
        written = write_shards(open_source(folder / "photographs", seed=0), folder / "shards", WriteOptions())
        making = written.parts["train"].num_images / (time.perf_counter() - started)
        write_shards(open_source(folder / "photographs", seed=0), folder / "small", WriteOptions(shorter_side=256))
        data, small = (
            load_splits(
                DataConfig(
                    name="shards",
                    path=str(folder / place),
                    image_size=SIZE,
                    memory_gb=0,
                    workers=WORKERS,
                    val_fraction=0.01,
                    test_fraction=0.01,
                )
            )
            for place in ("shards", "small")
        )
        theirs, ours, ours_small = (
            torchvision_passes(folder / "photographs"),
            streamed_passes(data),
            streamed_passes(small),
        )
        arms = {
            "torchvision": theirs[0],
            "streamed": ours[0],
            "torchvision, bytes": theirs[1],
            "streamed, bytes": ours[1],
            "streamed, shrunk to 256": ours_small[0],
        }
        rates, processor = in_turn(arms)
    load = f"{kilobytes:.0f} kB an image; load of the machine {os.getloadavg()[1]:.1f}"
    return [
        Row(
            name=f"JPEGs to float batches at {SIZE}x{SIZE}, two processes, against torchvision's DataLoader",
            figure=rates["streamed"] / rates["torchvision"],
            rule="at least",
            target=1.2,
            note=f"{rates['streamed']:.0f} and {rates['torchvision']:.0f} images/s; {load}",
        ),
        Row(
            name="… of the processor, torchvision's time against that of streaming",
            figure=processor["torchvision"] / processor["streamed"],
            note=f"{processor['torchvision']:.2f} and {processor['streamed']:.2f} ms an image, all processes",
        ),
        Row(
            name="… to bytes, without normalisation in either",
            figure=rates["streamed, bytes"] / rates["torchvision, bytes"],
            note=f"{rates['streamed, bytes']:.0f} and {rates['torchvision, bytes']:.0f} images/s; "
            f"{processor['torchvision, bytes']:.2f} and {processor['streamed, bytes']:.2f} ms of the processor",
        ),
        Row(
            name="… with shards whose shorter sides were shrunk to 256, to floats",
            figure=rates["streamed, shrunk to 256"] / rates["torchvision"],
            note=f"{rates['streamed, shrunk to 256']:.0f} images/s",
        ),
        Row(name="… shards are made at", figure=making, unit="images/s", note="each image decoded once"),
    ]


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jpeg", description=__doc__)
    parser.add_argument("--images", type=int, default=NUM_IMAGES, help="photographs to generate")
    print(machine())
    print(table(run(parser.parse_args().images)))


if __name__ == "__main__":
    main()
