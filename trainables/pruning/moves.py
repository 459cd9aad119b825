"""Where channels stand behind a split, a slice, a concatenation or a reshape: read off the shapes that autograd keeps.

torch-pruning guesses the sizes, and gives the parts of a split to those who read them as it happens to meet them.
"""

import math
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial

from torch_pruning import ops

from trainables.pruning.graph import Node, Place, Places, is_product
from trainables.pruning.held import HeldError
from trainables.pruning.layouts import Layouts, Operation, Shape, signed

Stretch = tuple[range, int]
"""Places of what one operation gives that another reads, and where the first of them stands there."""
Move = Callable[[Iterable[Place]], Places]


class Moves:
    """Finds how channels move between operations of one graph."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._layouts = Layouts()
        self._stretches: dict[tuple[Node, Node], Sequence[Stretch] | None] = {}
        self._starts: dict[Node, Sequence[int]] = {}
        self._slots: dict[Node, Sequence[range | None]] = {}
        self._given: dict[Node, frozenset[int]] = {}

    def find(self, lower: Node, upper: Node, *, backwards: bool) -> tuple[Move, int] | None:
        """How channels that an operation gives come to stand where another reads them.

        Args:
            lower: the operation that gives them.
            upper: the one that reads them.
            backwards: find where those that `upper` reads stand in `lower` instead.

        Returns:
            What moves places, on all ways between the two, and how many it makes of one at the most; `None` where
            neither operation is known to move channels, or one is a layer that runs several times.

        Raises:
            HeldError: if they stand between constants, whose sizes are not known.
        """
        stride = self.stride(upper)
        if stride is not None:
            spreads = (stride > 0) != backwards
            return partial(_spread if spreads else _gathered, stride=abs(stride)), abs(stride) if spreads else 1
        stretches = self._stretches_between(lower, upper)
        if stretches is None:
            return None
        if backwards:
            return partial(_put_back, stretches=stretches, given=self._given_to(upper)), len(stretches)
        return partial(_put, stretches=stretches, width=self._starts_of(lower)[-1]), len(stretches)

    def parts_read(self, lower: Node) -> list[tuple[range, int]]:
        """Parts of its channels that others read by a split or a slice, each with the number of all of them."""
        parts: list[tuple[range, int]] = []
        for upper in dict.fromkeys(lower.outputs):
            if lower.type == ops.OPTYPE.SPLIT or upper.type == ops.OPTYPE.SLICE:
                stretches = self._stretches_between(lower, upper) or ()
                parts += [(read, self._starts_of(lower)[-1]) for read, _ in stretches]
        return parts

    def deals(self, node: Node) -> bool:
        """Whether a reshape that deals an axis into rows, or makes an axis of rows, does so with the channels."""
        ((made, number), *_) = node.grad_fn.next_functions
        before, after = self._layouts.shapes(made)[number], self._layouts.shapes(node.grad_fn)[0]
        first = next(axis for axis, (one, other) in enumerate(zip(before, after, strict=False)) if one != other)
        rows = max(len(before) - len(after), 0) + 1
        return first <= self._layouts.channel_axis(made) < first + rows

    def stride(self, node: Node) -> int | None:
        """Pixels of each channel where a reshape flattens images, negative where it makes images of such a row.

        It is 1 where channels stay where they are, and `None` where they do something else.
        """
        if node.type != ops.OPTYPE.RESHAPE:
            return None
        ((made, number), *_) = node.grad_fn.next_functions
        if not hasattr(made, "_input_metadata"):
            return None
        before: Shape = self._layouts.shapes(made)[number]
        after: Shape = self._layouts.shapes(node.grad_fn)[0]
        if self._layouts.channel_axis(made) != 1 or min(len(before), len(after)) < len("NC") or before[0] != after[0]:
            return None
        if before[1] == after[1]:
            return 1
        if len(after) == len("NC") and after[1] == math.prod(before[1:]) and before[1] > 1:
            return math.prod(before[2:])
        if len(before) == len("NC") and len(after) == len("NCHW") and before[1] == math.prod(after[1:]):
            return -math.prod(after[2:])
        return None

    def is_scale(self, lower: Node, upper: Node) -> bool:
        """Whether what one operation gives is a single number that another multiplies by: no channels stand there."""
        if not is_product(upper):
            return False
        reads = [number for before, number in upper.grad_fn.next_functions if before is lower.grad_fn]
        return bool(reads) and all(math.prod(self._layouts.shapes(lower.grad_fn)[number]) == 1 for number in reads)

    def _stretches_between(self, lower: Node, upper: Node) -> Sequence[Stretch] | None:
        if (lower, upper) not in self._stretches:
            self._stretches[lower, upper] = self._read_stretches(lower, upper)
        return self._stretches[lower, upper]

    def _read_stretches(self, lower: Node, upper: Node) -> Sequence[Stretch] | None:
        splits = _is(lower, ops.OPTYPE.SPLIT)
        if not splits and not _is(upper, ops.OPTYPE.SLICE) and not _is(upper, ops.OPTYPE.CONCAT):
            return None
        reads = upper.grad_fn.next_functions
        ways = [(slot, number) for slot, (before, number) in enumerate(reads) if before is lower.grad_fn]
        if len(ways) != sum(node is upper for node in lower.outputs):
            return None
        stretches = []
        for slot, number in ways:
            there = self._slots_of(upper)[slot] if _is(upper, ops.OPTYPE.CONCAT) else range(1)
            if there is None:
                raise HeldError(
                    "torch.cat puts them between what no layer gives, such as the image or coordinates; put all of "
                    "that before or behind them"
                )
            stretches.append((self._part(lower, number, upper), there.start))
        return stretches

    def _part(self, lower: Node, number: int, upper: Node) -> range:
        """Places of a node that another one reads of its output of this number."""
        starts = self._starts_of(lower)
        part = min(number, len(starts) - 2)
        places = range(starts[part], starts[part + 1])
        made = upper.grad_fn
        if _is(upper, ops.OPTYPE.SLICE) and self._layouts.is_along_channels(made):
            return places[signed(made._saved_start) : signed(made._saved_end) : made._saved_step]
        return places

    def _starts_of(self, node: Node) -> Sequence[int]:
        """Where the parts of a split begin, and its end; of any other operation 0 and its channels."""
        if node not in self._starts:
            made = node.grad_fn
            splits = _is(node, ops.OPTYPE.SPLIT) and self._layouts.is_along_channels(made)
            starts = [0]
            for number in range(len(self._layouts.shapes(made)) if splits else 1):
                starts.append(starts[-1] + self._layouts.width(made, number))
            self._starts[node] = starts
        return self._starts[node]

    def _given_to(self, node: Node) -> Container[int] | None:
        """Places that an operation reads of layers, and not of constants; `None` for any."""
        if _is(node, ops.OPTYPE.SLICE):
            return range(self._layouts.width(node.grad_fn, 0))
        if not _is(node, ops.OPTYPE.CONCAT):
            return None
        if node not in self._given:
            self._given[node] = frozenset(place for slot in self._slots_of(node) if slot is not None for place in slot)
        return self._given[node]

    def _slots_of(self, join: Node) -> Sequence[range | None]:
        """Where in a concatenation each of its tensors stands; `None` of constants and of what is between these."""
        if join not in self._slots:
            self._slots[join] = self._read_slots(join.grad_fn)
        return self._slots[join]

    def _read_slots(self, made: Operation) -> Sequence[range | None]:
        axis = self._layouts.channel_axis(made)
        sizes = [
            None if before is None else self._layouts.shapes(before)[number][axis]
            for before, number in made.next_functions
        ]
        if not self._layouts.is_along_channels(made):
            return [None if size is None else range(size) for size in sizes]
        slots: list[range | None] = [None] * len(sizes)
        at = 0
        for slot, size in enumerate(sizes):
            if size is None:
                break
            slots[slot] = range(at, at + size)
            at += size
        at = self._layouts.shapes(made)[0][axis]
        for slot, size in reversed([*enumerate(sizes)]):
            if size is None:
                break
            slots[slot] = range(at - size, at)
            at -= size
        return slots


def _is(node: Node, kind: int) -> bool:
    """Whether a node is of a kind of torch-pruning's, and truly; a user's own may have such a name."""
    return node.type == kind and hasattr(node.grad_fn, "_saved_dim")


def _put(places: Iterable[Place], *, stretches: Sequence[Stretch], width: int) -> Places:
    come = max((at for at, _ in places), default=-1) + 1
    if come > width:
        raise HeldError(f"as traced, {come} channels come to a tensor of {width}, so where they stand is not known")
    return {Place(to + read.index(at), channel) for at, channel in places for read, to in stretches if at in read}


def _put_back(places: Iterable[Place], *, stretches: Sequence[Stretch], given: Container[int] | None) -> Places:
    if given is not None and any(at not in given for at, _ in places):
        raise HeldError("torch.cat puts what no layer gives, such as zeros, where they are added")
    return {
        Place(read[at - to], channel) for at, channel in places for read, to in stretches if 0 <= at - to < len(read)
    }


def _spread(places: Iterable[Place], *, stride: int) -> Places:
    return {Place(at * stride + offset, channel) for at, channel in places for offset in range(stride)}


def _gathered(places: Iterable[Place], *, stride: int) -> Places:
    return {Place(at // stride, channel) for at, channel in places}
