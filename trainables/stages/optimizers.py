"""What moves weights: the optimiser, its state, and the learning rate of each step."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from trainables.pruning.views import Cuts, pick
from trainables.recipe import Recipe
from trainables.tensors import Tensors, laid_out

# Of AdamW, beside the momentum: Loshchilov & Hutter 2019, and the defaults of torch.
_ADAMW_BETA_2, _ADAMW_EPSILON = 0.999, 1e-8
# Of one-cycle: the peak over the first rate, and that over the last, as torch has them.
_RISE, _FALL = 25.0, 1e4


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; scales, shifts and biases (one dimension) are not decayed."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    device = parameters[0].device
    on_card = device.type == "cuda"
    # Where a step may be recorded and replayed, the rate must lie where the card reads it anew each time.
    rate = torch.tensor(recipe.learning_rate, device=device) if on_card else recipe.learning_rate
    if recipe.optimizer == "adamw":
        betas = (recipe.momentum, _ADAMW_BETA_2)
        return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=_ADAMW_EPSILON, fused=True, capturable=on_card)
    return torch.optim.SGD(groups, lr=rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0.0, fused=True)


def learning_rate(step: int, num_steps: int, recipe: Recipe) -> float:
    """Rate of step `step` of 0 … num_steps−1: a rise over the warm-up, then a fall to zero or next to it."""
    if recipe.learning_rate_schedule == "one-cycle":
        return _one_cycle(step, num_steps, recipe)
    warmup_steps = recipe.warmup * num_steps
    if step < warmup_steps:
        return recipe.learning_rate * (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1.0, num_steps - warmup_steps)
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _one_cycle(step: int, num_steps: int, recipe: Recipe) -> float:
    """Smith & Topin 2018, section 3, with cosines for lines, as `torch.optim.lr_scheduler.OneCycleLR` has it."""
    peak = recipe.learning_rate
    first = peak / _RISE
    top = recipe.warmup * num_steps - 1.0  # the step of the peak, between two steps if need be
    if step < top:
        return _on_cosine(first, peak, step / top)
    return _on_cosine(peak, first / _FALL, (step - top) / (num_steps - 1.0 - top))


def _on_cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameter groups this rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip_gradients(parameters: Iterable[nn.Parameter], recipe: Recipe) -> None:
    """Scale gradients down to the recipe's norm, if it has one."""
    if recipe.max_grad_norm is not None:
        nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give weights that have a gradient for the first time, later than others, a momentum of zero.

    So torch's SGD begins theirs, too; its fused steps take momenta of all weights or of none. A network that leaves
    layers out by chance has no gradients of these, and they stay as they are.
    """
    for group in optimizer.param_groups:
        if group.get("momentum"):  # AdamW has none in its groups
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            new = [parameter for parameter in moved if not optimizer.state.get(parameter)]
            if len(new) < len(moved):
                for parameter in new:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> Tensors:
    """What the optimiser remembers of each parameter, as `parameter.quantity`; nothing before the first step."""
    return {
        f"{name}.{quantity}": tensor
        for name, parameter in parameters.items()
        for quantity, tensor in optimizer.state.get(parameter, {}).items()
        if tensor is not None
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Tensors
) -> None:
    """Put back what `optimizer_state` gave."""
    for name, tensor in state.items():
        parameter, _, quantity = name.rpartition(".")
        dense = parameters[parameter]
        optimizer.state[dense][quantity] = laid_out(tensor, dense)


def cut_state(optimizer: torch.optim.Optimizer, cuts: Cuts) -> None:
    """Cut what is remembered of each weight of a parameter as the parameter was cut; counts of steps stay."""
    for parameter, indices in cuts.items():
        remembered = optimizer.state.get(parameter, {})
        for quantity, tensor in remembered.items():
            if tensor is not None and tensor.ndim > 0:
                remembered[quantity] = pick(tensor, indices)
