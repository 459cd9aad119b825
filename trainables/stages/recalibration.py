"""Batch-norm statistics of a network whose weights are done, measured anew."""

import itertools

import torch
from torch import nn

from trainables.datasets.data import DataSplits, training_batches
from trainables.hardware.ranks import ALONE, Ranks
from trainables.hardware.whole_batch import whole_batch
from trainables.pruning.channels import BATCH_NORMS
from trainables.seeds import derive_seed

# Batches that statistics are measured on where an average of weights is validated in the midst of training.
CALIBRATION_BATCHES = 16


@torch.no_grad()
def recalibrate(  # noqa: PLR0913
    network: nn.Module,
    data: DataSplits,
    *,
    batch_size: int,
    seed: int,
    max_batches: int | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Measure batch-norm statistics anew: cumulative averages over shuffled training images, weights frozen.

    Statistics of the batch must be used while they are measured (train mode), or each layer would be calibrated
    behind an uncalibrated one (Yu & Huang 2019). Other layers stay in evaluation mode.

    Args:
        network: changed in place.
        data: gives the training images.
        batch_size: images a batch.
        seed: of their order.
        max_batches: at most so many batches; a whole pass where it is left out, less an incomplete last batch.
        ranks: who share each batch.
    """
    network.eval()
    norms = [layer for layer in network.modules() if isinstance(layer, BATCH_NORMS) and layer.track_running_stats]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    batches = training_batches(
        data.train,
        mean=data.mean,
        std=data.std,
        batch_size=batch_size,
        augmentation="none",
        generator=torch.Generator().manual_seed(derive_seed(seed, "recalibration")),
    )
    for images, _ in itertools.islice(batches, max_batches):
        with whole_batch(ranks, len(images)):
            network(images[ranks.part(len(images))])
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
