"""Images that are too many for memory: read, decoded and augmented by processes of their own as they are needed.

What comes when is a function of a seed alone. The order of a pass takes shards at random, some at a time, and shuffles
the images of these, so that a disk reads them from files that lie beside one another; the images of a batch are changed
by draws from the seed and the batch's number. So the number of processes changes nothing, and a pass goes on at any
batch without the ones before it.

Shape legend as in `trainables.datasets.images`.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from trainables.data_config import Augmentation
from trainables.datasets.augmentation import NUM_DRAWS, augment
from trainables.datasets.decoding import central_square, decode, drawn_window
from trainables.datasets.images import num_batches
from trainables.errors import InputError
from trainables.seeds import derive_seed

SHARDS_A_WINDOW = 16
"""Shards whose images are shuffled with one another."""

_CHANNELS = 3
_AHEAD = 2  # batches that each process may have ready
_ORDERED = 128  # images a batch, at most, where none is trained on: what is ready lies in shared memory


class EncodedRows(Protocol):
    """Encoded images by number, in shards; goes to other processes, and opens files only when it is asked."""

    @property
    def digest(self) -> str:
        """Tells these images from any others."""

    @property
    def first_rows(self) -> np.ndarray[Any, Any]:
        """Number of the first image of each shard, rising, int64."""

    def bring(self) -> None:
        """Have all images on this machine.

        Raises:
            MachineError: if they cannot be there.
        """

    def encoded(self, row: int) -> tuple[bytes, str]:
        """The encoded image, and what an error calls it.

        Raises:
            InputError: if it cannot be read.
        """


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stream:
    """Which images are streamed, and how they are decoded; goes to other processes.

    Attributes:
        rows: all encoded images of a part.
        chosen_N: those of this set, int64, rising.
        image_size: height and width in pixels that they are brought to.
        workers: processes that decode; 0 for none but the one that asks.
    """

    rows: EncodedRows
    chosen_N: np.ndarray[Any, Any]
    image_size: int
    workers: int

    @property
    def digest(self) -> str:
        """Tells the images and their size from any others."""
        sums = hashlib.sha256(f"{self.rows.digest} {self.image_size}\n".encode())
        sums.update(np.ascontiguousarray(self.chosen_N).data)
        return sums.hexdigest()[:32]

    def labelled(self, labels_N: torch.Tensor) -> "StreamedSet":
        """These images with their labels."""
        return StreamedSet(stream=self, labels_N=labels_N)

    def order(self, seed: int) -> torch.Tensor:
        """Indices into `chosen_N`, shuffled: windows of shards at random, and within each all of their images."""
        generator = torch.Generator().manual_seed(seed)
        first_rows = self.rows.first_rows
        place_S = torch.randperm(len(first_rows), generator=generator)
        shard_N = torch.from_numpy(np.searchsorted(first_rows, self.chosen_N, side="right") - 1)
        order_N = torch.randperm(len(self.chosen_N), generator=generator)
        window_N = (place_S // SHARDS_A_WINDOW)[shard_N[order_N]]
        return order_N[torch.argsort(window_N, stable=True)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StreamedSet:
    """Images that are read from files in every pass, and their labels, which are in memory.

    Attributes:
        stream: the images.
        labels_N: as of `images.Images`; on the device to which batches are brought.
    """

    stream: Stream
    labels_N: torch.Tensor

    def __post_init__(self) -> None:
        """Check that each image has a label.

        Raises:
            InputError: with both numbers.
        """
        if len(self.stream.chosen_N) != len(self.labels_N):
            raise InputError(f"there are {len(self.stream.chosen_N)} images and {len(self.labels_N)} labels")

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes, or of none."""
        return self.labels_N.ndim == 2

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return _CHANNELS, self.stream.image_size, self.stream.image_size

    @property
    def held_bytes(self) -> int:
        """None of the images."""
        return 0

    @property
    def content(self) -> str:
        """The digest of the stream."""
        return self.stream.digest

    def to(self, device: torch.device | str) -> "StreamedSet":
        """The same set, whose labels and batches are on `device`."""
        return replace(self, labels_N=self.labels_N.to(device))

    def first(self, number: int) -> "StreamedSet":
        """The first so many images, or all."""
        stream = replace(self.stream, chosen_N=self.stream.chosen_N[:number])
        return StreamedSet(stream=stream, labels_N=self.labels_N[:number])

    def shared(self) -> Stream:
        """The stream: a process that gets it reads the files itself."""
        return self.stream

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """Images at int64 `indices`, decoded now, on the CPU."""
        return _decoded(self.stream, indices, "none", torch.Generator())

    def shuffled(
        self, *, batch_size: int, augmentation: Augmentation, generator: torch.Generator, start: int = 0
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of one pass, shuffled and augmented; the arguments are those of `data.training_batches`.

        Args:
            batch_size: images a batch.
            augmentation: what they go through.
            generator: gives the seed of the pass, a single number.
            start: batches to leave out, as they were drawn before: what follows is what would have followed then.

        Yields:
            uint8 images, channels last in memory, and their labels.

        Raises:
            InputError: if an image cannot be read, naming file and image.
        """
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        order_N = self.stream.order(seed)[: num_batches(len(self), batch_size) * batch_size]
        yield from self._loaded(_Batches(self.stream, order_N, batch_size, augmentation, seed), start)

    def ordered(self, *, batch_size: int, rows: slice | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images from `rows.start` to `rows.stop`, or all, in order; raises as `shuffled` does."""
        batch_size = min(batch_size, _ORDERED)
        order_N = torch.arange(len(self)) if rows is None else torch.arange(rows.start, rows.stop)
        yield from self._loaded(_Batches(self.stream, order_N, batch_size, "none", 0), 0)

    def _loaded(self, batches: "_Batches", start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.stream.rows.bring()  # here, as a process that reads says what is amiss in words alone
        device = self.labels_N.device
        workers = min(self.stream.workers, os.cpu_count() or 1, max(0, len(batches) - start))
        loader = DataLoader(
            batches,
            batch_size=None,  # each item is a batch
            sampler=range(start, len(batches)),
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from torch's global one, which dropout draws from
        )
        for number, pixels_NCHW in enumerate(loader, start=start):
            if isinstance(pixels_NCHW, str):
                raise InputError(pixels_NCHW)
            chosen = batches.indices(number).to(device)
            yield pixels_NCHW.to(device, non_blocking=True), self.labels_N[chosen]


class _Batches(Dataset[torch.Tensor | str]):
    """The batches of one pass by their number, in the processes that decode."""

    def __init__(
        self, stream: Stream, order_N: torch.Tensor, batch_size: int, augmentation: Augmentation, seed: int
    ) -> None:
        self._stream = stream
        self._order_N = order_N
        self._batch_size = batch_size
        self._augmentation: Augmentation = augmentation
        self._seed = seed

    def __len__(self) -> int:
        return -(-len(self._order_N) // self._batch_size)

    def indices(self, number: int) -> torch.Tensor:
        """Of the batch's images."""
        return self._order_N[number * self._batch_size : (number + 1) * self._batch_size]

    def __getitem__(self, number: int) -> torch.Tensor | str:
        """The batch's images; or what was wrong, since an exception would come with the traceback in its message."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, number))
        try:
            return _decoded(self._stream, self.indices(number), self._augmentation, generator)
        except InputError as error:
            return str(error)


def _decoded(
    stream: Stream, indices: torch.Tensor, augmentation: Augmentation, generator: torch.Generator
) -> torch.Tensor:
    """uint8 images (N, C, size, size) at indices of the stream, augmented by draws from the generator."""
    size, windows = stream.image_size, augmentation == "resized-crop-flip"
    pixels_NCHW = torch.empty(
        (len(indices), _CHANNELS, size, size), dtype=torch.uint8, memory_format=torch.channels_last
    )
    draws_ND = torch.rand(len(indices), NUM_DRAWS, generator=generator) if windows else None
    for place, index in enumerate(indices.tolist()):
        data, name = stream.rows.encoded(int(stream.chosen_N[index]))
        image_CHW = decode(data, name=name)
        pixels_NCHW[place] = (
            central_square(image_CHW, size) if draws_ND is None else drawn_window(image_CHW, size, draws_ND[place])
        )
    return pixels_NCHW if windows else augment(pixels_NCHW, augmentation, generator)
