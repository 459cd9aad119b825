"""Which classes have no images in a part, or all of them, which who trusts its accuracy should know."""

from collections.abc import Iterator, Sequence

import torch

from orchestrator.words import counted, printable
from trainables.datasets.data import DataSplits
from trainables.errors import InputError

_NAMED = 5  # of the classes, the first
_FEW = 2  # images a class; with fewer, one image more or less that is right decides between networks


def require_differences(data: DataSplits) -> None:
    """Check that there is something to tell apart.

    Raises:
        InputError: if all training images have the same classes.
    """
    labels = data.train.labels_N
    if not (labels == labels[0]).all():
        return
    if labels.ndim == 1:
        raise InputError(
            f"all {len(labels)} training images are of the class {data.class_names[int(labels[0])]}, so that there is "
            "nothing to learn; give images of the others"
        )
    raise InputError(
        f"all {len(labels)} training images have the same labels ({int(labels[0].sum())} of {len(labels[0])} classes), "
        "so that there is nothing to learn; a list of labels holds the numbers of the classes that the image has, and "
        "not a 0 or a 1 for each class"
    )


def class_notes(data: DataSplits) -> Iterator[str]:
    """What people should know of the classes before they wait for a search."""
    mend = "add some to the validation images, or raise data.val_fraction where they are held out"
    names, num_images = data.class_names, len(data.val)
    trained_K = _images_K(data.train.labels_N, len(names))
    yield from unseen_notes(trained_K, names)
    yield from _unlearnt_notes("all training images show", len(data.train), trained_K, names)
    missing = _with(0, _images_K(data.val.labels_N, len(names)), names)
    if missing:
        yield (
            f"validation has no images of {named(missing, len(names))}, so networks are chosen without regard to "
            f"{'it' if len(missing) == 1 else 'them'}; {mend}"
        )
    if num_images < _FEW * len(names):
        yield (
            f"validation has {counted(num_images, 'image')} for {len(names)} classes, so that "
            f"accuracies differ by steps of {100 / num_images:.2g} points and say little; {mend}"
        )


def unseen_notes(images_K: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """What people should know of classes that no training image shows.

    Args:
        images_K: training images of each class.
        names: of the classes.
    """
    yield from _unlearnt_notes("no training image shows", 0, images_K, names)


def _unlearnt_notes(what: str, number: int, images_K: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    which = _with(number, images_K, names)
    if which:
        yield f"{what} {named(which, len(names))}, which cannot be learnt so"


def named(classes: Sequence[str], num_classes: int) -> str:
    """Some of so many classes, for people: the first of them by name."""
    more = ", …" if len(classes) > _NAMED else ""
    return f"{len(classes)} of {num_classes} classes ({', '.join(map(printable, classes[:_NAMED]))}{more})"


def _with(number: int, images_K: Sequence[int], names: Sequence[str]) -> list[str]:
    """Classes that have so many images."""
    return [name for name, images in zip(names, images_K, strict=True) if images == number]


def _images_K(labels: torch.Tensor, num_classes: int) -> list[int]:
    """Images of each class."""
    counts_K = labels.sum(0) if labels.ndim == 2 else torch.bincount(labels, minlength=num_classes)
    counts: list[int] = counts_K.tolist()
    return counts
