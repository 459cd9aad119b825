"""Validation images that are training images too: of these, what was remembered passes for what was learnt."""

import hashlib
from collections.abc import Iterator

import torch

from trainables.datasets.data import DataSplits

_NOTED = 0.01  # part of the validation images; real sets hold some twins


def leakage_notes(data: DataSplits) -> Iterator[str]:
    """How many validation images are, pixel for pixel, among the training images, of sets in memory."""
    train, val = data.train.content, data.val.content
    if isinstance(train, str) or isinstance(val, str):
        return
    seen = set(_digests(train))
    number = sum(digest in seen for digest in _digests(val))
    if number >= _NOTED * len(data.val):
        yield (
            f"{number} of {len(data.val)} validation images are training images too, of which accuracy says little; "
            "leave them out of one of the two, or, where validation images are held out, each image but once in the set"
        )


def _digests(images_NCHW: torch.Tensor) -> Iterator[bytes]:
    return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images_NCHW.numpy())
