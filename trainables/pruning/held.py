"""Why channels stay whole: class scores do, and what stands in layers that cannot be narrowed or are left alone."""

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch_pruning import ops

from trainables.errors import InputError
from trainables.networks.models import shared_parameters
from trainables.pruning.channels import BATCH_NORMS, LAYERS, is_grouped, matches
from trainables.pruning.graph import Node

CLASS_SCORES = "its outputs are the class scores"
"""Why the channels of the last layer are held."""
_AS_ASKED = "is kept as asked"
_MOST_REASONS = 3
_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class HeldError(Exception):
    """These channels stay whole; the message says why.

    Attributes:
        among: nodes that give such channels, as far as they were followed.
    """

    def __init__(self, reason: str, among: Iterable[Node] = ()) -> None:
        """Say why."""
        super().__init__(reason)
        self.among = frozenset(among)


def layers_left_alone(network: nn.Module, keep: Iterable[str]) -> dict[str, str]:
    """Names of layers that are not narrowed whatever they are, and why.

    Args:
        network: any.
        keep: names, names of parts that hold layers, or patterns.

    Raises:
        InputError: if one of these means no layer that could be narrowed.
    """
    return _sharing(network) | dict.fromkeys(_asked(network, keep), _AS_ASKED)


def _sharing(network: nn.Module) -> dict[str, str]:
    """Layers whose parameters other layers have, too, and whose these are: narrowed, each would have its own."""
    sharing: dict[str, str] = {}
    for names in shared_parameters(network):
        layer, other = (name.rpartition(".")[0] for name in names)
        if layer != other:
            sharing |= {layer: f"shares its weights with {other}", other: f"shares its weights with {layer}"}
    return sharing


def _asked(network: nn.Module, keep: Iterable[str]) -> set[str]:
    layers = [name for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
    asked: set[str] = set()
    for pattern in keep:
        found = {layer for layer in layers if matches(layer, pattern)}
        if not found and any(matches(name, pattern) for name, _ in network.named_modules() if name):
            raise InputError(
                f"cascade.pruning.keep has {pattern!r}, but no layer there can be narrowed: it stays whole as it is; "
                "leave it out"
            )
        if not found:
            raise InputError(
                f"cascade.pruning.keep has {pattern!r}, but no layer is called so; layers are {', '.join(layers[:3])} …"
            )
        asked |= found
    return asked


def require_narrowable(node: Node, names: Mapping[nn.Module, str], left_alone: Mapping[str, str]) -> None:
    """Hold channels that come to what cannot be narrowed.

    Args:
        node: that they come to.
        names: of layers.
        left_alone: as `layers_left_alone` gives it.

    Raises:
        HeldError: naming it.
    """
    module = node.module
    if node.type == ops.OPTYPE.PARAMETER:
        raise HeldError(
            "it reaches a bare parameter, which cannot be narrowed; wrap it in a layer, or multiply by single numbers "
            "of it"
        )
    if node.type == ops.OPTYPE.OUTPUT:
        raise HeldError("its channels are among what the network returns")
    if module not in names:
        return  # an operation without weights
    if names[module] in left_alone:
        raise HeldError(f"layer {names[module]} {left_alone[names[module]]}")
    if not isinstance(module, LAYERS):
        raise HeldError(f"layer {names[module]} is a {type(module).__name__}, which cannot be narrowed")
    if isinstance(module, BATCH_NORMS) and not module.affine:
        raise HeldError(f"layer {names[module]} is a batch norm without scale and shift, which gives no saliency")
    if is_grouped(module) and _reads_the_image(node):
        raise HeldError(f"layer {names[module]} reads the image's own channels in groups, which stay as many")
    if is_parametrized(module):
        raise HeldError(
            f"layer {names[module]} computes its weights by a parametrization, which cannot be narrowed; "
            "torch.nn.utils.parametrize.remove_parametrizations makes them plain"
        )
    own = [name for name in (*module._parameters, *module._buffers) if name not in _TENSORS]
    if own:
        raise HeldError(
            f"layer {names[module]} is a {type(module).__name__} with a tensor {own[0]!r} that nobody knows how to "
            "narrow it; put it into a module of its own"
        )


def _reads_the_image(node: Node) -> bool:
    """Whether nothing that gives channels anew stands between the image and a layer."""
    seen, waiting = {node}, [node]
    while waiting:
        here = waiting.pop()
        if not here.inputs and isinstance(here.module, LAYERS):  # any other that reads nothing is of a weight
            return True
        for before in here.inputs:
            if before not in seen and not isinstance(before.module, nn.Conv2d | nn.Linear):
                seen.add(before)
                waiting.append(before)
    return False


def first_reasons(held: Mapping[str, str]) -> str:
    """The first reasons why nothing is left, and the mend of those that the user gave."""
    reasons = [f"{layer}: {reason}" for layer, reason in held.items() if reason != CLASS_SCORES]
    if not reasons:
        return "".join(f"; {layer}: {reason}" for layer, reason in held.items())
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    asked = any(reason.endswith(_AS_ASKED) for reason in held.values())
    mend = "; cascade.pruning.keep leaves none: change what stands between its layers instead" if asked else ""
    return "".join(f"; {reason}" for reason in reasons[:_MOST_REASONS]) + more + mend
