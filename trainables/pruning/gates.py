"""Where a group's gate stands: behind the last layers from which zeros travel to all that read the group's channels.

The gate multiplies what these layers give. At zero it must leave of a channel exactly what its removal leaves, nothing;
only then do the gate's gradient and the removal speak of the same thing. So the search goes backwards from the layers
that read the channels. It ends at a normalisation, convolution or linear layer. A sum or concatenation is silent once
all of it is; a product once one of its factors is, so that the factor of a squeeze-excitation needs no gate; nothing is
silent behind a function that is not zero at zero.
"""

import re
from collections.abc import Collection

from torch import nn
from torch_pruning import ops

from trainables.pruning.channels import LAYERS
from trainables.pruning.graph import Node, is_product

_SUM = re.compile(r"\((Add|Sub|Rsub)Backward\d")
# Autograd's names of functions that are not zero at zero.
_LIFTS_ZERO = re.compile(
    r"\((Sigmoid|Hardsigmoid|LogSigmoid|Softplus|Softmax|LogSoftmax|Exp|Exp2|Cos|Cosh|Acos|Log|Log2|Log10|Rsqrt"
    r"|Reciprocal|Erfc)Backward\d"
)


def find_gates(node: Node, within: Collection[Node]) -> frozenset[nn.Module] | None:
    """Layers whose gates silence what a node reads of a group.

    Args:
        node: of a layer that reads the group's channels.
        within: all nodes that give the group's channels on.

    Returns:
        The layers, or `None` where no gates can.
    """
    return _all_silent(node, within, {})


def _all_silent(
    node: Node, within: Collection[Node], found: dict[Node, frozenset[nn.Module] | None]
) -> frozenset[nn.Module] | None:
    """Gates that silence every input of a node."""
    gates: frozenset[nn.Module] = frozenset()
    for following in node.inputs:
        if following in within:  # other parts of a concatenation belong to other groups
            silent = _silent(following, within, found)
            if silent is None:
                return None
            gates |= silent
    return gates


def _silent(
    node: Node, within: Collection[Node], found: dict[Node, frozenset[nn.Module] | None]
) -> frozenset[nn.Module] | None:
    """Gates that silence what a node gives; none do where none of the group's channels come to it."""
    if node not in within:
        return None
    if isinstance(node.module, LAYERS) and not isinstance(node.module, nn.PReLU):
        return frozenset({node.module})
    if node not in found:
        found[node] = None  # of a loop, as a layer that runs twice makes
        lone = len(node.inputs) == 1
        if is_product(node) and not lone:
            factors = (_silent(factor, within, found) for factor in node.inputs)
            found[node] = next((gates for gates in factors if gates is not None), None)
        elif not _LIFTS_ZERO.search(node.name) and not _has_more(node, within):
            found[node] = _all_silent(node, within, found)
    return found[node]


def _has_more(node: Node, within: Collection[Node]) -> bool:
    """Whether an operation gives what no channel of the group brings: it reads none of them, or something else too."""
    come = [following in within for following in node.inputs]
    if len(come) == 1 and _SUM.search(node.name):
        return True  # a number is added
    if node.type == ops.OPTYPE.CONCAT:  # other parts belong to other groups
        return not any(come)
    return not all(come)
