"""What training costs: passes over the training images, weighted by the MACs of what is passed through.

A forward pass counts a network's MACs once, a backward pass twice. What is trained goes forward and backward; what is
learnt from goes forward; logits that are there anyhow cost nothing.
"""

from trainables.config import CascadeConfig

FORWARD, BACKWARD = 1.0, 2.0
TRAINED = FORWARD + BACKWARD


def asked_level(config: CascadeConfig, first: int) -> int:
    """The level whose network a stage learns from, as it is in its end; 0 for the teacher.

    Args:
        config: of the whole cascade.
        first: the largest level of the stage.
    """
    return 0 if config.learns_from == "teacher" else first - 1


def asking_work(size: float, epochs: int, config: CascadeConfig) -> float:
    """Of the network that a stage learns from, in the stage's first epochs.

    Args:
        size: its MACs, as a fraction of the teacher's.
        epochs: so many of them.
        config: of the whole cascade.
    """
    if not config.asks_larger:
        return 0.0
    return FORWARD * size * min(epochs, config.teacher_views or epochs) / config.teacher_every
