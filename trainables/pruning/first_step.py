"""One training step of a network before it is pruned: whether it has a finite loss and tells channels apart."""

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trainables.errors import InputError, first_line
from trainables.hardware.convolutions import cpu_convolutions
from trainables.networks.models import computed_attribute
from trainables.pruning.channels import BATCH_NORMS, ChannelMap, skeleton
from trainables.pruning.saliency import CRITERIA, SaliencyMeter, fault_of, find_criterion, gate_gradient
from trainables.pruning.tracing import run_skeleton

_OF_THE_NETWORK = re.compile("in-?place|derivative|does not require grad")  # and not of the machine, as its memory


def take_step(
    network: nn.Module, channel_map: ChannelMap, images_NCHW: torch.Tensor, criteria: Sequence[str]
) -> tuple[str, ...]:
    """Run a network forward and backward, as in training but for dropout, and ask the user's own criteria for scores.

    Args:
        network: on the CPU; left as it is.
        channel_map: its groups.
        images_NCHW: of noise.
        criteria: names of those for saliency; ours are not tried.

    Returns:
        Names of the groups for which the gate's gradient is zero for every channel.

    Raises:
        InputError: if the step fails or cannot be copied, or a criterion gives no scores to choose by.
    """
    told = run_skeleton(skeleton(network).train(), images_NCHW.to("meta"))
    if not isinstance(told, torch.Tensor):
        raise InputError(
            f"in training the network returns a {type(told).__name__}, but must return one tensor of class scores "
            "as in evaluation; build it without auxiliary heads"
        )
    network = copy.deepcopy(network).requires_grad_(requires_grad=True).eval()  # nothing is dropped at random
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train()
    meter = SaliencyMeter(gate_gradient, channel_map)
    meter.reset(network, channel_map.everything())
    steps = _noted_steps(network)
    with cpu_convolutions(network, "fp32", images_NCHW.device):
        logits_NK = network(images_NCHW)
    loss = F.cross_entropy(logits_NK, torch.arange(len(logits_NK)) % logits_NK.shape[1])
    if not bool(torch.isfinite(loss)):
        raise InputError("the network's loss on images of noise is not finite; check its weights")
    _differentiate(loss, steps)
    require_none_kept(network)
    meter.update()
    silent = tuple(group for group, scores_C in meter.scores().items() if not bool((scores_C > 0).any()))
    for name in criteria:
        if name not in CRITERIA:
            _try_criterion(name, network, channel_map, silent)
    return silent


def _noted_steps(network: nn.Module) -> list[tuple[str, Any]]:
    """Filled as the network runs: each layer with the step of the backward pass that begins where it ends."""
    steps: list[tuple[str, Any]] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda _layer, _inputs, output: steps.append((name, getattr(output, "grad_fn", None)))

    for name, layer in network.named_modules():
        layer.register_forward_hook(noting(f"layer {name or type(layer).__name__}"))
    return steps


def _differentiate(loss: torch.Tensor, steps: Sequence[tuple[str, Any]]) -> None:
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        changed = next((name for name, step in steps if _is_changed(step)), None)
        if changed is None and not _OF_THE_NETWORK.search(str(error)):
            raise
        reason = first_line(error) if changed is None else f"what {changed} computed with is changed in place later"
        raise InputError(
            f"the network's backward pass fails: {reason}; leave out operations in place, as by x = x + y for x += y, "
            "and those without a derivative"
        ) from error


def _is_changed(step: Any) -> bool:  # noqa: ANN401 - torch's, of no public class
    """Whether what a step of the backward pass needs is not what it was in the forward pass."""
    try:
        for key in dir(step):
            if key.startswith("_saved_") or key == "saved_tensors":  # of a function in Python
                getattr(step, key)
    except RuntimeError as error:
        return "inplace" in str(error)  # and not freed, as what the backward pass has done with
    return False


def require_none_kept(network: nn.Module) -> None:
    """Check that no layer holds what it computed from parameters; it can be copied no more.

    Raises:
        InputError: naming the layer and its attribute.
    """
    computed = computed_attribute(network)
    if computed is not None:
        raise InputError(
            f"layer {computed[0]} keeps {computed[1]} of its last forward pass, and with it the network's parameters "
            f"as they were before channels went; keep it in a local variable alone, or {computed[1]}.detach()"
        )


def _try_criterion(name: str, network: nn.Module, channel_map: ChannelMap, silent: Sequence[str]) -> None:
    """Ask a criterion of the user's own for scores, as training does after a backward pass.

    Args:
        name: of the criterion.
        network: with gradients.
        channel_map: its groups.
        silent: groups of which the gate's gradient says nothing, either.
    """
    meter = SaliencyMeter(find_criterion(name), channel_map)
    meter.reset(network, channel_map.everything())
    try:
        meter.update()
    except InputError:
        raise
    except Exception as error:  # the user's own function
        raise InputError(
            f"cascade.pruning.saliency is {name!r}, which failed on a training step: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    for group, scores_C in meter.scores().items():
        fault = fault_of(scores_C)
        if fault == "not finite":
            raise InputError(
                f"cascade.pruning.saliency is {name!r}, which gives scores that are not finite for group {group}; "
                "give each channel a finite number"
            )
        if fault == "all zero" and group not in silent:
            raise InputError(
                f"cascade.pruning.saliency is {name!r}, which gives no channel of group {group} a score above zero, so "
                "that nothing can be told apart; give those more that should stay"
            )
