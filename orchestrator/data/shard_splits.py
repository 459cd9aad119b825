"""Training, validation and test images from shards: held in memory where they are few, streamed where they are many."""

import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from orchestrator.data.shard_bucket import BucketPlace, say_nothing
from orchestrator.data.shard_files import FolderPlace, ShardPlace, ShardRows, read_labels
from orchestrator.data.shards import PartName, Shard, ShardSet
from orchestrator.storage.bucket import is_bucket
from trainables.data_config import DataConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import Images, ImageSet, Source
from trainables.datasets.sources import data_folder
from trainables.datasets.splits import channel_statistics, random_split, stratified_split
from trainables.datasets.streaming import Stream, StreamedSet

_ROWS_A_TASK = 64
_STATISTICS_IMAGES = 2048  # of which mean and deviation of a streamed set's channels are measured
_BY_CHANCE = 3.0  # over the root of so many images: what shares of classes may differ by; chance stays below half


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Rows:
    """Some images of a part of a set.

    Attributes:
        place: of the set.
        found: what it holds.
        shards: in which the images are, from the first of the part.
        chosen_N: which of the part's images, int64, rising.
        labels_N: of these.
    """

    place: ShardPlace
    found: ShardSet
    shards: tuple[Shard, ...]
    chosen_N: torch.Tensor
    labels_N: torch.Tensor

    def sample(self, number: int, *, seed: int) -> "_Rows":
        """So many, or all, which stand for all: the first, and no shard beyond, where these are mixed.

        Else drawn from all by `seed`: sets of Parquet files that were sorted by class may be sorted, too.
        """
        drawn_N = torch.randperm(len(self.labels_N), generator=torch.Generator().manual_seed(seed))[:number]
        if not _begins_mixed(self.labels_N, drawn_N):
            drawn_N = drawn_N.sort().values
            return replace(self, chosen_N=self.chosen_N[drawn_N], labels_N=self.labels_N[drawn_N])
        chosen_N = self.chosen_N[:number]
        ends_S = np.cumsum([shard.num_images for shard in self.shards])
        num_shards = int(np.searchsorted(ends_S, int(chosen_N[-1]), side="right")) + 1
        return replace(self, shards=self.shards[:num_shards], chosen_N=chosen_N, labels_N=self.labels_N[:number])

    def streamed(self, config: DataConfig) -> StreamedSet:
        """To be read as they are needed."""
        assert config.image_size is not None, "DataConfig asks for the size of shards"
        stream = Stream(
            rows=ShardRows(self.place, self.shards),
            chosen_N=self.chosen_N.numpy(),
            image_size=config.image_size,
            workers=config.workers,
        )
        return stream.labelled(self.labels_N)

    def decoded(self, config: DataConfig) -> torch.Tensor:
        """All images, uint8 of shape (N, 3, image_size, image_size)."""
        self.place.holding(self.shards)
        indices = torch.arange(len(self.chosen_N))
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


def load_splits(config: DataConfig, say: Callable[[str], None]) -> DataSplits:
    """Training and validation images: a part of its own where the set has one, else held out of the training images.

    Of images that are streamed from a bucket, labels and the beginning are fetched, or all if they are not mixed.

    Raises:
        InputError: if a file is missing or not what it must be, or a class is too small to split.
    """
    place = _place(config, say)
    train, val = _train_and_val(config, place)
    assert config.image_size is not None, "DataConfig asks for the size of shards"
    decoded_bytes = (len(train.labels_N) + len(val.labels_N)) * 3 * config.image_size**2
    sets: list[Images]
    if decoded_bytes <= config.memory_gb * 1e9:
        place.holding((*train.shards, *val.shards))
        held = train.in_memory(config)
        sets, sample = [held, val.in_memory(config)], held.images_NCHW
    else:
        sets = [train.streamed(config), val.streamed(config)]
        sample = train.sample(_STATISTICS_IMAGES, seed=config.seed).decoded(config)
    mean, std = channel_statistics(sample)
    return DataSplits(train=sets[0], val=sets[1], mean=mean, std=std, class_names=train.found.class_names)


def training_images(config: DataConfig, number: int, *, seed: int, say: Callable[[str], None]) -> torch.Tensor:
    """So many training images that stand for all, or all: uint8 of shape (N, 3, H, W).

    Raises:
        InputError: as `load_splits` does.
    """
    train, _ = _train_and_val(config, _place(config, say))
    return train.sample(number, seed=seed).decoded(config)


def load_test(config: DataConfig, say: Callable[[str], None]) -> Source:
    """The test images, decoded into memory, which only export and report may see.

    Raises:
        InputError: as `load_splits` does.
    """
    place = _place(config, say)
    found = place.found()
    test = _whole(place, found, "test") if "test" in found.parts else _without_test(config, place, found)[1]
    return Source(images=test.in_memory(config), class_names=found.class_names)


def has_test(config: DataConfig) -> bool:
    """Whether the set has test images of its own.

    Raises:
        InputError: as `load_splits` does.
    """
    return "test" in _place(config, say_nothing).found().parts


def _place(config: DataConfig, say: Callable[[str], None]) -> ShardPlace:
    if config.path is not None and is_bucket(config.path):
        return BucketPlace.find(config.path, say)
    return FolderPlace(data_folder(config).resolve())  # processes elsewhere have another current folder


def _train_and_val(config: DataConfig, place: ShardPlace) -> tuple[_Rows, _Rows]:
    found = place.found()
    place.holding([part.labels for name, part in found.parts.items() if name != "test" and part.labels is not None])
    train = _whole(place, found, "train") if "test" in found.parts else _without_test(config, place, found)[0]
    if "val" in found.parts:
        return train, _whole(place, found, "val")
    return _held_out(train, fraction=config.val_fraction, seed=config.seed)


def _without_test(config: DataConfig, place: ShardPlace, found: ShardSet) -> tuple[_Rows, _Rows]:
    """The training images of a set without test images, and the test images that are held out of them."""
    return _held_out(_whole(place, found, "train"), fraction=config.test_fraction, seed=config.seed)


def _whole(place: ShardPlace, found: ShardSet, part: PartName) -> _Rows:
    labels_N = read_labels(place, found, part)
    return _Rows(
        place=place,
        found=found,
        shards=found.parts[part].shards,
        chosen_N=torch.arange(len(labels_N)),
        labels_N=labels_N,
    )


def _begins_mixed(labels_N: torch.Tensor, drawn_N: torch.Tensor) -> bool:
    """Whether the classes of the first images are shared out as among as many that were drawn."""
    number = len(drawn_N)
    first, drawn = (_apart(labels_N[some], labels_N) for some in (slice(number), drawn_N))
    return first <= drawn + _BY_CHANCE / math.sqrt(number)


def _apart(some_N: torch.Tensor, labels_N: torch.Tensor) -> float:
    """How far the classes' shares of some labels are from those of all, in [0, 1]: their total variation distance."""
    shares: list[torch.Tensor] = []
    for each in (some_N, labels_N):
        images_K = each.sum(0) if each.ndim == 2 else torch.bincount(each, minlength=int(labels_N.max()) + 1)
        shares.append(images_K / images_K.sum().clamp(min=1))
    return float((shares[0] - shares[1]).abs().sum() / 2)


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
