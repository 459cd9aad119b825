"""The graph of a forward pass, by torch-pruning: which operation reads which.

Of torch-pruning only the graph is used: not its importances, which pass over batch norm; not its pruners; not its walk
over the graph, which does not end on some networks; nor where it takes channels to stand behind a split or a
concatenation (`moves`).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch_pruning
from torch import nn
from torch.overrides import TorchFunctionMode

from trainables.errors import InputError, first_line
from trainables.pruning.channels import LAYERS

Node = Any
"""torch-pruning's: `module`, `grad_fn`, the nodes that it reads (`inputs`) and that read it (`outputs`), and
`dependencies`."""

_ADDITIONS = (torch.add, torch.Tensor.add, torch.Tensor.add_)
_RESHAPES = (
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.Tensor.unflatten,
    torch.Tensor.flatten,
    torch.reshape,
    torch.unflatten,
    torch.flatten,
)
_DEALT = "_DealtBackward"
_PRODUCT = "MulBackward"


class Place(NamedTuple):
    """A position along one axis of a node, and the channel that stands there; the names are torch-pruning's."""

    idx: int
    root_idx: int


Places = set[Place]


def dependency_graph(network: nn.Module, example: torch.Tensor) -> Mapping[nn.Module, Node]:
    """Nodes of all operations and layers that a forward pass runs, from the scores backwards.

    Raises:
        InputError: if torch-pruning cannot follow it.
    """
    graph = torch_pruning.DependencyGraph()
    untraceable = f"the channels of this {type(network).__name__} cannot be traced"
    try:
        with warnings.catch_warnings(action="ignore"), _Followable():  # warnings on bare parameters, which are held
            graph.build_dependency(network, example)
    except Exception as error:  # torch-pruning fails in many ways on what it does not know
        # Once its nodes are there it only guesses places. Most are found without (`moves`); others break a contract.
        if not hasattr(graph, "module2node"):
            raise InputError(
                f"{untraceable} ({first_line(error)}); its forward pass must consist of ordinary layers on one image "
                "tensor"
            ) from error
    nodes: Mapping[nn.Module, Node] = graph.module2node
    if not any(isinstance(module, LAYERS) for module in nodes):
        raise InputError(
            f"{untraceable}: no gradient comes from the scores to a layer; leave torch.no_grad and detach out of its "
            "forward pass"
        )
    return nodes


class _Followable(TorchFunctionMode):
    """Puts into the graph what can be followed of some operations.

    Additions of the number zero are left out, as the graph does not know numbers: Python's `sum` begins so. Where a
    reshape deals channels into rows, or makes channels of rows, as in a shuffle or for the heads of an attention, the
    graph says so.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if function in _ADDITIONS and not kwargs and type(args[1]) in (int, float) and args[1] == 0:
            there = args[0]
            if isinstance(there, torch.Tensor) and there.is_floating_point():  # others change their type
                return there if function is torch.Tensor.add_ else there.clone()
        result = function(*args, **kwargs or {})
        if function in _RESHAPES:
            images = args[0] if args else (kwargs or {})["input"]
            if _deals_axis(images.shape, result.shape):
                return _Dealt.apply(images, result.shape)
        return result


class _Dealt(torch.autograd.Function):
    """A reshape that deals channels into rows, or makes channels of rows; in the graph it has this name."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, shape: torch.Size) -> torch.Tensor:  # noqa: ANN401, ARG004
        return images.reshape(shape).clone()  # not a view, which nothing could change in place

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> None:  # noqa: ANN401
        raise AssertionError("the graph is read, not run")


def _deals_axis(before: torch.Size, after: torch.Size) -> bool:
    """Whether one axis, that of images' or of tokens' channels as a rule, becomes several, or several that one."""
    few, many = sorted((before, after), key=len)
    match len(few), len(many):
        case 4, 5:  # N x channels x height x width
            axis = 1
        case 3, 5:  # N x tokens x channels, of which an attention makes queries, keys and values of several heads
            axis = 2
        case _:
            return False
    behind = len(few) - axis - 1
    rows = many[axis : len(many) - behind]
    alike = many[:axis] == few[:axis] and many[len(many) - behind :] == few[axis + 1 :]
    return alike and sum(row > 1 for row in rows) > 1 and rows.numel() == few[axis]


def is_dealing(node: Node) -> bool:
    """Whether an operation deals an axis, which may be that of channels, into rows, or makes it of rows."""
    named: str = node.grad_fn.name()
    return named == _DEALT


def is_product(node: Node) -> bool:
    """Whether an operation multiplies what it reads, element by element."""
    named: str = node.grad_fn.name()
    return named.startswith(_PRODUCT)
