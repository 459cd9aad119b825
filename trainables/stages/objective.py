"""What networks are trained to: the losses of one recipe on one data set. Shape legend: N images, K classes."""

from dataclasses import dataclass
from typing import Self

import torch

from trainables.datasets.data import DataSplits
from trainables.errors import InputError
from trainables.recipe import Recipe
from trainables.stages.distillation import (
    coin_divergence,
    decoupled_divergence,
    divergence,
    label_loss,
    multi_label_loss,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Objective:
    """The losses of a recipe.

    Attributes:
        label_smoothing: of the cross-entropy, in [0, 1).
        class_weights_K: what an image of each class counts, 1 on the mean of training images; `None` for all alike.
        multi_label: whether an image may be of several classes; nothing is smoothed, weighted or decoupled then.
        non_target_weight: of the other classes in a decoupled divergence; `None` leaves it whole.
    """

    label_smoothing: float = 0.0
    class_weights_K: torch.Tensor | None = None
    multi_label: bool = False
    non_target_weight: float | None = None

    @classmethod
    def of(cls, recipe: Recipe, data: DataSplits, *, non_target_weight: float | None = None) -> Self:
        """The losses of a recipe on these images.

        Raises:
            InputError: if the recipe does not fit the classes.
        """
        if data.multi_label:
            _check_multi_label(recipe, non_target_weight)
            return cls(multi_label=True)
        return cls(
            label_smoothing=recipe.label_smoothing,
            class_weights_K=_class_weights(recipe, data),
            non_target_weight=non_target_weight,
        )

    def of_labels(self, logits_NK: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean loss of the labels alone; a scalar."""
        if self.multi_label:
            return multi_label_loss(logits_NK, labels)
        return label_loss(logits_NK, labels, label_smoothing=self.label_smoothing, class_weights_K=self.class_weights_K)

    def of_level(
        self,
        logits_NK: torch.Tensor,
        larger_logits_NK: torch.Tensor,
        labels: torch.Tensor,
        *,
        temperature: float,
        weight: float,
    ) -> torch.Tensor:
        """Mean loss of a level that learns from the labels and from the next larger level; a scalar.

        (1 − λ)·CE + λ·T²·KL(softmax(z_larger/T) ‖ softmax(z/T)): Hinton et al. 2015, section 2, T² so that the weight
        of the two terms does not change with T; Mirzadeh et al. 2020 for learning from an assistant. Where each class
        is a question of its own, the cross-entropy is binary, and sigmoids stand for the softmax.

        Args:
            logits_NK: of the level.
            larger_logits_NK: of the next larger level or the teacher; no gradient flows into them.
            labels: as of `label_loss` or `multi_label_loss`; of shape (N,) where the divergence is decoupled.
            temperature: T, above 0.
            weight: λ, in [0, 1].
        """
        own_NK, larger_NK = logits_NK / temperature, larger_logits_NK.detach() / temperature
        if self.multi_label:
            apart = coin_divergence(own_NK, larger_NK)
        elif self.non_target_weight is not None:
            apart = decoupled_divergence(own_NK, larger_NK, labels, non_target_weight=self.non_target_weight)
        else:
            apart = divergence(own_NK, larger_NK)
        return (1.0 - weight) * self.of_labels(logits_NK, labels) + weight * temperature**2 * apart


def for_losses(logits: torch.Tensor) -> torch.Tensor:
    """The same in float32, as losses are sums of exponentials; in float64 where a network computes in it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _check_multi_label(recipe: Recipe, non_target_weight: float | None) -> None:
    if non_target_weight is not None:
        raise InputError(
            f"non_target_weight is {non_target_weight:g}, but is for one class an image, and these have several; "
            "leave it out"
        )
    if recipe.label_smoothing > 0:
        raise InputError(
            f"label_smoothing is {recipe.label_smoothing:g}, but is for one class an image, and these have several; "
            "leave it at 0"
        )
    if recipe.class_weights != "none":
        given = recipe.class_weights if isinstance(recipe.class_weights, str) else list(recipe.class_weights)
        raise InputError(
            f"class_weights is {given}, but is for one class an image, and these have several; leave it at none"
        )


def _class_weights(recipe: Recipe, data: DataSplits) -> torch.Tensor | None:
    """What an image of each class counts, so that the mean over the training images is 1 and λ keeps its meaning."""
    if recipe.class_weights == "none":
        return None
    labels_N, num_classes = data.train.labels_N, data.num_classes
    counts_K = torch.bincount(labels_N, minlength=num_classes).double()
    if recipe.class_weights == "balanced":
        weights_K = torch.where(counts_K > 0, 1.0 / counts_K.clamp(min=1.0), 0.0)
    else:
        if len(recipe.class_weights) != num_classes:
            raise InputError(
                f"class_weights has {len(recipe.class_weights)} values, but the data has {num_classes} classes; "
                "give one a class, in their order, or balanced"
            )
        weights_K = torch.tensor(recipe.class_weights, dtype=torch.float64, device=labels_N.device)
    mean = (weights_K * counts_K).sum() / counts_K.sum()
    return (weights_K / mean).float()
