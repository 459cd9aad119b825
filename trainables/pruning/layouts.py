"""Shapes of what operations give, and along which axis their channels stand, as autograd keeps them."""

from collections.abc import Sequence
from typing import Any

Operation = Any
"""Autograd's node of an operation, its `grad_fn`."""
Shape = tuple[int, ...]

_GIVING = ("Convolution", "Addmm", "Linear", "Mm", "Bmm")
"""Operations that give channels of their own, by how autograd's names for them begin."""


class Layouts:
    """Knows those of one graph; it remembers what was asked, as autograd makes the shapes anew each time."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._shapes: dict[Operation, Sequence[Shape]] = {}
        self._axes: dict[Operation, int] = {}

    def shapes(self, made: Operation) -> Sequence[Shape]:
        """Of all that an operation gives."""
        if made not in self._shapes:
            self._shapes[made] = [tuple(output.shape) for output in made._input_metadata]
        return self._shapes[made]

    def channel_axis(self, made: Operation) -> int:
        """Axis of the channels in what an operation gives.

        It is the second where a convolution gives them and the last where a linear layer does, and goes where
        permutations put it and reshapes leave it. Where it cannot be known it is taken to be the last of three axes, as
        of tokens, else the second.
        """
        below: list[tuple[Operation, tuple[Operation, int]]] = []
        here = made
        while here not in self._axes:
            read = self._first_read(here)
            if read is None:
                self._axes[here] = self._own_axis(here)
                break
            below.append((here, read))
            here = read[0]
        for upper, (lower, number) in reversed(below):
            self._axes[upper] = self._carried(upper, self.shapes(lower)[number], self._axes[lower])
        return self._axes[made]

    def width(self, made: Operation, number: int) -> int:
        """Channels of what an operation gives as its output of this number; 1 where it has no such axis."""
        shape, axis = self.shapes(made)[number], self.channel_axis(made)
        return shape[axis] if axis < len(shape) else 1

    def is_along_channels(self, made: Operation) -> bool:
        """Whether an operation splits, slices or joins along the channels."""
        return signed(made._saved_dim) % len(self.shapes(made)[0]) == self.channel_axis(made)

    def _first_read(self, made: Operation) -> tuple[Operation, int] | None:
        """What an operation reads, with as many axes if there is such; `None` where channels are given anew."""
        if made.name().startswith(_GIVING):
            return None
        reads = [
            (before, number)
            for before, number in made.next_functions
            if before is not None
            and not before.name().endswith("AccumulateGrad")
            and hasattr(before, "_input_metadata")
        ]
        num_axes = len(self.shapes(made)[0])
        alike = [(before, number) for before, number in reads if len(self.shapes(before)[number]) == num_axes]
        return next(iter([*alike, *reads]), None)

    def _own_axis(self, made: Operation) -> int:
        num_axes = len(self.shapes(made)[0])
        return 1 if made.name().startswith("Convolution") else num_axes - 1 if _is_giving(made) else _usual(num_axes)

    def _carried(self, made: Operation, before: Shape, axis: int) -> int:
        """Where an operation leaves the axis of what it reads."""
        after, name = self.shapes(made)[0], made.name()
        if name.startswith("Permute"):
            return [signed(dim) % len(before) for dim in made._saved_dims].index(axis)
        if name.startswith("Transpose"):
            one, other = (signed(dim) % len(before) for dim in (made._saved_dim0, made._saved_dim1))
            return {one: other, other: one}.get(axis, axis)
        behind = len(before) - axis
        if len(after) == len(before) or before[: axis + 1] == after[: axis + 1]:
            return axis
        return len(after) - behind if before[axis:] == after[-behind:] else _usual(len(after))


def _is_giving(made: Operation) -> bool:
    named: bool = made.name().startswith(_GIVING)
    return named


def _usual(num_axes: int) -> int:
    return num_axes - 1 if num_axes in (len("C"), len("NLC")) else 1


def signed(number: int) -> int:
    """Autograd keeps numbers without their sign."""
    return (number + 2**63) % 2**64 - 2**63
