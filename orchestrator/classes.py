"""Which classes have no images in a part, which who trusts its accuracy should know."""

from collections.abc import Iterator, Sequence

import torch

from trainables.data import DataSplits

_NAMED = 5  # of the classes, the first
_FEW = 2  # images a class; with fewer, one image more or less that is right decides between networks


def class_notes(data: DataSplits) -> Iterator[str]:
    """What people should know of the classes before they wait for a search."""
    mend = "add some to the validation images, or raise data.val_fraction where they are held out"
    names, num_images = data.class_names, len(data.val)
    missing = [name for name, images in zip(names, _images_K(data.val.labels_N, len(names)), strict=True) if not images]
    if missing:
        yield (
            f"validation has no images of {named(missing, len(names))}, so networks are chosen without regard to "
            f"{'it' if len(missing) == 1 else 'them'}; {mend}"
        )
    if num_images < _FEW * len(names):
        yield (
            f"validation has {num_images} image{'' if num_images == 1 else 's'} for {len(names)} classes, so that "
            f"accuracies differ by steps of {100 / num_images:.2g} points and say little; {mend}"
        )


def named(classes: Sequence[str], num_classes: int) -> str:
    """Some of so many classes, for people: the first of them by name."""
    more = ", …" if len(classes) > _NAMED else ""
    return f"{len(classes)} of {num_classes} classes ({', '.join(classes[:_NAMED])}{more})"


def _images_K(labels: torch.Tensor, num_classes: int) -> list[int]:
    """Images of each class."""
    counts_K = labels.sum(0) if labels.ndim == 2 else torch.bincount(labels, minlength=num_classes)
    counts: list[int] = counts_K.tolist()
    return counts
