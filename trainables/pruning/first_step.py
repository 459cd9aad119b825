"""Training steps of a network before it is pruned: whether it can take them, and whether they tell channels apart."""

import copy
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trainables.errors import InputError, first_line
from trainables.hardware.layout import find_layout
from trainables.hardware.precision import autocast
from trainables.networks.models import computed_attribute
from trainables.pruning.channels import BATCH_NORMS, ChannelMap, skeleton
from trainables.pruning.saliency import CRITERIA, SaliencyMeter, fault_of, find_criterion
from trainables.pruning.tracing import run_skeleton
from trainables.recipe import Precision, Recipe

_OF_THE_BACKWARD_PASS = re.compile("in-?place|derivative|does not require grad")
_OF_THE_MACHINE = "allocate memory"


def take_step(
    network: nn.Module,
    channel_map: ChannelMap,
    images_NCHW: torch.Tensor,
    criteria: Sequence[str],
    precisions: Sequence[Precision],
) -> tuple[str, ...]:
    """Run a network forward and backward as in training, and without dropout ask the user's own criteria for scores.

    Args:
        network: on the CPU; left as it is.
        channel_map: its groups.
        images_NCHW: of noise.
        criteria: names of those for saliency; ours are not tried.
        precisions: that it takes steps in.

    Returns:
        Names of the groups for which the gate's gradient is zero for every channel.

    Raises:
        InputError: if a step fails or cannot be copied, or a criterion gives no scores to choose by.
    """
    told = run_skeleton(skeleton(network).train(), images_NCHW.to("meta"))
    if not isinstance(told, torch.Tensor):
        raise InputError(
            f"in training the network returns a {type(told).__name__}, but must return one tensor of class scores "
            "as in evaluation; build it without auxiliary heads"
        )
    images_NCHW = images_NCHW.contiguous(memory_format=find_layout(copy.deepcopy(network), images_NCHW))
    for precision in dict.fromkeys(precisions):
        _differentiate(copy.deepcopy(network).train(), images_NCHW, precision)
    network = copy.deepcopy(network).eval()  # nothing is dropped at random
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train()
    meter = SaliencyMeter(CRITERIA["gate-gradient"], channel_map)
    meter.reset(network, channel_map.everything())
    _differentiate(network, images_NCHW, "fp32")
    require_none_kept(network)
    meter.update()
    silent = tuple(group for group, scores_C in meter.scores().items() if not bool((scores_C > 0).any()))
    for name in criteria:
        if name not in CRITERIA:
            _try_criterion(name, network, channel_map, silent)
    return silent


@dataclass(frozen=True, kw_only=True, slots=True)
class _Watched:
    """What layers do as a network runs.

    Attributes:
        started: each with parameters or buffers that has begun, in order.
        running: those that have not ended, the innermost last.
        steps: each that has ended, with the step of the backward pass that begins there.
    """

    started: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    steps: list[tuple[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, network: nn.Module) -> "_Watched":
        watched = cls()
        for name, layer in network.named_modules():
            called = f"layer {name or type(layer).__name__}"
            has_tensors = next(itertools.chain(layer.parameters(), layer.buffers()), None) is not None
            layer.register_forward_pre_hook(watched._starting(called, has_tensors=has_tensors), prepend=True)
            layer.register_forward_hook(watched._ending(called))
        return watched

    def _starting(self, name: str, *, has_tensors: bool) -> Callable[..., None]:
        def start(*_: object) -> None:
            self.running.append(name)
            if has_tensors:
                self.started.append(name)

        return start

    def _ending(self, name: str) -> Callable[..., None]:
        def end(_layer: nn.Module, _inputs: object, output: object) -> None:
            while self.running and self.running.pop() != name:
                pass  # one within, whose error the network has caught
            self.steps.append((name, getattr(output, "grad_fn", None)))

        return end


def _differentiate(network: nn.Module, images_NCHW: torch.Tensor, precision: Precision) -> None:
    """Give all parameters of a network gradients, as a step of training does.

    Raises:
        InputError: if that fails, the loss is not finite, or layers run again in the backward pass.
    """
    network.requires_grad_(requires_grad=True)
    watched = _Watched.of(network)
    try:
        with autocast(Recipe(precision=precision), network, images_NCHW.device):
            logits_NK = network(images_NCHW)
    except Exception as error:  # the user's own forward pass
        if _OF_THE_MACHINE in str(error):
            raise
        where = f"the forward pass of {watched.running[-1]}"
        raise _refusal(error, where, images_NCHW, precision) from error
    loss = F.cross_entropy(logits_NK.float(), torch.arange(len(logits_NK)) % logits_NK.shape[1])
    if not bool(torch.isfinite(loss)):
        raise InputError("the network's loss on images of noise is not finite; check its weights")
    num_started = len(watched.started)
    failure: Exception | None = None
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # of functions of the user's own, too
        if _OF_THE_MACHINE in str(error):
            raise
        failure = error
    ran = set(watched.started[:num_started])
    again = next((name for name in watched.started[num_started:] if name in ran), None)
    if again is not None:
        raise InputError(
            f"{again} runs again in the backward pass, but layers must run in the forward pass "
            "alone, as what pruning, ranks and bf16 do with them is undone by then; leave torch.utils.checkpoint out: "
            "accumulate in the recipe saves memory, too"
        ) from failure
    if failure is not None:
        changed = next((name for name, step in watched.steps if _is_changed(step)), None)
        if changed is None and not _OF_THE_BACKWARD_PASS.search(str(failure)):
            raise _refusal(failure, "the backward pass", images_NCHW, precision) from failure
        reason = first_line(failure) if changed is None else f"what {changed} computed with is changed in place later"
        raise InputError(
            f"the network's backward pass fails: {reason}; leave out operations in place, as by x = x + y for x += y, "
            "and those without a derivative"
        ) from failure


def _refusal(error: Exception, where: str, images_NCHW: torch.Tensor, precision: Precision) -> InputError:
    lie = "first" if images_NCHW.is_contiguous() else "last"
    other = "" if precision == "fp32" else ", or take fp32 for the recipe's precision"
    return InputError(
        f"the network fails in training ({first_line(error)}), in {where}, in {precision} on images whose channels lie "
        f"{lie}; change what fails{other}"
    )


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
