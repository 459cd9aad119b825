"""Training, validation and test images from shards: held in memory where they are few, streamed where they are many."""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from orchestrator.bucket import is_bucket
from orchestrator.shard_bucket import BucketPlace
from orchestrator.shards import FolderPlace, PartName, ShardPlace, ShardRows, ShardSet, read_labels, read_set
from trainables.config import DataConfig
from trainables.data import DataSplits
from trainables.images import Images, ImageSet, Source
from trainables.sources import data_folder
from trainables.splits import channel_statistics, random_split, stratified_split
from trainables.streaming import Stream, StreamedSet

_ROWS_A_TASK = 64
_STATISTICS_IMAGES = 2048  # of which mean and deviation of a streamed set's channels are measured


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Rows:
    """Some images of a part of a set.

    Attributes:
        place: of the set.
        found: what it holds.
        part: which the images are stored in.
        chosen_N: which of its images, int64, rising.
        labels_N: of these.
    """

    place: ShardPlace
    found: ShardSet
    part: PartName
    chosen_N: torch.Tensor
    labels_N: torch.Tensor

    def streamed(self, config: DataConfig) -> StreamedSet:
        """To be read as they are needed."""
        assert config.image_size is not None, "DataConfig asks for the size of shards"
        shards = self.found.parts[self.part].shards
        stream = Stream(
            rows=ShardRows(self.place, shards),
            chosen_N=self.chosen_N.numpy(),
            image_size=config.image_size,
            workers=config.workers,
        )
        return stream.labelled(self.labels_N)

    def decoded(self, config: DataConfig, some: torch.Tensor | None = None) -> torch.Tensor:
        """All images, or those at some indices, uint8 of shape (N, 3, image_size, image_size)."""
        indices = torch.arange(len(self.chosen_N)) if some is None else some
        images_NCHW = torch.empty(len(indices), *self.streamed(config).image_shape, dtype=torch.uint8)

        def fill(start: int) -> None:
            rows = slice(start, start + _ROWS_A_TASK)
            images_NCHW[rows] = self.streamed(config).pixels(indices[rows])  # which opens files for itself

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:  # decoders release the interpreter
            deque(pool.map(fill, range(0, len(indices), _ROWS_A_TASK)), maxlen=0)  # raises the first image's error
        return images_NCHW

    def in_memory(self, config: DataConfig) -> ImageSet:
        """Decoded now."""
        return ImageSet(images_NCHW=self.decoded(config), labels_N=self.labels_N)


def load_splits(config: DataConfig) -> DataSplits:
    """Training and validation images: a part of its own where the set has one, else held out of the training images.

    Raises:
        InputError: if a file is missing or not what it must be, or a class is too small to split.
    """
    train, val = (rows for part, rows in _all_rows(config).items() if part != "test")
    assert config.image_size is not None, "DataConfig asks for the size of shards"
    decoded_bytes = (len(train.labels_N) + len(val.labels_N)) * 3 * config.image_size**2
    sets: list[Images]
    if decoded_bytes <= config.memory_gb * 1e9:
        held = train.in_memory(config)
        sets, sample = [held, val.in_memory(config)], held.images_NCHW
    else:
        sets = [train.streamed(config), val.streamed(config)]
        order = torch.randperm(len(train.labels_N), generator=torch.Generator().manual_seed(config.seed))
        sample = train.decoded(config, order[:_STATISTICS_IMAGES].sort().values)
    mean, std = channel_statistics(sample)
    return DataSplits(train=sets[0], val=sets[1], mean=mean, std=std, class_names=train.found.class_names)


def load_test(config: DataConfig) -> Source:
    """The test images, decoded into memory, which only export and report may see.

    Raises:
        InputError: as `load_splits` does.
    """
    test = _all_rows(config)["test"]
    return Source(images=test.in_memory(config), class_names=test.found.class_names)


def has_test(config: DataConfig) -> bool:
    """Whether the set has test images of its own.

    Raises:
        InputError: as `load_splits` does.
    """
    return "test" in read_set(_place(config).here()).parts


def _place(config: DataConfig) -> ShardPlace:
    if config.path is not None and is_bucket(config.path):
        return BucketPlace.find(config.path)
    return FolderPlace(data_folder(config).resolve())  # processes elsewhere have another current folder


def _all_rows(config: DataConfig) -> dict[PartName, _Rows]:
    """The three parts, in the order of training, validation, test."""
    place = _place(config)
    found = read_set(place.here())
    parts = {part: _whole(place, found, part) for part in found.parts}
    train = parts["train"]
    if "test" not in parts:
        train, parts["test"] = _held_out(train, fraction=config.test_fraction, seed=config.seed)
    if "val" not in parts:
        train, parts["val"] = _held_out(train, fraction=config.val_fraction, seed=config.seed)
    return {"train": train, "val": parts["val"], "test": parts["test"]}


def _whole(place: ShardPlace, found: ShardSet, part: PartName) -> _Rows:
    labels_N = read_labels(place.here(), found, part)
    return _Rows(place=place, found=found, part=part, chosen_N=torch.arange(len(labels_N)), labels_N=labels_N)


def _held_out(rows: _Rows, *, fraction: float, seed: int) -> tuple[_Rows, _Rows]:
    """What stays and what is held out, by class where an image has one."""
    labels_N = rows.labels_N
    if rows.found.labels == "several":
        both = random_split(len(labels_N), fraction=fraction, seed=seed)
    else:
        names: Sequence[str] = rows.found.class_names
        both = stratified_split(labels_N, fraction=fraction, seed=seed, class_names=names)
    stay, held_out = (replace(rows, chosen_N=rows.chosen_N[part], labels_N=labels_N[part]) for part in both)
    return stay, held_out
