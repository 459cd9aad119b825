"""What a trial takes of a card, in a process of its own, as one that has used the card before cannot measure it.

`python tests/trainables/peak_job.py beginning 0 [NAME WIDTH BATCH]` prints as JSON the bytes of the beginning, as a
search measures it; `whole SHARE` in place of `beginning 0` those of a whole short trial that has so much of the card,
by torch alone.
"""

import json
import sys
from dataclasses import asdict

import torch

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.hardware.branches import Branches
from trainables.memory import footprint
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.peak import measure_peak
from trainables.recipe import Recipe
from trainables.trial import CascadeTrial

IMAGES, CLASSES, SIZE = 4096, 10, 32


def noise() -> DataSplits:
    """Images of nothing."""
    pixels = torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    images = ImageSet(images_NCHW=pixels.to(torch.uint8), labels_N=torch.arange(IMAGES) % CLASSES)
    return DataSplits(
        train=images,
        val=images.first(1000),
        mean=(0.5,) * 3,
        std=(0.29,) * 3,
        class_names=tuple(map(str, range(CLASSES))),
    )


def main(what: str, share: str, name: str = "resnet18", width: str = "0.5", batch_size: str = "128") -> None:
    data = noise()
    network = build(ModelConfig(name=name, width=float(width)), num_classes=CLASSES, in_channels=3, seed=0)
    recipe = Recipe(batch_size=int(batch_size), epochs=3, learning_rate=0.01, precision="bf16")
    cascade = CascadeConfig(macs_kept=(0.6, 0.3, 0.1), recipe=recipe)
    if what == "whole":
        Branches.share_of_card = float(share)
        trial = CascadeTrial(network.to("cuda"), config=cascade, data=data.to("cuda"), augmentation="crop-flip")
        list(trial.run())
        found = {"torch_bytes": torch.cuda.max_memory_reserved()}
    else:
        known = footprint(network, data.input_shape, precision=recipe.precision)
        assert known is not None
        least = known.cascade_peak(cascade, num_train=len(data.train), num_val=len(data.val))
        peak = measure_peak(network, cascade, data, augmentation="crop-flip")
        images = data.train.held_bytes + data.val.held_bytes
        found = asdict(peak) | {"num_trials": peak.num_trials, "least_bytes": least + images}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
