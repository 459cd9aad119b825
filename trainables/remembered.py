"""What a frozen network says of the batches of a few epochs, remembered while later epochs draw these batches again.

Of small levels the teacher's forward pass is most of the work, and its answer to the same images is the same. Shen &
Xing 2022 (A Fast Knowledge Distillation Framework for Visual Recognition) keep a teacher's answers to some crops of
each image for that reason.
"""

from collections.abc import Callable

import torch

from trainables.data import DataSplits
from trainables.errors import InputError

# Beside the images, on the device, for each trial.
MOST_BYTES = 2 << 30
_BYTES_A_LOGIT = 4


class RememberedLogits:
    """Logits of a rank's images in each batch of some epochs, kept on the device from when they are first asked for.

    A stage that goes on from a checkpoint finds none and asks again; the answer is the same.
    """

    def __init__(self, *, num_views: int, num_train: int, batch_size: int) -> None:
        """Prepare it; memory is taken at the first answer, for all of them.

        Args:
            num_views: epochs whose batches are seen.
            num_train: images of each epoch.
            batch_size: images of every batch but the last of an epoch.
        """
        self._num_views = num_views
        self._num_train = num_train
        self._batch_size = batch_size
        self._num_images: dict[tuple[int, int], int] = {}  # of each batch that is known
        self._logits_VNK = torch.empty(0)

    def view(self, epoch: int) -> int:
        """Which of the epochs that are seen, 0 … num_views − 1, an epoch repeats."""
        return epoch % self._num_views

    def __call__(self, epoch: int, place: int, ask: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Logits of a batch; asked for if they are not known.

        Args:
            epoch: from 0.
            place: of the batch in its epoch, from 0.
            ask: gives logits of this rank's images of the batch, images x classes.
        """
        batch, first = (self.view(epoch), place), place * self._batch_size
        if batch not in self._num_images:
            logits = ask()
            if not self._num_images:
                self._logits_VNK = logits.new_empty((self._num_views, self._num_train, logits.shape[1]))
            self._logits_VNK[batch[0], first : first + len(logits)] = logits
            self._num_images[batch] = len(logits)
        return self._logits_VNK[batch[0], first : first + self._num_images[batch]]


def require_room_for_logits(views: int | None, data: DataSplits) -> None:
    """Check that what is remembered of a network's answers is no larger than should lie beside the images.

    Args:
        views: of `teacher_views`; `None` remembers nothing.
        data: whose training images it answers to.

    Raises:
        InputError: if it takes more than `MOST_BYTES`.
    """
    if views is None:
        return
    num_images, num_classes = len(data.train), data.num_classes
    num_bytes = views * num_images * num_classes * _BYTES_A_LOGIT
    if num_bytes > MOST_BYTES:
        raise InputError(
            f"teacher_views is {views}, and so many logits of {num_images:,} images for {num_classes:,} classes take "
            f"{num_bytes / 1e9:.1f} GB, but may take {MOST_BYTES / 1e9:.1f}; give fewer, or leave it out"
        )
