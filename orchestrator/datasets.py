"""Data sets as a search gets them: by name, from whichever form lies in the folder."""

from pathlib import Path

from orchestrator import parquet
from trainables import sources
from trainables.config import DataConfig
from trainables.data import DataSplits, Source
from trainables.splits import split


def load_splits(config: DataConfig) -> DataSplits:
    """Training and validation images. Test images are not looked at.

    CIFAR is read from Parquet files where the folder holds any, else from torchvision's files.

    Raises:
        InputError: if the data set is missing, incomplete or unreadable, or a class is too small to split.
    """
    if _is_parquet(config):
        parquet.require_both_parts(config)
        return split(parquet.read_train(config), config)
    return split(sources.read_train(config), config)


def load_test(config: DataConfig) -> Source:
    """The test images, which only export and report may see.

    Raises:
        InputError: if the data set is missing, incomplete or unreadable.
    """
    return parquet.read_test(config) if _is_parquet(config) else sources.read_test(config)


def draws_its_test_images(config: DataConfig) -> bool:
    """Whether test images are drawn from the same files as training images, so that adding a file moves them."""
    return config.name == "imagefolder" and config.path is not None and not (Path(config.path) / "test").is_dir()


def _is_parquet(config: DataConfig) -> bool:
    if config.name == "parquet":
        return True
    return config.name.startswith("cifar") and config.path is not None and parquet.has_parquet(Path(config.path))
