"""How the levels of a cascade were made, in words."""

from trainables.config import CascadeConfig
from trainables.pruning_config import Pruning

_OF_A_LOSS = ("gate-gradient", "absolute-gate-gradient")


def made(cascade: CascadeConfig) -> str:
    """By what its levels lost channels, and from whom they learned: one sentence without its full stop."""
    levels = "each level was" if cascade.num_levels > 1 else "its one level was"
    return f"{levels} pruned {_pruned(cascade.pruning)} and learned from {_learned_from(cascade)}"


def _pruned(pruning: Pruning) -> str:
    if pruning.saliency in _OF_A_LOSS:
        return "on its own loss" if pruning.saliency_loss == "level" else "on the loss of the labels alone"
    return "at random" if pruning.saliency == "random" else f"by `{pruning.saliency}`"


def _learned_from(cascade: CascadeConfig) -> str:
    if not cascade.asks_larger:
        return "the labels alone"
    if cascade.learns_from == "teacher" or cascade.num_levels == 1:
        return "the teacher"
    return "the next larger one, the first from the teacher"
