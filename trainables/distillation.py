"""Losses of a level. Shape legend: N images, K classes."""

import torch
import torch.nn.functional as F


def distillation_loss(  # noqa: PLR0913
    logits_NK: torch.Tensor,
    larger_logits_NK: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    temperature: float,
    weight: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Loss of a level that learns from the labels and from the next larger level; a scalar.

    (1 − λ)·CE + λ·T²·KL(softmax(z_larger/T) ‖ softmax(z/T)): Hinton et al. 2015, section 2, T² so that the weight of
    the two terms does not change with T; Mirzadeh et al. 2020 for learning from an assistant.

    Args:
        logits_NK: of the level.
        larger_logits_NK: of the next larger level or the teacher; no gradient flows into them.
        labels_N: classes, 0 … K−1.
        temperature: T, above 0.
        weight: λ, in [0, 1].
        label_smoothing: of the cross-entropy, in [0, 1).
    """
    labels_term = F.cross_entropy(logits_NK, labels_N, label_smoothing=label_smoothing)
    larger = F.log_softmax(larger_logits_NK.detach() / temperature, dim=1)
    own = F.log_softmax(logits_NK / temperature, dim=1)
    larger_term = F.kl_div(own, larger, reduction="batchmean", log_target=True)
    return (1.0 - weight) * labels_term + weight * temperature**2 * larger_term
