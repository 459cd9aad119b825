"""Where channels stand behind a split, a slice, a concatenation or a flatten: read off autograd, which knows shapes.

torch-pruning guesses the sizes, and gives the parts of a split to those who read them as it happens to meet them.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch_pruning import ops

from trainables.pruning.graph import Node, Place, Places, is_product
from trainables.pruning.held import HeldError

Stretch = tuple[range, int]
"""Places of what one operation gives that another reads, and where the first of them stands there."""
Move = Callable[[Iterable[Place]], Places]


def find_move(lower: Node, upper: Node, *, backwards: bool) -> tuple[Move, int] | None:
    """How channels that an operation gives come to stand where another reads them.

    Args:
        lower: the operation that gives them.
        upper: the one that reads them.
        backwards: find where those that `upper` reads stand in `lower` instead.

    Returns:
        What moves places, and how many it makes of one at the most; `None` where neither operation moves channels, or
        a layer that runs several times stands between.

    Raises:
        HeldError: if they stand between constants, whose sizes are not known.
    """
    splits = lower.type == ops.OPTYPE.SPLIT
    if not splits and upper.type not in (ops.OPTYPE.SLICE, ops.OPTYPE.CONCAT, ops.OPTYPE.RESHAPE):
        return None
    reads = upper.grad_fn.next_functions
    ways = [(slot, number) for slot, (before, number) in enumerate(reads) if before is lower.grad_fn]
    if len(ways) != sum(node is upper for node in lower.outputs):
        return None
    if upper.type == ops.OPTYPE.RESHAPE and not splits:
        stride = flattened(upper)
        if stride is None:
            return None
        return (partial(_gathered, stride=stride), 1) if backwards else (partial(_spread, stride=stride), stride)
    stretches = [(_read(lower, number, upper), _offset(upper, slot)) for slot, number in ways]
    return partial(_put_back if backwards else _put, stretches=stretches), len(stretches)


def parts_read(lower: Node) -> list[tuple[range, int]]:
    """Parts of an operation's channels that others read by a split or a slice, each with the number of all of them."""
    if lower.type != ops.OPTYPE.SPLIT and not any(upper.type == ops.OPTYPE.SLICE for upper in lower.outputs):
        return []
    parts = []
    for upper in lower.outputs:
        for before, number in upper.grad_fn.next_functions:
            if before is lower.grad_fn and (lower.type == ops.OPTYPE.SPLIT or upper.type == ops.OPTYPE.SLICE):
                parts.append((_read(lower, number, upper), _width(lower, number)))
    return parts


def is_scale(lower: Node, upper: Node) -> bool:
    """Whether what one operation gives is a single number that another multiplies by: no channels stand there."""
    if not is_product(upper):
        return False
    reads = [_shape(before, number) for before, number in upper.grad_fn.next_functions if before is lower.grad_fn]
    return bool(reads) and all(math.prod(shape) == 1 for shape in reads)


def _put(places: Iterable[Place], *, stretches: Sequence[Stretch]) -> Places:
    return {Place(to + read.index(at), channel) for at, channel in places for read, to in stretches if at in read}


def _put_back(places: Iterable[Place], *, stretches: Sequence[Stretch]) -> Places:
    return {
        Place(read[at - to], channel) for at, channel in places for read, to in stretches if 0 <= at - to < len(read)
    }


def _spread(places: Iterable[Place], *, stride: int) -> Places:
    return {Place(at * stride + offset, channel) for at, channel in places for offset in range(stride)}


def _gathered(places: Iterable[Place], *, stride: int) -> Places:
    return {Place(at // stride, channel) for at, channel in places}


def flattened(node: Node) -> int | None:
    """Pixels of each channel where an operation flattens images; `None` where it does something else."""
    if node.type != ops.OPTYPE.RESHAPE:
        return None
    ((made, number), *_) = node.grad_fn.next_functions
    before, after = _shape(made, number), _shape(node.grad_fn, 0)
    # One channel is none: it may be the height of N x height x width x channels.
    flattens = len(before) == len("NCHW") and len(after) == len("NF") and before[1] > 1
    return math.prod(before[2:]) if flattens and after[1] == math.prod(before[1:]) else None


def _splits_channels(node: Node) -> bool:
    made = node.grad_fn
    return node.type == ops.OPTYPE.SPLIT and _is_along_channels(made._saved_dim, _shape(made, 0))


def _width(node: Node, number: int) -> int:
    """Places of a node, of which its output of this number holds a part."""
    outputs = range(len(node.grad_fn._input_metadata)) if _splits_channels(node) else [number]
    return sum(_channels(_shape(node.grad_fn, output)) for output in outputs)


def _read(lower: Node, number: int, upper: Node) -> range:
    """Places of a node that another one reads of its output of this number."""
    shape = _shape(lower.grad_fn, number)
    first = 0
    if _splits_channels(lower):
        first = sum(_channels(_shape(lower.grad_fn, output)) for output in range(number))
    places = range(first, first + _channels(shape))
    made = upper.grad_fn
    if upper.type == ops.OPTYPE.SLICE and _is_along_channels(made._saved_dim, shape):
        return places[_signed(made._saved_start) : _signed(made._saved_end) : made._saved_step]
    return places


def _offset(upper: Node, slot: int) -> int:
    """Where the tensor that a node reads at this slot begins in it, which is 0 but for concatenations.

    Raises:
        HeldError: if a constant stands before it and another behind.
    """
    made = upper.grad_fn
    whole = _shape(made, 0)
    if upper.type != ops.OPTYPE.CONCAT or not _is_along_channels(made._saved_dim, whole):
        return 0
    sizes = [None if before is None else _channels(_shape(before, number)) for before, number in made.next_functions]
    before, behind = sizes[:slot], sizes[slot:]
    if None not in before:
        return sum(size for size in before if size is not None)
    if None not in behind:
        return _channels(whole) - sum(size for size in behind if size is not None)
    raise HeldError(
        "torch.cat puts them between what no layer gives, such as the image or coordinates; put all of that before or "
        "behind them"
    )


def _shape(made: Any, number: int) -> Sequence[int]:  # noqa: ANN401
    shape: Sequence[int] = made._input_metadata[number].shape
    return shape


def _channels(shape: Sequence[int]) -> int:
    return shape[_axis(shape)]


def _axis(shape: Sequence[int]) -> int:
    """Of channels: the last of N x places x channels, else the second."""
    return len(shape) - 1 if len(shape) in (len("C"), len("NLC")) else 1


def _is_along_channels(dim: int, shape: Sequence[int]) -> bool:
    return _signed(dim) % len(shape) == _axis(shape)


def _signed(number: int) -> int:
    """Autograd keeps numbers without their sign."""
    return (number + 2**63) % 2**64 - 2**63
