"""Data sets as a search gets them: by name, from whichever form lies in the folder."""

from collections.abc import Callable
from pathlib import Path

import torch

from orchestrator.data import parquet, shard_splits
from orchestrator.data.described import DataSet
from orchestrator.data.parquet_columns import has_parquet
from orchestrator.data.shard_bucket import say_nothing
from orchestrator.storage.bucket import Bucket, is_bucket
from trainables.data_config import DataConfig
from trainables.datasets import sources
from trainables.datasets.data import DataSplits
from trainables.datasets.images import Source
from trainables.datasets.splits import split


def load_splits(config: DataConfig, say: Callable[[str], None] = say_nothing) -> DataSplits:
    """Training and validation images: a part of its own where the set has one, else held out of the training images.

    Test images are not decoded. CIFAR is read from Parquet files where the folder holds any, else from torchvision's
    files.

    Args:
        config: where they come from.
        say: told what is fetched from a bucket.

    Raises:
        InputError: if the data set is missing, incomplete or unreadable, or a class is too small to split.
    """
    if config.name == "shards":
        return shard_splits.load_splits(config, say)
    if _is_parquet(config):
        parquet.require_both_parts(config)
        return split(parquet.read_train(config), config, parquet.read_val(config))
    return split(sources.read_train(config), config, sources.read_val(config))


def data_sets(config: DataConfig, data: DataSplits, digest: str) -> tuple[DataSet, ...]:
    """The images of a search as tracking names them.

    Args:
        config: where they come from.
        data: the images.
        digest: of both parts, as `identity.data_digest` gives it.
    """
    source = "scikit-learn" if config.path is None else _source(config.path)
    parts = (("training", data.train), ("validation", data.val))
    return tuple(
        DataSet(
            name=config.name,
            digest=f"{context[:5]}-{digest[:24]}",
            source=source,
            context=context,
            profile={
                "num_images": len(part),
                "shape": list(part.image_shape),
                "classes": list(data.class_names),
            },
        )
        for context, part in parts
    )


def _source(path: str) -> str:
    return Bucket(path).shown if is_bucket(path) else str(Path(path).resolve())


def training_images(
    config: DataConfig, number: int, *, seed: int, say: Callable[[str], None] = say_nothing
) -> torch.Tensor:
    """So many training images by chance, or all: uint8 of shape (N, C, H, W).

    Args:
        config: where they come from.
        number: of images.
        seed: draws them; of shards that are mixed the first are taken.
        say: told what is fetched.

    Raises:
        InputError: as `load_splits` does.
    """
    if config.name == "shards":
        return shard_splits.training_images(config, number, seed=seed, say=say)
    train = load_splits(config).train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train.pixels(order[:number])


def load_test(config: DataConfig, say: Callable[[str], None] = say_nothing) -> Source:
    """The test images, which only export and report may see.

    Args:
        config: where they come from.
        say: told what is fetched from a bucket.

    Raises:
        InputError: if the data set is missing, incomplete or unreadable.
    """
    if config.name == "shards":
        return shard_splits.load_test(config, say)
    return parquet.read_test(config) if _is_parquet(config) else sources.read_test(config)


def require_drawn_test_images(config: DataConfig) -> None:
    """See, before a search, that test images can be decoded which are drawn from the same folder as training images.

    Later none could be left out, as others would be drawn then. Those of shards were decoded when the set was made.

    Raises:
        InputError: if any cannot be decoded, or the data set is missing or incomplete.
    """
    if config.name == "imagefolder" and draws_its_test_images(config):
        sources.read_test(config)


def draws_its_test_images(config: DataConfig) -> bool:
    """Whether test images are drawn from the same files as training images, so that adding a file moves them."""
    if config.name == "shards":
        return not shard_splits.has_test(config)
    return config.name == "imagefolder" and "test" not in sources.part_folders(sources.data_folder(config))


def _is_parquet(config: DataConfig) -> bool:
    if config.name == "parquet":
        return True
    return config.name.startswith("cifar") and config.path is not None and has_parquet(Path(config.path))
