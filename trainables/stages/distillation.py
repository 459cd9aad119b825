"""Losses of labels, and how far a level is from a larger one, where an image has one label and where it has several.

Shape legend: N images, K classes.
"""

import torch
import torch.nn.functional as F


def label_loss(
    logits_NK: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights_K: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of the labels, the mean over images; a scalar.

    −Σ_k w_k·t_k·log softmax(z)_k for each image, with targets t that are smoothed (Szegedy et al. 2016, section 7). The
    sum is divided by N and not by the weights' sum, so that a batch is the mean of its equal parts.

    Args:
        logits_NK: of the network.
        labels: classes, 0 … K−1, of shape (N,); or the share of every class, of shape (N, K).
        label_smoothing: in [0, 1).
        class_weights_K: w; `None` for 1.
    """
    if class_weights_K is not None and labels.ndim == 1:
        labels = F.one_hot(labels, logits_NK.shape[1])
    if labels.ndim == 2:
        labels = labels.to(torch.promote_types(logits_NK.dtype, torch.float32))
    return F.cross_entropy(logits_NK, labels, weight=class_weights_K, label_smoothing=label_smoothing)


def divergence(logits_NK: torch.Tensor, larger_logits_NK: torch.Tensor) -> torch.Tensor:
    """KL(softmax(z_larger) ‖ softmax(z)), the mean over images; a scalar.

    Args:
        logits_NK: of the level, divided by the temperature.
        larger_logits_NK: of the larger level, likewise.
    """
    larger, own = F.log_softmax(larger_logits_NK, dim=1), F.log_softmax(logits_NK, dim=1)
    return F.kl_div(own, larger, reduction="batchmean", log_target=True)


def decoupled_divergence(
    logits_NK: torch.Tensor, larger_logits_NK: torch.Tensor, labels_N: torch.Tensor, *, non_target_weight: float
) -> torch.Tensor:
    """How far a level is from a larger one, in whether it is the image's class and in all others; a scalar.

    KL(b_larger ‖ b) + β·KL(q_larger ‖ q), the mean over images: b is the coin of the image's class against all others,
    q the softmax over the others alone. Zhao et al. 2022 ("Decoupled knowledge distillation"), equation 7 with α = 1;
    the whole divergence has 1 − p_larger(class) for β, which is small where the larger level is certain.

    Args:
        logits_NK: of the level, divided by the temperature.
        larger_logits_NK: of the larger level, likewise.
        labels_N: classes, 0 … K−1.
        non_target_weight: β, at least 0.
    """
    is_class_NK = F.one_hot(labels_N, logits_NK.shape[1]).bool()
    pairs = []
    for logits in (logits_NK, larger_logits_NK):
        log_all_N = logits.logsumexp(dim=1)
        others_NK = logits.masked_fill(is_class_NK, float("-inf"))
        log_others_N = others_NK.logsumexp(dim=1)
        coin_N2 = torch.stack([logits[is_class_NK], log_others_N], dim=1) - log_all_N[:, None]
        within_NK = (logits - log_others_N[:, None])[~is_class_NK].view(len(logits), -1)
        pairs.append((coin_N2, within_NK))
    (own_coin, own_within), (larger_coin, larger_within) = pairs
    target = F.kl_div(own_coin, larger_coin, reduction="batchmean", log_target=True)
    others = F.kl_div(own_within, larger_within, reduction="batchmean", log_target=True)
    return target + non_target_weight * others


def multi_label_loss(logits_NK: torch.Tensor, labels_NK: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, the mean over images and classes; a scalar.

    Args:
        logits_NK: of the network.
        labels_NK: whether an image is of a class, or how much of it is, in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits_NK, labels_NK.to(logits_NK.dtype))


def coin_divergence(logits_NK: torch.Tensor, larger_logits_NK: torch.Tensor) -> torch.Tensor:
    """KL(σ(z_larger) ‖ σ(z)), of two coins for each class, the mean over images and classes; a scalar.

    Args:
        logits_NK: of the level, divided by the temperature.
        larger_logits_NK: of the larger level, likewise.
    """
    larger, own = _coins(larger_logits_NK), _coins(logits_NK)
    return F.kl_div(own, larger, reduction="batchmean", log_target=True)


def _coins(logits_NK: torch.Tensor) -> torch.Tensor:
    """Logarithms of yes and no by a sigmoid, of shape (N·K, 2)."""
    flat = logits_NK.flatten()
    return torch.stack([F.logsigmoid(flat), F.logsigmoid(-flat)], dim=1)
