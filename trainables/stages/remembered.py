"""What a frozen network says of the batches of a few epochs, remembered while later epochs draw these batches again.

Of small levels the teacher's forward pass is most of the work, and its answer to the same images is the same. Shen &
Xing 2022 (A Fast Knowledge Distillation Framework for Visual Recognition) keep a teacher's answers to some crops of
each image for that reason.

Shape legend: V epochs whose batches are seen, B batches of an epoch, N images of a batch, K classes.
"""

from collections.abc import Callable

import torch

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.plan import stage_plans

# Beside the images, on the device, for each trial.
MOST_BYTES = 2 << 30
_BYTES_A_LOGIT = 4


class RememberedLogits:
    """Logits of a rank's images in each batch of some epochs, kept on the device from when they are first asked for.

    A stage that goes on from a checkpoint finds none and asks again; the answer is the same.
    """

    def __init__(self, *, num_views: int, num_batches: int) -> None:
        """Prepare it; memory is taken at the first answer, for all of them.

        Args:
            num_views: epochs whose batches are seen.
            num_batches: of each epoch; all are of one size.
        """
        self._num_views = num_views
        self._num_batches = num_batches
        self._known: set[tuple[int, int]] = set()  # view and place of a batch
        self._logits_VBNK = torch.empty(0)

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
        batch = self.view(epoch), place
        if batch not in self._known:
            logits_NK = ask()
            if not self._known:
                self._logits_VBNK = logits_NK.new_empty((self._num_views, self._num_batches, *logits_NK.shape))
            self._logits_VBNK[batch] = logits_NK
            self._known.add(batch)
        return self._logits_VBNK[batch]


def num_views(config: CascadeConfig, epochs: int) -> int | None:
    """Of how many epochs a stage remembers what the frozen network says; `None` where it asks for nothing twice.

    Args:
        config: of the whole cascade.
        epochs: of the stage.
    """
    views = config.teacher_views
    return None if views is None or views >= epochs or config.distillation_weight == 0.0 else views


def remembered_bytes(config: CascadeConfig, data: DataSplits) -> int:
    """Bytes of logits that all ranks of a trial hold together, in the stage that remembers; 0 where none does."""
    views = max(num_views(config, plan.epochs) or 0 for plan in stage_plans(config))
    return views * len(data.train) * data.num_classes * _BYTES_A_LOGIT


def require_room_for_logits(config: CascadeConfig, data: DataSplits) -> None:
    """Check that what is remembered of a network's answers is no larger than should lie beside the images.

    Args:
        config: of the whole cascade, a stage of which may remember.
        data: whose training images are answered to.

    Raises:
        InputError: if it takes more than `MOST_BYTES`.
    """
    num_bytes = remembered_bytes(config, data)
    if num_bytes > MOST_BYTES:
        raise InputError(
            f"teacher_views is {config.teacher_views}, and so many logits of {len(data.train):,} images for "
            f"{data.num_classes:,} classes take {num_bytes / 1e9:.1f} GB, but may take {MOST_BYTES / 1e9:.1f}; give "
            "fewer, or leave it out"
        )
